//! A text and what a model keeps of it, in a file, to go on with in another run.
//!
//! The file is a safetensors file that anybody can look into. `tokens` are the text's token ids, of which the model has read the
//! first `read` (in the metadata). What it keeps of those is in the tensors that `session/layout.rs` names: keys and values of every
//! position, and the states that belong to the last. `checksum` is the CRC-32 of everything before it. The metadata say which
//! model it is of, and in which numbers it was computed: with others, the text would go on with bits that no uninterrupted run has.
//!
//! States go on from where they were saved, and from nowhere else: a text that is to go on from an earlier position of the
//! session is read again from its beginning ([`Sequence::truncate`]).
//!
//! Saving and loading take the cache piece by piece, and memory for a piece.

mod layout;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::bf16;
use rheostat_kernels::{KV_UNIT, KvFormat};
use rheostat_store::{
    Dtype, NewTensor, SafetensorsFile, SealedWriter, StoreError, StoreErrorKind, TensorInfo, seal_is_intact,
};
use serde_json::Value;

use crate::decoder::Decoder;
use crate::error::Error;
use crate::fingerprint::Fingerprint;
use crate::forward::Compute;
use crate::kv::Sequence;
use crate::kv_disk::KvPart;
use crate::model::{Model, check_tokens};
use crate::package::Package;
use layout::{cache_tensors, state_tensors};

/// What the metadata call the format, and its version.
const FORMAT: &str = "rheostat-session";
const VERSION: &str = "1";
/// The key of the metadata that says how many tokens were read.
const READ: &str = "read";
/// Numbers that are written or read at a time.
const PIECE: usize = 1 << 12;

/// Why a file is not the session that was wanted.
#[derive(Debug, thiserror::Error)]
#[error("{}: {kind}", path.display())]
pub struct SessionError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub kind: SessionErrorKind,
}

/// What is wrong with a session.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionErrorKind {
    /// It is another kind of file.
    #[error("this is no session; give a file that --save-session wrote")]
    NotASession,
    /// Another version of this program wrote it.
    #[error("the session is of format version {0}, and this program reads version {VERSION}; read the text again")]
    Version(String),
    /// It is not as it was written.
    #[error("the session is damaged; read the text again, and save it anew")]
    Damaged,
    /// Another model made it.
    #[error("another model made the session; load it with the model that it was saved with")]
    OtherModel,
    /// It was computed in other numbers.
    #[error(
        "the session was computed with {saved}, and this run is with {now}; run with {saved}, or read the text again"
    )]
    OtherNumbers {
        /// The options it was computed with.
        saved: String,
        /// The options of this run.
        now: String,
    },
    /// It holds a text, not a conversation.
    #[error("the session holds a text and no conversation; go on with it by `rheostat generate`")]
    NoConversation,
    /// It has more tokens than there is room for.
    #[error(
        "the session has {tokens} tokens, and there is room for {room}; give a longer context, or more memory for it"
    )]
    TooLong {
        /// Tokens of the session.
        tokens: usize,
        /// Tokens that there is room for.
        room: usize,
    },
}

impl SessionErrorKind {
    fn of(self, path: &Path) -> Error {
        Error::Session(SessionError { path: path.to_owned(), kind: self })
    }
}

/// What a session is to hold, beside the cache.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The text: the tokens that the sequence has read, and any that it is to read next.
    pub tokens: &'a [u32],
    /// The messages of a conversation.
    pub messages: Option<&'a [Value]>,
}

/// Writes `contents`, and the cache and the states of `sequence`, to `path`. The file has its name when it is whole, so that one that
/// was there before stays until then.
///
/// # Errors
/// When the file cannot be written.
pub fn save(
    path: &Path,
    package: &Package,
    model: &Model,
    sequence: &Sequence,
    contents: &Contents<'_>,
) -> Result<(), Error> {
    let decoder = model.decoder();
    let (compute, kv) = model.numbers();
    let mut metadata = BTreeMap::from([
        ("format".to_owned(), FORMAT.to_owned()),
        ("version".to_owned(), VERSION.to_owned()),
        ("model".to_owned(), Fingerprint::of(package)?.to_string()),
        ("numbers".to_owned(), numbers(compute, kv)),
        (READ.to_owned(), sequence.len().to_string()),
        ("prompt_len".to_owned(), sequence.prompt_len().to_string()),
    ]);
    if let Some(messages) = contents.messages {
        metadata.insert("messages".to_owned(), Value::Array(messages.to_vec()).to_string());
    }
    let tokens = NewTensor { name: "tokens".to_owned(), dtype: Dtype::I32, shape: vec![contents.tokens.len()] };
    let cache = || cache_tensors(decoder, kv, sequence.len());
    let states = || state_tensors(decoder);
    let kept = cache().map(|(_, _, tensor)| tensor).chain(states().map(|(_, _, tensor)| tensor));
    let tensors: Vec<_> = std::iter::once(tokens).chain(kept).collect();
    let mut writer = SealedWriter::create(path, &tensors, &metadata)?;
    for tokens in contents.tokens.chunks(PIECE) {
        let bytes: Vec<u8> = tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
        writer.append(&bytes)?;
    }
    let mut rows = Vec::new();
    for (layer, part, _) in cache() {
        sequence.rows(layer, part, &mut rows, |bytes| Ok(writer.append(bytes)?))?;
    }
    let zeros = vec![0.0_f32; PIECE];
    for (layer, part, tensor) in states() {
        // What was never used stands for zeros.
        let (values, len) = (sequence.carried(layer, part), tensor.shape.iter().product());
        for start in (0..len).step_by(PIECE) {
            let piece = start..len.min(start + PIECE);
            let values = values.get(piece.clone()).unwrap_or(&zeros[..piece.len()]);
            let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            writer.append(&bytes)?;
        }
    }
    Ok(writer.finish()?)
}

/// Whether a session can be written to `path`, as far as can be said before there is one.
///
/// # Errors
/// When not.
pub fn check_place(path: &Path) -> Result<(), Error> {
    let refuse = |what: &str| Err(Error::File { path: path.to_owned(), what: what.to_owned() });
    if path.is_dir() {
        return refuse("this is a directory; give a file to write the session to");
    }
    if path.exists() && !path.is_file() {
        return refuse("this is no regular file; give one to write the session to");
    }
    // Through a link, as it is written.
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let parent = real.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !rheostat_store::takes_files(parent) {
        return refuse("no file can be made in this directory; give another place for the session");
    }
    Ok(())
}

/// A session that was checked: it is whole, and of this model.
#[derive(Debug)]
pub struct Session {
    path: PathBuf,
    file: SafetensorsFile,
    tokens: Vec<u32>,
    read: usize,
    prompt_len: usize,
    kv: KvFormat,
    messages: Option<Vec<Value>>,
}

impl Session {
    /// Opens `path` for the model of `package`, which will run with `compute` and `kv`. All of the file is read and checked.
    ///
    /// # Errors
    /// When it is no session, damaged, or of another model or other numbers.
    pub fn open(path: &Path, package: &Package, compute: Compute, kv: KvFormat) -> Result<Session, Error> {
        let refuse = |kind: SessionErrorKind| Err(kind.of(path));
        let file = match SafetensorsFile::open(path) {
            Ok(file) => file,
            Err(error) => return Err(explain(path, error)),
        };
        let value = |key: &str| file.metadata().get(key).map(String::as_str);
        if value("format") != Some(FORMAT) {
            return refuse(SessionErrorKind::NotASession);
        }
        match value("version") {
            Some(VERSION) => {}
            other => return refuse(SessionErrorKind::Version(other.unwrap_or("?").escape_debug().take(20).collect())),
        }
        if !seal_is_intact(&file)? {
            return refuse(SessionErrorKind::Damaged);
        }
        if value("model") != Some(Fingerprint::of(package)?.to_string().as_str()) {
            return refuse(SessionErrorKind::OtherModel);
        }
        let (saved, now) = (value("numbers").unwrap_or_default(), numbers(compute, kv));
        if saved != now {
            return refuse(SessionErrorKind::OtherNumbers { saved: saved.to_owned(), now });
        }
        // Whole and of this model: what is missing from here on was never there.
        let session = Session::read(path, &file, &package.describe()?, kv)?;
        session.ok_or_else(|| SessionErrorKind::Damaged.of(path))
    }

    /// `None` where the file does not hold what a session of this model does.
    fn read(path: &Path, file: &SafetensorsFile, decoder: &Decoder, kv: KvFormat) -> Result<Option<Session>, Error> {
        let Some(tokens) = file.tensor("tokens").filter(|t| t.dtype() == Dtype::I32 && t.shape().len() == 1) else {
            return Ok(None);
        };
        let bytes = file.read_tensor(tokens)?;
        let tokens: Vec<u32> = bytes.as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        let number = |key: &str| file.metadata().get(key)?.parse().ok();
        let read = match file.metadata().get(READ) {
            Some(_) => number(READ),
            // A file from before there were states in any: the cache says it.
            None if !decoder.has_state() => {
                let first = cache_tensors(decoder, kv, 0).next().map(|(_, _, tensor)| tensor.name);
                first.and_then(|name| file.tensor(&name)).and_then(|t| t.shape().first().copied())
            }
            None => None,
        };
        let messages = match file.metadata().get("messages").map(|text| serde_json::from_str(text)) {
            None => None,
            Some(Ok(messages)) => Some(messages),
            Some(Err(_)) => return Ok(None),
        };
        let (Some(read), Some(prompt_len)) = (read, number("prompt_len")) else { return Ok(None) };
        let fits = |want: &NewTensor| {
            file.tensor(&want.name).is_some_and(|t| t.dtype() == want.dtype && t.shape() == want.shape)
        };
        let cache = cache_tensors(decoder, kv, read).map(|(_, _, tensor)| tensor);
        let states = state_tensors(decoder).map(|(_, _, tensor)| tensor);
        if read > tokens.len() || !cache.chain(states).all(|tensor| fits(&tensor)) {
            return Ok(None);
        }
        check_tokens(decoder, &tokens, 0)?;
        let (path, file) = (path.to_owned(), file.clone());
        Ok(Some(Session { path, file, tokens, read, prompt_len, kv, messages }))
    }

    /// The text so far.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// How many of the tokens the model has read: the others are to be read next.
    #[must_use]
    pub fn read_len(&self) -> usize {
        self.read
    }

    /// The messages of the conversation.
    ///
    /// # Errors
    /// When it is none.
    pub fn messages(&self) -> Result<&[Value], Error> {
        self.messages.as_deref().ok_or_else(|| SessionErrorKind::NoConversation.of(&self.path))
    }

    /// A sequence that has read what the session's had. With states, it goes on from there and cannot be rolled back but to its
    /// beginning.
    ///
    /// # Errors
    /// When memory was planned for fewer tokens, or the file cannot be read any more.
    pub fn restore(&self, model: &Model) -> Result<Sequence, Error> {
        let room = model.plan().tokens.min(model.decoder().context);
        if self.read > room {
            return Err(SessionErrorKind::TooLong { tokens: self.read, room }.of(&self.path));
        }
        if model.numbers().1 != self.kv {
            let numbers = |kv| numbers(model.numbers().0, kv);
            let (saved, now) = (numbers(self.kv), numbers(model.numbers().1));
            return Err(SessionErrorKind::OtherNumbers { saved, now }.of(&self.path));
        }
        let tensors: Vec<_> = cache_tensors(model.decoder(), self.kv, self.read)
            .map(|(layer, part, tensor)| (layer, part, self.file.tensor(&tensor.name)))
            .collect();
        let mut sequence = model.sequence(self.prompt_len);
        let (mut bytes, mut keys, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for start in (0..self.read).step_by(KV_UNIT) {
            let n = KV_UNIT.min(self.read - start);
            sequence.reserve(n)?;
            for (layer, part, tensor) in &tensors {
                let Some(tensor) = tensor else { return Err(SessionErrorKind::Damaged.of(&self.path)) };
                let rows = if *part == KvPart::Keys { &mut keys } else { &mut values };
                self.rows(tensor, start, n, &mut bytes, rows)?;
                if *part == KvPart::Values {
                    sequence.write(model.exec(), *layer, &keys, &values);
                    sequence.put_away(*layer)?;
                }
            }
            sequence.advance(n);
        }
        for (layer, part, tensor) in state_tensors(model.decoder()) {
            let Some(tensor) = self.file.tensor(&tensor.name) else {
                return Err(SessionErrorKind::Damaged.of(&self.path));
            };
            sequence.carry(layer, part, self.state(tensor)?);
        }
        Ok(sequence)
    }

    /// The numbers of a tensor of f32.
    fn state(&self, tensor: &TensorInfo) -> Result<Vec<f32>, Error> {
        let (mut at, end) = (tensor.offset(), tensor.offset() + tensor.byte_len());
        let mut values = Vec::with_capacity(tensor.byte_len() as usize / size_of::<f32>());
        let mut bytes = vec![0; PIECE * size_of::<f32>()];
        while at < end {
            let bytes = &mut bytes[..(PIECE * size_of::<f32>()).min((end - at) as usize)];
            self.file.source().read_exact_at(at, bytes)?;
            values.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
            at += bytes.len() as u64;
        }
        Ok(values)
    }

    /// `n` rows of a tensor from `start` on, widened.
    fn rows(
        &self,
        tensor: &TensorInfo,
        start: usize,
        n: usize,
        bytes: &mut Vec<u8>,
        rows: &mut Vec<f32>,
    ) -> Result<(), Error> {
        let row = tensor.byte_len() / self.read as u64;
        bytes.resize(n * row as usize, 0);
        self.file.source().read_exact_at(tensor.offset() + start as u64 * row, bytes)?;
        rows.clear();
        match self.kv {
            KvFormat::F32 => rows.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            KvFormat::Bf16 => rows.extend(bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32())),
        }
        Ok(())
    }
}

/// A file that is none of the form is no session, or not any more.
fn explain(path: &Path, error: StoreError) -> Error {
    match error.kind() {
        StoreErrorKind::Truncated | StoreErrorKind::TrailingBytes => SessionErrorKind::Damaged.of(path),
        StoreErrorKind::BadHeader | StoreErrorKind::BadRange | StoreErrorKind::ForeignFormat => {
            SessionErrorKind::NotASession.of(path)
        }
        _ => error.into(),
    }
}

/// The options that decide about bits.
fn numbers(compute: Compute, kv: KvFormat) -> String {
    format!("--compute {} --kv-cache {}", compute.name(), kv.name())
}
