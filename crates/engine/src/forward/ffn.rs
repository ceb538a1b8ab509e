//! Feed-forwards: what works on each position alone.

use rheostat_kernels as kernels;
use rheostat_kernels::{Buffer, Exec};

use super::Pass;
use super::products::{Product, Targets};
use super::workspace::Workspace;
use crate::bind::BoundLinear;
use crate::decoder::{Activation, Ffn, Gated, Nonlinearity, Part, Plain, Xielu};
use crate::error::Error;
use crate::hooks::{Look, Point};
use crate::profile::Op;

/// The points of a gated feed-forward: gate, what is gated, and what comes of both.
#[derive(Clone, Copy)]
pub(super) struct FfnPoints([Point; 3]);

impl FfnPoints {
    const OWN: FfnPoints = FfnPoints([Point::Pre, Point::PreLinear, Point::Post]);
    pub(super) const SHARED: FfnPoints = FfnPoints([Point::SharedPre, Point::SharedPreLinear, Point::SharedPost]);
}

impl<H: Look> Pass<'_, H> {
    /// `delta = ffn(normed)`.
    pub(super) fn feed_forward(&self, i: usize, ffn: &Ffn, n: usize, ws: &mut Workspace) -> Result<(), Error> {
        let bound = &self.bound.blocks[i];
        let linears = &bound.ffn;
        match ffn {
            Ffn::Gated(gated) => self.gated(i, FfnPoints::OWN, gated, linears, n, ws),
            Ffn::Plain(plain) => {
                let act = match (&plain.act, bound.vectors.last_chunk()) {
                    (Nonlinearity::Fixed(act), _) => *act,
                    (Nonlinearity::Xielu(_), Some(tensors)) => {
                        Xielu::activation(tensors.each_ref().map(|v: &Vec<f32>| v[0]))
                    }
                    (Nonlinearity::Xielu(_), None) => unreachable!("its four tensors were bound"),
                };
                self.plain(i, plain, act, linears, n, ws)
            }
            Ffn::Experts(experts) => self.experts(i, experts, linears, n, ws),
        }
    }

    /// `delta = down(act(gate(normed)) · up(normed))`.
    pub(super) fn gated(
        &self,
        i: usize,
        points: FfnPoints,
        ffn: &Gated,
        linears: &[BoundLinear],
        n: usize,
        ws: &mut Workspace,
    ) -> Result<(), Error> {
        let hidden = self.decoder.hidden_size;
        let (inputs, down) = linears.split_at(ffn.inputs.len());
        let mut to = Targets { parts: &mut ws.parts, whole: &mut ws.whole };
        self.project(&ws.normed[..n * hidden], n, &mut ws.prepared, &ffn.inputs, inputs, &mut to)?;
        self.done(Op::GateUp);
        let (width, block, shape) = (n * ffn.intermediate, Some(i), [1, ffn.intermediate]);
        let FfnPoints([pre, pre_linear, post]) = points;
        self.hook(pre, block, shape, &mut ws.parts[Part::Gate as usize][..width])?;
        self.hook(pre_linear, block, shape, &mut ws.parts[Part::Up as usize][..width])?;
        gate(self.exec, ffn, &mut ws.parts, width);
        self.done(Op::Activation);
        self.hook(post, block, shape, &mut ws.parts[Part::Gate as usize][..width])?;
        let (gate, out) = (&ws.parts[Part::Gate as usize][..width], &mut ws.delta[..n * hidden]);
        self.products(gate, n, &mut ws.prepared, &mut [Product { linear: &down[0], out }])?;
        self.done(Op::Down);
        Ok(())
    }

    /// `delta = down(act(up(normed)))`.
    fn plain(
        &self,
        i: usize,
        ffn: &Plain,
        act: Activation,
        linears: &[BoundLinear],
        n: usize,
        ws: &mut Workspace,
    ) -> Result<(), Error> {
        let hidden = self.decoder.hidden_size;
        let up = &mut ws.parts[Part::Up as usize][..n * ffn.up.out_features];
        let product = Product { linear: &linears[0], out: up };
        self.products(&ws.normed[..n * hidden], n, &mut ws.prepared, &mut [product])?;
        self.done(Op::GateUp);
        let up = &mut ws.parts[Part::Up as usize][..n * ffn.up.out_features];
        let (block, shape) = (Some(i), [1, ffn.up.out_features]);
        self.hook(Point::Pre, block, shape, up)?;
        kernels::activate(self.exec, act, up);
        self.done(Op::Activation);
        self.hook(Point::Post, block, shape, up)?;
        let out = &mut ws.delta[..n * hidden];
        self.products(up, n, &mut ws.prepared, &mut [Product { linear: &linears[1], out }])?;
        self.done(Op::Down);
        Ok(())
    }
}

/// `gate = act(gate) · up` over the first `len` elements of both parts.
pub(super) fn gate(exec: &Exec, ffn: &Gated, parts: &mut [Buffer], len: usize) {
    let both = [Part::Gate as usize, Part::Up as usize];
    let [gate, up] = parts.get_disjoint_mut(both).expect("two parts");
    kernels::gate(exec, ffn.act, &mut gate[..len], &up[..len]);
}
