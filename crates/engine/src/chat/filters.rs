//! Jinja's filters, as the sandbox of transformers has them.
//!
//! Filters that no chat template was seen to use are left out; the engine
//! reports them as unknown.

mod numbers;
mod select;
mod sequence;
mod strings;

use minijinja::value::{Rest, ValueOrKwargs};
use minijinja::{Environment, Error, State, Value};

use super::python::args::{Args, string};
use super::python::objects::Generator;
use super::python::value::{Py, PyResult, fail};
use super::python::{json, lookup, methods};

/// A filter: the piped value and the further arguments.
type Filter = fn(&mut State<'_, '_>, &Value, Args) -> PyResult;

const FILTERS: &[(&str, Filter)] = &[
    ("abs", numbers::abs),
    ("capitalize", strings::capitalize),
    ("count", sequence::length),
    ("d", default),
    ("default", default),
    ("dictsort", sequence::dictsort),
    ("e", strings::escape),
    ("escape", strings::escape),
    ("first", sequence::first),
    ("float", numbers::float),
    ("format", strings::format),
    ("indent", strings::indent),
    ("int", numbers::int),
    ("items", items),
    ("join", sequence::join),
    ("last", sequence::last),
    ("length", sequence::length),
    ("list", sequence::list),
    ("lower", strings::lower),
    ("map", select::map),
    ("max", sequence::max),
    ("min", sequence::min),
    ("reject", select::reject),
    ("rejectattr", select::rejectattr),
    ("replace", strings::replace),
    ("reverse", sequence::reverse),
    ("round", numbers::round),
    ("safe", strings::safe),
    ("select", select::select),
    ("selectattr", select::selectattr),
    ("sort", sequence::sort),
    ("string", strings::string),
    ("sum", numbers::sum),
    ("title", strings::title),
    ("tojson", tojson),
    ("trim", strings::trim),
    ("unique", sequence::unique),
    ("upper", strings::upper),
];

/// Adds every filter to the environment.
pub(super) fn register(environment: &mut Environment<'_>) {
    for &(name, filter) in FILTERS {
        environment.add_filter(
            name,
            move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| -> Result<Value, Error> {
                let mut args = Args::split(args.into_values())?;
                if args.positional.is_empty() {
                    return fail(format!("the filter `{name}` has nothing to work on"));
                }
                let value = args.positional.remove(0);
                filter(state, &value, args)
            },
        );
    }
}

/// Whether a filter of that name is known.
pub(super) fn is_known(name: &str) -> bool {
    FILTERS.iter().any(|(known, _)| *known == name)
}

fn default(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    let [fallback, boolean] = args.bind("default", ["default_value", "boolean"])?;
    let boolean = boolean.is_some_and(|flag| flag.is_true());
    if matches!(Py::of(value), Py::Undefined) || (boolean && !value.is_true()) {
        return Ok(fallback.unwrap_or_else(|| Value::from("")));
    }
    Ok(value.clone())
}

fn items(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    args.none("items")?;
    match Py::of(value) {
        Py::Undefined => Ok(Generator::value(Vec::new())),
        Py::Dict => Ok(Generator::value(methods::pair_tuples(value))),
        other => fail(format!("items needs a dict, not a {}", other.type_name())),
    }
}

fn tojson(_: &mut State<'_, '_>, value: &Value, mut args: Args) -> PyResult {
    args.positional.insert(0, value.clone());
    json::tojson(args).map(Value::from)
}

/// Follows a dotted attribute path, as filters with an `attribute` argument do.
fn follow(item: &Value, path: &Value) -> PyResult {
    let parts = match Py::of(path) {
        Py::Str(path) => path
            .split('.')
            .map(|part| match part.parse::<u32>() {
                Ok(index) => Value::from(index),
                Err(_) => Value::from(part),
            })
            .collect(),
        Py::None => Vec::new(),
        Py::Int(_) => vec![path.clone()],
        _ => return string("attribute", path).map(Value::from),
    };
    let mut item = item.clone();
    for part in &parts {
        item = lookup::item(&item, part, "the item")?;
    }
    Ok(item)
}
