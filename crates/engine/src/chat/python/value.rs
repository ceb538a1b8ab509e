//! Sorting the template engine's values into Python's types.
//!
//! The engine's own notion of a value is looser than Python's (a loop object
//! is a map, a missing value is an empty list); everything in this folder
//! looks at values through [`Py`] instead.

use minijinja::value::{DynObject, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use super::objects::{BoundMethod, DictView, Generator, Namespace, PassedUndefined, Range};

/// What functions in this folder return.
pub(in crate::chat) type PyResult<T = Value> = Result<T, Error>;

/// A value as Python sees it.
#[derive(Debug, Clone, Copy)]
pub(in crate::chat) enum Py<'a> {
    Undefined,
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(&'a str),
    List,
    Tuple(&'a Tuple),
    Dict,
    View(&'a DictView),
    Generator(&'a Generator),
    Range(&'a Range),
    Method(&'a BoundMethod),
    Namespace(&'a Namespace),
    /// Macros, functions and the loop object: callable or inspectable, but
    /// with no text and no arithmetic of their own.
    Opaque,
}

/// An error of the kind Python would raise as `TypeError` or `ValueError`.
pub(in crate::chat) fn fail<T>(message: impl Into<String>) -> PyResult<T> {
    Err(Error::new(ErrorKind::InvalidOperation, message.into()))
}

/// An error for something transformers renders and this crate does not.
pub(in crate::chat) fn unsupported<T>(what: impl std::fmt::Display) -> PyResult<T> {
    fail(format!("{what} is not supported in chat templates here"))
}

impl<'a> Py<'a> {
    /// Classifies `value`.
    pub(in crate::chat) fn of(value: &'a Value) -> Py<'a> {
        match value.kind() {
            ValueKind::Undefined => Py::Undefined,
            ValueKind::None => Py::None,
            ValueKind::Bool => Py::Bool(value.is_true()),
            ValueKind::Number if value.is_integer() => i128::try_from(value.clone()).map_or(Py::Opaque, Py::Int),
            ValueKind::Number => f64::try_from(value.clone()).map_or(Py::Opaque, Py::Float),
            ValueKind::String => value.as_str().map_or(Py::Opaque, Py::Str),
            _ => Self::of_object(value),
        }
    }

    fn of_object(value: &'a Value) -> Py<'a> {
        if let Some(tuple) = value.downcast_object_ref::<Tuple>() {
            return Py::Tuple(tuple);
        }
        if let Some(view) = value.downcast_object_ref::<DictView>() {
            return Py::View(view);
        }
        if let Some(generator) = value.downcast_object_ref::<Generator>() {
            return Py::Generator(generator);
        }
        if let Some(range) = value.downcast_object_ref::<Range>() {
            return Py::Range(range);
        }
        if let Some(method) = value.downcast_object_ref::<BoundMethod>() {
            return Py::Method(method);
        }
        if let Some(namespace) = value.downcast_object_ref::<Namespace>() {
            return Py::Namespace(namespace);
        }
        if value.downcast_object_ref::<PassedUndefined>().is_some() {
            return Py::Undefined;
        }
        // The engine's loop and macro objects call themselves maps as well;
        // only its two containers are Python's dict and list.
        let type_name = value.as_object().map_or("", |object| object.type_name());
        match value.kind() {
            ValueKind::Map if type_name.starts_with("indexmap::") => Py::Dict,
            ValueKind::Seq if type_name.starts_with("alloc::vec::Vec<") => Py::List,
            _ => Py::Opaque,
        }
    }

    /// The name Python's `type()` gives, for messages.
    pub(in crate::chat) fn type_name(&self) -> &'static str {
        match self {
            Py::Undefined => "undefined value",
            Py::None => "None",
            Py::Bool(_) => "bool",
            Py::Int(_) => "int",
            Py::Float(_) => "float",
            Py::Str(_) => "str",
            Py::List => "list",
            Py::Tuple(_) => "tuple",
            Py::Dict => "dict",
            Py::View(_) => "dict view",
            Py::Generator(_) => "generator",
            Py::Range(_) => "range",
            Py::Method(_) => "method",
            Py::Namespace(_) => "namespace",
            Py::Opaque => "function or loop",
        }
    }

    /// The integer Python's arithmetic sees: ints, and bools as 0 and 1.
    pub(in crate::chat) fn as_int(&self) -> Option<i128> {
        match self {
            Py::Bool(b) => Some(i128::from(*b)),
            Py::Int(i) => Some(*i),
            _ => None,
        }
    }
}

/// The items of a list or tuple.
pub(in crate::chat) fn items(value: &Value) -> Vec<Value> {
    value.try_iter().map(Iterator::collect).unwrap_or_default()
}

/// Key and value pairs of a dict, in insertion order.
pub(in crate::chat) fn pairs(dict: &Value) -> Vec<(Value, Value)> {
    dict.as_object().and_then(DynObject::try_iter_pairs).map(Iterator::collect).unwrap_or_default()
}

/// Iterates as Python's `iter()` and Jinja's undefined do.
///
/// A generator is used up by this, as in Python.
pub(in crate::chat) fn iterate(value: &Value) -> PyResult<Vec<Value>> {
    Ok(match Py::of(value) {
        Py::Undefined => Vec::new(),
        Py::Str(s) => s.chars().map(|c| Value::from(c.to_string())).collect(),
        Py::List | Py::Tuple(_) => items(value),
        Py::Dict => pairs(value).into_iter().map(|(key, _)| key).collect(),
        Py::View(view) => view.items(),
        Py::Generator(generator) => generator.take(),
        Py::Range(range) => range.iter().map(int).collect(),
        other => {
            return fail(format!("a value of type {} cannot be iterated over", other.type_name()));
        }
    })
}

/// An integer as a template value.
pub(in crate::chat) fn int(value: i128) -> Value {
    match i64::try_from(value) {
        Ok(small) => Value::from(small),
        Err(_) => Value::from(value),
    }
}

/// Whether the string came out of the `safe` filter.
///
/// Python's `Markup` escapes HTML in whatever is joined to it. Nothing a chat
/// template does with one needs that, so the operations refuse it.
pub(in crate::chat) fn refuse_markup(values: &[&Value]) -> PyResult<()> {
    if values.iter().any(|value| value.is_safe()) {
        return unsupported("working further on the result of the `safe` filter");
    }
    Ok(())
}
