//! Checkpoints that become `llama`: Llama, Mistral and Mixtral as transformers has them, and Mistral's own layout.
//!
//! llama.cpp rotates adjacent pairs, transformers halves of a head, so rows of queries and keys change places; Mistral's
//! own layout has adjacent pairs too.

use crate::gguf::Value;
use crate::model::Error;
use crate::model::checkpoint::How::{Expert, Experts, GateAndUp, InterleaveKeys, InterleaveQueries, Same};
use crate::model::checkpoint::{Checkpoint, Computed, Config, Keys, Name, PARAMS, Rotary, Vocabulary, name};

pub(super) const LLAMA: Checkpoint = Checkpoint {
    classes: &["LlamaForCausalLM"],
    arch: "llama",
    complete: complete_llama,
    names: NAMES,
    keys,
    computed: rope_factors,
    tokenizers: &[Vocabulary::Pieces, Vocabulary::Fallback, Vocabulary::Bytes],
    pre: &["llama-bpe", "smaug-bpe", "smollm", "tekken"],
    before_tokens,
    after_tokens,
    ..Checkpoint::PLAIN
};

pub(super) const MISTRAL: Checkpoint =
    Checkpoint { classes: &["MistralForCausalLM"], complete: complete_mistral, ..LLAMA };

pub(super) const MIXTRAL: Checkpoint =
    Checkpoint { classes: &["MixtralForCausalLM"], complete: complete_mixtral, ..LLAMA };

pub(super) const NATIVE: Checkpoint = Checkpoint {
    classes: &[PARAMS],
    complete: complete_native,
    names: NATIVE_NAMES,
    others: &["vision_encoder.", "vision_language_adapter.", "patch_merger.", "pre_mm_projector_norm."],
    keys: native_keys,
    tokenizers: &[Vocabulary::Native],
    before_tokens: |_, _, _| Ok(()),
    after_tokens: |_, _, _| Ok(()),
    ..LLAMA
};

const NAMES: &[Name] = &[
    name("model.embed_tokens", "token_embd", Same),
    name("model.norm", "output_norm", Same),
    name("lm_head", "output", Same),
    name("model.layers.{l}.input_layernorm", "blk.{l}.attn_norm", Same),
    name("model.layers.{l}.self_attn.q_proj", "blk.{l}.attn_q", InterleaveQueries),
    name("model.layers.{l}.self_attn.k_proj", "blk.{l}.attn_k", InterleaveKeys),
    name("model.layers.{l}.self_attn.v_proj", "blk.{l}.attn_v", Same),
    name("model.layers.{l}.self_attn.o_proj", "blk.{l}.attn_output", Same),
    name("model.layers.{l}.post_attention_layernorm", "blk.{l}.ffn_norm", Same),
    name("model.layers.{l}.mlp.gate_proj", "blk.{l}.ffn_gate", Same),
    name("model.layers.{l}.mlp.down_proj", "blk.{l}.ffn_down", Same),
    name("model.layers.{l}.mlp.up_proj", "blk.{l}.ffn_up", Same),
    name("model.layers.{l}.block_sparse_moe.gate", "blk.{l}.ffn_gate_inp", Same),
    name("model.layers.{l}.block_sparse_moe.experts.{e}.w1", "blk.{l}.ffn_gate_exps", Expert),
    name("model.layers.{l}.block_sparse_moe.experts.{e}.w2", "blk.{l}.ffn_down_exps", Expert),
    name("model.layers.{l}.block_sparse_moe.experts.{e}.w3", "blk.{l}.ffn_up_exps", Expert),
    // As transformers 5 has them in memory, and writes them where it is not told to write the names above.
    name("model.layers.{l}.mlp.gate", "blk.{l}.ffn_gate_inp", Same),
    name("model.layers.{l}.mlp.experts.{e}.w1", "blk.{l}.ffn_gate_exps", Expert),
    name("model.layers.{l}.mlp.experts.{e}.w2", "blk.{l}.ffn_down_exps", Expert),
    name("model.layers.{l}.mlp.experts.{e}.w3", "blk.{l}.ffn_up_exps", Expert),
    name("model.layers.{l}.mlp.experts.{e}.gate_proj", "blk.{l}.ffn_gate_exps", Expert),
    name("model.layers.{l}.mlp.experts.{e}.down_proj", "blk.{l}.ffn_down_exps", Expert),
    name("model.layers.{l}.mlp.experts.{e}.up_proj", "blk.{l}.ffn_up_exps", Expert),
    name("model.layers.{l}.mlp.experts.gate_up_proj", "blk.{l}.ffn_gate_exps", GateAndUp("blk.{l}.ffn_up_exps")),
    name("model.layers.{l}.mlp.experts.down_proj", "blk.{l}.ffn_down_exps", Experts),
];

const NATIVE_NAMES: &[Name] = &[
    name("tok_embeddings", "token_embd", Same),
    name("norm", "output_norm", Same),
    name("output", "output", Same),
    name("layers.{l}.attention_norm", "blk.{l}.attn_norm", Same),
    name("layers.{l}.attention.wq", "blk.{l}.attn_q", Same),
    name("layers.{l}.attention.wk", "blk.{l}.attn_k", Same),
    name("layers.{l}.attention.wv", "blk.{l}.attn_v", Same),
    name("layers.{l}.attention.wo", "blk.{l}.attn_output", Same),
    name("layers.{l}.ffn_norm", "blk.{l}.ffn_norm", Same),
    name("layers.{l}.feed_forward.w1", "blk.{l}.ffn_gate", Same),
    name("layers.{l}.feed_forward.w2", "blk.{l}.ffn_down", Same),
    name("layers.{l}.feed_forward.w3", "blk.{l}.ffn_up", Same),
    name("layers.{l}.feed_forward.gate", "blk.{l}.ffn_gate_inp", Same),
    name("layers.{l}.feed_forward.experts.{e}.w1", "blk.{l}.ffn_gate_exps", Expert),
    name("layers.{l}.feed_forward.experts.{e}.w2", "blk.{l}.ffn_down_exps", Expert),
    name("layers.{l}.feed_forward.experts.{e}.w3", "blk.{l}.ffn_up_exps", Expert),
];

fn complete_llama(c: &mut Config) -> Result<(), Error> {
    c.assume("num_attention_heads", 32);
    let heads = c.require_u32(&["num_attention_heads"])?;
    c.assume("num_key_value_heads", heads);
    c.assume("max_position_embeddings", 2048);
    c.assume("rope_theta", 10000.0);
    complete_common(c, 11008, 1e-6)?;
    head_dim(c)
}

fn complete_mistral(c: &mut Config) -> Result<(), Error> {
    c.assume("num_attention_heads", 32);
    c.assume("num_key_value_heads", 8);
    c.assume("max_position_embeddings", 131_072);
    c.assume("rope_theta", 10000.0);
    complete_common(c, 14336, 1e-6)?;
    head_dim(c)
}

/// The only one of the three that leaves `head_dim` open.
fn complete_mixtral(c: &mut Config) -> Result<(), Error> {
    c.assume("num_attention_heads", 32);
    c.assume("num_key_value_heads", 8);
    c.assume("max_position_embeddings", 131_072);
    c.assume("rope_theta", 1_000_000.0);
    c.assume("num_local_experts", 8);
    c.assume("num_experts_per_tok", 2);
    complete_common(c, 14336, 1e-5)
}

fn complete_common(c: &mut Config, hidden: u32, eps: f64) -> Result<(), Error> {
    c.assume("vocab_size", 32000);
    c.assume("hidden_size", 4096);
    c.assume("intermediate_size", hidden);
    c.assume("num_hidden_layers", 32);
    c.assume("rms_norm_eps", eps);
    Ok(())
}

fn head_dim(c: &mut Config) -> Result<(), Error> {
    let dim = c.divided("hidden_size", "num_attention_heads")?;
    c.assume("head_dim", dim);
    Ok(())
}

/// Mistral's params.json: experts stand in an object of their own, and its code knows the base of the angles.
fn complete_native(c: &mut Config) -> Result<(), Error> {
    for key in ["q_lora_rank", "kv_lora_rank", "llama_4_scaling"] {
        if let Some(value) = c.get(key) {
            return Err(c.bad(key, value, "a model of the architecture of Mistral 7B or Mixtral, without this key"));
        }
    }
    c.flatten("moe");
    c.assume("rope_theta", if c.get("sliding_window").is_some() { 10_000.0 } else { 1_000_000.0 });
    let context = c.u32(&["max_seq_len", "max_position_embeddings"])?.unwrap_or(32768);
    c.assume("max_position_embeddings", context);
    let heads = c.require_u32(&["n_heads"])?;
    c.assume("n_kv_heads", heads);
    if let Some(tied) = c.bool("tied_embeddings")? {
        c.assume("tie_word_embeddings", tied);
    }
    Ok(())
}

fn keys(c: &Config, _: &Rotary, keys: &mut Keys) -> Result<(), Error> {
    keys.u32("vocab_size", c.u32(&["vocab_size"])?);
    keys.u32("rope.dimension_count", Some(rotated(c)?));
    Ok(())
}

/// The vocabulary's size stands among the tokenizer's keys.
fn native_keys(c: &Config, _: &Rotary, keys: &mut Keys) -> Result<(), Error> {
    keys.u32("rope.dimension_count", Some(rotated(c)?));
    if let Some(yarn) = c.object("yarn")? {
        keys.str("rope.scaling.type", "yarn");
        keys.f32("rope.scaling.factor", yarn.f32(&["factor"])?);
        keys.f32("rope.scaling.yarn_beta_fast", yarn.f32(&["beta"])?);
        keys.f32("rope.scaling.yarn_beta_slow", yarn.f32(&["alpha"])?);
        let scaled = yarn.bool("apply_scale")?.unwrap_or(false);
        keys.f32("rope.scaling.yarn_log_multiplier", Some(if scaled { 0.0 } else { 1.0 }));
        keys.u32("rope.scaling.original_context_length", yarn.u32(&["original_max_position_embeddings"])?);
    }
    Ok(())
}

fn rotated(c: &Config) -> Result<u32, Error> {
    match c.u32(&["head_dim"])? {
        Some(dim) => Ok(dim),
        None if c.get("dim").is_some() => c.divided("dim", "n_heads"),
        None => c.divided("hidden_size", "num_attention_heads"),
    }
}

fn rope_factors(c: &Config, rotary: &Rotary) -> Result<Vec<Computed>, Error> {
    let factors = rotary.factors(rotated(c)?)?;
    Ok(factors.into_iter().map(|f| ("rope_freqs.weight", f)).collect())
}

fn before_tokens(_: &Config, tokenizer: &Config, keys: &mut Keys) -> Result<(), Error> {
    if let Some(prefix) = tokenizer.bool("add_prefix_space")? {
        keys.set("tokenizer.ggml.add_space_prefix", Value::Bool(prefix));
    }
    Ok(())
}

/// Code Llama and small Granite models are known by the size of their vocabularies.
fn after_tokens(c: &Config, _: Vocabulary, keys: &mut Keys) -> Result<(), Error> {
    match c.u32(&["vocab_size"])? {
        Some(32016) => keys.set("tokenizer.ggml.eot_token_id", Value::U32(32010)),
        Some(49152) => keys.set("tokenizer.ggml.add_bos_token", Value::Bool(false)),
        _ => {}
    }
    Ok(())
}
