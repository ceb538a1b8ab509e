//! Copies of reference checkpoints, to be changed and damaged.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A tensor as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

/// A checkpoint of one's own.
pub struct Checkpoint {
    _root: TempDir,
    dir: PathBuf,
    scratch: PathBuf,
}

impl Checkpoint {
    /// A copy of a reference checkpoint, without the references.
    pub fn copy(case: &str) -> Checkpoint {
        let root = tempfile::tempdir().unwrap();
        let (dir, scratch) = (root.path().join("model"), root.path().join("scratch"));
        fs::create_dir(&dir).unwrap();
        fs::create_dir(&scratch).unwrap();
        for entry in fs::read_dir(super::testdata(case)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap();
            if !name.to_string_lossy().starts_with("reference") {
                fs::copy(&path, dir.join(name)).unwrap();
            }
        }
        Checkpoint { _root: root, dir, scratch }
    }

    /// As a copy of `case`, but with feed-forwards of `width`, and all weights zero: holes in a file, which take no room on the disk.
    pub fn of_holes(case: &str, width: usize) -> Checkpoint {
        let model = Checkpoint::copy(case);
        let (mut header, _) = split(&model.read("model.safetensors"));
        let mut at = 0;
        for (name, entry) in header.iter_mut().filter(|(name, _)| *name != "__metadata__") {
            let mut shape: Vec<usize> = serde_json::from_value(entry["shape"].clone()).unwrap();
            match name.split('.').rev().nth(1) {
                Some("gate_proj" | "up_proj") => shape[0] = width,
                Some("down_proj") => shape[1] = width,
                _ => {}
            }
            let size = if entry["dtype"] == "F32" { 4 } else { 2 };
            let end = at + size * shape.iter().product::<usize>();
            entry["shape"] = json!(shape);
            entry["data_offsets"] = json!([at, end]);
            at = end;
        }
        let bytes = joined(serde_json::to_string(&header).unwrap().as_bytes(), &[]);
        model.write("model.safetensors", &bytes);
        let file = fs::OpenOptions::new().write(true).open(model.path("model.safetensors")).unwrap();
        file.set_len((bytes.len() + at) as u64).unwrap();
        model.config("intermediate_size", json!(width));
        model
    }

    pub fn dir(&self) -> &str {
        self.dir.to_str().unwrap()
    }

    /// A folder beside it, for files that are no part of it.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    pub fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path(file)).unwrap()
    }

    pub fn write(&self, file: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(file), bytes).unwrap();
    }

    pub fn remove(&self, file: &str) {
        fs::remove_file(self.path(file)).unwrap();
    }

    /// Puts a directory in the place of a file.
    pub fn make_directory(&self, file: &str) {
        self.remove(file);
        fs::create_dir(self.path(file)).unwrap();
    }

    /// Leaves nothing but the files given.
    pub fn only(&self, files: &[&str]) {
        for entry in fs::read_dir(&self.dir).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for file in files {
            self.write(file, b"not to be read");
        }
    }

    /// Changes a JSON file.
    pub fn edit(&self, file: &str, f: impl FnOnce(&mut Map<String, Value>)) {
        let mut map = serde_json::from_slice(&self.read(file)).unwrap();
        f(&mut map);
        self.write(file, serde_json::to_vec(&map).unwrap());
    }

    /// Sets a key of `config.json`.
    pub fn config(&self, key: &str, value: Value) {
        self.edit("config.json", |map| _ = map.insert(key.to_owned(), value));
    }

    /// Sets a key of `config.json` to a value that need not be JSON.
    pub fn config_text(&self, key: &str, value: &str) {
        self.config(key, json!("HERE"));
        let text = String::from_utf8(self.read("config.json")).unwrap();
        self.write("config.json", text.replace("\"HERE\"", value));
    }

    /// Sets a key of `generation_config.json`.
    pub fn generation(&self, key: &str, value: Value) {
        self.edit("generation_config.json", |map| _ = map.insert(key.to_owned(), value));
    }

    /// Sets the chat template.
    pub fn template(&self, source: &str) {
        self.edit("tokenizer_config.json", |map| _ = map.insert("chat_template".to_owned(), json!(source)));
    }

    /// Changes a safetensors file's header and leaves the data as it is.
    pub fn header(&self, file: &str, f: impl FnOnce(&mut Map<String, Value>)) {
        let (mut header, data) = split(&self.read(file));
        f(&mut header);
        self.write(file, joined(serde_json::to_string(&header).unwrap().as_bytes(), &data));
    }

    /// Changes one tensor's entry in the header of `model.safetensors`.
    pub fn entry(&self, tensor: &str, key: &str, value: Value) {
        self.header("model.safetensors", |header| header[tensor][key] = value);
    }

    /// Changes the tensors of a safetensors file; the ranges follow.
    pub fn tensors(&self, file: &str, f: impl FnOnce(&mut Vec<Stored>)) {
        let (header, data) = split(&self.read(file));
        let mut tensors: Vec<Stored> = header
            .iter()
            .filter(|(name, _)| *name != "__metadata__")
            .map(|(name, entry)| {
                let number = |v: &Value| v.as_u64().unwrap() as usize;
                let at = |i: usize| number(&entry["data_offsets"][i]);
                Stored {
                    name: name.clone(),
                    dtype: entry["dtype"].as_str().unwrap().to_owned(),
                    shape: entry["shape"].as_array().unwrap().iter().map(number).collect(),
                    data: data[at(0)..at(1)].to_vec(),
                }
            })
            .collect();
        f(&mut tensors);
        let (mut header, mut data) = (Map::new(), Vec::new());
        for t in tensors {
            let offsets = [data.len(), data.len() + t.data.len()];
            header.insert(t.name, json!({ "dtype": t.dtype, "shape": t.shape, "data_offsets": offsets }));
            data.extend(t.data);
        }
        self.write(file, joined(serde_json::to_string(&header).unwrap().as_bytes(), &data));
    }

    /// Changes one tensor of `model.safetensors`.
    pub fn tensor(&self, name: &str, f: impl FnOnce(&mut Stored)) {
        self.tensors("model.safetensors", |tensors| f(tensors.iter_mut().find(|t| t.name == name).unwrap()));
    }
}

/// Header and data of a safetensors file.
fn split(bytes: &[u8]) -> (Map<String, Value>, Vec<u8>) {
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    (serde_json::from_slice(&bytes[8..end]).unwrap(), bytes[end..].to_vec())
}

/// A safetensors file of any header.
pub fn joined(header: &[u8], data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header, data].concat()
}
