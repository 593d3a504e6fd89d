//! Checkpoints that become `phi3`: Phi 3, 3.5 and 4.

use crate::model::Error;
use crate::model::checkpoint::How::Same;
use crate::model::checkpoint::{Checkpoint, Computed, Config, Keys, Name, Rotary, Vocabulary, name};

pub(super) const PHI3: Checkpoint = Checkpoint {
    classes: &["Phi3ForCausalLM"],
    arch: "phi3",
    complete,
    names: NAMES,
    first_keys,
    architecture,
    keys,
    computed: factors,
    tokenizers: &[Vocabulary::PlainPieces, Vocabulary::Bytes],
    pre: &["gpt-4o", "dbrx", "gpt-2"],
    ..Checkpoint::PLAIN
};

const NAMES: &[Name] = &[
    name("model.embed_tokens", "token_embd", Same),
    name("model.norm", "output_norm", Same),
    name("lm_head", "output", Same),
    name("model.layers.{l}.input_layernorm", "blk.{l}.attn_norm", Same),
    name("model.layers.{l}.self_attn.qkv_proj", "blk.{l}.attn_qkv", Same),
    name("model.layers.{l}.self_attn.o_proj", "blk.{l}.attn_output", Same),
    name("model.layers.{l}.post_attention_layernorm", "blk.{l}.ffn_norm", Same),
    name("model.layers.{l}.mlp.gate_up_proj", "blk.{l}.ffn_up", Same),
    name("model.layers.{l}.mlp.down_proj", "blk.{l}.ffn_down", Same),
];

fn complete(c: &mut Config) -> Result<(), Error> {
    c.assume("vocab_size", 32064);
    c.assume("hidden_size", 3072);
    c.assume("intermediate_size", 8192);
    c.assume("num_hidden_layers", 32);
    c.assume("num_attention_heads", 32);
    let heads = c.require_u32(&["num_attention_heads"])?;
    c.assume("num_key_value_heads", heads);
    c.assume("max_position_embeddings", 4096);
    c.assume("original_max_position_embeddings", 4096);
    c.assume("rms_norm_eps", 1e-5);
    c.assume("rope_theta", 10000.0);
    Ok(())
}

/// Elements of a head that are rotated.
fn rotated(c: &Config, rotary: &Rotary) -> Result<u32, Error> {
    let share = match rotary.scaling.f64("partial_rotary_factor")? {
        Some(share) => share,
        None => c.f64("partial_rotary_factor")?.unwrap_or(1.0),
    };
    let (dim, heads) = (c.require_u32(&["hidden_size"])?, c.require_u32(&["num_attention_heads"])?);
    let all = (share * f64::from(dim)) as u32;
    all.checked_div(heads).ok_or_else(|| c.bad("num_attention_heads", 0, "at least 1"))
}

fn architecture(c: &Config, rotary: &Rotary, keys: &mut Keys) -> Result<(), Error> {
    keys.u32("context_length", c.u32(&["max_position_embeddings"])?);
    keys.u32("rope.scaling.original_context_length", rotary.original_context);
    keys.u32("embedding_length", c.u32(&["hidden_size"])?);
    keys.u32("feed_forward_length", c.u32(&["intermediate_size"])?);
    keys.u32("block_count", c.u32(&["num_hidden_layers"])?);
    keys.u32("attention.head_count", c.u32(&["num_attention_heads"])?);
    keys.u32("attention.head_count_kv", c.u32(&["num_key_value_heads"])?);
    keys.f32("attention.layer_norm_rms_epsilon", c.f32(&["rms_norm_eps"])?);
    keys.u32("rope.dimension_count", Some(rotated(c, rotary)?));
    keys.f32("rope.freq_base", rotary.theta);
    Ok(())
}

/// A window of 0 tells Phi 4 from the others.
fn keys(c: &Config, _: &Rotary, keys: &mut Keys) -> Result<(), Error> {
    keys.u32("attention.sliding_window", Some(c.u32(&["sliding_window"])?.unwrap_or(0)));
    Ok(())
}

/// What stretches the attention where there are tables. Old configurations call that `su` or `yarn`.
fn first_keys(c: &Config, rotary: &Rotary, keys: &mut Keys) -> Result<(), Error> {
    if rotary.scaling.get("long_factor").is_none() {
        return Ok(());
    }
    let context = f64::from(c.require_u32(&["max_position_embeddings"])?);
    let original = f64::from(rotary.original_context.unwrap_or(4096));
    let scale = context / original;
    let factor = match rotary.kind.as_str() {
        _ if scale <= 1.0 => 1.0,
        "longrope" | "su" | "yarn" => (1.0 + scale.ln() / original.ln()).sqrt(),
        other => return Err(rotary.scaling.bad("rope_type", other, "longrope")),
    };
    keys.f32("rope.scaling.attn_factor", Some(factor as f32));
    Ok(())
}

fn factors(c: &Config, rotary: &Rotary) -> Result<Vec<Computed>, Error> {
    let mut tables = Vec::new();
    for (key, tensor) in [("long_factor", "rope_factors_long.weight"), ("short_factor", "rope_factors_short.weight")] {
        let Some(table) = rotary.scaling.f32s(key)? else { continue };
        let half = rotated(c, rotary)? / 2;
        if table.len() != half as usize {
            let expected = format!("{half}, half of what is rotated of a head");
            return Err(rotary.scaling.bad(key, format!("{} numbers", table.len()), expected));
        }
        tables.push((tensor, table));
    }
    if tables.len() == 1 {
        return Err(rotary.scaling.bad("short_factor", "one table of factors", "both"));
    }
    Ok(tables)
}
