//! Trace files: what a model computed at its hook points, and what the metadata say. The format is in `docs/hooks.md`.
//!
//! Opening reads the header alone. A point is read when it is asked for, as a whole or some of its rows.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use rheostat_store::{Dtype, SafetensorsFile, TensorInfo};
use serde::de::DeserializeOwned;

use super::error::{TraceError, TraceErrorKind as Kind};
use super::evaluate::{Recorded, Text};
use super::noise::Precision;
use super::operations::Op;
use super::tensor::{Axes, Tensor, rows_of};
use crate::error::Error;

/// What the metadata call the format.
pub const FORMAT: &str = "rheostat-trace";
/// The version that this program reads.
pub const VERSION: &str = "1";

/// A trace file, opened.
#[derive(Debug)]
pub struct TraceFile {
    file: SafetensorsFile,
    path: PathBuf,
    text: Text,
    /// What recorded it, such as `transformers 5.24.0`.
    pub engine: String,
    /// Versions of what took part, by name.
    pub libraries: BTreeMap<String, String>,
    /// The model's folder or name.
    pub model: String,
    /// Its family.
    pub model_type: String,
    /// In what numbers it computed.
    pub dtype: String,
    /// How attention was computed.
    pub attention: String,
    /// Hashes of the checkpoint's tensors by name, if they were recorded.
    pub weights: Option<BTreeMap<String, String>>,
    /// Points that were asked for and are not there, with the reason.
    pub missing: BTreeMap<String, String>,
}

impl TraceFile {
    /// Opens the trace at `path`.
    ///
    /// # Errors
    /// When it cannot be read, is no trace, is of another version, or its metadata are damaged.
    pub fn open(path: &Path) -> Result<TraceFile, Error> {
        let file = SafetensorsFile::open(path)?;
        TraceFile::of(file, path).map_err(|kind| Error::Trace(TraceError { at: Some(path.to_owned()), kind }))
    }

    fn of(file: SafetensorsFile, path: &Path) -> Result<TraceFile, Kind> {
        let metadata = file.metadata();
        let of = |key: &'static str| metadata.get(key).cloned();
        if of("format").as_deref() != Some(FORMAT) {
            return Err(Kind::NotATrace);
        }
        match of("version") {
            Some(version) if version == VERSION => {}
            other => return Err(Kind::Version(other.unwrap_or_else(|| "unknown".to_owned()))),
        }
        let text = |key: &'static str| of(key).ok_or(Kind::Metadata { key, what: "it is missing".to_owned() });
        let optional = |key: &'static str| of(key).map(|value| json(key, &value)).transpose();
        let tokens: Vec<u32> = json("tokens", &text("tokens")?)?;
        let positions: Vec<usize> = json("positions", &text("positions")?)?;
        let prompt_len: usize = json("prompt_len", &text("prompt_len")?)?;
        let wrong = |key, what: String| Err(Kind::Metadata { key, what });
        if tokens.is_empty() {
            return wrong("tokens", "there are none".to_owned());
        }
        if prompt_len == 0 || prompt_len > tokens.len() {
            return wrong("prompt_len", format!("{prompt_len} of {} tokens", tokens.len()));
        }
        if positions.is_empty() || !positions.is_sorted_by(|a, b| a < b) {
            return wrong("positions", "they are not in increasing order".to_owned());
        }
        if let Some(beyond) = positions.iter().find(|position| **position >= tokens.len()) {
            return wrong("positions", format!("{beyond} is beyond the {} tokens", tokens.len()));
        }
        Ok(TraceFile {
            engine: text("engine")?,
            libraries: optional("libraries")?.unwrap_or_default(),
            model: text("model")?,
            model_type: text("model_type")?,
            dtype: text("dtype")?,
            attention: of("attention").unwrap_or_default(),
            weights: of("weights").map(|value| json("weights", &value)).transpose()?,
            missing: optional("missing")?.unwrap_or_default(),
            text: Text { tokens, prompt_len, positions },
            path: path.to_owned(),
            file,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The text, and which of its positions were recorded.
    #[must_use]
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// In which numbers it was computed.
    ///
    /// # Errors
    /// When the metadata name others than this program knows.
    pub fn precision(&self) -> Result<Precision, Error> {
        // This engine's reduced modes keep tensors in f32.
        let own = self.engine.starts_with("rheostat");
        let precision = match self.dtype.as_str() {
            "bfloat16" if own => Some(Precision::REDUCED),
            dtype => Precision::named(dtype),
        };
        precision.ok_or_else(|| {
            let what = format!("\"{}\", not float32, bfloat16, float16 or int8", self.dtype);
            self.error(Kind::Metadata { key: "dtype", what })
        })
    }

    /// The names of the points that it has, in the order in which they lie in the file.
    pub fn points(&self) -> impl Iterator<Item = &str> {
        self.file.tensors().iter().map(TensorInfo::name)
    }

    /// The shape of a point, if it has it.
    #[must_use]
    pub fn shape(&self, point: &str) -> Option<&[usize]> {
        self.file.tensor(point).map(TensorInfo::shape)
    }

    /// The point with its rows `first .. first + count`; nothing if it is not there. Of rows beyond the last there is nothing.
    ///
    /// # Errors
    /// When a read fails, or elements are of a type that traces do not have.
    pub fn rows(&self, point: &str, first: usize, count: usize) -> Result<Option<Tensor>, Error> {
        let Some(info) = self.file.tensor(point) else { return Ok(None) };
        let mut shape = info.shape().to_vec();
        let values = match (Axes::of(point), &mut shape[..]) {
            (_, []) => self.read(info, 0, 1)?,
            (Axes::Rows, [all, rest @ ..]) => {
                let width: usize = rest.iter().product();
                let rows = count.min(all.saturating_sub(first));
                *all = rows;
                self.read(info, first * width, rows * width)?
            }
            (Axes::Heads, [heads, all, rest @ ..]) => {
                let width: usize = rest.iter().product();
                let rows = count.min(all.saturating_sub(first));
                let mut values = Vec::with_capacity(*heads * rows * width);
                for head in 0..*heads {
                    values.extend(self.read(info, (head * *all + first) * width, rows * width)?);
                }
                *all = rows;
                values
            }
            (Axes::Heads, _) => return Err(self.not_by_heads(point, info)),
        };
        Ok(Some(Tensor { shape, values }))
    }

    /// Elements `first .. first + count` of a tensor.
    fn read(&self, info: &TensorInfo, first: usize, count: usize) -> Result<Vec<f32>, Error> {
        // Both have four bytes.
        let convert: fn([u8; 4]) -> f32 = match info.dtype() {
            Dtype::F32 => f32::from_le_bytes,
            Dtype::I32 => |bytes| i32::from_le_bytes(bytes) as f32,
            other => {
                let (point, dtype) = (info.name().to_owned(), other.name());
                return Err(self.error(Kind::Dtype { point, dtype }));
            }
        };
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut bytes = vec![0; 4 * count];
        self.file.source().read_exact_at(info.offset() + 4 * first as u64, &mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(|bytes| convert(*bytes)).collect())
    }

    /// Refuses a trace that cannot be of the model whose operations are `ops`: points of another shape, tokens that it does not
    /// have. Points that the model does not have are no reason to refuse it.
    ///
    /// # Errors
    /// When that is so, with the first thing that does not fit.
    pub fn check(&self, ops: &[Op], vocab_size: usize) -> Result<(), Error> {
        let tokens = self.text.tokens.iter().enumerate();
        if let Some((position, token)) = tokens.into_iter().find(|(_, token)| **token as usize >= vocab_size) {
            return Err(self.error(Kind::Token { token: *token, position, vocab_size }));
        }
        let (rows, keys) = (self.text.positions.len(), self.text.positions.last().map_or(0, |last| last + 1));
        for op in ops {
            let Some(found) = self.shape(&op.point) else { continue };
            let expected = op.full_shape(rows, keys);
            if found != expected {
                let (point, found) = (op.point.clone(), found.to_vec());
                return Err(self.error(Kind::WrongShape { point, found, expected }));
            }
        }
        Ok(())
    }

    /// The names of points that none of `ops` gives.
    #[must_use]
    pub fn foreign(&self, ops: &[Op]) -> Vec<String> {
        let known: HashSet<&str> = ops.iter().map(|op| op.point.as_str()).collect();
        self.points().filter(|point| !known.contains(point)).map(str::to_owned).collect()
    }

    /// Refuses a trace of another text than `tokens`, or with other rows than `positions`.
    ///
    /// # Errors
    /// When they differ.
    pub fn require(&self, tokens: &[u32], positions: &[usize]) -> Result<(), Error> {
        let own = &self.text.tokens;
        let shorter = own.len().min(tokens.len());
        let part = (0..shorter).find(|at| own[*at] != tokens[*at]);
        if let Some(position) = part.or((own.len() != tokens.len()).then_some(shorter)) {
            let word = |token: Option<&u32>| token.map_or("the end".to_owned(), |token| format!("token {token}"));
            let what = format!("{} in the trace, {} here", word(own.get(position)), word(tokens.get(position)));
            return Err(self.error(Kind::OtherTokens { position, what }));
        }
        if self.text.positions != positions {
            return Err(self.error(Kind::OtherPositions));
        }
        Ok(())
    }

    fn not_by_heads(&self, point: &str, info: &TensorInfo) -> Error {
        let found = info.shape().to_vec();
        self.error(Kind::WrongShape { point: point.to_owned(), expected: vec![0; 3], found })
    }

    fn error(&self, kind: Kind) -> Error {
        Error::Trace(TraceError { at: Some(self.path.clone()), kind })
    }
}

impl Recorded for TraceFile {
    fn shape_of(&self, point: &str) -> Option<Vec<usize>> {
        // Internal points are nobody's to record.
        if point.starts_with('=') { None } else { self.shape(point).map(<[usize]>::to_vec) }
    }

    fn pick(&self, point: &str, rows: &[usize]) -> Result<Option<Tensor>, Error> {
        let Some(mut shape) = self.shape_of(point) else { return Ok(None) };
        let axes = Axes::of(point);
        let all = rows_of(axes, &shape);
        let runs: Vec<&[usize]> = rows.chunk_by(|a, b| a + 1 == *b).collect();
        if let [run] = runs[..] {
            return self.rows(point, run[0], run.len());
        }
        let mut parts = Vec::with_capacity(runs.len());
        for run in runs.into_iter().filter(|run| run[0] < all) {
            parts.extend(self.rows(point, run[0], run.len())?);
        }
        let count: usize = parts.iter().map(|part| part.rows(axes)).sum();
        let outer = match axes {
            Axes::Rows => 1,
            Axes::Heads => shape[0],
        };
        let mut values = Vec::new();
        for head in 0..outer {
            for part in &parts {
                let width = part.values.len() / outer;
                values.extend_from_slice(&part.values[head * width..(head + 1) * width]);
            }
        }
        let axis = usize::from(axes == Axes::Heads);
        match shape.get_mut(axis) {
            Some(rows) => *rows = count,
            None if axis == 0 => {}
            None => return self.rows(point, 0, 0),
        }
        Ok(Some(Tensor { shape, values }))
    }
}

/// The JSON in `value`.
fn json<T: DeserializeOwned>(key: &'static str, value: &str) -> Result<T, Kind> {
    serde_json::from_str(value).map_err(|error| Kind::Metadata { key, what: error.to_string() })
}

#[cfg(test)]
pub(in crate::diff) mod tests;
