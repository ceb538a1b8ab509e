//! The buffers of a pass, taken once.

use rheostat_kernels::{Buffer, Exec, Format, Quantized, Rounded, Rows, Span, Tiled};

use super::look::{Looks, Seen, SeenSizes, prepared_for};
use super::{Compute, KvPlace, Output};
use crate::decoder::{Decoder, Ffn, LatentQueries, Mixer, Part, Projection};

/// Parts that projections give: see [`Part`].
const PARTS: usize = 8;

/// The buffers of a pass. Their shapes are for `rows` rows.
pub(crate) struct Workspace {
    /// Residual stream `[rows, hidden]`.
    pub(super) x: Buffer,
    /// Normed input of a sublayer `[rows, hidden]`.
    pub(super) normed: Buffer,
    /// What a sublayer adds `[rows, hidden]`.
    pub(super) delta: Buffer,
    /// What projections give, by [`Part`], each `[rows, width of the part]`.
    pub(super) parts: [Buffer; PARTS],
    /// The output of a projection before it is cut up.
    pub(super) whole: Buffer,
    /// A mixer's result before its output projection.
    pub(super) z: Buffer,
    /// Of latent attention.
    pub(super) latent: LatentRoom,
    /// Of mixtures of experts.
    pub(super) experts: ExpertRoom,
    /// Rotary angles, for each rotary embedding.
    pub(super) angles: Vec<Angles>,
    /// Wanted rows `[logit_rows, hidden]`, after the final norm.
    pub(super) final_hidden: Buffer,
    /// `[logit_rows, vocab]`.
    pub(super) logits: Buffer,
    /// The input of the products at hand, in the form that the mode wants.
    pub(super) prepared: Prepared,
    /// Rows of a table as they are stored.
    pub(super) stored: Vec<u8>,
    pub(super) spans: Vec<Span>,
    /// With a cache on disk, of attention that takes its blocks from there: `[rows, n_heads, 2]`.
    pub(super) gathering: Buffer,
    /// The spans that need none of them in a layer.
    pub(super) in_memory: Vec<Span>,
    /// Bytes of rows of tables read from disk so far.
    pub(super) gathered: u64,
    /// For those who look on.
    pub(super) seen: Seen,
}

/// Rotary angles `[rows, dim / 2]`.
pub(super) struct Angles {
    pub(super) cos: Buffer,
    pub(super) sin: Buffer,
}

/// Buffers of latent attention.
pub(super) struct LatentRoom {
    /// Compressed queries `[rows, q_rank]`, before and after their norm.
    pub(super) q_low: Buffer,
    /// Compressed vector and key to be rotated `[rows, kv_rank + rope_dim]`.
    pub(super) kv: Buffer,
    /// Queries as they meet the cache `[rows, n_heads, kv_rank + rope_dim]`.
    pub(super) q: Buffer,
    /// Weighted sums of compressed vectors `[rows, n_heads, kv_rank]`.
    pub(super) z: Buffer,
    /// Of one head: what goes into a product and what comes out.
    pub(super) head_in: Buffer,
    pub(super) head_out: Buffer,
    /// The weights of one head's keys, or values, where they have to be widened.
    pub(super) weights: Buffer,
}

/// Buffers of mixtures of experts.
pub(super) struct ExpertRoom {
    /// The router's numbers `[rows, n_experts]`.
    pub(super) scores: Buffer,
    /// Rows of one expert `[rows, hidden]`, and what it makes of them.
    pub(super) rows: Buffer,
    pub(super) out: Buffer,
    /// What the shared expert gives `[rows, hidden]`, and what it is multiplied by `[rows]`.
    pub(super) shared: Buffer,
    pub(super) shared_gate: Buffer,
    /// Chosen experts and their weights `[rows, top_k]`.
    pub(super) chosen: Vec<u32>,
    pub(super) weights: Vec<f32>,
    /// Who goes where: expert, row and weight, in order of experts, then rows.
    pub(super) order: Vec<(u32, u32, f32)>,
    /// A bias, widened.
    pub(super) bias: Vec<f32>,
}

/// Room for the input of a product in the form that the mode wants.
pub(super) enum Prepared {
    F32,
    Bf16(Rounded),
    Tiles(Tiled),
    Int8(Quantized),
}

impl Prepared {
    fn new(compute: Compute, elements: usize) -> Prepared {
        match compute {
            Compute::F32 => Prepared::F32,
            Compute::Bf16 => Prepared::Bf16(Rounded::new(elements)),
            Compute::Amx => Prepared::Tiles(Tiled::new(elements)),
            Compute::Int8 => Prepared::Int8(Quantized::new(elements)),
        }
    }

    /// `x: [n, in_features]` for products with weights of `format`.
    pub(super) fn rows<'a>(&'a mut self, exec: &Exec, x: &'a [f32], n: usize, format: Format) -> Rows<'a> {
        let cols = x.len() / n;
        match (self, format) {
            (Prepared::Bf16(rounded), _) => {
                rounded.set(exec, x, n, cols);
                Rows::Bf16(rounded)
            }
            (Prepared::Tiles(tiled), _) => {
                tiled.set(exec, x, n, cols);
                Rows::Tiles(tiled)
            }
            (Prepared::Int8(quantized), format) => match format.takes_integers() {
                Some(bits) => {
                    quantized.set(exec, x, n, cols, bits);
                    Rows::Int8(quantized)
                }
                None => Rows::F32(x),
            },
            (Prepared::F32, _) => Rows::F32(x),
        }
    }

    /// Whether packed weights are multiplied as integers.
    pub(super) fn in_integers(&self) -> bool {
        matches!(self, Prepared::Int8(_))
    }
}

/// Elements of a row of each kind of buffer, at the widest over all blocks.
#[derive(Default)]
struct Widths {
    parts: [usize; PARTS],
    whole: usize,
    z: usize,
    q_low: usize,
    latent_kv: usize,
    latent_q: usize,
    latent_z: usize,
    head_in: usize,
    head_out: usize,
    /// In all, not of a row.
    head_weights: usize,
    experts: usize,
    top_k: usize,
    /// Of rows of an expert, and of a shared one.
    expert_hidden: usize,
    shared_hidden: usize,
    heads: usize,
    /// The widest input of a product.
    input: usize,
}

impl Widths {
    fn of(decoder: &Decoder) -> Widths {
        let mut w = Widths { input: decoder.hidden_size, ..Widths::default() };
        let hidden = decoder.hidden_size;
        let widen = |to: &mut usize, by: usize| *to = (*to).max(by);
        for block in &decoder.blocks {
            for linear in block.linears() {
                widen(&mut w.input, linear.in_features);
            }
            match &block.mixer {
                Mixer::Attention(m) => {
                    w.inputs(&m.inputs);
                    widen(&mut w.z, m.width());
                    widen(&mut w.heads, m.n_heads);
                }
                Mixer::Delta(m) => {
                    w.inputs(&m.inputs);
                    // Decays and shares of what is written.
                    widen(&mut w.parts[Part::Query as usize], m.v_heads);
                    widen(&mut w.parts[Part::Key as usize], m.v_heads);
                    widen(&mut w.z, m.v_heads * m.v_dim);
                }
                Mixer::Conv(m) => {
                    w.inputs(&m.inputs);
                    widen(&mut w.z, m.channels);
                }
                Mixer::Latent(m) => {
                    let q_width = m.n_heads * (m.nope_dim + m.rope_dim);
                    widen(&mut w.parts[Part::Query as usize], q_width);
                    if let LatentQueries::Compressed { a, .. } = &m.q {
                        widen(&mut w.q_low, a.out_features);
                    }
                    widen(&mut w.latent_kv, m.kv_rank + m.rope_dim);
                    widen(&mut w.latent_q, m.n_heads * (m.kv_rank + m.rope_dim));
                    widen(&mut w.latent_z, m.n_heads * m.kv_rank);
                    if m.kv_b.is_quantized() {
                        widen(&mut w.head_weights, m.nope_dim.max(m.value_dim) * m.kv_rank);
                    }
                    // The compressed vectors by themselves.
                    widen(&mut w.whole, m.kv_rank);
                    widen(&mut w.head_in, m.nope_dim.max(m.kv_rank));
                    widen(&mut w.head_out, m.kv_rank.max(m.value_dim));
                    widen(&mut w.z, m.n_heads * m.value_dim);
                    widen(&mut w.heads, m.n_heads);
                    widen(&mut w.input, m.kv_rank.max(m.nope_dim));
                }
            }
            match &block.ffn {
                Ffn::Gated(f) => w.inputs(&f.inputs),
                Ffn::Plain(f) => widen(&mut w.parts[Part::Up as usize], f.up.out_features),
                Ffn::Experts(f) => {
                    w.inputs(&f.expert.inputs);
                    if let Some(shared) = &f.shared {
                        w.inputs(&shared.ffn.inputs);
                        w.shared_hidden = hidden;
                    }
                    w.expert_hidden = hidden;
                    widen(&mut w.experts, f.n_experts);
                    widen(&mut w.top_k, f.router.top_k);
                    widen(&mut w.input, f.expert.intermediate);
                }
            }
        }
        w
    }

    /// Room for what the projections of a sublayer give.
    fn inputs(&mut self, inputs: &[Projection]) {
        for projection in inputs {
            if !projection.is_whole() {
                self.whole = self.whole.max(projection.linear.out_features);
            }
            for piece in &projection.pieces {
                let part = &mut self.parts[piece.part as usize];
                *part = (*part).max(piece.to + piece.len);
            }
        }
    }

    /// f32 elements of all buffers of a row.
    fn row(&self, decoder: &Decoder) -> usize {
        let parts: usize = self.parts.iter().sum();
        let latent = self.q_low * 2 + self.latent_kv + self.latent_q + self.latent_z + self.head_in + self.head_out;
        // An expert, its row and its weight: three times.
        let experts = self.experts + 2 * self.expert_hidden + self.shared_hidden + 1 + 5 * self.top_k;
        let angles: usize = decoder.ropes.iter().map(super::super::rope::Rope::dim).sum();
        3 * decoder.hidden_size + parts + self.whole + self.z + latent + experts + angles
    }
}

/// f32 elements of a workspace.
pub(crate) fn workspace_elements(
    decoder: &Decoder,
    rows: usize,
    logit_rows: usize,
    compute: Compute,
    place: KvPlace,
    looks: Looks,
) -> u64 {
    let widths = Widths::of(decoder);
    let logit_row = decoder.hidden_size + decoder.vocab_size;
    let gathering = gathering_elements(&widths, rows, place);
    let seen = SeenSizes::of(decoder, rows, looks);
    let prepared = prepared_elements(decoder, &widths, rows, logit_rows, compute, &seen);
    let fixed = gathering + prepared + widths.head_weights + seen.elements();
    (rows * widths.row(decoder) + logit_rows * logit_row + fixed) as u64
}

/// f32 elements of what goes with totals of attention.
fn gathering_elements(widths: &Widths, rows: usize, place: KvPlace) -> usize {
    match place {
        KvPlace::Memory => 0,
        KvPlace::Disk => 2 * rows * widths.heads,
    }
}

/// f32 elements of the input of a product in the form that the mode wants.
fn prepared_elements(
    decoder: &Decoder,
    widths: &Widths,
    rows: usize,
    logit_rows: usize,
    compute: Compute,
    seen: &SeenSizes,
) -> usize {
    let elements = match compute {
        Compute::F32 => return 0,
        Compute::Bf16 => Rounded::elements,
        Compute::Amx => Tiled::elements,
        Compute::Int8 => Quantized::elements,
    };
    elements(rows, widths.input).max(elements(logit_rows, decoder.hidden_size)).max(prepared_for(seen, elements))
}

impl Workspace {
    pub(crate) fn new(
        decoder: &Decoder,
        rows: usize,
        logit_rows: usize,
        compute: Compute,
        place: KvPlace,
        looks: Looks,
    ) -> Workspace {
        let w = Widths::of(decoder);
        let seen = SeenSizes::of(decoder, rows, looks);
        let prepared = prepared_elements(decoder, &w, rows, logit_rows, compute, &seen);
        let buffer = |width: usize| Buffer::new(rows * width);
        let hidden = decoder.hidden_size;
        Workspace {
            x: buffer(hidden),
            normed: buffer(hidden),
            delta: buffer(hidden),
            parts: w.parts.map(buffer),
            whole: buffer(w.whole),
            z: buffer(w.z),
            latent: LatentRoom {
                q_low: buffer(2 * w.q_low),
                kv: buffer(w.latent_kv),
                q: buffer(w.latent_q),
                z: buffer(w.latent_z),
                head_in: buffer(w.head_in),
                head_out: buffer(w.head_out),
                weights: Buffer::new(w.head_weights),
            },
            experts: ExpertRoom {
                scores: buffer(w.experts),
                rows: buffer(w.expert_hidden),
                out: buffer(w.expert_hidden),
                shared: buffer(w.shared_hidden),
                shared_gate: buffer(1),
                chosen: vec![0; rows * w.top_k],
                weights: vec![0.0; rows * w.top_k],
                order: Vec::with_capacity(rows * w.top_k),
                bias: Vec::new(),
            },
            angles: decoder
                .ropes
                .iter()
                .map(|rope| Angles { cos: buffer(rope.dim() / 2), sin: buffer(rope.dim() / 2) })
                .collect(),
            final_hidden: Buffer::new(logit_rows * hidden),
            logits: Buffer::new(logit_rows * decoder.vocab_size),
            prepared: Prepared::new(compute, prepared),
            stored: Vec::new(),
            spans: Vec::new(),
            gathering: Buffer::new(gathering_elements(&w, rows, place)),
            in_memory: Vec::new(),
            gathered: 0,
            seen: Seen::new(&seen),
        }
    }

    pub(crate) fn gathered(&self) -> u64 {
        self.gathered
    }

    /// The output of a pass in which so many rows were wanted.
    pub(crate) fn output(&self, decoder: &Decoder, wanted: usize) -> Output<'_> {
        Output {
            logits: &self.logits[..wanted * decoder.vocab_size],
            final_hidden: &self.final_hidden[..wanted * decoder.hidden_size],
        }
    }

    /// The logits of the last pass, in the first rows.
    pub(crate) fn logits(&self) -> &[f32] {
        &self.logits
    }
}
