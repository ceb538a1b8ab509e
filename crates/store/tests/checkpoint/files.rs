//! Safetensors files made by hand, so that they can be wrong in every way.

use std::fs;
use std::path::Path;

/// A file of this header and `data` zero bytes.
pub(crate) fn file(header: &str, data: usize) -> Vec<u8> {
    raw(header.len() as u64, header.as_bytes(), data)
}

/// A file whose length field says `header_len`, whatever the header is.
pub(crate) fn raw(header_len: u64, header: &[u8], data: usize) -> Vec<u8> {
    [&header_len.to_le_bytes(), header, &vec![0; data]].concat()
}

/// A file of one-dimensional F32 tensors with these names, four elements each.
pub(crate) fn tensors(names: &[&str]) -> Vec<u8> {
    let entries: Vec<String> =
        names.iter().enumerate().map(|(i, name)| entry(name, "F32", "[4]", 16 * i, 16 * (i + 1))).collect();
    file(&format!("{{{}}}", entries.join(",")), 16 * names.len())
}

/// The header's member for one tensor.
pub(crate) fn entry(name: &str, dtype: &str, shape: &str, begin: usize, end: usize) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":[{begin},{end}]}}"#)
}

/// The text of an index with these (tensor, file) pairs.
pub(crate) fn index(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = pairs.iter().map(|(tensor, file)| format!("{tensor:?}:{file:?}")).collect();
    format!(r#"{{"metadata":{{"total_size":32}},"weight_map":{{{}}}}}"#, pairs.join(","))
}

/// Writes `content` to `name` in `dir`.
pub(crate) fn put(dir: &Path, name: &str, content: impl AsRef<[u8]>) {
    fs::write(dir.join(name), content).unwrap();
}
