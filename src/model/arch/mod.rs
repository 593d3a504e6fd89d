//! The architectures: each file maps metadata to a [`ModelSpec`]. To add one: a file, and a line in [`ARCHS`].
//!
//! `*_hf.rs` say how checkpoints become files of them. To add one: a file, and a line in [`CHECKPOINTS`].

mod command_r;
mod command_r_hf;
mod deepseek2;
mod deepseek2_hf;
mod gemma;
mod gemma2_hf;
mod gemma3_hf;
mod llama;
mod llama_hf;
mod phi3;
mod phi3_hf;
mod qwen;
mod qwen_hf;

use super::checkpoint::Checkpoint;
use super::{
    Activation, Error, Ffn, Gated, Gqa, Header, Layer, Mixer, ModelSpec, Moe, Norm, NormKind, Pairs, Residual,
    RopeFactors, RopeScaling, RopeSpec, Router, Shapes,
};
use crate::gguf::{Gguf, Metadata, Value};

/// An architecture by the name that `general.architecture` gives it.
type Read = fn(&Header) -> Result<ModelSpec, Error>;

const ARCHS: &[(&str, Read)] = &[
    ("cohere2", command_r::cohere2),
    ("command-r", command_r::command_r),
    ("deepseek2", deepseek2::spec),
    ("gemma2", gemma::gemma2),
    ("gemma3", gemma::gemma3),
    ("llama", llama::spec),
    ("phi3", phi3::spec),
    ("qwen2", qwen::dense),
    ("qwen2moe", qwen::moe),
    ("qwen3", qwen::dense),
    ("qwen3moe", qwen::moe),
];

/// The checkpoints that can be converted.
pub(super) const CHECKPOINTS: &[&Checkpoint] = &[
    &llama_hf::LLAMA,
    &llama_hf::MISTRAL,
    &llama_hf::MIXTRAL,
    &llama_hf::NATIVE,
    &gemma2_hf::GEMMA2,
    &gemma3_hf::GEMMA3,
    &qwen_hf::QWEN2,
    &qwen_hf::QWEN2_MOE,
    &qwen_hf::QWEN3,
    &qwen_hf::QWEN3_MOE,
    &command_r_hf::COHERE,
    &command_r_hf::COHERE2,
    &deepseek2_hf::DEEPSEEK_V2,
    &deepseek2_hf::DEEPSEEK_V3,
    &phi3_hf::PHI3,
];

/// Sizes above this are not those of a model; products of three of them fit in 64 bits.
const MAX_SIZE: usize = 1 << 20;
const MAX_LAYERS: usize = 1 << 12;

/// The architectures that can be run, by their names in `general.architecture`.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    ARCHS.iter().map(|(name, _)| *name)
}

impl ModelSpec {
    /// Reads the spec from a header. Beside it: keys of the architecture that are not understood, for a warning.
    ///
    /// # Errors
    /// An unknown architecture, and keys that are missing or hold what cannot be computed.
    pub fn from_gguf(gguf: &Gguf) -> Result<(ModelSpec, Vec<String>), Error> {
        ModelSpec::read(gguf.metadata(), gguf)
    }

    /// [`ModelSpec::from_gguf`] for what shall become a file.
    ///
    /// # Errors
    /// As there.
    pub fn read(metadata: &Metadata, shapes: &dyn Shapes) -> Result<(ModelSpec, Vec<String>), Error> {
        let arch = metadata.require_str("general.architecture")?;
        let Some((_, read)) = ARCHS.iter().find(|(name, _)| *name == arch) else {
            let supported: Vec<_> = architectures().collect();
            return Err(Error::UnknownArchitecture {
                file: metadata.file().display().to_string(),
                found: arch.to_owned(),
                supported: supported.join(", "),
            });
        };
        let header = Header::new(metadata, shapes, arch);
        let spec = read(&header)?;
        // Said twice by the file (the vocabulary), or of no effect on results.
        for key in ["vocab_size", "context_length", "tensor_data_layout", "rope.scaling.finetuned"] {
            header.key(key);
        }
        Ok((spec, header.unasked()))
    }
}

/// The keys that every architecture has, read one way.
struct Common {
    name: String,
    n_layers: usize,
    dim: usize,
    context: usize,
    n_vocab: usize,
    norm: Norm,
    tied_head: bool,
    n_heads: Vec<usize>,
    n_kv_heads: Vec<usize>,
    hidden: Vec<usize>,
    head_dim: usize,
    v_dim: usize,
}

impl Common {
    fn read(h: &Header) -> Result<Common, Error> {
        let n_layers = h.size("block_count", MAX_LAYERS)?;
        let dim = h.size("embedding_length", MAX_SIZE)?;
        let n_heads = h
            .per_layer("attention.head_count", n_layers, MAX_SIZE)?
            .ok_or_else(|| h.bad("attention.head_count", "nothing", "the number of heads"))?;
        let n_kv_heads = h.per_layer("attention.head_count_kv", n_layers, MAX_SIZE)?.unwrap_or_else(|| n_heads.clone());
        for (&q, &kv) in n_heads.iter().zip(&n_kv_heads) {
            if q % kv != 0 {
                return Err(h.bad("attention.head_count_kv", kv, format!("a divisor of the {q} query heads")));
            }
        }
        let head_dim = match h.opt_usize("attention.key_length")? {
            Some(_) => h.size("attention.key_length", MAX_SIZE)?,
            None if dim % n_heads[0] == 0 => dim / n_heads[0],
            None => return Err(h.bad("attention.head_count", n_heads[0], format!("a divisor of the width {dim}"))),
        };
        let v_dim = match h.opt_usize("attention.value_length")? {
            Some(_) => h.size("attention.value_length", MAX_SIZE)?,
            None => head_dim,
        };
        let hidden = h
            .per_layer("feed_forward_length", n_layers, MAX_SIZE)?
            .ok_or_else(|| h.bad("feed_forward_length", "nothing", "the inner width"))?;
        let (rms, layer) = ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon");
        let norm = match (h.opt_f32(rms)?, h.opt_f32(layer)?) {
            (Some(eps), _) => Norm { kind: NormKind::Rms, eps },
            (None, Some(eps)) => Norm { kind: NormKind::Layer, eps },
            (None, None) => return Err(h.bad(rms, "nothing", "a small number such as 1e-5")),
        };
        Ok(Common {
            name: match h.metadata().str("general.name")? {
                Some(name) => name.to_owned(),
                None => h.file(),
            },
            n_layers,
            dim,
            context: h.size("context_length", u32::MAX as usize)?,
            n_vocab: n_vocab(h)?,
            norm,
            tied_head: !h.has("output.weight"),
            n_heads,
            n_kv_heads,
            hidden,
            head_dim,
            v_dim,
        })
    }

    /// Grouped attention in its plainest form, with what the tensors of a layer tell.
    fn gqa(&self, h: &Header, i: usize) -> Result<Gqa, Error> {
        let at = |name: &str| h.has(&format!("blk.{i}.{name}"));
        Ok(Gqa {
            n_heads: self.n_heads[i],
            n_kv_heads: self.n_kv_heads[i],
            head_dim: self.head_dim,
            v_dim: self.v_dim,
            rope: Some(0),
            window: None,
            scale: h.opt_f32("attention.scale")?.unwrap_or(1.0 / (self.head_dim as f32).sqrt()),
            softcap: None,
            qk_norm: at("attn_q_norm.weight").then_some(self.norm),
            norm_by_head: false,
            qkv_bias: at("attn_q.bias") || at("attn_qkv.bias"),
            fused: at("attn_qkv.weight"),
            out_bias: at("attn_output.bias"),
        })
    }

    /// A gated network.
    fn gated(&self, i: usize, act: Activation) -> Ffn {
        Ffn::Gated(Gated { hidden: self.hidden[i], act, fused: false })
    }

    /// A mixture of experts of some inner width, as its keys say; nothing where there are no experts.
    fn moe(&self, h: &Header, i: usize, hidden: usize) -> Result<Option<Moe>, Error> {
        let n_experts = h.opt_usize("expert_count")?.unwrap_or(0);
        let n_active = h.opt_usize("expert_used_count")?.unwrap_or(0);
        if n_experts > MAX_SIZE || n_active > n_experts || (n_experts > 0 && n_active == 0) {
            return Err(h.bad("expert_used_count", n_active, format!("1 to the {n_experts} experts")));
        }
        Ok((n_experts > 0).then(|| Moe {
            n_experts,
            n_active,
            hidden,
            act: Activation::Silu,
            router: Router::Softmax,
            groups: None,
            bias: false,
            renormalize: true,
            scale: 1.0,
            shared: None,
            fused: h.has(&format!("blk.{i}.ffn_gate_up_exps.weight")),
        }))
    }

    /// A layer of two parts one after the other.
    fn layer(&self, mixer: Gqa, ffn: Ffn) -> Layer {
        let (norm, mixer) = (self.norm, Mixer::Gqa(mixer));
        Layer { norm, residual: Residual::Sequential, post_norm: None, mixer, ffn }
    }

    /// The rotary embedding of the keys that every architecture has.
    fn rope(&self, h: &Header, pairs: Pairs) -> Result<RopeSpec, Error> {
        let (long, short) = ("rope_factors_long.weight", "rope_factors_short.weight");
        // Without a stretch it says nothing.
        let original = h.opt_usize("rope.scaling.original_context_length")?.unwrap_or(self.context);
        let (factors, magnitude) = match h.has("rope_freqs.weight") {
            true => (RopeFactors::Fixed, 1.0),
            false if h.has(long) && h.has(short) => {
                (RopeFactors::ByContext { original }, h.opt_f32("rope.scaling.attn_factor")?.unwrap_or(1.0))
            }
            false => (RopeFactors::None, 1.0),
        };
        Ok(RopeSpec {
            dim: rope_dim(h, self.head_dim)?,
            pairs,
            base: rope_base(h, "rope.freq_base", 10000.0)?,
            scaling: rope_scaling(h, self.context)?,
            factors,
            magnitude,
        })
    }

    /// A model in its plainest form.
    fn spec(self, h: &Header, ropes: Vec<RopeSpec>, layers: Vec<Layer>) -> ModelSpec {
        ModelSpec {
            arch: h.arch().to_owned(),
            name: self.name,
            dim: self.dim,
            n_vocab: self.n_vocab,
            context: self.context,
            embed_scale: 1.0,
            out_norm: self.norm,
            tied_head: self.tied_head,
            logit_scale: 1.0,
            logit_softcap: None,
            ropes,
            layers,
            spare_layers: 0,
        }
    }
}

/// Which layers see only a window: said by the file as a period or as one truth value a layer; else all but every
/// `period`th.
fn local_layers(h: &Header, n_layers: usize, period: usize) -> Result<Vec<bool>, Error> {
    let key = "attention.sliding_window_pattern";
    if let Some(n) = h.metadata().get(&h.key(key)).and_then(Value::array_len) {
        let list = h.metadata().require_bools(&h.key(key))?;
        return if n == n_layers {
            Ok(list.to_vec())
        } else {
            Err(h.bad(key, format!("{n} values"), format!("{n_layers}, one per layer")))
        };
    }
    let period = match h.opt_usize(key)? {
        Some(_) => h.size(key, MAX_SIZE)?,
        None => period,
    };
    Ok((0..n_layers).map(|i| (i + 1) % period != 0).collect())
}

/// The rows of the embedding, which must be as many as the tokenizer has tokens.
fn n_vocab(h: &Header) -> Result<usize, Error> {
    let rows = match h.dims("token_embd.weight") {
        Some(dims) if dims.len() == 2 => dims[1] as usize,
        Some(dims) => {
            return Err(Error::Shape {
                file: h.file(),
                name: "token_embd.weight".into(),
                found: format!("{dims:?}"),
                expected: "two dimensions, width and vocabulary".into(),
            });
        }
        None => {
            return Err(Error::MissingTensor {
                file: h.file(),
                name: "token_embd.weight".into(),
                expected: "[width, vocabulary]".into(),
            });
        }
    };
    if let Some(tokens) = h.metadata().get("tokenizer.ggml.tokens").and_then(Value::array_len)
        && tokens != rows
    {
        return Err(Error::Value {
            file: h.file(),
            key: "tokenizer.ggml.tokens".into(),
            found: format!("{tokens} tokens"),
            expected: format!("{rows}, the rows of token_embd.weight"),
        });
    }
    Ok(rows)
}

/// `rope.scaling.*`, in today's keys and the one of 2023.
fn rope_scaling(h: &Header, context: usize) -> Result<RopeScaling, Error> {
    let old = h.opt_f32("rope.scale_linear")?;
    let factor = h.opt_f32("rope.scaling.factor")?.or(old);
    let kind = h.opt_str("rope.scaling.type")?;
    let positive = |factor: Option<f32>| match factor {
        Some(f) if f > 0.0 => Ok(f),
        f => Err(h.bad("rope.scaling.factor", f.map_or("nothing".into(), |f| f.to_string()), "a number above 0")),
    };
    match kind {
        None if factor.is_none() => Ok(RopeScaling::None),
        Some("none") => Ok(RopeScaling::None),
        // Its stretch stands in tables.
        Some("longrope") if h.has("rope_factors_long.weight") => Ok(RopeScaling::None),
        None | Some("linear") => Ok(RopeScaling::Linear(positive(factor)?)),
        Some("yarn") => Ok(RopeScaling::Yarn {
            factor: positive(factor)?,
            original: h.opt_usize("rope.scaling.original_context_length")?.unwrap_or(context).max(1),
            beta_fast: h.opt_f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
            beta_slow: h.opt_f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
            attn_factor: h.opt_f32("rope.scaling.attn_factor")?.unwrap_or(1.0),
        }),
        Some(other) => Err(h.bad("rope.scaling.type", other, "none, linear or yarn, or longrope with its tables")),
    }
}

/// `rope.freq_base`: powers of it are divided by, so it is above 0.
fn rope_base(h: &Header, suffix: &str, default: f32) -> Result<f32, Error> {
    match h.opt_f32(suffix)? {
        Some(base) if base <= 0.0 => Err(h.bad(suffix, base, "a number above 0")),
        base => Ok(base.unwrap_or(default)),
    }
}

/// `rope.dimension_count`: how much of a head is rotated; all of it where nothing is said.
fn rope_dim(h: &Header, head_dim: usize) -> Result<usize, Error> {
    match h.opt_usize("rope.dimension_count")?.unwrap_or(head_dim) {
        n if n <= head_dim && n % 2 == 0 && n > 0 => Ok(n),
        n => Err(h.bad("rope.dimension_count", n, format!("an even number up to the head's width {head_dim}"))),
    }
}
