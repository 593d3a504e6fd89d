//! A card as a device: its part of the weights and of the cache, and rows of its own for a batch.
//!
//! Operations are queued; the host waits where the residual comes back, or the logits. `load` gives the card its share of a model,
//! `room` has the rows of a batch, `stream` the experts that are in memory and are copied to the card while it computes.

mod latent;
mod load;
mod room;
mod stream;

pub(super) use load::{Share, refuses};

use super::batch::{BatchToken, Run};
use super::ops::{At, Half, Ops, Rows};
use super::{Error, Model, SeqId};
use crate::model::rope::Rope;
use crate::model::{Activation, Cached, Gqa, Mla, Moe, Norm, NormKind, Part, Router};
use ostro_kernels::cuda::{Buffer, CudaError, Gpu, GpuAttend, GpuKv, GpuMat, GpuNorm, GpuRope, GpuRoute};
use ostro_kernels::{DType, Groups};
use room::Room;
use std::collections::HashMap;
use std::ops::Range;
use std::rc::Rc;
use stream::Streamed;

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
    /// Nothing where values are the front of the keys.
    v: Option<GpuKv>,
}

pub(super) struct GpuOps<'m> {
    gpu: Rc<Gpu>,
    model: &'m Model<'m>,
    weights: HashMap<(At, Part), Weight>,
    /// By sequence and layer.
    kv: HashMap<(usize, usize), LayerKv>,
    n_ctx: usize,
    ropes: Vec<Rope>,
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

fn route_of(m: &Moe) -> GpuRoute {
    GpuRoute {
        n_experts: m.n_experts,
        n_active: m.n_active,
        sigmoid: m.router == Router::Sigmoid,
        groups: m.groups.map(|groups| (groups.n, groups.n_active, groups.best)),
        renormalize: m.renormalize,
        scale: m.scale,
    }
}

fn norm_of(norm: Norm) -> GpuNorm {
    match norm.kind {
        NormKind::Rms => GpuNorm::Rms,
        NormKind::Layer => GpuNorm::Layer,
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

impl Ops for GpuOps<'_> {
    fn begin(&mut self, batch: &[BatchToken], exact: bool) -> Result<(), Error> {
        self.exact = exact;
        for (rope, (to_cos, to_sin)) in self.ropes.iter().zip(&self.room.ropes) {
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
        let (gpu, weight) = (&self.gpu, vector(&self.weights, at, part));
        Ok(self.room.with(to, |room, out| match from == to {
            true => gpu.norm_in_place(norm_of(norm), out, weight.len(), (weight, 1), norm.eps, n),
            false => gpu.norm(norm_of(norm), room.rows(from), weight, norm.eps, n, out),
        })?)
    }

    fn quantize(&mut self, at: At, from: Rows, parts: &[Part], n: usize) -> Result<(), Error> {
        let weights = self.model.parts(at);
        let mut dtypes = [DType::F32; 5];
        for (dtype, &part) in dtypes.iter_mut().zip(parts) {
            *dtype = weights.dtype_of(part, 0);
        }
        let (room, k) = (&mut self.room, weights.cols(parts[0]));
        self.ready = (from, n);
        let x = room.rows.get(&from).expect("rows of a part that the spec has");
        let acts = if from == Rows::Hidden { &mut room.inner } else { &mut room.acts };
        Ok(self.gpu.quantize(acts, x, n, k, &dtypes[..parts.len()])?)
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
            room.with(to, |room, out| gpu.matmul(room.acts(from), room.rows(from), w, out, *exact))?;
        }
        Ok(())
    }

    fn bias(&mut self, at: At, part: Part, rows: Rows, n: usize) -> Result<(), Error> {
        let (gpu, bias) = (&self.gpu, vector(&self.weights, at, part));
        Ok(self.room.with(rows, |_, rows| gpu.add_bias(rows, bias, n))?)
    }

    fn rotate(&mut self, layer: usize, a: &Gqa, rows: Rows, n: usize) -> Result<(), Error> {
        let (heads, norm) = if rows == Rows::Q { (a.n_heads, Part::QNorm) } else { (a.n_kv_heads, Part::KNorm) };
        let (gpu, weights) = (&self.gpu, &self.weights);
        let rope = a.rope.map(|rope| (&self.model.spec.ropes[rope], rope));
        Ok(self.room.with(rows, |room, rows| {
            if let Some(qk_norm) = a.qk_norm {
                let weights = (vector(weights, Some(layer), norm), if a.norm_by_head { heads } else { 1 });
                gpu.norm_in_place(norm_of(qk_norm), rows, a.head_dim, weights, qk_norm.eps, n * heads)?;
            }
            let Some((rope, index)) = rope else { return Ok(()) };
            let (cos, sin) = &room.ropes[index];
            let rope = GpuRope { cos, sin, pairs: rope.dim / 2, pairing: rope.pairs };
            gpu.rope(rows, &rope, n, heads, a.head_dim, 0)
        })?)
    }

    fn latent(&mut self, layer: usize, a: &Mla, n: usize) -> Result<(), Error> {
        let (gpu, weight) = (&self.gpu, vector(&self.weights, Some(layer), Part::KvANorm));
        let spec = &self.model.spec.ropes[a.rope];
        for (rows, heads, width, skip) in
            [(Rows::K, 1, a.latent(), a.kv_rank), (Rows::Q, a.n_heads, a.nope_dim + a.rope_dim, a.nope_dim)]
        {
            self.room.with(rows, |room, rows| {
                if heads == 1 && skip == a.kv_rank {
                    gpu.norm_in_place(norm_of(a.norm), rows, width, (weight, 1), a.norm.eps, n)?;
                }
                let (cos, sin) = &room.ropes[a.rope];
                let rope = GpuRope { cos, sin, pairs: spec.dim / 2, pairing: spec.pairs };
                gpu.rope(rows, &rope, n, heads, width, skip)
            })?;
        }
        Ok(())
    }

    fn store(&mut self, layer: usize, _: Cached, run: Run) -> Result<(), Error> {
        let cache = self.kv.get_mut(&(run.seq.0, layer)).expect("a layer of the card");
        self.gpu.store(&mut cache.k, self.room.rows(Rows::K), run.first, run.n, run.pos)?;
        if let Some(v) = &mut cache.v {
            self.gpu.store(v, self.room.rows(Rows::V), run.first, run.n, run.pos)?;
        }
        Ok(())
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
                v: v.as_ref(),
                v_dim: a.v_dim,
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

    fn attend_latent(&mut self, layer: usize, a: &Mla, run: Run) -> Result<(), Error> {
        Ok(self.attend_to_latents(layer, a, run)?)
    }

    fn gated(&mut self, layer: usize, [gate, up]: [Part; 2], act: Activation, hidden: usize) -> Result<(), Error> {
        let GpuOps { gpu, weights, room, exact, ready: (from, n), .. } = self;
        let (gate, up) = (matrix(weights, Some(layer), gate), matrix(weights, Some(layer), up));
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

    fn gate_shared(&mut self, layer: usize, n: usize) -> Result<(), Error> {
        let (gpu, weight) = (&self.gpu, vector(&self.weights, Some(layer), Part::SharedRouter));
        Ok(self.room.with(Rows::Shared, |room, rows| gpu.gate_rows(rows, room.rows(Rows::H), weight, n))?)
    }

    fn route(&mut self, layer: usize, m: &Moe, n: usize) -> Result<(), Error> {
        let bias = m.bias.then(|| vector(&self.weights, Some(layer), Part::RouterBias));
        let Room { rows, routing, .. } = &mut self.room;
        let routing = routing.as_mut().expect("a model with a router");
        Ok(self.gpu.route(&rows[&Rows::Router], bias, n, &route_of(m), routing)?)
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

    fn add(&mut self, to: Rows, from: Rows, n: usize) -> Result<(), Error> {
        let (gpu, len) = (&self.gpu, n * self.model.spec.dim);
        Ok(self.room.with(to, |room, to| gpu.add(to, room.rows(from), len))?)
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
        for rope in &self.ropes {
            let (cos, sin) = rope.back(gone.len() as u32);
            let (to_cos, to_sin) = (self.gpu.buffer(cos.len())?, self.gpu.buffer(sin.len())?);
            self.gpu.write(&to_cos, 0, &cos)?;
            self.gpu.write(&to_sin, 0, &sin)?;
            angles.push((to_cos, to_sin));
        }
        for ((of, layer), cache) in &mut self.kv {
            if *of == seq.0 {
                let turned = self.model.spec.layers[*layer].mixer.key_rope().map(|(rope, skip)| {
                    let (spec, (cos, sin)) = (&self.model.spec.ropes[rope], &angles[rope]);
                    (GpuRope { cos, sin, pairs: spec.dim / 2, pairing: spec.pairs }, skip)
                });
                let turned = turned.as_ref().map(|(rope, skip)| (rope, *skip));
                self.gpu.shift(&mut cache.k, turned, gone.clone(), held)?;
                if let Some(v) = &mut cache.v {
                    self.gpu.shift(v, None, gone.clone(), held)?;
                }
            }
        }
        Ok(self.gpu.synchronize()?)
    }

    fn cache(&self, layer: usize, seq: SeqId, half: Half, n: usize) -> Result<Vec<u8>, Error> {
        let Some((kv, row, heads)) = self.half(layer, seq, half) else { return Ok(Vec::new()) };
        let mut bytes = vec![0; heads * n * row];
        for (head, bytes) in bytes.chunks_exact_mut((n * row).max(1)).enumerate() {
            self.gpu.read(kv.bytes(), head * self.n_ctx * row, bytes)?;
        }
        Ok(bytes)
    }

    fn set_cache(&mut self, layer: usize, seq: SeqId, half: Half, n: usize, bytes: &[u8]) -> Result<(), Error> {
        let Some((kv, row, _)) = self.half(layer, seq, half) else { return Ok(()) };
        for (head, bytes) in bytes.chunks_exact((n * row).max(1)).enumerate() {
            self.gpu.write(kv.bytes(), head * self.n_ctx * row, bytes)?;
        }
        Ok(())
    }
}

impl GpuOps<'_> {
    /// Keys or values of a layer, if it has some of its own, the bytes of one, and heads.
    fn half(&self, layer: usize, seq: SeqId, half: Half) -> Option<(&GpuKv, usize, usize)> {
        let LayerKv { k, v } = &self.kv[&(seq.0, layer)];
        let kv = if half == Half::Keys { k } else { v.as_ref()? };
        let heads = self.model.spec.layers[layer].mixer.cached().heads;
        Some((kv, kv.bytes().len() / (heads * self.n_ctx), heads))
    }
}
