//! Which files of a directory are the checkpoint, and what to say when none are.
//!
//! Nothing is guessed: the two layouts that `transformers` writes are accepted, everything else is
//! named and refused, with the way out where there is one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{StoreError, StoreErrorKind as Kind, quoted};
use crate::source::open_error;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// The file or files that hold a checkpoint.
#[derive(Debug)]
pub(super) enum Layout {
    /// All tensors in this file.
    Single(PathBuf),
    /// Tensors in several files, named by the index at this path.
    Sharded(PathBuf),
}

impl Layout {
    /// Looks into `dir`. Where both layouts are present the single file is the checkpoint, as it is
    /// for `transformers`.
    ///
    /// # Errors
    ///
    /// `NotFound`, `NotADirectory`, `Unreadable`; `ForeignFormat` or `NoWeights` when neither layout
    /// is present.
    pub(super) fn find(dir: &Path) -> Result<Self, StoreError> {
        let metadata = fs::metadata(dir).map_err(|error| open_error(dir, error))?;
        if !metadata.is_dir() {
            return Err(not_a_directory(dir));
        }
        for (name, layout) in [(SINGLE, Self::Single as fn(PathBuf) -> Self), (INDEX, Self::Sharded)] {
            let path = dir.join(name);
            // A link that leads nowhere is present: opening it then says what is wrong with it.
            match fs::symlink_metadata(&path) {
                Ok(_) => return Ok(layout(path)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(open_error(&path, error)),
            }
        }
        Err(no_weights(dir))
    }
}

fn not_a_directory(path: &Path) -> StoreError {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match Foreign::of_file(&name) {
        Some(format) => format.refusal(None),
        None => StoreError::new(Kind::NotADirectory, "this is a file, and a checkpoint is a directory")
            .advise("pass the directory that holds config.json and model.safetensors"),
    }
    .at(path)
}

/// Says what `dir` holds instead of a checkpoint.
fn no_weights(dir: &Path) -> StoreError {
    let mut names = Vec::new();
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => return open_error(dir, error),
    };
    for entry in entries {
        match entry {
            Ok(entry) => names.push(entry.file_name().to_string_lossy().into_owned()),
            Err(error) => return open_error(dir, error),
        }
    }
    names.sort();
    let refusal = if names.iter().any(|name| name == "adapter_model.safetensors") {
        StoreError::new(Kind::NoWeights, "this directory holds an adapter, not a model")
            .advise("pass the directory of the model that the adapter was trained on")
    } else if let Some(name) = names.iter().find(|name| name.ends_with(".safetensors")) {
        StoreError::new(Kind::NoWeights, format!("found {}, but neither {SINGLE} nor {INDEX}", quoted(name))).advise(
            format!(
                "download the repository's {INDEX} as well, or name a file that holds the whole model \
             {SINGLE}"
            ),
        )
    } else if let Some((name, format)) = names.iter().find_map(|name| Some((name, Foreign::of_file(name)?))) {
        format.refusal(Some(name))
    } else {
        StoreError::new(Kind::NoWeights, format!("no {SINGLE} and no {INDEX} here; {}", listing(&names)))
            .advise("pass the directory of a model in Hugging Face form")
    };
    refusal.at(dir)
}

fn listing(names: &[String]) -> String {
    const SHOWN: usize = 8;
    if names.is_empty() {
        return "the directory is empty".to_owned();
    }
    let shown: Vec<String> = names.iter().take(SHOWN).map(|name| quoted(name)).collect();
    let rest = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("found {}{rest}", shown.join(", "))
}

/// Formats of weights that are recognised in order to be refused by name.
#[derive(Clone, Copy, Debug)]
enum Foreign {
    Pickle,
    Gguf,
    Other,
}

impl Foreign {
    /// The format that a file's name announces.
    fn of_file(name: &str) -> Option<Self> {
        match Path::new(name).extension()?.to_str()? {
            // A training run leaves pickles that are no weights beside the ones that are.
            _ if ["training_args", "optimizer", "scheduler", "rng_state"].iter().any(|stem| name.starts_with(stem)) => {
                None
            }
            "bin" | "pt" | "pth" | "ckpt" | "pkl" => Some(Self::Pickle),
            "gguf" | "ggml" => Some(Self::Gguf),
            "h5" | "msgpack" | "onnx" | "npz" => Some(Self::Other),
            _ => None,
        }
    }

    /// Refuses the file called `name`, or the one the error is about if that is `None`.
    ///
    /// The commands hold placeholders: a file's name is not fit to be pasted into a shell.
    fn refusal(self, name: Option<&str>) -> StoreError {
        let (what, advice) = match self {
            Self::Pickle => (
                "is a pickle, which can run code when it is read",
                "convert it once, where it is trusted: python -c 'from transformers import \
                 AutoModelForCausalLM; AutoModelForCausalLM.from_pretrained(\"DIR\")\
                 .save_pretrained(\"OUT\", safe_serialization=True)'",
            ),
            Self::Gguf => (
                "is a GGUF file",
                "use the safetensors release of the model, or convert: python -c 'from \
                 transformers import AutoModelForCausalLM; \
                 AutoModelForCausalLM.from_pretrained(\"DIR\", gguf_file=\"FILE\")\
                 .save_pretrained(\"OUT\", safe_serialization=True)'",
            ),
            Self::Other => {
                ("holds weights in a form that is not safetensors", "use the safetensors release of the model")
            }
        };
        StoreError::new(Kind::ForeignFormat, format!("{} {what}", name.map_or_else(|| "this".to_owned(), quoted)))
            .advise(advice)
    }
}

/// What the first bytes of a file that is not safetensors (or JSON) show it to be, if they do.
pub(super) fn foreign_content(start: &[u8]) -> Option<StoreError> {
    let text = start.trim_ascii_start();
    if start.starts_with(b"version https://git-lfs") {
        let what = "this is a git-lfs pointer, not the content it stands for";
        return Some(StoreError::new(Kind::LfsPointer, what).advise("run `git lfs pull` in the directory"));
    }
    let format = match start {
        [b'P', b'K', 3, 4, ..] | [0x80, 2..=5, ..] => Foreign::Pickle,
        [b'G', b'G', b'U', b'F', ..] => Foreign::Gguf,
        _ if [&b"<!"[..], b"<?", b"<h", b"<H"].iter().any(|tag| text.starts_with(tag)) => {
            return Some(
                StoreError::new(Kind::ForeignFormat, "this is a web page, not a model's weights")
                    .advise("download the file again; the server may want a login or a licence"),
            );
        }
        _ => return None,
    };
    Some(format.refusal(None))
}
