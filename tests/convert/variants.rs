//! Forms that checkpoints have beside those of the reference models: other names, biases, ties, types, files.

use super::checkpoint::{Checkpoint, Stored, elements, folder};
use super::common::reference;
use super::golden::{compare_metadata, compare_tensors};
use ostro::convert::{FileType, Job, Outcome, Request, Source, hf, plan};
use ostro::gguf::{Array, Gguf, Value};
use ostro_kernels::{Cpu, DType};
use safetensors::tensor::Dtype;
use serde_json::json;
use std::path::Path;

fn f32_file(models: &Path, name: &str) -> Gguf {
    Gguf::open(&models.join(format!("{name}/gguf/{name}-F32.gguf"))).unwrap()
}

/// The source must be what the converter wrote for the reference model, but for these keys.
fn same(source: &Source, models: &Path, name: &str, but: &[&str]) {
    let gguf = f32_file(models, name);
    let mut failures = Vec::new();
    compare_metadata(&source.metadata, gguf.metadata(), &mut failures);
    failures.retain(|f| !but.iter().any(|key| f.starts_with(key)));
    compare_tensors(source, &gguf, false, &mut failures);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn experts_as_transformers_5_has_them() {
    let Some(models) = reference("models") else { return };
    let original = Checkpoint::read(&models.join("mixtral"));
    let merge = |layer: usize, parts: &[&str]| {
        let mut merged = Stored { dtype: Dtype::BF16, shape: vec![8, 256 * parts.len(), 256], bytes: Vec::new() };
        for e in 0..8 {
            for w in parts {
                let name = format!("model.layers.{layer}.block_sparse_moe.experts.{e}.{w}.weight");
                merged.bytes.extend(&original.tensors[&name].bytes);
            }
        }
        merged
    };
    let mut c = Checkpoint::read(&models.join("mixtral"));
    for layer in 0..2 {
        c.tensors.retain(|name, _| !name.starts_with(&format!("model.layers.{layer}.block_sparse_moe.experts.")));
        let gate = c.tensors.remove(&format!("model.layers.{layer}.block_sparse_moe.gate.weight")).unwrap();
        c.tensors.insert(format!("model.layers.{layer}.mlp.gate.weight"), gate);
        c.tensors.insert(format!("model.layers.{layer}.mlp.experts.gate_up_proj"), merge(layer, &["w1", "w3"]));
        c.tensors.insert(format!("model.layers.{layer}.mlp.experts.down_proj"), merge(layer, &["w2"]));
    }
    same(&hf::open(c.write().path()).unwrap(), &models, "mixtral", &[]);

    let mut c = Checkpoint::read(&models.join("mixtral"));
    for (name, t) in std::mem::take(&mut c.tensors) {
        let new =
            [("block_sparse_moe", "mlp"), (".w1.", ".gate_proj."), (".w2.", ".down_proj."), (".w3.", ".up_proj.")];
        c.tensors.insert(new.iter().fold(name, |name, (from, to)| name.replace(from, to)), t);
    }
    same(&hf::open(c.write().path()).unwrap(), &models, "mixtral", &[]);
}

#[test]
fn shards_without_an_index() {
    let Some(models) = reference("models") else { return };
    let dir = folder();
    for entry in std::fs::read_dir(models.join("mixtral-sharded")).unwrap() {
        let path = entry.unwrap().path();
        if !path.ends_with("model.safetensors.index.json") {
            std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    same(&hf::open(dir.path()).unwrap(), &models, "mixtral", &[]);
}

/// What transformers 5 writes in place of the older keys.
#[test]
fn todays_configuration() {
    let Some(models) = reference("models") else { return };
    let mut c = Checkpoint::read(&models.join("llama31"));
    let mut rope = c.config.remove("rope_scaling").unwrap();
    rope["rope_theta"] = c.config.remove("rope_theta").unwrap();
    c.config.insert("rope_parameters".into(), rope);
    same(&hf::open(c.write().path()).unwrap(), &models, "llama31", &[]);

    let mut c = Checkpoint::read(&models.join("gemma3"));
    for key in ["rope_scaling", "rope_theta", "rope_local_base_freq"] {
        c.config.remove(key).unwrap();
    }
    let rope = json!({
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    });
    c.config.insert("rope_parameters".into(), rope);
    same(&hf::open(c.write().path()).unwrap(), &models, "gemma3", &[]);
}

/// As Gemma 3 4B and larger are published: a text model inside of another, most of whose sizes go without saying.
#[test]
fn a_text_model_with_a_tower() {
    let Some(models) = reference("models") else { return };
    let original = Checkpoint::read(&models.join("gemma3"));
    for prefix in ["language_model.model.", "model.language_model."] {
        let mut c = Checkpoint::read(&models.join("gemma3"));
        let text = std::mem::take(&mut c.config);
        for (name, t) in std::mem::take(&mut c.tensors) {
            c.tensors.insert(name.replace("model.", prefix), t);
        }
        let odd = Stored { dtype: Dtype::I64, shape: vec![1], bytes: vec![0; 8] };
        c.tensors.insert("vision_tower.vision_model.embeddings.position_ids".into(), odd.clone());
        c.tensors.insert("multi_modal_projector.mm_input_projection_weight".into(), odd);
        c.config.insert("architectures".into(), json!(["Gemma3ForConditionalGeneration"]));
        c.config.insert("model_type".into(), json!("gemma3"));
        c.config.insert("text_config".into(), text.into());
        let source = hf::open(c.write().path()).unwrap();
        same(&source, &models, "gemma3", &[]);
        assert_eq!(source.notes, ["2 tensors of other media than text are left out"]);
    }
    // Rows that no token has are cut off.
    let mut c = original;
    let embedding = c.tensors.get_mut("model.embed_tokens.weight").unwrap();
    embedding.shape[0] = 400;
    embedding.bytes.resize(400 * 64 * 2, 1);
    same(&hf::open(c.write().path()).unwrap(), &models, "gemma3", &[]);
}

#[test]
fn biases_and_ties() {
    let Some(models) = reference("models") else { return };
    let mut c = Checkpoint::read(&models.join("llama31"));
    c.config.insert("attention_bias".into(), json!(true));
    c.config.insert("tie_word_embeddings".into(), json!(true));
    let bias = |n: usize| {
        let bytes = (0..n).flat_map(|i| (i as f32).to_le_bytes()).collect();
        Stored { dtype: Dtype::F32, shape: vec![n], bytes }
    };
    for layer in 0..2 {
        for (name, n) in [("q", 256), ("k", 64), ("v", 64), ("o", 256)] {
            c.tensors.insert(format!("model.layers.{layer}.self_attn.{name}_proj.bias"), bias(n));
        }
        c.tensors.insert(format!("model.layers.{layer}.self_attn.rotary_emb.inv_freq"), bias(16));
    }
    let dir = c.write();
    let source = hf::open(dir.path()).unwrap();
    assert_eq!(
        source.notes,
        ["lm_head.weight is left out: tie_word_embeddings is set", "2 buffers that are no weights are left out"]
    );
    let find = |name: &str| source.tensors.iter().find(|t| t.name == name);
    assert!(find("output.weight").is_none());
    let values = |name: &str| elements(&source, find(name).unwrap(), 1);
    // Heads of 32: row 2 i + j was row 16 j + i.
    let interleaved: Vec<f32> = (0..64).map(|r| (r / 32 * 32 + r % 2 * 16 + r % 32 / 2) as f32).collect();
    let plain: Vec<f32> = (0..64).map(|r| r as f32).collect();
    assert_eq!(values("blk.1.attn_k.bias"), interleaved);
    assert_eq!(values("blk.1.attn_q.bias")[..64], interleaved);
    assert_eq!(values("blk.1.attn_v.bias"), plain);
    assert_eq!(values("blk.1.attn_output.bias")[..64], plain);

    // Without the head in the files it is the same.
    c.tensors.remove("lm_head.weight");
    assert_eq!(hf::open(c.write().path()).unwrap().tensors, {
        let mut tensors = source.tensors.clone();
        // Offsets move with the head.
        let moved = c.write();
        let again = hf::open(moved.path()).unwrap();
        tensors.iter_mut().zip(&again.tensors).for_each(|(t, a)| t.pieces.clone_from(&a.pieces));
        tensors
    });
}

#[test]
fn floats_of_other_widths() {
    let Some(models) = reference("models") else { return };
    let mut c = Checkpoint::read(&models.join("llama31"));
    for t in c.tensors.values_mut() {
        let wide = |b: &[u8]| [0, 0, b[0], b[1]];
        (t.dtype, t.bytes) = (Dtype::F32, t.bytes.chunks_exact(2).flat_map(wide).collect());
    }
    let source = hf::open(c.write().path()).unwrap();
    assert!(source.tensors.iter().all(|t| t.dtype == DType::F32));
    assert_eq!(source.metadata.u32("general.file_type").unwrap(), Some(0));
    same(&source, &models, "llama31", &[]);
    for t in c.tensors.values_mut() {
        (t.dtype, t.bytes) = (Dtype::F16, t.bytes[..t.bytes.len() / 2].to_vec());
    }
    let source = hf::open(c.write().path()).unwrap();
    assert_eq!(source.metadata.u32("general.file_type").unwrap(), Some(1));
}

/// Keys of the tokenizer where files are fewer, or more. What is expected is what the converter's own code gave.
#[test]
fn tokenizers_in_other_files() {
    let Some(models) = reference("models") else { return };
    let value = |source: &Source, key: &str| source.metadata.get(&format!("tokenizer.{key}")).cloned();
    let token = |source: &Source, i: usize| {
        let md = &source.metadata;
        let types = md.i32s("tokenizer.ggml.token_type").unwrap().unwrap();
        (md.require_strings("tokenizer.ggml.tokens").unwrap()[i].clone(), types[i])
    };
    // The template in a file of its own, and several.
    let mut c = Checkpoint::read(&models.join("llama31"));
    c.edit("tokenizer_config.json", |json| drop(json.as_object_mut().unwrap().remove("chat_template")));
    c.files.insert("chat_template.json".into(), br#"{"chat_template": "old"}"#.to_vec());
    let source = hf::open(c.write().path()).unwrap();
    assert_eq!(value(&source, "chat_template"), Some(Value::String("old".into())));
    c.files.insert("chat_template.jinja".into(), b"new\r\n".to_vec());
    let source = hf::open(c.write().path()).unwrap();
    assert_eq!(value(&source, "chat_template"), Some(Value::String("new\n".into())));
    c.edit("tokenizer_config.json", |json| {
        json["chat_template"] =
            json!([{"name": "default", "template": "one"}, {"name": "tool use", "template": "two"}]);
    });
    let source = hf::open(c.write().path()).unwrap();
    assert_eq!(value(&source, "chat_template"), Some(Value::String("one".into())));
    assert_eq!(value(&source, "chat_template.tool_use"), Some(Value::String("two".into())));
    assert_eq!(value(&source, "chat_templates"), Some(Value::Array(Array::String(vec!["tool_use".into()]))));

    // A text that ends with another token than EOS: that is EOS, and the other ends a turn. A token that only
    // tokenizer_config.json has; rows that no token has.
    let mut c = Checkpoint::read(&models.join("llama31"));
    c.edit("tokenizer.json", |json| {
        let last = json!({"SpecialToken": {"id": "<|end_of_text|>", "type_id": 0}});
        json["post_processor"]["processors"][1]["single"].as_array_mut().unwrap().push(last);
        json["added_tokens"].as_array_mut().unwrap().truncate(7);
        json["added_tokens"][2]["special"] = json!(false);
    });
    c.edit("tokenizer_config.json", |json| {
        let added = json["added_tokens_decoder"].as_object_mut().unwrap();
        added.remove("511");
        added["510"]["special"] = json!(false);
    });
    let source = hf::open(c.write().path()).unwrap();
    assert_eq!(value(&source, "ggml.eos_token_id"), Some(Value::U32(504)));
    assert_eq!(value(&source, "ggml.add_eos_token"), Some(Value::Bool(true)));
    // It is not among the added tokens of tokenizer.json any more.
    assert_eq!(value(&source, "ggml.eot_token_id"), None);
    assert_eq!(token(&source, 505), ("<|reserved_special_token_0|>".into(), 3));
    assert_eq!(token(&source, 510), ("<|eot_id|>".into(), 3));
    assert_eq!(token(&source, 511), ("[PAD511]".into(), 5));

    // SentencePiece with added tokens, and with fewer pieces than rows.
    let mut c = Checkpoint::read(&models.join("mixtral"));
    c.files.insert("added_tokens.json".into(), br#"{"<tool>": 511, "<far>": 512}"#.to_vec());
    c.edit("tokenizer_config.json", |json| {
        json["added_tokens_decoder"]["510"] = json!({"content": "a\u{2581}b", "special": false});
        json["added_tokens_decoder"]["509"] = json!({"content": "<|im_end|>", "special": false});
        json["add_prefix_space"] = json!(false);
    });
    let source = hf::open(c.write().path()).unwrap();
    assert_eq!(token(&source, 511), ("<tool>".into(), 4));
    assert_eq!(token(&source, 510), ("a b".into(), 4));
    assert_eq!(token(&source, 509), ("<|im_end|>".into(), 3));
    assert_eq!(value(&source, "ggml.add_space_prefix"), Some(Value::Bool(false)));
    assert_eq!(source.notes, ["1 added tokens are left out: their ids are past the 512 of the model"]);
    let keys: Vec<&str> = source.metadata.iter().map(|(key, _)| key).skip_while(|k| !k.starts_with("tok")).collect();
    assert_eq!(keys[..2], ["tokenizer.ggml.add_space_prefix", "tokenizer.ggml.model"]);

    // Only tokenizer.json is left of a SentencePiece model.
    let mut c = Checkpoint::read(&models.join("mixtral"));
    c.files.remove("tokenizer.model");
    let source = hf::open(c.write().path()).unwrap();
    same(&source, &models, "mixtral", &["tokenizer.ggml.scores", "tokenizer.ggml.token_type"]);
    assert_eq!([0, 1, 2, 3, 13, 500].map(|i| token(&source, i).1), [3, 3, 3, 1, 6, 1]);
    assert_eq!(source.metadata.f32s("tokenizer.ggml.scores").unwrap().unwrap()[..], [-1000.0; 512]);
    assert_eq!(source.notes.len(), 1);
}

#[test]
fn a_model_card() {
    let Some(models) = reference("models") else { return };
    let mut c = Checkpoint::read(&models.join("llama31"));
    let card = "---\nlicense: apache-2.0\nlanguage:\n- en\n- no\ntags:\n- chat\npipeline_tag: text-generation\n\
                base_model: meta-llama/Llama-3.1-8B\ndatasets:\n- org/some-data\nmodel-index:\n- name: x\n---\n# Text\n";
    c.files.insert("README.md".into(), card.as_bytes().to_vec());
    c.files.insert("generation_config.json".into(), br#"{"temperature": 0.6, "top_p": 0.9, "top_k": 40}"#.to_vec());
    c.config.insert("_name_or_path".into(), json!("my-org/Small-1.4M-Instruct-v2"));
    let source = hf::open(c.write().path()).unwrap();
    let general: Vec<String> = source
        .metadata
        .iter()
        .filter(|(key, _)| key.starts_with("general."))
        .map(|(key, value)| match value {
            Value::Array(Array::String(list)) => format!("{key} {list:?}"),
            value => format!("{key} {value}"),
        })
        .collect();
    let expected = [
        "general.architecture string \"llama\"",
        "general.type string \"model\"",
        "general.sampling.top_k i32 40",
        "general.sampling.top_p f32 0.9",
        "general.sampling.temp f32 0.6",
        "general.name string \"Small 1.4M Instruct v2\"",
        "general.version string \"v2\"",
        "general.organization string \"My Org\"",
        "general.finetune string \"Instruct\"",
        "general.basename string \"Small\"",
        "general.size_label string \"1.4M\"",
        "general.license string \"apache-2.0\"",
        "general.base_model.count u32 1",
        "general.base_model.0.name string \"Llama 3.1 8B\"",
        "general.base_model.0.organization string \"Meta Llama\"",
        "general.base_model.0.repo_url string \"https://huggingface.co/meta-llama/Llama-3.1-8B\"",
        "general.dataset.count u32 1",
        "general.dataset.0.name string \"Some Data\"",
        "general.dataset.0.organization string \"Org\"",
        "general.dataset.0.repo_url string \"https://huggingface.co/org/some-data\"",
        "general.tags [\"chat\", \"text-generation\"]",
        "general.languages [\"en\", \"no\"]",
        "general.file_type u32 32",
        "general.quantization_version u32 2",
    ];
    assert_eq!(general, expected);
}

/// Checkpoints of families that no reference shows, made of those of their relatives: what is written of what is theirs alone, as
/// the converter's source says it.
#[test]
fn relatives_of_the_references() {
    let Some(models) = reference("models") else { return };
    let bf16 = |shape: &[usize], value: u16| {
        let n: usize = shape.iter().product();
        let bytes = (0..n).flat_map(|_| value.to_le_bytes()).collect();
        Stored { dtype: Dtype::BF16, shape: shape.to_vec(), bytes }
    };
    let set = |c: &mut Checkpoint, values: serde_json::Value| {
        c.config.extend(values.as_object().unwrap().clone());
    };
    let check = |c: &Checkpoint, name: &str, keys: &[(&str, Value)], tensors: &[(&str, &[u64])]| {
        let source = hf::open(c.write().path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        for (key, value) in keys {
            assert_eq!(source.metadata.get(key), Some(value), "{name}: {key}");
        }
        for (tensor, dims) in tensors {
            let found = source.tensors.iter().find(|t| t.name == *tensor).map(|t| t.dims.as_slice());
            assert_eq!(found, Some(*dims), "{name}: {tensor}");
        }
        source
    };

    let mut c = Checkpoint::read(&models.join("deepseek2"));
    let third = json!({"architectures": ["DeepseekV3ForCausalLM"], "scoring_func": "sigmoid", "n_group": 4, "topk_group": 2,
        "norm_topk_prob": true, "num_nextn_predict_layers": 1});
    set(&mut c, third);
    for layer in 1..3 {
        c.tensors.insert(format!("model.layers.{layer}.mlp.gate.e_score_correction_bias"), bf16(&[8], 0x3f80));
    }
    c.tensors.insert("model.layers.3.eh_proj.weight".into(), bf16(&[128, 256], 0));
    c.tensors.insert("model.layers.3.self_attn.q_a_proj.weight".into(), bf16(&[64, 128], 0));
    let keys = [
        ("general.architecture", Value::String("deepseek2".into())),
        ("deepseek2.block_count", Value::U32(3)),
        ("deepseek2.expert_gating_func", Value::U32(2)),
        ("deepseek2.expert_group_count", Value::U32(4)),
        ("deepseek2.expert_weights_norm", Value::Bool(true)),
    ];
    let source = check(&c, "DeepSeek V3", &keys, &[("blk.2.exp_probs_b.bias", &[8])]);
    assert_eq!(source.notes, ["2 tensors of layers that predict further tokens are left out"]);
    let bias = source.tensors.iter().find(|t| t.name == "blk.1.exp_probs_b.bias").unwrap();
    assert_eq!(elements(&source, bias, 1), [1.0; 8]);

    // Without a rank the queries are made of the input.
    let mut c = Checkpoint::read(&models.join("deepseek2"));
    set(&mut c, json!({"q_lora_rank": null}));
    c.tensors.retain(|name, _| !name.contains("q_a_") && !name.contains("q_b_"));
    for layer in 0..3 {
        c.tensors.insert(format!("model.layers.{layer}.self_attn.q_proj.weight"), bf16(&[192, 128], 0));
    }
    let source = check(&c, "DeepSeek V2 Lite", &[], &[("blk.0.attn_q.weight", &[128, 192])]);
    assert_eq!(source.metadata.get("deepseek2.attention.q_lora_rank"), None);

    let mut c = Checkpoint::read(&models.join("qwen3moe"));
    set(&mut c, json!({"architectures": ["Qwen2MoeForCausalLM"], "shared_expert_intermediate_size": 96}));
    c.tensors.retain(|name, _| !name.contains("q_norm") && !name.contains("k_norm"));
    for layer in 0..2 {
        let mut insert = |name: &str, shape: &[usize]| {
            c.tensors.insert(format!("model.layers.{layer}.mlp.{name}.weight"), bf16(shape, 0));
        };
        insert("shared_expert_gate", &[1, 128]);
        insert("shared_expert.gate_proj", &[96, 128]);
        insert("shared_expert.up_proj", &[96, 128]);
        insert("shared_expert.down_proj", &[128, 96]);
    }
    let keys = [
        ("general.architecture", Value::String("qwen2moe".into())),
        ("qwen2moe.expert_feed_forward_length", Value::U32(64)),
        ("qwen2moe.expert_shared_feed_forward_length", Value::U32(96)),
    ];
    // A vector, however many ones it has before; llama-quantize leaves them out.
    let gate = "blk.1.ffn_gate_inp_shexp.weight";
    let source = check(&c, "Qwen 2 MoE", &keys, &[(gate, &[128, 1]), ("blk.1.ffn_down_shexp.weight", &[96, 128])]);
    let out = folder();
    for (file_type, dims) in [(FileType::BF16, &[128, 1][..]), (FileType::Q8_0, &[128])] {
        let path = out.path().join(file_type.name());
        let request = Request { file_type: Some(file_type), ..Request::default() };
        let plan = plan(&source, None, &request, &path).unwrap();
        let (cpu, resume) = (Cpu::detect(), false);
        let job = Job { source: &source, plan: &plan, imatrix: None, cpu, threads: 1, resume, allow_nonfinite: false };
        assert_eq!(job.run(&mut |_| true).unwrap(), Outcome::Done);
        let gguf = Gguf::open(&path).unwrap();
        let tensor = gguf.tensor(gate).unwrap();
        assert_eq!((tensor.dtype, tensor.dims.as_slice()), (DType::F32, dims), "{}", file_type.name());
    }

    let mut c = Checkpoint::read(&models.join("command-r"));
    set(&mut c, json!({"architectures": ["Cohere2ForCausalLM"], "sliding_window": 16, "rotary_pct": 0.5}));
    let keys = [
        ("general.architecture", Value::String("cohere2".into())),
        ("cohere2.attention.sliding_window", Value::U32(16)),
        ("cohere2.rope.dimension_count", Value::U32(16)),
        ("cohere2.attention.key_length", Value::U32(32)),
    ];
    check(&c, "Cohere 2", &keys, &[]);

    let mut c = Checkpoint::read(&models.join("gemma3"));
    set(&mut c, json!({"architectures": ["Gemma2ForCausalLM"], "attn_logit_softcapping": 40.0}));
    c.tensors.retain(|name, _| !name.contains("q_norm") && !name.contains("k_norm"));
    let keys = [
        ("general.architecture", Value::String("gemma2".into())),
        ("gemma2.attn_logit_softcapping", Value::F32(40.0)),
        ("gemma2.final_logit_softcapping", Value::F32(30.0)),
    ];
    check(&c, "Gemma 2", &keys, &[]);

    let mut c = Checkpoint::read(&models.join("phi3"));
    let (long, short) = ([4.0; 16], [1.5; 16]);
    set(
        &mut c,
        json!({"max_position_embeddings": 131_072,
        "rope_scaling": {"type": "longrope", "long_factor": long, "short_factor": short}}),
    );
    let keys = [
        ("phi3.context_length", Value::U32(131_072)),
        ("phi3.rope.scaling.original_context_length", Value::U32(4096)),
        // sqrt(1 + ln 32 / ln 4096)
        ("phi3.rope.scaling.attn_factor", Value::F32(1.190_238_1)),
    ];
    let source = check(&c, "Phi 3 of 128k", &keys, &[("rope_factors_long.weight", &[16])]);
    assert_eq!(elements(&source, &source.tensors[1], 1), short);
    let first: Vec<&str> = source.metadata.iter().map(|(key, _)| key).take(3).collect();
    assert_eq!(first, ["general.architecture", "phi3.rope.scaling.attn_factor", "general.type"]);
    // What the first files called it, and what transformers 5 writes.
    set(&mut c, json!({"rope_scaling": {"type": "yarn", "long_factor": long, "short_factor": short}}));
    check(&c, "Phi 3 of 2024", &keys, &[]);
    let mut today = Checkpoint { config: c.config.clone(), ..Checkpoint::read(&models.join("phi3")) };
    today
        .config
        .retain(|key, _| !["rope_scaling", "rope_theta", "original_max_position_embeddings"].contains(&&key[..]));
    set(
        &mut today,
        json!({"rope_parameters": {"rope_type": "longrope", "rope_theta": 2e4, "partial_rotary_factor": 0.75,
        "original_max_position_embeddings": 4096, "long_factor": long[..12], "short_factor": short[..12]}}),
    );
    let rotated = [("phi3.rope.dimension_count", Value::U32(24)), ("phi3.rope.freq_base", Value::F32(2e4))];
    check(&today, "Phi 4 mini", &[&keys[..], &rotated].concat(), &[("rope_factors_short.weight", &[12])]);
    set(&mut c, json!({"rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": short}}));
    let error = hf::open(c.write().path()).unwrap_err().to_string();
    assert!(error.contains("long_factor: found 1 numbers, expected 16, half of what is rotated of a head"), "{error}");
    // Others have no place for the tables.
    let mut c = Checkpoint::read(&models.join("qwen2"));
    set(&mut c, json!({"rope_scaling": {"type": "longrope", "long_factor": long, "short_factor": short}}));
    let error = hf::open(c.write().path()).unwrap_err().to_string();
    assert!(error.contains("rope_type: found longrope, expected default, linear, dynamic, yarn, llama3"), "{error}");
}

/// What config.json leaves out is what transformers' classes assume; the converter wrote these values of such folders.
#[test]
fn what_goes_without_saying() {
    let Some(models) = reference("models") else { return };
    // A reference, the class that it is taken for, what is left out, and what is written.
    type Case<'a> = (&'a str, &'a str, &'a [&'a str], &'a [(&'a str, Value)]);
    let cases: [Case; 7] = [
        ("qwen2", "Qwen2ForCausalLM", &["rope_theta", "rms_norm_eps"], &[("qwen2.rope.freq_base", Value::F32(1e4))]),
        (
            "command-r",
            "CohereForCausalLM",
            &["rope_theta", "model_max_length", "logit_scale"],
            &[
                ("command-r.rope.freq_base", Value::F32(5e5)),
                ("command-r.context_length", Value::U32(8192)),
                ("command-r.logit_scale", Value::F32(0.0625)),
            ],
        ),
        (
            "command-r",
            "Cohere2ForCausalLM",
            &["rope_theta", "model_max_length"],
            &[
                ("cohere2.rope.freq_base", Value::F32(1e4)),
                ("cohere2.context_length", Value::U32(8192)),
                ("cohere2.attention.sliding_window", Value::U32(4096)),
                ("cohere2.rope.dimension_count", Value::U32(32)),
            ],
        ),
        (
            "deepseek2",
            "DeepseekV2ForCausalLM",
            &["routed_scaling_factor", "n_shared_experts", "rope_theta"],
            &[
                ("deepseek2.expert_weights_scale", Value::F32(1.0)),
                ("deepseek2.expert_shared_count", Value::U32(2)),
                ("deepseek2.rope.freq_base", Value::F32(1e4)),
            ],
        ),
        (
            "deepseek2",
            "DeepseekV3ForCausalLM",
            &["routed_scaling_factor", "norm_topk_prob"],
            &[
                ("deepseek2.expert_weights_scale", Value::F32(2.5)),
                ("deepseek2.expert_weights_norm", Value::Bool(true)),
            ],
        ),
        (
            "phi3",
            "Phi3ForCausalLM",
            &["rope_theta", "sliding_window"],
            &[("phi3.rope.freq_base", Value::F32(1e4)), ("phi3.attention.sliding_window", Value::U32(0))],
        ),
        ("qwen3moe", "Qwen3MoeForCausalLM", &["rope_theta"], &[("qwen3moe.rope.freq_base", Value::F32(1e4))]),
    ];
    for (model, class, without, keys) in cases {
        let mut c = Checkpoint::read(&models.join(model));
        c.config.insert("architectures".into(), json!([class]));
        without.iter().for_each(|&key| drop(c.config.remove(key).unwrap_or_else(|| panic!("{class}: {key}"))));
        let source = hf::open(c.write().path()).unwrap_or_else(|e| panic!("{class}: {e}"));
        for (key, value) in keys {
            assert_eq!(source.metadata.get(key), Some(value), "{class}: {key}");
        }
    }
    // Of a number of heads that is null it is known, of one that is not there the class's own.
    let mut c = Checkpoint::read(&models.join("qwen2"));
    c.config.insert("num_key_value_heads".into(), json!(null));
    let error = hf::open(c.write().path()).unwrap_err().to_string();
    assert!(error.contains("k_proj.weight: found shape [128, 256], expected shape [256, 256]"), "{error}");
}
