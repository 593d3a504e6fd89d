//! The card's share of a model: what it can compute, and what there is room for.

use super::super::Model;
use super::super::kv::KvTypes;
use super::super::ops::{At, Rows};
use super::room::Room;
use super::{GpuOps, LayerKv, Weight, route_of};
use crate::model::{Ffn, Mixer, Part, Residual};
use crate::placement::{Lane, Placement};
use ostro_kernels::cuda::{CudaError, Gpu};
use std::collections::HashMap;
use std::rc::Rc;

/// What a card is given to do.
pub(in crate::engine) struct Share {
    pub placement: Placement,
    pub n_ctx: usize,
    pub n_ubatch: usize,
    pub n_seqs: usize,
    pub kv: KvTypes,
    /// Whether experts that are in memory may be streamed.
    pub stream: bool,
}

/// Why a half of a layer, or the head where there is no layer, cannot be computed on a card.
pub(in crate::engine) fn refuses(gpu: &Gpu, model: &Model<'_>, at: At, lane_of: fn(Part) -> bool) -> Option<String> {
    let parts = model.parts(at);
    if let Some(layer) = at {
        let layer = &model.spec.layers[layer];
        let (key, value) = match &layer.mixer {
            Mixer::Gqa(a) => (a.head_dim, a.v_dim),
            Mixer::Mla(a) => (a.latent(), a.kv_rank),
        };
        if lane_of(Part::Q) && !Gpu::attends(key, value) {
            return Some(format!("heads of {key} and {value} values are not computed on a card"));
        }
        match &layer.ffn {
            Ffn::Moe(m) if lane_of(Part::Router) && !Gpu::routes(&route_of(m)) => {
                return Some(format!("{} experts are not chosen from on a card", m.n_experts));
            }
            Ffn::Moe(_) | Ffn::Gated(_) => {}
        }
    }
    for part in parts.present().filter(|&part| lane_of(part)) {
        let mats = parts.matrices(part).unwrap_or_default();
        if let Some(mat) = mats.iter().find(|mat| !gpu.computes(mat.dtype())) {
            return Some(format!("{part:?} is of type {}, for which there is no kernel", mat.dtype()));
        }
        if mats.iter().any(|mat| mat.dtype() != mats[0].dtype()) {
            return Some(format!("the experts of {part:?} are of different types"));
        }
    }
    None
}

impl<'m> GpuOps<'m> {
    /// Takes the card's share of a model: weights are copied, cache and rows reserved. Halves for which there is no room are
    /// moved to the CPU in `share`.
    ///
    /// # Errors
    /// No room even for the rows of a batch, or a driver that is lost.
    pub fn new(
        gpu: &Rc<Gpu>,
        model: &'m Model<'m>,
        share: &mut Share,
        progress: &mut dyn FnMut(u64),
    ) -> Result<GpuOps<'m>, CudaError> {
        let mut ops = GpuOps {
            gpu: gpu.clone(),
            model,
            weights: HashMap::new(),
            kv: HashMap::new(),
            n_ctx: share.n_ctx,
            ropes: model.ropes(share.n_ctx),
            room: Room::new(gpu, &model.spec, share.n_ubatch)?,
            streamed: None,
            exact: false,
            ready: (Rows::H, 0),
            landing: Vec::new(),
            offsets: Vec::new(),
            pick: Vec::new(),
            logits: Vec::new(),
        };
        if share.placement.head == Lane::Gpu {
            let done = ops.upload_all(None, &[Part::OutNorm, model.head_part()], progress);
            share.placement.head = ops.or_cpu(None, |_| true, done)?;
        }
        for index in 0..share.placement.layers.len() {
            if share.placement.layers[index].mixer == Lane::Gpu {
                let parts: Vec<Part> = model.parts(Some(index)).present().filter(|&p| p.is_mixer()).collect();
                let done = ops.reserve_kv(index, share).and_then(|()| ops.upload_all(Some(index), &parts, progress));
                share.placement.layers[index].mixer = ops.or_cpu(Some(index), Part::is_mixer, done)?;
            }
        }
        if share.stream {
            ops.streamed = ops.prepare_stream(&share.placement, progress)?;
        }
        for index in 0..share.placement.layers.len() {
            if share.placement.layers[index].ffn == Lane::Gpu {
                let parts: Vec<Part> = model.parts(Some(index)).present().filter(|&p| !p.is_mixer()).collect();
                let done = ops.upload_all(Some(index), &parts, progress);
                share.placement.layers[index].ffn = ops.or_cpu(Some(index), |part| !part.is_mixer(), done)?;
            }
        }
        for (index, lanes) in share.placement.layers.iter().enumerate() {
            let layer = &model.spec.layers[index];
            // What one half reads and the other half's norm makes.
            let borrowed = match layer.residual {
                Residual::Parallel => Some((lanes.ffn, Part::AttnNorm)),
                Residual::Sequential => layer.ffn.shared().map(|_| (lanes.mixer, Part::FfnNorm)),
            };
            if let Some((Lane::Gpu, norm)) = borrowed
                && !ops.weights.contains_key(&(Some(index), norm))
            {
                ops.upload(Some(index), norm, progress)?;
            }
        }
        gpu.synchronize()?;
        Ok(ops)
    }

    /// The lane of what was just copied: the card, or the CPU where there was no room. Then what was copied of it is freed.
    fn or_cpu(&mut self, at: At, half: fn(Part) -> bool, done: Result<(), CudaError>) -> Result<Lane, CudaError> {
        match done {
            Ok(()) => Ok(Lane::Gpu),
            Err(e) if e.is_out_of_memory() => {
                self.weights.retain(|&(of, part), _| of != at || !half(part));
                if let Some(layer) = at.filter(|_| half(Part::Q)) {
                    self.kv.retain(|&(_, of), _| of != layer);
                }
                Ok(Lane::Cpu)
            }
            Err(e) => Err(e),
        }
    }

    fn reserve_kv(&mut self, index: usize, share: &Share) -> Result<(), CudaError> {
        let cached = self.model.spec.layers[index].mixer.cached();
        for seq in 0..share.n_seqs {
            let k = self.gpu.kv(share.kv.k, cached.heads, share.n_ctx, cached.key)?;
            let v = match cached.value {
                0 => None,
                value => Some(self.gpu.kv(share.kv.v, cached.heads, share.n_ctx, value)?),
            };
            self.kv.insert((seq, index), LayerKv { k, v });
        }
        Ok(())
    }

    pub(super) fn upload_all(
        &mut self,
        at: At,
        parts: &[Part],
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), CudaError> {
        parts.iter().try_for_each(|&part| self.upload(at, part, progress))
    }

    fn upload(&mut self, at: At, part: Part, progress: &mut dyn FnMut(u64)) -> Result<(), CudaError> {
        let parts = self.model.parts(at);
        let weight = match parts.matrices(part) {
            Some(mats) => {
                let weight = Weight::Matrix(self.gpu.upload(&mats)?);
                progress(mats.iter().map(|m| m.data().len() as u64).sum());
                weight
            }
            None => {
                let floats = parts.vector(part);
                let buffer = self.gpu.buffer(floats.len())?;
                self.gpu.write(&buffer, 0, floats)?;
                Weight::Vector(buffer)
            }
        };
        self.weights.insert((at, part), weight);
        Ok(())
    }
}
