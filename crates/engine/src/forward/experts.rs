//! Mixtures of experts: the router speaks, the experts that it named are asked for, and each of them works on its rows.
//!
//! What a row gets is a sum over its experts in the order of their numbers, so that neither the rows beside it nor the cache of
//! experts changes a bit. Mirrors transformers' `Qwen3MoeSparseMoeBlock.forward` and its kin.

use rheostat_kernels as kernels;
use rheostat_kernels::route;
use rheostat_store::{ExpertBytes, Place};

use super::Pass;
use super::ffn::{FfnPoints, gate};
use super::products::Product;
use super::workspace::{Prepared, Workspace};
use crate::bind::{BoundExperts, BoundLinear, format};
use crate::decoder::{Experts, Flow, Gated, Part, Shared};
use crate::error::Error;
use crate::hooks::{Look, Point};
use crate::profile::Op;

/// Rows of a pass at the most for which routers are asked ahead of time: with more of them nearly every expert is needed anyway.
const FORESEEN_ROWS: usize = 4;

impl<H: Look> Pass<'_, H> {
    /// `delta = Σ weight · expert(normed) (+ shared(normed))`.
    pub(super) fn experts(
        &self,
        i: usize,
        experts: &Experts,
        linears: &[BoundLinear],
        n: usize,
        ws: &mut Workspace,
    ) -> Result<(), Error> {
        let hidden = self.decoder.hidden_size;
        let bound_block = &self.bound.blocks[i];
        let (Some(layer), Some(cache)) = (bound_block.experts, self.experts) else {
            unreachable!("a model with experts was bound and loaded with them")
        };
        let bound = &self.bound.experts[layer];
        self.choose(i, experts, linears, bound_block.vectors.last().map(Vec::as_slice), n, ws)?;
        let mut wanted: Vec<u32> = ws.experts.order.iter().map(|(expert, ..)| *expert).collect();
        wanted.dedup();
        cache.request(layer, &wanted);
        self.done(Op::Router);
        if let Some(shared) = &experts.shared {
            // It is at hand, or streams, while experts arrive.
            self.shared(i, shared, &linears[1..], n, ws)?;
        }
        let order = std::mem::take(&mut ws.experts.order);
        ws.delta[..n * hidden].fill(0.0);
        let result: Result<(), Error> = order.chunk_by(|a, b| a.0 == b.0).try_for_each(|rows| {
            self.recorder.borrow_mut().pause();
            let bytes = cache.acquire(layer, rows[0].0);
            self.recorder.borrow_mut().resume();
            self.one_expert(&experts.expert, bound, &bytes?, rows, ws);
            Ok(())
        });
        ws.experts.order = order;
        result?;
        if experts.shared.is_some() {
            let shape = [1, hidden];
            self.hook(Point::ExpertsOut, Some(i), shape, &mut ws.delta[..n * hidden])?;
            kernels::add_assign(self.exec, &mut ws.delta[..n * hidden], &ws.experts.shared[..n * hidden]);
        }
        self.done(Op::Experts);
        Ok(())
    }

    /// Asks the router of block `i` ahead of time, about the residual stream as it is before that block, and has the experts read that it
    /// names, while the block's mixer computes. What it says then is close to what it will say when it has its turn; and what
    /// is read in vain is read while nobody asks for anything else.
    pub(super) fn foresee(&self, i: usize, n: usize, ws: &mut Workspace) -> Result<(), Error> {
        let (block, Some(cache)) = (&self.decoder.blocks[i], self.experts) else { return Ok(()) };
        let bound = &self.bound.blocks[i];
        let (Some(experts), Some(layer), Some(norm)) = (block.ffn.experts(), bound.experts, &bound.ffn_norm) else {
            return Ok(());
        };
        let linear = &bound.ffn[0];
        let mut tiles = self.weights.plan().tiles_of(linear.matrix);
        let pinned = |t: usize| self.weights.plan().tiles()[t].place != Place::Streamed && self.weights.is_here(t);
        if n > FORESEEN_ROWS || block.flow != Flow::Serial || cache.plan().fits() || !tiles.all(pinned) {
            return Ok(());
        }
        let len = n * self.decoder.hidden_size;
        kernels::norm(self.exec, &norm.norm(), 1, &ws.x[..len], &mut ws.normed[..len]);
        let product = Product { linear, out: &mut ws.experts.scores[..n * experts.n_experts] };
        self.products(&ws.normed[..len], n, &mut Prepared::F32, &mut [product])?;
        self.route(experts, bound.vectors.last().map(Vec::as_slice), n, ws);
        let mut likely: Vec<u32> = ws.experts.chosen[..n * experts.router.top_k].to_vec();
        likely.sort_unstable();
        likely.dedup();
        cache.hint(layer, &likely);
        self.done(Op::Router);
        Ok(())
    }

    /// Chooses the experts of every row, by `ws.experts.scores`.
    fn route(&self, experts: &Experts, correction: Option<&[f32]>, n: usize, ws: &mut Workspace) {
        let router = &experts.router;
        let shape = kernels::Router {
            n_experts: experts.n_experts,
            top_k: router.top_k,
            scores: router.scores,
            bias: router.correction_bias.as_ref().and(correction),
            groups: router.groups,
            normalise: router.normalise,
            scaling: router.scaling,
        };
        let room = &mut ws.experts;
        let (chosen, weights) = (&mut room.chosen[..n * router.top_k], &mut room.weights[..n * router.top_k]);
        route(self.exec, &shape, &room.scores[..n * experts.n_experts], chosen, weights);
    }

    /// Which experts each row gets: `ws.experts.order`.
    fn choose(
        &self,
        i: usize,
        experts: &Experts,
        linears: &[BoundLinear],
        correction: Option<&[f32]>,
        n: usize,
        ws: &mut Workspace,
    ) -> Result<(), Error> {
        let hidden = self.decoder.hidden_size;
        let router = &experts.router;
        let scores = &mut ws.experts.scores[..n * experts.n_experts];
        let product = Product { linear: &linears[0], out: scores };
        // A choice is not to hang on rounding: routers are computed in f32 in every mode.
        self.products(&ws.normed[..n * hidden], n, &mut Prepared::F32, &mut [product])?;
        let scores = &mut ws.experts.scores[..n * experts.n_experts];
        self.hook(Point::RouterLogits, Some(i), [1, experts.n_experts], scores)?;
        self.look_at_scores(i, experts, scores, &mut ws.seen)?;
        self.route(experts, correction, n, ws);
        let room = &mut ws.experts;
        let (chosen, weights) = (&mut room.chosen[..n * router.top_k], &mut room.weights[..n * router.top_k]);
        self.hook_choice(i, router.top_k, chosen, weights)?;
        room.order.clear();
        let by_row = chosen.iter().zip(&*weights).enumerate();
        room.order.extend(by_row.map(|(at, (expert, weight))| (*expert, (at / router.top_k) as u32, *weight)));
        room.order.sort_unstable_by_key(|(expert, row, _)| (*expert, *row));
        Ok(())
    }

    /// Shows the chosen experts of every row, and what they weigh.
    fn hook_choice(&self, i: usize, top_k: usize, chosen: &[u32], weights: &mut [f32]) -> Result<(), Error> {
        if self.wants(Point::ExpertIndices, Some(i)) {
            let mut indices: Vec<f32> = chosen.iter().map(|expert| *expert as f32).collect();
            self.hook(Point::ExpertIndices, Some(i), [1, top_k], &mut indices)?;
        }
        self.hook(Point::ChosenWeights, Some(i), [1, top_k], weights)
    }

    /// `ws.experts.shared = shared(normed)`, times its gate.
    fn shared(
        &self,
        i: usize,
        shared: &Shared,
        linears: &[BoundLinear],
        n: usize,
        ws: &mut Workspace,
    ) -> Result<(), Error> {
        let hidden = self.decoder.hidden_size;
        let (gates, linears) = linears.split_at(usize::from(shared.gate.is_some()));
        if let [linear] = gates {
            let product = Product { linear, out: &mut ws.experts.shared_gate[..n] };
            self.products(&ws.normed[..n * hidden], n, &mut ws.prepared, &mut [product])?;
        }
        self.gated(i, FfnPoints::SHARED, &shared.ffn, linears, n, ws)?;
        let room = &mut ws.experts;
        let delta = &ws.delta[..n * hidden];
        if gates.is_empty() {
            room.shared[..n * hidden].copy_from_slice(delta);
        } else {
            let gate = &mut room.shared_gate[..n];
            kernels::activate(self.exec, kernels::Activation::Sigmoid, gate);
            room.shared[..n * hidden].fill(0.0);
            kernels::add_scaled_rows(self.exec, &mut room.shared[..n * hidden], delta, gate);
        }
        self.hook(Point::SharedOut, Some(i), [1, hidden], &mut room.shared[..n * hidden])
    }

    /// Adds what an expert makes of its rows to `delta`.
    fn one_expert(
        &self,
        ffn: &Gated,
        bound: &BoundExperts,
        bytes: &ExpertBytes<'_>,
        rows: &[(u32, u32, f32)],
        ws: &mut Workspace,
    ) {
        let hidden = self.decoder.hidden_size;
        let n = rows.len();
        for ((_, row, _), to) in rows.iter().zip(ws.experts.rows.chunks_exact_mut(hidden)) {
            let at = *row as usize * hidden;
            to.copy_from_slice(&ws.normed[at..at + hidden]);
        }
        let mut part = 0;
        for (m, info) in bound.matrices.iter().enumerate() {
            let parts: Vec<&[u8]> = (part..part + info.parts.len()).map(|p| bytes.part(p)).collect();
            part += parts.len();
            let weight = info.matrix(&parts, info.rows);
            let bias = &mut ws.experts.bias;
            bias.clear();
            if bound.biased[m] {
                bias.resize(info.rows, 0.0);
                let stored = format(bound.tensors[0][part].dtype());
                kernels::widen(self.exec, bytes.part(part), stored, bias);
                part += 1;
            }
            let bias = bound.biased[m].then_some(bias.as_slice());
            let Some(projection) = ffn.inputs.get(m) else {
                gate(self.exec, ffn, &mut ws.parts, n * ffn.intermediate);
                let down = &mut ws.experts.out[..n * hidden];
                let gate = &ws.parts[Part::Gate as usize][..n * ffn.intermediate];
                self.product(gate, n, &mut ws.prepared, weight, bias, down);
                continue;
            };
            let x = &ws.experts.rows[..n * hidden];
            if projection.is_whole() {
                let out = &mut ws.parts[projection.pieces[0].part as usize][..n * info.rows];
                self.product(x, n, &mut ws.prepared, weight, bias, out);
                continue;
            }
            let whole = &mut ws.whole[..n * info.rows];
            self.product(x, n, &mut ws.prepared, weight, bias, whole);
            for (part, runs) in &bound.runs[m] {
                let out = &mut ws.parts[*part as usize][..n * ffn.intermediate];
                kernels::copy_columns(self.exec, whole, info.rows, runs, out, ffn.intermediate);
            }
        }
        for ((_, row, weight), out) in rows.iter().zip(ws.experts.out.chunks_exact(hidden)) {
            let at = *row as usize * hidden;
            kernels::scaled_add_assign(self.exec, &mut ws.delta[at..at + hidden], out, *weight);
        }
    }
}
