//! Softmax attention: projections, norms, rotation, the cache, and what it says.
//!
//! Mirrors transformers' `LlamaAttention.forward` and its kin; the switches are in [`decoder::Attention`].

use rheostat_kernels as kernels;
use rheostat_kernels::{Attention, Gathering, KvBlock, KvSource, Span};

use super::look::Seen;
use super::products::Targets;
use super::workspace::Workspace;
use super::{Input, Pass};
use crate::bind::BoundBlock;
use crate::decoder::{self, Part, QkNormPlace};
use crate::error::Error;
use crate::hooks::{Look, Point, normed_place};
use crate::profile::Op;

/// The keys and values of one layer, for the kernel.
pub(super) struct Layer<'a, 'b> {
    pub(super) inputs: &'a [Input<'b>],
    pub(super) layer: usize,
}

impl KvSource for Layer<'_, '_> {
    fn blocks(&self, seq: usize) -> &[KvBlock] {
        &self.inputs[seq].sequence.layers[self.layer].blocks
    }

    fn first_block(&self, seq: usize) -> usize {
        self.inputs[seq].sequence.layers[self.layer].first
    }
}

impl<H: Look> Pass<'_, H> {
    /// `delta = o(attention(q, k, v))` with `q`, `k`, `v` from `normed`.
    pub(super) fn attention(
        &self,
        i: usize,
        mixer: &decoder::Attention,
        n: usize,
        inputs: &mut [Input<'_>],
        ws: &mut Workspace,
    ) -> Result<(), Error> {
        let bound = &self.bound.blocks[i];
        let hidden = self.decoder.hidden_size;
        let (width, kv_width) = (mixer.width(), mixer.kv_width());
        let (linears, o) = bound.mixer.split_at(mixer.inputs.len());
        let mut to = Targets { parts: &mut ws.parts, whole: &mut ws.whole };
        self.project(&ws.normed[..n * hidden], n, &mut ws.prepared, &mixer.inputs, linears, &mut to)?;
        self.done(Op::Qkv);
        let block = Some(i);
        let (q_shape, kv_shape) = ([mixer.n_heads, mixer.head_dim], [mixer.n_kv_heads, mixer.head_dim]);
        for (point, part, shape) in
            [(Point::Q, Part::Query, q_shape), (Point::K, Part::Key, kv_shape), (Point::V, Part::Value, kv_shape)]
        {
            self.hook(point, block, shape, &mut ws.parts[part as usize][..n * shape[0] * shape[1]])?;
        }
        if mixer.is_gated() {
            self.hook(Point::Gate, block, q_shape, &mut ws.parts[Part::Gate as usize][..n * width])?;
        }
        let normed = [(Point::QNormed, Part::Query, q_shape), (Point::KNormed, Part::Key, kv_shape)];
        let place = mixer.qk_norm.as_ref().map(|norm| norm.place);
        if place == Some(QkNormPlace::BeforeRotation) {
            self.qk_norm(mixer, bound, n, ws);
        }
        if let Some(clip) = mixer.clip {
            for (part, width) in [(Part::Query, width), (Part::Key, kv_width), (Part::Value, kv_width)] {
                kernels::clamp(self.exec, &mut ws.parts[part as usize][..n * width], clip);
            }
            self.done(Op::Activation);
        }
        if normed_place(mixer) == Some(QkNormPlace::BeforeRotation) {
            for (point, part, shape) in normed {
                self.hook(point, block, shape, &mut ws.parts[part as usize][..n * shape[0] * shape[1]])?;
            }
        }
        if mixer.clip.is_some() {
            self.hook(Point::VClipped, block, kv_shape, &mut ws.parts[Part::Value as usize][..n * kv_width])?;
        }
        if let Some(rotary) = mixer.rotary {
            let half = self.decoder.ropes[rotary.rope].dim() / 2;
            let angles = &ws.angles[rotary.rope];
            let (cos, sin) = (&angles.cos[..n * half], &angles.sin[..n * half]);
            for (part, heads) in [(Part::Query, mixer.n_heads), (Part::Key, mixer.n_kv_heads)] {
                let x = &mut ws.parts[part as usize][..n * heads * mixer.head_dim];
                kernels::rotate(self.exec, x, heads, mixer.head_dim, rotary.first, rotary.pairing, cos, sin);
            }
            self.done(Op::Rotate);
            for (point, part, shape) in [(Point::RotQ, Part::Query, q_shape), (Point::RotK, Part::Key, kv_shape)] {
                self.hook(point, block, shape, &mut ws.parts[part as usize][..n * shape[0] * shape[1]])?;
            }
        }
        if place == Some(QkNormPlace::AfterRotation) {
            self.qk_norm(mixer, bound, n, ws);
            for (point, part, shape) in normed {
                self.hook(point, block, shape, &mut ws.parts[part as usize][..n * shape[0] * shape[1]])?;
            }
        }
        let [q, k, v] = [Part::Query, Part::Key, Part::Value].map(|part| part as usize);
        let mut at = 0;
        for input in inputs.iter_mut() {
            let rows = at..at + input.tokens.len() * kv_width;
            at = rows.end;
            input.sequence.write(self.exec, i, &ws.parts[k][rows.clone()], &ws.parts[v][rows]);
        }
        self.done(Op::Cache);
        let shape = Attention {
            n_heads: mixer.n_heads,
            n_kv_heads: mixer.n_kv_heads,
            head_dim: mixer.head_dim,
            value_dim: mixer.head_dim,
            scale: mixer.scale,
            window: mixer.window,
            softcap: mixer.soft_cap,
            sinks: mixer.sinks.is_some().then(|| bound.vectors[0].as_slice()),
        };
        let z = &mut ws.z[..n * width];
        let room = (&mut ws.gathering[..], &mut ws.in_memory);
        self.attend(i, &shape, &ws.parts[q][..n * width], &ws.spans, inputs, room, z, &mut ws.seen)?;
        self.hook(Point::Z, block, q_shape, z)?;
        if mixer.is_gated() {
            kernels::sigmoid_gate(self.exec, z, &ws.parts[Part::Gate as usize][..n * width]);
            self.done(Op::Activation);
            self.hook(Point::ZGated, block, q_shape, z)?;
        }
        self.output(i, &o[0], mixer.n_heads, n, ws)?;
        self.done(Op::Output);
        Ok(())
    }

    /// Norms of queries and keys.
    fn qk_norm(&self, mixer: &decoder::Attention, bound: &BoundBlock, n: usize, ws: &mut Workspace) {
        let parts = [(Part::Query, mixer.width()), (Part::Key, mixer.kv_width())];
        for (norm, (part, width)) in bound.mixer_norms.iter().zip(parts) {
            let norm = norm.norm();
            kernels::norm_in_place(self.exec, &norm, width / norm.width, &mut ws.parts[part as usize][..n * width]);
        }
        self.done(Op::Norm);
    }

    /// `z = attention(q, cache of layer i)`, and the layer's full blocks put away if the cache is on disk.
    #[allow(clippy::too_many_arguments, reason = "buffers of one workspace, borrowed apart")]
    pub(super) fn attend(
        &self,
        i: usize,
        shape: &Attention<'_>,
        q: &[f32],
        spans: &[Span],
        inputs: &mut [Input<'_>],
        room: (&mut [f32], &mut Vec<Span>),
        z: &mut [f32],
        seen: &mut Seen,
    ) -> Result<(), Error> {
        let layer = Layer { inputs, layer: i };
        if layer.inputs[0].sequence.disk().is_none() {
            kernels::attention(self.exec, shape, q, spans, &layer, z);
        } else {
            self.attention_from_disk(shape, q, spans, &layer, room, z)?;
        }
        self.look_at_attention(i, shape, q, inputs, z, seen)?;
        self.done(Op::Attention);
        if inputs[0].sequence.disk().is_some() {
            inputs.iter_mut().try_for_each(|input| input.sequence.put_away(i))?;
            self.done(Op::Cache);
        }
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
}
