//! Filters that go through a sequence with another filter or a test.

use minijinja::value::Kwargs;
use minijinja::{State, Value};

use super::follow;
use crate::chat::python::args::{Args, string};
use crate::chat::python::objects::Generator;
use crate::chat::python::value::{Py, PyResult, fail, iterate};

pub(super) fn map(state: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    let mut mapped = Vec::new();
    if !value.is_true() {
        return Ok(Generator::value(mapped));
    }
    if args.positional.is_empty() {
        let [attribute, default] = args.bind("map", ["attribute", "default"])?;
        let Some(attribute) = attribute else {
            return fail("map needs the name of a filter or an attribute");
        };
        for item in iterate(value)? {
            let found = follow(&item, &attribute)?;
            mapped.push(match (&default, Py::of(&found)) {
                (Some(default), Py::Undefined) if !default.is_none() => default.clone(),
                _ => found,
            });
        }
        return Ok(Generator::value(mapped));
    }
    let (filter, rest) = named(args)?;
    for item in iterate(value)? {
        let arguments: Vec<Value> = std::iter::once(item).chain(rest.iter().cloned()).collect();
        mapped.push(state.apply_filter(&filter, &arguments)?);
    }
    Ok(Generator::value(mapped))
}

pub(super) fn select(state: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    keep(state, value, args, Whole::Item, Wanted::Passing)
}

pub(super) fn reject(state: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    keep(state, value, args, Whole::Item, Wanted::Failing)
}

pub(super) fn selectattr(state: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    keep(state, value, args, Whole::Attribute, Wanted::Passing)
}

pub(super) fn rejectattr(state: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    keep(state, value, args, Whole::Attribute, Wanted::Failing)
}

/// What of an item is tested.
#[derive(Clone, Copy)]
enum Whole {
    Item,
    Attribute,
}

/// Which items are kept.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    Passing,
    Failing,
}

fn keep(state: &mut State<'_, '_>, value: &Value, mut args: Args, whole: Whole, wanted: Wanted) -> PyResult {
    let mut kept = Vec::new();
    if !value.is_true() {
        return Ok(Generator::value(kept));
    }
    let attribute = match whole {
        Whole::Item => None,
        Whole::Attribute if args.positional.is_empty() => {
            return fail("selectattr and rejectattr need the name of an attribute");
        }
        Whole::Attribute => Some(args.positional.remove(0)),
    };
    let test = match args.positional.is_empty() {
        true => None,
        false => Some(named(args)?),
    };
    for item in iterate(value)? {
        let subject = match &attribute {
            Some(attribute) => follow(&item, attribute)?,
            None => item.clone(),
        };
        let passes = match &test {
            None => subject.is_true(),
            Some((test, rest)) => {
                let arguments: Vec<Value> = std::iter::once(subject).chain(rest.iter().cloned()).collect();
                state.perform_test(test, &arguments)?
            }
        };
        if passes == (wanted == Wanted::Passing) {
            kept.push(item);
        }
    }
    Ok(Generator::value(kept))
}

/// The leading name of a filter or test, and the arguments to pass on to it.
fn named(mut args: Args) -> PyResult<(String, Vec<Value>)> {
    let name = string("the name of a filter or test", &args.positional.remove(0))?.to_owned();
    let mut rest = args.positional;
    if !args.keywords.is_empty() {
        rest.push(Value::from(Kwargs::from_iter(args.keywords)));
    }
    Ok((name, rest))
}
