//! The KV cache: for each sequence and layer, the keys and values of its positions.
//!
//! A head's rows lie together, `[n_kv_heads][n_ctx][head_dim]`, so that attention streams them. Memory is reserved
//! whole and becomes real as positions are written.

use super::SeqId;
use super::ops::Half;
use crate::model::rope::Rope;
use crate::model::{Cached, ModelSpec};
use ostro_kernels::{Exec, KvType, float};
use std::ops::Range;

/// The types of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvTypes {
    /// Of the keys.
    pub k: KvType,
    /// Of the values.
    pub v: KvType,
}

impl Default for KvTypes {
    fn default() -> KvTypes {
        KvTypes { k: KvType::F16, v: KvType::F16 }
    }
}

impl KvTypes {
    /// Bytes that one position takes in all layers.
    pub fn bytes_per_token(self, spec: &ModelSpec) -> usize {
        spec.layers.iter().map(|layer| self.bytes_of(layer.mixer.cached())).sum()
    }

    /// Bytes that a token reads when the cache holds `held` positions with its own: where a layer has a window, no more
    /// than that.
    pub fn bytes_read(self, spec: &ModelSpec, held: usize) -> usize {
        let cached = spec.layers.iter().map(|layer| layer.mixer.cached());
        cached.map(|cached| self.bytes_of(cached) * held.min(cached.window.unwrap_or(held))).sum()
    }

    /// Bytes that one position takes in a layer.
    pub fn bytes_of(self, cached: Cached) -> usize {
        let (key, value) = self.rows_of(cached);
        cached.heads * (key + value)
    }

    /// Bytes of a key and of a value.
    pub fn rows_of(self, cached: Cached) -> (usize, usize) {
        (self.k.row_bytes(cached.key), self.v.row_bytes(cached.value))
    }
}

/// Keys and values of one layer of one sequence.
pub(super) struct LayerKv {
    /// `[n_kv_heads][n_ctx][row_bytes(head_dim)]`
    pub k: Vec<u8>,
    /// `[n_kv_heads][n_ctx][row_bytes(v_dim)]`; nothing where values are the front of the keys.
    pub v: Vec<u8>,
}

/// The CPU's part of the cache; layers whose cache is elsewhere are empty.
pub(super) struct KvCache {
    /// By sequence, then by layer.
    seqs: Vec<Vec<LayerKv>>,
    n_ctx: usize,
    types: KvTypes,
    /// Bytes of a key and of a value of each layer.
    row_bytes: Vec<(usize, usize)>,
}

impl KvCache {
    /// A cache of the layers that are `here`.
    pub fn new(spec: &ModelSpec, n_seqs: usize, n_ctx: usize, types: KvTypes, here: impl Fn(usize) -> bool) -> KvCache {
        let layers: Vec<Cached> = spec.layers.iter().map(|l| l.mixer.cached()).collect();
        let row_bytes: Vec<(usize, usize)> = layers.iter().map(|&cached| types.rows_of(cached)).collect();
        let layer = |(i, cached): (usize, &Cached)| {
            let (rows, (key, value)) = (if here(i) { cached.heads * n_ctx } else { 0 }, row_bytes[i]);
            LayerKv { k: vec![0; rows * key], v: vec![0; rows * value] }
        };
        let seq = || layers.iter().enumerate().map(layer).collect();
        KvCache { seqs: (0..n_seqs).map(|_| seq()).collect(), n_ctx, types, row_bytes }
    }

    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    pub fn types(&self) -> KvTypes {
        self.types
    }

    pub fn layer(&self, seq: SeqId, layer: usize) -> &LayerKv {
        &self.seqs[seq.0][layer]
    }

    pub fn layer_mut(&mut self, seq: SeqId, layer: usize) -> &mut LayerKv {
        &mut self.seqs[seq.0][layer]
    }

    /// Keys or values of a layer, with the bytes of one.
    pub fn half(&self, layer: usize, seq: SeqId, half: Half) -> (&[u8], usize) {
        let (cache, (key, value)) = (self.layer(seq, layer), self.row_bytes[layer]);
        match half {
            Half::Keys => (&cache.k, key),
            Half::Values => (&cache.v, value),
        }
    }

    /// The same, to be written.
    pub fn half_mut(&mut self, layer: usize, seq: SeqId, half: Half) -> (&mut [u8], usize) {
        let (key, value) = self.row_bytes[layer];
        let cache = self.layer_mut(seq, layer);
        match half {
            Half::Keys => (&mut cache.k, key),
            Half::Values => (&mut cache.v, value),
        }
    }

    /// Forgets the positions `gone` and moves the later ones down. A key at position p was turned by the angle of p, so it
    /// is turned back by the angle of as many positions as it moves.
    pub fn remove(
        &mut self,
        spec: &ModelSpec,
        ropes: &[Rope],
        exec: &Exec,
        seq: SeqId,
        gone: Range<usize>,
        held: usize,
    ) {
        let (types, n_ctx, cpu) = (self.types, self.n_ctx, exec.cpu());
        let kept = gone.start..held - gone.len();
        let angles: Vec<_> = ropes.iter().map(|rope| rope.back(gone.len() as u32)).collect();
        for (layer, cache) in spec.layers.iter().zip(&mut self.seqs[seq.0]) {
            let (cached, rope) = (layer.mixer.cached(), layer.mixer.key_rope());
            let (key, value) = types.rows_of(cached);
            exec.rows(&mut cache.k, n_ctx * key, |_, head| {
                head.copy_within(gone.end * key..held * key, gone.start * key);
                let Some((rope, skip)) = rope else { return };
                let ((cos, sin), pairs) = (&angles[rope], spec.ropes[rope].pairs);
                let mut row = vec![0.0; cached.key];
                for key in head[kept.start * key..kept.end * key].chunks_exact_mut(key) {
                    types.k.load(cpu, key, &mut row);
                    float::rope(cpu, &mut row[skip..], cached.key - skip, cos, sin, pairs);
                    types.k.store(cpu, &row, key);
                }
            });
            exec.rows(&mut cache.v, (n_ctx * value).max(1), |_, head| {
                head.copy_within(gone.end * value..held * value, gone.start * value);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RopeFactors, RopeScaling, RopeSpec};
    use ostro_kernels::{Cpu, float::Pairs};

    /// A key turned to position 9 and moved down by 4 is the key turned to position 5, for every type of cache, pairing and
    /// scaling, on every instruction set.
    #[test]
    fn a_key_that_moves_is_the_key_of_its_new_position() {
        let head_dim = 32;
        let yarn = RopeScaling::Yarn { factor: 4.0, original: 64, beta_fast: 32.0, beta_slow: 1.0, attn_factor: 1.0 };
        let factors: Vec<f32> = (0..12).map(|i| 1.0 + i as f32 * 0.5).collect();
        for cpu in Cpu::all() {
            for (pairs, scaling) in [(Pairs::Adjacent, RopeScaling::None), (Pairs::Halves, yarn)] {
                // Part of the head is not turned.
                let spec =
                    RopeSpec { dim: 24, pairs, base: 100.0, scaling, factors: RopeFactors::Fixed, magnitude: 1.0 };
                let rope = Rope::new(&spec, Some(&factors));
                let key: Vec<f32> = (0..head_dim).map(|i| (i as f32 * 1.7).sin()).collect();
                let at = |position: u32| {
                    let (mut cos, mut sin) = (vec![0.0; 12], vec![0.0; 12]);
                    rope.fill(position, &mut cos, &mut sin);
                    let mut key = key.clone();
                    float::rope(cpu, &mut key, head_dim, &cos, &sin, pairs);
                    key
                };
                let mut moved = at(9);
                let (cos, sin) = rope.back(4);
                float::rope(cpu, &mut moved, head_dim, &cos, &sin, pairs);
                for (found, want) in moved.iter().zip(at(5)) {
                    assert!((found - want).abs() < 1e-5, "{} {pairs:?}: {found}, expected {want}", cpu.name());
                }
            }
        }
    }
}
