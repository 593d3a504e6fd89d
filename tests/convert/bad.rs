//! Checkpoints that are not whole or contradict themselves: one line that names file and thing, found, expected.

use super::checkpoint::{Checkpoint, Stored};
use super::common::reference;
use super::native::native;
use ostro::convert::hf;
use safetensors::tensor::Dtype;
use serde_json::json;
use std::path::Path;

/// `change` spoils the folder; the error must be one line that holds all of `expected`.
fn check(c: &Checkpoint, native: bool, change: impl Fn(&Path), expected: &[&str], failures: &mut Vec<String>) {
    let dir = match native {
        true => c.write_as("params.json", "consolidated.safetensors"),
        false => c.write(),
    };
    change(dir.path());
    match hf::open(dir.path()) {
        Ok(_) => failures.push(format!("no error, expected {expected:?}")),
        Err(e) => {
            let line = e.to_string();
            if line.contains('\n') || expected.iter().any(|part| !line.contains(part)) {
                failures.push(format!("{line:?} is without one of {expected:?}"));
            }
        }
    }
}

#[test]
fn files_that_are_missing_or_cut() {
    let Some(models) = reference("models") else { return };
    let c = Checkpoint::read(&models.join("llama31"));
    let weights = "model.safetensors";
    let remove = |name: &'static str| move |dir: &Path| std::fs::remove_file(dir.join(name)).unwrap();
    let write = |name: &'static str, bytes: Vec<u8>| move |dir: &Path| std::fs::write(dir.join(name), &bytes).unwrap();
    let resize = |len: u64| {
        move |dir: &Path| {
            std::fs::File::options().write(true).open(dir.join(weights)).unwrap().set_len(len).unwrap();
        }
    };
    let mut f = Vec::new();
    check(&c, false, |dir| std::fs::remove_dir_all(dir).unwrap(), &["the model: found no folder"], &mut f);
    check(&c, false, remove("config.json"), &["found nothing, expected config.json or params.json"], &mut f);
    check(&c, false, write("config.json", b"{\"a\": ".to_vec()), &["config.json: JSON: found EOF"], &mut f);
    check(&c, false, remove(weights), &["the weights: found nothing, expected model*.safetensors"], &mut f);
    check(&c, false, remove("tokenizer.json"), &["the vocabulary", "tokenizer.model or tokenizer.json"], &mut f);
    check(&c, false, resize(5), &["the header's length: found a file of 5 bytes"], &mut f);
    check(&c, false, resize(100), &["the header's length", "expected at most 92 in a file of 100 bytes"], &mut f);
    check(&c, false, resize(1_000_000), &["tensor model.", "a place in the", "download it again"], &mut f);
    let long = [&u64::MAX.to_le_bytes()[..], b"{}"].concat();
    check(&c, false, write(weights, long), &["the header's length: found 18446744073709551615"], &mut f);
    let no_json = [&2u64.to_le_bytes()[..], b"{x"].concat();
    check(&c, false, write(weights, no_json), &["the header: found", "JSON"], &mut f);
    let odd = br#"{"lm_head.weight":{"dtype":"BF16","shape":[2,2],"data_offsets":[0,7]}}        "#;
    let odd = [&(odd.len() as u64 - 8).to_le_bytes()[..], odd].concat();
    check(
        &c,
        false,
        write(weights, odd),
        &["tensor lm_head.weight: found 7 bytes, expected those of shape [2, 2]"],
        &mut f,
    );
    let copy = |dir: &Path| {
        std::fs::copy(dir.join(weights), dir.join("model-2.safetensors")).unwrap();
    };
    check(&c, false, copy, &["tensor lm_head.weight: found it here and in"], &mut f);
    let index = "model.safetensors.index.json";
    let map = |map: serde_json::Value| write(index, serde_json::to_vec(&json!({"weight_map": map})).unwrap());
    let gone = map(json!({"lm_head.weight": "model-00001-of-00002.safetensors"}));
    check(&c, false, gone, &["model-00001-of-00002.safetensors: found nothing, expected the file, which"], &mut f);
    let outside = map(json!({"lm_head.weight": "../model.safetensors"}));
    check(&c, false, outside, &["weight_map: found ../model.safetensors"], &mut f);
    let more = map(json!({"lm_head.weight": weights, "x": weights}));
    check(&c, false, more, &["tensor x: found nothing, expected it, which the index names"], &mut f);
    let fewer = map(json!({"lm_head.weight": weights}));
    check(&c, false, fewer, &["tensor model.embed_tokens.weight: found it, expected only tensors that"], &mut f);
    assert!(f.is_empty(), "{}", f.join("\n"));
}

#[test]
fn tensors_that_do_not_belong() {
    let Some(models) = reference("models") else { return };
    let mut f = Vec::new();
    let mut spoil = |model: &str, change: &dyn Fn(&mut Checkpoint), expected: &[&str]| {
        let mut c = if model == "native" { native(&models) } else { Checkpoint::read(&models.join(model)) };
        change(&mut c);
        check(&c, model == "native", |_| (), expected, &mut f);
    };
    let q = "model.layers.1.self_attn.q_proj.weight";
    let expert = "model.layers.1.block_sparse_moe.experts.3.w2.weight";
    let extra = |name: &'static str| {
        move |c: &mut Checkpoint| {
            let t = Stored { dtype: Dtype::F32, shape: vec![2], bytes: vec![0; 8] };
            c.tensors.insert(name.to_owned(), t);
        }
    };
    let remove = |name: &'static str| move |c: &mut Checkpoint| drop(c.tensors.remove(name).unwrap());
    let reshape = |name: &'static str, shape: &'static [usize]| {
        move |c: &mut Checkpoint| c.tensors.get_mut(name).unwrap().shape = shape.to_vec()
    };
    let retype = |name: &'static str, dtype: Dtype, times: usize| {
        move |c: &mut Checkpoint| {
            let t = c.tensors.get_mut(name).unwrap();
            (t.dtype, t.bytes) = (dtype, t.bytes.repeat(times));
        }
    };
    spoil(
        "llama31",
        &remove(q),
        &["tensor model.layers.1.self_attn.q_proj.weight: found nothing, expected shape [256, 256]"],
    );
    spoil("llama31", &remove("lm_head.weight"), &["tensor lm_head.weight: found nothing", "tie_word_embeddings"]);
    spoil("llama31", &remove("model.embed_tokens.weight"), &["tensor model.embed_tokens.weight: found nothing"]);
    spoil("llama31", &reshape(q, &[512, 128]), &["q_proj.weight: found shape [512, 128], expected shape [256, 256]"]);
    spoil(
        "llama31",
        &reshape(q, &[4, 16384]),
        &["found shape [4, 16384], expected an even number of rows for each of 8"],
    );
    spoil("llama31", &retype(q, Dtype::I16, 1), &["q_proj.weight: found type I16, expected F32, F16 or BF16; take a"]);
    spoil("llama31", &retype(q, Dtype::F64, 4), &["q_proj.weight: found type F64"]);
    spoil(
        "llama31",
        &extra("model.layers.1.x.weight"),
        &["tensor model.layers.1.x.weight: found it", "LlamaForCausalLM"],
    );
    spoil("llama31", &extra("model.layers.7.input_layernorm.weight"), &["layers.7.input_layernorm.weight: found it"]);
    spoil("llama31", &extra("model.layers.1.mlp.up_proj.bias"), &["mlp.up_proj.bias: found it", "1 are not"]);
    spoil("gemma3", &remove("model.norm.weight"), &["tensor model.norm.weight: found nothing, expected shape [64]"]);
    spoil("mixtral", &remove(expert), &["tensor model.layers.1.block_sparse_moe.experts.3.w2.weight: found nothing"]);
    spoil(
        "mixtral",
        &reshape(expert, &[128, 512]),
        &["experts.3.w2.weight: found shape [128, 512] in BF16, expected a matrix"],
    );
    spoil("mixtral", &retype(expert, Dtype::F32, 2), &["experts.3.w2.weight: found shape [256, 256] in F32"]);
    spoil(
        "mixtral",
        &extra("model.layers.1.block_sparse_moe.experts.8.w1.weight"),
        &["experts.8.w1.weight: found expert 8, expected one of the 8"],
    );
    spoil("mixtral", &extra("model.layers.1.mlp.experts.3.w2.weight"), &["mlp.experts.3.w2.weight: found it beside"]);
    spoil("native", &remove("norm.weight"), &["tensor norm.weight: found nothing"]);
    spoil("native", &extra("layers.0.attention.wq.qscale_weight"), &["qscale_weight: found it"]);
    assert!(f.is_empty(), "{}", f.join("\n"));
}

#[test]
fn configurations_and_vocabularies_that_do_not_belong() {
    let Some(models) = reference("models") else { return };
    let mut f = Vec::new();
    let mut spoil = |model: &str, change: &dyn Fn(&mut Checkpoint), expected: &[&str]| {
        let mut c = if model == "native" { native(&models) } else { Checkpoint::read(&models.join(model)) };
        change(&mut c);
        check(&c, model == "native", |_| (), expected, &mut f);
    };
    let set = |key: &'static str, value: serde_json::Value| {
        move |c: &mut Checkpoint| drop(c.config.insert(key.to_owned(), value.clone()))
    };
    let edit = |file: &'static str, at: &'static str, value: serde_json::Value| {
        move |c: &mut Checkpoint| c.edit(file, |json| *json.pointer_mut(at).unwrap() = value.clone())
    };
    spoil("llama31", &set("architectures", json!(null)), &["architectures: found nothing, expected one of Llama"]);
    spoil("llama31", &set("architectures", json!(["params.json"])), &["architectures: found params.json"]);
    spoil(
        "llama31",
        &set("num_hidden_layers", json!("two")),
        &["num_hidden_layers: found \"two\", expected an integer"],
    );
    spoil(
        "llama31",
        &set("num_hidden_layers", json!(3)),
        &["tensor model.layers.2.input_layernorm.weight: found nothing"],
    );
    spoil("llama31", &set("num_attention_heads", json!(0)), &["num_attention_heads: found 0, expected at least 1"]);
    spoil("llama31", &set("rope_scaling", json!({"type": "odd"})), &["rope_type: found odd, expected default, linear"]);
    spoil("llama31", &set("rope_scaling", json!({"type": "yarn"})), &["factor: found nothing, expected a number"]);
    let equal = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0});
    spoil("llama31", &set("rope_scaling", equal), &["high_freq_factor: found 4, expected a number above 4"]);
    spoil(
        "llama31",
        &set("vocab_size", json!(500)),
        &["model.embed_tokens.weight: found 512 rows, expected 500, which"],
    );
    spoil(
        "gemma3",
        &set("vocab_size", json!(500)),
        &["model.embed_tokens.weight: found 384 rows, expected 500, which"],
    );
    let huge = |c: &mut Checkpoint| {
        for key in ["num_attention_heads", "qk_nope_head_dim", "v_head_dim"] {
            c.config.insert(key.to_owned(), json!(u32::MAX));
        }
    };
    let expected = "found shape [256, 64], expected 4294967295 times 4294967295 and 4294967295 rows";
    spoil("deepseek2", &huge, &["kv_b_proj.weight", expected]);
    let quantized = json!({"quant_method": "fp8"});
    spoil("llama31", &set("quantization_config", quantized), &["quantization_config: found fp8, expected F32, F16 or"]);
    let far = edit("tokenizer.json", "/added_tokens/8/id", json!(512));
    spoil("llama31", &far, &["tokenizer.json: the vocabulary: found 513 tokens, expected at most 512"]);
    let unigram = edit("tokenizer.json", "/model", json!({"type": "Unigram", "vocab": [["a", 0.0]]}));
    spoil("llama31", &unigram, &["tokenizer.json: model.type: found Unigram, expected BPE"]);
    let pre = edit("tokenizer.json", "/pre_tokenizer", json!({"type": "Whitespace"}));
    spoil("llama31", &pre, &["tokenizer.json: pre_tokenizer: found", "Whitespace", "a newer ostro"]);
    let none = edit("tokenizer.json", "/pre_tokenizer", json!(null));
    spoil("llama31", &none, &["tokenizer.json: pre_tokenizer: found nothing"]);
    let no_model = |c: &mut Checkpoint| drop(c.files.remove("tokenizer.model").unwrap());
    spoil("gemma3", &no_model, &["the vocabulary: found nothing that can be used, expected tokenizer.model;"]);
    let no_message = |c: &mut Checkpoint| drop(c.files.insert("tokenizer.model".into(), vec![0x0a, 0xff]));
    spoil("gemma3", &no_message, &["tokenizer.model: the pieces: found", "a SentencePiece model"]);
    let empty = |c: &mut Checkpoint| drop(c.files.insert("tokenizer.model".into(), Vec::new()));
    spoil("gemma3", &empty, &["tokenizer.model: the pieces: found none"]);
    let smaller = |c: &mut Checkpoint| {
        for name in ["tok_embeddings.weight", "output.weight"] {
            let t = c.tensors.get_mut(name).unwrap();
            t.shape[0] = 256;
            t.bytes.truncate(256 * 256 * 2);
        }
    };
    spoil("native", &smaller, &["tokenizer.model.v3: the vocabulary: found 512 tokens, expected at most 256"]);
    let tekken = |c: &mut Checkpoint| {
        c.files.clear();
        c.files.insert("tekken.json".into(), b"{}".to_vec());
    };
    spoil("native", &tekken, &["the vocabulary: found tekken.json, expected tokenizer.model"]);
    spoil(
        "native",
        &set("kv_lora_rank", json!(512)),
        &["kv_lora_rank: found 512, expected a model of the architecture"],
    );
    assert!(f.is_empty(), "{}", f.join("\n"));
}
