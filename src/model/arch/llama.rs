//! `llama`: Llama 2, 3 and 3.1, Mistral, Mixtral, SmolLM and what else was trained in their shape.

use super::{Common, MAX_SIZE, rope_base, rope_dim, rope_scaling};
use crate::model::{
    Activation, Error, Ffn, Gated, Gqa, Header, Layer, Mixer, ModelSpec, Moe, Norm, NormKind, Pairs, Residual,
    RopeSpec, Router,
};

pub(super) fn spec(h: &Header) -> Result<ModelSpec, Error> {
    let c = Common::read(h)?;
    let norm = Norm { kind: NormKind::Rms, eps: c.eps };
    let n_experts = h.opt_usize("expert_count")?.unwrap_or(0);
    let n_active = h.opt_usize("expert_used_count")?.unwrap_or(0);
    if n_experts > MAX_SIZE || n_active > n_experts || (n_experts > 0 && n_active == 0) {
        return Err(h.bad("expert_used_count", n_active, format!("1 to the {n_experts} experts")));
    }
    let act = Activation::Silu;
    let layers = (0..c.n_layers)
        .map(|i| Layer {
            norm,
            residual: Residual::Sequential,
            post_norm: None,
            mixer: Mixer::Gqa(Gqa {
                n_heads: c.n_heads[i],
                n_kv_heads: c.n_kv_heads[i],
                head_dim: c.head_dim,
                v_dim: c.v_dim,
                rope: 0,
                window: None,
                scale: 1.0 / (c.head_dim as f32).sqrt(),
                softcap: None,
                qk_norm: None,
                qkv_bias: h.has(&format!("blk.{i}.attn_q.bias")),
                out_bias: h.has(&format!("blk.{i}.attn_output.bias")),
            }),
            ffn: if n_experts > 0 {
                Ffn::Moe(Moe {
                    n_experts,
                    n_active,
                    hidden: c.hidden[i],
                    act,
                    router: Router::Softmax,
                    renormalize: true,
                    scale: 1.0,
                })
            } else {
                Ffn::Gated(Gated { hidden: c.hidden[i], act })
            },
        })
        .collect();
    Ok(ModelSpec {
        arch: h.arch().to_owned(),
        dim: c.dim,
        n_vocab: c.n_vocab,
        context: c.context,
        embed_scale: 1.0,
        out_norm: norm,
        tied_head: !h.has("output.weight"),
        logit_scale: 1.0,
        logit_softcap: None,
        ropes: vec![RopeSpec {
            dim: rope_dim(h, c.head_dim)?,
            pairs: Pairs::Adjacent,
            base: rope_base(h, "rope.freq_base", 10000.0)?,
            scaling: rope_scaling(h, c.context)?,
            factors: h.has("rope_freqs.weight"),
        }],
        layers,
        name: c.name,
    })
}
