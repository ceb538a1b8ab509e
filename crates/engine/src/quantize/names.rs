//! Names of what is kept: tensors, modules, and patterns of either.

use std::collections::BTreeSet;

/// Whether `pattern`, in which `*` stands for any text, is the whole of `name`.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    distance(pattern, name) == 0
}

/// Every name under which a tensor can be meant: its own, and those of the modules that it is in.
pub(super) fn names_of(tensor: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(tensor), |name| name.rsplit_once('.').map(|(module, _)| module))
}

/// The name of `tensors` that differs the least from `pattern`.
pub(super) fn nearest<'a>(pattern: &str, tensors: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let names: BTreeSet<&str> = tensors.flat_map(names_of).collect();
    names.into_iter().min_by_key(|name| distance(pattern, name))
}

/// How many letters of `pattern` must be put in, left out or changed until it is `name`; a `*` becomes any text.
fn distance(pattern: &str, name: &str) -> usize {
    let name: Vec<char> = name.chars().collect();
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for p in pattern.chars() {
        let mut diagonal = row[0];
        row[0] += usize::from(p != '*');
        for (j, n) in name.iter().enumerate() {
            let (left, above) = (row[j], row[j + 1]);
            row[j + 1] =
                if p == '*' { left.min(above) } else { (diagonal + usize::from(p != *n)).min(left + 1).min(above + 1) };
            diagonal = above;
        }
    }
    row[name.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_the_whole_of_a_name() {
        for (pattern, name, want) in [
            ("lm_head", "lm_head", true),
            ("lm_head", "lm_head.weight", false),
            ("*.down_proj", "model.layers.0.mlp.down_proj", true),
            ("*.down_proj", "down_proj", false),
            ("model.layers.0.*", "model.layers.0.mlp.up_proj", true),
            ("model.layers.0.*", "model.layers.10.mlp.up_proj", false),
            ("*", "", true),
            ("**a*", "bab", true),
            ("*a*b*c*", "xaxbxc", true),
            ("*a*b*c*", "xcxbxa", false),
            ("", "a", false),
            ("a.b", "axb", false),
        ] {
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }

    #[test]
    fn a_tensor_has_the_names_of_its_modules() {
        let names: Vec<_> = names_of("model.layers.0.mlp.up_proj.weight").collect();
        assert_eq!(
            names[..3],
            ["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj", "model.layers.0.mlp"]
        );
        assert_eq!(names.last(), Some(&"model"));
    }

    #[test]
    fn slips_of_the_hand_are_near() {
        let tensors = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight", "lm_head.weight"];
        for (pattern, want) in [
            ("lm-head", "lm_head"),
            ("model.layers.1.mlp.downproj", "model.layers.1.mlp.down_proj"),
            ("*.up_prj", "model.layers.0.mlp.up_proj"),
            ("*.dwn_proj.weight", "model.layers.1.mlp.down_proj.weight"),
        ] {
            assert_eq!(nearest(pattern, tensors.into_iter()), Some(want), "{pattern}");
        }
        assert_eq!(nearest("a", std::iter::empty()), None);
    }
}
