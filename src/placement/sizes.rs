//! What each half of a layer weighs, and what a token reads of it.

use crate::model::{Ffn, Manifest, Mixer, ModelSpec, Part, Role};
use ostro_kernels::KvType;
use std::collections::BTreeMap;

/// Tokens, and how they are kept.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// Positions of the cache.
    pub n_ctx: usize,
    /// Tokens computed at once.
    pub n_ubatch: usize,
    /// Type of the cached keys.
    pub k: KvType,
    /// Type of the cached values.
    pub v: KvType,
}

/// Half a layer, or the head.
#[derive(Clone, Debug, Default)]
pub struct Size {
    /// Bytes of weights.
    pub weights: u64,
    /// The same by what they are for.
    pub roles: BTreeMap<Role, u64>,
    /// Of these, bytes that a token reads.
    pub read: u64,
    /// Bytes of the cache at the full context; a token reads up to its window of them.
    pub kv: u64,
    /// Bytes of the cache that a token reads at the full context.
    pub kv_read: u64,
    /// Bytes of the largest table of experts.
    pub table: u64,
    /// The names of its matrices.
    pub names: Vec<String>,
}

impl Size {
    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        self.weights + self.kv
    }

    /// Bytes that a token reads.
    pub fn reads(&self) -> u64 {
        self.read + self.kv_read
    }
}

/// All of a model.
#[derive(Clone, Debug)]
pub struct Sizes {
    /// Of each layer the mixer and the feed-forward half.
    pub layers: Vec<(Size, Size)>,
    /// The last norm and the head; where the head is the embedding, a copy of it.
    pub head: Size,
    /// Weights that always stay in memory: the embedding.
    pub embedding: u64,
    /// Of the embedding, what a token reads where it is not the head.
    pub embedding_read: u64,
    /// Bytes of small tables that stay in memory, as of rotary factors.
    pub tables: u64,
    /// Bytes of all tensors of the file.
    pub total: u64,
    /// Whether the head is the embedding.
    pub tied_head: bool,
    /// Bytes of buffers of a device that computes so many tokens at once.
    pub buffers: u64,
    /// Floats of the residual.
    pub dim: usize,
}

impl Sizes {
    /// Adds up a model whose weights take `bytes`, one number a binding of the manifest.
    pub fn new(spec: &ModelSpec, manifest: &Manifest, bytes: &[u64], context: &Context) -> Sizes {
        let mut sizes = Sizes {
            layers: vec![Default::default(); spec.layers.len()],
            head: Size::default(),
            embedding: 0,
            embedding_read: 0,
            tables: 0,
            total: bytes.iter().sum(),
            tied_head: spec.tied_head,
            buffers: buffers(spec, context.n_ubatch),
            dim: spec.dim,
        };
        for (binding, &bytes) in manifest.bindings.iter().zip(bytes) {
            let part = binding.slot.part;
            let is_table = matches!(part, Part::GateExps | Part::UpExps | Part::DownExps);
            let size = match binding.slot.layer {
                Some(layer) if part.is_mixer() => &mut sizes.layers[layer].0,
                Some(layer) => &mut sizes.layers[layer].1,
                None if matches!(part, Part::OutNorm | Part::Head) => &mut sizes.head,
                None if part == Part::Embed => {
                    sizes.embedding += bytes;
                    sizes.embedding_read = bytes / spec.n_vocab.max(1) as u64;
                    continue;
                }
                None => {
                    sizes.tables += bytes;
                    continue;
                }
            };
            size.weights += bytes;
            *size.roles.entry(binding.role).or_default() += bytes;
            size.read += binding.active(spec, bytes);
            size.table = size.table.max(if is_table { bytes } else { 0 });
            if binding.dims.len() > 1 {
                size.names.extend(binding.names().iter().cloned());
            }
        }
        if spec.tied_head {
            // A card needs a copy of its own; memory has it once.
            sizes.head.weights += sizes.embedding;
            *sizes.head.roles.entry(Role::Head).or_default() += sizes.embedding;
            sizes.head.read += sizes.embedding;
            sizes.embedding_read = 0;
        }
        for (layer, (mixer, _)) in spec.layers.iter().zip(&mut sizes.layers) {
            let cached = layer.mixer.cached();
            let row = cached.heads * (context.k.row_bytes(cached.key) + context.v.row_bytes(cached.value));
            mixer.kv = (row * context.n_ctx) as u64;
            mixer.kv_read = (row * context.n_ctx.min(cached.window.unwrap_or(usize::MAX))) as u64;
        }
        sizes
    }
}

/// Rows of queries and heads of latent attention that are computed together at most, so that what they take stays small.
const LATENT_ROWS: usize = 4096;

/// Heads of latent attention that are computed together for `n` queries.
pub fn latent_heads(n: usize, n_heads: usize) -> usize {
    (LATENT_ROWS / n.max(1)).clamp(1, n_heads)
}

/// Rows of queries and heads that batches of at most `n` queries have at once.
pub fn latent_rows(n: usize, n_heads: usize) -> usize {
    (n * n_heads).min(LATENT_ROWS.max(n))
}

/// Bytes of a card's buffers for `n` tokens at once: the rows of `engine/gpu/room.rs`, and staging, code and alignment.
fn buffers(spec: &ModelSpec, n: usize) -> u64 {
    let (mut q, mut kv, mut att, mut hidden, mut spare, mut router, mut latent) = (0, 0, 0, 0, n * spec.dim, 0, 0);
    for layer in &spec.layers {
        let (cached, (heads, key, value)) = (layer.mixer.cached(), layer.mixer.heads());
        q = q.max(n * heads * key);
        kv = kv.max(n * cached.heads * (cached.key + cached.value));
        // Attention also keeps parts of up to 2,048 rows for 32 chunks of positions.
        att = att.max(n * heads * value + (n * heads).min(2048) * 32 * (value + 2));
        if let Mixer::Mla(a) = &layer.mixer {
            let rows = latent_rows(n, heads);
            let wide = a.kv_rank.max(a.nope_dim).max(a.v_dim);
            latent = latent
                .max(rows * (2 * wide + a.latent()) + rows.min(2048) * 32 * (a.kv_rank + 2) + rows * wide * 5 / 8);
            q = q.max(n * (heads * key + a.q_rank.unwrap_or(0)));
        }
        match &layer.ffn {
            Ffn::Gated(f) => hidden = hidden.max(n * f.hidden),
            Ffn::Moe(m) => {
                hidden = hidden.max(n * m.n_active * m.hidden).max(n * m.shared.map_or(0, |shared| shared.hidden));
                spare = spare.max(n * (m.n_active + usize::from(m.shared.is_some())) * spec.dim);
                router = router.max(n * (m.n_experts + 5 * m.n_active));
            }
        }
    }
    let ropes: usize = spec.ropes.iter().map(|r| n * r.dim).sum();
    let floats = 2 * n * spec.dim + q + kv + att + latent + 2 * hidden + spare + router + ropes + spec.n_vocab;
    // Quantized twice, in blocks of 32 and of 256: a byte, and two floats for 32.
    let acts = hidden.max(q).max(n * spec.dim) * 5 / 2;
    // What the driver rounds up, buffer by buffer, and its own for a module or two.
    (4 * floats + acts) as u64 + (64 << 20)
}
