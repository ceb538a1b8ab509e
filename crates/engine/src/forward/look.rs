//! Hook points in the pass: what is shown to those who look on, and what becomes of what they change.
//!
//! A pass that nobody looks at is compiled without any of this (`Look::ACTIVE`). What a step computes by itself is shown where it lies.
//! What it does not (a norm's scale, scores of attention, what each head adds) is computed here when it is wanted, and what follows is computed from it
//! only as far as it was changed: so values that are replaced by themselves change no bit.

use rheostat_kernels as kernels;
use rheostat_kernels::{Activation, Attention, Buffer, KV_BLOCK, KV_UNIT, KvFormat, NormKind};

use super::products::Product;
use super::workspace::Workspace;
use super::{Input, Pass};
use crate::bind::{BoundLinear, BoundNorm};
use crate::decoder::{Decoder, Experts, Mixer, Scores};
use crate::error::Error;
use crate::hooks::{Look, Point, Points, Row, Site};
use crate::kv_disk::KvPart;

/// The points of a norm.
#[derive(Clone, Copy)]
pub(super) struct NormPoints {
    pub(super) scale: Point,
    pub(super) normalized: Point,
    /// After weight and bias, of norms that something takes its input from.
    pub(super) out: Option<Point>,
}

impl NormPoints {
    pub(super) const LN1: NormPoints =
        NormPoints { scale: Point::Ln1Scale, normalized: Point::Ln1Normalized, out: Some(Point::Ln1Out) };
    pub(super) const LN1_POST: NormPoints =
        NormPoints { scale: Point::Ln1PostScale, normalized: Point::Ln1PostNormalized, out: None };
    pub(super) const LN2: NormPoints =
        NormPoints { scale: Point::Ln2Scale, normalized: Point::Ln2Normalized, out: Some(Point::Ln2Out) };
    pub(super) const LN2_POST: NormPoints =
        NormPoints { scale: Point::Ln2PostScale, normalized: Point::Ln2PostNormalized, out: None };
    pub(super) const LN_FINAL: NormPoints =
        NormPoints { scale: Point::LnFinalScale, normalized: Point::LnFinalNormalized, out: Some(Point::LnFinalOut) };
}

/// What room is planned for those who look on.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Looks {
    /// The points that they may ask for.
    pub(crate) points: Points,
    /// Positions that a row may see.
    pub(crate) keys: usize,
}

/// Buffers for what a pass by itself does not keep.
pub(super) struct Seen {
    /// `[rows, hidden]`: normalised rows, or what is added, scaled.
    pub(super) rows: Buffer,
    /// `[rows]`: what norms divide by.
    pub(super) scales: Buffer,
    /// Rotated parts of latent attention's queries `[rows, n_heads, rope_dim]`.
    pub(super) rotated: Buffer,
    /// Of one row: scores or weights of all heads, `[n_heads, keys]`, as they were, and as they are left.
    pub(super) was: Buffer,
    pub(super) now: Buffer,
    /// Keys, or values, of a layer: `[keys, n_kv_heads, width]`.
    keys: Buffer,
    values: Buffer,
    /// Stored elements of a unit of them.
    stored: Vec<u8>,
    /// What heads add: their inputs `[(1 + n_heads) · rows, width]`, `z` itself before those of its heads, and their outputs `[…, hidden]`.
    heads_in: Buffer,
    heads_out: Buffer,
}

/// f32 elements of each buffer of [`Seen`], for `rows` rows of which logits are wanted for so many.
#[derive(Default)]
pub(super) struct SeenSizes {
    rows: usize,
    scales: usize,
    rotated: usize,
    of_keys: usize,
    keys: usize,
    values: usize,
    stored: usize,
    heads_in: usize,
    heads_out: usize,
    /// Rows of the widest product, and elements of each of them.
    pub(super) product: (usize, usize),
}

/// The points that are made in [`Seen::rows`].
const MADE_IN_ROWS: [Point; 13] = [
    Point::Ln1Scale,
    Point::Ln1Normalized,
    Point::Ln1PostScale,
    Point::Ln1PostNormalized,
    Point::Ln2Scale,
    Point::Ln2Normalized,
    Point::Ln2PostScale,
    Point::Ln2PostNormalized,
    Point::LnFinalScale,
    Point::LnFinalNormalized,
    Point::AttnOut,
    Point::MlpOut,
    Point::ExpertWeights,
];

impl SeenSizes {
    pub(super) fn of(decoder: &Decoder, rows: usize, looks: Looks) -> SeenSizes {
        let hidden = decoder.hidden_size;
        let mut sizes = SeenSizes::default();
        if looks.points.any(&MADE_IN_ROWS) {
            let widest = decoder.blocks.iter().filter_map(|b| b.ffn.experts()).map(|e| e.n_experts).max();
            (sizes.rows, sizes.scales) = (rows * hidden.max(widest.unwrap_or(0)), rows);
        }
        for block in &decoder.blocks {
            let (heads, z, kv) = match &block.mixer {
                Mixer::Attention(m) => (m.n_heads, m.width(), [m.kv_width(), m.kv_width()]),
                Mixer::Latent(m) => {
                    if looks.points.contains(Point::RotQ) {
                        sizes.rotated = sizes.rotated.max(rows * m.n_heads * m.rope_dim);
                    }
                    (m.n_heads, m.n_heads * m.value_dim, [m.kv_rank + m.rope_dim, m.kv_rank])
                }
                Mixer::Delta(_) | Mixer::Conv(_) => continue,
            };
            if looks.points.any(&[Point::AttnScores, Point::Pattern]) {
                sizes.of_keys = sizes.of_keys.max(heads * looks.keys);
                sizes.keys = sizes.keys.max(looks.keys * kv[0]);
                sizes.values = sizes.values.max(looks.keys * kv[1]);
                sizes.stored = sizes.stored.max(KV_UNIT * kv[0].max(kv[1]));
            }
            if looks.points.contains(Point::Result) {
                let all = (1 + heads) * rows;
                sizes.heads_in = sizes.heads_in.max(all * z);
                sizes.heads_out = sizes.heads_out.max(all * hidden);
                sizes.of_keys = sizes.of_keys.max(heads * hidden);
                sizes.product = (sizes.product.0.max(all), sizes.product.1.max(z));
            }
        }
        sizes
    }

    pub(super) fn elements(&self) -> usize {
        self.rows
            + self.scales
            + self.rotated
            + 2 * self.of_keys
            + self.keys
            + self.values
            + self.stored
            + self.heads_in
            + self.heads_out
    }
}

impl Seen {
    pub(super) fn new(sizes: &SeenSizes) -> Seen {
        Seen {
            rows: Buffer::new(sizes.rows),
            scales: Buffer::new(sizes.scales),
            rotated: Buffer::new(sizes.rotated),
            was: Buffer::new(sizes.of_keys),
            now: Buffer::new(sizes.of_keys),
            keys: Buffer::new(sizes.keys),
            values: Buffer::new(sizes.values),
            stored: Vec::new(),
            heads_in: Buffer::new(sizes.heads_in),
            heads_out: Buffer::new(sizes.heads_out),
        }
    }
}

/// Whether two slices hold the same bits.
fn same(a: &[f32], b: &[f32]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

impl<H: Look> Pass<'_, H> {
    /// Whether somebody wants to see `point`.
    #[inline(always)]
    pub(super) fn wants(&self, point: Point, block: Option<usize>) -> bool {
        H::ACTIVE && self.hooks.borrow().wants(point, block)
    }

    /// Shows `values: [rows, heads, width]`.
    #[inline(always)]
    pub(super) fn hook(
        &self,
        point: Point,
        block: Option<usize>,
        shape: [usize; 2],
        values: &mut [f32],
    ) -> Result<(), Error> {
        if H::ACTIVE {
            let rows = if point.is_final() { &self.wanted } else { &self.rows };
            return self.show(point, block, rows, shape, values);
        }
        Ok(())
    }

    /// The same of some of the rows.
    pub(super) fn show(
        &self,
        point: Point,
        block: Option<usize>,
        rows: &[Row],
        shape: [usize; 2],
        values: &mut [f32],
    ) -> Result<(), Error> {
        let mut hooks = self.hooks.borrow_mut();
        if hooks.wants(point, block) {
            hooks.at(&Site { point, block, rows, shape }, values)?;
        }
        Ok(())
    }

    /// What a norm does on its way from `x`, if somebody wants to see that: then its result is weight and bias of what is left in
    /// `seen.rows`, and `true` is returned.
    pub(super) fn look_into_norm(
        &self,
        points: NormPoints,
        block: Option<usize>,
        norm: &BoundNorm,
        x: &[f32],
        seen: &mut Seen,
    ) -> Result<bool, Error> {
        if !self.wants(points.scale, block) && !self.wants(points.normalized, block) {
            return Ok(false);
        }
        let width = norm.norm().width;
        let rows = &mut seen.rows[..x.len()];
        self.normalise(points, block, norm, x, rows, &mut seen.scales, width)?;
        self.hook(points.normalized, block, [1, width], rows)?;
        Ok(true)
    }

    /// `rows = (x − mean) / scale`, with the scale that is left after it was shown.
    #[allow(clippy::too_many_arguments, reason = "buffers of one workspace, borrowed apart")]
    fn normalise(
        &self,
        points: NormPoints,
        block: Option<usize>,
        norm: &BoundNorm,
        x: &[f32],
        rows: &mut [f32],
        scales: &mut Buffer,
        width: usize,
    ) -> Result<(), Error> {
        let bare = kernels::Norm { weight: None, bias: None, ..norm.norm() };
        kernels::norm(self.exec, &bare, 1, x, rows);
        let scales = &mut scales[..rows.len() / width];
        let moments = |x: &[f32]| moments(norm, x);
        for (scale, x) in scales.iter_mut().zip(x.chunks_exact(width)) {
            *scale = moments(x).1;
        }
        self.hook(points.scale, block, [1, 1], scales)?;
        for ((scale, x), row) in scales.iter().zip(x.chunks_exact(width)).zip(rows.chunks_exact_mut(width)) {
            let (mean, own) = moments(x);
            if scale.to_bits() != own.to_bits() {
                row.iter_mut().zip(x).for_each(|(y, x)| *y = (x - mean) / scale);
            }
        }
        Ok(())
    }

    /// What is about to be added to `x`: `delta · by`. Rows that are changed are added here, and nothing is left of them to add.
    pub(super) fn look_at_sum(
        &self,
        point: Point,
        block: usize,
        by: f32,
        x: &mut [f32],
        delta: &mut [f32],
        seen: &mut Seen,
    ) -> Result<(), Error> {
        let hidden = self.decoder.hidden_size;
        if by == 1.0 {
            return self.hook(point, Some(block), [1, hidden], delta);
        }
        if !self.wants(point, Some(block)) {
            return Ok(());
        }
        let added = &mut seen.rows[..delta.len()];
        added.copy_from_slice(delta);
        kernels::scale(self.exec, added, by);
        self.hook(point, Some(block), [1, hidden], added)?;
        let rows = x.chunks_exact_mut(hidden).zip(delta.chunks_exact_mut(hidden)).zip(added.chunks_exact(hidden));
        for ((x, delta), added) in rows {
            if delta.iter().zip(added).any(|(d, a)| (d * by).to_bits() != a.to_bits()) {
                x.iter_mut().zip(added).for_each(|(x, a)| *x += a);
                delta.fill(0.0);
            }
        }
        Ok(())
    }

    /// The output projection of a mixer, `delta = o(z)`, and what each head of `z: [n, heads, width]` has of it.
    pub(super) fn output(
        &self,
        i: usize,
        o: &BoundLinear,
        heads: usize,
        n: usize,
        ws: &mut Workspace,
    ) -> Result<(), Error> {
        let hidden = self.decoder.hidden_size;
        let width = self.bound.matrices[o.matrix].cols;
        let Workspace { z, delta, prepared, seen, .. } = ws;
        let (z, out) = (&z[..n * width], &mut delta[..n * hidden]);
        if !self.wants(Point::Result, Some(i)) {
            return self.products(z, n, prepared, &mut [Product { linear: o, out }]);
        }
        // The heads are rows of one product, so that the matrix is read once.
        let all = (1 + heads) * n;
        let (heads_in, heads_out) = (&mut seen.heads_in[..all * width], &mut seen.heads_out[..all * hidden]);
        let (first, parts) = heads_in.split_at_mut(n * width);
        first.copy_from_slice(z);
        parts.fill(0.0);
        let head_width = width / heads;
        for (z, parts) in z.chunks_exact(width).zip(parts.chunks_exact_mut(heads * width)) {
            for h in 0..heads {
                let at = h * head_width..(h + 1) * head_width;
                parts[h * width..(h + 1) * width][at.clone()].copy_from_slice(&z[at]);
            }
        }
        let bare = BoundLinear { matrix: o.matrix, bias: None, runs: Vec::new() };
        self.products(heads_in, all, prepared, &mut [Product { linear: &bare, out: &mut *heads_out }])?;
        let (whole, results) = heads_out.split_at_mut(n * hidden);
        let was = &mut seen.was[..heads * hidden];
        let rows = whole.chunks_exact_mut(hidden).zip(results.chunks_exact_mut(heads * hidden)).enumerate();
        for (r, (whole, results)) in rows {
            was.copy_from_slice(results);
            self.show(Point::Result, Some(i), &self.rows[r..=r], [heads, hidden], results)?;
            if !same(was, results) {
                whole.fill(0.0);
                results.chunks_exact(hidden).for_each(|head| whole.iter_mut().zip(head).for_each(|(w, h)| *w += h));
            }
            if let Some(bias) = &o.bias {
                whole.iter_mut().zip(bias).for_each(|(w, b)| *w += b);
            }
        }
        out.copy_from_slice(whole);
        Ok(())
    }

    /// Scores and patterns of attention in layer `i`, row by row; the `z: [n, n_heads, value_dim]` of heads that are changed is computed anew.
    pub(super) fn look_at_attention(
        &self,
        i: usize,
        shape: &Attention<'_>,
        q: &[f32],
        inputs: &[Input<'_>],
        z: &mut [f32],
        seen: &mut Seen,
    ) -> Result<(), Error> {
        let block = Some(i);
        if !self.wants(Point::AttnScores, block) && !self.wants(Point::Pattern, block) {
            return Ok(());
        }
        let Attention { n_heads, n_kv_heads, head_dim, value_dim, .. } = *shape;
        let mut row = 0;
        for input in inputs {
            let (begin, n) = (input.sequence.len(), input.tokens.len());
            let seen_at_most = begin + n;
            let stored = |part, width: usize, stored: &mut Vec<u8>, to: &mut Buffer| {
                let to = &mut to[..seen_at_most * n_kv_heads * width];
                stored_rows(input, i, part, [n_kv_heads, width], self.kv_format, stored, to);
            };
            stored(KvPart::Keys, head_dim, &mut seen.stored, &mut seen.keys);
            // Values are needed only where something was changed.
            let mut has_values = false;
            for t in 0..n {
                let keys = begin + t + 1;
                let (was, now) = (&mut seen.was[..n_heads * keys], &mut seen.now[..n_heads * keys]);
                let q = &q[row * n_heads * head_dim..(row + 1) * n_heads * head_dim];
                scores(shape, q, &seen.keys, keys, now);
                was.copy_from_slice(now);
                let rows = &self.rows[row..=row];
                self.show(Point::AttnScores, block, rows, [n_heads, keys], now)?;
                let mut changed: Vec<bool> =
                    was.chunks_exact(keys).zip(now.chunks_exact(keys)).map(|(a, b)| !same(a, b)).collect();
                for (h, head) in now.chunks_exact_mut(keys).enumerate() {
                    softmax(head, shape.sinks.map(|sinks| sinks[h]));
                }
                was.copy_from_slice(now);
                self.show(Point::Pattern, block, rows, [n_heads, keys], now)?;
                for (h, changed) in changed.iter_mut().enumerate() {
                    let at = h * keys..(h + 1) * keys;
                    *changed |= !same(&was[at.clone()], &now[at.clone()]);
                    if *changed {
                        if !std::mem::replace(&mut has_values, true) {
                            stored(KvPart::Values, value_dim, &mut seen.stored, &mut seen.values);
                        }
                        let kv_head = h / (n_heads / n_kv_heads);
                        let out = &mut z[(row * n_heads + h) * value_dim..][..value_dim];
                        out.fill(0.0);
                        for (p, value) in now[at].iter().zip(seen.values.chunks_exact(n_kv_heads * value_dim)) {
                            let value = &value[kv_head * value_dim..(kv_head + 1) * value_dim];
                            out.iter_mut().zip(value).for_each(|(o, v)| *o += p * v);
                        }
                    }
                }
                row += 1;
            }
        }
        Ok(())
    }

    /// The scores of all experts, before the choice.
    pub(super) fn look_at_scores(
        &self,
        i: usize,
        experts: &Experts,
        logits: &[f32],
        seen: &mut Seen,
    ) -> Result<(), Error> {
        if !self.wants(Point::ExpertWeights, Some(i)) || !crate::hooks::scores_all(experts) {
            return Ok(());
        }
        let scores = &mut seen.rows[..logits.len()];
        scores.copy_from_slice(logits);
        match experts.router.scores {
            Scores::Sigmoid => kernels::activate(self.exec, Activation::Sigmoid, scores),
            _ => scores.chunks_exact_mut(experts.n_experts).for_each(|row| softmax(row, None)),
        }
        self.hook(Point::ExpertWeights, Some(i), [1, experts.n_experts], scores)
    }
}

/// Mean (of a LayerNorm, else 0) and scale of a row.
pub(super) fn moments(norm: &BoundNorm, x: &[f32]) -> (f32, f32) {
    let n = x.len() as f64;
    let mean = match norm.norm().kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => x.iter().map(|x| f64::from(*x)).sum::<f64>() / n,
    };
    let square = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
    (mean as f32, (square + f64::from(norm.eps())).sqrt() as f32)
}

/// `normed = rows · weight + bias`, by the operations of the kernel.
pub(super) fn weigh(norm: &BoundNorm, rows: &[f32], normed: &mut [f32]) {
    let kernels::Norm { weight, bias, width, .. } = norm.norm();
    for (to, from) in normed.chunks_exact_mut(width).zip(rows.chunks_exact(width)) {
        to.copy_from_slice(from);
        if let Some(weight) = weight {
            to.iter_mut().zip(weight).for_each(|(y, w)| *y *= w);
        }
        if let Some(bias) = bias {
            to.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
        }
    }
}

/// Keys, or values, of all positions that are in the cache of layer `i`: `[positions, n_kv_heads, width]`.
fn stored_rows(
    input: &Input<'_>,
    i: usize,
    part: KvPart,
    [n_kv_heads, width]: [usize; 2],
    format: KvFormat,
    stored: &mut Vec<u8>,
    to: &mut [f32],
) {
    let row = n_kv_heads * width;
    let blocks = &input.sequence.layers[i].blocks;
    for (unit, to) in to.chunks_mut(KV_UNIT * row).enumerate() {
        let first = unit * KV_UNIT;
        let slots = first % KV_BLOCK..first % KV_BLOCK + to.len() / row;
        stored.resize(to.len() * format.bytes(), 0);
        let block = &blocks[first / KV_BLOCK];
        match part {
            KvPart::Keys => block.copy_keys(n_kv_heads, width, slots, stored),
            KvPart::Values => block.copy_values(n_kv_heads, width, slots, stored),
        }
        match format {
            KvFormat::F32 => {
                let (elements, _) = stored.as_chunks::<4>();
                to.iter_mut().zip(elements).for_each(|(to, bytes)| *to = f32::from_le_bytes(*bytes));
            }
            KvFormat::Bf16 => {
                let (elements, _) = stored.as_chunks::<2>();
                to.iter_mut().zip(elements).for_each(|(to, b)| *to = half::bf16::from_le_bytes(*b).to_f32());
            }
        }
    }
}

/// Scores of one row, `[n_heads, keys]`: scaled, capped, and −∞ where a position is not seen.
fn scores(shape: &Attention<'_>, q: &[f32], all: &[f32], keys: usize, out: &mut [f32]) {
    let Attention { n_heads, n_kv_heads, head_dim, scale, window, softcap, .. } = *shape;
    let first = window.map_or(0, |window| keys.saturating_sub(window));
    for (h, (q, out)) in q.chunks_exact(head_dim).zip(out.chunks_exact_mut(keys)).enumerate() {
        let kv_head = h / (n_heads / n_kv_heads);
        out[..first].fill(f32::NEG_INFINITY);
        for (j, score) in out.iter_mut().enumerate().skip(first) {
            let key = &all[(j * n_kv_heads + kv_head) * head_dim..][..head_dim];
            let scaled = dot(q, key) * scale;
            *score = softcap.map_or(scaled, |cap| libm::tanhf(scaled / cap) * cap);
        }
    }
}

/// A dot product over 16 sums.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<16>(), b.as_chunks::<16>());
    for (a, b) in a.iter().zip(b) {
        for lane in 0..16 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// The softmax of `x`, in place, of which a sink has a share. Without anything but −∞, and no sink: zeros.
fn softmax(x: &mut [f32], sink: Option<f32>) {
    let sink = sink.unwrap_or(f32::NEG_INFINITY);
    let max = x.iter().fold(sink, |max, x| max.max(*x));
    if max == f32::NEG_INFINITY {
        return x.fill(0.0);
    }
    let mut sum = f64::from(libm::expf(sink - max));
    for x in x.iter_mut() {
        *x = libm::expf(*x - max);
        sum += f64::from(*x);
    }
    x.iter_mut().for_each(|x| *x = (f64::from(*x) / sum) as f32);
}

/// Rows of a pass.
pub(crate) fn rows(inputs: &[Input<'_>]) -> (Vec<Row>, Vec<Row>) {
    let (mut all, mut wanted) = (Vec::new(), Vec::new());
    for (sequence, input) in inputs.iter().enumerate() {
        let (begin, end) = (input.sequence.len(), input.sequence.len() + input.tokens.len());
        all.extend((begin..end).map(|position| Row { sequence, position }));
        wanted.extend((end - super::wanted_rows(input)..end).map(|position| Row { sequence, position }));
    }
    (all, wanted)
}

/// Elements that the widest product of those who look on takes in the mode of `prepared`, whose own rows are fewer.
pub(super) fn prepared_for(sizes: &SeenSizes, elements: impl Fn(usize, usize) -> usize) -> usize {
    let (rows, width) = sizes.product;
    if rows == 0 { 0 } else { elements(rows, width) }
}
