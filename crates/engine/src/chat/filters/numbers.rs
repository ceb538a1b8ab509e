//! Filters on numbers.

use minijinja::{State, Value};

use super::follow;
use crate::chat::python::args::{Args, integer};
use crate::chat::python::ops;
use crate::chat::python::value::{Py, PyResult, fail, int as int_value, iterate, unsupported};

pub(super) fn abs(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    args.none("abs")?;
    match (Py::of(value), Py::of(value).as_int()) {
        (Py::Float(number), _) => Ok(Value::from(number.abs())),
        (_, Some(number)) => Ok(int_value(number.saturating_abs())),
        (other, None) => fail(format!("abs needs a number, not a {}", other.type_name())),
    }
}

/// The number in a string as Python's `float()` reads it; `None` if there is none.
fn parse_float(text: &str) -> PyResult<Option<f64>> {
    let text = text.trim();
    if !text.is_ascii() {
        return unsupported("reading a number from text beyond ASCII");
    }
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | 'e' | 'E');
    if text.chars().all(plain) {
        return Ok(text.parse().ok());
    }
    let word = text.trim_start_matches(['+', '-']).to_ascii_lowercase();
    if matches!(word.as_str(), "inf" | "infinity" | "nan") || text.contains('_') {
        return unsupported(format!("reading `{text}` as a number"));
    }
    Ok(None)
}

pub(super) fn int(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    let [default, base] = args.bind("int", ["default", "base"])?;
    if base.is_some_and(|base| base.as_i64() != Some(10)) {
        return unsupported("the filter `int` with a base");
    }
    let default = default.unwrap_or(Value::from(0));
    let truncated = |number: f64| {
        if number.abs() < 1e18 {
            Ok(int_value(number.trunc() as i128))
        } else {
            unsupported("turning a number that large into a whole one")
        }
    };
    match (Py::of(value), Py::of(value).as_int()) {
        (Py::Undefined, _) => fail("int cannot be applied to an undefined value"),
        (Py::Float(number), _) => truncated(number),
        (_, Some(number)) => Ok(int_value(number)),
        (Py::Str(text), _) => match text.trim().parse::<i128>() {
            Ok(number) => Ok(int_value(number)),
            Err(_) => parse_float(text)?.map_or(Ok(default), truncated),
        },
        _ => Ok(default),
    }
}

pub(super) fn float(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    let [default] = args.bind("float", ["default"])?;
    let default = default.unwrap_or(Value::from(0.0));
    match (Py::of(value), Py::of(value).as_int()) {
        (Py::Undefined, _) => fail("float cannot be applied to an undefined value"),
        (Py::Float(number), _) => Ok(Value::from(number)),
        (_, Some(number)) if number.abs() <= 1 << 53 => Ok(Value::from(number as f64)),
        (_, Some(_)) => unsupported("turning a whole number that large into a float"),
        (Py::Str(text), _) => Ok(parse_float(text)?.map_or(default, Value::from)),
        _ => Ok(default),
    }
}

pub(super) fn round(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    let [precision, method] = args.bind("round", ["precision", "method"])?;
    let precision = precision.map_or(Ok(0), |precision| integer("round", &precision))?;
    let Ok(digits @ 0..=15) = usize::try_from(precision) else {
        return unsupported("round to that precision");
    };
    let method = match method.as_ref().map(Py::of) {
        None => "common",
        Some(Py::Str(method)) => method,
        Some(_) => "",
    };
    match (Py::of(value), Py::of(value).as_int(), method) {
        (_, Some(number), "common") => Ok(int_value(number)),
        // Formatting rounds the exact value half to even, as Python does.
        (Py::Float(number), _, "common") if number.is_finite() => {
            let rounded = format!("{number:.digits$}").parse().unwrap_or(number);
            Ok(Value::from(rounded))
        }
        (py, number, "ceil" | "floor") => {
            let number = match (py, number) {
                (Py::Float(number), _) => number,
                (_, Some(number)) => number as f64,
                _ => return fail("round needs a number"),
            };
            let scale = 10_f64.powi(digits as i32);
            let scaled = number * scale;
            let whole = if method == "ceil" { scaled.ceil() } else { scaled.floor() };
            if !whole.is_finite() || whole.abs() > 9e15 {
                return unsupported("rounding a number that large");
            }
            // Adding zero turns -0.0, which Python's whole numbers lack, into 0.0.
            Ok(Value::from((whole + 0.0) / scale))
        }
        _ => fail("round needs a number and the method common, ceil or floor"),
    }
}

pub(super) fn sum(_: &mut State<'_, '_>, value: &Value, args: Args) -> PyResult {
    let [attribute, start] = args.bind("sum", ["attribute", "start"])?;
    let mut total = start.unwrap_or(Value::from(0));
    if let Py::Str(_) = Py::of(&total) {
        return fail("sum cannot add strings; use join");
    }
    for item in iterate(value)? {
        let item = match attribute.as_ref().filter(|attribute| !attribute.is_none()) {
            Some(attribute) => follow(&item, attribute)?,
            None => item,
        };
        if matches!(Py::of(&item), Py::Float(_)) {
            // Python sums floats with compensation, which shows in last digits.
            return unsupported("the filter `sum` on floats");
        }
        total = ops::add(&total, &item)?;
    }
    Ok(total)
}
