//! Loops.

use super::cursor::Tokens;
use super::expressions::Conditional;
use super::statements::{Loops, Translator};
use super::targets::targets;
use super::{Result, error};

impl<'a> Translator<'a> {
    /// `{% for %}` up to its end.
    pub(super) fn for_loop(&mut self, tokens: &mut Tokens<'a>, line: usize) -> Result<()> {
        let mut names = Vec::new();
        let targets = targets(tokens, &mut names)?;
        if !tokens.take_name("in") {
            return error(line, "`for` needs `in` after its variables");
        }
        let items = tokens.tuple(Conditional::NotHere)?;
        self.note_reads(tokens);
        self.scopes.enter(&["loop"]);
        for name in &names {
            self.scopes.set(name);
        }
        let mut head = format!("for {targets} in __py_listed({})", items.code);
        if tokens.take_name("if") {
            let test = tokens.expression(Conditional::Allowed)?;
            self.note_reads(tokens);
            head.push_str(&format!(" if {}", test.code));
        }
        let recursive = tokens.take_name("recursive");
        if recursive {
            head.push_str(" recursive");
        }
        tokens.end()?;
        self.tag(line, &head);
        let start = self.out.len();
        let outer = std::mem::replace(&mut self.loops, Loops::Inside);
        let before = (std::mem::take(&mut self.jumps), std::mem::take(&mut self.macros));
        let end = self.body(&["else", "endfor"], line)?;
        self.loops = outer;
        let (jumps, macros) = (self.jumps, self.macros);
        (self.jumps, self.macros) = before;
        self.scopes.leave();
        let Some(end) = end else {
            return Ok(());
        };
        Tokens::new(end.rest, end.line).end()?;
        if macros > 0 {
            // The engine keeps a macro's variables from one round to the
            // next, were it not for a `with`, which neither of these leaves.
            if jumps > 0 || recursive {
                return error(line, "a loop with a macro in it cannot have `break` or `continue` or be recursive");
            }
            self.out.insert_str(start, "{% with %}");
            self.tag(end.line, "endwith");
        }
        if end.name == "else" {
            if jumps > 0 {
                // Jinja takes the `else` unless a round has run to its end.
                return error(line, "a loop with `else` cannot have `break` or `continue`");
            }
            self.tag(end.line, "else %}{% with");
            return self.inner_block("endfor", line, &[]);
        }
        self.tag(end.line, end.name);
        Ok(())
    }
}
