//! Latent attention on a card: over the latents as they are (`engine/latent.rs` says how), some heads at a time.

use super::super::batch::Run;
use super::super::ops::Rows;
use super::{GpuOps, LayerKv, matrix};
use crate::model::{Mixer, Mla, ModelSpec, Part};
use crate::placement::{latent_heads, latent_rows};
use ostro_kernels::cuda::{Buffer, CudaError, Gpu, GpuActs, GpuAttend, GpuGroups, GpuHeads};

/// The rows of latent attention on the card.
pub(super) struct LatentRoom {
    /// The parts of queries that are not rotated, `[n, heads, nope_dim]`; then what heads give as latents, `[n, heads, kv_rank]`.
    rows: Buffer<f32>,
    /// By head: queries against latents, `[heads, n, kv_rank]`, or results, `[heads, n, v_dim]`.
    pairs: Buffer<f32>,
    /// `[n, heads, latent]`
    queries: Buffer<f32>,
    acts: GpuActs,
    /// The pairs of each head, `[n_heads + 1]`, and the row that each reads.
    offsets: Buffer<i32>,
    pick: Buffer<i32>,
    scratch: Buffer<f32>,
}

impl LatentRoom {
    /// Room for batches of `n` tokens; nothing where no layer attends to latents.
    pub fn new(gpu: &Gpu, spec: &ModelSpec, n: usize) -> Result<Option<LatentRoom>, CudaError> {
        let layers = spec.layers.iter().filter_map(|layer| match &layer.mixer {
            Mixer::Mla(a) => Some(a),
            Mixer::Gqa(_) => None,
        });
        let (mut most, mut wide, mut long, mut heads, mut scratch) = (0, 0, 0, 0, 0);
        for a in layers {
            let rows = latent_rows(n, a.n_heads);
            most = most.max(rows);
            wide = wide.max(rows * a.kv_rank.max(a.nope_dim).max(a.v_dim));
            long = long.max(rows * a.latent());
            heads = heads.max(a.n_heads);
            scratch = scratch.max(Gpu::attend_scratch(1, rows, a.kv_rank));
        }
        if heads == 0 {
            return Ok(None);
        }
        Ok(Some(LatentRoom {
            rows: gpu.buffer(wide)?,
            pairs: gpu.buffer(wide)?,
            queries: gpu.buffer(long)?,
            acts: gpu.acts(wide)?,
            offsets: gpu.buffer(heads + 1)?,
            pick: gpu.buffer(most)?,
            scratch: gpu.buffer(scratch)?,
        }))
    }
}

impl GpuOps<'_> {
    /// Attention of a run's queries to the latents in the cache, to `Rows::Att`.
    pub(super) fn attend_to_latents(&mut self, layer: usize, a: &Mla, run: Run) -> Result<(), CudaError> {
        let mut room = self.room.latent.take().expect("put back after use");
        let mut att = self.room.take(Rows::Att);
        let step = latent_heads(run.n, a.n_heads);
        let done = (0..a.n_heads).step_by(step).try_for_each(|first| {
            self.some_heads(layer, a, run, (first, step.min(a.n_heads - first)), &mut room, &mut att)
        });
        self.room.put(Rows::Att, att);
        self.room.latent = Some(room);
        done
    }

    fn some_heads(
        &self,
        layer: usize,
        a: &Mla,
        run: Run,
        (first, heads): (usize, usize),
        room: &mut LatentRoom,
        att: &mut Buffer<f32>,
    ) -> Result<(), CudaError> {
        let (gpu, exact, n) = (&self.gpu, self.exact, run.n);
        let (key, latent, rows) = (a.nope_dim + a.rope_dim, a.latent(), n * heads);
        let LatentRoom { rows: some, pairs, queries, acts, offsets, pick, scratch } = room;
        // Pair `h n + t` is head h of token t, whose row is `t heads + h`; the other heads have none.
        let ends: Vec<i32> = (0..=a.n_heads).map(|h| (h.saturating_sub(first).min(heads) * n) as i32).collect();
        let picked: Vec<i32> = (0..heads).flat_map(|h| (0..n).map(move |t| (t * heads + h) as i32)).collect();
        gpu.write(offsets, 0, &ends)?;
        gpu.write(pick, 0, &picked)?;
        let groups = GpuGroups { offsets, pick: Some(pick), pairs: rows, most: n };
        let at = |start, token, head| GpuHeads { start, token, head };
        let (q, from) = (self.room.rows(Rows::Q), run.first * a.n_heads * key + first * key);

        gpu.move_heads(
            (q, at(from, a.n_heads * key, key)),
            (some, at(0, heads * a.nope_dim, a.nope_dim)),
            (n, heads, a.nope_dim),
        )?;
        let w = matrix(&self.weights, Some(layer), Part::KB);
        gpu.quantize(acts, some, rows, a.nope_dim, &[w.dtype()])?;
        gpu.matmul_experts(acts, some, w, groups, pairs, exact)?;
        gpu.move_heads(
            (pairs, at(0, a.kv_rank, n * a.kv_rank)),
            (queries, at(0, heads * latent, latent)),
            (n, heads, a.kv_rank),
        )?;
        let ends = (q, at(from + a.nope_dim, a.n_heads * key, key));
        gpu.move_heads(ends, (queries, at(a.kv_rank, heads * latent, latent)), (n, heads, a.rope_dim))?;

        let LayerKv { k, .. } = &self.kv[&(run.seq.0, layer)];
        // Several queries together are computed in another way than one.
        let together = if exact { 1 } else { n };
        for t in (0..n).step_by(together) {
            let attend = GpuAttend {
                q: queries,
                k,
                v: None,
                v_dim: a.kv_rank,
                first: t,
                n: together,
                first_pos: run.pos + t,
                n_heads: heads,
                window: None,
                scale: a.scale,
                softcap: None,
            };
            gpu.attend(&attend, scratch, some)?;
        }
        let w = matrix(&self.weights, Some(layer), Part::VB);
        gpu.quantize(acts, some, rows, a.kv_rank, &[w.dtype()])?;
        gpu.matmul_experts(acts, some, w, groups, pairs, exact)?;
        let to = at((run.first * a.n_heads + first) * a.v_dim, a.n_heads * a.v_dim, a.v_dim);
        gpu.move_heads((pairs, at(0, a.v_dim, n * a.v_dim)), (att, to), (n, heads, a.v_dim))
    }
}
