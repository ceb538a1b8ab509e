//! The engine, set up to run a translated template.
//!
//! Nothing of the engine's own library of filters, tests and functions is
//! loaded, so no name can fall through to one that works a little
//! differently from Jinja's.

use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};

use super::python::args::{Args, integer};
use super::python::objects::{Namespace, PassedUndefined, Range};
use super::python::value::{Py, PyResult, fail, iterate, pairs, unsupported};
use super::python::{lookup, methods, ops, text};
use super::{filters, predicates};

/// Most numbers a `range` may have, as in Jinja's sandbox.
const MAX_RANGE: usize = 100_000;

/// What a template said through `raise_exception`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub(super) String);

/// An environment in which `source`, a translated template, is `name`.
pub(super) fn build(name: &str, source: String) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::empty();
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_formatter(print);
    filters::register(&mut environment);
    predicates::register(&mut environment);
    operators(&mut environment);
    lookups(&mut environment);
    functions(&mut environment);
    environment.add_template_owned(name.to_owned(), source)?;
    Ok(environment)
}

fn print(out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    out.write_str(&text::str(value)?).map_err(Error::from)
}

fn operators(environment: &mut Environment<'_>) {
    type Binary = fn(&Value, &Value) -> PyResult;
    let binary: [(&str, Binary); 7] = [
        ("__py_add", ops::add),
        ("__py_sub", ops::sub),
        ("__py_mul", ops::mul),
        ("__py_div", ops::div),
        ("__py_floor_div", ops::floor_div),
        ("__py_rem", ops::rem),
        ("__py_pow", ops::pow),
    ];
    for (name, function) in binary {
        environment.add_function(name, move |a: Value, b: Value| function(&a, &b));
    }
    environment.add_function("__py_neg", |a: Value| ops::neg(&a));
    environment.add_function("__py_pos", |a: Value| ops::pos(&a));
    environment.add_function("__py_concat", |parts: Rest<Value>| ops::concat(&parts));
    environment.add_function("__py_compare", |op: &str, a: Value, b: Value| ops::test(op, &a, &b));
    environment.add_function("__py_float", |text: &str| -> PyResult<f64> {
        text.parse().or_else(|_| fail(format!("`{text}` is not a number")))
    });
}

fn lookups(environment: &mut Environment<'_>) {
    environment
        .add_function("__py_attribute", |object: Value, name: &str, what: &str| lookup::attribute(&object, name, what));
    environment.add_function("__py_item", |object: Value, key: Value, what: &str| lookup::item(&object, &key, what));
    environment.add_function("__py_slice", |object: Value, start: Value, stop: Value, step: Value, what: &str| {
        lookup::slice(&object, [&start, &stop, &step], what)
    });
    environment.add_function(
        "__py_call",
        |state: &mut State<'_, '_>, object: Value, name: &str, what: &str, args: Rest<ValueOrKwargs>| {
            methods::call_attribute(state, &object, name, what, args.into_values())
        },
    );
    environment.add_function("__py_listed", |value: Value| lookup::listed(&value));
    environment.add_function("__py_key", |key: Value| match Py::of(&key) {
        Py::Str(_) | Py::Int(_) | Py::None => Ok(key),
        other => unsupported(format!("a dict key of type {}", other.type_name())),
    });
    environment.add_function("__py_pass", |value: Value| {
        if value.is_undefined() { Value::from_object(PassedUndefined) } else { value }
    });
    environment.add_function("__py_absent", |value: Value| value.is_undefined());
    environment.add_function("__py_received", |value: Value| match Py::of(&value) {
        Py::Undefined => Value::UNDEFINED,
        _ => value,
    });
    environment.add_function("__py_set_attribute", |object: Value, name: &str, value: Value| match Py::of(&object) {
        Py::Namespace(namespace) => namespace.set(name, value),
        other => fail(format!(
            "only a namespace's attributes can be set, not those of a value of type {}",
            other.type_name()
        )),
    });
}

fn functions(environment: &mut Environment<'_>) {
    environment.add_function("raise_exception", |message: Value| -> PyResult {
        let message = text::str(&message)?;
        let error = Error::new(ErrorKind::InvalidOperation, message.clone());
        Err(error.with_source(Raised(message)))
    });
    environment.add_function("range", |bounds: Rest<Value>| range(&bounds));
    environment.add_function("dict", |args: Rest<ValueOrKwargs>| -> PyResult {
        Ok(Value::from_pairs(entries("dict", args)?))
    });
    environment.add_function("namespace", |args: Rest<ValueOrKwargs>| -> PyResult {
        let namespace = Namespace::default();
        for (key, value) in entries("namespace", args)? {
            match Py::of(&key) {
                Py::Str(name) => namespace.set(name, value)?,
                _ => return fail("a namespace's names are strings"),
            }
        }
        Ok(Value::from_object(namespace))
    });
}

fn range(bounds: &[Value]) -> PyResult {
    let bounds: Vec<i64> = bounds.iter().map(|bound| integer("range", bound)).collect::<PyResult<_>>()?;
    let (start, stop, step) = match bounds.as_slice() {
        [stop] => (0, *stop, 1),
        [start, stop] => (*start, *stop, 1),
        [start, stop, step] if *step != 0 => (*start, *stop, *step),
        _ => return fail("range takes one to three numbers, the third of them not 0"),
    };
    let (span, wide) = (i128::from(stop) - i128::from(start), i128::from(step));
    let len = match (span > 0) == (wide > 0) {
        true => span / wide + i128::from(span % wide != 0),
        false => 0,
    };
    match usize::try_from(len) {
        Ok(len) if len <= MAX_RANGE => {
            let range = Range { start, stop, step, len };
            Ok(Value::from_object(range))
        }
        _ => fail(format!("range may have at most {MAX_RANGE} numbers")),
    }
}

/// The arguments of `dict()`: a dict or pairs, then named values.
fn entries(function: &str, args: Rest<ValueOrKwargs>) -> PyResult<Vec<(Value, Value)>> {
    let args = Args::split(args.into_values())?;
    let mut entries = match args.positional.as_slice() {
        [] => Vec::new(),
        [dict] if matches!(Py::of(dict), Py::Dict) => pairs(dict),
        [list] => {
            let mut entries = Vec::new();
            for pair in iterate(list)? {
                match iterate(&pair)?.as_slice() {
                    [key, value] => entries.push((key.clone(), value.clone())),
                    _ => return fail(format!("{function} needs pairs")),
                }
            }
            entries
        }
        _ => return fail(format!("{function} takes one argument besides named ones")),
    };
    for (name, value) in args.keywords {
        let key = Value::from(name);
        match entries.iter_mut().find(|(known, _)| *known == key) {
            Some((_, old)) => *old = value,
            None => entries.push((key, value)),
        }
    }
    Ok(entries)
}
