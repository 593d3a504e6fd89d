//! Specs of published models against their published sizes, from headers without data.

use ostro::convert::{FileType, Request, from_gguf, plan};
use ostro::engine::KvTypes;
use ostro::gguf::{Array, Gguf, Layout, Metadata, NewTensor, Value, Writer};
use ostro::model::{Account, Macs, Manifest, Mixer, ModelSpec, Role};
use ostro::registry::Catalogue;
use ostro_kernels::{DType, KvType};
use std::path::Path;

/// A dense or sparse model of the `llama` architecture.
struct Shape {
    layers: usize,
    dim: u64,
    heads: u64,
    kv_heads: u64,
    hidden: u64,
    vocab: u64,
    experts: u64,
    active: u64,
}

/// The type of a tensor, by name and layer.
type Types = fn(&str, usize, usize) -> DType;

/// llama-quantize's Q4_K_M of a model with eight experts, and of a dense one.
fn q4_k_m(name: &str, layer: usize, n: usize) -> DType {
    let more_bits = layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
    match name {
        "norm" | "router" => DType::F32,
        "k" | "v" => DType::Q8_0,
        "out" => DType::Q5_K,
        "head" => DType::Q6_K,
        "down" if more_bits => DType::Q6_K,
        _ => DType::Q4_K,
    }
}

fn tensors(s: &Shape, types: Types, own_head: bool) -> Vec<NewTensor> {
    let mut list = Vec::new();
    let mut add = |name: String, kind: &str, layer: usize, dims: &[u64]| {
        list.push(NewTensor { name, dtype: types(kind, layer, s.layers), dims: dims.to_vec() });
    };
    let kv = s.dim / s.heads * s.kv_heads;
    add("token_embd.weight".into(), "embed", 0, &[s.dim, s.vocab]);
    add("output_norm.weight".into(), "norm", 0, &[s.dim]);
    if own_head {
        add("output.weight".into(), "head", 0, &[s.dim, s.vocab]);
    }
    for i in 0..s.layers {
        let mut add = |name: &str, kind, dims: &[u64]| add(format!("blk.{i}.{name}.weight"), kind, i, dims);
        add("attn_norm", "norm", &[s.dim]);
        add("attn_q", "q", &[s.dim, s.dim]);
        add("attn_k", "k", &[s.dim, kv]);
        add("attn_v", "v", &[s.dim, kv]);
        add("attn_output", "out", &[s.dim, s.dim]);
        add("ffn_norm", "norm", &[s.dim]);
        if s.experts == 0 {
            add("ffn_gate", "gate", &[s.dim, s.hidden]);
            add("ffn_up", "up", &[s.dim, s.hidden]);
            add("ffn_down", "down", &[s.hidden, s.dim]);
        } else {
            add("ffn_gate_inp", "router", &[s.dim, s.experts]);
            add("ffn_gate_exps", "gate", &[s.dim, s.hidden, s.experts]);
            add("ffn_up_exps", "up", &[s.dim, s.hidden, s.experts]);
            add("ffn_down_exps", "down", &[s.hidden, s.dim, s.experts]);
        }
    }
    list
}

/// A file with a header and a hole.
fn write(path: &Path, s: &Shape, types: Types, own_head: bool) {
    let numbers = [
        ("block_count", s.layers as u64),
        ("context_length", 4096),
        ("embedding_length", s.dim),
        ("feed_forward_length", s.hidden),
        ("attention.head_count", s.heads),
        ("attention.head_count_kv", s.kv_heads),
        ("expert_count", s.experts),
        ("expert_used_count", s.active),
    ];
    let mut keys: Vec<_> = numbers.iter().map(|&(key, n)| (key, Value::U32(n as u32))).collect();
    keys.push(("attention.layer_norm_rms_epsilon", Value::F32(1e-5)));
    write_model(path, "llama", &keys, s.vocab, &tensors(s, types, own_head));
}

/// [`write`] for any architecture.
fn write_model(path: &Path, arch: &str, keys: &[(&str, Value)], vocab: u64, list: &[NewTensor]) {
    let mut m = Metadata::new(path);
    m.set("general.architecture", Value::String(arch.into()));
    for (key, value) in keys {
        m.set(&format!("{arch}.{key}"), value.clone());
    }
    m.set("tokenizer.ggml.tokens", Value::Array(Array::String(vec![String::new(); vocab as usize])));
    let bytes = |t: &NewTensor| {
        let elements: u64 = t.dims.iter().product();
        t.dtype.row_bytes(elements as usize).unwrap().next_multiple_of(32) as u64
    };
    let data: u64 = list.iter().map(bytes).sum();
    let mut header = Vec::new();
    let writer = Writer::new(&mut header, path, Layout::new(path, &m, list).unwrap()).unwrap();
    drop(writer);
    header.resize(header.len().next_multiple_of(32), 0);
    std::fs::write(path, &header).unwrap();
    std::fs::File::options().write(true).open(path).unwrap().set_len(header.len() as u64 + data).unwrap();
}

const MIXTRAL_8X22B: Shape =
    Shape { layers: 56, dim: 6144, heads: 48, kv_heads: 8, hidden: 16384, vocab: 32768, experts: 8, active: 2 };

#[test]
fn parameters_are_the_published_ones() {
    let dense = |layers, dim, heads, kv_heads, hidden, vocab| Shape {
        layers,
        dim,
        heads,
        kv_heads,
        hidden,
        vocab,
        experts: 0,
        active: 0,
    };
    let mixtral_8x7b = Shape { layers: 32, dim: 4096, heads: 32, hidden: 14336, vocab: 32000, ..MIXTRAL_8X22B };
    let rows = [
        ("Mixtral 8x22B Instruct", MIXTRAL_8X22B, 140_630_071_296, 39_161_468_928),
        ("Mixtral 8x7B", mixtral_8x7b, 46_702_792_704, 12_879_925_248),
        ("Llama 3.1 8B", dense(32, 4096, 32, 8, 14336, 128_256), 8_030_261_248, 8_030_261_248),
        ("Llama 3.1 405B", dense(126, 16384, 128, 8, 53248, 128_256), 405_853_388_800, 405_853_388_800),
        ("Llama 3.1 70B", dense(80, 8192, 64, 8, 28672, 128_256), 70_553_706_496, 70_553_706_496),
        ("Mistral 7B v0.3", dense(32, 4096, 32, 8, 14336, 32768), 7_248_023_552, 7_248_023_552),
    ];
    let folder = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    for (name, shape, parameters, active) in rows {
        let path = folder.path().join("x.gguf");
        write(&path, &shape, |_, _, _| DType::F32, true);
        let gguf = Gguf::open(&path).unwrap();
        let (spec, unknown) = ModelSpec::from_gguf(&gguf).unwrap();
        assert_eq!(unknown, Vec::<String>::new(), "{name}");
        let manifest = Manifest::new(&spec, &gguf);
        manifest.resolve(&spec, &gguf).unwrap();
        let found = (manifest.parameters(), manifest.active_parameters(&spec));
        if found != (parameters, active) {
            failures.push(format!("{name}: {found:?}, expected {parameters} and {active}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// Tensors of a layer: name, and dimensions.
type Tensors = Vec<(&'static str, Vec<u64>)>;

/// A published model of another architecture.
struct Published {
    name: &'static str,
    /// Its name in models.toml.
    alias: Option<&'static str>,
    arch: &'static str,
    dim: u64,
    layers: u64,
    vocab: u64,
    own_head: bool,
    keys: Vec<(&'static str, Value)>,
    layer: Box<dyn Fn(u64) -> Tensors>,
    parameters: u64,
    /// In millions.
    active: u64,
}

fn published() -> Vec<Published> {
    let u = |n: u64| Value::U32(n as u32);
    let rms = || ("attention.layer_norm_rms_epsilon", Value::F32(1e-6));
    let heads = |n, kv| vec![("attention.head_count", u(n)), ("attention.head_count_kv", u(kv))];
    let attention = |dim: u64, q: u64, kv: u64| -> Tensors {
        let (q_dims, kv_dims) = (vec![dim, q], vec![dim, kv]);
        vec![
            ("attn_norm.weight", vec![dim]),
            ("attn_q.weight", q_dims),
            ("attn_k.weight", kv_dims.clone()),
            ("attn_v.weight", kv_dims),
            ("attn_output.weight", vec![q, dim]),
        ]
    };
    let gated = |dim: u64, hidden: u64, names: [&'static str; 3]| -> Tensors {
        vec![(names[0], vec![dim, hidden]), (names[1], vec![dim, hidden]), (names[2], vec![hidden, dim])]
    };
    const FFN: [&str; 3] = ["ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"];
    const SHARED: [&str; 3] = ["ffn_gate_shexp.weight", "ffn_up_shexp.weight", "ffn_down_shexp.weight"];
    let experts = |dim: u64, hidden: u64, n: u64| -> Tensors {
        vec![
            ("ffn_gate_inp.weight", vec![dim, n]),
            ("ffn_gate_exps.weight", vec![dim, hidden, n]),
            ("ffn_up_exps.weight", vec![dim, hidden, n]),
            ("ffn_down_exps.weight", vec![hidden, dim, n]),
        ]
    };
    let norm = |dim: u64| -> Tensors { vec![("ffn_norm.weight", vec![dim])] };
    let deepseek = |dim: u64, n_heads: u64, q_rank: Option<u64>, dense: u64, n: u64, hidden: u64| {
        let mut keys = heads(n_heads, 1);
        let numbers = [
            ("attention.kv_lora_rank", 512),
            ("attention.key_length", 576),
            ("attention.value_length", 512),
            ("attention.key_length_mla", 192),
            ("attention.value_length_mla", 128),
            ("rope.dimension_count", 64),
            ("leading_dense_block_count", 1),
            ("expert_count", n),
            ("expert_used_count", 6),
            ("expert_shared_count", 2),
            ("expert_feed_forward_length", hidden),
        ];
        keys.extend(numbers.map(|(key, n)| (key, u(n))));
        keys.extend(q_rank.map(|rank| ("attention.q_lora_rank", u(rank))));
        keys.push(rms());
        let layer = move |i: u64| -> Tensors {
            let q = n_heads * 192;
            let mut list = match q_rank {
                Some(rank) => vec![
                    ("attn_q_a.weight", vec![dim, rank]),
                    ("attn_q_a_norm.weight", vec![rank]),
                    ("attn_q_b.weight", vec![rank, q]),
                ],
                None => vec![("attn_q.weight", vec![dim, q])],
            };
            list.extend([
                ("attn_norm.weight", vec![dim]),
                ("attn_kv_a_mqa.weight", vec![dim, 576]),
                ("attn_kv_a_norm.weight", vec![512]),
                ("attn_k_b.weight", vec![128, 512, n_heads]),
                ("attn_v_b.weight", vec![512, 128, n_heads]),
                ("attn_output.weight", vec![n_heads * 128, dim]),
            ]);
            let ffn = if i == 0 {
                gated(dim, dense, FFN)
            } else {
                [experts(dim, hidden, n), gated(dim, 2 * hidden, SHARED)].concat()
            };
            [list, norm(dim), ffn].concat()
        };
        (keys, Box::new(layer) as Box<dyn Fn(u64) -> Tensors>)
    };
    let (v2_keys, v2_layer) = deepseek(5120, 128, Some(1536), 12288, 160, 1536);
    let (lite_keys, lite_layer) = deepseek(2048, 16, None, 10944, 64, 1408);
    let qwen3_keys = [
        heads(32, 4),
        vec![
            rms(),
            ("attention.key_length", u(128)),
            ("attention.value_length", u(128)),
            ("expert_count", u(128)),
            ("expert_used_count", u(8)),
            ("expert_feed_forward_length", u(768)),
        ],
    ];
    vec![
        Published {
            name: "Qwen2.5 72B",
            alias: None,
            arch: "qwen2",
            dim: 8192,
            layers: 80,
            vocab: 152_064,
            own_head: true,
            keys: [heads(64, 8), vec![rms(), ("feed_forward_length", u(29568))]].concat(),
            layer: Box::new(move |_| {
                let biases =
                    vec![("attn_q.bias", vec![8192]), ("attn_k.bias", vec![1024]), ("attn_v.bias", vec![1024])];
                [attention(8192, 8192, 1024), biases, norm(8192), gated(8192, 29568, FFN)].concat()
            }),
            parameters: 72_706_203_648,
            active: 72_706,
        },
        Published {
            name: "Command R+",
            alias: Some("command-r-plus"),
            arch: "command-r",
            dim: 12288,
            layers: 64,
            vocab: 256_000,
            own_head: false,
            keys: [
                heads(96, 8),
                vec![("attention.layer_norm_epsilon", Value::F32(1e-5)), ("logit_scale", Value::F32(0.83))],
            ]
            .concat(),
            layer: Box::new(move |_| {
                let norms = vec![("attn_q_norm.weight", vec![128, 96]), ("attn_k_norm.weight", vec![128, 8])];
                [attention(12288, 12288, 1024), norms, gated(12288, 33792, FFN)].concat()
            }),
            parameters: 103_810_674_688,
            active: 103_811,
        },
        Published {
            name: "DeepSeek V2",
            alias: None,
            arch: "deepseek2",
            dim: 5120,
            layers: 60,
            vocab: 102_400,
            own_head: true,
            keys: v2_keys,
            layer: v2_layer,
            parameters: 235_741_434_880,
            active: 21_376,
        },
        Published {
            name: "DeepSeek V2 Lite",
            alias: Some("deepseek-v2-lite"),
            arch: "deepseek2",
            dim: 2048,
            layers: 27,
            vocab: 102_400,
            own_head: true,
            keys: lite_keys,
            layer: lite_layer,
            parameters: 15_706_484_224,
            active: 2_661,
        },
        Published {
            name: "Qwen3 30B A3B",
            alias: Some("qwen3-30b-a3b"),
            arch: "qwen3moe",
            dim: 2048,
            layers: 48,
            vocab: 151_936,
            own_head: true,
            keys: qwen3_keys.concat(),
            layer: Box::new(move |_| {
                let norms = vec![("attn_q_norm.weight", vec![128]), ("attn_k_norm.weight", vec![128])];
                [attention(2048, 4096, 512), norms, norm(2048), experts(2048, 768, 128)].concat()
            }),
            parameters: 30_532_122_624,
            active: 3_353,
        },
        Published {
            name: "Qwen2.5 7B",
            alias: Some("qwen2.5-7b"),
            arch: "qwen2",
            dim: 3584,
            layers: 28,
            vocab: 152_064,
            own_head: true,
            keys: [heads(28, 4), vec![rms(), ("feed_forward_length", u(18944))]].concat(),
            layer: Box::new(move |_| {
                let biases = vec![("attn_q.bias", vec![3584]), ("attn_k.bias", vec![512]), ("attn_v.bias", vec![512])];
                [attention(3584, 3584, 512), biases, norm(3584), gated(3584, 18944, FFN)].concat()
            }),
            parameters: 7_615_616_512,
            active: 7_616,
        },
        Published {
            name: "Qwen3 8B",
            alias: Some("qwen3-8b"),
            arch: "qwen3",
            dim: 4096,
            layers: 36,
            vocab: 151_936,
            own_head: true,
            keys: [heads(32, 8), vec![rms(), ("attention.key_length", u(128)), ("attention.value_length", u(128))]]
                .concat(),
            layer: Box::new(move |_| {
                let norms = vec![("attn_q_norm.weight", vec![128]), ("attn_k_norm.weight", vec![128])];
                [attention(4096, 4096, 1024), norms, norm(4096), gated(4096, 12288, FFN)].concat()
            }),
            parameters: 8_190_735_360,
            active: 8_191,
        },
        Published {
            name: "Qwen2 57B A14B",
            alias: Some("qwen2-57b-a14b"),
            arch: "qwen2moe",
            dim: 3584,
            layers: 28,
            vocab: 151_936,
            own_head: true,
            keys: [
                heads(28, 4),
                vec![
                    rms(),
                    ("expert_count", u(64)),
                    ("expert_used_count", u(8)),
                    ("expert_feed_forward_length", u(2560)),
                    ("expert_shared_feed_forward_length", u(20480)),
                ],
            ]
            .concat(),
            layer: Box::new(move |_| {
                let biases = vec![("attn_q.bias", vec![3584]), ("attn_k.bias", vec![512]), ("attn_v.bias", vec![512])];
                let shared = [vec![("ffn_gate_inp_shexp.weight", vec![3584])], gated(3584, 20480, SHARED)].concat();
                [attention(3584, 3584, 512), biases, norm(3584), experts(3584, 2560, 64), shared].concat()
            }),
            parameters: 57_408_658_944, // by hand; published as 57.41 B, 14 B active
            active: 14_249,
        },
        Published {
            name: "Command R7B",
            alias: Some("command-r7b"),
            arch: "cohere2",
            dim: 4096,
            layers: 32,
            vocab: 256_000,
            own_head: false,
            keys: [
                heads(32, 8),
                vec![
                    ("attention.layer_norm_epsilon", Value::F32(1e-5)),
                    ("attention.sliding_window", u(4096)),
                    ("logit_scale", Value::F32(0.25)),
                ],
            ]
            .concat(),
            layer: Box::new(move |_| [attention(4096, 4096, 1024), gated(4096, 14336, FFN)].concat()),
            parameters: 8_028_033_024,
            active: 8_028,
        },
        Published {
            name: "Phi 4",
            alias: Some("phi-4"),
            arch: "phi3",
            dim: 5120,
            layers: 40,
            vocab: 100_352,
            own_head: true,
            keys: [heads(40, 10), vec![rms(), ("rope.dimension_count", u(128)), ("feed_forward_length", u(17920))]]
                .concat(),
            layer: Box::new(move |_| {
                vec![
                    ("attn_norm.weight", vec![5120]),
                    ("attn_qkv.weight", vec![5120, 7680]),
                    ("attn_output.weight", vec![5120, 5120]),
                    ("ffn_norm.weight", vec![5120]),
                    ("ffn_up.weight", vec![5120, 35840]),
                    ("ffn_down.weight", vec![17920, 5120]),
                ]
            }),
            parameters: 14_659_507_200,
            active: 14_660,
        },
        Published {
            name: "Gemma 2 9B",
            alias: Some("gemma2-9b"),
            arch: "gemma2",
            dim: 3584,
            layers: 42,
            vocab: 256_000,
            own_head: false,
            keys: [
                heads(16, 8),
                vec![
                    rms(),
                    ("attention.key_length", u(256)),
                    ("attention.value_length", u(256)),
                    ("attention.sliding_window", u(4096)),
                    ("attn_logit_softcapping", Value::F32(50.0)),
                    ("final_logit_softcapping", Value::F32(30.0)),
                ],
            ]
            .concat(),
            layer: Box::new(move |_| {
                let norms = vec![("post_attention_norm.weight", vec![3584]), ("post_ffw_norm.weight", vec![3584])];
                [attention(3584, 4096, 2048), norms, norm(3584), gated(3584, 14336, FFN)].concat()
            }),
            parameters: 9_241_705_984,
            active: 9_242,
        },
    ]
}

/// [`write_model`] of a published model.
fn write_published(path: &Path, p: &Published) {
    let mut keys = p.keys.clone();
    for (key, n) in [("block_count", p.layers), ("context_length", 4096), ("embedding_length", p.dim)] {
        keys.push((key, Value::U32(n as u32)));
    }
    if !keys.iter().any(|(key, _)| *key == "feed_forward_length") {
        // Told by the tensors of a dense layer; of no effect where all layers have experts.
        let dense = (p.layer)(0).into_iter().find(|(name, _)| *name == "ffn_up.weight");
        keys.push(("feed_forward_length", Value::U32(dense.map_or(6144, |(_, dims)| dims[1]) as u32)));
    }
    let tensor = |name: String, dims: Vec<u64>| NewTensor { name, dtype: DType::F32, dims };
    let mut list = vec![
        tensor("token_embd.weight".into(), vec![p.dim, p.vocab]),
        tensor("output_norm.weight".into(), vec![p.dim]),
    ];
    if p.own_head {
        list.push(tensor("output.weight".into(), vec![p.dim, p.vocab]));
    }
    for i in 0..p.layers {
        list.extend((p.layer)(i).into_iter().map(|(name, dims)| tensor(format!("blk.{i}.{name}"), dims)));
    }
    write_model(path, p.arch, &keys, p.vocab, &list);
}

/// What models.toml tells of a file's size is what its shape has in Q4_K_M: exact sizes to the header, which is no
/// greater than the vocabulary is, others to half a percent. Mixtral 8x7B's file is of 2023, with a mix of that day.
#[test]
fn the_catalogue_tells_true_sizes() {
    let catalogue = Catalogue::load(None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let dense = |hidden, vocab| Shape { layers: 32, dim: 4096, heads: 32, hidden, vocab, experts: 0, ..MIXTRAL_8X22B };
    let llama =
        [("mistral-7b", dense(14336, 32768)), ("llama3.1-8b", dense(14336, 128_256)), ("mixtral-8x22b", MIXTRAL_8X22B)];
    let mut failures = Vec::new();
    let mut compare = |alias: &str| {
        let source = from_gguf::open(&path).unwrap();
        let request = Request { file_type: FileType::parse("Q4_K_M"), ..Request::default() };
        let plan = plan(&source, None, &request, &folder.path().join("out.gguf")).unwrap();
        let tensors: u64 = plan.tensors.iter().map(|t| t.bytes).sum();
        let entry = catalogue.get(alias).unwrap();
        let told = entry.size().unwrap();
        let slack = if entry.approx { (tensors as f64 * 0.995) as u64 } else { tensors };
        let header = if entry.approx { tensors / 200 } else { 16 << 20 };
        if entry.quant != "Q4_K_M" || !(slack..=tensors + header).contains(&told) {
            failures.push(format!("{alias}: models.toml says {told}, the tensors have {tensors}"));
        }
    };
    for (alias, shape) in llama {
        write(&path, &shape, |_, _, _| DType::F32, true);
        compare(alias);
    }
    for p in published() {
        if let Some(alias) = p.alias {
            write_published(&path, &p);
            compare(alias);
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The numbers of the model's cards and of the weights on the Hub; those that a token meets count the whole embedding.
#[test]
fn parameters_of_the_other_families_are_the_published_ones() {
    let folder = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    for p in published() {
        let path = folder.path().join("x.gguf");
        write_published(&path, &p);
        let gguf = Gguf::open(&path).unwrap();
        let (spec, unknown) = ModelSpec::from_gguf(&gguf).unwrap();
        assert_eq!(unknown, Vec::<String>::new(), "{}", p.name);
        let manifest = Manifest::new(&spec, &gguf);
        manifest.resolve(&spec, &gguf).unwrap();
        let found = (manifest.parameters(), (manifest.active_parameters(&spec) + 500_000) / 1_000_000);
        if found != (p.parameters, p.active) {
            failures.push(format!("{}: {found:?}, expected {} and {} M", p.name, p.parameters, p.active));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// llama-quantize --dry-run gives the total; the rest is arithmetic on the shapes.
#[test]
fn mixtral_8x22b_weighs_what_it_weighs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mixtral.gguf");
    write(&path, &MIXTRAL_8X22B, q4_k_m, true);
    let gguf = Gguf::open(&path).unwrap();
    let (spec, _) = ModelSpec::from_gguf(&gguf).unwrap();
    let manifest = Manifest::new(&spec, &gguf);
    let account = Account::new(&spec, &manifest, &manifest.resolve(&spec, &gguf).unwrap());
    assert_eq!(account.total(), 85_598_035_968);
    assert_eq!(account.by_role[&Role::Experts], 81_914_757_120);
    assert_eq!(account.by_role[&Role::Embed], 113_246_208);
    assert_eq!(account.by_role[&Role::Head], 165_150_720);
    // All but the embedding, of which a row is read, and three quarters of the experts.
    assert_eq!(account.read_per_token, 3_570_032_640 + 81_914_757_120 / 4 + 6144 / 256 * 144);
    for (kind, bytes) in [(KvType::F16, 229_376), (KvType::Q8_0, 121_856), (KvType::F32, 458_752)] {
        assert_eq!(KvTypes { k: kind, v: kind }.bytes_per_token(&spec), bytes, "{kind:?}");
    }
}

/// Worked out by hand from the shapes; the router counts, norms and the embedding do not.
#[test]
fn multiplications_are_those_of_the_matrices() {
    let (attention, out) = (6144 * 6144 + 2 * 6144 * 1024, 6144 * 6144);
    let (router, expert, head) = (6144 * 8, 3 * 6144 * 16384, 6144 * 32768);
    let sparse = |layers: u64| Macs {
        layers: layers * (attention + out + router + 2 * expert),
        last: out + router + 2 * expert,
        head,
    };
    let two = Shape { layers: 2, ..MIXTRAL_8X22B };
    let dense = Shape { layers: 3, dim: 64, heads: 4, kv_heads: 2, hidden: 96, vocab: 100, experts: 0, active: 0 };
    let per_layer = 64 * 64 + 2 * 64 * 32;
    let after = 64 * 64 + 3 * 64 * 96;
    let rows = [
        ("8x22B", &MIXTRAL_8X22B, true, sparse(56)),
        ("two layers of it", &two, true, sparse(2)),
        ("dense", &dense, true, Macs { layers: 3 * (per_layer + after), last: after, head: 6400 }),
        ("tied head", &dense, false, Macs { layers: 3 * (per_layer + after), last: after, head: 6400 }),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    let mut failures = Vec::new();
    for (name, shape, own_head, expected) in rows {
        write(&path, shape, |_, _, _| DType::F32, own_head);
        let gguf = Gguf::open(&path).unwrap();
        let (spec, _) = ModelSpec::from_gguf(&gguf).unwrap();
        let manifest = Manifest::new(&spec, &gguf);
        let found = Account::new(&spec, &manifest, &manifest.resolve(&spec, &gguf).unwrap()).macs;
        if found != expected {
            failures.push(format!("{name}: {found:?}, expected {expected:?}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    let gop = 2.0 * sparse(2).layers as f64 / 1e9;
    assert!((gop - 2.77).abs() < 0.005, "{gop}");
    // A prompt of two layers: all tokens meet what stands before the last feed-forward part, one of them the rest.
    let (macs, before) = (sparse(2), 2 * attention + out + router + 2 * expert);
    assert_eq!(macs.of(512, 1), 512 * before + macs.last + head);
    assert_eq!(macs.of(1, 1), macs.layers + head);
}

#[test]
fn windows_bound_what_is_read_of_the_cache() {
    let shape = Shape { layers: 2, dim: 64, heads: 4, kv_heads: 2, hidden: 96, vocab: 100, experts: 0, active: 0 };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.gguf");
    write(&path, &shape, |_, _, _| DType::F32, true);
    let (mut spec, _) = ModelSpec::from_gguf(&Gguf::open(&path).unwrap()).unwrap();
    let Mixer::Gqa(first) = &mut spec.layers[0].mixer else { panic!("grouped attention") };
    first.window = Some(4);
    // Two heads of 16 for keys, two for values, two bytes each.
    for (held, positions) in [(0, 0), (3, 3 + 3), (4, 4 + 4), (10, 4 + 10)] {
        assert_eq!(KvTypes::default().bytes_read(&spec, held), positions * 128, "{held}");
    }
}
