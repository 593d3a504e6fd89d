//! Checkpoints that become `command-r` and `cohere2`. Adjacent elements are rotated there as in the file.

use crate::model::Error;
use crate::model::checkpoint::How::Same;
use crate::model::checkpoint::{Checkpoint, Config, Keys, Name, Rotary, Vocabulary, name};

pub(super) const COHERE: Checkpoint = Checkpoint {
    classes: &["CohereForCausalLM"],
    arch: "command-r",
    complete: complete_cohere,
    names: NAMES,
    keys,
    tokenizers: &[Vocabulary::Bytes],
    pre: &["command-r"],
    ..Checkpoint::PLAIN
};

pub(super) const COHERE2: Checkpoint =
    Checkpoint { classes: &["Cohere2ForCausalLM"], arch: "cohere2", complete: complete_cohere2, keys: keys2, ..COHERE };

const NAMES: &[Name] = &[
    name("model.embed_tokens", "token_embd", Same),
    name("model.norm", "output_norm", Same),
    name("lm_head", "output", Same),
    name("model.layers.{l}.input_layernorm", "blk.{l}.attn_norm", Same),
    name("model.layers.{l}.self_attn.q_proj", "blk.{l}.attn_q", Same),
    name("model.layers.{l}.self_attn.q_norm", "blk.{l}.attn_q_norm", Same),
    name("model.layers.{l}.self_attn.k_proj", "blk.{l}.attn_k", Same),
    name("model.layers.{l}.self_attn.k_norm", "blk.{l}.attn_k_norm", Same),
    name("model.layers.{l}.self_attn.v_proj", "blk.{l}.attn_v", Same),
    name("model.layers.{l}.self_attn.o_proj", "blk.{l}.attn_output", Same),
    name("model.layers.{l}.mlp.gate_proj", "blk.{l}.ffn_gate", Same),
    name("model.layers.{l}.mlp.down_proj", "blk.{l}.ffn_down", Same),
    name("model.layers.{l}.mlp.up_proj", "blk.{l}.ffn_up", Same),
];

fn complete(c: &mut Config) -> Result<(), Error> {
    c.assume("vocab_size", 256_000);
    c.assume("hidden_size", 8192);
    c.assume("intermediate_size", 22528);
    c.assume("num_hidden_layers", 40);
    c.assume("num_attention_heads", 64);
    let heads = c.require_u32(&["num_attention_heads"])?;
    c.assume("num_key_value_heads", heads);
    c.assume("max_position_embeddings", 8192);
    c.assume("layer_norm_eps", 1e-5);
    c.assume("logit_scale", 0.0625);
    c.assume("tie_word_embeddings", true);
    Ok(())
}

/// What the model was trained for is more than `max_position_embeddings` says.
fn complete_cohere(c: &mut Config) -> Result<(), Error> {
    if let Some(context) = c.u32(&["model_max_length"])? {
        c.set("max_position_embeddings", context);
    }
    c.assume("rope_theta", 500_000.0);
    complete(c)
}

fn complete_cohere2(c: &mut Config) -> Result<(), Error> {
    complete(c)?;
    c.assume("rope_theta", 10000.0);
    c.assume("sliding_window", 4096);
    c.assume("rotary_pct", 1.0);
    let head = c.divided("hidden_size", "num_attention_heads")?;
    c.assume("head_dim", head);
    Ok(())
}

fn keys(c: &Config, _: &Rotary, keys: &mut Keys) -> Result<(), Error> {
    keys.f32("logit_scale", c.f32(&["logit_scale"])?);
    keys.str("rope.scaling.type", "none");
    Ok(())
}

fn keys2(c: &Config, _: &Rotary, keys: &mut Keys) -> Result<(), Error> {
    keys.f32("logit_scale", c.f32(&["logit_scale"])?);
    keys.u32("attention.sliding_window", c.u32(&["sliding_window"])?);
    keys.u32("vocab_size", c.u32(&["vocab_size"])?);
    let (share, head) = (c.f64("rotary_pct")?.unwrap_or(1.0), c.divided("hidden_size", "num_attention_heads")?);
    keys.u32("rope.dimension_count", Some((share * f64::from(head)) as u32));
    keys.str("rope.scaling.type", "none");
    Ok(())
}
