//! Mixers that carry a state from position to position: linear attention by the gated delta rule, and short convolutions.

use rheostat_kernels as kernels;
use rheostat_kernels::{AfterConv, Carried, Conv, DeltaRule};

use super::products::{Product, Targets};
use super::workspace::Workspace;
use super::{Input, Pass};
use crate::decoder::{Delta, Part, ShortConv};
use crate::error::Error;
use crate::hooks::{Look, Point};
use crate::profile::Op;

/// Added to the sum of squares of queries and keys (`l2norm` of `modeling_qwen3_next.py`).
const L2_EPS: f32 = 1e-6;

/// The rows of each sequence in the pass, with the part of its state that `of` picks.
fn carried<'a>(
    inputs: &'a mut [Input<'_>],
    layer: usize,
    of: impl Fn(&'a mut [Vec<f32>; 2]) -> &'a mut Vec<f32>,
) -> Vec<Carried<'a>> {
    let mut row = 0;
    let mut all = Vec::with_capacity(inputs.len());
    for input in inputs {
        let rows = row..row + input.tokens.len();
        row = rows.end;
        all.push(Carried::new(rows, of(input.sequence.state(layer))));
    }
    all
}

impl<H: Look> Pass<'_, H> {
    /// `delta = o(norm(rule(conv(q, k, v))) · silu(gate))` of `normed`.
    ///
    /// Mirrors `modeling_qwen3_next.py::Qwen3NextGatedDeltaNet.forward`.
    pub(super) fn linear_attention(
        &self,
        i: usize,
        mixer: &Delta,
        n: usize,
        inputs: &mut [Input<'_>],
        ws: &mut Workspace,
    ) -> Result<(), Error> {
        let bound = &self.bound.blocks[i];
        let hidden = self.decoder.hidden_size;
        let Delta { k_heads, v_heads, k_dim, v_dim, .. } = *mixer;
        let (linears, o) = bound.mixer.split_at(mixer.inputs.len());
        let mut to = Targets { parts: &mut ws.parts, whole: &mut ws.whole };
        self.project(&ws.normed[..n * hidden], n, &mut ws.prepared, &mixer.inputs, linears, &mut to)?;
        self.done(Op::Qkv);
        let (block, z_shape) = (Some(i), [v_heads, v_dim]);
        self.hook(
            Point::Mixed,
            block,
            [1, mixer.channels()],
            &mut ws.parts[Part::Mixed as usize][..n * mixer.channels()],
        )?;
        self.hook(Point::Gate, block, z_shape, &mut ws.parts[Part::Gate as usize][..n * v_heads * v_dim])?;
        inputs.iter_mut().for_each(|input| input.sequence.keep_state(i));
        let [conv, a_log, dt_bias] = &bound.vectors[..3] else { unreachable!("as `Mixer::vectors` says") };
        let parts = [Part::Mixed, Part::Gate, Part::Decay, Part::Write, Part::Query, Part::Key];
        let [mixed, gate, decay, write, g, beta] =
            ws.parts.get_disjoint_mut(parts.map(|part| part as usize)).expect("six parts");
        let channels = mixer.channels();
        let mixed = &mut mixed[..n * channels];
        let conv = Conv { weight: conv, bias: None, taps: mixer.kernel };
        let mut sequences = carried(inputs, i, |[conv, _]| conv);
        kernels::causal_conv(self.exec, &conv, AfterConv::Silu, &mut sequences, mixed);
        drop(sequences);
        self.hook(Point::Conv, block, [1, channels], mixed)?;
        kernels::l2_norm(self.exec, mixed, channels, 2 * k_heads, k_dim, L2_EPS);
        let (g, beta) = (&mut g[..n * v_heads], &mut beta[..n * v_heads]);
        kernels::delta_gates(self.exec, &decay[..n * v_heads], &write[..n * v_heads], a_log, dt_bias, g, beta);
        self.hook(Point::Decay, block, [1, v_heads], g)?;
        self.hook(Point::Beta, block, [1, v_heads], beta)?;
        let scale = (1.0 / (k_dim as f64).sqrt()) as f32;
        let rule = DeltaRule { k_heads, v_heads, k_dim, v_dim, scale };
        let z = &mut ws.z[..n * v_heads * v_dim];
        if self.wants(Point::State, block) {
            self.row_after_row(i, &rule, mixed, g, beta, inputs, z)?;
        } else {
            let mut sequences = carried(inputs, i, |[_, state]| state);
            kernels::delta_rule(self.exec, &rule, mixed, g, beta, &mut sequences, z);
        }
        self.done(Op::Recurrence);
        self.hook(Point::Z, block, z_shape, z)?;
        let norm = &bound.mixer_norms[0];
        let weight = norm.weight().unwrap_or_default();
        kernels::gated_rms_norm(self.exec, weight, norm.eps(), &gate[..n * v_heads * v_dim], z, v_dim);
        self.done(Op::Norm);
        self.hook(Point::ZGated, block, z_shape, z)?;
        let out = &mut ws.delta[..n * hidden];
        self.products(z, n, &mut ws.prepared, &mut [Product { linear: &o[0], out }])?;
        self.done(Op::Output);
        Ok(())
    }

    /// The rule, one row after the other, with the state after each.
    #[allow(clippy::too_many_arguments, reason = "what the kernel takes")]
    fn row_after_row(
        &self,
        i: usize,
        rule: &DeltaRule,
        mixed: &[f32],
        g: &[f32],
        beta: &[f32],
        inputs: &mut [Input<'_>],
        z: &mut [f32],
    ) -> Result<(), Error> {
        let DeltaRule { v_heads, k_dim, v_dim, .. } = *rule;
        let channels = mixed.len() / self.rows.len();
        let width = v_heads * v_dim;
        for (r, row) in self.rows.iter().enumerate() {
            let [_, state] = inputs[row.sequence].sequence.state(i);
            let (g, beta) = (&g[r * v_heads..(r + 1) * v_heads], &beta[r * v_heads..(r + 1) * v_heads]);
            let (mixed, z) = (&mixed[r * channels..(r + 1) * channels], &mut z[r * width..(r + 1) * width]);
            kernels::delta_rule(self.exec, rule, mixed, g, beta, &mut [Carried::new(0..1, state)], z);
            self.show(Point::State, Some(i), &self.rows[r..=r], [v_heads, k_dim * v_dim], state)?;
        }
        Ok(())
    }

    /// `delta = o(c · conv(b · x))` of `normed`.
    ///
    /// Mirrors `modeling_lfm2.py::Lfm2ShortConv.forward`.
    pub(super) fn short_conv(
        &self,
        i: usize,
        mixer: &ShortConv,
        n: usize,
        inputs: &mut [Input<'_>],
        ws: &mut Workspace,
    ) -> Result<(), Error> {
        let bound = &self.bound.blocks[i];
        let hidden = self.decoder.hidden_size;
        let (linears, o) = bound.mixer.split_at(mixer.inputs.len());
        let mut to = Targets { parts: &mut ws.parts, whole: &mut ws.whole };
        self.project(&ws.normed[..n * hidden], n, &mut ws.prepared, &mixer.inputs, linears, &mut to)?;
        self.done(Op::Qkv);
        inputs.iter_mut().for_each(|input| input.sequence.keep_state(i));
        let conv =
            Conv { weight: &bound.vectors[0], bias: bound.vectors.get(1).map(Vec::as_slice), taps: mixer.kernel };
        let (block, mixed) = (Some(i), &mut ws.parts[Part::Mixed as usize][..3 * n * mixer.channels]);
        self.hook(Point::Mixed, block, [1, 3 * mixer.channels], mixed)?;
        let z = &mut ws.z[..n * mixer.channels];
        let mixed = &ws.parts[Part::Mixed as usize][..3 * n * mixer.channels];
        let mut sequences = carried(inputs, i, |[conv, _]| conv);
        kernels::gated_conv(self.exec, &conv, &mut sequences, mixed, z);
        self.done(Op::Recurrence);
        self.hook(Point::Z, block, [1, mixer.channels], z)?;
        let out = &mut ws.delta[..n * hidden];
        self.products(z, n, &mut ws.prepared, &mut [Product { linear: &o[0], out }])?;
        self.done(Op::Output);
        Ok(())
    }
}
