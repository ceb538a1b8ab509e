//! Points by patterns of names.

use super::{PointInfo, catalog};
use crate::decoder::Decoder;
use crate::error::Error;
use crate::names::{distance, matches};

/// Names that are proposed instead of one that does not exist.
const PROPOSED: usize = 3;

/// The points of `decoder` whose names match `pattern`, in which `*` stands for any characters and `?` for one.
///
/// # Errors
/// When there is none; the error names those that are nearest.
pub fn matching(decoder: &Decoder, pattern: &str) -> Result<Vec<PointInfo>, Error> {
    let all = catalog(decoder);
    let found: Vec<PointInfo> = all.iter().filter(|info| matches(pattern, &info.name)).cloned().collect();
    if found.is_empty() {
        let nearest = nearest(pattern, all.iter().map(|info| info.name.as_str()));
        return Err(Error::NoSuchPoint { pattern: pattern.to_owned(), nearest });
    }
    Ok(found)
}

/// Those of `names` that are most like `pattern`, the nearest first. Of names that differ in the block alone there is one.
pub fn nearest<'a>(pattern: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let parts = |name: &'a str| match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((_, suffix)) => suffix,
        None => name,
    };
    let mut near: Vec<(usize, &str)> = names.map(|name| (distance(pattern, name), name)).collect();
    // Sorting keeps the order of names that are as near.
    near.sort_by_key(|(distance, _)| *distance);
    let mut proposed: Vec<&str> = Vec::new();
    for (_, name) in near {
        if proposed.len() < PROPOSED && proposed.iter().all(|other| parts(other) != parts(name)) {
            proposed.push(name);
        }
    }
    proposed.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_names_come_first() {
        let names = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "logits"];
        let near = nearest("blocks.1.hook_resid_pots", names.into_iter());
        assert_eq!(near, ["blocks.1.hook_resid_post", "blocks.0.hook_resid_pre", "logits"]);
    }
}
