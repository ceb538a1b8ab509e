//! What is assigned to: by `set`, by loops, and the parameters of macros.

use super::cursor::Tokens;
use super::expressions::Conditional;
use super::tokens::{Kind, Piece};
use super::{Result, error};

/// What `set` assigns to.
pub(super) enum Target {
    Name(String),
    /// How the targets are written, and the names among them.
    Names(String, Vec<String>),
    Attribute(String, String),
}

impl Target {
    /// Reads them at the cursor.
    pub(super) fn parse(tokens: &mut Tokens<'_>) -> Result<Target> {
        let line = tokens.line();
        if let (Some(Kind::Name(name)), true) = (tokens.peek(), tokens.is_attribute()) {
            tokens.name()?;
            tokens.expect_op(".")?;
            return Ok(Target::Attribute(name.clone(), tokens.name()?.to_owned()));
        }
        let mut names = Vec::new();
        let written = targets(tokens, &mut names)?;
        match names.as_slice() {
            [] => error(line, "`set` needs a name"),
            [name] if *name == written => Ok(Target::Name(written)),
            _ => Ok(Target::Names(written, names)),
        }
    }
}

/// The variables of a loop or of an unpacking: names, brackets around names.
/// The names are added to `names`.
pub(super) fn targets(tokens: &mut Tokens<'_>, names: &mut Vec<String>) -> Result<String> {
    let mut items = Vec::new();
    let mut commas = 0;
    loop {
        if tokens.take_op("(") {
            items.push(tokens.deeper(|tokens| targets(tokens, names))?);
            tokens.expect_op(")")?;
        } else {
            let name = assigned(tokens)?;
            names.push(name.clone());
            items.push(name);
        }
        if !tokens.take_op(",") {
            break;
        }
        commas += 1;
        if tokens.is_name("in") || tokens.is_op(")") || tokens.is_op("=") {
            break;
        }
    }
    Ok(match (items.len(), commas) {
        (1, 0) => items.remove(0),
        (1, _) => format!("({},)", items[0]),
        _ => format!("({})", items.join(", ")),
    })
}

/// A name that may be assigned to.
pub(super) fn assigned(tokens: &mut Tokens<'_>) -> Result<String> {
    let line = tokens.line();
    let name = tokens.name()?;
    assignable(name, line)
}

/// Refuses names that hold something else already.
fn assignable(name: &str, line: usize) -> Result<String> {
    let reserved = ["true", "false", "none", "True", "False", "None", "loop", "self"];
    if reserved.contains(&name) {
        return error(line, format!("`{name}` cannot be assigned to"));
    }
    Ok(name.to_owned())
}

/// The parameters of a macro or of a `call` block.
#[derive(Default)]
pub(super) struct Parameters {
    /// Their names.
    pub(super) names: Vec<String>,
    /// Their defaults, translated.
    pub(super) defaults: Vec<Option<String>>,
}

impl Parameters {
    /// Reads them at the cursor.
    pub(super) fn parse(tokens: &mut Tokens<'_>) -> Result<Parameters> {
        let mut parameters = Parameters::default();
        tokens.expect_op("(")?;
        while !tokens.take_op(")") {
            if !parameters.names.is_empty() {
                tokens.expect_op(",")?;
            }
            parameters.names.push(assigned(tokens)?);
            let default = match tokens.take_op("=") {
                true => Some(tokens.expression(Conditional::Allowed)?.code),
                false if parameters.defaults.iter().any(Option::is_some) => {
                    return error(tokens.line(), "a parameter without a default follows one with");
                }
                false => None,
            };
            parameters.defaults.push(default);
        }
        Ok(parameters)
    }

    /// Refuses bodies that read the arguments a macro did not name.
    pub(super) fn refuse_variadic(&self, pieces: &[Piece], end: &str) -> Result<()> {
        for piece in pieces {
            let (Piece::Print(line, tokens) | Piece::Tag(line, tokens)) = piece else {
                continue;
            };
            for token in tokens {
                match &token.kind {
                    Kind::Name(name) if name == end => return Ok(()),
                    Kind::Name(name) if matches!(name.as_str(), "varargs" | "kwargs") && !self.names.contains(name) => {
                        return error(*line, format!("`{name}` in a macro is not supported"));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
