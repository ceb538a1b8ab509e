//! Which variables a template reads, and which of them Jinja would not find.
//!
//! A variable is read where a name is read that is not sure to have been set.
//! The engine can list these too, but leaves out names that are set from
//! themselves, as in `{% set x = x or 1 %}`.
//!
//! Jinja decides for a whole block at a time where its names live. A name
//! that a block sets, and reads only in blocks inside it until then, is the
//! block's own from its beginning: the inner blocks find it undefined even if
//! the caller passed a variable of that name. The engine looks names up when
//! they are read and would find the variable. The two agree as long as no
//! such variable is passed, so its name is noted for the moment of rendering.

use std::collections::BTreeSet;

/// The names seen in one block that has names of its own.
#[derive(Debug)]
struct Frame {
    /// Set for sure: in the block, and in the branch of each `if` that is open.
    known: Vec<BTreeSet<String>>,
    /// Read or set in the block itself.
    seen: BTreeSet<String>,
    /// Read by blocks inside, before the block itself saw the name.
    read_inside: BTreeSet<String>,
    /// Per open `if`: names of `read_inside` that were first set in it.
    conditional: Vec<Vec<String>>,
}

/// Whether one branch of an `if` is sure to be taken, as far as Jinja looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Branches {
    /// It has an `elif` and an `else`.
    All,
    /// Otherwise Jinja counts a branch that sets nothing.
    Some,
}

/// Follows a template's blocks, in the order of its text.
#[derive(Debug)]
pub(super) struct Scopes {
    frames: Vec<Frame>,
    /// Names whose variable Jinja would not find.
    pub(super) hidden: BTreeSet<String>,
    /// Names read as variables from outside.
    pub(super) free: BTreeSet<String>,
}

impl Scopes {
    /// The outermost block.
    pub(super) fn new() -> Scopes {
        let mut scopes = Scopes { frames: Vec::new(), hidden: BTreeSet::new(), free: BTreeSet::new() };
        scopes.enter(&[]);
        scopes
    }

    /// A loop, a macro or another block with names of its own begins; `given`
    /// are those it has without setting them.
    pub(super) fn enter(&mut self, given: &[&str]) {
        let given = given.iter().map(|&name| name.to_owned());
        self.frames.push(Frame {
            known: vec![given.collect()],
            seen: BTreeSet::new(),
            read_inside: BTreeSet::new(),
            conditional: Vec::new(),
        });
    }

    /// It ends.
    pub(super) fn leave(&mut self) {
        self.frames.pop();
    }

    /// The name is read.
    pub(super) fn read(&mut self, name: &str) {
        let mut known = self.frames.iter().flat_map(|frame| &frame.known);
        if !known.any(|names| names.contains(name)) {
            self.free.insert(name.to_owned());
        }
        let mut frames = self.frames.iter_mut().rev();
        if let Some(own) = frames.next()
            && !own.seen.insert(name.to_owned())
        {
            return;
        }
        for outer in frames {
            if outer.seen.contains(name) {
                return;
            }
            outer.read_inside.insert(name.to_owned());
        }
    }

    /// The name is set.
    pub(super) fn set(&mut self, name: &str) {
        let Some(own) = self.frames.last_mut() else {
            return;
        };
        if let Some(known) = own.known.last_mut() {
            known.insert(name.to_owned());
        }
        if own.seen.insert(name.to_owned()) && own.read_inside.contains(name) {
            match own.conditional.last_mut() {
                Some(names) => names.push(name.to_owned()),
                None => {
                    self.hidden.insert(name.to_owned());
                }
            }
        }
    }

    /// An `if` begins.
    pub(super) fn enter_condition(&mut self) {
        if let Some(own) = self.frames.last_mut() {
            own.conditional.push(Vec::new());
            own.known.push(BTreeSet::new());
        }
    }

    /// Its next branch begins.
    pub(super) fn next_branch(&mut self) {
        if let Some(known) = self.frames.last_mut().and_then(|own| own.known.last_mut()) {
            known.clear();
        }
    }

    /// It ends. A name that only some branches set is looked up as usual.
    pub(super) fn leave_condition(&mut self, branches: Branches) {
        let Some(own) = self.frames.last_mut() else {
            return;
        };
        own.known.pop();
        let names = own.conditional.pop().unwrap_or_default();
        if branches == Branches::All {
            match own.conditional.last_mut() {
                Some(outer) => outer.extend(names),
                None => self.hidden.extend(names),
            }
        }
    }
}
