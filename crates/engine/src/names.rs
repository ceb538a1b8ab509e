//! Patterns of names: what matches, and what is near.

/// Whether `pattern`, in which `*` stands for any text and `?` for one letter, is the whole of `name`.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    distance(pattern, name) == 0
}

/// How many letters of `pattern` must be put in, left out or changed until it is `name`; a `*` becomes any text, a `?` any letter.
pub(crate) fn distance(pattern: &str, name: &str) -> usize {
    let name: Vec<char> = name.chars().collect();
    let mut row: Vec<usize> = (0..=name.len()).collect();
    for p in pattern.chars() {
        let mut diagonal = row[0];
        row[0] += usize::from(p != '*');
        for (j, n) in name.iter().enumerate() {
            let (left, above) = (row[j], row[j + 1]);
            row[j + 1] = if p == '*' {
                left.min(above)
            } else {
                (diagonal + usize::from(p != '?' && p != *n)).min(left + 1).min(above + 1)
            };
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
            assert_eq!(matches(pattern, name), want, "{pattern} {name}");
        }
    }
}
