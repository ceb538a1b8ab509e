//! Binding the arguments of a call as Python does.

use minijinja::Value;
use minijinja::value::Kwargs;

use super::value::{Py, PyResult, fail};

/// Positional and keyword arguments of one call.
#[derive(Debug, Default)]
pub(in crate::chat) struct Args {
    pub(in crate::chat) positional: Vec<Value>,
    pub(in crate::chat) keywords: Vec<(String, Value)>,
}

impl Args {
    /// Takes the engine's argument list apart; it carries keyword arguments
    /// as one trailing value.
    pub(in crate::chat) fn split(mut values: Vec<Value>) -> PyResult<Args> {
        let mut keywords = Vec::new();
        if values.last().is_some_and(Value::is_kwargs)
            && let Some(last) = values.pop()
        {
            let kwargs = Kwargs::try_from(last)?;
            for name in kwargs.args() {
                keywords.push((name.to_owned(), kwargs.peek::<Value>(name)?));
            }
        }
        Ok(Args { positional: values, keywords })
    }

    /// The arguments in the order of `names`, `None` where one was left out.
    ///
    /// `function` names the callee in errors.
    pub(in crate::chat) fn bind<const N: usize>(
        self,
        function: &str,
        names: [&str; N],
    ) -> PyResult<[Option<Value>; N]> {
        if self.positional.len() > N {
            return fail(format!("{function} takes at most {N} arguments, {} were given", self.positional.len()));
        }
        let mut bound = [const { None }; N];
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.keywords {
            match names.iter().position(|known| *known == name) {
                Some(index) if bound[index].is_none() => bound[index] = Some(value),
                Some(_) => return fail(format!("{function} got its argument `{name}` twice")),
                None => return fail(format!("{function} has no argument named `{name}`")),
            }
        }
        Ok(bound)
    }

    /// Checks that nothing was passed.
    pub(in crate::chat) fn none(self, function: &str) -> PyResult<()> {
        self.bind(function, []).map(|[]| ())
    }

    /// Exactly one argument, given by position.
    pub(in crate::chat) fn one(self, function: &str) -> PyResult<Value> {
        match (self.positional.as_slice(), self.keywords.is_empty()) {
            ([value], true) => Ok(value.clone()),
            _ => fail(format!("{function} takes exactly one argument")),
        }
    }
}

/// A string argument.
pub(in crate::chat) fn string<'a>(function: &str, value: &'a Value) -> PyResult<&'a str> {
    match Py::of(value) {
        Py::Str(s) => Ok(s),
        other => fail(format!("{function} needs a string, not a value of type {}", other.type_name())),
    }
}

/// An integer argument.
pub(in crate::chat) fn integer(function: &str, value: &Value) -> PyResult<i64> {
    let number = Py::of(value).as_int();
    match number.and_then(|number| i64::try_from(number).ok()) {
        Some(number) => Ok(number),
        None => fail(format!("{function} needs an integer, not a value of type {}", Py::of(value).type_name())),
    }
}
