//! Statements: kept as they are, around translated expressions.

use std::collections::BTreeSet;

use super::cursor::Tokens;
use super::expressions::Conditional;
use super::lexer::lex;
use super::scopes::{Branches, Scopes};
use super::strings::encode;
use super::targets::{Target, assigned};
use super::tokens::{Kind, Piece, Token};
use super::{PREFIX, Result, error};

/// The functions every chat template may call.
pub(super) const GLOBALS: &[&str] = &["raise_exception", "strftime_now", "range", "dict", "namespace"];

/// Deepest nesting of block tags.
const MAX_DEPTH: usize = 60;

/// A translated template.
#[derive(Debug)]
pub(in crate::chat) struct Translated {
    /// The template for the engine.
    pub(in crate::chat) source: String,
    /// Names whose variables Jinja would not find; see [`super::scopes`].
    pub(in crate::chat) hidden: BTreeSet<String>,
    /// Names of the variables it reads.
    pub(in crate::chat) reads: BTreeSet<String>,
}

/// Translates a template; see the module above.
pub(in crate::chat) fn translate(source: &str) -> Result<Translated> {
    let pieces = lex(source)?;
    let mut translator = Translator {
        pieces: pieces.iter(),
        out: String::new(),
        line: 1,
        depth: 0,
        loops: Loops::Outside,
        jumps: 0,
        macros: 0,
        scopes: Scopes::new(),
        read_names: Vec::new(),
    };
    translator.body(&[], 1)?;
    Ok(Translated { source: translator.out, hidden: translator.scopes.hidden, reads: translator.scopes.free })
}

/// Whether `break` and `continue` have a loop to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loops {
    Inside,
    Outside,
}

/// Writes the translation while going through the pieces.
pub(super) struct Translator<'a> {
    pub(super) pieces: std::slice::Iter<'a, Piece>,
    /// The translation so far.
    pub(super) out: String,
    /// Line of `out` being written.
    pub(super) line: usize,
    depth: usize,
    /// Whether a loop is open.
    pub(super) loops: Loops,
    /// Number of `break` and `continue` tags so far.
    pub(super) jumps: usize,
    /// Number of `macro` tags so far.
    pub(super) macros: usize,
    pub(super) scopes: Scopes,
    /// Every name read so far, in order.
    pub(super) read_names: Vec<&'a str>,
}

/// The tag that ended a body.
pub(super) struct End<'a> {
    pub(super) name: &'a str,
    pub(super) line: usize,
    pub(super) rest: &'a [Token],
}

impl<'a> Translator<'a> {
    /// Writes a tag on the line it has in the template.
    pub(super) fn tag(&mut self, line: usize, content: &str) {
        self.out.push_str("{%");
        while self.line < line {
            self.out.push('\n');
            self.line += 1;
        }
        self.out.push(' ');
        self.out.push_str(content);
        self.out.push_str(" %}");
    }

    /// Notes the names that a tag's expressions read.
    pub(super) fn note_reads(&mut self, tokens: &mut Tokens<'a>) {
        for name in tokens.reads.drain(..) {
            self.scopes.read(name);
            self.read_names.push(name);
        }
    }

    /// Translates up to one of the tags `ends`, which is consumed.
    pub(super) fn body(&mut self, ends: &[&str], opened: usize) -> Result<Option<End<'a>>> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return error(opened, "tags are nested too deep");
        }
        while let Some(piece) = self.pieces.next() {
            match piece {
                Piece::Data(data) => {
                    let data = encode(data);
                    self.out.push_str(&format!("{{{{ {data} }}}}"));
                }
                Piece::Print(line, tokens) => {
                    let mut tokens = Tokens::new(tokens, *line);
                    let node = tokens.tuple(Conditional::Allowed)?;
                    tokens.end()?;
                    self.note_reads(&mut tokens);
                    self.out.push_str("{{");
                    while self.line < *line {
                        self.out.push('\n');
                        self.line += 1;
                    }
                    self.out.push_str(&format!(" {} }}}}", node.code));
                }
                Piece::Tag(line, tokens) => {
                    let [Token { kind: Kind::Name(name), .. }, rest @ ..] = tokens.as_slice() else {
                        return error(*line, "a tag needs a name");
                    };
                    if ends.contains(&name.as_str()) {
                        self.depth -= 1;
                        return Ok(Some(End { name, line: *line, rest }));
                    }
                    self.statement(name, *line, rest)?;
                }
            }
        }
        if let Some(end) = ends.last() {
            return error(opened, format!("a tag is not closed: `{end}` is missing"));
        }
        self.depth -= 1;
        Ok(None)
    }

    /// A body that ends with `end`, which has nothing after it.
    pub(super) fn block(&mut self, end: &'static str, line: usize, loops: Loops) -> Result<()> {
        let outer = std::mem::replace(&mut self.loops, loops);
        let found = self.body(&[end], line)?;
        self.loops = outer;
        if let Some(found) = found {
            Tokens::new(found.rest, found.line).end()?;
            match end {
                // `generation` has become `with`.
                "endgeneration" => self.tag(found.line, "endwith"),
                // See where these begin. `endfor` is that of an `else`.
                "endset" | "endfilter" | "endfor" => {
                    self.tag(found.line, &format!("endwith %}}{{% {end}"));
                }
                _ => self.tag(found.line, end),
            }
        }
        Ok(())
    }

    /// A body with names of its own, of which it begins with `names`.
    pub(super) fn inner_block(&mut self, end: &'static str, line: usize, names: &[String]) -> Result<()> {
        self.scopes.enter(&[]);
        for name in names {
            self.scopes.set(name);
        }
        self.block(end, line, Loops::Outside)?;
        self.scopes.leave();
        Ok(())
    }

    fn statement(&mut self, name: &'a str, line: usize, rest: &'a [Token]) -> Result<()> {
        let mut tokens = Tokens::new(rest, line);
        match name {
            "for" => self.for_loop(&mut tokens, line),
            "if" => self.condition(&mut tokens, line),
            "set" => self.set(&mut tokens, line),
            "macro" => self.macro_definition(&mut tokens, line),
            "call" => self.call_block(&mut tokens, line),
            "with" => self.with(&mut tokens, line),
            "filter" => {
                let filters = filter_chain(&mut tokens)?;
                tokens.end()?;
                self.note_reads(&mut tokens);
                // As in `set`: the engine gives this block no names of its own.
                self.tag(line, &format!("filter {filters} %}}{{% with"));
                self.inner_block("endfilter", line, &[])
            }
            "generation" => {
                tokens.end()?;
                // Rendering does not track what the assistant says; what is
                // left of the tag is its scope.
                self.tag(line, "with");
                self.inner_block("endgeneration", line, &[])
            }
            "break" | "continue" => {
                tokens.end()?;
                if self.loops == Loops::Outside {
                    return error(line, format!("`{name}` stands outside a loop"));
                }
                self.jumps += 1;
                self.tag(line, name);
                Ok(())
            }
            "include" | "import" | "from" | "extends" | "block" | "autoescape" | "print" | "do" | "trans" => {
                error(line, format!("`{name}` is not supported in chat templates"))
            }
            _ => error(line, format!("unknown tag `{name}`")),
        }
    }

    fn condition(&mut self, tokens: &mut Tokens<'a>, line: usize) -> Result<()> {
        let test = tokens.tuple(Conditional::NotHere)?;
        tokens.end()?;
        self.note_reads(tokens);
        self.tag(line, &format!("if {}", test.code));
        self.scopes.enter_condition();
        let mut elif = false;
        let mut branches = Branches::Some;
        while let Some(end) = self.body(&["elif", "else", "endif"], line)? {
            let mut rest = Tokens::new(end.rest, end.line);
            if end.name == "elif" {
                let test = rest.tuple(Conditional::NotHere)?;
                rest.end()?;
                self.note_reads(&mut rest);
                self.scopes.next_branch();
                self.tag(end.line, &format!("elif {}", test.code));
                elif = true;
                continue;
            }
            rest.end()?;
            self.tag(end.line, end.name);
            if end.name == "else" {
                self.scopes.next_branch();
                self.block("endif", line, self.loops)?;
                if elif {
                    branches = Branches::All;
                }
            }
            break;
        }
        self.scopes.leave_condition(branches);
        Ok(())
    }

    fn set(&mut self, tokens: &mut Tokens<'a>, line: usize) -> Result<()> {
        let target = Target::parse(tokens)?;
        if tokens.take_op("=") {
            let value = tokens.tuple(Conditional::Allowed)?.code;
            tokens.end()?;
            self.note_reads(tokens);
            self.note_target(&target);
            let statement = match &target {
                Target::Name(name) => format!("set {name} = {value}"),
                Target::Names(targets, _) => format!("set {targets} = __py_listed({value})"),
                Target::Attribute(object, name) => {
                    format!("do __py_set_attribute({object}, \"{name}\", {value})")
                }
            };
            self.tag(line, &statement);
            return Ok(());
        }
        let filters = match tokens.take_op("|") {
            true => format!(" | {}", filter_chain(tokens)?),
            false => String::new(),
        };
        tokens.end()?;
        self.note_reads(tokens);
        let name = match &target {
            Target::Name(name) => name.clone(),
            Target::Attribute(..) => format!("{PREFIX}text"),
            Target::Names(..) => return error(line, "a block can be set to one name only"),
        };
        self.tag(line, &format!("set {name}{filters}"));
        // The engine gives the block no names of its own; `with` does.
        self.tag(line, "with");
        self.scopes.enter(&[]);
        self.block("endset", line, Loops::Outside)?;
        self.scopes.leave();
        self.note_target(&target);
        if let Target::Attribute(object, name) = target {
            let store = format!("do __py_set_attribute({object}, \"{name}\", {PREFIX}text)");
            self.tag(self.line, &store);
        }
        Ok(())
    }

    fn note_target(&mut self, target: &Target) {
        match target {
            Target::Name(name) => self.scopes.set(name),
            Target::Names(_, names) => names.iter().for_each(|name| self.scopes.set(name)),
            Target::Attribute(object, _) => self.scopes.read(object),
        }
    }

    fn with(&mut self, tokens: &mut Tokens<'a>, line: usize) -> Result<()> {
        // All values are computed before the first name is bound.
        let (mut values, mut bindings, mut names) = (Vec::new(), Vec::new(), Vec::new());
        while tokens.peek().is_some() {
            if !values.is_empty() {
                tokens.expect_op(",")?;
            }
            let name = assigned(tokens)?;
            tokens.expect_op("=")?;
            let value = tokens.expression(Conditional::Allowed)?;
            let index = values.len();
            values.push(format!("{PREFIX}with{index} = {}", value.code));
            bindings.push(format!("{name} = {PREFIX}with{index}"));
            names.push(name);
        }
        self.note_reads(tokens);
        values.extend(bindings);
        self.tag(line, &format!("with {}", values.join(", ")));
        self.inner_block("endwith", line, &names)
    }
}

fn filter_chain(tokens: &mut Tokens<'_>) -> Result<String> {
    let mut filters = vec![tokens.filter_call()?];
    while tokens.take_op("|") {
        filters.push(tokens.filter_call()?);
    }
    Ok(filters.join("|"))
}
