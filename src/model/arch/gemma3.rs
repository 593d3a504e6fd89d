//! `gemma3`: five layers of a sliding window, then one of full attention, each kind with its own rotary base.

use super::{Common, MAX_SIZE, rope_base, rope_dim, rope_scaling};
use crate::gguf::Value;
use crate::model::{
    Activation, Error, Ffn, Gated, Gqa, Header, Layer, Mixer, ModelSpec, Norm, NormKind, Pairs, Residual, RopeScaling,
    RopeSpec,
};

const FULL: usize = 0;
const LOCAL: usize = 1;

pub(super) fn spec(h: &Header) -> Result<ModelSpec, Error> {
    let c = Common::read(h)?;
    let norm = Norm { kind: NormKind::Rms, eps: c.eps };
    let window = h.size("attention.sliding_window", MAX_SIZE)?;
    let local = local_layers(h, c.n_layers)?;
    // `query_pre_attn_scalar` does not travel in the file: it is the head's width, except in the 27B model, the only
    // one whose heads are 128 wide, where it is the width of the model divided among the heads.
    let scalar = if c.head_dim == 128 { c.dim / c.n_heads[0] } else { c.head_dim };
    let scale = h.opt_f32("attention.scale")?.unwrap_or(1.0 / (scalar as f32).sqrt());
    let layers = (0..c.n_layers)
        .map(|i| Layer {
            norm,
            residual: Residual::Sequential,
            post_norm: Some(norm),
            mixer: Mixer::Gqa(Gqa {
                n_heads: c.n_heads[i],
                n_kv_heads: c.n_kv_heads[i],
                head_dim: c.head_dim,
                v_dim: c.v_dim,
                rope: if local[i] { LOCAL } else { FULL },
                window: local[i].then_some(window),
                scale,
                softcap: None,
                qk_norm: Some(norm),
                qkv_bias: false,
                out_bias: false,
            }),
            ffn: Ffn::Gated(Gated { hidden: c.hidden[i], act: Activation::GeluTanh }),
        })
        .collect();
    let dim = rope_dim(h, c.head_dim)?;
    let full = RopeSpec {
        dim,
        pairs: Pairs::Halves,
        base: rope_base(h, "rope.freq_base", 1_000_000.0)?,
        scaling: rope_scaling(h, c.context)?,
        factors: false,
    };
    let near = RopeSpec { base: rope_base(h, "rope.freq_base_swa", 10_000.0)?, scaling: RopeScaling::None, ..full };
    Ok(ModelSpec {
        arch: h.arch().to_owned(),
        dim: c.dim,
        n_vocab: c.n_vocab,
        context: c.context,
        embed_scale: (c.dim as f32).sqrt(),
        out_norm: norm,
        tied_head: !h.has("output.weight"),
        logit_scale: 1.0,
        logit_softcap: h.opt_f32("final_logit_softcapping")?.filter(|&cap| cap > 0.0),
        ropes: vec![full, near],
        layers,
        name: c.name,
    })
}

/// Which layers see only the window: said by the file as a period or as one truth value a layer; else every sixth
/// layer sees all.
fn local_layers(h: &Header, n_layers: usize) -> Result<Vec<bool>, Error> {
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
        None => 6,
    };
    Ok((0..n_layers).map(|i| (i + 1) % period != 0).collect())
}
