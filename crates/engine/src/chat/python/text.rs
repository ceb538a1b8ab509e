//! Python's `str()` and `repr()`.

use std::fmt::Write as _;

use minijinja::Value;

use super::objects::ViewOf;
use super::value::{Py, PyResult, items, pairs, unsupported};

/// How deep values may be nested before printing them is refused.
const MAX_DEPTH: usize = 200;

/// `str(value)`, with Jinja's empty text for undefined.
pub(in crate::chat) fn str(value: &Value) -> PyResult<String> {
    match Py::of(value) {
        Py::Str(s) => Ok(s.to_owned()),
        Py::Undefined => Ok(String::new()),
        _ => repr(value),
    }
}

/// `repr(value)`.
pub(in crate::chat) fn repr(value: &Value) -> PyResult<String> {
    let mut out = String::new();
    write_repr(&mut out, value, 0)?;
    Ok(out)
}

fn write_repr(out: &mut String, value: &Value, depth: usize) -> PyResult<()> {
    if depth > MAX_DEPTH {
        return unsupported("printing a value nested that deep");
    }
    match Py::of(value) {
        Py::Undefined => out.push_str("Undefined"),
        Py::None => out.push_str("None"),
        Py::Bool(true) => out.push_str("True"),
        Py::Bool(false) => out.push_str("False"),
        Py::Int(number) => out.push_str(&number.to_string()),
        Py::Float(number) => out.push_str(&float(number)),
        Py::Str(_) if value.is_safe() => return unsupported("repr() of a `safe` string"),
        Py::Str(s) => out.push_str(&quoted(s)),
        Py::List => write_sequence(out, "[", &items(value), "]", depth)?,
        Py::Tuple(tuple) if tuple.len() == 1 => write_sequence(out, "(", tuple, ",)", depth)?,
        Py::Tuple(tuple) => write_sequence(out, "(", tuple, ")", depth)?,
        Py::Dict => {
            out.push('{');
            for (index, (key, value)) in pairs(value).iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                write_repr(out, key, depth + 1)?;
                out.push_str(": ");
                write_repr(out, value, depth + 1)?;
            }
            out.push('}');
        }
        Py::View(view) => {
            let open = match view.part {
                ViewOf::Keys => "dict_keys([",
                ViewOf::Values => "dict_values([",
                ViewOf::Items => "dict_items([",
            };
            write_sequence(out, open, &view.items(), "])", depth)?;
        }
        Py::Range(range) if range.step == 1 => {
            let _ = write!(out, "range({}, {})", range.start, range.stop);
        }
        Py::Range(range) => {
            let _ = write!(out, "range({}, {}, {})", range.start, range.stop, range.step);
        }
        Py::Method(method) => {
            return unsupported(format!(
                "printing `{0}`, which is a method (to read a key of that name write ['{0}'])",
                method.name
            ));
        }
        other @ (Py::Generator(_) | Py::Namespace(_) | Py::Opaque) => {
            return unsupported(format!("printing a value of type {}", other.type_name()));
        }
    }
    Ok(())
}

fn write_sequence(out: &mut String, open: &str, values: &[Value], close: &str, depth: usize) -> PyResult<()> {
    out.push_str(open);
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            out.push_str(", ");
        }
        write_repr(out, value, depth + 1)?;
    }
    out.push_str(close);
    Ok(())
}

/// Python's shortest text of a float that reads back as the same number.
pub(in crate::chat) fn float(number: f64) -> String {
    if number.is_nan() {
        return "nan".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    // Rust's `{:e}` has the same shortest digits; only the layout differs.
    let scientific = format!("{number:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = number.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// A string in Python's quotes.
pub(in crate::chat) fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::with_capacity(text.len() + 2);
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                let _ = match code {
                    0..=0xff => write!(out, "\\x{code:02x}"),
                    0x100..=0xffff => write!(out, "\\u{code:04x}"),
                    _ => write!(out, "\\U{code:08x}"),
                };
            }
        }
    }
    out.push(quote);
    out
}

/// Python's `str.isprintable` for one character.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // Rust escapes the same Unicode categories in debug output. The leading
    // letter keeps combining marks, which Rust would escape at the beginning
    // of a string only, out of it.
    let mut pair = String::from("a");
    pair.push(c);
    !pair.escape_debug().to_string().contains("\\u{")
}

/// Python's `str.isspace` for one character, which `strip()` goes by.
pub(in crate::chat) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}
