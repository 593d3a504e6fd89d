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
}

/// How mixer and feed-forward part meet the residual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residual {
    /// `x += mixer(norm(x)); x += ffn(norm(x))`.
    Sequential,
}

/// What mixes positions.
#[derive(Clone, Debug)]
pub enum Mixer {
    /// Attention with grouped queries.
    Gqa(Gqa),
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
    /// Index into [`ModelSpec::ropes`].
    pub rope: usize,
    /// A position sees only the last so many positions.
    pub window: Option<usize>,
    /// Scores are multiplied by this.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// Each query and key head is normalized before the rotation.
    pub qk_norm: Option<Norm>,
    /// Query, key and value have biases.
    pub qkv_bias: bool,
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

/// A gated feed-forward network.
#[derive(Clone, Debug)]
pub struct Gated {
    /// Inner width.
    pub hidden: usize,
    /// Applied to the gate.
    pub act: Activation,
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
    /// The chosen weights are divided by their sum.
    pub renormalize: bool,
    /// The weights are multiplied by this.
    pub scale: f32,
}

/// How router logits become weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Router {
    /// Softmax over all experts.
    Softmax,
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
    /// Frequencies are divided by the tensor `rope_freqs.weight`.
    pub factors: bool,
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
