//! Specs of published models against their published sizes, from headers without data.

use ostro::engine::KvTypes;
use ostro::gguf::{Array, Gguf, Layout, Metadata, NewTensor, Value, Writer};
use ostro::model::{Account, Macs, Manifest, Mixer, ModelSpec, Role};
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
    let mut m = Metadata::new(path);
    m.set("general.architecture", Value::String("llama".into()));
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
    for (key, n) in numbers {
        m.set(&format!("llama.{key}"), Value::U32(n as u32));
    }
    m.set("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5));
    m.set("tokenizer.ggml.tokens", Value::Array(Array::String(vec![String::new(); s.vocab as usize])));
    let list = tensors(s, types, own_head);
    let bytes = |t: &NewTensor| {
        let elements: u64 = t.dims.iter().product();
        t.dtype.row_bytes(elements as usize).unwrap().next_multiple_of(32) as u64
    };
    let data: u64 = list.iter().map(bytes).sum();
    let mut header = Vec::new();
    let writer = Writer::new(&mut header, path, Layout::new(path, &m, &list).unwrap()).unwrap();
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
