//! Jinja's tests: what may follow `is`.

use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Environment, Error, State, Value};

use super::filters;
use super::python::args::Args;
use super::python::ops;
use super::python::value::{Py, PyResult, fail, unsupported};

/// A test: the value and the further arguments.
type Test = fn(&Value, Args) -> PyResult<bool>;

const TESTS: &[(&str, Test)] = &[
    ("boolean", |v, a| plain(v, a, |py| matches!(py, Py::Bool(_)))),
    ("defined", |v, a| plain(v, a, |py| !matches!(py, Py::Undefined))),
    ("undefined", |v, a| plain(v, a, |py| matches!(py, Py::Undefined))),
    ("none", |v, a| plain(v, a, |py| matches!(py, Py::None))),
    ("true", |v, a| plain(v, a, |py| matches!(py, Py::Bool(true)))),
    ("false", |v, a| plain(v, a, |py| matches!(py, Py::Bool(false)))),
    ("integer", |v, a| plain(v, a, |py| matches!(py, Py::Int(_)))),
    ("float", |v, a| plain(v, a, |py| matches!(py, Py::Float(_)))),
    ("number", |v, a| plain(v, a, |py| matches!(py, Py::Int(_) | Py::Float(_) | Py::Bool(_)))),
    ("string", |v, a| plain(v, a, |py| matches!(py, Py::Str(_)))),
    ("mapping", |v, a| plain(v, a, |py| matches!(py, Py::Dict))),
    ("escaped", |v, a| {
        let safe = v.is_safe();
        plain(v, a, |_| safe)
    }),
    // An undefined value has a length and items, if none of them.
    ("sequence", |v, a| {
        plain(v, a, |py| matches!(py, Py::Undefined | Py::Str(_) | Py::List | Py::Tuple(_) | Py::Dict | Py::Range(_)))
    }),
    ("iterable", |v, a| {
        plain(v, a, |py| {
            matches!(
                py,
                Py::Undefined
                    | Py::Str(_)
                    | Py::List
                    | Py::Tuple(_)
                    | Py::Dict
                    | Py::Range(_)
                    | Py::View(_)
                    | Py::Generator(_)
            )
        })
    }),
    // Calling an undefined value fails, but it has the method for it.
    ("callable", |v, a| plain(v, a, |py| matches!(py, Py::Undefined | Py::Method(_) | Py::Opaque))),
    ("odd", |v, a| remainder(v, a, "odd").map(|rest| rest == 1)),
    ("even", |v, a| remainder(v, a, "even").map(|rest| rest == 0)),
    ("divisibleby", |v, a| {
        let divisor = a.one("divisibleby")?;
        ops::equal(&ops::rem(v, &divisor)?, &Value::from(0))
    }),
    ("lower", |v, a| cased(v, a, char::is_lowercase, char::is_uppercase)),
    ("upper", |v, a| cased(v, a, char::is_uppercase, char::is_lowercase)),
    ("in", |v, a| ops::contains(&a.one("in")?, v)),
    ("sameas", same_as),
    ("filter", |v, a| plain(v, a, |py| matches!(py, Py::Str(name) if filters::is_known(name)))),
    ("test", |v, a| plain(v, a, |py| matches!(py, Py::Str(name) if is_known(name)))),
    ("==", |v, a| compare("==", v, a)),
    ("eq", |v, a| compare("==", v, a)),
    ("equalto", |v, a| compare("==", v, a)),
    ("!=", |v, a| compare("!=", v, a)),
    ("ne", |v, a| compare("!=", v, a)),
    (">", |v, a| compare(">", v, a)),
    ("gt", |v, a| compare(">", v, a)),
    ("greaterthan", |v, a| compare(">", v, a)),
    (">=", |v, a| compare(">=", v, a)),
    ("ge", |v, a| compare(">=", v, a)),
    ("<", |v, a| compare("<", v, a)),
    ("lt", |v, a| compare("<", v, a)),
    ("lessthan", |v, a| compare("<", v, a)),
    ("<=", |v, a| compare("<=", v, a)),
    ("le", |v, a| compare("<=", v, a)),
];

/// Adds every test to the environment.
pub(super) fn register(environment: &mut Environment<'_>) {
    for &(name, test) in TESTS {
        environment.add_test(name, move |_: &State<'_, '_>, args: Rest<ValueOrKwargs>| -> Result<bool, Error> {
            let mut args = Args::split(args.into_values())?;
            if args.positional.is_empty() {
                return fail(format!("the test `{name}` has nothing to test"));
            }
            let value = args.positional.remove(0);
            test(&value, args)
        });
    }
}

fn is_known(name: &str) -> bool {
    TESTS.iter().any(|(known, _)| *known == name)
}

fn plain(value: &Value, args: Args, test: impl Fn(Py<'_>) -> bool) -> PyResult<bool> {
    args.none("a test of this kind")?;
    Ok(test(Py::of(value)))
}

fn compare(op: &str, value: &Value, args: Args) -> PyResult<bool> {
    ops::test(op, value, &args.one(op)?)
}

fn remainder(value: &Value, args: Args, name: &str) -> PyResult<i128> {
    args.none(name)?;
    match Py::of(value).as_int() {
        Some(number) => Ok(number.rem_euclid(2)),
        None => fail(format!("`is {name}` needs a whole number, not a value of type {}", Py::of(value).type_name())),
    }
}

fn cased(value: &Value, args: Args, wanted: fn(char) -> bool, other: fn(char) -> bool) -> PyResult<bool> {
    args.none("lower and upper")?;
    match Py::of(value) {
        Py::Str(text) => Ok(text.chars().any(wanted) && !text.chars().any(other)),
        _ => unsupported("`is lower` and `is upper` on anything but text"),
    }
}

/// Identity, where Python's is certain: for the singletons.
fn same_as(value: &Value, args: Args) -> PyResult<bool> {
    let other = args.one("sameas")?;
    match (Py::of(value), Py::of(&other)) {
        (Py::None, Py::None) => Ok(true),
        (Py::Bool(a), Py::Bool(b)) => Ok(a == b),
        (Py::None | Py::Bool(_), _) | (_, Py::None | Py::Bool(_)) => Ok(false),
        _ => unsupported("`is sameas` with anything but true, false and none"),
    }
}
