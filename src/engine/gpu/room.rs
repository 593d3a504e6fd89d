//! The rows of a batch on the card, reserved once for the largest.

use super::super::ops::Rows;
use super::latent::LatentRoom;
use crate::model::{Ffn, Mixer, ModelSpec};
use ostro_kernels::cuda::{Buffer, CudaError, Gpu, GpuActs, GpuRouting};
use std::collections::HashMap;

/// Rows of a batch, by the names of [`Rows`].
pub(super) struct Room {
    pub rows: HashMap<Rows, Buffer<f32>>,
    /// The second half of a gated network, `[n or pairs, hidden]`; out while it is written.
    pub up: Option<Buffer<f32>>,
    /// What each chosen expert gives, `[pairs, dim]`, out while it is written; rows that are picked out.
    pub spare: Option<Buffer<f32>>,
    /// Quantized inputs: of the part at hand, and of the second matrix of a feed-forward network.
    pub acts: GpuActs,
    pub inner: GpuActs,
    /// Rows of latent attention, out while they are used.
    pub latent: Option<LatentRoom>,
    pub routing: Option<GpuRouting>,
    /// Cosines and sines of each rotary embedding, `[n, pairs]` each.
    pub ropes: Vec<(Buffer<f32>, Buffer<f32>)>,
    pub picked: Buffer<i32>,
    pub scratch: Buffer<f32>,
}

impl Room {
    pub fn new(gpu: &Gpu, spec: &ModelSpec, n: usize) -> Result<Room, CudaError> {
        let mut size = HashMap::from([(Rows::X, n * spec.dim), (Rows::H, n * spec.dim), (Rows::Logits, spec.n_vocab)]);
        let (mut acts, mut spare, mut inner, mut up, mut scratch, mut experts) =
            (n * spec.dim, n * spec.dim, 0, 0, 1, None);
        let mut grow = |rows: Rows, len: usize| {
            let size = size.entry(rows).or_insert(1);
            *size = (*size).max(len);
        };
        for layer in &spec.layers {
            let (cached, (heads, key, value)) = (layer.mixer.cached(), layer.mixer.heads());
            let att = n * heads * value;
            grow(Rows::Q, n * heads * key);
            grow(Rows::K, n * cached.heads * cached.key);
            grow(Rows::V, n * cached.heads * cached.value);
            grow(Rows::Att, att);
            (acts, spare) = (acts.max(att), spare.max(att));
            match &layer.mixer {
                Mixer::Gqa(_) => scratch = scratch.max(Gpu::attend_scratch(n, heads, value)),
                Mixer::Mla(a) => {
                    let rank = n * a.q_rank.unwrap_or(0);
                    grow(Rows::QLatent, rank);
                    acts = acts.max(rank);
                }
            }
            let hidden = match &layer.ffn {
                Ffn::Gated(f) => n * f.hidden,
                Ffn::Moe(m) => {
                    grow(Rows::Router, n * m.n_experts);
                    spare = spare.max(n * m.n_active * spec.dim);
                    let (most, active) = experts.unwrap_or((0, 0));
                    experts = Some((m.n_experts.max(most), m.n_active.max(active)));
                    if m.shared.is_some() {
                        grow(Rows::Shared, n * spec.dim);
                    }
                    n * (m.n_active * m.hidden).max(m.shared.map_or(0, |shared| shared.hidden))
                }
            };
            grow(Rows::Hidden, hidden);
            (inner, up) = (inner.max(hidden), up.max(hidden));
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
            inner: gpu.acts(inner)?,
            latent: LatentRoom::new(gpu, spec, n)?,
            routing: experts.map(|(most, active)| gpu.routing(n, most, active)).transpose()?,
            ropes,
            picked: gpu.buffer(n)?,
            scratch: gpu.buffer(scratch)?,
        })
    }

    /// Some rows as they are multiplied.
    pub fn acts(&self, rows: Rows) -> &GpuActs {
        if rows == Rows::Hidden { &self.inner } else { &self.acts }
    }

    pub fn rows(&self, rows: Rows) -> &Buffer<f32> {
        self.rows.get(&rows).expect("rows of a part that the spec has")
    }

    /// Takes rows out, so that others can be read meanwhile; they must be put back.
    pub fn take(&mut self, rows: Rows) -> Buffer<f32> {
        self.rows.remove(&rows).expect("rows of a part that the spec has")
    }

    pub fn put(&mut self, rows: Rows, buffer: Buffer<f32>) {
        self.rows.insert(rows, buffer);
    }

    /// Does something with some rows while others can be read.
    pub fn with<T>(&mut self, rows: Rows, work: impl FnOnce(&mut Room, &mut Buffer<f32>) -> T) -> T {
        let mut buffer = self.take(rows);
        let done = work(self, &mut buffer);
        self.put(rows, buffer);
        done
    }
}
