//! Multi-head latent attention over its compressed cache.
//!
//! Mirrors transformers' `DeepseekV3Attention.forward`, which makes keys and values of every position from the compressed
//! vectors. Here `W_k` and `W_v` go to the other side of the products instead: a query is brought into the space of the compressed
//! vectors (`q · W_k`), meets them there as one key-value head for all query heads, and `W_v` is applied to what comes out. So the cache
//! holds `kv_rank + rope_dim` numbers of a position, and nothing is made anew of it.

use rheostat_kernels as kernels;
use rheostat_kernels::{Attention, Matrix, Run};

use super::products::Product;
use super::workspace::Workspace;
use super::{Input, Pass};
use crate::decoder::{Latent, LatentQueries, Part};
use crate::error::Error;
use crate::hooks::{Look, Point};
use crate::profile::Op;

impl<H: Look> Pass<'_, H> {
    /// `delta = o(attention)` of `normed`.
    pub(super) fn latent(
        &self,
        i: usize,
        mixer: &Latent,
        n: usize,
        inputs: &mut [Input<'_>],
        ws: &mut Workspace,
    ) -> Result<(), Error> {
        let bound = &self.bound.blocks[i];
        let hidden = self.decoder.hidden_size;
        let Latent { n_heads, nope_dim: nope, rope_dim: rope, value_dim, kv_rank: rank, .. } = *mixer;
        let (q_dim, key_dim) = (nope + rope, rank + rope);
        let q = &mut ws.parts[Part::Query as usize][..n * n_heads * q_dim];
        let normed = &ws.normed[..n * hidden];
        let kv = &mut ws.latent.kv[..n * key_dim];
        let [.., kv_a, kv_b, o] = &bound.mixer[..] else { unreachable!("as `Mixer::linears` says") };
        let norms = &bound.mixer_norms;
        let (block, q_shape) = (Some(i), [n_heads, q_dim]);
        match &mixer.q {
            LatentQueries::Direct(_) => {
                self.products(normed, n, &mut ws.prepared, &mut [Product { linear: &bound.mixer[0], out: q }])?;
            }
            LatentQueries::Compressed { a, .. } => {
                let (low, low_normed) = ws.latent.q_low[..2 * n * a.out_features].split_at_mut(n * a.out_features);
                self.products(normed, n, &mut ws.prepared, &mut [Product { linear: &bound.mixer[0], out: low }])?;
                self.done(Op::Qkv);
                let shape = [1, a.out_features];
                self.hook(Point::QLow, block, shape, low)?;
                kernels::norm(self.exec, &norms[0].norm(), 1, low, low_normed);
                self.done(Op::Norm);
                self.hook(Point::QLowNormed, block, shape, low_normed)?;
                let product = Product { linear: &bound.mixer[1], out: q };
                self.products(low_normed, n, &mut ws.prepared, &mut [product])?;
            }
        }
        self.products(normed, n, &mut ws.prepared, &mut [Product { linear: kv_a, out: kv }])?;
        self.done(Op::Qkv);
        self.hook(Point::Q, block, q_shape, q)?;
        self.hook(Point::KvLow, block, [1, key_dim], kv)?;
        let angles = &ws.angles[mixer.rotary.rope];
        let half = self.decoder.ropes[mixer.rotary.rope].dim() / 2;
        let (cos, sin) = (&angles.cos[..n * half], &angles.sin[..n * half]);
        kernels::rotate(self.exec, q, n_heads, q_dim, nope, mixer.rotary.pairing, cos, sin);
        kernels::rotate(self.exec, kv, 1, key_dim, rank, mixer.rotary.pairing, cos, sin);
        self.done(Op::Rotate);
        self.hook_columns(Point::RotQ, i, [n_heads, q_dim], nope, q, &mut ws.seen.rotated)?;
        self.hook_columns(Point::RotK, i, [1, key_dim], rank, kv, &mut ws.seen.rotated)?;
        // The compressed vectors, normed, then the rotated keys: a key as it is kept, and its first part as the value.
        let whole = &mut ws.whole[..n * rank];
        kernels::copy_columns(self.exec, kv, key_dim, &[Run { from: 0, to: 0, len: rank }], whole, rank);
        let kv_norm = &norms[norms.len() - 1];
        kernels::norm_in_place(self.exec, &kv_norm.norm(), 1, whole);
        self.hook(Point::Latent, block, [1, rank], whole)?;
        kernels::copy_columns(self.exec, whole, rank, &[Run { from: 0, to: 0, len: rank }], kv, key_dim);
        self.done(Op::Norm);
        let mut at = 0;
        for input in inputs.iter_mut() {
            let rows = at..at + input.tokens.len();
            at = rows.end;
            let (keys, values) =
                (&kv[rows.start * key_dim..rows.end * key_dim], &whole[rows.start * rank..rows.end * rank]);
            input.sequence.write(self.exec, i, keys, values);
        }
        self.done(Op::Cache);
        // The matrix of all heads stays at hand until both of its sides were used.
        let tile = self.weights.plan().tiles_of(kv_b.matrix).start;
        let info = &self.bound.matrices[kv_b.matrix];
        let tile = self.acquire(tile)?;
        let kv_b = info.matrix(tile.parts(), info.rows);
        let latent_q = &mut ws.latent.q[..n * n_heads * key_dim];
        for h in 0..n_heads {
            let head_in = &mut ws.latent.head_in[..n * nope];
            let (from, to) = (h * q_dim, h * key_dim);
            kernels::copy_columns(self.exec, q, n_heads * q_dim, &[Run { from, to: 0, len: nope }], head_in, nope);
            let head_out = &mut ws.latent.head_out[..n * rank];
            let keys = self.some_rows(&kv_b, h * (nope + value_dim), nope, &mut ws.latent.weights).turned();
            self.product(head_in, n, &mut ws.prepared, keys, None, head_out);
            let run = [Run { from: 0, to, len: rank }];
            kernels::copy_columns(self.exec, head_out, rank, &run, latent_q, n_heads * key_dim);
        }
        let rotated: Vec<Run> =
            (0..n_heads).map(|h| Run { from: h * q_dim + nope, to: h * key_dim + rank, len: rope }).collect();
        kernels::copy_columns(self.exec, q, n_heads * q_dim, &rotated, latent_q, n_heads * key_dim);
        self.done(Op::Qkv);
        let shape = Attention {
            n_heads,
            n_kv_heads: 1,
            head_dim: key_dim,
            value_dim: rank,
            scale: mixer.scale,
            window: None,
            softcap: None,
            sinks: None,
        };
        let latent_z = &mut ws.latent.z[..n * n_heads * rank];
        let room = (&mut ws.gathering[..], &mut ws.in_memory);
        self.attend(i, &shape, latent_q, &ws.spans, inputs, room, latent_z, &mut ws.seen)?;
        let z = &mut ws.z[..n * n_heads * value_dim];
        for h in 0..n_heads {
            let head_in = &mut ws.latent.head_in[..n * rank];
            let run = [Run { from: h * rank, to: 0, len: rank }];
            kernels::copy_columns(self.exec, latent_z, n_heads * rank, &run, head_in, rank);
            let head_out = &mut ws.latent.head_out[..n * value_dim];
            let first = h * (nope + value_dim) + nope;
            let values = self.some_rows(&kv_b, first, value_dim, &mut ws.latent.weights);
            self.product(head_in, n, &mut ws.prepared, values, None, head_out);
            let run = [Run { from: 0, to: h * value_dim, len: value_dim }];
            kernels::copy_columns(self.exec, head_out, value_dim, &run, z, n_heads * value_dim);
        }
        drop(tile);
        self.hook(Point::Z, block, [n_heads, value_dim], z)?;
        self.output(i, o, n_heads, n, ws)?;
        self.done(Op::Output);
        Ok(())
    }

    /// Shows the last columns of every head of `x: [n, heads, width]`, from `first` on.
    fn hook_columns(
        &self,
        point: Point,
        i: usize,
        [heads, width]: [usize; 2],
        first: usize,
        x: &mut [f32],
        room: &mut [f32],
    ) -> Result<(), Error> {
        if !self.wants(point, Some(i)) {
            return Ok(());
        }
        let len = width - first;
        let columns = &mut room[..x.len() / width * len];
        let (row, own) = (heads * width, heads * len);
        let runs: Vec<Run> = (0..heads).map(|h| Run { from: h * width + first, to: h * len, len }).collect();
        kernels::copy_columns(self.exec, x, row, &runs, columns, own);
        self.hook(point, Some(i), [heads, len], columns)?;
        let back: Vec<Run> = runs.iter().map(|run| Run { from: run.to, to: run.from, len }).collect();
        kernels::copy_columns(self.exec, columns, own, &back, x, row);
        Ok(())
    }

    /// Rows of a matrix: where they lie, or widened into `room` if what is stored are not simply numbers.
    fn some_rows<'m>(&self, matrix: &Matrix<'m>, first: usize, count: usize, room: &'m mut [f32]) -> Matrix<'m> {
        if matrix.format().transposed().is_some() {
            return matrix.some_rows(first, count);
        }
        let room = &mut room[..count * matrix.cols()];
        kernels::widen_rows(self.exec, matrix, first..first + count, room);
        Matrix::of_f32(room, count, matrix.cols())
    }
}
