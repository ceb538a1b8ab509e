//! Macros and `call` blocks.

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
        self.tag(line, &format!("call{names} {}", call.code));
        self.parameterized_body(tokens, &parameters, "endcall", line)
    }

    /// The body of a macro or `call`; `tokens` has what the defaults read.
    fn parameterized_body(
        &mut self,
        tokens: &mut Tokens<'a>,
        parameters: &Parameters,
        end: &'static str,
        line: usize,
    ) -> Result<()> {
        self.scopes.enter();
        for name in &parameters.names {
            self.scopes.set(name);
        }
        self.note_reads(tokens);
        self.prologue(line, parameters);
        self.block(end, line, Loops::Outside)?;
        self.scopes.leave();
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
