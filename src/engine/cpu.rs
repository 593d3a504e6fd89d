//! The CPU as a device: the operations of a step over the mapped weights.

use super::batch::{BatchToken, Run};
use super::buffers::Buffers;
use super::kv::KvCache;
use super::latent::{LatentCache, LatentWeights};
use super::ops::{At, Half, Ops, Rows};
use super::weights::Parts;
use super::{Error, Model, SeqId};
use crate::model::rope::Rope;
use crate::model::{Activation, Cached, Gqa, Mla, Moe, Norm, NormKind, Part};
use ostro_kernels::{ActKinds, Attend, Cpu, DType, Exec, Groups, KvType, Mat, Product, float, quantize};
use std::ops::Range;

pub(super) struct CpuOps<'m> {
    pub model: &'m Model<'m>,
    pub exec: Exec,
    pub kv: KvCache,
    pub buffers: Buffers,
    ropes: Vec<Rope>,
    /// What was made ready last, with how many rows.
    ready: (Rows, usize),
}

impl<'m> CpuOps<'m> {
    pub fn new(model: &'m Model<'m>, exec: Exec, kv: KvCache, n_ubatch: usize) -> CpuOps<'m> {
        let (buffers, ropes) = (Buffers::new(&model.spec, n_ubatch, kv.n_ctx()), model.ropes(kv.n_ctx()));
        CpuOps { model, exec, kv, buffers, ropes, ready: (Rows::H, 0) }
    }

    fn cpu(&self) -> Cpu {
        self.exec.cpu()
    }

    fn parts(&self, at: At) -> &'m Parts<'m> {
        self.model.parts(at)
    }

    /// Takes the room of some rows, so that others can be read meanwhile; it must be put back.
    fn take(&mut self, rows: Rows) -> Vec<f32> {
        std::mem::take(self.buffers.rows_mut(rows))
    }

    fn put(&mut self, rows: Rows, room: Vec<f32>) {
        *self.buffers.rows_mut(rows) = room;
    }
}

/// The representations that a part's weights want; experts of files of one tensor each may have a type of their own.
fn kinds(parts: &Parts<'_>, part: Part) -> ActKinds {
    let of = |mats: &mut dyn Iterator<Item = DType>| mats.fold(ActKinds::NONE, |kinds, t| kinds | ActKinds::of(t));
    match part {
        Part::GateExps | Part::UpExps | Part::DownExps | Part::KB | Part::VB => {
            of(&mut parts.experts(part).iter().map(Mat::dtype))
        }
        _ => ActKinds::of(parts.mat(part).dtype()),
    }
}

/// Normalizes a row in place.
fn normalize(cpu: Cpu, row: &mut [f32], weight: &[f32], norm: Norm) {
    match norm.kind {
        NormKind::Rms => float::rms_norm_in_place(cpu, row, weight, norm.eps),
        NormKind::Layer => float::layer_norm_in_place(cpu, row, weight, norm.eps),
    }
}

impl Ops for CpuOps<'_> {
    fn begin(&mut self, batch: &[BatchToken], exact: bool) -> Result<(), Error> {
        self.exec.exactly(exact);
        for (rope, (cos, sin)) in self.ropes.iter().zip(&mut self.buffers.rope) {
            rope.fill_all(batch.iter().map(|t| t.pos as u32), cos, sin);
        }
        Ok(())
    }

    fn embed(&mut self, batch: &[BatchToken]) -> Result<(), Error> {
        let (spec, embedding, cpu) = (&self.model.spec, self.model.embedding(), self.cpu());
        self.exec.rows(&mut self.buffers.x[..batch.len() * spec.dim], spec.dim, |i, x| {
            quantize::decode_row(embedding.dtype(), embedding.row(batch[i].token as usize), x);
            if spec.embed_scale != 1.0 {
                float::scale(cpu, x, spec.embed_scale);
            }
        });
        Ok(())
    }

    fn norm(&mut self, at: At, part: Part, norm: Norm, from: Rows, to: Rows, n: usize) -> Result<(), Error> {
        let (weight, cpu) = (self.parts(at).vector(part), self.cpu());
        let dim = weight.len();
        let mut out = self.take(to);
        if from == to {
            self.exec.rows(&mut out[..n * dim], dim, |_, row| normalize(cpu, row, weight, norm));
        } else {
            let x = self.buffers.rows(from);
            self.exec.rows(&mut out[..n * dim], dim, |i, out| match norm.kind {
                NormKind::Rms => float::rms_norm(cpu, &x[i * dim..(i + 1) * dim], weight, norm.eps, out),
                NormKind::Layer => {
                    out.copy_from_slice(&x[i * dim..(i + 1) * dim]);
                    normalize(cpu, out, weight, norm);
                }
            });
        }
        self.put(to, out);
        Ok(())
    }

    fn quantize(&mut self, at: At, from: Rows, parts: &[Part], n: usize) -> Result<(), Error> {
        let weights = self.parts(at);
        let kinds = parts.iter().fold(ActKinds::NONE, |all, &part| all | kinds(weights, part));
        let k = weights.cols(parts[0]);
        let mut acts = std::mem::take(self.buffers.acts_mut(from));
        self.exec.quantize(&mut acts, &self.buffers.rows(from)[..n * k], n, k, kinds);
        *self.buffers.acts_mut(from) = acts;
        self.ready = (from, n);
        Ok(())
    }

    fn matmul(&mut self, at: At, products: &[(Part, Rows)]) -> Result<(), Error> {
        let (from, n) = self.ready;
        let mut rooms = [const { Vec::new() }; 3];
        for (room, &(part, to)) in rooms.iter_mut().zip(products) {
            *room = self.take(to);
            let len = n * self.parts(at).mat(part).rows();
            if room.len() < len {
                room.resize(len, 0.0); // the logits, whose number nobody knows before
            }
        }
        let weights = self.parts(at);
        let acts = self.buffers.acts(from);
        let [a, b, c] = &mut rooms;
        fn of<'r>(weights: &Parts<'r>, part: Part, n: usize, room: &'r mut [f32]) -> Product<'r> {
            let w = weights.mat(part);
            Product { w, out: &mut room[..n * w.rows()] }
        }
        match *products {
            [p] => self.exec.matmul(acts, &mut [of(weights, p.0, n, a)]),
            [p, q] => self.exec.matmul(acts, &mut [of(weights, p.0, n, a), of(weights, q.0, n, b)]),
            [p, q, r] => {
                self.exec.matmul(acts, &mut [of(weights, p.0, n, a), of(weights, q.0, n, b), of(weights, r.0, n, c)])
            }
            _ => unreachable!("one to three products share their rows"),
        }
        for (room, &(_, to)) in rooms.into_iter().zip(products) {
            self.put(to, room);
        }
        Ok(())
    }

    fn bias(&mut self, at: At, part: Part, rows: Rows, n: usize) -> Result<(), Error> {
        let (bias, cpu) = (self.parts(at).vector(part), self.cpu());
        let rows = &mut self.buffers.rows_mut(rows)[..n * bias.len()];
        self.exec.rows(rows, bias.len(), |_, row| float::add_assign(cpu, row, bias));
        Ok(())
    }

    fn rotate(&mut self, layer: usize, a: &Gqa, rows: Rows, n: usize) -> Result<(), Error> {
        let (parts, cpu) = (self.parts(Some(layer)), self.cpu());
        let (heads, norm) = if rows == Rows::Q { (a.n_heads, Part::QNorm) } else { (a.n_kv_heads, Part::KNorm) };
        let mut out = self.take(rows);
        let (width, spec) =
            (heads * a.head_dim, a.rope.map(|rope| (&self.model.spec.ropes[rope], &self.buffers.rope[rope])));
        self.exec.rows(&mut out[..n * width], width, |i, row| {
            if let Some(qk_norm) = a.qk_norm {
                for (head, row) in row.chunks_exact_mut(a.head_dim).enumerate() {
                    let weights = parts.vector(norm);
                    let own = if a.norm_by_head { &weights[head * a.head_dim..][..a.head_dim] } else { weights };
                    normalize(cpu, row, own, qk_norm);
                }
            }
            if let Some((spec, (cos, sin))) = spec {
                let angles = i * (spec.dim / 2)..(i + 1) * (spec.dim / 2);
                float::rope(cpu, row, a.head_dim, &cos[angles.clone()], &sin[angles], spec.pairs);
            }
        });
        self.put(rows, out);
        Ok(())
    }

    fn latent(&mut self, layer: usize, a: &Mla, n: usize) -> Result<(), Error> {
        let (weight, cpu, spec) =
            (self.parts(Some(layer)).vector(Part::KvANorm), self.cpu(), &self.model.spec.ropes[a.rope]);
        let b = &mut self.buffers;
        let (cos, sin) = &b.rope[a.rope];
        let turn = |i: usize, end: &mut [f32]| {
            let angles = i * (spec.dim / 2)..(i + 1) * (spec.dim / 2);
            float::rope(cpu, end, a.rope_dim, &cos[angles.clone()], &sin[angles], spec.pairs);
        };
        self.exec.rows(&mut b.k[..n * a.latent()], a.latent(), |i, row| {
            let (latent, end) = row.split_at_mut(a.kv_rank);
            normalize(cpu, latent, weight, a.norm);
            turn(i, end);
        });
        let key = a.nope_dim + a.rope_dim;
        self.exec.rows(&mut b.q[..n * a.n_heads * key], a.n_heads * key, |i, row| {
            row.chunks_exact_mut(key).for_each(|head| turn(i, &mut head[a.nope_dim..]));
        });
        Ok(())
    }

    fn store(&mut self, layer: usize, cached: Cached, run: Run) -> Result<(), Error> {
        let (types, n_ctx, cpu) = (self.kv.types(), self.kv.n_ctx(), self.cpu());
        let cache = self.kv.layer_mut(run.seq, layer);
        // By one thread: even a long prompt's rows are a small part of the layer's time.
        let store = |cache: &mut [u8], kind: KvType, rows: &[f32], head_dim: usize| {
            let (bytes, width) = (kind.row_bytes(head_dim), cached.heads * head_dim);
            for (head, cache) in cache.chunks_exact_mut(n_ctx * bytes).enumerate() {
                let cache = cache[run.pos * bytes..].chunks_exact_mut(bytes);
                for (t, cache) in (run.first..run.first + run.n).zip(cache) {
                    let at = t * width + head * head_dim;
                    kind.store(cpu, &rows[at..at + head_dim], cache);
                }
            }
        };
        store(&mut cache.k, types.k, &self.buffers.k, cached.key);
        if cached.value > 0 {
            store(&mut cache.v, types.v, &self.buffers.v, cached.value);
        }
        Ok(())
    }

    fn attend(&mut self, layer: usize, a: &Gqa, run: Run) -> Result<(), Error> {
        let (types, n_ctx) = (self.kv.types(), self.kv.n_ctx());
        let cache = self.kv.layer(run.seq, layer);
        let (q_len, out_len) = (a.n_heads * a.head_dim, a.n_heads * a.v_dim);
        let b = &mut self.buffers;
        // Several queries together are computed in another way than one.
        let together = if self.exec.is_exact() { 1 } else { run.n };
        for i in (0..run.n).step_by(together) {
            let first = run.first + i;
            ostro_kernels::attend(
                self.exec.cpu(),
                self.exec.team(),
                &mut b.attend,
                Attend {
                    q: &b.q[first * q_len..(first + together) * q_len],
                    k: &cache.k,
                    v: Some(&cache.v),
                    k_type: types.k,
                    v_type: types.v,
                    capacity: n_ctx,
                    n: together,
                    first_pos: run.pos + i,
                    n_heads: a.n_heads,
                    n_kv_heads: a.n_kv_heads,
                    head_dim: a.head_dim,
                    v_dim: a.v_dim,
                    window: a.window,
                    scale: a.scale,
                    softcap: a.softcap,
                    out: &mut b.att[first * out_len..(first + together) * out_len],
                },
            );
        }
        Ok(())
    }

    fn attend_latent(&mut self, layer: usize, a: &Mla, run: Run) -> Result<(), Error> {
        let parts = self.parts(Some(layer));
        let weights = LatentWeights { keys: parts.experts(Part::KB), values: parts.experts(Part::VB) };
        let (cache, types, n_ctx) = (&self.kv.layer(run.seq, layer).k, self.kv.types(), self.kv.n_ctx());
        let Buffers { q, att, latent, attend, .. } = &mut self.buffers;
        let cache = LatentCache { rows: cache, kind: types.k, n_ctx };
        latent.attend(&self.exec, attend, a, weights, cache, run, q, att);
        Ok(())
    }

    fn gated(&mut self, layer: usize, [gate, up]: [Part; 2], act: Activation, hidden: usize) -> Result<(), Error> {
        let parts = self.parts(Some(layer));
        let (from, n) = self.ready;
        let mut out = self.take(Rows::Hidden);
        let acts = self.buffers.acts(from);
        self.exec.gated(acts, parts.mat(gate), parts.mat(up), act, &mut out[..n * hidden]);
        self.put(Rows::Hidden, out);
        Ok(())
    }

    fn gate_shared(&mut self, layer: usize, n: usize) -> Result<(), Error> {
        let (weight, dim, cpu) = (self.parts(Some(layer)).vector(Part::SharedRouter), self.model.spec.dim, self.cpu());
        let Buffers { h, shared, .. } = &mut self.buffers;
        self.exec.rows(&mut shared[..n * dim], dim, |i, row| {
            let dot: f32 = h[i * dim..(i + 1) * dim].iter().zip(weight).map(|(x, w)| x * w).sum();
            float::scale(cpu, row, 1.0 / (1.0 + (-dot).exp()));
        });
        Ok(())
    }

    fn route(&mut self, layer: usize, m: &Moe, n: usize) -> Result<(), Error> {
        let bias = m.bias.then(|| self.parts(Some(layer)).vector(Part::RouterBias));
        let (cpu, b) = (self.cpu(), &mut self.buffers);
        b.routing.choose(cpu, &mut b.router[..n * m.n_experts], bias, n, m);
        Ok(())
    }

    fn gated_experts(&mut self, layer: usize, m: &Moe, n: usize) -> Result<(), Error> {
        let parts = self.parts(Some(layer));
        let (gate, up) = (parts.experts(Part::GateExps), parts.experts(Part::UpExps));
        let b = &mut self.buffers;
        let groups = b.routing.groups(n * m.n_active, false);
        self.exec.gated_experts(&b.acts, gate, up, groups, m.act, &mut b.hidden[..n * m.n_active * m.hidden]);
        Ok(())
    }

    fn combine_experts(&mut self, layer: usize, m: &Moe, n: usize) -> Result<(), Error> {
        let (parts, cpu, dim) = (self.parts(Some(layer)), self.cpu(), self.model.spec.dim);
        let (pairs, b) = (n * m.n_active, &mut self.buffers);
        // The inner activations are quantized: what the experts give takes their place.
        let groups = b.routing.groups(pairs, true);
        self.exec.matmul_experts(&b.inner, parts.experts(Part::DownExps), groups, &mut b.hidden[..pairs * dim]);
        let (routing, out) = (&b.routing, &b.hidden);
        self.exec.rows(&mut b.h[..n * dim], dim, |i, h| {
            h.fill(0.0);
            for choice in i * m.n_active..(i + 1) * m.n_active {
                let pair = routing.pair[choice] as usize;
                float::mul_add(cpu, h, routing.weight[choice], &out[pair * dim..(pair + 1) * dim]);
            }
        });
        Ok(())
    }

    fn add(&mut self, to: Rows, from: Rows, n: usize) -> Result<(), Error> {
        let (dim, cpu) = (self.model.spec.dim, self.cpu());
        let mut out = self.take(to);
        let x = self.buffers.rows(from);
        self.exec.rows(&mut out[..n * dim], dim, |i, out| float::add_assign(cpu, out, &x[i * dim..(i + 1) * dim]));
        self.put(to, out);
        Ok(())
    }

    fn keep(&mut self, rows: Rows, width: usize, keep: &[usize]) -> Result<(), Error> {
        let rows = self.buffers.rows_mut(rows);
        for (to, &from) in keep.iter().enumerate() {
            rows.copy_within(from * width..(from + 1) * width, to * width);
        }
        Ok(())
    }

    fn finish(&mut self, n: usize) -> Result<(), Error> {
        let (spec, cpu) = (&self.model.spec, self.cpu());
        if spec.logit_scale != 1.0 || spec.logit_softcap.is_some() {
            self.exec.rows(&mut self.buffers.logits[..n * spec.n_vocab], spec.n_vocab, |_, row| {
                float::scale(cpu, row, spec.logit_scale);
                if let Some(cap) = spec.logit_softcap {
                    float::soft_cap(cpu, cap, row);
                }
            });
        }
        Ok(())
    }

    fn logits(&self, len: usize) -> &[f32] {
        &self.buffers.logits[..len]
    }

    fn read(&mut self, rows: Rows, len: usize) -> Result<&[f32], Error> {
        Ok(&self.buffers.rows(rows)[..len])
    }

    fn write(&mut self, rows: Rows, values: &[f32]) -> Result<(), Error> {
        self.buffers.rows_mut(rows)[..values.len()].copy_from_slice(values);
        Ok(())
    }

    fn groups(&mut self, m: &Moe, n: usize, own: bool) -> Result<Groups<'_>, Error> {
        Ok(self.buffers.routing.groups(n * m.n_active, own))
    }

    fn remove(&mut self, seq: SeqId, gone: Range<usize>, held: usize) -> Result<(), Error> {
        self.kv.remove(&self.model.spec, &self.ropes, &self.exec, seq, gone, held);
        Ok(())
    }

    fn cache(&self, layer: usize, seq: SeqId, half: Half, n: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let (rows, row) = self.kv.half(layer, seq, half);
        for head in rows.chunks_exact((self.kv.n_ctx() * row).max(1)) {
            bytes.extend_from_slice(&head[..n * row]);
        }
        Ok(bytes)
    }

    fn set_cache(&mut self, layer: usize, seq: SeqId, half: Half, n: usize, bytes: &[u8]) -> Result<(), Error> {
        let n_ctx = self.kv.n_ctx();
        let (rows, row) = self.kv.half_mut(layer, seq, half);
        for (head, bytes) in rows.chunks_exact_mut((n_ctx * row).max(1)).zip(bytes.chunks_exact((n * row).max(1))) {
            head[..n * row].copy_from_slice(bytes);
        }
        Ok(())
    }
}
