//! The forward pass. There is one: prefill, decode, batches of sequences of different lengths and chunks of a
//! prompt are all a flat list of rows `[n_rows, hidden]`, each row knowing its sequence and its position.
//!
//! Mirrors transformers' `LlamaDecoderLayer.forward` and its kin; the switches are in the [`Decoder`].

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use rheostat_kernels as kernels;
use rheostat_kernels::{
    Attention, Buffer, Columns, Exec, Format, Gathering, KvBlock, KvSource, Linear, Matrix, Norm, NormKind, Pairing,
    Quantized, Rounded, Rows, SPAN_ROWS, Span,
};
use rheostat_store::{Checkpoint, Head, Place, TileBytes, Weights};

use crate::bind::{self, Bound, MATRICES, MatrixInfo};
use crate::decoder::{Block, Decoder};
use crate::error::Error;
use crate::kv::{self, Sequence};
use crate::profile::{Op, Phase, Recorder};

/// In which numbers the matrix products are computed. Everything else is f32 in both modes.
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
    /// Products with packed int8 and int4 weights in integers, on activations rounded to 8-bit integers in blocks of
    /// 32 with a scale each, sums in f32; all other products as in [`Compute::F32`]. Decoding is as fast as memory
    /// allows. For models with packed weights only.
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

/// Looks on while a pass goes by. Points carry the names of TransformerLens.
pub trait Observer {
    /// `blocks.{block}.hook_resid_post`, `[rows, hidden_size]`: the residual stream after a block.
    fn resid_post(&mut self, block: usize, rows: &[f32]);
}

/// Nobody looks on.
impl Observer for () {
    #[inline(always)]
    fn resid_post(&mut self, _block: usize, _rows: &[f32]) {}
}

/// The buffers of a pass, taken once. Their shapes are for `rows` rows.
pub(crate) struct Workspace {
    /// Residual stream `[rows, hidden]`.
    x: Buffer,
    /// Normed input of a sublayer `[rows, hidden]`.
    normed: Buffer,
    /// What a sublayer adds `[rows, hidden]`.
    delta: Buffer,
    /// `[rows, n_heads, head_dim]`.
    q: Buffer,
    /// `[rows, n_kv_heads, head_dim]`.
    k: Buffer,
    /// `[rows, n_kv_heads, head_dim]`.
    v: Buffer,
    /// Attention's result `[rows, n_heads, head_dim]`.
    z: Buffer,
    /// `[rows, intermediate]`.
    gate: Buffer,
    /// `[rows, intermediate]`.
    up: Buffer,
    /// Rotary angles `[rows, dim / 2]`.
    cos: Buffer,
    sin: Buffer,
    /// Wanted rows `[logit_rows, hidden]`, after the final norm.
    final_hidden: Buffer,
    /// `[logit_rows, vocab]`.
    logits: Buffer,
    /// The input of the products at hand, in the form that the mode wants.
    prepared: Prepared,
    /// Stored bytes of an embedding row.
    row: Vec<u8>,
    spans: Vec<Span>,
    /// With a cache on disk, of attention that takes its blocks from there: `[rows, n_heads, 2]`.
    gathering: Buffer,
    /// The spans that need none of them in a layer.
    in_memory: Vec<Span>,
    /// Bytes of embedding rows read from disk so far.
    gathered: u64,
}

/// Room for the input of a product in the form that the mode wants.
enum Prepared {
    F32,
    Bf16(Rounded),
    Int8(Quantized),
}

impl Prepared {
    fn new(compute: Compute, elements: usize) -> Prepared {
        match compute {
            Compute::F32 => Prepared::F32,
            Compute::Bf16 => Prepared::Bf16(Rounded::new(elements)),
            Compute::Int8 => Prepared::Int8(Quantized::new(elements)),
        }
    }

    /// `x: [n, in_features]` for products with weights of `format`.
    fn rows<'a>(&'a mut self, exec: &Exec, x: &'a [f32], n: usize, format: Format) -> Rows<'a> {
        let cols = x.len() / n;
        match (self, format) {
            (Prepared::Bf16(rounded), _) => {
                rounded.set(exec, x, n, cols);
                Rows::Bf16(rounded)
            }
            (Prepared::Int8(quantized), Format::Packed(packed)) => {
                quantized.set(exec, x, n, cols, packed.bits);
                Rows::Int8(quantized)
            }
            (Prepared::F32 | Prepared::Int8(_), _) => Rows::F32(x),
        }
    }
}

/// The widest of each kind of buffer over all blocks.
struct Widths {
    q: usize,
    kv: usize,
    intermediate: usize,
}

fn widths(decoder: &Decoder) -> Widths {
    let max = |f: fn(&Block) -> usize| decoder.blocks.iter().map(f).max().unwrap_or(0);
    Widths {
        q: max(|b| b.mixer.q.out_features),
        kv: max(|b| b.mixer.k.out_features),
        intermediate: max(|b| b.ffn.gate.out_features),
    }
}

/// f32 elements of a workspace.
pub(crate) fn workspace_elements(
    decoder: &Decoder,
    rows: usize,
    logit_rows: usize,
    compute: Compute,
    place: KvPlace,
) -> u64 {
    let Widths { q, kv, intermediate } = widths(decoder);
    let row = 3 * decoder.hidden_size + 2 * q + 2 * kv + 2 * intermediate + decoder.rope.dim();
    let logit_row = decoder.hidden_size + decoder.vocab_size;
    let gathering = gathering_elements(decoder, rows, place);
    (rows * row + logit_rows * logit_row + gathering + prepared_elements(decoder, rows, logit_rows, compute)) as u64
}

/// f32 elements of what goes with totals of attention.
fn gathering_elements(decoder: &Decoder, rows: usize, place: KvPlace) -> usize {
    match place {
        KvPlace::Memory => 0,
        KvPlace::Disk => 2 * rows * decoder.blocks.iter().map(|b| b.mixer.n_heads).max().unwrap_or(0),
    }
}

/// f32 elements of the input of a product in the form that the mode wants.
fn prepared_elements(decoder: &Decoder, rows: usize, logit_rows: usize, compute: Compute) -> usize {
    let Widths { q, intermediate, .. } = widths(decoder);
    let elements = match compute {
        Compute::F32 => return 0,
        Compute::Bf16 => Rounded::elements,
        Compute::Int8 => Quantized::elements,
    };
    let widest = decoder.hidden_size.max(q).max(intermediate);
    elements(rows, widest).max(elements(logit_rows, decoder.hidden_size))
}

impl Workspace {
    pub(crate) fn new(
        decoder: &Decoder,
        rows: usize,
        logit_rows: usize,
        compute: Compute,
        place: KvPlace,
    ) -> Workspace {
        let prepared = prepared_elements(decoder, rows, logit_rows, compute);
        let Widths { q, kv, intermediate } = widths(decoder);
        let buffer = |width: usize| Buffer::new(rows * width);
        let hidden = decoder.hidden_size;
        Workspace {
            x: buffer(hidden),
            normed: buffer(hidden),
            delta: buffer(hidden),
            q: buffer(q),
            k: buffer(kv),
            v: buffer(kv),
            z: buffer(q),
            gate: buffer(intermediate),
            up: buffer(intermediate),
            cos: buffer(decoder.rope.dim() / 2),
            sin: buffer(decoder.rope.dim() / 2),
            final_hidden: Buffer::new(logit_rows * hidden),
            logits: Buffer::new(logit_rows * decoder.vocab_size),
            prepared: Prepared::new(compute, prepared),
            row: Vec::new(),
            spans: Vec::new(),
            gathering: Buffer::new(gathering_elements(decoder, rows, place)),
            in_memory: Vec::new(),
            gathered: 0,
        }
    }

    pub(crate) fn gathered(&self) -> u64 {
        self.gathered
    }

    /// The logits of the last pass, in the first rows.
    pub(crate) fn logits(&self) -> &[f32] {
        &self.logits
    }
}

/// What a pass reads and does not change.
pub(crate) struct Pass<'a> {
    pub(crate) decoder: &'a Decoder,
    pub(crate) checkpoint: &'a Checkpoint,
    pub(crate) bound: &'a Bound,
    pub(crate) weights: &'a Weights,
    pub(crate) exec: &'a Exec,
    /// Set from outside when the pass is to be given up.
    pub(crate) cancel: &'a AtomicBool,
    /// Where the time goes.
    pub(crate) recorder: RefCell<&'a mut Recorder>,
}

/// The keys and values of one layer, for the kernel.
struct Layer<'a, 'b> {
    inputs: &'a [Input<'b>],
    layer: usize,
}

impl KvSource for Layer<'_, '_> {
    fn blocks(&self, seq: usize) -> &[KvBlock] {
        &self.inputs[seq].sequence.layers[self.layer].blocks
    }

    fn first_block(&self, seq: usize) -> usize {
        self.inputs[seq].sequence.layers[self.layer].first
    }
}

impl Pass<'_> {
    /// One pass over `inputs`, whose rows fit `ws`. On an error every sequence is as it was.
    pub(crate) fn run<'w, O: Observer>(
        &self,
        inputs: &mut [Input<'_>],
        ws: &'w mut Workspace,
        observer: &mut O,
    ) -> Result<Output<'w>, Error> {
        let result = self.blocks_and_head(inputs, ws, observer);
        self.recorder.borrow_mut().end();
        for input in inputs.iter_mut() {
            match result {
                Ok(_) => input.sequence.advance(input.tokens.len()),
                // Room that was reserved is given back.
                Err(_) => input.sequence.truncate(input.sequence.len()),
            }
        }
        let wanted = result?;
        // The next pass is taken to go on with the same sequences.
        kv::expect(inputs);
        Ok(Output {
            logits: &ws.logits[..wanted * self.decoder.vocab_size],
            final_hidden: &ws.final_hidden[..wanted * self.decoder.hidden_size],
        })
    }

    /// The pass itself; returns the number of wanted rows, which are in `ws`.
    fn blocks_and_head<O: Observer>(
        &self,
        inputs: &mut [Input<'_>],
        ws: &mut Workspace,
        observer: &mut O,
    ) -> Result<usize, Error> {
        let n: usize = inputs.iter().map(|i| i.tokens.len()).sum();
        let wanted: usize = inputs.iter().map(wanted_rows).sum();
        self.recorder.borrow_mut().begin(phase(inputs), n, wanted, self.weights.reads());
        for input in inputs.iter_mut() {
            input.sequence.reserve(input.tokens.len())?;
        }
        kv::expect(inputs);
        self.weights.begin_sweep(if wanted > 0 { Head::Use } else { Head::Skip });
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
            self.attention(i, block, n, inputs, ws)?;
            self.feed_forward(i, block, n, ws)?;
            observer.resid_post(i, &ws.x[..n * self.decoder.hidden_size]);
        }
        self.recorder.borrow_mut().layer(None);
        self.head(inputs, wanted, ws)?;
        Ok(wanted)
    }

    /// `op` is done: the time since the step before it was spent on it, but for what was waited.
    fn done(&self, op: Op) {
        self.recorder.borrow_mut().done(op);
    }

    /// A tile, for which the wait is counted apart.
    fn acquire(&self, tile: usize) -> Result<TileBytes<'_>, Error> {
        self.recorder.borrow_mut().pause();
        let tile = self.weights.acquire(tile);
        self.recorder.borrow_mut().resume();
        Ok(tile?)
    }

    /// `x` = the tokens' rows of the embedding table, from memory if the table is there, else from disk.
    fn embed(&self, inputs: &[Input<'_>], ws: &mut Workspace) -> Result<(), Error> {
        let hidden = self.decoder.hidden_size;
        let table = &self.bound.embed;
        let format = bind::format(table.dtype());
        let row_bytes = format.row_bytes(hidden);
        let tokens = inputs.iter().flat_map(|i| i.tokens);
        for (token, x) in tokens.zip(ws.x.chunks_exact_mut(hidden)) {
            let start = *token as usize * row_bytes;
            let row = match self.weights.resident(table, start, row_bytes) {
                Some(row) => row,
                None => {
                    ws.row.resize(row_bytes, 0);
                    self.recorder.borrow_mut().pause();
                    self.checkpoint.read_range(table, start as u64, &mut ws.row)?;
                    ws.gathered += row_bytes as u64;
                    self.recorder.borrow_mut().resume();
                    self.recorder.borrow_mut().gathered(row_bytes);
                    &ws.row
                }
            };
            kernels::widen(self.exec, row, format, x);
        }
        Ok(())
    }

    /// `cos` and `sin` of every row's position.
    fn angles(&self, inputs: &[Input<'_>], ws: &mut Workspace) {
        let half = self.decoder.rope.dim() / 2;
        let rows = inputs.iter().flat_map(|i| (0..i.tokens.len()).map(|t| (&*i.sequence, i.sequence.len() + t)));
        for (r, (sequence, pos)) in rows.enumerate() {
            let at = r * half..(r + 1) * half;
            let len = sequence.text_len(pos);
            self.decoder.rope.angles(pos, len, &mut ws.cos[at.clone()], &mut ws.sin[at]);
        }
    }

    /// `x += o(attention(q, k, v))` with `q`, `k`, `v` from `norm(x)`.
    fn attention(
        &self,
        i: usize,
        block: &Block,
        n: usize,
        inputs: &mut [Input<'_>],
        ws: &mut Workspace,
    ) -> Result<(), Error> {
        let mixer = &block.mixer;
        let vectors = &self.bound.blocks[i];
        let hidden = self.decoder.hidden_size;
        let (width, kv_width) = (mixer.q.out_features, mixer.k.out_features);
        let normed = &mut ws.normed[..n * hidden];
        let (q, k, v) = (&mut ws.q[..n * width], &mut ws.k[..n * kv_width], &mut ws.v[..n * kv_width]);
        let x = &mut ws.x[..n * hidden];
        kernels::norm(self.exec, &rms(&vectors.mixer_norm, block.mixer_norm.eps), 1, x, normed);
        self.done(Op::Norm);
        let bias = |m: usize| vectors.biases[m].as_deref();
        let first = i * MATRICES;
        self.products(
            normed,
            n,
            &mut ws.prepared,
            [
                Product { matrix: first, bias: bias(0), out: q },
                Product { matrix: first + 1, bias: bias(1), out: k },
                Product { matrix: first + 2, bias: bias(2), out: v },
            ],
        )?;
        self.done(Op::Qkv);
        if let (Some((q_weight, k_weight)), Some(norms)) = (&vectors.qk_norm, &mixer.qk_norm) {
            kernels::norm_in_place(self.exec, &rms(q_weight, norms.q.eps), mixer.n_heads, q);
            kernels::norm_in_place(self.exec, &rms(k_weight, norms.k.eps), mixer.n_kv_heads, k);
            self.done(Op::Norm);
        }
        let half = self.decoder.rope.dim() / 2;
        let (cos, sin) = (&ws.cos[..n * half], &ws.sin[..n * half]);
        kernels::rotate(self.exec, q, mixer.n_heads, mixer.head_dim, 0, Pairing::Half, cos, sin);
        kernels::rotate(self.exec, k, mixer.n_kv_heads, mixer.head_dim, 0, Pairing::Half, cos, sin);
        self.done(Op::Rotate);
        let mut at = 0;
        for input in inputs.iter_mut() {
            let rows = at..at + input.tokens.len() * kv_width;
            at = rows.end;
            input.sequence.write(self.exec, i, &k[rows.clone()], &v[rows]);
        }
        self.done(Op::Cache);
        let shape = Attention {
            n_heads: mixer.n_heads,
            n_kv_heads: mixer.n_kv_heads,
            head_dim: mixer.head_dim,
            value_dim: mixer.head_dim,
            scale: mixer.scale,
            window: mixer.window,
            softcap: None,
            sinks: None,
        };
        let z = &mut ws.z[..n * width];
        if inputs[0].sequence.disk().is_none() {
            kernels::attention(self.exec, &shape, q, &ws.spans, &Layer { inputs, layer: i }, z);
        } else {
            let room = (&mut ws.gathering[..], &mut ws.in_memory);
            self.attention_from_disk(&shape, q, &ws.spans, &Layer { inputs, layer: i }, room, z)?;
        }
        self.done(Op::Attention);
        if inputs[0].sequence.disk().is_some() {
            inputs.iter_mut().try_for_each(|input| input.sequence.put_away(i))?;
            self.done(Op::Cache);
        }
        let delta = &mut ws.delta[..n * hidden];
        self.products(z, n, &mut ws.prepared, [Product { matrix: first + 3, bias: bias(3), out: delta }])?;
        self.done(Op::Output);
        kernels::add_assign(self.exec, x, delta);
        self.done(Op::Residual);
        Ok(())
    }

    /// Attention over blocks of which some are on disk, sequence by sequence; of those that need none from there, together.
    fn attention_from_disk(
        &self,
        shape: &Attention<'_>,
        q: &[f32],
        spans: &[Span],
        layer: &Layer<'_, '_>,
        (gathering, in_memory): (&mut [f32], &mut Vec<Span>),
        z: &mut [f32],
    ) -> Result<(), Error> {
        let needs_disk = |spans: &[Span]| {
            let Span { seq, pos, .. } = spans[0];
            layer.inputs[seq].sequence.stored(layer.layer, pos).next().is_some()
        };
        let by_sequence = || spans.chunk_by(|a, b| a.seq == b.seq);
        in_memory.clear();
        in_memory.extend(by_sequence().filter(|spans| !needs_disk(spans)).flatten());
        kernels::attention(self.exec, shape, q, in_memory, layer, z);
        for spans in by_sequence().filter(|spans| needs_disk(spans)) {
            let Span { seq, pos, .. } = spans[0];
            let sequence = &layer.inputs[seq].sequence;
            let Some(disk) = sequence.disk() else { continue };
            let rows = spans[0].row..spans[0].row + layer.inputs[seq].tokens.len();
            let mut gathering = Gathering::new(gathering, z, shape, rows);
            for (b, stored) in sequence.stored(layer.layer, pos) {
                self.recorder.borrow_mut().pause();
                let block = disk.take(stored);
                self.recorder.borrow_mut().resume();
                let block = block?;
                self.recorder.borrow_mut().cached(block.parts().iter().map(|part| part.len()).sum());
                gathering.over(self.exec, shape, q, spans, b, std::slice::from_ref(&block));
                disk.give_back(block);
            }
            gathering.over(self.exec, shape, q, spans, layer.first_block(seq), layer.blocks(seq));
            gathering.finish(shape);
        }
        Ok(())
    }

    /// `x += down(act(gate(y)) · up(y))` with `y = norm(x)`.
    fn feed_forward(&self, i: usize, block: &Block, n: usize, ws: &mut Workspace) -> Result<(), Error> {
        let ffn = &block.ffn;
        let vectors = &self.bound.blocks[i];
        let hidden = self.decoder.hidden_size;
        let width = ffn.gate.out_features;
        let (gate, up) = (&mut ws.gate[..n * width], &mut ws.up[..n * width]);
        let (x, normed) = (&mut ws.x[..n * hidden], &mut ws.normed[..n * hidden]);
        kernels::norm(self.exec, &rms(&vectors.ffn_norm, block.ffn_norm.eps), 1, x, normed);
        self.done(Op::Norm);
        let bias = |m: usize| vectors.biases[m].as_deref();
        let first = i * MATRICES;
        self.products(
            normed,
            n,
            &mut ws.prepared,
            [
                Product { matrix: first + 4, bias: bias(4), out: gate },
                Product { matrix: first + 5, bias: bias(5), out: up },
            ],
        )?;
        self.done(Op::GateUp);
        kernels::gate(self.exec, ffn.act, gate, up);
        self.done(Op::Activation);
        let delta = &mut ws.delta[..n * hidden];
        self.products(gate, n, &mut ws.prepared, [Product { matrix: first + 6, bias: bias(6), out: delta }])?;
        self.done(Op::Down);
        kernels::add_assign(self.exec, x, delta);
        self.done(Op::Residual);
        Ok(())
    }

    /// The final norm and the output projection, for the wanted rows only.
    fn head(&self, inputs: &[Input<'_>], wanted: usize, ws: &mut Workspace) -> Result<(), Error> {
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
        let final_hidden = &mut ws.final_hidden[..wanted * hidden];
        let x = &ws.delta[..wanted * hidden];
        kernels::norm(self.exec, &rms(&self.bound.norm, self.decoder.norm.eps), 1, x, final_hidden);
        self.done(Op::Norm);
        let logits = &mut ws.logits[..wanted * self.decoder.vocab_size];
        let matrix = self.bound.matrices.len() - 1;
        self.products(final_hidden, wanted, &mut ws.prepared, [Product { matrix, bias: None, out: logits }])?;
        self.done(Op::Head);
        Ok(())
    }

    /// Products of the same `x: [n, in_features]`, in their order, those together whose weights take it in one form.
    fn products<const P: usize>(
        &self,
        x: &[f32],
        n: usize,
        prepared: &mut Prepared,
        mut products: [Product<'_>; P],
    ) -> Result<(), Error> {
        let format = |p: &Product<'_>| self.bound.matrices[p.matrix].format;
        let integers = matches!(prepared, Prepared::Int8(_));
        let bits = |p: &Product<'_>| match format(p) {
            Format::Packed(packed) => Some(packed.bits),
            Format::F32 | Format::Bf16 | Format::F16 => None,
        };
        for alike in products.chunk_by_mut(|a, b| !integers || bits(a) == bits(b)) {
            self.products_alike(prepared.rows(self.exec, x, n, format(&alike[0])), n, alike)?;
        }
        Ok(())
    }

    /// Products of the same rows, tile after tile. Matrices that are in memory as a whole go together, as one
    /// parallel job.
    fn products_alike(&self, x: Rows<'_>, n: usize, products: &mut [Product<'_>]) -> Result<(), Error> {
        let tiles = self.weights.plan().tiles();
        let range = |p: &Product<'_>| self.weights.plan().tiles_of(p.matrix);
        let whole = |p: &Product<'_>| range(p).len() == 1 && tiles[range(p).start].place != Place::Streamed;
        if products.iter().all(whole) {
            let mut held = Vec::with_capacity(products.len());
            for p in &*products {
                held.push(self.acquire(range(p).start)?);
            }
            let mut jobs = Vec::with_capacity(products.len());
            for (p, tile) in products.iter_mut().zip(&held) {
                let info = &self.bound.matrices[p.matrix];
                jobs.push(Linear {
                    weight: info.matrix(tile, info.rows),
                    bias: p.bias,
                    out: Columns::new(p.out, info.rows, 0),
                });
            }
            kernels::linear(self.exec, x, n, &mut jobs);
            return Ok(());
        }
        for p in products {
            let info = &self.bound.matrices[p.matrix];
            for t in range(p) {
                let tile = self.acquire(t)?;
                let (first, rows) = (tiles[t].first_row, tiles[t].rows);
                let job = Linear {
                    weight: info.matrix(&tile, rows),
                    bias: p.bias.map(|b| &b[first..first + rows]),
                    out: Columns::new(p.out, info.rows, first),
                };
                kernels::linear(self.exec, x, n, &mut [job]);
            }
        }
        Ok(())
    }
}

impl MatrixInfo {
    /// `rows` rows of the matrix, which are those of `tile`.
    fn matrix<'a>(&self, tile: &'a TileBytes<'_>, rows: usize) -> Matrix<'a> {
        let [elements, scales] = tile.parts();
        Matrix::new(elements, scales, self.format, rows, self.cols)
    }
}

/// One linear map of [`Pass::products`].
struct Product<'a> {
    /// Index in [`Bound::matrices`].
    matrix: usize,
    bias: Option<&'a [f32]>,
    /// `[n, out_features]`.
    out: &'a mut [f32],
}

fn rms(weight: &[f32], eps: f32) -> Norm<'_> {
    Norm { kind: NormKind::Rms, weight: Some(weight), bias: None, width: weight.len(), eps }
}

pub(crate) fn wanted_rows(input: &Input<'_>) -> usize {
    match input.want {
        Want::Nothing => 0,
        Want::Last => 1,
        Want::Tail(rows) => rows.min(input.tokens.len()),
        Want::All => input.tokens.len(),
    }
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
