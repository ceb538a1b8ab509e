//! Macros and `call` blocks.

use std::collections::BTreeSet;

use super::cursor::Tokens;
use super::expressions::Conditional;
use super::statements::{Loops, Translator};
use super::targets::Parameters;
use super::{Result, error};

impl<'a> Translator<'a> {
    /// `{% macro %}` up to its end.
    pub(super) fn macro_definition(&mut self, tokens: &mut Tokens<'a>, line: usize) -> Result<()> {
        let name = tokens.name()?;
        let parameters = Parameters::parse(tokens)?;
        tokens.end()?;
        parameters.refuse_variadic(self.pieces.as_slice(), "endmacro")?;
        self.scopes.set(name);
        self.macros += 1;
        self.tag(line, &format!("macro {name}({})", parameters.names.join(", ")));
        self.parameterized_body(tokens, &parameters, "endmacro", line)
    }

    /// `{% call %}` up to its end.
    pub(super) fn call_block(&mut self, tokens: &mut Tokens<'a>, line: usize) -> Result<()> {
        let parameters = match tokens.is_op("(") {
            true => Parameters::parse(tokens)?,
            false => Parameters::default(),
        };
        let mut defaults = std::mem::take(&mut tokens.reads);
        let call = tokens.expression(Conditional::Allowed)?;
        tokens.end()?;
        self.note_reads(tokens);
        tokens.reads.append(&mut defaults);
        if !call.is_call() {
            return error(line, "`call` needs the call of a macro");
        }
        let names = match parameters.names.is_empty() {
            true => String::new(),
            false => format!("({})", parameters.names.join(", ")),
        };
        // Inside a loop the engine hands on variables of the round before,
        // were it not for the `with`.
        self.tag(line, &format!("with %}}{{% call{names} {}", call.code));
        self.parameterized_body(tokens, &parameters, "endcall", line)?;
        self.tag(self.line, "endwith");
        Ok(())
    }

    /// The body of a macro or `call`; `tokens` has what the defaults read.
    fn parameterized_body(
        &mut self,
        tokens: &mut Tokens<'a>,
        parameters: &Parameters,
        end: &'static str,
        line: usize,
    ) -> Result<()> {
        self.scopes.enter(&["caller"]);
        for name in &parameters.names {
            self.scopes.set(name);
        }
        let (start, reads_before) = (self.out.len(), self.read_names.len());
        self.note_reads(tokens);
        self.prologue(line, parameters);
        self.block(end, line, Loops::Outside)?;
        self.scopes.leave();
        let capture = capture(&self.read_names[reads_before..]);
        self.out.insert_str(start, &capture);
        Ok(())
    }

    /// Puts defaults in place and unwraps arguments passed as undefined.
    fn prologue(&mut self, line: usize, parameters: &Parameters) {
        for (name, default) in parameters.names.iter().zip(&parameters.defaults) {
            let received = format!("__py_received({name})");
            let value = match default {
                None => received,
                Some(default) => format!("({default} if __py_absent({name}) else {received})"),
            };
            self.tag(line, &format!("set {name} = {value}"));
        }
    }
}

/// Names every variable that a macro reads, at the beginning of its body.
///
/// The engine hands a macro the variables of the blocks around it, but misses
/// some that are read in statements that also set something; what is read
/// before anything is set, it finds.
fn capture(names: &[&str]) -> String {
    let own = |name: &&&str| **name != "loop" && **name != "caller";
    let names: BTreeSet<&str> = names.iter().filter(own).copied().collect();
    if names.is_empty() {
        return String::new();
    }
    let names: Vec<&str> = names.into_iter().collect();
    format!("{{% if false %}}{{{{ [{}] }}}}{{% endif %}}", names.join(", "))
}
