//! The directory of a quantised model while it is being written, and the files beside its weights.
//!
//! It is `OUT.partial` until everything in it is on the disk, and is then renamed: whatever ends a run, what has the
//! name `OUT` is whole. A file in it that the running program holds locked tells a leftover of a killed run, which is
//! replaced, from one that another run is still writing, and both from a directory of somebody else's.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::QuantizeError;
use crate::package::{Origin, Package};

/// The file that marks a directory as one of these.
const MARK: &str = ".rheostat-quantize";

pub(super) struct Staging {
    out: PathBuf,
    partial: PathBuf,
    /// Held locked for as long as this lives.
    _mark: File,
    replaced: bool,
    published: bool,
}

impl Staging {
    /// Makes the directory.
    pub(super) fn new(package: &Package, out: &Path) -> Result<Staging, QuantizeError> {
        let refuse = |what| Err(refusal(out, what));
        let Some(name) = out.file_name() else { return refuse("this names no new directory; give a name for one") };
        let parent = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let real_parent = fs::canonicalize(parent).ok().filter(|parent| parent.is_dir());
        let Some(real_parent) = real_parent else {
            return refuse("it cannot be made, since the directory that it should be in is not there; make that first");
        };
        let mut partial_name = name.to_owned();
        partial_name.push(".partial");
        let partial = parent.join(&partial_name);
        for source in sources(package) {
            if real_parent.join(name) == source {
                return refuse("this is the model itself; give a directory that is not there yet");
            }
            if real_parent.starts_with(&source) {
                return refuse("it would lie inside the model; give a directory outside of it");
            }
            if source.starts_with(real_parent.join(&partial_name)) {
                return refuse(
                    "while it is written it would be in the model's place, which has the same name with .partial; \
                     give another name",
                );
            }
        }
        if fs::symlink_metadata(out).is_ok() {
            return refuse("it is there already; give a directory that is not, or remove it first");
        }
        let replaced = remove_leftover(&partial)?;
        let cannot = |error| failure(&partial, error);
        fs::create_dir(&partial).map_err(cannot)?;
        let mark =
            File::create_new(partial.join(MARK)).inspect_err(|_| _ = fs::remove_dir(&partial)).map_err(cannot)?;
        // Where there are no locks, two runs at once for one name go unnoticed.
        let _ = mark.try_lock();
        Ok(Staging { out: out.to_owned(), partial, _mark: mark, replaced, published: false })
    }

    /// Where files go for now.
    pub(super) fn path(&self) -> &Path {
        &self.partial
    }

    /// Whether a leftover of a killed run was in its place.
    pub(super) fn replaced(&self) -> bool {
        self.replaced
    }

    /// Gives the directory its name. Files in it are on the disk already.
    pub(super) fn publish(mut self) -> Result<(), QuantizeError> {
        let done = sync(&self.partial).and_then(|()| {
            fs::rename(&self.partial, &self.out)?;
            self.published = true;
            fs::remove_file(self.out.join(MARK))?;
            sync(self.out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
        });
        done.map_err(|error| failure(&self.out, error))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published {
            // What cannot be removed is at least not called what it should have been.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

/// The directories and files that the model is read from, by their real names.
fn sources(package: &Package) -> Vec<PathBuf> {
    match package.origin() {
        Origin::Embedded(_) => Vec::new(),
        Origin::Directory(dir) => {
            let files = package.checkpoint().sources().iter().map(|source| source.path().to_owned());
            files.chain([dir.clone()]).filter_map(|path| fs::canonicalize(path).ok()).collect()
        }
    }
}

/// Removes what a killed run left at `partial`. Returns whether there was something.
fn remove_leftover(partial: &Path) -> Result<bool, QuantizeError> {
    let Ok(metadata) = fs::symlink_metadata(partial) else { return Ok(false) };
    let foreign = "it is in the way and not what an earlier run left; move it, or give another name than it has \
                   without .partial";
    if !metadata.is_dir() {
        return Err(refusal(partial, foreign));
    }
    match File::open(partial.join(MARK)) {
        Ok(mark) => {
            if let Err(TryLockError::WouldBlock) = mark.try_lock() {
                let what = "another run is writing it; wait until it is done, or give another name";
                return Err(refusal(partial, what));
            }
            fs::remove_dir_all(partial).map_err(|error| failure(partial, error))?;
        }
        // An empty directory may be a leftover, and is no loss.
        Err(_) => fs::remove_dir(partial).map_err(|_| refusal(partial, foreign))?,
    }
    Ok(true)
}

/// Writes `config.json` with `quantization` in it, and copies the other files that belong to the model. Returns the
/// names of these.
pub(super) fn write_files(package: &Package, quantization: &Value, dir: &Path) -> Result<Vec<String>, QuantizeError> {
    write(&dir.join("config.json"), &mut with_quantization(package, quantization).as_bytes())?;
    let mut copied = Vec::new();
    match package.origin() {
        Origin::Embedded(files) => {
            for (name, bytes) in files.iter().filter(|(name, _)| belongs(name)) {
                write(&dir.join(name), &mut &bytes[..])?;
                copied.push((*name).to_owned());
            }
        }
        Origin::Directory(model) => {
            copied.extend(copy_files(model, dir, "", belongs)?);
            let templates = "additional_chat_templates";
            if model.join(templates).is_dir() {
                let to = dir.join(templates);
                fs::create_dir(&to).map_err(|error| failure(&to, error))?;
                let from = model.join(templates);
                copied.extend(copy_files(&from, &to, "additional_chat_templates/", |name| name.ends_with(".jinja"))?);
                sync(&to).map_err(|error| failure(&to, error))?;
            }
        }
    }
    Ok(copied)
}

/// Whether a file beside the weights is needed to use them: tokenizer, vocabulary, chat templates, generation
/// settings, code that `config.json` refers to, and the licence, which goes with every copy.
fn belongs(name: &str) -> bool {
    const WHOLE: [&str; 5] =
        ["generation_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "tekken.json"];
    const START: [&str; 6] = ["tokenizer", "vocab", "chat_template", "LICENSE", "LICENCE", "NOTICE"];
    const END: [&str; 4] = [".jinja", ".model", ".tiktoken", ".py"];
    WHOLE.contains(&name) || START.iter().any(|s| name.starts_with(s)) || END.iter().any(|s| name.ends_with(s))
}

/// Copies the files of one directory that are `wanted`.
fn copy_files(
    from: &Path,
    to: &Path,
    prefix: &str,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<String>, QuantizeError> {
    let entries = fs::read_dir(from).map_err(|error| unreadable(from, error))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(from, error))?;
        // Links are followed, as everywhere.
        if let Ok(name) = entry.file_name().into_string()
            && wanted(&name)
            && from.join(&name).is_file()
        {
            names.push(name);
        }
    }
    names.sort();
    for name in &names {
        let path = from.join(name);
        let mut file = File::open(&path).map_err(|error| unreadable(&path, error))?;
        write(&to.join(name), &mut file)?;
    }
    Ok(names.into_iter().map(|name| format!("{prefix}{name}")).collect())
}

fn write(path: &Path, from: &mut dyn io::Read) -> Result<(), QuantizeError> {
    let mut write = || {
        let mut file = File::create_new(path)?;
        io::copy(from, &mut file)?;
        file.flush()?;
        file.sync_all()
    };
    write().map_err(|error| failure(path, error))
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// The text of `config.json` with a `quantization_config` at its end; all else stays letter for letter, if it can.
fn with_quantization(package: &Package, quantization: &Value) -> String {
    let text = match package.origin() {
        Origin::Embedded(files) => {
            files.iter().find(|(name, _)| *name == "config.json").map(|(_, bytes)| bytes.to_vec())
        }
        Origin::Directory(dir) => fs::read(dir.join("config.json")).ok(),
    };
    let text = text.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let wanted = {
        let mut map = package.config().clone();
        map.insert("quantization_config".to_owned(), quantization.clone());
        map
    };
    let body = text.trim_end().strip_suffix('}').map(str::trim_end);
    let lines = body.is_some_and(|body| body.contains('\n'));
    let entry = if lines {
        // One level deeper than the object itself.
        format!("\n  \"quantization_config\": {}\n", format!("{quantization:#}").replace('\n', "\n  "))
    } else {
        format!(" \"quantization_config\": {quantization}")
    };
    let edited = body.map(|body| format!("{body},{entry}}}\n")).unwrap_or_default();
    // A key that was there with null, or an empty object, cannot be added to in this way.
    let same = |text: &str| serde_json::from_str::<Map<String, Value>>(text).is_ok_and(|map| map == wanted);
    if same(&edited) && !package.config().contains_key("quantization_config") {
        edited
    } else {
        format!("{:#}\n", Value::Object(wanted))
    }
}

fn refusal(path: &Path, what: &'static str) -> QuantizeError {
    QuantizeError::Output { path: path.to_owned(), what, source: None }
}

fn failure(path: &Path, error: io::Error) -> QuantizeError {
    let what = "it cannot be written; check the directory and the room on its disk";
    QuantizeError::Output { path: path.to_owned(), what, source: Some(error) }
}

fn unreadable(path: &Path, error: io::Error) -> QuantizeError {
    let what = "it cannot be read; put the model's own file in its place";
    QuantizeError::Output { path: path.to_owned(), what, source: Some(error) }
}
