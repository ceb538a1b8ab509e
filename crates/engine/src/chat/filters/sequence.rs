//! Filters on lists and dicts.

use std::cmp::Ordering;

use minijinja::{State, Value};

use super::follow;
use crate::chat::python::args::Args;
use crate::chat::python::objects::Generator;
use crate::chat::python::value::{Py, PyResult, fail, int, iterate, refuse_markup, unsupported};
use crate::chat::python::{methods, ops, text};

pub(super) fn length(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    args.none("length")?;
    let length = match Py::of(value) {
        Py::Undefined => 0,
        Py::Str(text) => text.chars().count(),
        Py::List | Py::Tuple(_) | Py::Dict => value.len().unwrap_or(0),
        Py::View(view) => view.len(),
        Py::Range(range) => range.len,
        other => {
            return fail(format!("a value of type {} has no length", other.type_name()));
        }
    };
    Ok(int(length as i128))
}

pub(super) fn first(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    args.none("first")?;
    if let Py::Generator(generator) = Py::of(value) {
        return Ok(generator.next().unwrap_or_default());
    }
    Ok(iterate(value)?.into_iter().next().unwrap_or_default())
}

pub(super) fn last(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    args.none("last")?;
    if let Py::Generator(_) = Py::of(value) {
        return fail("last needs a list; turn the generator into one with `|list` first");
    }
    Ok(iterate(value)?.pop().unwrap_or_default())
}

pub(super) fn list(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    args.none("list")?;
    iterate(value).map(Value::from)
}

pub(super) fn reverse(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    args.none("reverse")?;
    refuse_markup(&[value])?;
    if let Py::Str(text) = Py::of(value) {
        return Ok(Value::from(text.chars().rev().collect::<String>()));
    }
    let mut items = iterate(value)?;
    items.reverse();
    Ok(match Py::of(value) {
        // Python cannot walk a generator backwards and makes a list of it.
        Py::Generator(_) => Value::from(items),
        _ => Generator::value(items),
    })
}

pub(super) fn join(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    let [separator, attribute] = args.bind("join", ["d", "attribute"])?;
    let separator = separator.map_or(Ok(String::new()), |separator| text::str(&separator))?;
    let mut parts = Vec::new();
    for item in iterate(value)? {
        let item = match attribute.as_ref().filter(|attribute| !attribute.is_none()) {
            Some(attribute) => follow(&item, attribute)?,
            None => item,
        };
        parts.push(text::str(&item)?);
    }
    Ok(Value::from(parts.join(&separator)))
}

/// What strings are compared by unless case is to count.
fn ignore_case(value: Value) -> Value {
    match Py::of(&value) {
        Py::Str(text) => Value::from(text.to_lowercase()),
        _ => value,
    }
}

/// Which of the arguments `case_sensitive` was.
fn flag(value: &Option<Value>) -> bool {
    value.as_ref().is_some_and(Value::is_true)
}

pub(super) fn unique(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    let [case, attribute] = args.bind("unique", ["case_sensitive", "attribute"])?;
    let mut seen: Vec<Value> = Vec::new();
    let mut kept = Vec::new();
    'items: for item in iterate(value)? {
        let key = follow(&item, attribute.as_ref().unwrap_or(&Value::from(())))?;
        let key = if flag(&case) { key } else { ignore_case(key) };
        if matches!(Py::of(&key), Py::List | Py::Dict | Py::Tuple(_)) {
            return fail("unique cannot tell lists and dicts apart");
        }
        for known in &seen {
            if ops::equal(known, &key)? {
                continue 'items;
            }
        }
        seen.push(key);
        kept.push(item);
    }
    Ok(Generator::value(kept))
}

/// Sorts stably by key; `order` turns the direction around where wanted.
fn sorted(mut entries: Vec<(Vec<Value>, Value)>, reverse: bool) -> PyResult<Vec<Value>> {
    let mut failure = None;
    entries.sort_by(|(a, _), (b, _)| {
        let ordering = a.iter().zip(b).find_map(|(a, b)| match ops::compare("<", a, b) {
            Ok(Some(Ordering::Equal)) => None,
            Ok(Some(ordering)) => Some(Ok(ordering)),
            Ok(None) => Some(unsupported("sorting NaN")),
            Err(error) => Some(Err(error)),
        });
        let ordering = match ordering {
            None => Ordering::Equal,
            Some(Ok(ordering)) => ordering,
            Some(Err(error)) => {
                failure.get_or_insert(error);
                Ordering::Equal
            }
        };
        if reverse { ordering.reverse() } else { ordering }
    });
    match failure {
        Some(error) => Err(error),
        None => Ok(entries.into_iter().map(|(_, item)| item).collect()),
    }
}

pub(super) fn sort(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    let names = ["reverse", "case_sensitive", "attribute"];
    let [reverse, case, attribute] = args.bind("sort", names)?;
    let paths: Vec<Value> = match attribute.as_ref().map(Py::of) {
        Some(Py::Str(paths)) => paths.split(',').map(Value::from).collect(),
        _ => vec![attribute.clone().unwrap_or(Value::from(()))],
    };
    let mut entries = Vec::new();
    for item in iterate(value)? {
        let mut keys = Vec::new();
        for path in &paths {
            let key = follow(&item, path)?;
            keys.push(if flag(&case) { key } else { ignore_case(key) });
        }
        entries.push((keys, item));
    }
    sorted(entries, flag(&reverse)).map(Value::from)
}

pub(super) fn dictsort(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    let [case, by, reverse] = args.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let position = match by.as_ref().map(Py::of) {
        None | Some(Py::Str("key")) => 0,
        Some(Py::Str("value")) => 1,
        Some(_) => return fail("dictsort sorts by \"key\" or \"value\""),
    };
    let Py::Dict = Py::of(value) else {
        return fail("dictsort needs a dict");
    };
    let mut entries = Vec::new();
    for pair in methods::pair_tuples(value) {
        let key = pair.get_item_by_index(position)?;
        let key = if flag(&case) { key } else { ignore_case(key) };
        entries.push((vec![key], pair));
    }
    sorted(entries, flag(&reverse)).map(Value::from)
}

pub(super) fn min(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    extreme("min", value, args, Ordering::Less)
}

pub(super) fn max(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    extreme("max", value, args, Ordering::Greater)
}

fn extreme(name: &str, value: &Value, args: Args, wanted: Ordering) -> PyResult {
    let [case, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
    let mut best: Option<(Value, Value)> = None;
    for item in iterate(value)? {
        let key = follow(&item, attribute.as_ref().unwrap_or(&Value::from(())))?;
        let key = if flag(&case) { key } else { ignore_case(key) };
        let better = match &best {
            None => true,
            Some((known, _)) => ops::compare("<", &key, known)? == Some(wanted),
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map(|(_, item)| item).unwrap_or_default())
}
