//! One step: a batch of tokens through all layers, following the spec. What computes is a device behind [`Ops`]; this file
//! knows none of them.

use super::batch::{BatchToken, Run};
use super::devices::Devices;
use super::ops::{At, Ops, Rows};
use super::{Engine, Error, Inputs, Observer};
use crate::model::{Activation, Ffn, Gated, Gqa, Layer, Mixer, Mla, Moe, Part, Residual, Shared};
use crate::placement::Lane;

impl Engine<'_> {
    /// Computes a batch of at most [`Engine::n_ubatch`] tokens, and gives the logits of those that want them, in the
    /// batch's order, `[wanted, n_vocab]`.
    ///
    /// # Errors
    /// A batch that does not continue its sequences, a token that does not exist, a context that is full: the cache is
    /// then as it was. A card that fails.
    pub fn forward(&mut self, batch: &[BatchToken]) -> Result<&[f32], Error> {
        self.step(batch, false, None)
    }

    /// [`Engine::forward`], with `observer` told what goes into the weight matrices: the rows of all tokens, whether
    /// their logits are wanted or not.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn forward_observed(&mut self, batch: &[BatchToken], observer: &mut dyn Observer) -> Result<&[f32], Error> {
        self.step(batch, false, Some(observer))
    }

    /// [`Engine::forward`], with the bits that a batch of each token alone would give.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn forward_exact(&mut self, batch: &[BatchToken]) -> Result<&[f32], Error> {
        self.step(batch, true, None)
    }

    fn step(
        &mut self,
        batch: &[BatchToken],
        exact: bool,
        observer: Option<&mut dyn Observer>,
    ) -> Result<&[f32], Error> {
        self.plan_batch(batch)?;
        let Engine { model, devices, runs, wanted, lens, .. } = self;
        let spec = &model.spec;
        let dim = spec.dim;
        wanted.clear();
        wanted.extend(batch.iter().enumerate().filter(|(_, t)| t.logits).map(|(i, _)| i));
        let n_out = wanted.len();

        devices.begin(batch, exact)?;
        let lane = devices.embed(batch, spec.tied_head)?;
        let mut step = Step { devices, observer, runs, wanted, dim, n: batch.len(), lane, exact };
        for (index, layer) in spec.layers.iter().enumerate() {
            step.layer(index, layer, index + 1 == spec.layers.len())?;
            if step.n == 0 {
                break;
            }
        }
        let Step { n, lane, observer, .. } = step;
        for run in runs.iter() {
            lens[run.seq.0] = run.pos + run.n;
        }
        if n > 0 && (n_out > 0 || observer.is_some()) {
            devices.cross(lane, devices.placement.head, n * dim)?;
            let ops = devices.ops(devices.placement.head);
            if let Some(observer) = observer {
                ops.norm(None, Part::OutNorm, spec.out_norm, Rows::X, Rows::H, n)?;
                let x = ops.read(Rows::H, n * dim)?;
                observer.inputs(&Inputs { layer: None, parts: &[model.head_part()], x, cols: dim, experts: None });
                ops.keep(Rows::X, dim, wanted)?;
            }
            if n_out > 0 {
                ops.norm(None, Part::OutNorm, spec.out_norm, Rows::X, Rows::H, n_out)?;
                ops.quantize(None, Rows::H, &[model.head_part()], n_out)?;
                ops.matmul(None, &[(model.head_part(), Rows::Logits)])?;
                ops.finish(n_out)?;
            }
        }
        Ok(self.logits())
    }
}

/// A batch on its way through the layers.
struct Step<'s, 'o, 'm> {
    devices: &'s mut Devices<'m>,
    observer: Option<&'o mut dyn Observer>,
    runs: &'s [Run],
    /// The tokens whose logits are wanted.
    wanted: &'s [usize],
    dim: usize,
    /// Tokens at hand.
    n: usize,
    /// The device that has the residual.
    lane: Lane,
    /// Each token's results have the bits that it would have alone.
    exact: bool,
}

impl<'m> Step<'_, '_, 'm> {
    /// Takes the batch through a layer.
    fn layer(&mut self, index: usize, layer: &Layer, is_last: bool) -> Result<(), Error> {
        let mixer = self.devices.placement.layers[index].mixer;
        // An exact batch is computed where its tokens alone would be.
        let ffn = self.devices.ffn(index, if self.exact { 1 } else { self.n });
        let parallel = layer.residual == Residual::Parallel;
        self.cross(mixer)?;
        if parallel {
            // Before the attention is queued, so that a card computes it while the CPU has the other part.
            self.cross(ffn)?;
        }
        let (runs, n) = (self.runs, self.n);
        let mut half = self.half(mixer, index, layer);
        half.norm(Part::AttnNorm, n)?;
        half.mixer(runs, n)?;
        // Only the tokens whose logits are wanted go through the end of the last layer.
        if is_last && self.wanted.len() < n && self.observer.is_none() {
            let (heads, _, v_dim) = layer.mixer.heads();
            self.devices.ops(mixer).keep(Rows::Att, heads * v_dim, self.wanted)?;
            self.devices.ops(self.lane).keep(Rows::X, self.dim, self.wanted)?;
            self.n = self.wanted.len();
        }
        match (self.n, parallel) {
            (0, _) => Ok(()),
            (_, true) => {
                self.ffn_half(ffn, index, layer, Part::AttnNorm, true)?;
                self.cross(mixer)?;
                self.mixer_out(mixer, index, layer)
            }
            (_, false) => {
                self.mixer_out(mixer, index, layer)?;
                self.cross(ffn)?;
                // What every token goes through stays with the mixer: a card computes it while the CPU has the experts.
                let apart = layer.ffn.shared().filter(|_| mixer != ffn);
                if let Some((act, shared)) = apart {
                    let n = self.n;
                    let mut half = self.half(mixer, index, layer);
                    half.norm(Part::FfnNorm, n)?;
                    half.ops.quantize(Some(index), Rows::H, &[Part::GateShared, Part::UpShared], n)?;
                    half.shared(act, shared, n)?;
                }
                self.ffn_half(ffn, index, layer, Part::FfnNorm, apart.is_none())?;
                if apart.is_some() {
                    self.cross(mixer)?;
                    self.devices.ops(mixer).add(Rows::X, Rows::Shared, self.n)?;
                }
                Ok(())
            }
        }
    }

    /// What attention gave, to the residual.
    fn mixer_out(&mut self, lane: Lane, index: usize, layer: &Layer) -> Result<(), Error> {
        let n = self.n;
        let mut half = self.half(lane, index, layer);
        half.mixer_out(n)?;
        half.add_to_residual(Part::AttnPostNorm, n)
    }

    /// The residual, normalized, through the feed-forward part, to the residual.
    fn ffn_half(
        &mut self,
        lane: Lane,
        index: usize,
        layer: &Layer,
        norm: Part,
        with_shared: bool,
    ) -> Result<(), Error> {
        let n = self.n;
        let mut half = self.half(lane, index, layer);
        half.norm(norm, n)?;
        half.ffn(n, with_shared)?;
        half.add_to_residual(Part::FfnPostNorm, n)
    }

    /// Half a layer on a device.
    fn half<'h>(&'h mut self, lane: Lane, index: usize, layer: &'h Layer) -> HalfLayer<'h, 'm> {
        let observer = self.observer.as_mut().map(|o| &mut **o as &mut dyn Observer);
        HalfLayer { ops: self.devices.ops(lane), layer, index, dim: self.dim, observer }
    }

    /// Brings the residual to a device; the one that had it keeps a copy.
    fn cross(&mut self, to: Lane) -> Result<(), Error> {
        self.devices.cross(self.lane, to, self.n * self.dim)?;
        self.lane = to;
        Ok(())
    }
}

/// Half a layer at work on a device.
struct HalfLayer<'s, 'm> {
    ops: &'s mut (dyn Ops + 'm),
    layer: &'s Layer,
    index: usize,
    dim: usize,
    observer: Option<&'s mut dyn Observer>,
}

impl HalfLayer<'_, '_> {
    fn at(&self) -> At {
        Some(self.index)
    }

    /// Shows the rows that go into some matrices, where somebody wants to see them; of experts, which rows go to which.
    fn show(
        &mut self,
        parts: &[Part],
        rows: Rows,
        n: usize,
        cols: usize,
        experts: Option<(&Moe, bool)>,
    ) -> Result<(), Error> {
        let Some(observer) = &mut self.observer else { return Ok(()) };
        let x = self.ops.read(rows, n * cols)?.to_vec();
        let experts = match experts {
            Some((m, own)) => Some(self.ops.groups(m, n / if own { m.n_active } else { 1 }, own)?),
            None => None,
        };
        observer.inputs(&Inputs { layer: Some(self.index), parts, x: &x, cols, experts });
        Ok(())
    }

    /// The residual, normalized, to `H`.
    fn norm(&mut self, part: Part, n: usize) -> Result<(), Error> {
        self.ops.norm(self.at(), part, self.layer.norm, Rows::X, Rows::H, n)
    }

    /// `H` through the part that mixes positions, to `Att`.
    fn mixer(&mut self, runs: &[Run], n: usize) -> Result<(), Error> {
        match &self.layer.mixer {
            Mixer::Gqa(a) => self.attention(a, runs, n),
            Mixer::Mla(a) => self.latent_attention(a, runs, n),
        }
    }

    /// `H` through the feed-forward part, back to `H`; of a mixture of experts with what every token goes through, or without.
    fn ffn(&mut self, n: usize, with_shared: bool) -> Result<(), Error> {
        match &self.layer.ffn {
            Ffn::Gated(f) => self.gated(f, n),
            Ffn::Moe(m) => self.moe(m, m.shared.filter(|_| with_shared), n),
        }
    }

    /// `H` to queries, keys and values, keys and values to the cache, and what attention gives to `Att`.
    fn attention(&mut self, a: &Gqa, runs: &[Run], n: usize) -> Result<(), Error> {
        self.show(&[Part::Q, Part::K, Part::V], Rows::H, n, self.dim, None)?;
        let (at, layer) = (self.at(), self.index);
        self.ops.quantize(at, Rows::H, &[Part::Q, Part::K, Part::V], n)?;
        self.ops.matmul(at, &[(Part::Q, Rows::Q), (Part::K, Rows::K), (Part::V, Rows::V)])?;
        if a.qkv_bias {
            self.ops.bias(at, Part::QBias, Rows::Q, n)?;
            self.ops.bias(at, Part::KBias, Rows::K, n)?;
            self.ops.bias(at, Part::VBias, Rows::V, n)?;
        }
        self.ops.rotate(layer, a, Rows::Q, n)?;
        self.ops.rotate(layer, a, Rows::K, n)?;
        for &run in runs {
            self.ops.store(layer, self.layer.mixer.cached(), run)?;
            self.ops.attend(layer, a, run)?;
        }
        Ok(())
    }

    /// `H` to queries and latents, these to the cache, and what attention gives to `Att`.
    fn latent_attention(&mut self, a: &Mla, runs: &[Run], n: usize) -> Result<(), Error> {
        let (at, layer) = (self.at(), self.index);
        let (first, to) = if a.q_rank.is_some() { (Part::QA, Rows::QLatent) } else { (Part::Q, Rows::Q) };
        self.show(&[first, Part::KvA], Rows::H, n, self.dim, None)?;
        self.ops.quantize(at, Rows::H, &[first, Part::KvA], n)?;
        self.ops.matmul(at, &[(first, to), (Part::KvA, Rows::K)])?;
        if let Some(rank) = a.q_rank {
            self.ops.norm(at, Part::QANorm, a.norm, Rows::QLatent, Rows::QLatent, n)?;
            self.show(&[Part::QB], Rows::QLatent, n, rank, None)?;
            self.ops.quantize(at, Rows::QLatent, &[Part::QB], n)?;
            self.ops.matmul(at, &[(Part::QB, Rows::Q)])?;
        }
        self.ops.latent(layer, a, n)?;
        for &run in runs {
            self.ops.store(layer, self.layer.mixer.cached(), run)?;
            self.ops.attend_latent(layer, a, run)?;
        }
        Ok(())
    }

    /// `Att` through the output projection to `H`.
    fn mixer_out(&mut self, n: usize) -> Result<(), Error> {
        let (heads, _, v_dim) = self.layer.mixer.heads();
        self.show(&[Part::AttnOut], Rows::Att, n, heads * v_dim, None)?;
        self.ops.quantize(self.at(), Rows::Att, &[Part::AttnOut], n)?;
        self.ops.matmul(self.at(), &[(Part::AttnOut, Rows::H)])?;
        match &self.layer.mixer {
            Mixer::Gqa(Gqa { out_bias: true, .. }) => self.ops.bias(self.at(), Part::AttnOutBias, Rows::H, n),
            _ => Ok(()),
        }
    }

    /// `H` through a gated network, back to `H`.
    fn gated(&mut self, f: &Gated, n: usize) -> Result<(), Error> {
        self.show(&[Part::Gate, Part::Up], Rows::H, n, self.dim, None)?;
        self.ops.quantize(self.at(), Rows::H, &[Part::Gate, Part::Up], n)?;
        self.ops.gated(self.index, [Part::Gate, Part::Up], f.act, f.hidden)?;
        self.show(&[Part::Down], Rows::Hidden, n, f.hidden, None)?;
        self.ops.quantize(self.at(), Rows::Hidden, &[Part::Down], n)?;
        self.ops.matmul(self.at(), &[(Part::Down, Rows::H)])
    }

    /// `H`, made ready before, through the network that every token goes through, to `Shared`.
    fn shared(&mut self, act: Activation, shared: Shared, n: usize) -> Result<(), Error> {
        self.show(&[Part::GateShared, Part::UpShared], Rows::H, n, self.dim, None)?;
        self.ops.gated(self.index, [Part::GateShared, Part::UpShared], act, shared.hidden)?;
        self.show(&[Part::DownShared], Rows::Hidden, n, shared.hidden, None)?;
        self.ops.quantize(self.at(), Rows::Hidden, &[Part::DownShared], n)?;
        self.ops.matmul(self.at(), &[(Part::DownShared, Rows::Shared)])?;
        if shared.gated { self.ops.gate_shared(self.index, n) } else { Ok(()) }
    }

    /// `H` through the experts that the router picks for each token, and the network beside them, back to `H`.
    fn moe(&mut self, m: &Moe, shared: Option<Shared>, n: usize) -> Result<(), Error> {
        let at = self.at();
        self.show(&[Part::Router], Rows::H, n, self.dim, None)?;
        let parts = [Part::Router, Part::GateExps, Part::UpExps, Part::GateShared, Part::UpShared];
        self.ops.quantize(at, Rows::H, &parts[..if shared.is_some() { 5 } else { 3 }], n)?;
        self.ops.matmul(at, &[(Part::Router, Rows::Router)])?;
        if let Some(shared) = shared {
            self.shared(m.act, shared, n)?;
        }
        self.ops.route(self.index, m, n)?;
        self.show(&[Part::GateExps, Part::UpExps], Rows::H, n, self.dim, Some((m, false)))?;
        self.ops.gated_experts(self.index, m, n)?;
        let pairs = n * m.n_active;
        self.show(&[Part::DownExps], Rows::Hidden, pairs, m.hidden, Some((m, true)))?;
        self.ops.quantize(at, Rows::Hidden, &[Part::DownExps], pairs)?;
        self.ops.combine_experts(self.index, m, n)?;
        if shared.is_some() { self.ops.add(Rows::H, Rows::Shared, n) } else { Ok(()) }
    }

    /// `X += H`, `H` normalized first where the layer says so.
    fn add_to_residual(&mut self, post: Part, n: usize) -> Result<(), Error> {
        if let Some(norm) = self.layer.post_norm {
            self.ops.norm(self.at(), post, norm, Rows::H, Rows::H, n)?;
        }
        self.ops.add(Rows::X, Rows::H, n)
    }
}
