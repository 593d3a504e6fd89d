//! Mistral's own layout, made of the reference model in transformers' layout: other names, rows in the order that the
//! file wants.

use super::checkpoint::{Checkpoint, Stored};
use super::common::reference;
use super::golden::compare_tensors;
use ostro::chat::{ChatTemplate, Message, Request};
use ostro::convert::{Change, hf};
use ostro::gguf::{Gguf, Metadata, Value};
use ostro::tokenizer::Tokenizer;
use serde_json::{Value as Json, json};
use std::path::Path;

/// The name in Mistral's layout.
fn native_name(name: &str) -> String {
    let pairs = [
        ("model.layers.", "layers."),
        ("model.embed_tokens.", "tok_embeddings."),
        ("model.norm.", "norm."),
        ("lm_head.", "output."),
        ("input_layernorm.", "attention_norm."),
        ("post_attention_layernorm.", "ffn_norm."),
        ("self_attn.q_proj.", "attention.wq."),
        ("self_attn.k_proj.", "attention.wk."),
        ("self_attn.v_proj.", "attention.wv."),
        ("self_attn.o_proj.", "attention.wo."),
        ("block_sparse_moe.", "feed_forward."),
    ];
    pairs.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// Rows from halves of a head to adjacent pairs.
fn interleave(t: &Stored, heads: usize) -> Stored {
    let row_bytes = t.bytes.len() / t.shape[0];
    let half = t.shape[0] / heads / 2;
    let mut bytes = Vec::new();
    for head in 0..heads {
        for i in 0..half {
            for j in 0..2 {
                let row = (head * 2 + j) * half + i;
                bytes.extend(&t.bytes[row * row_bytes..][..row_bytes]);
            }
        }
    }
    Stored { bytes, ..t.clone() }
}

/// The reference model as Mistral would publish it.
pub fn native(models: &Path) -> Checkpoint {
    let mut c = Checkpoint::read(&models.join("mixtral"));
    let tensors = std::mem::take(&mut c.tensors);
    for (name, t) in tensors {
        let t = match () {
            () if name.contains("q_proj") => interleave(&t, 8),
            () if name.contains("k_proj") => interleave(&t, 2),
            () => t,
        };
        c.tensors.insert(native_name(&name), t);
    }
    let params = json!({
        "dim": 256, "n_layers": 2, "head_dim": 32, "hidden_dim": 256, "n_heads": 8, "n_kv_heads": 2, "norm_eps": 1e-5,
        "vocab_size": 512, "max_seq_len": 65536, "moe": {"num_experts_per_tok": 2, "num_experts": 8},
    });
    c.config = params.as_object().unwrap().clone();
    let vocabulary = c.files.remove("tokenizer.model").unwrap();
    c.files.clear();
    c.files.insert("tokenizer.model.v3".to_owned(), vocabulary);
    c
}

/// What a model is asked to answer.
fn request<'a>(messages: &'a [Message], variables: &'a serde_json::Map<String, Json>) -> Request<'a> {
    Request { messages, tools: &[], answer: true, variables, now: None }
}

#[test]
fn mistrals_own_layout_is_the_same_model() {
    let Some(models) = reference("models") else { return };
    let dir = native(&models).write_as("params.json", "consolidated.00.safetensors");
    let source = hf::open(dir.path()).unwrap();
    let gguf = Gguf::open(&models.join("mixtral/gguf/mixtral-F32.gguf")).unwrap();
    let mut failures = Vec::new();
    compare_tensors(&source, &gguf, false, &mut failures);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(source.tensors.iter().all(|t| t.change == Change::None));

    // The keys of `MistralModel` in the converter, in its order; `rope.freq_base` is what Mistral's code assumes.
    let keys: Vec<&str> = source.metadata.iter().map(|(key, _)| key).collect();
    let general = ["architecture", "type", "name", "size_label"].map(|k| format!("general.{k}"));
    let llama = [
        "block_count",
        "context_length",
        "embedding_length",
        "feed_forward_length",
        "attention.head_count",
        "attention.head_count_kv",
        "rope.freq_base",
        "attention.layer_norm_rms_epsilon",
        "expert_count",
        "expert_used_count",
        "attention.key_length",
        "attention.value_length",
    ]
    .map(|k| format!("llama.{k}"));
    let tokenizer = [
        "ggml.model",
        "ggml.bos_token_id",
        "ggml.eos_token_id",
        "ggml.unknown_token_id",
        "ggml.padding_token_id",
        "ggml.tokens",
        "ggml.scores",
        "ggml.token_type",
    ]
    .map(|k| format!("tokenizer.{k}"));
    let rest =
        ["llama.vocab_size", "tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token", "tokenizer.chat_template"];
    let others = ["general.file_type", "llama.rope.dimension_count", "general.quantization_version"];
    let expected: Vec<&str> = general
        .iter()
        .chain(&llama)
        .map(String::as_str)
        .chain(others)
        .chain(tokenizer.iter().map(String::as_str))
        .chain(rest)
        .collect();
    assert_eq!(keys, expected);
    for key in llama.iter().filter(|key| !key.ends_with("y_length") && !key.ends_with("value_length")) {
        assert_eq!(source.metadata.get(key), gguf.metadata().get(key), "{key}");
    }
    for (key, value) in [
        ("llama.attention.key_length", Value::U32(32)),
        ("llama.vocab_size", Value::U32(512)),
        ("tokenizer.ggml.bos_token_id", Value::U32(1)),
        ("tokenizer.ggml.eos_token_id", Value::U32(2)),
        ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
        // There is none in the vocabulary, so it is EOS.
        ("tokenizer.ggml.padding_token_id", Value::U32(2)),
    ] {
        assert_eq!(source.metadata.get(key), Some(&value), "{key}");
    }
}

/// A vocabulary and the template that goes with it, against what mistral-common makes of conversations.
#[test]
fn conversations_are_those_of_mistral_common() {
    let (Some(models), Some(dir)) = (reference("models"), reference("tokenizers/mistral")) else { return };
    let mut c = native(&models);
    c.files.insert("tokenizer.model.v3".to_owned(), std::fs::read(dir.join("tokenizer.model.v3")).unwrap());
    for name in ["tok_embeddings.weight", "output.weight"] {
        let t = c.tensors.get_mut(name).unwrap();
        t.shape[0] = 32768;
        t.bytes.resize(32768 * 256 * 2, 0);
    }
    let folder = c.write_as("params.json", "consolidated.safetensors");
    let source = hf::open(folder.path()).unwrap();
    let vocabulary = Gguf::open(&dir.join("mixtral-8x22b-instruct-v0.1-vocab.gguf")).unwrap();
    // That file has user-defined pieces as such; the converter takes them for normal ones.
    let types = |md: &Metadata| md.i32s("tokenizer.ggml.token_type").unwrap().unwrap().into_owned();
    let normal = types(vocabulary.metadata()).into_iter().map(|t| if t == 4 { 1 } else { t });
    assert!(types(&source.metadata).into_iter().eq(normal));
    for key in ["tokens", "scores", "bos_token_id", "eos_token_id", "unknown_token_id"] {
        let key = format!("tokenizer.ggml.{key}");
        assert!(source.metadata.get(&key) == vocabulary.metadata().get(&key), "{key}");
    }
    let tokenizer = Tokenizer::from_metadata(&source.metadata).unwrap();
    let template = source.metadata.require_str("tokenizer.chat_template").unwrap();
    let template = ChatTemplate::new(template, "<s>", "</s>").unwrap();
    let chats: Json = serde_json::from_slice(&std::fs::read(dir.join("chats_v3.json")).unwrap()).unwrap();
    let (mut compared, mut failures) = (0, Vec::new());
    let variables = serde_json::Map::new();
    for chat in chats["chats"].as_array().unwrap() {
        let text = |m: &Json, key: &str| m[key].as_str().map(str::to_owned);
        let message = |m: &Json| Some(Message::new(&text(m, "role")?, &text(m, "content")?));
        let messages: Option<Vec<Message>> = chat["messages"].as_array().unwrap().iter().map(message).collect();
        // Tools have no place in the template. Where text holds control tokens or ends an answer with spaces, no text
        // leads to mistral-common's ids.
        let Some(messages) = messages.filter(|_| chat["tools"].is_null()) else { continue };
        if chat["compact_path_equals_mistral_common"] == false {
            continue;
        }
        let Ok(written) = template.render(&request(&messages, &variables)) else { continue };
        let ids = tokenizer.encode_rendered(&written, false, |_| None);
        let expected: Vec<u32> = chat["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        compared += 1;
        if ids != expected {
            failures.push(format!("{}: {written:?}: {ids:?}, expected {expected:?}", chat["name"]));
        }
    }
    assert!(failures.is_empty() && compared >= 10, "{compared} compared\n{}", failures.join("\n"));
}

/// All versions. Version 1 and where the system's message stands: as in mistral-common's `instruct.py`; version 7: as in
/// llama.cpp's `llama-chat.cpp`.
#[test]
fn each_version_has_its_template() {
    let Some(models) = reference("models") else { return };
    let one = vec![Message::new("user", "A?")];
    let answer = Message::new("assistant", "Yes.");
    let many = vec![Message::new("system", "Be brief."), one[0].clone(), answer, one[0].clone()];
    for (file, messages, expected) in [
        ("tokenizer.model", &one, "<s>[INST] A? [/INST]"),
        ("tokenizer.model.v1", &many, "<s>[INST] Be brief.\n\nA? [/INST] Yes.</s>[INST] A? [/INST]"),
        ("tokenizer.model.v3", &one, "<s>[INST] A?[/INST]"),
        ("tokenizer.model.v3", &many, "<s>[INST] A?[/INST] Yes.</s>[INST] Be brief.\n\nA?[/INST]"),
        (
            "tokenizer.model.v7",
            &many,
            "<s>[SYSTEM_PROMPT] Be brief.[/SYSTEM_PROMPT][INST] A?[/INST] Yes.</s>[INST] A?[/INST]",
        ),
    ] {
        let mut c = native(&models);
        let vocabulary = c.files.remove("tokenizer.model.v3").unwrap();
        c.files.insert(file.to_owned(), vocabulary);
        let dir = c.write_as("params.json", "consolidated.safetensors");
        let source = hf::open(dir.path()).unwrap();
        let template = source.metadata.require_str("tokenizer.chat_template").unwrap();
        let template = ChatTemplate::new(template, "<s>", "</s>").unwrap();
        let variables = serde_json::Map::new();
        assert_eq!(template.render(&request(messages, &variables)).unwrap(), expected, "{file}");
    }
}
