//! What tells one model from another, and one run from another, in sixteen digits: enough to notice a mistake, not to withstand malice.

use std::collections::BTreeMap;
use std::fmt;

use rheostat_store::{Checkpoint, TensorInfo};
use serde_json::Value;

use crate::error::Error;
use crate::package::Package;

/// Keys of `config.json` that say who wrote it, not what it means.
const WRITERS: [&str; 2] = ["_name_or_path", "transformers_version"];
/// Bytes that are sampled of every tensor, at its beginning, its middle and its end.
const SAMPLE: usize = 512;

/// A hash: FNV-1a of 64 bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fingerprint(u64);

impl Default for Fingerprint {
    fn default() -> Fingerprint {
        Fingerprint(0xcbf2_9ce4_8422_2325)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl Fingerprint {
    /// That of a model: what `config.json` means, names, types and shapes of all tensors, and some of the bytes of each.
    ///
    /// # Errors
    /// When a read fails.
    pub fn of(package: &Package) -> Result<Fingerprint, Error> {
        let mut hash = Fingerprint::default();
        let mut config = package.config().clone();
        config.retain(|key, _| !WRITERS.contains(&key.as_str()));
        hash.add(canonical(&Value::Object(config)).as_bytes());
        let checkpoint = package.checkpoint();
        // In the order of their names: shards may be cut otherwise.
        let mut tensors: Vec<_> = checkpoint.tensors().iter().collect();
        tensors.sort_by_key(|t| t.name());
        for tensor in tensors {
            hash.add(format!("{} {} {:?}", tensor.name(), tensor.dtype().name(), tensor.shape()).as_bytes());
            sample(checkpoint, tensor, &mut hash)?;
        }
        Ok(hash)
    }

    /// Goes on with `bytes`. Pieces cannot run into each other.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in (bytes.len() as u64).to_le_bytes().iter().chain(bytes) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

fn sample(checkpoint: &Checkpoint, tensor: &TensorInfo, hash: &mut Fingerprint) -> Result<(), Error> {
    let len = tensor.byte_len();
    let mut bytes = [0; SAMPLE];
    let bytes = &mut bytes[..SAMPLE.min(len as usize)];
    let last = len - bytes.len() as u64;
    for start in [0, last / 2, last] {
        checkpoint.read_range(tensor, start, bytes)?;
        hash.add(bytes);
    }
    Ok(())
}

/// `value` as JSON with its keys in order.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            let members = sorted.into_iter().map(|(key, value)| format!("{key:?}:{}", canonical(value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        plain => plain.to_string(),
    }
}
