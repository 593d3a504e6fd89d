//! Experts that are in memory, computed by the card: their tables are copied to two slots in turn, the next while one is computed
//! with.

use super::super::Model;
use super::super::ops::Rows;
use super::{GpuOps, matrix, route_of};
use crate::model::{Ffn, Moe, Part};
use crate::placement::{Lane, Placement};
use ostro_kernels::cuda::{Buffer, CudaError, Gpu, Slots};
use std::time::Instant;

/// The tables of experts that are in memory, on their way through two slots.
pub(super) struct Streamed {
    slots: Slots,
    /// Which table each slot holds.
    held: [Option<(usize, Part)>; 2],
    /// The layers whose experts are streamed, ascending.
    layers: Vec<usize>,
}

/// Bytes that are copied to see how fast the bus is.
const MEASURED: usize = 64 << 20;

/// The tables of experts, in the order in which a layer uses them.
const TABLES: [Part; 3] = [Part::GateExps, Part::UpExps, Part::DownExps];

impl Streamed {
    fn new(gpu: &Gpu, model: &Model<'_>, layers: Vec<usize>) -> Result<Streamed, CudaError> {
        let tables = layers.iter().flat_map(|&layer| TABLES.map(|part| model.parts(Some(layer)).experts(part)));
        let largest = tables.map(|mats| mats.iter().map(|m| m.data().len()).sum()).max().unwrap_or(0);
        Ok(Streamed { slots: Slots::new(gpu, largest, 2)?, held: [None; 2], layers })
    }

    /// The table that comes after this one in a step.
    fn after(&self, (layer, part): (usize, Part)) -> Option<(usize, Part)> {
        match TABLES.iter().position(|&p| p == part) {
            Some(i) if i + 1 < TABLES.len() => Some((layer, TABLES[i + 1])),
            _ => self.layers.iter().find(|&&l| l > layer).map(|&l| (l, TABLES[0])),
        }
    }

    /// Queues the copy of a table, if it is not on its way already, into the slot that does not hold `keep`.
    fn fetch(
        &mut self,
        gpu: &Gpu,
        model: &Model<'_>,
        table: (usize, Part),
        keep: Option<(usize, Part)>,
    ) -> Result<usize, CudaError> {
        if let Some(slot) = self.held.iter().position(|held| *held == Some(table)) {
            return Ok(slot);
        }
        let slot = usize::from(keep.is_some() && self.held[0] == keep);
        self.held[slot] = None;
        self.slots.fill(gpu, slot, model.parts(Some(table.0)).experts(table.1))?;
        self.held[slot] = Some(table);
        Ok(slot)
    }
}

impl GpuOps<'_> {
    /// Slots for the experts of the layers that the CPU has, and the small parts of these layers; nothing where there is no
    /// such layer, or no room.
    pub(super) fn prepare_stream(
        &mut self,
        placement: &Placement,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<Streamed>, CudaError> {
        let model = self.model;
        let streams = |&i: &usize| {
            let is_moe = matches!(model.spec.layers[i].ffn, Ffn::Moe(_));
            is_moe
                && placement.layers[i].ffn == Lane::Cpu
                && super::refuses(&self.gpu, model, Some(i), |p| !p.is_mixer()).is_none()
        };
        let layers: Vec<usize> = (0..placement.layers.len()).filter(streams).collect();
        if layers.is_empty() {
            return Ok(None);
        }
        let small = |part: &Part| !part.is_mixer() && !TABLES.contains(part);
        let mut done = Ok(());
        for &layer in &layers {
            let parts: Vec<Part> = model.parts(Some(layer)).present().filter(small).collect();
            done = done.and_then(|()| self.upload_all(Some(layer), &parts, progress));
        }
        match done.and_then(|()| Streamed::new(&self.gpu, model, layers)) {
            Ok(streamed) => Ok(Some(streamed)),
            Err(e) if e.is_out_of_memory() => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The layers whose experts can be streamed.
    pub fn streamed_layers(&self) -> &[usize] {
        self.streamed.as_ref().map_or(&[], |streamed| &streamed.layers)
    }

    /// Seconds that a byte of weights takes on its way to the card, from memory through a slot.
    ///
    /// # Errors
    /// A driver that is lost.
    pub fn seconds_a_byte(&mut self) -> Result<f64, CudaError> {
        let GpuOps { gpu, model, streamed: Some(streamed), .. } = self else { return Ok(0.0) };
        let table = model.parts(Some(streamed.layers[0])).experts(TABLES[0]);
        // Enough that latency does not count, and few enough that nobody waits for it.
        let each = table[0].data().len().max(1);
        let few = MEASURED.div_ceil(each).min(table.len());
        let start = Instant::now();
        streamed.slots.fill(gpu, 0, &table[..few])?;
        streamed.slots.ready(gpu, 0)?;
        gpu.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / (few * each) as f64)
    }

    /// Queues a product of the pairs with a layer's table of experts, wherever the table is.
    pub(super) fn product_of_experts(
        &mut self,
        layer: usize,
        part: Part,
        m: &Moe,
        n: usize,
        own: bool,
        out: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let GpuOps { gpu, model, weights, room, streamed, exact, .. } = self;
        let routing = room.routing.as_ref().expect("a model with a router");
        let groups = if own { routing.by_pair(n, &route_of(m)) } else { routing.by_token(n, &route_of(m)) };
        let from = if own { Rows::Hidden } else { Rows::H };
        let (x, acts) = (room.rows(from), room.acts(from));
        match streamed.as_mut().filter(|_| !weights.contains_key(&(Some(layer), part))) {
            None => gpu.matmul_experts(acts, x, matrix(weights, Some(layer), part), groups, out, *exact),
            Some(streamed) => {
                let table = (layer, part);
                let slot = streamed.fetch(gpu, model, table, None)?;
                let mat = streamed.slots.ready(gpu, slot)?;
                gpu.matmul_experts(acts, x, mat, groups, out, *exact)?;
                streamed.slots.release(gpu, slot)?;
                // While the card computes, the next table is copied.
                if let Some(next) = streamed.after(table) {
                    streamed.fetch(gpu, model, next, Some(table))?;
                }
                Ok(())
            }
        }
    }
}
