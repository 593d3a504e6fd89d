//! The devices of an engine, and which of them computes what.

use super::Error;
use super::cpu::CpuOps;
use super::ops::{Half, Ops, Rows};
use super::{BatchToken, SeqId};
use crate::placement::{Lane, Placement};
use std::ops::Range;

/// The CPU, and a card where there is one.
pub(super) struct Devices<'m> {
    pub cpu: CpuOps<'m>,
    pub gpu: Option<Box<dyn Ops + 'm>>,
    pub placement: Placement,
    /// The card's name.
    pub card: String,
    /// Batches of so many tokens or more go through the card for experts that are in memory: their weights are copied to it in
    /// turn.
    pub stream_from: usize,
    /// The layers whose experts can be streamed.
    pub streamed: Vec<usize>,
}

impl<'m> Devices<'m> {
    /// A device.
    pub fn ops(&mut self, lane: Lane) -> &mut (dyn Ops + 'm) {
        match (lane, &mut self.gpu) {
            (Lane::Gpu, Some(gpu)) => gpu.as_mut(),
            _ => &mut self.cpu,
        }
    }

    /// Where a layer's feed-forward part is computed for `n` tokens.
    pub fn ffn(&self, layer: usize, n: usize) -> Lane {
        match self.placement.layers[layer].ffn {
            Lane::Cpu if n >= self.stream_from && self.streamed.binary_search(&layer).is_ok() => Lane::Gpu,
            lane => lane,
        }
    }

    /// Makes all devices ready for a batch.
    pub fn begin(&mut self, batch: &[BatchToken], exact: bool) -> Result<(), Error> {
        self.cpu.begin(batch, exact)?;
        self.gpu.as_mut().map_or(Ok(()), |gpu| gpu.begin(batch, exact))
    }

    /// The tokens' embeddings to the residual of the device that it returns: the CPU, or the card where that has the embedding,
    /// because it is the head, and the first layer.
    pub fn embed(&mut self, batch: &[BatchToken], tied_head: bool) -> Result<Lane, Error> {
        let first = self.placement.layers.first().map_or(Lane::Cpu, |l| l.mixer);
        let lane = if tied_head && self.placement.head == first { first } else { Lane::Cpu };
        self.ops(lane).embed(batch)?;
        Ok(lane)
    }

    /// Brings the first `len` floats of the residual from one device to another.
    pub fn cross(&mut self, from: Lane, to: Lane, len: usize) -> Result<(), Error> {
        let Some(gpu) = self.gpu.as_mut().filter(|_| from != to) else { return Ok(()) };
        match to {
            Lane::Gpu => gpu.write(Rows::X, self.cpu.read(Rows::X, len)?),
            Lane::Cpu => self.cpu.write(Rows::X, gpu.read(Rows::X, len)?),
        }
    }

    /// The first `len` logits of the last step.
    pub fn logits(&self, len: usize) -> &[f32] {
        match (self.placement.head, &self.gpu) {
            (Lane::Gpu, Some(gpu)) => gpu.logits(len),
            _ => self.cpu.logits(len),
        }
    }

    /// [`Ops::remove`] on all devices.
    pub fn remove(&mut self, seq: SeqId, gone: Range<usize>, held: usize) -> Result<(), Error> {
        if let Some(gpu) = &mut self.gpu {
            gpu.remove(seq, gone.clone(), held)?;
        }
        self.cpu.remove(seq, gone, held)
    }

    /// [`Ops::cache`] of the device that has it.
    pub fn cache(&self, layer: usize, seq: SeqId, half: Half, n: usize) -> Result<Vec<u8>, Error> {
        match (self.placement.layers[layer].mixer, &self.gpu) {
            (Lane::Gpu, Some(gpu)) => gpu.cache(layer, seq, half, n),
            _ => self.cpu.cache(layer, seq, half, n),
        }
    }

    /// [`Ops::set_cache`] of the device that has it.
    pub fn set_cache(&mut self, layer: usize, seq: SeqId, half: Half, n: usize, bytes: &[u8]) -> Result<(), Error> {
        let lane = self.placement.layers[layer].mixer;
        self.ops(lane).set_cache(layer, seq, half, n, bytes)
    }
}
