//! One step: a batch of tokens through all layers, following the spec.

use super::batch::{BatchToken, Run};
use super::buffers::Buffers;
use super::kv::KvCache;
use super::weights::Parts;
use super::{Engine, Error, Inputs, Model, Observer};
use crate::model::{Ffn, Gated, Gqa, Layer, Mixer, Moe, Norm, NormKind, Part, Residual, RopeSpec};
use ostro_kernels::{ActKinds, Attend, Cpu, Exec, Groups, KvType, Product, float, quantize};

impl Engine<'_> {
    /// Computes a batch of at most [`Engine::n_ubatch`] tokens, and gives the logits of those that want them, in the
    /// batch's order, `[wanted, n_vocab]`.
    ///
    /// # Errors
    /// A batch that does not continue its sequences, a token that does not exist, a context that is full; the cache is
    /// then as it was.
    pub fn forward(&mut self, batch: &[BatchToken]) -> Result<&[f32], Error> {
        self.step(batch, None)
    }

    /// [`Engine::forward`], with `observer` told what goes into the weight matrices: the rows of all tokens, whether
    /// their logits are wanted or not.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn forward_observed(&mut self, batch: &[BatchToken], observer: &mut dyn Observer) -> Result<&[f32], Error> {
        self.step(batch, Some(observer))
    }

    /// [`Engine::forward`], with the bits that a batch of each token alone would give.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn forward_exact(&mut self, batch: &[BatchToken]) -> Result<&[f32], Error> {
        self.exec.exactly(true);
        let done = self.step(batch, None).map(|_| ());
        self.exec.exactly(false);
        done.map(|()| self.logits())
    }

    fn step(&mut self, batch: &[BatchToken], mut observer: Option<&mut dyn Observer>) -> Result<&[f32], Error> {
        self.plan_batch(batch)?;
        let Engine { model, exec, kv, buffers, .. } = self;
        let cpu = exec.cpu();
        let model: &Model = model;
        let spec = &model.spec;
        let dim = spec.dim;

        buffers.wanted.clear();
        buffers.wanted.extend(batch.iter().enumerate().filter(|(_, t)| t.logits).map(|(i, _)| i));
        let n_out = buffers.wanted.len();

        let embedding = model.embedding();
        exec.rows(&mut buffers.x[..batch.len() * dim], dim, |i, x| {
            quantize::decode_row(embedding.dtype(), embedding.row(batch[i].token as usize), x);
            if spec.embed_scale != 1.0 {
                float::scale(cpu, x, spec.embed_scale);
            }
        });
        for (rope, (cos, sin)) in model.ropes.iter().zip(&mut buffers.rope) {
            let pairs = rope.pairs();
            for ((t, cos), sin) in batch.iter().zip(cos.chunks_exact_mut(pairs)).zip(sin.chunks_exact_mut(pairs)) {
                rope.fill(t.pos as u32, cos, sin);
            }
        }

        let mut n = batch.len();
        for (i, layer) in spec.layers.iter().enumerate() {
            let last = i + 1 == spec.layers.len();
            let observer = observer.as_mut().map(|o| &mut **o as &mut dyn Observer);
            // Only the tokens whose logits are wanted go through the end of the last layer.
            let drop_rows = last && n_out < n && observer.is_none();
            let mut step =
                Step { exec, cpu, layer, index: i, parts: model.layer(i), ropes: &spec.ropes, dim, observer };
            let Residual::Sequential = layer.residual;
            step.norm(layer.norm, Part::AttnNorm, &buffers.x, &mut buffers.h, n);
            match &layer.mixer {
                Mixer::Gqa(a) => {
                    step.attention(a, buffers, kv, n);
                    if drop_rows {
                        keep_rows(&mut buffers.att, a.n_heads * a.v_dim, &buffers.wanted);
                        keep_rows(&mut buffers.x, dim, &buffers.wanted);
                        n = n_out;
                    }
                    if n > 0 {
                        step.attention_out(a, buffers, n);
                    }
                }
            }
            if n == 0 {
                break;
            }
            step.add_to_residual(Part::AttnPostNorm, buffers, n);
            step.norm(layer.norm, Part::FfnNorm, &buffers.x, &mut buffers.h, n);
            match &layer.ffn {
                Ffn::Gated(f) => step.gated(f, buffers, n),
                Ffn::Moe(m) => step.moe(m, buffers, n),
            }
            step.add_to_residual(Part::FfnPostNorm, buffers, n);
        }
        for i in 0..buffers.runs.len() {
            let Run { seq, pos, n, .. } = buffers.runs[i];
            kv.set_len(seq, pos + n);
        }
        if let Some(observer) = observer {
            show_head(exec, model, buffers, n, observer);
            keep_rows(&mut buffers.x, dim, &buffers.wanted);
        }
        Ok(head(exec, model, buffers, n_out))
    }
}

/// Shows what would go into the head, for `n` rows of the residual.
fn show_head(exec: &Exec, model: &Model, b: &mut Buffers, n: usize, observer: &mut dyn Observer) {
    let spec = &model.spec;
    let h = &mut b.h[..n * spec.dim];
    norm_rows(exec, spec.out_norm, model.out_norm(), &b.x, h);
    observer.inputs(&Inputs { layer: None, parts: &[model.head_part()], x: h, cols: spec.dim, experts: None });
}

/// The final norm and the head, for the first `n` rows of the residual.
fn head<'b>(exec: &Exec, model: &Model, b: &'b mut Buffers, n: usize) -> &'b [f32] {
    let spec = &model.spec;
    let (cpu, dim, vocab) = (exec.cpu(), spec.dim, spec.n_vocab);
    if n == 0 {
        return &[];
    }
    if b.logits.len() < n * vocab {
        b.logits.resize(n * vocab, 0.0);
    }
    norm_rows(exec, spec.out_norm, model.out_norm(), &b.x, &mut b.h[..n * dim]);
    let head = model.head();
    exec.quantize(&mut b.acts, &b.h[..n * dim], n, dim, ActKinds::of(head.dtype()));
    let logits = &mut b.logits[..n * vocab];
    exec.matmul(&b.acts, &mut [Product { w: head, out: logits }]);
    if spec.logit_scale != 1.0 || spec.logit_softcap.is_some() {
        exec.rows(logits, vocab, |_, row| {
            float::scale(cpu, row, spec.logit_scale);
            if let Some(cap) = spec.logit_softcap {
                float::soft_cap(cpu, cap, row);
            }
        });
    }
    logits
}

/// One layer at work.
struct Step<'s> {
    exec: &'s Exec,
    cpu: Cpu,
    layer: &'s Layer,
    index: usize,
    parts: &'s Parts<'s>,
    ropes: &'s [RopeSpec],
    dim: usize,
    observer: Option<&'s mut dyn Observer>,
}

impl Step<'_> {
    /// Shows the rows that go into some matrices, where somebody wants to see them.
    fn show(&mut self, parts: &[Part], x: &[f32], cols: usize, experts: Option<Groups<'_>>) {
        if let Some(observer) = &mut self.observer {
            observer.inputs(&Inputs { layer: Some(self.index), parts, x, cols, experts });
        }
    }

    fn norm(&self, norm: Norm, part: Part, x: &[f32], out: &mut [f32], n: usize) {
        norm_rows(self.exec, norm, self.parts.vector(part), x, &mut out[..n * self.dim]);
    }

    /// `h` to queries, keys and values, keys and values to the cache, and what attention gives to `att`.
    fn attention(&mut self, a: &Gqa, b: &mut Buffers, kv: &mut KvCache, n: usize) {
        self.show(&[Part::Q, Part::K, Part::V], &b.h[..n * self.dim], self.dim, None);
        let Step { exec, cpu, parts, index: layer, .. } = *self;
        let (q_len, k_len, v_len) = (a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim, a.n_kv_heads * a.v_dim);
        let (wq, wk, wv) = (parts.mat(Part::Q), parts.mat(Part::K), parts.mat(Part::V));
        let kinds = ActKinds::of(wq.dtype()) | ActKinds::of(wk.dtype()) | ActKinds::of(wv.dtype());
        exec.quantize(&mut b.acts, &b.h[..n * self.dim], n, self.dim, kinds);
        let (q, k, v) = (&mut b.q[..n * q_len], &mut b.k[..n * k_len], &mut b.v[..n * v_len]);
        exec.matmul(
            &b.acts,
            &mut [Product { w: wq, out: &mut *q }, Product { w: wk, out: &mut *k }, Product { w: wv, out: &mut *v }],
        );
        if a.qkv_bias {
            self.add_bias(Part::QBias, q);
            self.add_bias(Part::KBias, k);
            self.add_bias(Part::VBias, v);
        }

        let (cos, sin) = &b.rope[a.rope];
        let RopeSpec { dim: rotated, pairs: pairing, .. } = self.ropes[a.rope];
        let pairs = rotated / 2;
        let rotate = |rows: &mut [f32], width: usize, norm: Part| {
            exec.rows(rows, width, |i, row| {
                if let Some(Norm { kind: NormKind::Rms, eps }) = a.qk_norm {
                    for head in row.chunks_exact_mut(a.head_dim) {
                        float::rms_norm_in_place(cpu, head, parts.vector(norm), eps);
                    }
                }
                let angles = i * pairs..(i + 1) * pairs;
                float::rope(cpu, row, a.head_dim, &cos[angles.clone()], &sin[angles], pairing);
            });
        };
        rotate(q, q_len, Part::QNorm);
        rotate(k, k_len, Part::KNorm);

        let types = kv.types();
        let n_ctx = kv.n_ctx();
        for run in &b.runs {
            let cache = kv.layer_mut(run.seq, layer);
            let tokens = run.first..run.first + run.n;
            // By one thread: even a long prompt's rows are a small part of the layer's time.
            let store = |cache: &mut [u8], kind: KvType, rows: &[f32], width: usize, head_dim: usize| {
                let bytes = kind.row_bytes(head_dim);
                for (head, cache) in cache.chunks_exact_mut(n_ctx * bytes).enumerate() {
                    let cache = cache[run.pos * bytes..].chunks_exact_mut(bytes);
                    for (t, cache) in tokens.clone().zip(cache) {
                        let at = t * width + head * head_dim;
                        kind.store(cpu, &rows[at..at + head_dim], cache);
                    }
                }
            };
            store(&mut cache.k, types.k, k, k_len, a.head_dim);
            store(&mut cache.v, types.v, v, v_len, a.v_dim);
            let out_len = a.n_heads * a.v_dim;
            // Several queries together are computed in another way than one.
            let together = if exec.is_exact() { 1 } else { run.n };
            for i in (0..run.n).step_by(together) {
                let first = run.first + i;
                ostro_kernels::attend(
                    cpu,
                    exec.team(),
                    &mut b.attend,
                    Attend {
                        q: &q[first * q_len..(first + together) * q_len],
                        k: &cache.k,
                        v: &cache.v,
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
        }
    }

    /// `att` through the output projection to `h`.
    fn attention_out(&mut self, a: &Gqa, b: &mut Buffers, n: usize) {
        let width = a.n_heads * a.v_dim;
        self.show(&[Part::AttnOut], &b.att[..n * width], width, None);
        let wo = self.parts.mat(Part::AttnOut);
        self.exec.quantize(&mut b.acts, &b.att[..n * width], n, width, ActKinds::of(wo.dtype()));
        let out = &mut b.h[..n * self.dim];
        self.exec.matmul(&b.acts, &mut [Product { w: wo, out: &mut *out }]);
        if a.out_bias {
            self.add_bias(Part::AttnOutBias, out);
        }
    }

    /// `h` through a gated network, back to `h`.
    fn gated(&mut self, f: &Gated, b: &mut Buffers, n: usize) {
        let Step { exec, parts, dim, .. } = *self;
        self.show(&[Part::Gate, Part::Up], &b.h[..n * dim], dim, None);
        let (gate, up, down) = (parts.mat(Part::Gate), parts.mat(Part::Up), parts.mat(Part::Down));
        exec.quantize(&mut b.acts, &b.h[..n * dim], n, dim, ActKinds::of(gate.dtype()) | ActKinds::of(up.dtype()));
        let hidden = &mut b.hidden[..n * f.hidden];
        exec.gated(&b.acts, gate, up, f.act, hidden);
        self.show(&[Part::Down], hidden, f.hidden, None);
        exec.quantize(&mut b.inner, hidden, n, f.hidden, ActKinds::of(down.dtype()));
        exec.matmul(&b.inner, &mut [Product { w: down, out: &mut b.h[..n * dim] }]);
    }

    /// `h` through the experts that the router picks for each token, back to `h`.
    fn moe(&mut self, m: &Moe, b: &mut Buffers, n: usize) {
        let Step { exec, cpu, parts, dim, .. } = *self;
        self.show(&[Part::Router], &b.h[..n * dim], dim, None);
        let router = parts.mat(Part::Router);
        let (gate, up) = (parts.experts(Part::GateExps), parts.experts(Part::UpExps));
        let down = parts.experts(Part::DownExps);
        // Files of one tensor an expert may give each expert a type of its own.
        let kinds = |mats: &[ostro_kernels::Mat]| mats.iter().map(|w| ActKinds::of(w.dtype())).reduce(|a, b| a | b);
        let inputs = [kinds(gate), kinds(up)].into_iter().flatten();
        let kinds_in = inputs.fold(ActKinds::of(router.dtype()), |a, b| a | b);
        exec.quantize(&mut b.acts, &b.h[..n * dim], n, dim, kinds_in);
        let scores = &mut b.router[..n * m.n_experts];
        exec.matmul(&b.acts, &mut [Product { w: router, out: &mut *scores }]);
        b.routing.choose(cpu, scores, n, m);

        let pairs = n * m.n_active;
        let Some(kinds_down) = kinds(down) else { return };
        let hidden = &mut b.hidden[..pairs * m.hidden];
        let groups = Groups { offsets: &b.routing.offsets, pick: &b.routing.token };
        self.show(&[Part::GateExps, Part::UpExps], &b.h[..n * dim], dim, Some(groups));
        exec.gated_experts(&b.acts, gate, up, groups, m.act, hidden);
        let own = Groups { offsets: &b.routing.offsets, pick: &b.routing.own[..pairs] };
        self.show(&[Part::DownExps], hidden, m.hidden, Some(own));
        exec.quantize(&mut b.inner, hidden, pairs, m.hidden, kinds_down);
        let out = &mut b.hidden[..pairs * dim]; // they are quantized: what the experts give takes their place
        exec.matmul_experts(&b.inner, down, own, out);

        let routing = &b.routing;
        let out = &b.hidden;
        exec.rows(&mut b.h[..n * dim], dim, |i, h| {
            h.fill(0.0);
            for choice in i * m.n_active..(i + 1) * m.n_active {
                let pair = routing.pair[choice] as usize;
                float::mul_add(cpu, h, routing.weight[choice], &out[pair * dim..(pair + 1) * dim]);
            }
        });
    }

    /// `x += h`, `h` normalized first where the layer says so.
    fn add_to_residual(&self, post: Part, b: &mut Buffers, n: usize) {
        let Step { exec, cpu, layer, parts, dim, .. } = *self;
        if let Some(Norm { kind: NormKind::Rms, eps }) = layer.post_norm {
            let weight = parts.vector(post);
            exec.rows(&mut b.h[..n * dim], dim, |_, row| float::rms_norm_in_place(cpu, row, weight, eps));
        }
        let h = &b.h;
        exec.rows(&mut b.x[..n * dim], dim, |i, x| float::add_assign(cpu, x, &h[i * dim..(i + 1) * dim]));
    }

    fn add_bias(&self, part: Part, rows: &mut [f32]) {
        let (cpu, bias) = (self.cpu, self.parts.vector(part));
        self.exec.rows(rows, bias.len(), |_, row| float::add_assign(cpu, row, bias));
    }
}

/// `out[i] = norm(x[i])`, rows as wide as the weight.
fn norm_rows(exec: &Exec, norm: Norm, weight: &[f32], x: &[f32], out: &mut [f32]) {
    let (cpu, dim) = (exec.cpu(), weight.len());
    let NormKind::Rms = norm.kind;
    exec.rows(out, dim, |i, out| float::rms_norm(cpu, &x[i * dim..(i + 1) * dim], weight, norm.eps, out));
}

/// Moves the rows `keep` (ascending) to the front.
fn keep_rows(rows: &mut [f32], width: usize, keep: &[usize]) {
    for (to, &from) in keep.iter().enumerate() {
        rows.copy_within(from * width..(from + 1) * width, to * width);
    }
}
