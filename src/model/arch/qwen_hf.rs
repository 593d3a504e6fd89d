//! Checkpoints that become `qwen2`, `qwen2moe`, `qwen3` and `qwen3moe`. Halves of a head are rotated there as in the file.

use crate::model::Error;
use crate::model::checkpoint::How::{Expert, Experts, GateAndUp, Same};
use crate::model::checkpoint::{Checkpoint, Config, Keys, Name, Rotary, Vocabulary, name};

pub(super) const QWEN2: Checkpoint = Checkpoint {
    classes: &["Qwen2ForCausalLM"],
    arch: "qwen2",
    complete: |c| complete(c, [4096, 22016, 32, 32, 32]),
    names: NAMES,
    tokenizers: &[Vocabulary::Pieces, Vocabulary::Bytes],
    pre: &["qwen2"],
    ..Checkpoint::PLAIN
};

pub(super) const QWEN2_MOE: Checkpoint = Checkpoint {
    classes: &["Qwen2MoeForCausalLM"],
    arch: "qwen2moe",
    complete: complete_2_moe,
    keys: expert_keys,
    tokenizers: &[Vocabulary::Bytes],
    ..QWEN2
};

pub(super) const QWEN3: Checkpoint =
    Checkpoint { classes: &["Qwen3ForCausalLM"], arch: "qwen3", complete: complete_3, ..QWEN2 };

pub(super) const QWEN3_MOE: Checkpoint =
    Checkpoint { classes: &["Qwen3MoeForCausalLM"], arch: "qwen3moe", complete: complete_3_moe, ..QWEN2_MOE };

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
    name("model.layers.{l}.post_attention_layernorm", "blk.{l}.ffn_norm", Same),
    name("model.layers.{l}.mlp.gate_proj", "blk.{l}.ffn_gate", Same),
    name("model.layers.{l}.mlp.down_proj", "blk.{l}.ffn_down", Same),
    name("model.layers.{l}.mlp.up_proj", "blk.{l}.ffn_up", Same),
    name("model.layers.{l}.mlp.gate", "blk.{l}.ffn_gate_inp", Same),
    name("model.layers.{l}.mlp.experts.{e}.down_proj", "blk.{l}.ffn_down_exps", Expert),
    name("model.layers.{l}.mlp.experts.{e}.gate_proj", "blk.{l}.ffn_gate_exps", Expert),
    name("model.layers.{l}.mlp.experts.{e}.up_proj", "blk.{l}.ffn_up_exps", Expert),
    name("model.layers.{l}.mlp.experts.gate_up_proj", "blk.{l}.ffn_gate_exps", GateAndUp("blk.{l}.ffn_up_exps")),
    name("model.layers.{l}.mlp.experts.down_proj", "blk.{l}.ffn_down_exps", Experts),
    name("model.layers.{l}.mlp.shared_expert_gate", "blk.{l}.ffn_gate_inp_shexp", Same),
    name("model.layers.{l}.mlp.shared_expert.gate_proj", "blk.{l}.ffn_gate_shexp", Same),
    name("model.layers.{l}.mlp.shared_expert.down_proj", "blk.{l}.ffn_down_shexp", Same),
    name("model.layers.{l}.mlp.shared_expert.up_proj", "blk.{l}.ffn_up_shexp", Same),
];

fn complete(c: &mut Config, [dim, hidden, layers, heads, kv_heads]: [u32; 5]) -> Result<(), Error> {
    c.assume("vocab_size", 151_936);
    c.assume("hidden_size", dim);
    c.assume("intermediate_size", hidden);
    c.assume("num_hidden_layers", layers);
    c.assume("num_attention_heads", heads);
    let heads = if c.is_null("num_key_value_heads") { c.require_u32(&["num_attention_heads"])? } else { kv_heads };
    c.assume("num_key_value_heads", heads);
    c.assume("max_position_embeddings", 32768);
    c.assume("rms_norm_eps", 1e-6);
    c.assume("rope_theta", 10000.0);
    Ok(())
}

fn complete_2_moe(c: &mut Config) -> Result<(), Error> {
    c.assume("num_experts", 60);
    c.assume("num_experts_per_tok", 4);
    c.assume("moe_intermediate_size", 1408);
    c.assume("shared_expert_intermediate_size", 5632);
    complete(c, [2048, 5632, 24, 16, 16])
}

fn complete_3(c: &mut Config) -> Result<(), Error> {
    c.assume("head_dim", 128);
    complete(c, [4096, 22016, 32, 32, 32])
}

fn complete_3_moe(c: &mut Config) -> Result<(), Error> {
    c.assume("num_experts", 128);
    c.assume("num_experts_per_tok", 8);
    c.assume("moe_intermediate_size", 768);
    complete(c, [2048, 6144, 24, 32, 4])
}

fn expert_keys(c: &Config, _: &Rotary, keys: &mut Keys) -> Result<(), Error> {
    keys.u32("expert_feed_forward_length", c.u32(&["moe_intermediate_size"])?);
    keys.u32("expert_shared_feed_forward_length", c.u32(&["shared_expert_intermediate_size"])?);
    Ok(())
}
