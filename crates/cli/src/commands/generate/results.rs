//! The file of a batch's results: a JSON object in a line for each text, written whole or not at all. What is in it when a run
//! begins is kept.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use serde_json::Value;

/// An open file of results, which no other run writes to.
pub(super) struct Results {
    path: PathBuf,
    file: File,
    /// Bytes of whole lines.
    len: u64,
}

/// What of a result tells which it is.
#[derive(Deserialize)]
pub(super) struct Known {
    line: usize,
    /// What it depends on.
    pub(super) key: String,
    /// Why there is no text, if there is none.
    pub(super) error: Option<Value>,
}

impl Results {
    /// Opens or makes the file at `path`. Gives the results that it has, by the line of their prompt.
    pub(super) fn open(path: &Path) -> anyhow::Result<(Results, HashMap<usize, Known>)> {
        let name = path.display();
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let file = file.with_context(|| format!("{name} cannot be written; give --out a file that you may write"))?;
        if !file.metadata().is_ok_and(|m| m.is_file()) {
            bail!("{name} is not a regular file, which --out must be so that a run can go on where it was broken off");
        }
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                bail!("{name} is in use by another run; wait for it, or give another --out")
            }
            // Where files cannot be locked, nobody can tell.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        let mut results = Results { path: path.to_owned(), file, len: 0 };
        let known = results.read()?;
        // A last line without an end is of a run that was broken off while it wrote.
        results.cut().with_context(|| format!("{name} cannot be cut to its last whole line"))?;
        Ok((results, known))
    }

    fn read(&mut self) -> anyhow::Result<HashMap<usize, Known>> {
        let name = self.path.display().to_string();
        let foreign = |number: usize| {
            anyhow!("{name} has something else than results in line {number}; move it away, or give another --out")
        };
        let mut known = HashMap::new();
        let mut reader = BufReader::new(&self.file);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).with_context(|| format!("{name} cannot be read"))?;
            if line.last() != Some(&b'\n') {
                // What could not be the beginning of a result is not ours to cut off.
                let begins = br#"{"line":"#;
                if !begins.starts_with(&line[..read.min(begins.len())]) {
                    return Err(foreign(number));
                }
                break;
            }
            let result: Known = serde_json::from_slice(&line).map_err(|_| foreign(number))?;
            let line = result.line;
            if known.insert(line, result).is_some() {
                bail!("{name} has two results for line {line} of the prompts; move it away, or give another --out");
            }
            self.len += read as u64;
        }
        Ok(known)
    }

    /// Cuts off whatever follows the last whole line.
    fn cut(&mut self) -> std::io::Result<()> {
        self.file.set_len(self.len)?;
        self.file.seek(SeekFrom::Start(self.len)).map(drop)
    }

    /// Adds a result.
    pub(super) fn add(&mut self, result: &Value) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(result)?;
        line.push(b'\n');
        if let Err(error) = self.file.write_all(&line) {
            // The results so far stay whole, whatever became of this one.
            let _ = self.cut();
            return Err(error).with_context(|| {
                let name = self.path.display();
                format!("a result cannot be written to {name}; those before it are there: make room, and give the same command again")
            });
        }
        self.len += line.len() as u64;
        Ok(())
    }

    /// Waits until the disk has everything.
    pub(super) fn sync(&self) -> anyhow::Result<()> {
        self.file.sync_data().with_context(|| format!("{} cannot be written to the disk", self.path.display()))
    }
}
