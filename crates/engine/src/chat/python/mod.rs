//! Python's view of template values.
//!
//! A template is translated by [`super::syntax`] so that every operator and
//! every attribute access is a call of a function in here; the template
//! engine itself is left with statements, scopes and macros. What these
//! functions cannot do as Python would, they refuse with an error: a prompt
//! that differs silently from the one the model was trained on is the one
//! outcome that must not happen.

pub(super) mod args;
pub(super) mod format;
pub(super) mod json;
pub(super) mod lookup;
pub(super) mod methods;
pub(super) mod objects;
pub(super) mod ops;
pub(super) mod strings;
pub(super) mod text;
pub(super) mod value;
