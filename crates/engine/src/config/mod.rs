//! `config.json` → [`Decoder`](crate::decoder::Decoder).
//!
//! A family reads the keys it understands through [`Keys`], which remembers what was read. What is left
//! over and not known to be harmless is an error: a key that changes the mathematics must never be ignored.

mod keys;
mod quantization;
mod rope;

pub(crate) use keys::Keys;
pub(crate) use quantization::read_quantization;
pub(crate) use rope::{LayerRope, RopeDefaults, RopeSpelling, read_layer_ropes, read_rope, read_rope_as, rope_object};

use std::fmt;

/// Why a `config.json` cannot be used. Names the file and the key.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {kind}")]
pub struct ConfigError {
    pub(crate) file: String,
    pub(crate) kind: ConfigErrorKind,
}

impl ConfigError {
    /// What is wrong.
    #[must_use]
    pub fn kind(&self) -> &ConfigErrorKind {
        &self.kind
    }
}

/// What is wrong with a `config.json`.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConfigErrorKind {
    /// The file is not a JSON object.
    NotJson(String),
    /// A key that has no default is absent.
    Missing {
        /// The key.
        key: String,
    },
    /// A key holds something else than it must.
    Invalid {
        /// The key.
        key: String,
        /// What it holds, as JSON.
        value: String,
        /// What it must hold.
        expected: String,
    },
    /// A key that may change the mathematics and that the family does not know.
    NotUnderstood {
        /// The key.
        key: String,
        /// What it holds, as JSON.
        value: String,
        /// The family that reads the file.
        family: String,
    },
    /// A `model_type` that no family claims.
    UnknownFamily {
        /// The `model_type`.
        model_type: String,
        /// The ones that are known.
        known: Vec<&'static str>,
    },
}

impl fmt::Display for ConfigErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigErrorKind::NotJson(why) => write!(f, "not a JSON object: {why}; correct it or download it again"),
            ConfigErrorKind::Missing { key } => {
                write!(f, "the key \"{key}\" is missing; add it or download the file again")
            }
            ConfigErrorKind::Invalid { key, value, expected } => {
                write!(f, "\"{key}\" is {value}, but must be {expected}")
            }
            ConfigErrorKind::NotUnderstood { key, value, family } => write!(
                f,
                "\"{key}\": {value} is not understood by the {family} family and may change what the model \
                 computes; remove the key if you know that it does not"
            ),
            ConfigErrorKind::UnknownFamily { model_type, known } => {
                write!(f, "model_type \"{model_type}\" is not supported; supported are {}", known.join(", "))
            }
        }
    }
}
