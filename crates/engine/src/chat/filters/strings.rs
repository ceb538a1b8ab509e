//! Filters on text.

use minijinja::{State, Value};

use crate::chat::python::args::{Args, integer};
use crate::chat::python::value::{Py, PyResult, fail, items, refuse_markup, unsupported};
use crate::chat::python::{format as formatting, methods, text};

/// Calls a string method on the text of `value`, as most of these filters do.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: Args) -> PyResult {
    refuse_markup(&[value])?;
    let text = Value::from(text::str(value)?);
    methods::call(state, &text, name, args)
}

pub(super) fn upper(state: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    method(state, value, "upper", args)
}

pub(super) fn lower(state: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    method(state, value, "lower", args)
}

pub(super) fn capitalize(state: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    method(state, value, "capitalize", args)
}

pub(super) fn trim(state: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    method(state, value, "strip", args)
}

pub(super) fn string(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    args.none("string")?;
    if let Py::Str(_) = Py::of(value) {
        return Ok(value.clone());
    }
    text::str(value).map(Value::from)
}

pub(super) fn safe(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    args.none("safe")?;
    Ok(Value::from_safe_string(text::str(value)?))
}

pub(super) fn escape(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    args.none("escape")?;
    if value.is_safe() {
        return Ok(value.clone());
    }
    let escaped = text::str(value)?
        .replace('&', "&amp;")
        .replace('>', "&gt;")
        .replace('<', "&lt;")
        .replace('\'', "&#39;")
        .replace('"', "&#34;");
    Ok(Value::from_safe_string(escaped))
}

pub(super) fn format(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    refuse_markup(&[value])?;
    let Args { positional, keywords } = args;
    if !keywords.is_empty() {
        return unsupported("the filter `format` with named fields");
    }
    formatting::printf(&text::str(value)?, &positional).map(Value::from)
}

pub(super) fn title(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    args.none("title")?;
    refuse_markup(&[value])?;
    let text = text::str(value)?;
    if !text.is_ascii() {
        return unsupported("the filter `title` on text beyond ASCII");
    }
    let mut after_break = true;
    let titled = text.chars().map(|c| {
        let out = if after_break { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() };
        after_break = text::is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
        out
    });
    Ok(Value::from(titled.collect::<String>()))
}

pub(super) fn replace(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    let [old, new, count] = args.bind("replace", ["old", "new", "count"])?;
    let (Some(old), Some(new)) = (old, new) else {
        return fail("replace needs what to replace and what to put there");
    };
    let (text, old, new) = (text::str(value)?, text::str(&old)?, text::str(&new)?);
    let count = match count.filter(|count| !count.is_none()) {
        Some(count) => usize::try_from(integer("replace", &count)?).ok(),
        None => None,
    };
    Ok(Value::from(match count {
        Some(count) => text.replacen(&old, &new, count),
        None => text.replace(&old, &new),
    }))
}

pub(super) fn indent(state: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    refuse_markup(&[value])?;
    let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
    let Py::Str(text) = Py::of(value) else {
        return fail(format!("indent needs text, not a {}", Py::of(value).type_name()));
    };
    let indention = match width.as_ref().map(Py::of) {
        None => " ".repeat(4),
        Some(Py::Str(indention)) => indention.to_owned(),
        Some(_) => {
            let width = width.as_ref().map_or(Ok(4), |width| integer("indent", width))?;
            if width > 1000 {
                return unsupported("indenting that far");
            }
            " ".repeat(usize::try_from(width).unwrap_or(0))
        }
    };
    let is_set = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let whole = Value::from([text, "\n"].concat());
    let lines = methods::call(state, &whole, "splitlines", Args::default())?;
    let blank = is_set(blank);
    let mut out = if is_set(first) { indention.clone() } else { String::new() };
    for (index, line) in items(&lines).iter().enumerate() {
        let line = line.as_str().unwrap_or("");
        if index > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out.push_str(&indention);
            }
        }
        out.push_str(line);
    }
    Ok(Value::from(out))
}
