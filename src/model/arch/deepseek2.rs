//! `deepseek2`: DeepSeek V2, V2 Lite and V3: latent attention, some dense layers first, shared experts, experts in groups.

use super::{Common, MAX_SIZE};
use crate::model::{
    Activation, Error, ExpertGroups, Ffn, Header, Layer, Mixer, Mla, ModelSpec, Moe, Pairs, Residual, RopeScaling,
    RopeSpec, Router, Shared,
};

pub(super) fn spec(h: &Header) -> Result<ModelSpec, Error> {
    let mut c = Common::read(h)?;
    // The file counts the layers that predict further tokens; they come last.
    let spare_layers = h.opt_usize("nextn_predict_layers")?.unwrap_or(0).min(c.n_layers - 1);
    c.n_layers -= spare_layers;
    let rope_dim = h.size("rope.dimension_count", MAX_SIZE)?;
    // Files of before 2025 give a head's widths where today's give those of the latent.
    let key = h.opt_usize("attention.key_length_mla")?.unwrap_or(c.head_dim);
    let v_dim = h.opt_usize("attention.value_length_mla")?.unwrap_or(c.v_dim);
    if key <= rope_dim || key > MAX_SIZE || v_dim == 0 || v_dim > MAX_SIZE || rope_dim % 2 != 0 {
        return Err(h.bad("attention.key_length_mla", key, format!("more than the {rope_dim} that are rotated")));
    }
    let (rope, stretch) = rope(h, &c, rope_dim)?;
    let kv_rank = h.size("attention.kv_lora_rank", MAX_SIZE)?;
    let dense = h.opt_usize("leading_dense_block_count")?.unwrap_or(0);
    let layer = |i: usize| {
        let at = |name: &str| h.has(&format!("blk.{i}.{name}"));
        let q_rank = if at("attn_q.weight") { None } else { Some(h.size("attention.q_lora_rank", MAX_SIZE)?) };
        let mixer = Mixer::Mla(Mla {
            n_heads: c.n_heads[i],
            q_rank,
            kv_rank,
            nope_dim: key - rope_dim,
            rope_dim,
            v_dim,
            rope: 0,
            scale: stretch * stretch / (key as f32).sqrt(),
            norm: c.norm,
            joined: at("attn_kv_b.weight"),
        });
        let ffn = if i < dense { c.gated(i, Activation::Silu) } else { Ffn::Moe(moe(h, &c, i)?) };
        Ok(Layer { norm: c.norm, residual: Residual::Sequential, post_norm: None, mixer, ffn })
    };
    let layers = (0..c.n_layers).map(layer).collect::<Result<_, Error>>()?;
    Ok(ModelSpec { spare_layers, ..c.spec(h, vec![rope], layers) })
}

/// The rotary embedding, and YaRN's scale of the attention, which goes into the scores twice and not into the angles.
fn rope(h: &Header, c: &Common, dim: usize) -> Result<(RopeSpec, f32), Error> {
    let mut rope = RopeSpec { dim, ..c.rope(h, Pairs::Adjacent)? };
    // The converter writes a tenth of `mscale_all_dim`.
    let multiplier = h.opt_f32("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
    let RopeScaling::Yarn { factor, attn_factor, .. } = &mut rope.scaling else { return Ok((rope, 1.0)) };
    let stretch = *attn_factor * (1.0 + multiplier * factor.ln());
    if multiplier != 0.0 {
        *attn_factor /= 1.0 + 0.1 * factor.ln();
    }
    Ok((rope, stretch))
}

/// The second version scores by softmax and a group by its best expert; the third by sigmoid and a group by its two best.
fn moe(h: &Header, c: &Common, i: usize) -> Result<Moe, Error> {
    let widths = h.per_layer("expert_feed_forward_length", c.n_heads.len(), MAX_SIZE)?;
    let hidden =
        widths.map(|widths| widths[i]).ok_or_else(|| h.bad("expert_feed_forward_length", "nothing", "a width"))?;
    let moe = c.moe(h, i, hidden)?.ok_or_else(|| h.bad("expert_count", 0, "experts"))?;
    let router = match h.opt_usize("expert_gating_func")? {
        None | Some(0 | 1) => Router::Softmax,
        Some(2) => Router::Sigmoid,
        Some(other) => return Err(h.bad("expert_gating_func", other, "1 (softmax) or 2 (sigmoid)")),
    };
    let n = h.opt_usize("expert_group_count")?.unwrap_or(1);
    let n_active = h.opt_usize("expert_group_used_count")?.unwrap_or(n);
    if n > 1 && (moe.n_experts % n != 0 || n_active == 0 || n_active > n || moe.n_experts / n * n_active < moe.n_active)
    {
        return Err(h.bad("expert_group_count", n, format!("groups of the {} experts", moe.n_experts)));
    }
    let best = (if router == Router::Sigmoid { 2 } else { 1 }).min(moe.n_experts / n.max(1));
    let n_shared = h.opt_usize("expert_shared_count")?.unwrap_or(0).min(MAX_SIZE);
    Ok(Moe {
        router,
        groups: (n > 1).then_some(ExpertGroups { n, n_active, best }),
        bias: h.has(&format!("blk.{i}.exp_probs_b.bias")),
        renormalize: h.metadata().bool(&h.key("expert_weights_norm"))?.unwrap_or(false),
        scale: h.opt_f32("expert_weights_scale")?.filter(|&scale| scale != 0.0).unwrap_or(1.0),
        shared: (n_shared > 0).then_some(Shared { hidden: n_shared * hidden, gated: false }),
        ..moe
    })
}
