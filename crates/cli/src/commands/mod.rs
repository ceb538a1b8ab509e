//! One file for each command.

pub(crate) mod bench;
pub(crate) mod chat;
pub(crate) mod diff;
pub(crate) mod generate;
pub(crate) mod hooks;
pub(crate) mod inspect;
pub(crate) mod lens;
pub(crate) mod logits;
pub(crate) mod patch;
pub(crate) mod plan;
pub(crate) mod ppl;
pub(crate) mod profile;
pub(crate) mod prompt;
pub(crate) mod quantize;
pub(crate) mod steer;
pub(crate) mod trace;
pub(crate) mod validate;
