//! Python's operators.

use std::cmp::Ordering;

use minijinja::value::Tuple;
use minijinja::{Error, Value};

use super::value::{Py, PyResult, fail, int, items, iterate, pairs, refuse_markup, unsupported};
use super::{format, text};

/// Largest text or list that repeating one may make, in bytes or items.
const MAX_REPEATED: usize = 10_000_000;
const MAX_DEPTH: usize = 200;

fn mismatch(op: &str, a: &Value, b: &Value) -> Error {
    let message = format!(
        "`{op}` cannot work on a value of type {} and one of type {}",
        Py::of(a).type_name(),
        Py::of(b).type_name()
    );
    Error::new(minijinja::ErrorKind::InvalidOperation, message)
}

/// Two numbers brought to a common type, as Python's arithmetic does.
enum Numbers {
    Ints(i128, i128),
    Floats(f64, f64),
}

fn numbers(a: &Value, b: &Value) -> Option<Numbers> {
    let (a, b) = (Py::of(a), Py::of(b));
    match (a.as_int(), b.as_int()) {
        (Some(a), Some(b)) => Some(Numbers::Ints(a, b)),
        (int_a, int_b) => {
            let float = |value: Py<'_>, int: Option<i128>| match value {
                Py::Float(number) => Some(number),
                _ => int.map(|number| number as f64),
            };
            Some(Numbers::Floats(float(a, int_a)?, float(b, int_b)?))
        }
    }
}

fn checked(op: &str, result: Option<i128>) -> PyResult {
    match result {
        Some(result) => Ok(int(result)),
        None => unsupported(format!("a whole number as large as this `{op}` makes")),
    }
}

/// `a + b`
pub(in crate::chat) fn add(a: &Value, b: &Value) -> PyResult {
    refuse_markup(&[a, b])?;
    match (Py::of(a), Py::of(b)) {
        (Py::Str(a), Py::Str(b)) => Ok(Value::from([a, b].concat())),
        (Py::List, Py::List) => {
            let mut joined = items(a);
            joined.extend(items(b));
            Ok(Value::from(joined))
        }
        (Py::Tuple(a), Py::Tuple(b)) => Ok(Value::from(Tuple::from([&a[..], &b[..]].concat()))),
        _ => match numbers(a, b) {
            Some(Numbers::Ints(a, b)) => checked("+", a.checked_add(b)),
            Some(Numbers::Floats(a, b)) => Ok(Value::from(a + b)),
            None => Err(mismatch("+", a, b)),
        },
    }
}

/// `a - b`
pub(in crate::chat) fn sub(a: &Value, b: &Value) -> PyResult {
    match numbers(a, b) {
        Some(Numbers::Ints(a, b)) => checked("-", a.checked_sub(b)),
        Some(Numbers::Floats(a, b)) => Ok(Value::from(a - b)),
        None => Err(mismatch("-", a, b)),
    }
}

/// `a * b`
pub(in crate::chat) fn mul(a: &Value, b: &Value) -> PyResult {
    refuse_markup(&[a, b])?;
    let repeat = |count: i128, len: usize| -> PyResult<usize> {
        let count = usize::try_from(count.max(0)).unwrap_or(usize::MAX);
        match count.checked_mul(len) {
            Some(total) if total <= MAX_REPEATED => Ok(if len == 0 { 0 } else { count }),
            _ => unsupported(format!("repeating something to more than {MAX_REPEATED}")),
        }
    };
    let (py_a, py_b) = (Py::of(a), Py::of(b));
    match (py_a, py_b, py_a.as_int(), py_b.as_int()) {
        (Py::Str(s), _, _, Some(n)) | (_, Py::Str(s), Some(n), _) => Ok(Value::from(s.repeat(repeat(n, s.len())?))),
        (Py::List, _, _, Some(n)) => {
            let list = items(a);
            Ok(Value::from(repeated(&list, repeat(n, list.len())?)))
        }
        (_, Py::List, Some(n), _) => {
            let list = items(b);
            Ok(Value::from(repeated(&list, repeat(n, list.len())?)))
        }
        (Py::Tuple(tuple), _, _, Some(n)) | (_, Py::Tuple(tuple), Some(n), _) => {
            Ok(Value::from(Tuple::from(repeated(tuple, repeat(n, tuple.len())?))))
        }
        _ => match numbers(a, b) {
            Some(Numbers::Ints(a, b)) => checked("*", a.checked_mul(b)),
            Some(Numbers::Floats(a, b)) => Ok(Value::from(a * b)),
            None => Err(mismatch("*", a, b)),
        },
    }
}

fn repeated(items: &[Value], count: usize) -> Vec<Value> {
    std::iter::repeat_n(items, count).flatten().cloned().collect()
}

/// `a / b`
pub(in crate::chat) fn div(a: &Value, b: &Value) -> PyResult {
    match numbers(a, b) {
        Some(Numbers::Ints(_, 0)) => fail("division by zero"),
        Some(Numbers::Floats(_, 0.0)) => fail("division by zero"),
        // Beyond 2^53 Python rounds the exact quotient, not the operands.
        Some(Numbers::Ints(a, b)) if a.abs().max(b.abs()) > 1 << 53 => {
            unsupported("dividing a whole number that large")
        }
        Some(Numbers::Ints(a, b)) => Ok(Value::from(a as f64 / b as f64)),
        Some(Numbers::Floats(a, b)) => Ok(Value::from(a / b)),
        None => Err(mismatch("/", a, b)),
    }
}

/// `a // b`
pub(in crate::chat) fn floor_div(a: &Value, b: &Value) -> PyResult {
    match numbers(a, b) {
        Some(Numbers::Ints(_, 0)) => fail("integer division by zero"),
        Some(Numbers::Ints(a, b)) => {
            let quotient = a.checked_div(b).map(|quotient| {
                let inexact = a % b != 0 && (a < 0) != (b < 0);
                quotient - i128::from(inexact)
            });
            checked("//", quotient)
        }
        Some(Numbers::Floats(..)) => unsupported("`//` on floats"),
        None => Err(mismatch("//", a, b)),
    }
}

/// `a % b`: the remainder of numbers, or printf formatting of a string.
pub(in crate::chat) fn rem(a: &Value, b: &Value) -> PyResult {
    if let Py::Str(template) = Py::of(a) {
        refuse_markup(&[a, b])?;
        return format::percent(template, b).map(Value::from);
    }
    match numbers(a, b) {
        Some(Numbers::Ints(_, 0)) => fail("modulo by zero"),
        Some(Numbers::Ints(a, b)) => {
            let remainder = a
                .checked_rem(b)
                .map(|remainder| if remainder != 0 && (remainder < 0) != (b < 0) { remainder + b } else { remainder });
            checked("%", remainder)
        }
        Some(Numbers::Floats(..)) => unsupported("`%` on floats"),
        None => Err(mismatch("%", a, b)),
    }
}

/// `a ** b`
pub(in crate::chat) fn pow(a: &Value, b: &Value) -> PyResult {
    match numbers(a, b) {
        Some(Numbers::Ints(a, b @ 0..)) => {
            let power = u32::try_from(b).ok().and_then(|b| a.checked_pow(b));
            checked("**", power)
        }
        Some(_) => unsupported("`**` with a fraction or a negative exponent"),
        None => Err(mismatch("**", a, b)),
    }
}

/// `-a`
pub(in crate::chat) fn neg(a: &Value) -> PyResult {
    match (Py::of(a), Py::of(a).as_int()) {
        (Py::Float(number), _) => Ok(Value::from(-number)),
        (_, Some(number)) => checked("-", number.checked_neg()),
        (other, None) => fail(format!("`-` cannot work on a {}", other.type_name())),
    }
}

/// `+a`
pub(in crate::chat) fn pos(a: &Value) -> PyResult {
    match (Py::of(a), Py::of(a).as_int()) {
        (Py::Float(number), _) => Ok(Value::from(number)),
        (_, Some(number)) => Ok(int(number)),
        (other, None) => fail(format!("`+` cannot work on a {}", other.type_name())),
    }
}

/// `a ~ b`: both turned to text and joined.
pub(in crate::chat) fn concat(parts: &[Value]) -> PyResult {
    let mut joined = String::new();
    for part in parts {
        joined.push_str(&text::str(part)?);
    }
    Ok(Value::from(joined))
}

/// `a == b`
pub(in crate::chat) fn equal(a: &Value, b: &Value) -> PyResult<bool> {
    equal_at(a, b, 0)
}

fn equal_at(a: &Value, b: &Value, depth: usize) -> PyResult<bool> {
    if depth > MAX_DEPTH {
        return unsupported("comparing values nested that deep");
    }
    let all_equal = |a: &[Value], b: &[Value]| -> PyResult<bool> {
        if a.len() != b.len() {
            return Ok(false);
        }
        for (a, b) in a.iter().zip(b) {
            if !equal_at(a, b, depth + 1)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    Ok(match (Py::of(a), Py::of(b)) {
        (Py::Undefined, Py::Undefined) | (Py::None, Py::None) => true,
        (Py::Str(a), Py::Str(b)) => a == b,
        (Py::List, Py::List) => all_equal(&items(a), &items(b))?,
        (Py::Tuple(a), Py::Tuple(b)) => all_equal(a, b)?,
        (Py::Dict, Py::Dict) => {
            let (a, b) = (pairs(a), pairs(b));
            if a.len() != b.len() {
                return Ok(false);
            }
            for (key, value) in &a {
                match b.iter().find(|(other, _)| other == key) {
                    Some((_, other)) if equal_at(value, other, depth + 1)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Py::Range(a), Py::Range(b)) => a.iter().eq(b.iter()),
        (Py::View(_), Py::View(_)) | (Py::Method(_), Py::Method(_)) | (Py::Opaque, Py::Opaque) => {
            return unsupported(format!("comparing two values of type {}", Py::of(a).type_name()));
        }
        _ => match numbers(a, b) {
            Some(Numbers::Ints(a, b)) => a == b,
            Some(Numbers::Floats(a, b)) => a == b,
            None => false,
        },
    })
}

/// How `a` is ordered against `b`; `None` when a NaN is among them.
pub(in crate::chat) fn compare(op: &str, a: &Value, b: &Value) -> PyResult<Option<Ordering>> {
    match (Py::of(a), Py::of(b)) {
        (Py::Str(a), Py::Str(b)) => Ok(Some(a.cmp(b))),
        (Py::List, Py::List) => compare_items(op, &items(a), &items(b)),
        (Py::Tuple(a), Py::Tuple(b)) => compare_items(op, a, b),
        _ => match numbers(a, b) {
            Some(Numbers::Ints(a, b)) => Ok(Some(a.cmp(&b))),
            Some(Numbers::Floats(a, b)) => Ok(a.partial_cmp(&b)),
            None => Err(mismatch(op, a, b)),
        },
    }
}

fn compare_items(op: &str, a: &[Value], b: &[Value]) -> PyResult<Option<Ordering>> {
    for (a, b) in a.iter().zip(b) {
        if !equal(a, b)? {
            if matches!(Py::of(a), Py::List | Py::Tuple(_)) {
                return unsupported("ordering nested lists");
            }
            return compare(op, a, b);
        }
    }
    Ok(Some(a.len().cmp(&b.len())))
}

/// A comparison by the operator's name in the template.
pub(in crate::chat) fn test(op: &str, a: &Value, b: &Value) -> PyResult<bool> {
    match op {
        "==" => equal(a, b),
        "!=" => equal(a, b).map(|equal| !equal),
        "in" => contains(b, a),
        "not in" => contains(b, a).map(|found| !found),
        _ => {
            let ordering = compare(op, a, b)?;
            Ok(match op {
                "<" => ordering == Some(Ordering::Less),
                ">" => ordering == Some(Ordering::Greater),
                "<=" => matches!(ordering, Some(Ordering::Less | Ordering::Equal)),
                _ => matches!(ordering, Some(Ordering::Greater | Ordering::Equal)),
            })
        }
    }
}

/// `item in container`
pub(in crate::chat) fn contains(container: &Value, item: &Value) -> PyResult<bool> {
    match (Py::of(container), Py::of(item)) {
        (Py::Str(text), Py::Str(part)) => Ok(text.contains(part)),
        (Py::Str(_), other) => {
            fail(format!("`in` looks for a string in a string, not for a value of type {}", other.type_name()))
        }
        (Py::Dict, Py::List | Py::Dict) => fail("`in`: a list or dict cannot be a dict's key"),
        (Py::Dict, _) => {
            for (key, _) in pairs(container) {
                if equal(&key, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        (Py::Generator(generator), _) => {
            while let Some(candidate) = generator.next() {
                if equal(&candidate, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => {
            for candidate in iterate(container)? {
                if equal(&candidate, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}
