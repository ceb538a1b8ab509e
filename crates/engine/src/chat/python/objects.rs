//! Python objects that templates meet and the engine has no equal of.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use minijinja::value::{Object, ObjectRepr};
use minijinja::{Error, State, Value};

use super::value::{PyResult, unsupported};
use super::{args::Args, methods};

/// What filters such as `map` and `select` give: items that can be walked once.
#[derive(Debug)]
pub(in crate::chat) struct Generator(Mutex<VecDeque<Value>>);

impl Generator {
    /// A generator of `items`.
    pub(in crate::chat) fn value(items: Vec<Value>) -> Value {
        Value::from_object(Generator(Mutex::new(items.into())))
    }

    /// The items; a second call finds none, as in Python.
    pub(in crate::chat) fn take(&self) -> Vec<Value> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
    }

    /// The next item, if any is left.
    pub(in crate::chat) fn next(&self) -> Option<Value> {
        let mut items = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        items.pop_front()
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

/// Which part of a dict a view shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::chat) enum ViewOf {
    Keys,
    Values,
    Items,
}

/// `dict.keys()`, `dict.values()` and `dict.items()`.
#[derive(Debug)]
pub(in crate::chat) struct DictView {
    pub(in crate::chat) part: ViewOf,
    pairs: Vec<(Value, Value)>,
}

impl DictView {
    /// A view of a dict with these pairs.
    pub(in crate::chat) fn value(part: ViewOf, pairs: Vec<(Value, Value)>) -> Value {
        Value::from_object(DictView { part, pairs })
    }

    /// What iterating over the view gives.
    pub(in crate::chat) fn items(&self) -> Vec<Value> {
        self.pairs
            .iter()
            .map(|(key, value)| match self.part {
                ViewOf::Keys => key.clone(),
                ViewOf::Values => value.clone(),
                ViewOf::Items => Value::from((key.clone(), value.clone())),
            })
            .collect()
    }

    /// Number of items.
    pub(in crate::chat) fn len(&self) -> usize {
        self.pairs.len()
    }
}

impl Object for DictView {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        !self.pairs.is_empty()
    }
}

/// `range(start, stop, step)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::chat) struct Range {
    pub(in crate::chat) start: i64,
    pub(in crate::chat) stop: i64,
    pub(in crate::chat) step: i64,
    pub(in crate::chat) len: usize,
}

impl Range {
    /// The numbers, first to last.
    pub(in crate::chat) fn iter(&self) -> impl Iterator<Item = i128> + use<> {
        let (start, step) = (i128::from(self.start), i128::from(self.step));
        (0..self.len as i128).map(move |index| start + index * step)
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        self.len > 0
    }
}

/// A method that was read without being called, such as `message.items`.
///
/// In Jinja a method wins over a dict's key of the same name, so the
/// difference shows in what a template does next.
#[derive(Debug)]
pub(in crate::chat) struct BoundMethod {
    pub(in crate::chat) object: Value,
    pub(in crate::chat) name: String,
}

impl Object for BoundMethod {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let mut values = Vec::with_capacity(args.len());
        values.extend_from_slice(args);
        methods::call(state, &self.object, &self.name, Args::split(values)?)
    }
}

/// What `namespace()` makes: the one thing whose attributes can be assigned.
#[derive(Debug, Default)]
pub(in crate::chat) struct Namespace(Mutex<Vec<(String, Value)>>);

impl Namespace {
    /// The attribute, if it was ever set.
    pub(in crate::chat) fn get(&self, name: &str) -> Option<Value> {
        let attributes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    /// Sets an attribute. Names that begin with an underscore are refused, as
    /// transformers refuses them.
    pub(in crate::chat) fn set(&self, name: &str, value: Value) -> PyResult<()> {
        if name.starts_with('_') {
            return unsupported(format!("storing the underscore-prefixed attribute `{name}` on a namespace"));
        }
        let mut attributes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match attributes.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => attributes.push((name.to_owned(), value)),
        }
        Ok(())
    }
}

impl Object for Namespace {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }
}

/// An undefined value on its way into a macro.
///
/// The engine gives a parameter its default when the argument is undefined;
/// Jinja does so only when the argument is absent. The call wraps, the macro's
/// first lines unwrap.
#[derive(Debug)]
pub(in crate::chat) struct PassedUndefined;

impl Object for PassedUndefined {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn is_true(self: &Arc<Self>) -> bool {
        false
    }

    fn render(self: &Arc<Self>, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
