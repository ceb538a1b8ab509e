//! The `tojson` filter: Python's `json.dumps` with transformers' defaults.

use std::fmt::Write as _;

use minijinja::Value;

use super::args::{Args, string};
use super::text;
use super::value::{Py, PyResult, fail, items, iterate, pairs};

const MAX_DEPTH: usize = 200;

/// How to lay out the text; the arguments of `json.dumps`.
struct Layout {
    ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(in crate::chat) fn tojson(args: Args) -> PyResult<String> {
    let names = ["x", "ensure_ascii", "indent", "separators", "sort_keys"];
    let [x, ensure_ascii, indent, separators, sort_keys] = args.bind("tojson", names)?;
    let Some(x) = x else {
        return fail("tojson needs a value");
    };
    let indent = match indent.as_ref().map(Py::of) {
        None | Some(Py::None) => None,
        Some(Py::Str(indent)) => Some(indent.to_owned()),
        Some(other) => match other.as_int() {
            Some(width @ ..=1000) => Some(" ".repeat(usize::try_from(width).unwrap_or(0))),
            _ => return fail("tojson: indent must be a number up to 1000 or a string"),
        },
    };
    let (item_separator, key_separator) = match separators.filter(|value| !value.is_none()) {
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
        Some(separators) => match iterate(&separators)?.as_slice() {
            [item, key] => {
                (string("tojson separators", item)?.to_owned(), string("tojson separators", key)?.to_owned())
            }
            _ => return fail("tojson: separators must be a pair of strings"),
        },
    };
    let layout = Layout {
        ascii: ensure_ascii.is_some_and(|flag| flag.is_true()),
        indent,
        item_separator,
        key_separator,
        sort_keys: sort_keys.is_some_and(|flag| flag.is_true()),
    };
    let mut out = String::new();
    write_value(&mut out, &x, &layout, 0)?;
    Ok(out)
}

fn write_value(out: &mut String, value: &Value, layout: &Layout, depth: usize) -> PyResult<()> {
    if depth > MAX_DEPTH {
        return fail("tojson: the value is nested too deep");
    }
    match Py::of(value) {
        Py::None => out.push_str("null"),
        Py::Bool(true) => out.push_str("true"),
        Py::Bool(false) => out.push_str("false"),
        Py::Int(number) => out.push_str(&number.to_string()),
        Py::Float(number) => out.push_str(&float(number)),
        Py::Str(s) => write_string(out, s, layout),
        Py::List | Py::Tuple(_) => {
            let values = items(value);
            write_group(out, '[', ']', values.len(), layout, depth, |out, index| {
                write_value(out, &values[index], layout, depth + 1)
            })?;
        }
        Py::Dict => {
            let mut entries = pairs(value);
            if layout.sort_keys {
                if entries.iter().any(|(key, _)| !matches!(Py::of(key), Py::Str(_))) {
                    return fail("tojson: sort_keys needs string keys");
                }
                entries.sort_by(|(a, _), (b, _)| a.as_str().cmp(&b.as_str()));
            }
            write_group(out, '{', '}', entries.len(), layout, depth, |out, index| {
                let (key, value) = &entries[index];
                let key = match Py::of(key) {
                    Py::Str(key) => key.to_owned(),
                    Py::None => "null".to_owned(),
                    Py::Bool(key) => key.to_string(),
                    Py::Int(key) => key.to_string(),
                    Py::Float(key) => float(key),
                    other => {
                        return fail(format!("tojson: a dict key cannot be a {}", other.type_name()));
                    }
                };
                write_string(out, &key, layout);
                out.push_str(&layout.key_separator);
                write_value(out, value, layout, depth + 1)
            })?;
        }
        other => {
            return fail(format!("tojson: a value of type {} has no JSON form", other.type_name()));
        }
    }
    Ok(())
}

fn write_group(
    out: &mut String,
    open: char,
    close: char,
    len: usize,
    layout: &Layout,
    depth: usize,
    mut entry: impl FnMut(&mut String, usize) -> PyResult<()>,
) -> PyResult<()> {
    out.push(open);
    for index in 0..len {
        if index > 0 {
            out.push_str(&layout.item_separator);
        }
        new_line(out, layout, depth + 1);
        entry(out, index)?;
    }
    if len > 0 {
        new_line(out, layout, depth);
    }
    out.push(close);
    Ok(())
}

fn new_line(out: &mut String, layout: &Layout, depth: usize) {
    if let Some(indent) = &layout.indent {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
}

fn float(number: f64) -> String {
    if number.is_nan() {
        "NaN".to_owned()
    } else if number.is_infinite() {
        if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned()
    } else {
        text::float(number)
    }
}

fn write_string(out: &mut String, text: &str, layout: &Layout) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            // Python's ASCII form escapes DEL and keeps nothing above it.
            c if u32::from(c) < 0x20 || (layout.ascii && !(' '..='~').contains(&c)) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
