//! Attributes, items and slices.

use minijinja::value::Tuple;
use minijinja::{Error, ErrorKind, Value};

use super::methods;
use super::objects::BoundMethod;
use super::value::{Py, PyResult, fail, int, items, iterate, pairs, unsupported};

/// The error for reading on from an undefined value. `what` is the template's
/// own text of that value.
pub(in crate::chat) fn undefined(what: &str, then: &str) -> Error {
    Error::new(ErrorKind::UndefinedError, format!("`{what}` is undefined, so {then} cannot be read from it"))
}

/// `object.name`: a method of that name, else a dict's key, else undefined.
pub(in crate::chat) fn attribute(object: &Value, name: &str, what: &str) -> PyResult {
    if let Py::Undefined = Py::of(object) {
        return Err(undefined(what, &format!("`.{name}`")));
    }
    if name.starts_with("__") {
        return unsupported(format!("the attribute `{name}`"));
    }
    if methods::exists(object, name) {
        return Ok(Value::from_object(BoundMethod { object: object.clone(), name: name.to_owned() }));
    }
    Ok(match Py::of(object) {
        Py::Dict => object.get_attr(name)?,
        Py::Namespace(namespace) => namespace.get(name).unwrap_or_default(),
        Py::Opaque => object.get_attr(name)?,
        Py::Int(_) | Py::Float(_) | Py::Bool(_) => {
            const ATTRIBUTES: &[&str] = &["real", "imag", "numerator", "denominator"];
            if ATTRIBUTES.contains(&name) || name.contains('_') || name.starts_with("is") {
                return unsupported(format!("the attribute `{name}` of a number"));
            }
            Value::UNDEFINED
        }
        other @ (Py::Range(_) | Py::View(_) | Py::Generator(_) | Py::Method(_)) => {
            return unsupported(format!("the attribute `{name}` of a value of type {}", other.type_name()));
        }
        _ => Value::UNDEFINED,
    })
}

/// `object[key]`
pub(in crate::chat) fn item(object: &Value, key: &Value, what: &str) -> PyResult {
    if let Py::Undefined = Py::of(object) {
        return Err(undefined(what, "an item"));
    }
    if let Py::Str(name) = Py::of(key) {
        if let Py::Dict = Py::of(object) {
            // A present key wins here; only an absent one falls back to the
            // method of that name, which no template means to read.
            let found = object.get_attr(name)?;
            if !found.is_undefined() || !methods::exists(object, name) {
                return Ok(found);
            }
            return fail(format!("`{what}` has no key `{name}`, and Jinja would give the dict's method of that name"));
        }
        return attribute(object, name, what);
    }
    let index = Py::of(key).as_int();
    match (Py::of(object), Py::of(key)) {
        (Py::Dict, Py::Int(_) | Py::None) => {
            let found = pairs(object).into_iter().find(|(known, _)| known == key);
            Ok(found.map(|(_, value)| value).unwrap_or_default())
        }
        (Py::Dict, other) => unsupported(format!("reading a dict's key of type {}", other.type_name())),
        (Py::List | Py::Tuple(_), _) => {
            let list = items(object);
            Ok(position(index, list.len()).map(|index| list[index].clone()).unwrap_or_default())
        }
        (Py::Str(text), _) => {
            let chars: Vec<char> = text.chars().collect();
            Ok(position(index, chars.len()).map(|index| Value::from(chars[index].to_string())).unwrap_or_default())
        }
        (Py::Range(range), _) => {
            Ok(position(index, range.len).and_then(|index| range.iter().nth(index)).map(int).unwrap_or_default())
        }
        _ => Ok(Value::UNDEFINED),
    }
}

fn position(index: Option<i128>, len: usize) -> Option<usize> {
    let index = index?;
    let index = if index < 0 { index + len as i128 } else { index };
    usize::try_from(index).ok().filter(|&index| index < len)
}

/// `object[start:stop:step]`; `None` stands for a bound that was left out.
pub(in crate::chat) fn slice(object: &Value, bounds: [&Value; 3], what: &str) -> PyResult {
    let [start, stop, step] = bounds;
    let mut limits = [None; 3];
    for (limit, value) in limits.iter_mut().zip([start, stop, step]) {
        *limit = match (Py::of(value), Py::of(value).as_int()) {
            (Py::None, _) => None,
            (_, Some(number)) => Some(number),
            (Py::Undefined, _) => return fail("a bound of the slice is undefined"),
            (other, None) => {
                return fail(format!("a slice needs whole numbers, not a value of type {}", other.type_name()));
            }
        };
    }
    let [start, stop, step] = limits;
    if step == Some(0) {
        return fail("a slice cannot go by steps of 0");
    }
    let pick = |len: usize| indices(start, stop, step.unwrap_or(1), len);
    match Py::of(object) {
        Py::Undefined => Err(undefined(what, "a slice")),
        Py::Str(text) => {
            let chars: Vec<char> = text.chars().collect();
            let picked = pick(chars.len()).map(|index| chars[index]);
            Ok(Value::from(picked.collect::<String>()))
        }
        Py::List => {
            let list = items(object);
            let picked = pick(list.len()).map(|index| list[index].clone());
            Ok(Value::from(picked.collect::<Vec<_>>()))
        }
        Py::Tuple(tuple) => {
            let picked = pick(tuple.len()).map(|index| tuple[index].clone());
            Ok(Value::from(Tuple::from(picked.collect::<Vec<_>>())))
        }
        other => fail(format!("`{what}` is a {}, which cannot be sliced", other.type_name())),
    }
}

/// Python's `slice.indices`: which positions of `len` a slice picks, in order.
fn indices(start: Option<i128>, stop: Option<i128>, step: i128, len: usize) -> impl Iterator<Item = usize> {
    let len = len as i128;
    let (lowest, highest) = if step > 0 { (0, len) } else { (-1, len - 1) };
    let clamp = |bound: i128| {
        let bound = if bound < 0 { bound.saturating_add(len) } else { bound };
        bound.clamp(lowest, highest)
    };
    let (first, end) = if step > 0 { (lowest, highest) } else { (highest, lowest) };
    let (start, stop) = (start.map_or(first, clamp), stop.map_or(end, clamp));
    let mut next = Some(start);
    std::iter::from_fn(move || {
        let index = next?;
        let inside = if step > 0 { index < stop } else { index > stop };
        next = index.checked_add(step);
        inside.then(|| usize::try_from(index).ok()).flatten()
    })
}

/// Arguments of `for` loops and unpacking: a list of the items.
pub(in crate::chat) fn listed(value: &Value) -> PyResult {
    iterate(value).map(Value::from)
}
