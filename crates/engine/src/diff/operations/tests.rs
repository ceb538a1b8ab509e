use std::collections::HashSet;

use super::*;
use crate::package::Package;

fn list(case: &str) -> (Decoder, Vec<Op>) {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata").join(case);
    let decoder = Package::open(&dir).unwrap().describe().unwrap();
    let ops = operations(&decoder);
    (decoder, ops)
}

fn points(ops: &[Op], block: usize) -> Vec<&str> {
    let named = ops.iter().filter(|op| op.block == Some(block) && !op.is_internal());
    let mut points: Vec<&str> = named.map(Op::place).collect();
    points.dedup();
    points
}

#[test]
fn every_operation_takes_what_comes_before_it() {
    for entry in std::fs::read_dir(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")).unwrap() {
        let path = entry.unwrap().path();
        if !path.join("reference.json").exists() {
            continue;
        }
        let (decoder, ops) = list(path.file_name().unwrap().to_str().unwrap());
        let mut known: HashSet<&str> = HashSet::new();
        for op in &ops {
            let free = matches!(op.operation, Operation::Embed { .. } | Operation::Positions { .. });
            assert!(free || !op.inputs.is_empty(), "{}", op.point);
            for input in &op.inputs {
                assert!(known.contains(input.as_str()), "{}: {} takes {input}", path.display(), op.point);
            }
            assert!(op.shape.iter().product::<usize>() > 0, "{}", op.point);
            known.insert(&op.point);
        }
        assert_eq!(ops.last().unwrap().point, "logits");
        assert_eq!(ops.last().unwrap().shape, [decoder.vocab_size]);
        assert_eq!(points(&ops, 0).first(), Some(&"hook_resid_pre"));
        assert_eq!(points(&ops, 0).last(), Some(&"hook_resid_post"));
    }
}

/// Hook points and operations are two lists of one model.
#[test]
fn every_hook_point_has_an_operation() {
    for entry in std::fs::read_dir(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata")).unwrap() {
        let path = entry.unwrap().path();
        if !path.join("reference.json").exists() {
            continue;
        }
        let (decoder, ops) = list(path.file_name().unwrap().to_str().unwrap());
        let mut points: Vec<(&str, &[usize], bool)> = Vec::new();
        for op in ops.iter().filter(|op| !op.is_internal() && op.only_with.is_none()) {
            points.push((&op.point, &op.shape, op.can_be_replaced()));
        }
        let catalog = crate::hooks::catalog(&decoder);
        let mut hooks: Vec<(&str, &[usize], bool)> = Vec::new();
        for info in &catalog {
            let shape = match &info.shape {
                crate::hooks::Shape::Rows(shape) => shape.as_slice(),
                crate::hooks::Shape::Keys(heads) => std::slice::from_ref(heads),
            };
            hooks.push((&info.name, shape, info.point.can_be_changed()));
        }
        points.sort_unstable();
        hooks.sort_unstable();
        assert_eq!(points, hooks, "{}", path.display());
    }
}

#[test]
fn a_plain_block_has_the_points_in_order() {
    let (decoder, ops) = list("llama_plain");
    let expected = [
        "hook_resid_pre",
        "ln1.hook_scale",
        "ln1.hook_normalized",
        "ln1.hook_out",
        "attn.hook_q",
        "attn.hook_k",
        "attn.hook_v",
        "attn.hook_rot_q",
        "attn.hook_rot_k",
        "attn.hook_attn_scores",
        "attn.hook_pattern",
        "attn.hook_z",
        "attn.hook_result",
        "hook_attn_out",
        "hook_resid_mid",
        "ln2.hook_scale",
        "ln2.hook_normalized",
        "ln2.hook_out",
        "mlp.hook_pre",
        "mlp.hook_pre_linear",
        "mlp.hook_post",
        "hook_mlp_out",
        "hook_resid_post",
    ];
    assert_eq!(points(&ops, 1), expected);
    let op = |point: &str| ops.iter().find(|op| op.point == point).unwrap();
    let attention = decoder.blocks[0].mixer.attention().unwrap();
    let q = op("blocks.0.attn.hook_rot_q");
    assert_eq!(q.full_shape(7, 9), [7, attention.n_heads, attention.head_dim]);
    assert_eq!(q.inputs, ["blocks.0.attn.hook_q"]);
    assert_eq!(op("blocks.0.attn.hook_pattern").full_shape(7, 9), [attention.n_heads, 7, 9]);
    assert_eq!(op("blocks.1.hook_resid_pre").inputs, ["blocks.0.hook_resid_post"]);
    assert!(op("blocks.0.mlp.hook_pre").tensors()[0].ends_with("mlp.gate_proj.weight"));
    assert!(op("blocks.0.hook_resid_pre").can_be_replaced());
    // The output is the sum of what heads give, where that was recorded.
    let outs: Vec<&Op> = ops.iter().filter(|op| op.point == "blocks.0.hook_attn_out").collect();
    assert_eq!(outs[0].only_with.as_deref(), Some("blocks.0.attn.hook_result"));
    assert!(outs.len() == 2 && outs[1].only_with.is_none());
}

#[test]
fn blocks_of_other_kinds_have_theirs() {
    let has = |case: &str, block: usize, wanted: &[&str], unwanted: &[&str]| {
        let (_, ops) = list(case);
        let points = points(&ops, block);
        for point in wanted {
            assert!(points.contains(point), "{case}: {point} among {points:?}");
        }
        for point in unwanted {
            assert!(!points.contains(point), "{case}: {point}");
        }
    };
    has("gemma2_hub", 0, &["attn.hook_out", "ln1_post.hook_scale", "mlp.hook_out", "ln2_post.hook_normalized"], &[]);
    has("olmo2_hub", 0, &["attn.hook_q_normed", "attn.hook_k_normed"], &["ln1.hook_out", "attn.hook_v_clipped"]);
    has("olmo_switches", 0, &["attn.hook_q_normed", "attn.hook_v_clipped"], &[]);
    has("gpt_neox_hub", 0, &["ln2.hook_out", "hook_mlp_out"], &["hook_resid_mid"]);
    has("falcon_one_norm", 0, &["hook_attn_out"], &["hook_resid_mid", "ln2.hook_out"]);
    has("granite_switches", 0, &["attn.hook_out", "mlp.hook_out"], &["ln1_post.hook_scale"]);
    has("deepseek_v2_hub", 0, &["attn.hook_kv_low", "attn.hook_latent", "attn.hook_rot_k"], &["attn.hook_k"]);
    has("qwen3_next_hub", 0, &["attn.hook_mixed", "attn.hook_state", "attn.hook_z_gated"], &["attn.hook_result"]);
    has("lfm2_hub", 0, &["attn.hook_mixed", "attn.hook_z"], &["attn.hook_conv"]);
    has("gpt_oss_hub", 0, &["mlp.hook_router_logits", "mlp.hook_chosen_weights"], &["mlp.hook_expert_weights"]);
    has("qwen2_moe_hub", 0, &["mlp.hook_experts_out", "mlp.shared.hook_pre", "mlp.hook_shared_out"], &["mlp.hook_out"]);
    let (_, ops) = list("gpt2_hub");
    assert_eq!(ops[1].point, "hook_pos_embed");
    assert_eq!(ops[2].inputs, ["hook_embed", "hook_pos_embed"]);
    let (_, ops) = list("gemma2_hub");
    assert!(matches!(ops.last().unwrap().operation, Operation::SoftCap { .. }));
}
