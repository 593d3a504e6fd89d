//! Architectures that no reference model shows: small random models, written here from a seed, and the logits that llama.cpp gives
//! for the very same files (tests/tools/family_goldens.py).

mod common;

use common::nmse;
use ostro::engine::{Engine, EngineOptions, Error, KvTypes, Model, SeqId, Session};
use ostro::gguf::{Gguf, Metadata, NewTensor, Value, Writer};
use ostro_kernels::synthetic::Random;
use ostro_kernels::{Cpu, DType, KvType};
use std::path::Path;

const DIM: u64 = 64;
const VOCAB: u64 = 96;
const HEADS: u64 = 4;
const TOKENS: usize = 40;

/// Tensors: name, and dimensions.
type Tensors = Vec<(&'static str, Vec<u64>)>;

/// A family: its name here, its architecture, layers, the context that it runs in, keys, and the tensors of a layer.
struct Family {
    name: &'static str,
    arch: &'static str,
    layers: u64,
    n_ctx: usize,
    keys: Vec<(&'static str, Value)>,
    globals: Tensors,
    layer: Box<dyn Fn(u64) -> Tensors>,
}

fn u(n: u64) -> Value {
    Value::U32(n as u32)
}

/// Attention of `head` wide heads with `kv` key heads.
fn attention(head: u64, kv: u64) -> Tensors {
    vec![
        ("attn_norm.weight", vec![DIM]),
        ("attn_q.weight", vec![DIM, HEADS * head]),
        ("attn_k.weight", vec![DIM, kv * head]),
        ("attn_v.weight", vec![DIM, kv * head]),
        ("attn_output.weight", vec![HEADS * head, DIM]),
    ]
}

fn gated(hidden: u64) -> Tensors {
    vec![
        ("ffn_norm.weight", vec![DIM]),
        ("ffn_gate.weight", vec![DIM, hidden]),
        ("ffn_up.weight", vec![DIM, hidden]),
        ("ffn_down.weight", vec![hidden, DIM]),
    ]
}

fn experts(n: u64, hidden: u64) -> Tensors {
    vec![
        ("ffn_norm.weight", vec![DIM]),
        ("ffn_gate_inp.weight", vec![DIM, n]),
        ("ffn_gate_exps.weight", vec![DIM, hidden, n]),
        ("ffn_up_exps.weight", vec![DIM, hidden, n]),
        ("ffn_down_exps.weight", vec![hidden, DIM, n]),
    ]
}

fn shared(hidden: u64) -> Tensors {
    vec![
        ("ffn_gate_shexp.weight", vec![DIM, hidden]),
        ("ffn_up_shexp.weight", vec![DIM, hidden]),
        ("ffn_down_shexp.weight", vec![hidden, DIM]),
    ]
}

/// Latent attention: queries of 24 + 8, a latent of 32, values of 16.
fn latent(joined: bool) -> Tensors {
    let mut list = vec![
        ("attn_norm.weight", vec![DIM]),
        ("attn_q_a.weight", vec![DIM, 48]),
        ("attn_q_a_norm.weight", vec![48]),
        ("attn_q_b.weight", vec![48, HEADS * 32]),
        ("attn_kv_a_mqa.weight", vec![DIM, 32 + 8]),
        ("attn_kv_a_norm.weight", vec![32]),
        ("attn_output.weight", vec![HEADS * 16, DIM]),
    ];
    match joined {
        true => list.push(("attn_kv_b.weight", vec![32, HEADS * (24 + 16)])),
        false => list.extend([("attn_k_b.weight", vec![24, 32, HEADS]), ("attn_v_b.weight", vec![32, 16, HEADS])]),
    }
    list
}

fn families() -> Vec<Family> {
    let head = || ("output.weight", vec![DIM, VOCAB]);
    let rms = ("attention.layer_norm_rms_epsilon", Value::F32(1e-6));
    let plain = |name, arch, keys: Vec<_>, layer: fn(u64) -> Tensors| Family {
        name,
        arch,
        layers: 2,
        n_ctx: 64,
        keys: [vec![rms.clone(), ("attention.head_count_kv", u(2))], keys].concat(),
        globals: vec![head()],
        layer: Box::new(layer),
    };
    let biases = || vec![("attn_q.bias", vec![HEADS * 16]), ("attn_k.bias", vec![32]), ("attn_v.bias", vec![32])];
    let mut list = vec![
        plain("qwen3", "qwen3", vec![("attention.key_length", u(24)), ("attention.value_length", u(24))], |_| {
            [attention(24, 2), vec![("attn_q_norm.weight", vec![24]), ("attn_k_norm.weight", vec![24])], gated(80)]
                .concat()
        }),
        plain(
            "qwen2, yarn",
            "qwen2",
            vec![
                ("rope.scaling.type", Value::String("yarn".into())),
                ("rope.scaling.factor", Value::F32(4.0)),
                ("rope.scaling.original_context_length", u(16)),
            ],
            |_| [attention(16, 2), gated(80)].concat(),
        ),
        plain(
            "qwen2moe",
            "qwen2moe",
            vec![
                ("expert_count", u(8)),
                ("expert_used_count", u(3)),
                ("expert_feed_forward_length", u(32)),
                ("expert_shared_feed_forward_length", u(64)),
            ],
            |_| {
                let gate = vec![("ffn_gate_inp_shexp.weight", vec![DIM])];
                [attention(16, 2), experts(8, 32), shared(64), gate].concat()
            },
        ),
        plain(
            "gemma2",
            "gemma2",
            vec![
                ("attention.key_length", u(16)),
                ("attention.value_length", u(16)),
                ("attention.sliding_window", u(8)),
                ("attn_logit_softcapping", Value::F32(5.0)),
                ("final_logit_softcapping", Value::F32(20.0)),
            ],
            |_| {
                let norms = vec![("post_attention_norm.weight", vec![DIM]), ("post_ffw_norm.weight", vec![DIM])];
                [attention(16, 2), gated(80), norms].concat()
            },
        ),
        plain("deepseek2, third version", "deepseek2", deepseek(false), |i| {
            let ffn = || [experts(16, 32), shared(64), vec![("exp_probs_b.bias", vec![16])]].concat();
            [latent(false), if i == 0 { gated(80) } else { ffn() }].concat()
        }),
        plain("deepseek2, joined", "deepseek2", deepseek(true), |i| {
            let ffn = || [experts(16, 32), shared(64), vec![("exp_probs_b.bias", vec![16])]].concat();
            [latent(true), if i == 0 { gated(80) } else { ffn() }].concat()
        }),
    ];
    list[1].layer = Box::new(move |_| [attention(16, 2), biases(), gated(80)].concat());
    list[2].layer = Box::new(move |_| {
        let gate = vec![("ffn_gate_inp_shexp.weight", vec![DIM])];
        [attention(16, 2), biases(), experts(8, 32), shared(64), gate].concat()
    });
    list[3].globals.clear(); // the head is the embedding
    list.push(Family {
        name: "cohere2",
        arch: "cohere2",
        layers: 4,
        n_ctx: 64,
        keys: vec![
            ("attention.layer_norm_epsilon", Value::F32(1e-5)),
            ("attention.head_count_kv", u(2)),
            ("attention.sliding_window", u(8)),
            ("logit_scale", Value::F32(0.5)),
            ("rope.dimension_count", u(16)),
        ],
        globals: Vec::new(),
        layer: Box::new(|_| [attention(16, 2), gated(80)[1..].to_vec()].concat()),
    });
    for (name, n_ctx) in [("phi3, short", 64), ("phi3, long", 300)] {
        list.push(Family {
            name,
            arch: "phi3",
            layers: 2,
            n_ctx,
            keys: vec![
                rms.clone(),
                ("attention.head_count_kv", u(2)),
                ("rope.dimension_count", u(16)),
                ("rope.scaling.original_context_length", u(256)),
                ("rope.scaling.attn_factor", Value::F32(1.19)),
            ],
            globals: vec![head(), ("rope_factors_long.weight", vec![8]), ("rope_factors_short.weight", vec![8])],
            layer: Box::new(|_| {
                vec![
                    ("attn_norm.weight", vec![DIM]),
                    ("attn_qkv.weight", vec![DIM, (HEADS + 2 * 2) * 16]),
                    ("attn_output.weight", vec![HEADS * 16, DIM]),
                    ("ffn_norm.weight", vec![DIM]),
                    ("ffn_up.weight", vec![DIM, 2 * 80]),
                    ("ffn_down.weight", vec![80, DIM]),
                ]
            }),
        });
    }
    list
}

fn deepseek(joined: bool) -> Vec<(&'static str, Value)> {
    let mut keys = vec![
        ("rope.dimension_count", u(8)),
        ("rope.scaling.type", Value::String("yarn".into())),
        ("rope.scaling.factor", Value::F32(4.0)),
        ("rope.scaling.original_context_length", u(16)),
        ("rope.scaling.yarn_log_multiplier", Value::F32(0.1)),
        ("attention.q_lora_rank", u(48)),
        ("attention.kv_lora_rank", u(32)),
        ("leading_dense_block_count", u(1)),
        ("expert_count", u(16)),
        ("expert_used_count", u(3)),
        ("expert_group_count", u(4)),
        ("expert_group_used_count", u(2)),
        ("expert_feed_forward_length", u(32)),
        ("expert_shared_count", u(2)),
        ("expert_gating_func", u(2)),
        ("expert_weights_norm", Value::Bool(true)),
        ("expert_weights_scale", Value::F32(2.5)),
    ];
    keys.extend(match joined {
        true => vec![
            ("attention.head_count_kv", u(HEADS)),
            ("attention.key_length", u(32)),
            ("attention.value_length", u(16)),
        ],
        false => vec![
            ("attention.head_count_kv", u(1)),
            ("attention.key_length", u(40)),
            ("attention.value_length", u(32)),
            ("attention.key_length_mla", u(32)),
            ("attention.value_length_mla", u(16)),
        ],
    });
    keys
}

/// Writes a family's model: weights of a size that keeps activations in range, norms around one, biases small.
fn write(family: &Family, path: &Path) {
    let mut m = Metadata::new(path);
    m.set("general.architecture", Value::String(family.arch.into()));
    let key = |name: &str| format!("{}.{name}", family.arch);
    let common = [
        ("block_count", u(family.layers)),
        ("context_length", u(128)),
        ("embedding_length", u(DIM)),
        ("feed_forward_length", u(80)),
        ("attention.head_count", u(HEADS)),
        ("vocab_size", u(VOCAB)),
        ("rope.freq_base", Value::F32(1000.0)),
    ];
    for (name, value) in common.into_iter().chain(family.keys.iter().cloned()) {
        m.set(&key(name), value);
    }
    m.set("tokenizer.ggml.model", Value::String("no_vocab".into()));
    let mut list =
        vec![("token_embd.weight".to_owned(), vec![DIM, VOCAB]), ("output_norm.weight".to_owned(), vec![DIM])];
    list.extend(family.globals.iter().map(|(name, dims)| ((*name).to_owned(), dims.clone())));
    for i in 0..family.layers {
        list.extend((family.layer)(i).into_iter().map(|(name, dims)| (format!("blk.{i}.{name}"), dims)));
    }
    let tensor =
        |(name, dims): &(String, Vec<u64>)| NewTensor { name: name.clone(), dtype: DType::F32, dims: dims.clone() };
    let tensors: Vec<NewTensor> = list.iter().map(tensor).collect();
    let mut writer = Writer::create(path, &m, &tensors).unwrap();
    let mut random = Random::new(family.name.len() as u64 * 77 + family.layers);
    for (name, dims) in &list {
        let spread = 4.0 / (dims[0] as f32).sqrt();
        let value = |x: f32| match name {
            n if n.contains("norm") => 1.0 + 0.5 * x,
            n if n.contains("rope_factors") => 1.5 + x,
            n if n.ends_with("bias") => 0.3 * x,
            n if n.starts_with("token_embd") => 2.0 * x,
            _ => spread * x,
        };
        let n: u64 = dims.iter().product();
        let bytes: Vec<u8> = (0..n).flat_map(|_| value(random.signed()).to_le_bytes()).collect();
        writer.append(&bytes).unwrap();
    }
    writer.commit().unwrap();
}

fn tokens() -> Vec<u32> {
    (0..TOKENS as u32).map(|i| (i * 29 + 3) % VOCAB as u32).collect()
}

fn logits(model: &Model<'_>, n_ctx: usize, n_ubatch: usize) -> Vec<f32> {
    let kv = KvTypes { k: KvType::F32, v: KvType::F32 };
    let options = EngineOptions { n_ctx, n_ubatch, n_seqs: 1, threads: 2, kv, cpu: Cpu::detect() };
    let mut engine = Engine::new(model, &options);
    let mut all = Vec::new();
    let take = |rows: &[f32]| -> Result<(), Error> {
        all.extend_from_slice(rows);
        Ok(())
    };
    Session::new(&mut engine, SeqId(0)).feed_all(&tokens(), take).unwrap();
    all
}

/// At every position, in batches and token by token. `OSTRO_WRITE_FAMILIES=FOLDER` writes the models there, for the script.
#[test]
fn every_family_agrees_with_llama_cpp() {
    let folder = tempfile::tempdir().unwrap();
    let kept = std::env::var_os("OSTRO_WRITE_FAMILIES").map(std::path::PathBuf::from);
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/families.json");
    let goldens: serde_json::Value = serde_json::from_slice(&std::fs::read(goldens).unwrap()).unwrap();
    let mut failures = Vec::new();
    for family in families() {
        let path = kept.as_deref().unwrap_or(folder.path()).join(format!("{}.gguf", family.name));
        write(&family, &path);
        let gguf = Gguf::open(&path).unwrap();
        let model = Model::load(&gguf).unwrap();
        assert_eq!(model.warnings, Vec::<String>::new(), "{}", family.name);
        let golden = &goldens["logits"][family.name];
        let wanted: Vec<f32> = golden.as_array().into_iter().flatten().map(|x| x.as_f64().unwrap() as f32).collect();
        for n_ubatch in [64, 1] {
            let found = logits(&model, family.n_ctx, n_ubatch);
            if wanted.len() != found.len() {
                failures.push(format!("{}: {} logits, {} in the goldens", family.name, found.len(), wanted.len()));
                continue;
            }
            let error = nmse(&found, &wanted);
            eprintln!("{} -ub {n_ubatch}: NMSE {error:.1e}", family.name);
            // GELU is looked up by its f16 in llama.cpp.
            let most = if family.arch == "gemma2" { 1e-5 } else { 1e-9 };
            if error.is_nan() || error > most {
                failures.push(format!("{} -ub {n_ubatch}: NMSE {error:.1e}, at most {most:.0e}", family.name));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
