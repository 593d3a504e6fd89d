//! The KV cache: for each sequence and layer, the keys and values of its positions.
//!
//! A head's rows lie together, `[n_kv_heads][n_ctx][head_dim]`, so that attention streams them. Memory is reserved
//! whole and becomes real as positions are written.

use super::SeqId;
use crate::model::{Mixer, ModelSpec};
use ostro_kernels::KvType;

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
        let layer = |mixer: &Mixer| match mixer {
            Mixer::Gqa(a) => a.n_kv_heads * (self.k.row_bytes(a.head_dim) + self.v.row_bytes(a.v_dim)),
        };
        spec.layers.iter().map(|l| layer(&l.mixer)).sum()
    }

    /// Bytes that a token reads when the cache holds `held` positions with its own: where a layer has a window, no more
    /// than that.
    pub fn bytes_read(self, spec: &ModelSpec, held: usize) -> usize {
        let layer = |mixer: &Mixer| match mixer {
            Mixer::Gqa(a) => {
                let row = self.k.row_bytes(a.head_dim) + self.v.row_bytes(a.v_dim);
                a.n_kv_heads * row * held.min(a.window.unwrap_or(held))
            }
        };
        spec.layers.iter().map(|l| layer(&l.mixer)).sum()
    }
}

/// Keys and values of one layer of one sequence.
pub(super) struct LayerKv {
    /// `[n_kv_heads][n_ctx][row_bytes(head_dim)]`
    pub k: Vec<u8>,
    /// `[n_kv_heads][n_ctx][row_bytes(v_dim)]`
    pub v: Vec<u8>,
}

struct Seq {
    len: usize,
    layers: Vec<LayerKv>,
}

pub(super) struct KvCache {
    seqs: Vec<Seq>,
    n_ctx: usize,
    types: KvTypes,
}

impl KvCache {
    pub fn new(spec: &ModelSpec, n_seqs: usize, n_ctx: usize, types: KvTypes) -> KvCache {
        let layer = |mixer: &Mixer| match mixer {
            Mixer::Gqa(a) => LayerKv {
                k: vec![0; a.n_kv_heads * n_ctx * types.k.row_bytes(a.head_dim)],
                v: vec![0; a.n_kv_heads * n_ctx * types.v.row_bytes(a.v_dim)],
            },
        };
        let seq = || Seq { len: 0, layers: spec.layers.iter().map(|l| layer(&l.mixer)).collect() };
        KvCache { seqs: (0..n_seqs.max(1)).map(|_| seq()).collect(), n_ctx, types }
    }

    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    pub fn n_seqs(&self) -> usize {
        self.seqs.len()
    }

    pub fn types(&self) -> KvTypes {
        self.types
    }

    pub fn len(&self, seq: SeqId) -> usize {
        self.seqs[seq.0].len
    }

    pub fn truncate(&mut self, seq: SeqId, len: usize) {
        let seq = &mut self.seqs[seq.0];
        seq.len = seq.len.min(len);
    }

    /// Says that a sequence now holds `len` positions.
    pub fn set_len(&mut self, seq: SeqId, len: usize) {
        self.seqs[seq.0].len = len;
    }

    pub fn layer_mut(&mut self, seq: SeqId, layer: usize) -> &mut LayerKv {
        &mut self.seqs[seq.0].layers[layer]
    }
}
