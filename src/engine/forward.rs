//! One step: a batch of tokens through all layers, following the spec. What computes is a device behind [`Ops`]; this file
//! knows none of them.

use super::batch::{BatchToken, Run};
use super::ops::{At, Ops, Rows};
use super::{Engine, Error, Inputs, Observer};
use crate::model::{Ffn, Gated, Gqa, Layer, Mixer, Moe, Part, Residual};

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
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<&[f32], Error> {
        self.plan_batch(batch)?;
        let Engine { model, devices, runs, wanted, lens, .. } = self;
        let spec = &model.spec;
        let dim = spec.dim;
        wanted.clear();
        wanted.extend(batch.iter().enumerate().filter(|(_, t)| t.logits).map(|(i, _)| i));
        let n_out = wanted.len();

        devices.begin(batch, exact)?;
        let mut lane = devices.embed(batch, spec.tied_head)?;
        let mut n = batch.len();
        for (index, layer) in spec.layers.iter().enumerate() {
            let mixer = devices.placement.layers[index].mixer;
            devices.cross(lane, mixer, n * dim)?;
            lane = mixer;
            let observer_here = observer.as_mut().map(|o| &mut **o as &mut dyn Observer);
            let mut half = HalfLayer { ops: devices.ops(lane), layer, index, dim, observer: observer_here };
            let Residual::Sequential = layer.residual;
            half.norm(Part::AttnNorm, n)?;
            let Mixer::Gqa(a) = &layer.mixer;
            half.attention(a, runs, n)?;
            // Only the tokens whose logits are wanted go through the end of the last layer.
            if index + 1 == spec.layers.len() && n_out < n && half.observer.is_none() {
                half.ops.keep(Rows::Att, a.n_heads * a.v_dim, wanted)?;
                half.ops.keep(Rows::X, dim, wanted)?;
                n = n_out;
            }
            if n == 0 {
                break;
            }
            half.attention_out(a, n)?;
            half.add_to_residual(Part::AttnPostNorm, n)?;

            // An exact batch is computed where its tokens alone would be.
            let ffn = devices.ffn(index, if exact { 1 } else { n });
            devices.cross(lane, ffn, n * dim)?;
            lane = ffn;
            let observer_here = observer.as_mut().map(|o| &mut **o as &mut dyn Observer);
            let mut half = HalfLayer { ops: devices.ops(lane), layer, index, dim, observer: observer_here };
            half.norm(Part::FfnNorm, n)?;
            match &layer.ffn {
                Ffn::Gated(f) => half.gated(f, n)?,
                Ffn::Moe(m) => half.moe(m, n)?,
            }
            half.add_to_residual(Part::FfnPostNorm, n)?;
        }
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
            self.ops.store(layer, a, run)?;
            self.ops.attend(layer, a, run)?;
        }
        Ok(())
    }

    /// `Att` through the output projection to `H`.
    fn attention_out(&mut self, a: &Gqa, n: usize) -> Result<(), Error> {
        self.show(&[Part::AttnOut], Rows::Att, n, a.n_heads * a.v_dim, None)?;
        self.ops.quantize(self.at(), Rows::Att, &[Part::AttnOut], n)?;
        self.ops.matmul(self.at(), &[(Part::AttnOut, Rows::H)])?;
        if a.out_bias { self.ops.bias(self.at(), Part::AttnOutBias, Rows::H, n) } else { Ok(()) }
    }

    /// `H` through a gated network, back to `H`.
    fn gated(&mut self, f: &Gated, n: usize) -> Result<(), Error> {
        self.show(&[Part::Gate, Part::Up], Rows::H, n, self.dim, None)?;
        self.ops.quantize(self.at(), Rows::H, &[Part::Gate, Part::Up], n)?;
        self.ops.gated(self.index, f.act, f.hidden)?;
        self.show(&[Part::Down], Rows::Hidden, n, f.hidden, None)?;
        self.ops.quantize(self.at(), Rows::Hidden, &[Part::Down], n)?;
        self.ops.matmul(self.at(), &[(Part::Down, Rows::H)])
    }

    /// `H` through the experts that the router picks for each token, back to `H`.
    fn moe(&mut self, m: &Moe, n: usize) -> Result<(), Error> {
        self.show(&[Part::Router], Rows::H, n, self.dim, None)?;
        self.ops.quantize(self.at(), Rows::H, &[Part::Router, Part::GateExps, Part::UpExps], n)?;
        self.ops.matmul(self.at(), &[(Part::Router, Rows::Router)])?;
        self.ops.route(m, n)?;
        self.show(&[Part::GateExps, Part::UpExps], Rows::H, n, self.dim, Some((m, false)))?;
        self.ops.gated_experts(self.index, m, n)?;
        let pairs = n * m.n_active;
        self.show(&[Part::DownExps], Rows::Hidden, pairs, m.hidden, Some((m, true)))?;
        self.ops.quantize(self.at(), Rows::Hidden, &[Part::DownExps], pairs)?;
        self.ops.combine_experts(self.index, m, n)
    }

    /// `X += H`, `H` normalized first where the layer says so.
    fn add_to_residual(&mut self, post: Part, n: usize) -> Result<(), Error> {
        if let Some(norm) = self.layer.post_norm {
            self.ops.norm(self.at(), post, norm, Rows::H, Rows::H, n)?;
        }
        self.ops.add(n)
    }
}
