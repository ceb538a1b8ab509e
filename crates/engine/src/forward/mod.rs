//! The forward pass. There is one: prefill, decode, batches of sequences of different lengths and chunks of a
//! prompt are all a flat list of rows `[n_rows, hidden]`, each row knowing its sequence and its position.
//!
//! Mirrors transformers' `LlamaDecoderLayer.forward` and its kin; the switches are in the [`Decoder`].

mod attention;
mod experts;
mod ffn;
mod latent;
mod look;
mod products;
mod recurrent;
mod screened;
mod unembed;
mod workspace;

pub(crate) use look::{Looks, rows};
pub(crate) use screened::{Screening, screen_bytes};
pub(crate) use unembed::held_norm;
pub(crate) use workspace::{Workspace, workspace_elements};

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use rheostat_kernels as kernels;
use rheostat_kernels::{Exec, KvFormat, SPAN_ROWS, Span};
use rheostat_store::{Checkpoint, Experts, Head, TensorInfo, Weights};

use crate::bind::{self, Bound, BoundNorm};
use crate::decoder::{Block, Decoder, Flow, Mixer};
use crate::error::Error;
use crate::hooks::{Look, Point, Row, ffn_out_is_apart, mixer_out_is_apart};
use crate::kv::{self, Sequence};
use crate::model::all_reads;
use crate::profile::{Op, Phase, Recorder};
use look::{NormPoints, Seen, weigh};
use products::Product;

/// In which numbers the matrix products are computed. Everything else is f32 in all modes.
///
/// Each has its own fixed order of operations, so that within a mode the results are the same bits whatever the
/// threads, the batch, the chunks, the instruction set and the memory budget.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Compute {
    /// f32 activations, weights widened exactly: agrees with `transformers` in f32.
    #[default]
    F32,
    /// Activations and weights rounded to bf16 before each product, sums in f32: faster where the CPU multiplies
    /// bf16, and as exact as bf16 is.
    Bf16,
    /// As [`Compute::Bf16`], with sums in the order of AMX, the matrix unit of some CPUs: there, prompts are read several times as
    /// fast. Other CPUs give the same bits, slowly.
    Amx,
    /// Products with packed int8 and int4 weights in integers, on activations rounded to 8-bit integers in blocks of
    /// 32 with a scale each, sums in f32; all other products as in [`Compute::F32`]. Decoding is as fast as memory
    /// allows, or nearly, and prompts are read faster. For models with packed weights only.
    Int8,
}

/// Where keys and values are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum KvPlace {
    /// In memory.
    Memory,
    /// In memory near the end of a text, else on disk.
    Disk,
}

impl Compute {
    /// The name that the command line has for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Compute::F32 => "f32",
            Compute::Bf16 => "bf16",
            Compute::Amx => "amx",
            Compute::Int8 => "int8",
        }
    }
}

/// A sequence's part of a pass: the tokens that follow what it has read so far.
pub struct Input<'a> {
    /// The sequence. It grows by the tokens.
    pub sequence: &'a mut Sequence,
    /// The tokens, at least one.
    pub tokens: &'a [u32],
    /// For which of them logits are wanted.
    pub want: Want,
}

/// For which rows of an [`Input`] logits are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// For none: the tokens are only read.
    Nothing,
    /// For the last.
    Last,
    /// For the last, of which only so many of the greatest logits matter: they, and whatever else might be one of them, are what they are. The
    /// others are about what they are, and less.
    Top(usize),
    /// For the last so many, or all if they are fewer.
    Tail(usize),
    /// For all.
    All,
}

/// What a pass gives: one row for each row that was wanted, in order.
#[derive(Clone, Copy, Debug)]
pub struct Output<'a> {
    /// `[wanted rows, vocab_size]`.
    pub logits: &'a [f32],
    /// `[wanted rows, hidden_size]`, after the final norm.
    pub final_hidden: &'a [f32],
}

/// What a pass reads and does not change.
pub(crate) struct Pass<'a, H> {
    pub(crate) decoder: &'a Decoder,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) bound: &'a Bound,
    pub(crate) weights: &'a Weights,
    /// The routed experts, of a model that has any.
    pub(crate) experts: Option<&'a Experts>,
    pub(crate) exec: &'a Exec,
    /// Set from outside when the pass is to be given up.
    pub(crate) cancel: &'a AtomicBool,
    /// Where the time goes.
    pub(crate) recorder: RefCell<&'a mut Recorder>,
    /// Who looks on.
    pub(crate) hooks: RefCell<H>,
    /// The rows, and those of them whose logits are wanted, if somebody looks on.
    pub(crate) rows: Vec<Row>,
    pub(crate) wanted: Vec<Row>,
    /// How the cache keeps keys and values.
    pub(crate) kv_format: KvFormat,
    /// What finds the greatest logit, if room was planned for it.
    pub(crate) screening: Option<RefCell<&'a mut Screening>>,
}

impl<H: Look> Pass<'_, H> {
    /// One pass over `inputs`, whose rows fit `ws`. On an error every sequence is as it was.
    pub(crate) fn run<'w>(&self, inputs: &mut [Input<'_>], ws: &'w mut Workspace) -> Result<Output<'w>, Error> {
        let result = self.blocks_and_head(inputs, ws);
        self.recorder.borrow_mut().end();
        for input in inputs.iter_mut() {
            match result {
                Ok(_) => input.sequence.advance(input.tokens.len()),
                // Room that was reserved is given back.
                Err(_) => input.sequence.undo(),
            }
        }
        if result.is_err()
            && let Some(experts) = self.experts
        {
            experts.reset();
        }
        let wanted = result?;
        // The next pass is taken to go on with the same sequences.
        kv::expect(inputs);
        Ok(ws.output(self.decoder, wanted))
    }

    /// The pass itself; returns the number of wanted rows, which are in `ws`.
    fn blocks_and_head(&self, inputs: &mut [Input<'_>], ws: &mut Workspace) -> Result<usize, Error> {
        let n: usize = inputs.iter().map(|i| i.tokens.len()).sum();
        let wanted: usize = inputs.iter().map(wanted_rows).sum();
        let reads = all_reads(self.weights, self.experts);
        self.recorder.borrow_mut().begin(phase(inputs), n, wanted, reads);
        for input in inputs.iter_mut() {
            input.sequence.reserve(input.tokens.len())?;
        }
        kv::expect(inputs);
        let top = self.top(inputs);
        let head = if wanted == 0 || top.is_some() && self.is_headless() { Head::Skip } else { Head::Use };
        self.weights.begin_sweep(head);
        self.embed(inputs, ws)?;
        self.done(Op::Embed);
        self.angles(inputs, ws);
        self.done(Op::Rotate);
        spans(inputs, &mut ws.spans);
        for (i, block) in self.decoder.blocks.iter().enumerate() {
            if self.cancel.load(Ordering::Relaxed) {
                return Err(Error::Cancelled);
            }
            self.recorder.borrow_mut().layer(Some(i));
            self.foresee(i, n, ws)?;
            self.block(i, block, n, inputs, ws)?;
        }
        self.recorder.borrow_mut().layer(None);
        self.head(inputs, wanted, top, ws)?;
        Ok(wanted)
    }

    /// `op` is done: the time since the step before it was spent on it, but for what was waited.
    fn done(&self, op: Op) {
        self.recorder.borrow_mut().done(op);
    }

    /// `x` = the tokens' rows of the embedding table, scaled, and those of their positions.
    fn embed(&self, inputs: &[Input<'_>], ws: &mut Workspace) -> Result<(), Error> {
        let hidden = self.decoder.hidden_size;
        let embed = &self.decoder.embed;
        let tokens: Vec<u32> = inputs.iter().flat_map(|i| i.tokens).copied().collect();
        self.gather(&self.bound.embed, &tokens, &mut ws.x, &mut ws.stored, &mut ws.gathered)?;
        let n: usize = inputs.iter().map(|i| i.tokens.len()).sum();
        let x = &mut ws.x[..n * hidden];
        if embed.scale != 1.0 {
            kernels::scale(self.exec, x, embed.scale);
        }
        self.hook(Point::Embed, None, [1, hidden], x)?;
        if let Some(table) = &self.bound.positions {
            let positions = inputs.iter().flat_map(|i| i.sequence.len()..i.sequence.len() + i.tokens.len());
            let positions: Vec<u32> = positions.map(|pos| pos as u32).collect();
            self.gather(table, &positions, &mut ws.normed, &mut ws.stored, &mut ws.gathered)?;
            self.hook(Point::PosEmbed, None, [1, hidden], &mut ws.normed[..n * hidden])?;
            kernels::add_assign(self.exec, x, &ws.normed[..n * hidden]);
        }
        Ok(())
    }

    /// `rows` of a table `[…, hidden]`, widened.
    fn gather(
        &self,
        table: &TensorInfo,
        rows: &[u32],
        to: &mut [f32],
        stored: &mut Vec<u8>,
        gathered: &mut u64,
    ) -> Result<(), Error> {
        let hidden = self.decoder.hidden_size;
        let format = bind::format(table.dtype());
        let row_bytes = format.row_bytes(hidden);
        let some = stored_together(row_bytes);
        for (rows, to) in rows.chunks(some).zip(to.chunks_mut(some * hidden)) {
            self.stored_rows(table, row_bytes, rows, stored, gathered)?;
            for (stored, x) in stored.chunks_exact(row_bytes).zip(to.chunks_exact_mut(hidden)) {
                kernels::widen(self.exec, stored, format, x);
            }
        }
        Ok(())
    }

    /// Sets `stored` to `rows` of a table, of `row_bytes` each: from memory if they are there, else from disk.
    fn stored_rows(
        &self,
        table: &TensorInfo,
        row_bytes: usize,
        rows: &[u32],
        stored: &mut Vec<u8>,
        gathered: &mut u64,
    ) -> Result<(), Error> {
        stored.resize(rows.len() * row_bytes, 0);
        let mut absent = Vec::new();
        for (row, to) in rows.iter().zip(stored.chunks_exact_mut(row_bytes)) {
            let start = *row as usize * row_bytes;
            match self.weights.resident(table, start, row_bytes) {
                Some(stored) => to.copy_from_slice(stored),
                None => absent.push((start as u64, to)),
            }
        }
        if absent.is_empty() {
            return Ok(());
        }
        self.recorder.borrow_mut().pause();
        let result = self.checkpoint.read_pieces(table, &mut absent);
        let mut recorder = self.recorder.borrow_mut();
        recorder.resume();
        result?;
        let bytes = absent.len() * row_bytes;
        *gathered += bytes as u64;
        recorder.gathered(bytes);
        Ok(())
    }

    /// `cos` and `sin` of every row's position, for each rotary embedding.
    fn angles(&self, inputs: &[Input<'_>], ws: &mut Workspace) {
        for (rope, angles) in self.decoder.ropes.iter().zip(&mut ws.angles) {
            let half = rope.dim() / 2;
            let rows = inputs.iter().flat_map(|i| (0..i.tokens.len()).map(|t| (&*i.sequence, i.sequence.len() + t)));
            for (r, (sequence, pos)) in rows.enumerate() {
                let at = r * half..(r + 1) * half;
                let len = sequence.text_len(pos);
                rope.angles(pos, len, &mut angles.cos[at.clone()], &mut angles.sin[at]);
            }
        }
    }

    /// A block: what its mixer and its feed-forward give is added to the residual stream.
    ///
    /// Mirrors transformers' `LlamaDecoderLayer.forward`, `Gemma2DecoderLayer.forward`, `GPTNeoXLayer.forward` and their kin.
    fn block(
        &self,
        i: usize,
        block: &Block,
        n: usize,
        inputs: &mut [Input<'_>],
        ws: &mut Workspace,
    ) -> Result<(), Error> {
        let bound = &self.bound.blocks[i];
        let hidden = self.decoder.hidden_size;
        let (len, at, shape) = (n * hidden, Some(i), [1, hidden]);
        self.hook(Point::ResidPre, at, shape, &mut ws.x[..len])?;
        let norm = bound.mixer_norm.as_ref();
        self.norm_into(NormPoints::LN1, at, norm, &ws.x[..len], &mut ws.normed[..len], &mut ws.seen)?;
        match &block.mixer {
            Mixer::Attention(mixer) => self.attention(i, mixer, n, inputs, ws)?,
            Mixer::Latent(mixer) => self.latent(i, mixer, n, inputs, ws)?,
            Mixer::Delta(mixer) => self.linear_attention(i, mixer, n, inputs, ws)?,
            Mixer::Conv(mixer) => self.short_conv(i, mixer, n, inputs, ws)?,
        }
        if mixer_out_is_apart(block) {
            self.hook(Point::MixerOut, at, shape, &mut ws.delta[..len])?;
        }
        let norm = bound.mixer_post_norm.as_ref();
        self.norm_in_place(NormPoints::LN1_POST, at, norm, &mut ws.delta[..len], &mut ws.seen)?;
        let norm = bound.ffn_norm.as_ref();
        match block.flow {
            Flow::Serial => {
                self.add(Point::AttnOut, i, block, &mut ws.x[..len], &mut ws.delta[..len], &mut ws.seen)?;
                self.hook(Point::ResidMid, at, shape, &mut ws.x[..len])?;
                self.norm_into(NormPoints::LN2, at, norm, &ws.x[..len], &mut ws.normed[..len], &mut ws.seen)?;
            }
            Flow::Parallel => {
                // Without a norm of its own, what the mixer took is still there.
                if norm.is_some() {
                    self.norm_into(NormPoints::LN2, at, norm, &ws.x[..len], &mut ws.normed[..len], &mut ws.seen)?;
                }
                self.add(Point::AttnOut, i, block, &mut ws.x[..len], &mut ws.delta[..len], &mut ws.seen)?;
            }
        }
        self.feed_forward(i, &block.ffn, n, ws)?;
        if ffn_out_is_apart(block) {
            self.hook(Point::FfnOut, at, shape, &mut ws.delta[..len])?;
        }
        let norm = bound.ffn_post_norm.as_ref();
        self.norm_in_place(NormPoints::LN2_POST, at, norm, &mut ws.delta[..len], &mut ws.seen)?;
        self.add(Point::MlpOut, i, block, &mut ws.x[..len], &mut ws.delta[..len], &mut ws.seen)?;
        self.hook(Point::ResidPost, at, shape, &mut ws.x[..len])
    }

    /// `normed = norm(x)`; without a norm, `x`.
    fn norm_into(
        &self,
        points: NormPoints,
        block: Option<usize>,
        norm: Option<&BoundNorm>,
        x: &[f32],
        normed: &mut [f32],
        seen: &mut Seen,
    ) -> Result<(), Error> {
        let Some(norm) = norm else {
            normed.copy_from_slice(x);
            self.done(Op::Norm);
            return Ok(());
        };
        if self.look_into_norm(points, block, norm, x, seen)? {
            weigh(norm, &seen.rows[..x.len()], normed);
        } else {
            kernels::norm(self.exec, &norm.norm(), 1, x, normed);
        }
        self.done(Op::Norm);
        match points.out {
            Some(out) => self.hook(out, block, [1, norm.norm().width], normed),
            None => Ok(()),
        }
    }

    fn norm_in_place(
        &self,
        points: NormPoints,
        block: Option<usize>,
        norm: Option<&BoundNorm>,
        x: &mut [f32],
        seen: &mut Seen,
    ) -> Result<(), Error> {
        let Some(norm) = norm else { return Ok(()) };
        if self.look_into_norm(points, block, norm, x, seen)? {
            weigh(norm, &seen.rows[..x.len()], x);
        } else {
            kernels::norm_in_place(self.exec, &norm.norm(), 1, x);
        }
        self.done(Op::Norm);
        Ok(())
    }

    /// `x += delta`, scaled as the block says.
    fn add(
        &self,
        point: Point,
        i: usize,
        block: &Block,
        x: &mut [f32],
        delta: &mut [f32],
        seen: &mut Seen,
    ) -> Result<(), Error> {
        self.look_at_sum(point, i, block.residual_scale, x, delta, seen)?;
        if block.residual_scale == 1.0 {
            kernels::add_assign(self.exec, x, delta);
        } else {
            kernels::scaled_add_assign(self.exec, x, delta, block.residual_scale);
        }
        self.done(Op::Residual);
        Ok(())
    }

    /// The final norm and the output projection, for the wanted rows only.
    fn head(&self, inputs: &[Input<'_>], wanted: usize, top: Option<usize>, ws: &mut Workspace) -> Result<(), Error> {
        if wanted == 0 {
            return Ok(());
        }
        let hidden = self.decoder.hidden_size;
        // Wanted rows move to the front of `delta`.
        let (mut row, mut to) = (0, 0);
        for input in inputs {
            let end = row + input.tokens.len();
            let count = wanted_rows(input);
            let from = &ws.x[(end - count) * hidden..end * hidden];
            ws.delta[to * hidden..(to + count) * hidden].copy_from_slice(from);
            (row, to) = (end, to + count);
        }
        self.head_of_rows(wanted, top, ws)
    }

    /// The same of the first rows of `delta`, so many as are wanted; of a single one perhaps only the `top` greatest logits.
    fn head_of_rows(&self, wanted: usize, top: Option<usize>, ws: &mut Workspace) -> Result<(), Error> {
        let hidden = self.decoder.hidden_size;
        let final_hidden = &mut ws.final_hidden[..wanted * hidden];
        let (norm, x) = (Some(&self.bound.norm), &ws.delta[..wanted * hidden]);
        self.norm_into(NormPoints::LN_FINAL, None, norm, x, final_hidden, &mut ws.seen)?;
        if let Some(most) = top
            && self.screened(most, ws)?
        {
            self.done(Op::Head);
            return Ok(());
        }
        let final_hidden = &ws.final_hidden[..wanted * hidden];
        let logits = &mut ws.logits[..wanted * self.decoder.vocab_size];
        let product = Product { linear: &self.bound.head, out: logits };
        self.products(final_hidden, wanted, &mut ws.prepared, &mut [product])?;
        let logits = &mut ws.logits[..wanted * self.decoder.vocab_size];
        let crate::decoder::Logits { scale, soft_cap } = self.decoder.logits;
        if scale != 1.0 {
            kernels::scale(self.exec, logits, scale);
        }
        if let Some(cap) = soft_cap {
            kernels::soft_cap(self.exec, logits, cap);
        }
        self.done(Op::Head);
        self.hook(Point::Logits, None, [1, self.decoder.vocab_size], logits)
    }
}

pub(crate) fn wanted_rows(input: &Input<'_>) -> usize {
    match input.want {
        Want::Nothing => 0,
        Want::Last | Want::Top(_) => 1,
        Want::Tail(rows) => rows.min(input.tokens.len()),
        Want::All => input.tokens.len(),
    }
}

/// How many rows of a table are looked up together.
fn stored_together(row_bytes: usize) -> usize {
    ((256 << 10) / row_bytes).max(1)
}

/// What a pass is for. A sequence whose guesses are checked wants the logits of all of its rows.
fn phase(inputs: &[Input<'_>]) -> Phase {
    let reads = |i: &Input<'_>| i.sequence.is_empty() || i.tokens.len() > wanted_rows(i).max(1);
    if inputs.iter().any(reads) { Phase::Prefill } else { Phase::Decode }
}

/// Cuts each sequence's rows into spans.
fn spans(inputs: &[Input<'_>], spans: &mut Vec<Span>) {
    spans.clear();
    let mut row = 0;
    for (seq, input) in inputs.iter().enumerate() {
        let n = input.tokens.len();
        for t in (0..n).step_by(SPAN_ROWS) {
            let len = SPAN_ROWS.min(n - t);
            spans.push(Span { row: row + t, len, seq, pos: input.sequence.len() + t });
        }
        row += n;
    }
}
