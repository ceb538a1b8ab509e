//! The names of tensors in a description, to change them: the same model is stored under other names where a checkpoint
//! has more parts than a language model.

use super::{Block, Decoder, Ffn, Head, LatentQueries, Linear, Mixer, Nonlinearity, Norm};

impl Decoder {
    /// Every name of a tensor, as `stored` has it.
    pub(crate) fn rename(&mut self, stored: impl Fn(&str) -> String) {
        self.names_mut(&mut |name| *name = stored(name));
    }

    fn names_mut(&mut self, change: &mut dyn FnMut(&mut String)) {
        change(&mut self.embed.tensor);
        if let Some(positions) = &mut self.embed.positions {
            change(&mut positions.tensor);
        }
        self.blocks.iter_mut().for_each(|block| block.names_mut(change));
        self.norm.names_mut(change);
        if let Head::Own(linear) = &mut self.head {
            linear.names_mut(change);
        }
    }
}

impl Block {
    fn names_mut(&mut self, change: &mut dyn FnMut(&mut String)) {
        let norms = [&mut self.mixer_norm, &mut self.mixer_post_norm, &mut self.ffn_norm, &mut self.ffn_post_norm];
        norms.into_iter().flatten().for_each(|norm| norm.names_mut(change));
        self.mixer.linears_mut().into_iter().for_each(|linear| linear.names_mut(change));
        match &mut self.mixer {
            Mixer::Attention(m) => {
                m.sinks.iter_mut().for_each(&mut *change);
                m.qk_norm.iter_mut().flat_map(|n| [&mut n.q, &mut n.k]).for_each(|norm| norm.names_mut(change));
            }
            Mixer::Latent(m) => {
                m.kv_norm.names_mut(change);
                if let LatentQueries::Compressed { norm, .. } = &mut m.q {
                    norm.names_mut(change);
                }
            }
            Mixer::Delta(m) => {
                m.norm.names_mut(change);
                [&mut m.conv, &mut m.a_log, &mut m.dt_bias].into_iter().for_each(&mut *change);
            }
            Mixer::Conv(m) => [&mut m.conv].into_iter().chain(&mut m.conv_bias).for_each(&mut *change),
        }
        self.ffn.linears_mut().into_iter().for_each(|linear| linear.names_mut(change));
        match &mut self.ffn {
            Ffn::Gated(_) => {}
            Ffn::Plain(f) => {
                if let Nonlinearity::Xielu(act) = &mut f.act {
                    [&mut act.alpha_p, &mut act.alpha_n, &mut act.beta, &mut act.eps]
                        .into_iter()
                        .for_each(&mut *change);
                }
            }
            Ffn::Experts(f) => {
                f.router.correction_bias.iter_mut().for_each(&mut *change);
            }
        }
    }
}

impl Linear {
    fn names_mut(&mut self, change: &mut dyn FnMut(&mut String)) {
        [&mut self.weight].into_iter().chain(&mut self.bias).for_each(&mut *change);
    }
}

impl Norm {
    fn names_mut(&mut self, change: &mut dyn FnMut(&mut String)) {
        self.weights.iter_mut().chain(&mut self.bias).for_each(&mut *change);
    }
}
