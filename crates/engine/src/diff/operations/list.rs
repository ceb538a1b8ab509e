//! The list in the making: names, shapes, and the steps that blocks share.

use super::{Op, Operation, Outputs, Run};
use crate::decoder::{Block, Decoder, Flow, Head, Linear, Norm, Part, Projection};

/// The list in the making. Points are named without their block, which is put before them; a `^` before a name says that it is whole.
#[derive(Default)]
pub(super) struct List {
    pub(super) ops: Vec<Op>,
    pub(super) block: Option<usize>,
    /// Elements of the residual stream.
    pub(super) hidden: usize,
}

impl List {
    pub(super) fn name(&self, point: &str) -> String {
        match (self.block, point.strip_prefix('^'), point.strip_prefix('=')) {
            (_, Some(whole), _) => whole.to_owned(),
            (Some(i), _, Some(internal)) => format!("=blocks.{i}.{internal}"),
            (Some(i), _, None) => format!("blocks.{i}.{point}"),
            (None, _, _) => point.to_owned(),
        }
    }

    pub(super) fn push(&mut self, point: &str, inputs: &[&str], operation: Operation) {
        let inputs: Vec<String> = inputs.iter().map(|input| self.name(input)).collect();
        let shape = self.shape(&operation, &inputs);
        self.ops.push(Op { point: self.name(point), block: self.block, inputs, operation, only_with: None, shape });
    }

    /// As [`List::part`], of rows that are heads.
    pub(super) fn heads(
        &mut self,
        point: &str,
        x: &str,
        projections: &[Projection],
        part: Part,
        shape: [usize; 2],
    ) -> bool {
        let has = self.part(point, x, projections, part);
        if let (true, Some(last)) = (has, self.ops.last_mut()) {
            last.shape = shape.to_vec();
        }
        has
    }

    /// The extents of a row of what `operation` gives.
    fn shape(&self, operation: &Operation, inputs: &[String]) -> Vec<usize> {
        let first = || {
            let op = self.ops.iter().rev().find(|op| inputs.first() == Some(&op.point));
            op.map(|op| op.shape.clone()).unwrap_or_default()
        };
        match operation {
            Operation::Embed { .. } | Operation::Positions { .. } => vec![self.hidden],
            Operation::NormScale { .. } => vec![1],
            Operation::Columns { width, len, .. } => vec![first().iter().product::<usize>() / width * len],
            Operation::Join { heads, widths } => vec![*heads, widths.iter().sum()],
            Operation::Linear { width, .. } => vec![*width],
            Operation::Rotate { heads, head_dim, .. } => vec![*heads, *head_dim],
            Operation::Scores { n_heads, .. } | Operation::Pattern { n_heads, .. } => vec![*n_heads],
            Operation::Weigh { n_heads, value_dim, .. } => vec![*n_heads, *value_dim],
            Operation::HeadOutputs { n_heads, linear, .. } => vec![*n_heads, linear.out_features],
            Operation::SumOfHeads { linear, .. } => vec![linear.out_features],
            Operation::Choose { choice, .. } | Operation::ChosenWeights { choice, .. } => vec![choice.top_k],
            Operation::DeltaState { heads } => vec![heads.v_heads, heads.k_dim, heads.v_dim],
            Operation::DeltaRead { heads } => vec![heads.v_heads, heads.v_dim],
            Operation::GatedConvolution { .. } => vec![first().iter().product::<usize>() / 3],
            Operation::Copy
            | Operation::Add
            | Operation::Scale { .. }
            | Operation::SoftCap { .. }
            | Operation::Clamp { .. }
            | Operation::Normalize { .. }
            | Operation::NormWeight { .. }
            | Operation::Norm { .. }
            | Operation::SigmoidGate
            | Operation::RowGate
            | Operation::Activation { .. }
            | Operation::Gate { .. }
            | Operation::RouterScores { .. }
            | Operation::Experts { .. }
            | Operation::Convolution { .. }
            | Operation::Decay { .. }
            | Operation::Sigmoid
            | Operation::GatedNorm { .. } => first(),
        }
    }

    /// The steps of the norm `name` of `x`. Returns the point that holds what comes out: `out`, or without that an internal one.
    pub(super) fn norm(&mut self, name: &str, x: &str, norm: &Norm, out: Option<&str>) -> String {
        let (scale, normalized) = (format!("{name}.hook_scale"), format!("{name}.hook_normalized"));
        self.push(&scale, &[x], Operation::NormScale { norm: norm.clone() });
        self.push(&normalized, &[x, &scale], Operation::Normalize { norm: norm.clone() });
        let out = out.map_or_else(|| format!("={name}.out"), str::to_owned);
        // What was normalised says how far rounding may go.
        self.push(&out, &[&normalized, x], Operation::NormWeight { norm: norm.clone() });
        out
    }

    /// A linear map as a whole.
    pub(super) fn linear(&mut self, point: &str, x: &str, linear: &Linear) {
        let run = Run { from: 0, to: 0, len: linear.out_features };
        let from = vec![Outputs { linear: linear.clone(), runs: vec![run] }];
        self.push(point, &[x], Operation::Linear { from, width: linear.out_features });
    }

    /// What of `projections` is `part`; nothing where that is nothing.
    pub(super) fn part(&mut self, point: &str, x: &str, projections: &[Projection], part: Part) -> bool {
        let mut from = Vec::new();
        for projection in projections {
            let pieces = projection.pieces.iter().filter(|piece| piece.part == part);
            let runs: Vec<Run> = pieces.map(|p| Run { from: p.from, to: p.to, len: p.len }).collect();
            if !runs.is_empty() {
                from.push(Outputs { linear: projection.linear.clone(), runs });
            }
        }
        let width = from.iter().flat_map(|outputs| &outputs.runs).map(|run| run.to + run.len).max();
        if let Some(width) = width {
            self.push(point, &[x], Operation::Linear { from, width });
        }
        width.is_some()
    }

    /// What follows a sublayer's result `out` before it is added: its norm, the factor. Both are the steps from `out` to `added`.
    fn added(&mut self, name: &str, out: &str, norm: Option<&Norm>, by: f32, added: &str) {
        let mut last = out.to_owned();
        if let Some(norm) = norm {
            let to = if by == 1.0 { added.to_owned() } else { format!("={name}.out") };
            last = self.norm(name, out, norm, Some(&to));
        }
        if by != 1.0 {
            self.push(added, &[&last], Operation::Scale { by });
        }
    }

    /// A block from `hook_resid_pre` to `hook_resid_post`: `Pass::block`.
    pub(super) fn block(&mut self, block: &Block) {
        let resid = "hook_resid_pre";
        let x = match &block.mixer_norm {
            Some(norm) => self.norm("ln1", resid, norm, Some("ln1.hook_out")),
            None => resid.to_owned(),
        };
        let by = block.residual_scale;
        let follows = |norm: &Option<Norm>| norm.is_some() || by != 1.0;
        let out = if follows(&block.mixer_post_norm) { "attn.hook_out" } else { "hook_attn_out" };
        self.mixer(&block.mixer, &x, out);
        self.added("ln1_post", out, block.mixer_post_norm.as_ref(), by, "hook_attn_out");
        let mid = "hook_resid_mid";
        if block.flow == Flow::Serial {
            self.push(mid, &[resid, "hook_attn_out"], Operation::Add);
        }
        let x = match (&block.ffn_norm, block.flow) {
            (Some(norm), Flow::Serial) => self.norm("ln2", mid, norm, Some("ln2.hook_out")),
            (Some(norm), Flow::Parallel) => self.norm("ln2", resid, norm, Some("ln2.hook_out")),
            (None, Flow::Serial) => mid.to_owned(),
            (None, Flow::Parallel) => x,
        };
        let out = if follows(&block.ffn_post_norm) { "mlp.hook_out" } else { "hook_mlp_out" };
        self.ffn(&block.ffn, &x, out);
        self.added("ln2_post", out, block.ffn_post_norm.as_ref(), by, "hook_mlp_out");
        match block.flow {
            Flow::Serial => self.push("hook_resid_post", &[mid, "hook_mlp_out"], Operation::Add),
            Flow::Parallel => self.push("hook_resid_post", &[resid, "hook_attn_out", "hook_mlp_out"], Operation::Add),
        }
    }

    /// From the final norm to `logits`: `Pass::head`.
    pub(super) fn head(&mut self, decoder: &Decoder, x: &str) {
        let linear = match &decoder.head {
            Head::Own(linear) => linear.clone(),
            Head::Tied => Linear::new(&decoder.embed.tensor, decoder.hidden_size, decoder.vocab_size),
        };
        let logits = decoder.logits;
        let (scaled, capped) = (logits.scale != 1.0, logits.soft_cap);
        let names = match (scaled, capped.is_some()) {
            (false, false) => ["logits", "", ""],
            (true, false) => ["=logits.product", "logits", ""],
            (false, true) => ["=logits.product", "=logits.product", "logits"],
            (true, true) => ["=logits.product", "=logits.scaled", "logits"],
        };
        self.linear(names[0], x, &linear);
        if scaled {
            self.push(names[1], &[names[0]], Operation::Scale { by: logits.scale });
        }
        if let Some(cap) = capped {
            self.push(names[2], &[names[1]], Operation::SoftCap { cap });
        }
    }
}
