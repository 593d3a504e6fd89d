//! A card as a device: its part of the weights and of the cache, and rows of its own for a batch.
//!
//! Operations are queued; the host waits where the residual comes back, or the logits. Experts that are in memory can be
//! streamed: their tables are copied to two slots in turn, the next while one is computed with.

use super::batch::{BatchToken, Run};
use super::kv::KvTypes;
use super::ops::{At, Half, Ops, Rows};
use super::{Error, Model, SeqId};
use crate::model::{Activation, Ffn, Gqa, Mixer, ModelSpec, Moe, Norm, NormKind, Part, Router};
use crate::placement::{Lane, Placement};
use ostro_kernels::cuda::{
    Buffer, CudaError, Gpu, GpuActs, GpuAttend, GpuKv, GpuMat, GpuRope, GpuRoute, GpuRouting, Slots,
};
use ostro_kernels::{DType, Groups};
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use std::time::Instant;

impl From<CudaError> for Error {
    fn from(error: CudaError) -> Error {
        Error::Gpu(error.to_string())
    }
}

/// One weight on the card.
enum Weight {
    Matrix(GpuMat),
    Vector(Buffer<f32>),
}

/// Keys and values of a layer.
struct LayerKv {
    k: GpuKv,
    v: GpuKv,
}

/// Rows of a batch, by the names of [`Rows`].
struct Room {
    rows: HashMap<Rows, Buffer<f32>>,
    /// The second half of a gated network, `[n or pairs, hidden]`; out while it is written.
    up: Option<Buffer<f32>>,
    /// What each chosen expert gives, `[pairs, dim]`, out while it is written; rows that are picked out.
    spare: Option<Buffer<f32>>,
    acts: GpuActs,
    routing: Option<GpuRouting>,
    /// Cosines and sines of each rotary embedding, `[n, pairs]` each.
    ropes: Vec<(Buffer<f32>, Buffer<f32>)>,
    picked: Buffer<i32>,
    scratch: Buffer<f32>,
}

/// The tables of experts that are in memory, on their way through two slots.
struct Streamed {
    slots: Slots,
    /// Which table each slot holds.
    held: [Option<(usize, Part)>; 2],
    /// The layers whose experts are streamed, ascending.
    layers: Vec<usize>,
}

pub(super) struct GpuOps<'m> {
    gpu: Rc<Gpu>,
    model: &'m Model<'m>,
    weights: HashMap<(At, Part), Weight>,
    /// By sequence and layer.
    kv: HashMap<(usize, usize), LayerKv>,
    n_ctx: usize,
    room: Room,
    streamed: Option<Streamed>,
    exact: bool,
    /// What was made ready last, with how many rows.
    ready: (Rows, usize),
    /// Copies of what was read.
    landing: Vec<f32>,
    offsets: Vec<usize>,
    pick: Vec<u32>,
    logits: Vec<f32>,
}

/// What a card is given to do.
pub(super) struct Share {
    pub placement: Placement,
    pub n_ctx: usize,
    pub n_ubatch: usize,
    pub n_seqs: usize,
    pub kv: KvTypes,
    /// Whether experts that are in memory may be streamed.
    pub stream: bool,
}

/// Bytes that are copied to see how fast the bus is.
const MEASURED: usize = 64 << 20;

/// The tables of experts, in the order in which a layer uses them.
const TABLES: [Part; 3] = [Part::GateExps, Part::UpExps, Part::DownExps];

fn route_of(m: &Moe) -> GpuRoute {
    let Router::Softmax = m.router;
    GpuRoute { n_experts: m.n_experts, n_active: m.n_active, renormalize: m.renormalize, scale: m.scale }
}

/// Why a half of a layer, or the head where there is no layer, cannot be computed on a card.
pub(super) fn refuses(gpu: &Gpu, model: &Model<'_>, at: At, lane_of: fn(Part) -> bool) -> Option<String> {
    let parts = model.parts(at);
    if let Some(layer) = at {
        let layer = &model.spec.layers[layer];
        match &layer.mixer {
            Mixer::Gqa(a) if lane_of(Part::Q) && !Gpu::attends(a.head_dim, a.v_dim) => {
                return Some(format!("heads of {} values are not computed on a card", a.head_dim.max(a.v_dim)));
            }
            Mixer::Gqa(_) => {}
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
        let Mixer::Gqa(a) = &self.model.spec.layers[index].mixer;
        for seq in 0..share.n_seqs {
            let k = self.gpu.kv(share.kv.k, a.n_kv_heads, share.n_ctx, a.head_dim)?;
            let v = self.gpu.kv(share.kv.v, a.n_kv_heads, share.n_ctx, a.v_dim)?;
            self.kv.insert((seq, index), LayerKv { k, v });
        }
        Ok(())
    }

    fn upload_all(&mut self, at: At, parts: &[Part], progress: &mut dyn FnMut(u64)) -> Result<(), CudaError> {
        parts.iter().try_for_each(|&part| self.upload(at, part, progress))
    }

    /// Slots for the experts of the layers that the CPU has, and the small parts of these layers; nothing where there is no
    /// such layer, or no room.
    fn prepare_stream(
        &mut self,
        placement: &Placement,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Option<Streamed>, CudaError> {
        let model = self.model;
        let streams = |&i: &usize| {
            let is_moe = matches!(model.spec.layers[i].ffn, Ffn::Moe(_));
            is_moe
                && placement.layers[i].ffn == Lane::Cpu
                && refuses(&self.gpu, model, Some(i), |p| !p.is_mixer()).is_none()
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

fn matrix(weights: &HashMap<(At, Part), Weight>, at: At, part: Part) -> &GpuMat {
    match weights.get(&(at, part)) {
        Some(Weight::Matrix(mat)) => mat,
        _ => panic!("{part:?} of {at:?} is no matrix on the card"),
    }
}

fn vector(weights: &HashMap<(At, Part), Weight>, at: At, part: Part) -> &Buffer<f32> {
    match weights.get(&(at, part)) {
        Some(Weight::Vector(vector)) => vector,
        _ => panic!("{part:?} of {at:?} is no vector on the card"),
    }
}

impl Room {
    fn new(gpu: &Gpu, spec: &ModelSpec, n: usize) -> Result<Room, CudaError> {
        let mut size = HashMap::from([(Rows::X, n * spec.dim), (Rows::H, n * spec.dim), (Rows::Logits, spec.n_vocab)]);
        let (mut acts, mut spare, mut up, mut scratch, mut experts) = (n * spec.dim, n * spec.dim, 0, 1, None);
        let mut grow = |rows: Rows, len: usize| {
            let size = size.entry(rows).or_insert(1);
            *size = (*size).max(len);
        };
        for layer in &spec.layers {
            let Mixer::Gqa(a) = &layer.mixer;
            let att = n * a.n_heads * a.v_dim;
            grow(Rows::Q, n * a.n_heads * a.head_dim);
            grow(Rows::K, n * a.n_kv_heads * a.head_dim);
            grow(Rows::V, n * a.n_kv_heads * a.v_dim);
            grow(Rows::Att, att);
            (acts, spare) = (acts.max(att), spare.max(att));
            scratch = scratch.max(Gpu::attend_scratch(n, a.n_heads, a.v_dim));
            let hidden = match &layer.ffn {
                Ffn::Gated(f) => n * f.hidden,
                Ffn::Moe(m) => {
                    grow(Rows::Router, n * m.n_experts);
                    spare = spare.max(n * m.n_active * spec.dim);
                    let (most, active) = experts.unwrap_or((0, 0));
                    experts = Some((m.n_experts.max(most), m.n_active.max(active)));
                    n * m.n_active * m.hidden
                }
            };
            grow(Rows::Hidden, hidden);
            (acts, up) = (acts.max(hidden), up.max(hidden));
        }
        let mut rows = HashMap::new();
        for (name, len) in size {
            rows.insert(name, gpu.buffer(len)?);
        }
        let mut ropes = Vec::new();
        for rope in &spec.ropes {
            ropes.push((gpu.buffer(n * rope.dim / 2)?, gpu.buffer(n * rope.dim / 2)?));
        }
        Ok(Room {
            rows,
            up: Some(gpu.buffer(up)?),
            spare: Some(gpu.buffer(spare)?),
            acts: gpu.acts(acts)?,
            routing: experts.map(|(most, active)| gpu.routing(n, most, active)).transpose()?,
            ropes,
            picked: gpu.buffer(n)?,
            scratch: gpu.buffer(scratch)?,
        })
    }

    fn rows(&self, rows: Rows) -> &Buffer<f32> {
        self.rows.get(&rows).expect("rows of a part that the spec has")
    }

    /// Takes rows out, so that others can be read meanwhile; they must be put back.
    fn take(&mut self, rows: Rows) -> Buffer<f32> {
        self.rows.remove(&rows).expect("rows of a part that the spec has")
    }

    fn put(&mut self, rows: Rows, buffer: Buffer<f32>) {
        self.rows.insert(rows, buffer);
    }

    /// Does something with some rows while others can be read.
    fn with<T>(&mut self, rows: Rows, work: impl FnOnce(&mut Room, &mut Buffer<f32>) -> T) -> T {
        let mut buffer = self.take(rows);
        let done = work(self, &mut buffer);
        self.put(rows, buffer);
        done
    }
}

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
    /// Queues a product of the pairs with a layer's table of experts, wherever the table is.
    fn product_of_experts(
        &mut self,
        layer: usize,
        part: Part,
        m: &Moe,
        n: usize,
        own: bool,
        out: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let GpuOps { gpu, model, weights, room, streamed, exact, ready, .. } = self;
        let routing = room.routing.as_ref().expect("a model with a router");
        let groups = if own { routing.by_pair(n, &route_of(m)) } else { routing.by_token(n, &route_of(m)) };
        let x = room.rows(ready.0);
        match streamed.as_mut().filter(|_| !weights.contains_key(&(Some(layer), part))) {
            None => gpu.matmul_experts(&room.acts, x, matrix(weights, Some(layer), part), groups, out, *exact),
            Some(streamed) => {
                let table = (layer, part);
                let slot = streamed.fetch(gpu, model, table, None)?;
                let mat = streamed.slots.ready(gpu, slot)?;
                gpu.matmul_experts(&room.acts, x, mat, groups, out, *exact)?;
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

impl Ops for GpuOps<'_> {
    fn begin(&mut self, batch: &[BatchToken], exact: bool) -> Result<(), Error> {
        self.exact = exact;
        for (rope, (to_cos, to_sin)) in self.model.ropes.iter().zip(&self.room.ropes) {
            let len = batch.len() * rope.pairs();
            if self.landing.len() < 2 * len {
                self.landing.resize(2 * len, 0.0);
            }
            let (cos, sin) = self.landing[..2 * len].split_at_mut(len);
            rope.fill_all(batch.iter().map(|t| t.pos as u32), cos, sin);
            self.gpu.write(to_cos, 0, cos)?;
            self.gpu.write(to_sin, 0, sin)?;
        }
        Ok(())
    }

    fn embed(&mut self, batch: &[BatchToken]) -> Result<(), Error> {
        let GpuOps { gpu, model, weights, room, .. } = self;
        let tokens: Vec<i32> = batch.iter().map(|t| t.token as i32).collect();
        gpu.write(&room.picked, 0, &tokens)?;
        let (w, scale) = (matrix(weights, None, Part::Embed), model.spec.embed_scale);
        Ok(room.with(Rows::X, |room, x| gpu.embed(w, &room.picked, batch.len(), scale, x))?)
    }

    fn norm(&mut self, at: At, part: Part, norm: Norm, from: Rows, to: Rows, n: usize) -> Result<(), Error> {
        let (gpu, weight, NormKind::Rms) = (&self.gpu, vector(&self.weights, at, part), norm.kind);
        Ok(self.room.with(to, |room, out| match from == to {
            true => gpu.rms_norm_in_place(out, weight, norm.eps, n),
            false => gpu.rms_norm(room.rows(from), weight, norm.eps, n, out),
        })?)
    }

    fn quantize(&mut self, at: At, from: Rows, parts: &[Part], n: usize) -> Result<(), Error> {
        let weights = self.model.parts(at);
        let mut dtypes = [DType::F32; 3];
        for (dtype, &part) in dtypes.iter_mut().zip(parts) {
            *dtype = weights.dtype_of(part, 0);
        }
        let (room, k) = (&mut self.room, weights.cols(parts[0]));
        self.ready = (from, n);
        let x = room.rows.get(&from).expect("rows of a part that the spec has");
        Ok(self.gpu.quantize(&mut room.acts, x, n, k, &dtypes[..parts.len()])?)
    }

    fn matmul(&mut self, at: At, products: &[(Part, Rows)]) -> Result<(), Error> {
        let GpuOps { gpu, weights, room, exact, ready: (from, n), .. } = self;
        for &(part, to) in products {
            let w = matrix(weights, at, part);
            if room.rows(to).len() < *n * w.rows() {
                let longer = gpu.buffer(*n * w.rows())?; // the logits, whose number nobody knows before
                room.put(to, longer);
            }
            let from = *from;
            room.with(to, |room, out| gpu.matmul(&room.acts, room.rows(from), w, out, *exact))?;
        }
        Ok(())
    }

    fn bias(&mut self, at: At, part: Part, rows: Rows, n: usize) -> Result<(), Error> {
        let (gpu, bias) = (&self.gpu, vector(&self.weights, at, part));
        Ok(self.room.with(rows, |_, rows| gpu.add_bias(rows, bias, n))?)
    }

    fn rotate(&mut self, layer: usize, a: &Gqa, rows: Rows, n: usize) -> Result<(), Error> {
        let (heads, norm) = if rows == Rows::Q { (a.n_heads, Part::QNorm) } else { (a.n_kv_heads, Part::KNorm) };
        let (gpu, weights, rope) = (&self.gpu, &self.weights, &self.model.spec.ropes[a.rope]);
        Ok(self.room.with(rows, |room, rows| {
            if let Some(Norm { kind: NormKind::Rms, eps }) = a.qk_norm {
                gpu.rms_norm_in_place(rows, vector(weights, Some(layer), norm), eps, n * heads)?;
            }
            let (cos, sin) = &room.ropes[a.rope];
            let rope = GpuRope { cos, sin, pairs: rope.dim / 2, pairing: rope.pairs };
            gpu.rope(rows, &rope, n, heads, a.head_dim)
        })?)
    }

    fn store(&mut self, layer: usize, _: &Gqa, run: Run) -> Result<(), Error> {
        let cache = self.kv.get_mut(&(run.seq.0, layer)).expect("a layer of the card");
        self.gpu.store(&mut cache.k, self.room.rows(Rows::K), run.first, run.n, run.pos)?;
        Ok(self.gpu.store(&mut cache.v, self.room.rows(Rows::V), run.first, run.n, run.pos)?)
    }

    fn attend(&mut self, layer: usize, a: &Gqa, run: Run) -> Result<(), Error> {
        let GpuOps { gpu, kv, room, exact, .. } = self;
        let LayerKv { k, v } = &kv[&(run.seq.0, layer)];
        let Room { rows, scratch, .. } = room;
        let mut out = rows.remove(&Rows::Att).expect("rows of a part that the spec has");
        // Several queries together are computed in another way than one.
        let together = if *exact { 1 } else { run.n };
        let mut done = Ok(());
        for i in (0..run.n).step_by(together) {
            let attend = GpuAttend {
                q: &rows[&Rows::Q],
                k,
                v,
                first: run.first + i,
                n: together,
                first_pos: run.pos + i,
                n_heads: a.n_heads,
                window: a.window,
                scale: a.scale,
                softcap: a.softcap,
            };
            done = done.and_then(|()| gpu.attend(&attend, scratch, &mut out));
        }
        rows.insert(Rows::Att, out);
        Ok(done?)
    }

    fn gated(&mut self, layer: usize, act: Activation, hidden: usize) -> Result<(), Error> {
        let GpuOps { gpu, weights, room, exact, ready: (from, n), .. } = self;
        let (gate, up) = (matrix(weights, Some(layer), Part::Gate), matrix(weights, Some(layer), Part::Up));
        let mut out = room.take(Rows::Hidden);
        let x = room.rows.get(from).expect("rows of a part that the spec has");
        let inner = room.up.as_mut().expect("put back after use");
        let done = gpu
            .matmul(&room.acts, x, gate, &mut out, *exact)
            .and_then(|()| gpu.matmul(&room.acts, x, up, inner, *exact))
            .and_then(|()| gpu.gate(act, &mut out, inner, *n * hidden));
        room.put(Rows::Hidden, out);
        Ok(done?)
    }

    fn route(&mut self, m: &Moe, n: usize) -> Result<(), Error> {
        let Room { rows, routing, .. } = &mut self.room;
        let routing = routing.as_mut().expect("a model with a router");
        Ok(self.gpu.route(&rows[&Rows::Router], n, &route_of(m), routing)?)
    }

    fn gated_experts(&mut self, layer: usize, m: &Moe, n: usize) -> Result<(), Error> {
        let mut out = self.room.take(Rows::Hidden);
        let mut up = self.room.up.take().expect("put back after use");
        let done = self
            .product_of_experts(layer, Part::GateExps, m, n, false, &mut out)
            .and_then(|()| self.product_of_experts(layer, Part::UpExps, m, n, false, &mut up))
            .and_then(|()| self.gpu.gate(m.act, &mut out, &up, n * m.n_active * m.hidden));
        self.room.up = Some(up);
        self.room.put(Rows::Hidden, out);
        Ok(done?)
    }

    fn combine_experts(&mut self, layer: usize, m: &Moe, n: usize) -> Result<(), Error> {
        let mut spare = self.room.spare.take().expect("put back after use");
        let done = self.product_of_experts(layer, Part::DownExps, m, n, true, &mut spare);
        let (gpu, dim) = (&self.gpu, self.model.spec.dim);
        let done = done.and_then(|()| {
            self.room.with(Rows::H, |room, h| {
                let routing = room.routing.as_ref().expect("a model with a router");
                gpu.combine(&spare, routing, n, m.n_active, dim, h)
            })
        });
        self.room.spare = Some(spare);
        Ok(done?)
    }

    fn add(&mut self, n: usize) -> Result<(), Error> {
        let (gpu, len) = (&self.gpu, n * self.model.spec.dim);
        Ok(self.room.with(Rows::X, |room, x| gpu.add(x, room.rows(Rows::H), len))?)
    }

    fn keep(&mut self, rows: Rows, width: usize, keep: &[usize]) -> Result<(), Error> {
        let Room { rows: all, spare, picked, .. } = &mut self.room;
        let indices: Vec<i32> = keep.iter().map(|&i| i as i32).collect();
        self.gpu.write(picked, 0, &indices)?;
        let from = all.get_mut(&rows).expect("rows of a part that the spec has");
        let spare = spare.as_mut().expect("put back after use");
        self.gpu.pick_rows(from, picked, keep.len(), width, spare)?;
        Ok(self.gpu.copy(spare, from, keep.len() * width)?)
    }

    fn finish(&mut self, n: usize) -> Result<(), Error> {
        let (gpu, spec) = (&self.gpu, &self.model.spec);
        let len = n * spec.n_vocab;
        if spec.logit_scale != 1.0 || spec.logit_softcap.is_some() {
            let (scale, cap) = (spec.logit_scale, spec.logit_softcap);
            self.room.with(Rows::Logits, |_, logits| gpu.scale_and_cap(logits, len, scale, cap))?;
        }
        if self.logits.len() < len {
            self.logits.resize(len, 0.0);
        }
        Ok(gpu.read(self.room.rows(Rows::Logits), 0, &mut self.logits[..len])?)
    }

    fn logits(&self, len: usize) -> &[f32] {
        &self.logits[..len]
    }

    fn read(&mut self, rows: Rows, len: usize) -> Result<&[f32], Error> {
        if self.landing.len() < len {
            self.landing.resize(len, 0.0);
        }
        self.gpu.read(self.room.rows(rows), 0, &mut self.landing[..len])?;
        Ok(&self.landing[..len])
    }

    fn write(&mut self, rows: Rows, values: &[f32]) -> Result<(), Error> {
        Ok(self.gpu.write(self.room.rows(rows), 0, values)?)
    }

    fn groups(&mut self, m: &Moe, n: usize, own: bool) -> Result<Groups<'_>, Error> {
        let routing = self.room.routing.as_ref().expect("a model with a router");
        let (offsets, token) = self.gpu.read_routing(routing, n, &route_of(m))?;
        self.offsets = offsets.iter().map(|&i| i as usize).collect();
        let own_row = 0..token.len() as u32;
        self.pick = if own { own_row.collect() } else { token.iter().map(|&t| t as u32).collect() };
        Ok(Groups { offsets: &self.offsets, pick: &self.pick })
    }

    fn remove(&mut self, seq: SeqId, gone: Range<usize>, held: usize) -> Result<(), Error> {
        let mut angles = Vec::new();
        for rope in &self.model.ropes {
            let (cos, sin) = rope.back(gone.len() as u32);
            let (to_cos, to_sin) = (self.gpu.buffer(cos.len())?, self.gpu.buffer(sin.len())?);
            self.gpu.write(&to_cos, 0, &cos)?;
            self.gpu.write(&to_sin, 0, &sin)?;
            angles.push((to_cos, to_sin));
        }
        for ((of, layer), cache) in &mut self.kv {
            if *of == seq.0 {
                let Mixer::Gqa(a) = &self.model.spec.layers[*layer].mixer;
                let (spec, (cos, sin)) = (&self.model.spec.ropes[a.rope], &angles[a.rope]);
                let rope = GpuRope { cos, sin, pairs: spec.dim / 2, pairing: spec.pairs };
                self.gpu.shift(&mut cache.k, Some(&rope), gone.clone(), held)?;
                self.gpu.shift(&mut cache.v, None, gone.clone(), held)?;
            }
        }
        Ok(self.gpu.synchronize()?)
    }

    fn cache(&self, layer: usize, seq: SeqId, half: Half, n: usize) -> Result<Vec<u8>, Error> {
        let (kv, row, heads) = self.half(layer, seq, half);
        let mut bytes = vec![0; heads * n * row];
        for (head, bytes) in bytes.chunks_exact_mut((n * row).max(1)).enumerate() {
            self.gpu.read(kv.bytes(), head * self.n_ctx * row, bytes)?;
        }
        Ok(bytes)
    }

    fn set_cache(&mut self, layer: usize, seq: SeqId, half: Half, n: usize, bytes: &[u8]) -> Result<(), Error> {
        let (kv, row, _) = self.half(layer, seq, half);
        for (head, bytes) in bytes.chunks_exact((n * row).max(1)).enumerate() {
            self.gpu.write(kv.bytes(), head * self.n_ctx * row, bytes)?;
        }
        Ok(())
    }
}

impl GpuOps<'_> {
    /// Keys or values of a layer, the bytes of one, and heads.
    fn half(&self, layer: usize, seq: SeqId, half: Half) -> (&GpuKv, usize, usize) {
        let LayerKv { k, v } = &self.kv[&(seq.0, layer)];
        let kv = if half == Half::Keys { k } else { v };
        let Mixer::Gqa(a) = &self.model.spec.layers[layer].mixer;
        (kv, kv.bytes().len() / (a.n_kv_heads * self.n_ctx), a.n_kv_heads)
    }
}
