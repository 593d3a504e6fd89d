//! The keys under the architecture's prefix, and those of them that follow from any configuration.

use super::{Config, Rotary};
use crate::gguf::{Metadata, Value};
use crate::model::Error;

/// Writes keys; absent values write nothing.
pub struct Keys<'a> {
    metadata: &'a mut Metadata,
    arch: &'a str,
}

impl<'a> Keys<'a> {
    /// Writes to `metadata`, keys that say so under the prefix `arch`.
    pub fn new(metadata: &'a mut Metadata, arch: &'a str) -> Keys<'a> {
        Keys { metadata, arch }
    }

    /// A key with its full name.
    pub fn set(&mut self, key: &str, value: Value) {
        self.metadata.set(key, value);
    }

    /// An integer of the architecture.
    pub fn u32(&mut self, suffix: &str, value: Option<u32>) {
        self.own(suffix, value.map(Value::U32));
    }

    /// A number of the architecture.
    pub fn f32(&mut self, suffix: &str, value: Option<f32>) {
        self.own(suffix, value.map(Value::F32));
    }

    /// A text of the architecture.
    pub fn str(&mut self, suffix: &str, value: &str) {
        self.own(suffix, Some(Value::String(value.to_owned())));
    }

    /// A value of the architecture.
    pub fn own(&mut self, suffix: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.metadata.set(&format!("{}.{suffix}", self.arch), value);
        }
    }
}

/// Writes what every configuration may say, in the order of llama.cpp's converter (`TextModel.set_gguf_parameters`).
///
/// # Errors
/// When a value has the wrong type.
pub fn architecture_keys(c: &Config, rotary: &Rotary, keys: &mut Keys) -> Result<(), Error> {
    let context =
        ["max_position_embeddings", "n_ctx", "n_positions", "max_length", "max_sequence_length", "model_max_length"];
    let hidden = ["dense_intermediate_size", "intermediate_size", "n_inner", "hidden_dim"];
    keys.u32("block_count", Some(c.require_u32(&["num_hidden_layers", "n_layers", "n_layer", "num_layers"])?));
    keys.u32("context_length", c.u32(&context)?);
    keys.u32("embedding_length", c.u32(&["hidden_size", "n_embd", "dim"])?);
    keys.u32("feed_forward_length", c.u32(&hidden)?);
    keys.u32("attention.head_count", c.u32(&["num_attention_heads", "n_head", "n_heads"])?);
    keys.u32("attention.head_count_kv", c.u32(&["num_key_value_heads", "n_kv_heads"])?);
    scaling_keys(rotary, keys)?;
    keys.f32("rope.freq_base", rotary.theta);
    keys.f32("rope.freq_base_swa", rotary.window_theta);
    keys.f32("attention.layer_norm_rms_epsilon", c.f32(&["rms_norm_eps", "norm_eps"])?);
    keys.f32("attention.layer_norm_epsilon", c.f32(&["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"])?);
    keys.u32("expert_count", c.u32(&["num_local_experts", "num_experts", "n_routed_experts"])?);
    keys.u32("expert_used_count", c.u32(&["num_experts_per_tok", "num_experts_per_token", "top_k_experts"])?);
    keys.u32("expert_group_count", c.u32(&["n_group"])?);
    keys.u32("expert_group_used_count", c.u32(&["topk_group"])?);
    let gating = match c.str("scoring_func")? {
        None => None,
        Some("softmax") => Some(1),
        Some("sigmoid") => Some(2),
        Some(other) => return Err(c.bad("scoring_func", other, "softmax or sigmoid")),
    };
    keys.u32("expert_gating_func", gating);
    let head = c.u32(&["head_dim"])?;
    keys.u32("attention.key_length", head);
    keys.u32("attention.value_length", head);
    Ok(())
}

fn scaling_keys(rotary: &Rotary, keys: &mut Keys) -> Result<(), Error> {
    let s = &rotary.scaling;
    let factor = s.f32(&["factor"])?;
    if matches!(rotary.kind.as_str(), "longrope" | "su") {
        return Err(s.bad("rope_type", &rotary.kind, "default, linear, dynamic, yarn, llama3 in this architecture"));
    }
    // Of llama3 the factors become a tensor; dynamic stretches only what is longer than the trained context.
    if !matches!(rotary.kind.as_str(), "linear" | "yarn") {
        return Ok(());
    }
    let factor = factor.ok_or_else(|| s.bad("factor", "nothing", "a number"))?;
    keys.str("rope.scaling.type", &rotary.kind);
    keys.f32("rope.scaling.factor", Some(factor));
    if rotary.kind == "yarn" {
        keys.u32("rope.scaling.original_context_length", rotary.original_context);
        keys.f32("rope.scaling.yarn_ext_factor", s.f32(&["extrapolation_factor"])?);
        keys.f32("rope.scaling.yarn_attn_factor", s.f32(&["attention_factor", "attn_factor"])?);
        keys.f32("rope.scaling.yarn_beta_fast", s.f32(&["beta_fast"])?);
        keys.f32("rope.scaling.yarn_beta_slow", s.f32(&["beta_slow"])?);
    }
    Ok(())
}
