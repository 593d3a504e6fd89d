//! Checkpoints that become `gemma3`: the text model alone, or with a tower for images, which is left out.

use crate::gguf::Value;
use crate::model::Error;
use crate::model::checkpoint::How::{AddOne, Same};
use crate::model::checkpoint::{Checkpoint, Config, Keys, Name, Rotary, Vocabulary, name};

pub(super) const GEMMA3: Checkpoint = Checkpoint {
    classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
    arch: "gemma3",
    complete,
    names: NAMES,
    others: &["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."],
    cut_embedding: true,
    keys,
    tokenizers: &[Vocabulary::Pieces],
    after_tokens,
    ..Checkpoint::PLAIN
};

/// Norms are stored as their distance from 1.
const NAMES: &[Name] = &[
    name("model.embed_tokens", "token_embd", Same),
    name("model.norm", "output_norm", AddOne),
    name("lm_head", "output", Same),
    name("model.layers.{l}.input_layernorm", "blk.{l}.attn_norm", AddOne),
    name("model.layers.{l}.self_attn.q_proj", "blk.{l}.attn_q", Same),
    name("model.layers.{l}.self_attn.q_norm", "blk.{l}.attn_q_norm", AddOne),
    name("model.layers.{l}.self_attn.k_proj", "blk.{l}.attn_k", Same),
    name("model.layers.{l}.self_attn.k_norm", "blk.{l}.attn_k_norm", AddOne),
    name("model.layers.{l}.self_attn.v_proj", "blk.{l}.attn_v", Same),
    name("model.layers.{l}.self_attn.o_proj", "blk.{l}.attn_output", Same),
    name("model.layers.{l}.post_attention_layernorm", "blk.{l}.post_attention_norm", AddOne),
    name("model.layers.{l}.pre_feedforward_layernorm", "blk.{l}.ffn_norm", AddOne),
    name("model.layers.{l}.mlp.gate_proj", "blk.{l}.ffn_gate", Same),
    name("model.layers.{l}.mlp.down_proj", "blk.{l}.ffn_down", Same),
    name("model.layers.{l}.mlp.up_proj", "blk.{l}.ffn_up", Same),
    name("model.layers.{l}.post_feedforward_layernorm", "blk.{l}.post_ffw_norm", AddOne),
];

fn complete(c: &mut Config) -> Result<(), Error> {
    c.assume("vocab_size", 262_208);
    c.assume("max_position_embeddings", 131_072);
    c.assume("rope_theta", 1_000_000.0);
    c.assume("rope_local_base_freq", 10_000.0);
    complete_common(c);
    Ok(())
}

/// What Gemma 2's code assumes too.
pub(super) fn complete_common(c: &mut Config) {
    c.assume("hidden_size", 2304);
    c.assume("intermediate_size", 9216);
    c.assume("num_hidden_layers", 26);
    c.assume("num_attention_heads", 8);
    c.assume("num_key_value_heads", 4);
    c.assume("head_dim", 256);
    c.assume("rms_norm_eps", 1e-6);
    c.assume("sliding_window", 4096);
    c.assume("tie_word_embeddings", true);
}

fn keys(c: &Config, _: &Rotary, keys: &mut Keys) -> Result<(), Error> {
    if let Some(cap) = c.get("attn_logit_softcapping") {
        return Err(c.bad("attn_logit_softcapping", cap, "null, as in every Gemma 3"));
    }
    keys.f32("final_logit_softcapping", c.f32(&["final_logit_softcapping"])?.filter(|&cap| cap != 0.0));
    if c.u32(&["sliding_window_pattern"])? != Some(1) {
        keys.u32("attention.sliding_window", c.u32(&["sliding_window"])?);
    }
    Ok(())
}

fn after_tokens(_: &Config, _: Vocabulary, keys: &mut Keys) -> Result<(), Error> {
    keys.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    Ok(())
}
