//! Names of what is kept: tensors and the modules that they are in.

use std::collections::BTreeSet;

use crate::names::distance;

/// Every name under which a tensor can be meant: its own, and those of the modules that it is in.
pub(super) fn names_of(tensor: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(tensor), |name| name.rsplit_once('.').map(|(module, _)| module))
}

/// The name of `tensors` that differs the least from `pattern`.
pub(super) fn nearest<'a>(pattern: &str, tensors: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let names: BTreeSet<&str> = tensors.flat_map(names_of).collect();
    names.into_iter().min_by_key(|name| distance(pattern, name))
}

#[cfg(test)]
mod tests {
    use super::*;

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
