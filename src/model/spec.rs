//! `ModelSpec`: all that the forward pass needs to know of a model, as data.
//!
//! Axes are enums, never names of models. What a field means in arithmetic is said by `engine/forward.rs`.

/// A decoder-only transformer.
#[derive(Clone, Debug)]
pub struct ModelSpec {
    /// `general.architecture`, for messages and for the metadata keys only.
    pub arch: String,
    /// `general.name`, or the file's stem.
    pub name: String,
    /// Width of the residual stream.
    pub dim: usize,
    /// Rows of the embedding and of the head.
    pub n_vocab: usize,
    /// Positions the model was trained for.
    pub context: usize,
    /// The embedding is multiplied by this.
    pub embed_scale: f32,
    /// The norm before the head.
    pub out_norm: Norm,
    /// The head is the embedding matrix.
    pub tied_head: bool,
    /// Logits are multiplied by this.
    pub logit_scale: f32,
    /// Logits become `cap * tanh(logit / cap)`.
    pub logit_softcap: Option<f32>,
    /// The rotary embeddings in use; a layer names one by its index.
    pub ropes: Vec<RopeSpec>,
    /// One per layer.
    pub layers: Vec<Layer>,
    /// Layers that the file has after these, which predict further tokens: they are not computed.
    pub spare_layers: usize,
}

/// One layer.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The norms before the mixer and before the feed-forward part.
    pub norm: Norm,
    /// How the two parts meet the residual.
    pub residual: Residual,
    /// The norm of each part's output before it is added, if there is one.
    pub post_norm: Option<Norm>,
    /// What mixes positions.
    pub mixer: Mixer,
    /// What works on each position alone.
    pub ffn: Ffn,
}

/// A normalization with learned weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Norm {
    /// Which statistic is divided by.
    pub kind: NormKind,
    /// Added to the variance.
    pub eps: f32,
}

/// Kinds of norms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// By the root of the mean square.
    Rms,
    /// By the standard deviation, after the mean is taken off.
    Layer,
}

/// How mixer and feed-forward part meet the residual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// `x += mixer(norm(x)); x += ffn(norm(x))`.
    Sequential,
    /// `x += mixer(norm(x)) + ffn(norm(x))`, of one and the same norm.
    Parallel,
}

/// What mixes positions.
#[derive(Clone, Debug)]
pub enum Mixer {
    /// Attention with grouped queries.
    Gqa(Gqa),
    /// Attention whose keys and values are made from one latent vector a position (multi-head latent attention, arXiv
    /// 2405.04434).
    Mla(Mla),
}

/// What one position leaves in the cache of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cached {
    /// Heads.
    pub heads: usize,
    /// Width of a key.
    pub key: usize,
    /// Width of a value; 0 where the values are the front of the keys.
    pub value: usize,
    /// Only the last so many positions are looked at.
    pub window: Option<usize>,
}

impl Mixer {
    /// What one position leaves in the cache.
    pub fn cached(&self) -> Cached {
        match self {
            Mixer::Gqa(a) => Cached { heads: a.n_kv_heads, key: a.head_dim, value: a.v_dim, window: a.window },
            Mixer::Mla(a) => Cached { heads: 1, key: a.latent(), value: 0, window: None },
        }
    }

    /// Index into [`ModelSpec::ropes`], and how many elements at the front of a cached key are not turned by it.
    pub fn key_rope(&self) -> Option<(usize, usize)> {
        match self {
            Mixer::Gqa(a) => a.rope.map(|rope| (rope, 0)),
            Mixer::Mla(a) => Some((a.rope, a.kv_rank)),
        }
    }

    /// Query heads, the width of a query, and that of what a head gives.
    pub fn heads(&self) -> (usize, usize, usize) {
        match self {
            Mixer::Gqa(a) => (a.n_heads, a.head_dim, a.v_dim),
            Mixer::Mla(a) => (a.n_heads, a.nope_dim + a.rope_dim, a.v_dim),
        }
    }
}

/// Latent attention: a position keeps a latent vector and one rotated key that all heads share.
///
/// `c, k_rope = split(kv_a x)`, `c = norm(c)`; head h has the key `[k_b[h] c, rope(k_rope)]` and the value `v_b[h] c`.
#[derive(Clone, Debug)]
pub struct Mla {
    /// Heads.
    pub n_heads: usize,
    /// Width of the latent that queries are made from; `None`: they are made from the input.
    pub q_rank: Option<usize>,
    /// Width of the latent.
    pub kv_rank: usize,
    /// Elements of a query and key that are not rotated; they come first.
    pub nope_dim: usize,
    /// Elements that are.
    pub rope_dim: usize,
    /// Width of a value.
    pub v_dim: usize,
    /// Index into [`ModelSpec::ropes`].
    pub rope: usize,
    /// Scores are multiplied by this.
    pub scale: f32,
    /// The norm of the latents.
    pub norm: Norm,
    /// Keys and values are made by one matrix (files of before 2025).
    pub joined: bool,
}

impl Mla {
    /// Width of what the cache keeps of a position.
    pub fn latent(&self) -> usize {
        self.kv_rank + self.rope_dim
    }
}

/// Attention whose query heads share key/value heads in groups.
#[derive(Clone, Debug)]
pub struct Gqa {
    /// Query heads.
    pub n_heads: usize,
    /// Key/value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of a query or key head.
    pub head_dim: usize,
    /// Width of a value head.
    pub v_dim: usize,
    /// Index into [`ModelSpec::ropes`]; `None`: positions are not marked.
    pub rope: Option<usize>,
    /// A position sees only the last so many positions.
    pub window: Option<usize>,
    /// Scores are multiplied by this.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Each query and key head is normalized before the rotation.
    pub qk_norm: Option<Norm>,
    /// Each head has norm weights of its own.
    pub norm_by_head: bool,
    /// Query, key and value have biases.
    pub qkv_bias: bool,
    /// Query, key and value lie in one tensor.
    pub fused: bool,
    /// The output projection has a bias.
    pub out_bias: bool,
}

/// What works on each position alone.
#[derive(Clone, Debug)]
pub enum Ffn {
    /// `down(act(gate x) * up x)`.
    Gated(Gated),
    /// A router picks some of many gated networks.
    Moe(Moe),
}

impl Ffn {
    /// The network that every token goes through beside the experts, with its activation.
    pub fn shared(&self) -> Option<(Activation, Shared)> {
        match self {
            Ffn::Moe(m) => m.shared.map(|shared| (m.act, shared)),
            Ffn::Gated(_) => None,
        }
    }
}

/// A gated feed-forward network.
#[derive(Clone, Debug)]
pub struct Gated {
    /// Inner width.
    pub hidden: usize,
    /// Applied to the gate.
    pub act: Activation,
    /// Gate and up lie in one tensor, the gate first.
    pub fused: bool,
}

/// A mixture of gated networks.
#[derive(Clone, Debug)]
pub struct Moe {
    /// Networks in all.
    pub n_experts: usize,
    /// Networks that a token is sent to.
    pub n_active: usize,
    /// Inner width of one.
    pub hidden: usize,
    /// Applied to the gate.
    pub act: Activation,
    /// How scores become weights.
    pub router: Router,
    /// Only experts of the best groups are chosen.
    pub groups: Option<ExpertGroups>,
    /// A bias is added to the scores by which experts are chosen, not to their weights.
    pub bias: bool,
    /// The chosen weights are divided by their sum.
    pub renormalize: bool,
    /// The weights are multiplied by this.
    pub scale: f32,
    /// A network that every token goes through beside them.
    pub shared: Option<Shared>,
    /// Gate and up of each expert lie in one tensor, the gate first.
    pub fused: bool,
}

/// Experts in groups, of which some are chosen first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertGroups {
    /// Groups; divides the number of experts.
    pub n: usize,
    /// Groups that are chosen.
    pub n_active: usize,
    /// A group's score is the sum of so many of its best experts'.
    pub best: usize,
}

/// The network of a mixture that every token goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    /// Inner width.
    pub hidden: usize,
    /// What it gives is multiplied by the sigmoid of a product of the input with a vector.
    pub gated: bool,
}

/// How router logits become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Router {
    /// Softmax over all experts.
    Softmax,
    /// Sigmoid of each.
    Sigmoid,
}

/// Activation functions of the gate.
pub use ostro_kernels::Activation;

/// Which elements of a head are rotated together.
pub use ostro_kernels::Pairs;

/// A rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Elements of a head that are rotated.
    pub dim: usize,
    /// Which elements form a pair.
    pub pairs: Pairs,
    /// Frequencies are `base^(-2i/dim)`.
    pub base: f32,
    /// How positions beyond the training length are reached.
    pub scaling: RopeScaling,
    /// What frequencies are divided by, beside the scaling.
    pub factors: RopeFactors,
    /// Cosines and sines are multiplied by this, beside what the scaling says.
    pub magnitude: f32,
}

/// Tables that frequencies are divided by, `[dim / 2]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeFactors {
    /// None.
    None,
    /// `rope_freqs.weight`.
    Fixed,
    /// `rope_factors_long.weight` where the context is longer than in the first training, else `rope_factors_short.weight`.
    ByContext {
        /// Positions of the first training.
        original: usize,
    },
}

/// How a rotary embedding is stretched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions are divided by the factor.
    Linear(
        /// The factor.
        f32,
    ),
    /// YaRN (arXiv 2309.00071): high frequencies are kept, low ones divided, with a ramp between.
    Yarn {
        /// Stretch, >= 1.
        factor: f32,
        /// Positions of the original training.
        original: usize,
        /// Turns over the original length above which a frequency is kept.
        beta_fast: f32,
        /// Turns below which it is divided in full.
        beta_slow: f32,
        /// Further factor on the attention scale.
        attn_factor: f32,
    },
}
