//! New files: places are checked before the work begins, and a file has its name only when it is whole.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::NamedTempFile;

/// A file beside `path` that will become it, and the path without links.
pub(crate) fn beside(path: &Path) -> anyhow::Result<(NamedTempFile, PathBuf)> {
    // Through a link, not over it.
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let dir = real.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if path.is_dir() {
        bail!("{} is a directory; give the name of a file to write", path.display());
    }
    if real.exists() && !real.is_file() {
        bail!(
            "{} is no regular file; give the name of one, since it is not written from front to back",
            path.display()
        );
    }
    if !dir.is_dir() {
        bail!("{} cannot be written: there is no directory {}; make it first", path.display(), dir.display());
    }
    // Readable like any other new file, where a temporary one would be private.
    let mode = Permissions::from_mode(0o666);
    let file = tempfile::Builder::new().permissions(mode).tempfile_in(dir).with_context(|| cannot_write(path))?;
    Ok((file, real))
}

pub(crate) fn cannot_write(path: &Path) -> String {
    format!("{} cannot be written; check the directory and the room on its disk", path.display())
}

/// A file that is written from front to back, once the work is done.
pub(crate) struct NewFile {
    path: PathBuf,
    place: Place,
}

enum Place {
    /// It becomes the path when it is whole.
    Beside(NamedTempFile, PathBuf),
    /// A pipe or a device, which cannot be replaced.
    Itself(File),
}

impl NewFile {
    /// Makes sure that `path` can be written, and leaves what is there as it is until then.
    pub(crate) fn create(path: &Path) -> anyhow::Result<NewFile> {
        let special = std::fs::metadata(path).is_ok_and(|m| !m.is_file() && !m.is_dir());
        let place = if special {
            Place::Itself(OpenOptions::new().write(true).open(path).with_context(|| cannot_write(path))?)
        } else {
            let (file, real) = beside(path)?;
            Place::Beside(file, real)
        };
        Ok(NewFile { path: path.to_owned(), place })
    }

    /// Writes all of it.
    pub(crate) fn write(self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> anyhow::Result<()> {
        let NewFile { path, place } = self;
        let what = || cannot_write(&path);
        match place {
            Place::Itself(mut file) => buffered(&mut file, write).with_context(what),
            Place::Beside(mut file, real) => {
                buffered(file.as_file_mut(), write).with_context(what)?;
                file.persist(&real).map_err(|e| e.error).with_context(what)?;
                Ok(())
            }
        }
    }
}

fn buffered(file: &mut File, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::with_capacity(1 << 16, file);
    write(&mut out)?;
    out.flush()
}
