//! Checkpoints that become `gemma2`.

use super::gemma3_hf::{GEMMA3, complete_common};
use crate::model::Error;
use crate::model::checkpoint::{Checkpoint, Config, Keys, Rotary};

pub(super) const GEMMA2: Checkpoint = Checkpoint {
    classes: &["Gemma2ForCausalLM"],
    arch: "gemma2",
    complete,
    others: &["lm_head."],
    cut_embedding: false,
    architecture,
    keys,
    ..GEMMA3
};

fn complete(c: &mut Config) -> Result<(), Error> {
    c.assume("vocab_size", 256_000);
    c.assume("max_position_embeddings", 8192);
    c.assume("attn_logit_softcapping", 50.0);
    c.assume("final_logit_softcapping", 30.0);
    complete_common(c);
    Ok(())
}

fn architecture(c: &Config, _: &Rotary, keys: &mut Keys) -> Result<(), Error> {
    keys.u32("context_length", c.u32(&["max_position_embeddings"])?);
    keys.u32("embedding_length", c.u32(&["hidden_size"])?);
    keys.u32("block_count", c.u32(&["num_hidden_layers"])?);
    keys.u32("feed_forward_length", c.u32(&["intermediate_size"])?);
    keys.u32("attention.head_count", c.u32(&["num_attention_heads"])?);
    keys.u32("attention.head_count_kv", c.u32(&["num_key_value_heads"])?);
    keys.f32("attention.layer_norm_rms_epsilon", c.f32(&["rms_norm_eps"])?);
    keys.u32("attention.key_length", c.u32(&["head_dim"])?);
    keys.u32("attention.value_length", c.u32(&["head_dim"])?);
    Ok(())
}

fn keys(c: &Config, _: &Rotary, keys: &mut Keys) -> Result<(), Error> {
    keys.f32("attn_logit_softcapping", c.f32(&["attn_logit_softcapping"])?);
    keys.f32("final_logit_softcapping", c.f32(&["final_logit_softcapping"])?);
    keys.u32("attention.sliding_window", c.u32(&["sliding_window"])?);
    Ok(())
}
