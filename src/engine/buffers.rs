//! The buffers of a step, reserved once for the largest batch. What depends on the types of the weights (quantized
//! inputs, logits) grows in the first steps; after the first prompt and the first token nothing is allocated.

use super::latent::Latent;
use super::moe::Routing;
use super::ops::Rows;
use crate::model::{Ffn, Mixer, ModelSpec};
use ostro_kernels::{Acts, AttendScratch};

#[derive(Default)]
pub(super) struct Buffers {
    /// Residual stream, `[n, dim]`.
    pub x: Vec<f32>,
    /// Normalized input of a part, then its output, `[n, dim]`.
    pub h: Vec<f32>,
    /// Queries after rotation, `[n, n_heads, head_dim]`.
    pub q: Vec<f32>,
    /// Latents that queries are made from, `[n, q_rank]`.
    pub q_latent: Vec<f32>,
    /// Keys after rotation, `[n, n_kv_heads, head_dim]`.
    pub k: Vec<f32>,
    /// Values, `[n, n_kv_heads, v_dim]`.
    pub v: Vec<f32>,
    /// What attention gives, `[n, n_heads, v_dim]`.
    pub att: Vec<f32>,
    /// Inner activations, `[n or pairs, hidden]`; then what each chosen expert gives, `[pairs, dim]`.
    pub hidden: Vec<f32>,
    /// Router logits, `[n, n_experts]`.
    pub router: Vec<f32>,
    /// What the network gives that every token goes through, `[n, dim]`.
    pub shared: Vec<f32>,
    /// Of latent attention.
    pub latent: Latent,
    /// Cosines and sines of each rotary embedding, `[n, pairs]` each.
    pub rope: Vec<(Vec<f32>, Vec<f32>)>,
    /// Which token goes to which expert.
    pub routing: Routing,
    /// Quantized inputs: of the part at hand, and of the second matrix of a feed-forward network.
    pub acts: Acts,
    pub inner: Acts,
    /// Logits of the tokens that want them, `[n_out, n_vocab]`; grows to the most that were ever wanted at once.
    pub logits: Vec<f32>,
    pub attend: AttendScratch,
}

impl Buffers {
    pub fn new(spec: &ModelSpec, n: usize, n_ctx: usize) -> Buffers {
        let (mut q, mut q_latent, mut k, mut v, mut att, mut hidden, mut router, mut shared) = (0, 0, 0, 0, 0, 0, 0, 0);
        let mut routing = Routing::default();
        for layer in &spec.layers {
            let (cached, (heads, key, value)) = (layer.mixer.cached(), layer.mixer.heads());
            q = q.max(n * heads * key);
            k = k.max(n * cached.heads * cached.key);
            v = v.max(n * cached.heads * cached.value);
            att = att.max(n * heads * value);
            if let Mixer::Mla(a) = &layer.mixer {
                q_latent = q_latent.max(n * a.q_rank.unwrap_or(0));
            }
            match &layer.ffn {
                Ffn::Gated(f) => {
                    hidden = hidden.max(n * f.hidden);
                }
                Ffn::Moe(m) => {
                    hidden = hidden.max(n * m.n_active * m.hidden.max(spec.dim));
                    router = router.max(n * m.n_experts);
                    routing.reserve(n, m.n_experts, m.n_active);
                    if let Some(network) = m.shared {
                        hidden = hidden.max(n * network.hidden);
                        shared = n * spec.dim;
                    }
                }
            }
        }
        Buffers {
            x: vec![0.0; n * spec.dim],
            h: vec![0.0; n * spec.dim],
            q: vec![0.0; q],
            q_latent: vec![0.0; q_latent],
            k: vec![0.0; k],
            v: vec![0.0; v],
            att: vec![0.0; att],
            hidden: vec![0.0; hidden],
            router: vec![0.0; router],
            shared: vec![0.0; shared],
            latent: Latent::new(spec, n, n_ctx),
            rope: spec.ropes.iter().map(|r| (vec![0.0; n * r.dim / 2], vec![0.0; n * r.dim / 2])).collect(),
            routing,
            ..Buffers::default()
        }
    }

    /// Some rows.
    pub fn rows(&self, rows: Rows) -> &Vec<f32> {
        match rows {
            Rows::X => &self.x,
            Rows::H => &self.h,
            Rows::Q => &self.q,
            Rows::QLatent => &self.q_latent,
            Rows::K => &self.k,
            Rows::V => &self.v,
            Rows::Att => &self.att,
            Rows::Hidden => &self.hidden,
            Rows::Router => &self.router,
            Rows::Shared => &self.shared,
            Rows::Logits => &self.logits,
        }
    }

    /// Some rows, to be written.
    pub fn rows_mut(&mut self, rows: Rows) -> &mut Vec<f32> {
        match rows {
            Rows::X => &mut self.x,
            Rows::H => &mut self.h,
            Rows::Q => &mut self.q,
            Rows::QLatent => &mut self.q_latent,
            Rows::K => &mut self.k,
            Rows::V => &mut self.v,
            Rows::Att => &mut self.att,
            Rows::Hidden => &mut self.hidden,
            Rows::Router => &mut self.router,
            Rows::Shared => &mut self.shared,
            Rows::Logits => &mut self.logits,
        }
    }

    /// Some rows as they are multiplied.
    pub fn acts(&self, rows: Rows) -> &Acts {
        if rows == Rows::Hidden { &self.inner } else { &self.acts }
    }

    /// The same, to be made.
    pub fn acts_mut(&mut self, rows: Rows) -> &mut Acts {
        if rows == Rows::Hidden { &mut self.inner } else { &mut self.acts }
    }
}
