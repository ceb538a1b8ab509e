//! Points by patterns of names.

use super::{PointInfo, catalog};
use crate::decoder::Decoder;
use crate::error::Error;

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

/// Those of `names` that are most like `pattern`, the nearest first. Names that differ in the block alone count as one.
pub fn nearest<'a>(pattern: &str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let parts = |name: &str| match name.strip_prefix("blocks.").and_then(|rest| rest.split_once('.')) {
        Some((block, suffix)) => (Some(block.to_owned()), suffix.to_owned()),
        None => (None, name.to_owned()),
    };
    let (block, asked) = parts(pattern);
    let mut scored: Vec<(f64, String)> = Vec::new();
    for name in names {
        let (own, suffix) = parts(name);
        let same_block = own.is_some() == block.is_some() && (block.is_none() || own == block);
        let likeness = strsim::normalized_damerau_levenshtein(&asked, &suffix) + if same_block { 0.05 } else { 0.0 };
        match scored.iter_mut().find(|(_, known)| parts(known).1 == suffix) {
            Some(known) if known.0 < likeness => *known = (likeness, name.to_owned()),
            Some(_) => {}
            None => scored.push((likeness, name.to_owned())),
        }
    }
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored.into_iter().take(PROPOSED).map(|(_, name)| name).collect()
}

/// Whether `name` matches `pattern`.
fn matches(pattern: &str, name: &str) -> bool {
    let (mut p, mut n) = (0, 0);
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    // Where to go on when a star has to take one character more.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p + 1, n));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((after, taken)) => {
                    (p, n) = (after, taken + 1);
                    star = Some((after, taken + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("blocks.*.hook_resid_post", "blocks.12.hook_resid_post", true),
            ("blocks.*.hook_resid_post", "blocks.12.hook_resid_pre", false),
            ("*", "logits", true),
            ("blocks.1?.*", "blocks.12.attn.hook_q", true),
            ("blocks.1?.*", "blocks.1.attn.hook_q", false),
            ("*.hook_q", "blocks.1.attn.hook_q", true),
            ("*hook_q", "blocks.1.attn.hook_q_normed", false),
            ("logits", "logits", true),
            ("logit", "logits", false),
            ("", "logits", false),
            ("**s*", "logits", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn the_nearest_names_come_first() {
        let names = ["blocks.0.hook_resid_pre", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post", "logits"];
        let near = nearest("blocks.1.hook_resid_pots", names.into_iter());
        assert_eq!(near, ["blocks.1.hook_resid_post", "blocks.0.hook_resid_pre", "logits"]);
    }
}
