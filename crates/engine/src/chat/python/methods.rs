//! Methods of strings, lists and dicts.

use minijinja::value::Tuple;
use minijinja::{State, Value};

use super::args::Args;
use super::lookup::undefined;
use super::objects::{DictView, ViewOf};
use super::value::{Py, PyResult, fail, int, items, pairs, refuse_markup, unsupported};
use super::{lookup, ops, strings};

const STRING: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];
const LIST: &[&str] =
    &["append", "clear", "copy", "count", "extend", "index", "insert", "pop", "remove", "reverse", "sort"];
const DICT: &[&str] =
    &["clear", "copy", "fromkeys", "get", "items", "keys", "pop", "popitem", "setdefault", "update", "values"];
/// What the sandbox that transformers renders in keeps templates from calling.
const MUTATORS: &[&str] =
    &["append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault", "sort", "update"];

/// Whether Python's type of `object` has a method of that name.
pub(in crate::chat) fn exists(object: &Value, name: &str) -> bool {
    let methods = match Py::of(object) {
        Py::Str(_) => STRING,
        Py::List => LIST,
        Py::Dict => DICT,
        Py::Tuple(_) => &["count", "index"],
        _ => &[],
    };
    methods.contains(&name)
}

/// `object.name(...)`. `what` is the template's text of the object.
pub(in crate::chat) fn call_attribute(
    state: &mut State<'_, '_>,
    object: &Value,
    name: &str,
    what: &str,
    args: Vec<Value>,
) -> PyResult {
    if let Py::Undefined = Py::of(object) {
        return Err(undefined(what, &format!("`.{name}()`")));
    }
    if exists(object, name) {
        return call(state, object, name, Args::split(args)?);
    }
    let callee = lookup::attribute(object, name, what)?;
    match Py::of(&callee) {
        Py::Opaque => callee.call(state, &args),
        Py::Undefined => fail(format!("`{what}`, a {}, has no method `{name}`", Py::of(object).type_name())),
        other => fail(format!("`{what}.{name}` is a {}, which cannot be called", other.type_name())),
    }
}

/// Calls a method that [`exists`].
pub(in crate::chat) fn call(state: &mut State<'_, '_>, object: &Value, name: &str, args: Args) -> PyResult {
    refuse_markup(&[object])?;
    refuse_markup(&args.positional.iter().collect::<Vec<_>>())?;
    match Py::of(object) {
        Py::Str(text) => strings::call(state, object, text, name, args),
        _ if MUTATORS.contains(&name) => {
            fail(format!("a template may not change its input: `{name}()` is refused, as transformers refuses it"))
        }
        Py::Dict => dict_method(object, name, args),
        _ => list_method(object, name, args),
    }
}

fn dict_method(dict: &Value, name: &str, args: Args) -> PyResult {
    let view = |part, args: Args| {
        args.none(name)?;
        Ok(DictView::value(part, pairs(dict)))
    };
    match name {
        "keys" => view(ViewOf::Keys, args),
        "values" => view(ViewOf::Values, args),
        "items" => view(ViewOf::Items, args),
        "copy" => args.none(name).map(|()| dict.clone()),
        "get" if args.keywords.is_empty() => match args.positional.as_slice() {
            [key] | [key, _] => {
                if !ops::contains(dict, key)? {
                    return Ok(args.positional.get(1).cloned().unwrap_or(Value::from(())));
                }
                lookup::item(dict, key, "the dict")
            }
            _ => fail("`get` takes a key and, if wanted, a default"),
        },
        _ => unsupported(format!("the dict method `{name}`")),
    }
}

fn list_method(list: &Value, name: &str, args: Args) -> PyResult {
    match name {
        "copy" => args.none(name).map(|()| list.clone()),
        "count" | "index" => {
            let wanted = args.one(name)?;
            let mut found = Vec::new();
            for (index, item) in items(list).iter().enumerate() {
                if ops::equal(item, &wanted)? {
                    found.push(index);
                }
            }
            match (name, found.first()) {
                ("count", _) => Ok(int(found.len() as i128)),
                (_, Some(index)) => Ok(int(*index as i128)),
                (_, None) => fail("`index`: the list has no such item"),
            }
        }
        _ => unsupported(format!("the list method `{name}`")),
    }
}

/// The pairs of a dict as the `items` filter and `dictsort` hand them on.
pub(in crate::chat) fn pair_tuples(dict: &Value) -> Vec<Value> {
    pairs(dict).into_iter().map(|(key, value)| Value::from(Tuple::from([key, value]))).collect()
}
