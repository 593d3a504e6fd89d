//! Where the planner puts models, and that its numbers add up: headers without data, no card.

use ostro::model::{
    Activation, Ffn, Gated, Gqa, Layer, Manifest, Mixer, ModelSpec, Moe, Norm, NormKind, Pairs, Residual, RopeScaling,
    RopeSpec, Router, Shapes,
};
use ostro::placement::{Context, GpuLayers, Lane, Machine, Plan, Request, Sizes, plan};
use ostro_kernels::KvType;
use proptest::prelude::*;
use regex::Regex;

const GIB: u64 = 1 << 30;

/// A model's shape; the attention of DeepSeek-V2, which has one of its own, as if its heads were ordinary ones with the same
/// weights, as the issue of that architecture will replace.
struct Shape {
    name: &'static str,
    layers: usize,
    dim: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    hidden: usize,
    vocab: usize,
    experts: usize,
    active: usize,
    tied: bool,
}

const MIXTRAL_8X22B: Shape = Shape {
    name: "Mixtral 8x22B",
    layers: 56,
    dim: 6144,
    heads: 48,
    kv_heads: 8,
    head_dim: 128,
    hidden: 16384,
    vocab: 32768,
    experts: 8,
    active: 2,
    tied: false,
};
const DENSE: Shape = Shape { experts: 0, active: 0, kv_heads: 8, head_dim: 128, ..MIXTRAL_8X22B };
const LLAMA_405B: Shape =
    Shape { name: "Llama 3.1 405B", layers: 126, dim: 16384, heads: 128, hidden: 53248, vocab: 128_256, ..DENSE };
const QWEN_72B: Shape =
    Shape { name: "Qwen2.5 72B", layers: 80, dim: 8192, heads: 64, hidden: 29568, vocab: 152_064, ..DENSE };
const COMMAND_R_PLUS: Shape =
    Shape { name: "Command R+", layers: 64, dim: 12288, heads: 96, hidden: 33792, vocab: 256_000, tied: true, ..DENSE };
const DEEPSEEK_V2: Shape = Shape {
    name: "DeepSeek-V2",
    layers: 60,
    dim: 5120,
    heads: 128,
    kv_heads: 4,
    hidden: 1536,
    vocab: 102_400,
    experts: 160,
    active: 6,
    ..DENSE
};

struct Merged;

impl Shapes for Merged {
    fn dims(&self, _: &str) -> Option<&[u64]> {
        None
    }

    fn count(&self) -> usize {
        0
    }
}

fn spec(s: &Shape) -> ModelSpec {
    let norm = Norm { kind: NormKind::Rms, eps: 1e-5 };
    let mixer = Mixer::Gqa(Gqa {
        n_heads: s.heads,
        n_kv_heads: s.kv_heads,
        head_dim: s.head_dim,
        v_dim: s.head_dim,
        rope: 0,
        window: None,
        scale: 1.0,
        softcap: None,
        qk_norm: None,
        qkv_bias: false,
        out_bias: false,
    });
    let ffn = match s.experts {
        0 => Ffn::Gated(Gated { hidden: s.hidden, act: Activation::Silu }),
        n => Ffn::Moe(Moe {
            n_experts: n,
            n_active: s.active,
            hidden: s.hidden,
            act: Activation::Silu,
            router: Router::Softmax,
            renormalize: true,
            scale: 1.0,
        }),
    };
    let layer = Layer { norm, residual: Residual::Sequential, post_norm: None, mixer, ffn };
    ModelSpec {
        arch: "test".to_owned(),
        name: s.name.to_owned(),
        dim: s.dim,
        n_vocab: s.vocab,
        context: 131_072,
        embed_scale: 1.0,
        out_norm: norm,
        tied_head: s.tied,
        logit_scale: 1.0,
        logit_softcap: None,
        ropes: vec![RopeSpec {
            dim: s.head_dim,
            pairs: Pairs::Adjacent,
            base: 1e6,
            scaling: RopeScaling::None,
            factors: false,
        }],
        layers: vec![layer; s.layers],
    }
}

/// Bytes of 256 weights in llama-quantize's Q4_K_M of a model with eight experts; vectors and routers are floats.
fn q4_k_m(part: &str, layer: usize, n: usize) -> u64 {
    let more_bits = layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
    match part {
        _ if part.contains("norm") || part.contains("ffn_gate_inp") => 1024,
        _ if part.contains("attn_k") || part.contains("attn_v") => 272,
        _ if part.contains("attn_output") => 176,
        _ if part == "output.weight" => 210,
        _ if part.contains("ffn_down") && more_bits => 210,
        _ => 144,
    }
}

/// A model in Q4_K_M with its manifest's bytes.
fn sizes(s: &Shape, n_ctx: usize, kv: KvType) -> Sizes {
    let spec = spec(s);
    let manifest = Manifest::new(&spec, &Merged);
    let bytes = |b: &ostro::model::Binding| {
        let elements: u64 = b.dims.iter().product();
        elements * q4_k_m(&b.names()[0], b.slot.layer.unwrap_or(0), s.layers) / 256
    };
    let bytes: Vec<u64> = manifest.bindings.iter().map(bytes).collect();
    Sizes::new(&spec, &manifest, &bytes, &Context { n_ctx, n_ubatch: 512, k: kv, v: kv })
}

fn machine(vram: Option<u64>, ram: u64) -> Machine {
    Machine { vram, ram, ram_bandwidth: 70e9, vram_bandwidth: 1008e9, pcie: 25e9, disk: 3e9 }
}

fn auto() -> Request {
    Request { margin: GIB, ..Request::default() }
}

fn on_card(plan: &Plan) -> (usize, usize) {
    let count =
        |of: fn(&ostro::placement::Lanes) -> Lane| plan.placement.layers.iter().filter(|l| of(l) == Lane::Gpu).count();
    (count(|l| l.mixer), count(|l| l.ffn))
}

#[test]
fn mixtral_8x22b_has_the_bytes_of_its_file() {
    let sizes = sizes(&MIXTRAL_8X22B, 4096, KvType::F16);
    assert_eq!(sizes.total, 85_598_035_968);
    assert_eq!(sizes.embedding, 113_246_208);
    let experts: u64 = sizes.layers.iter().map(|(_, ffn)| ffn.weights - 6144 * 4 - 6144 * 8 * 4).sum();
    assert_eq!(experts, 81_914_757_120);
    assert_eq!(sizes.layers.iter().map(|(mixer, _)| mixer.kv).sum::<u64>(), 4096 * 229_376);
    let read = sizes.layers.iter().map(|(m, f)| m.read + f.read).sum::<u64>() + sizes.head.read + sizes.embedding_read;
    assert_eq!(read, 24_048_721_920 + 6144 * 144 / 256, "all but the embedding, and of that a row");
}

#[test]
fn auto_puts_what_every_token_reads_first() {
    // Layers whose attention, and whose feed-forward part, is on the card.
    type Right = fn((usize, usize)) -> bool;
    let rows: [(&Shape, usize, u64, Right); 6] = [
        // All of attention, and the experts of 12 to 14 layers, of which two slots for streaming take one.
        (&MIXTRAL_8X22B, 4096, 24, |(mixers, ffns)| mixers == 56 && (12..=14).contains(&ffns)),
        (&MIXTRAL_8X22B, 32768, 24, |(mixers, ffns)| mixers == 56 && (7..=9).contains(&ffns)),
        // Dense: whole layers, from the last on, and of what is left over the attention of some more.
        (&LLAMA_405B, 4096, 24, |(mixers, ffns)| (9..=14).contains(&ffns) && mixers.abs_diff(ffns) <= 5),
        (&QWEN_72B, 4096, 24, |(mixers, ffns)| (35..=45).contains(&ffns) && mixers.abs_diff(ffns) <= 5),
        (&COMMAND_R_PLUS, 4096, 24, |(mixers, ffns)| (18..=28).contains(&ffns) && mixers.abs_diff(ffns) <= 5),
        (&DEEPSEEK_V2, 4096, 24, |(mixers, ffns)| mixers == 60 && (1..=12).contains(&ffns)),
    ];
    for (shape, n_ctx, vram, right) in rows {
        let sizes = sizes(shape, n_ctx, KvType::F16);
        let plan = plan(&sizes, n_ctx, &machine(Some(vram * GIB), 96 * GIB), &auto());
        assert!(right(on_card(&plan)), "{} at {n_ctx}: {:?} on the card", shape.name, on_card(&plan));
        assert!(plan.gpu.bytes() + plan.margin <= vram * GIB, "{}: {:?}", shape.name, plan.gpu);
    }
}

#[test]
fn every_flag_is_honoured() {
    let sizes = sizes(&MIXTRAL_8X22B, 4096, KvType::F16);
    let check = |what: &str, request: Request, right: &dyn Fn(&Plan) -> bool| {
        let plan = plan(&sizes, 4096, &machine(Some(24 * GIB), 64 * GIB), &Request { margin: GIB, ..request });
        assert!(right(&plan), "{what}: {:?} {:?}", on_card(&plan), plan.notes);
    };
    let regex = |text: &str, lane| (Regex::new(text).unwrap(), lane);
    let none = Request::default;
    check("-ngl 0", Request { gpu_layers: GpuLayers::Count(0), ..none() }, &|p| !p.placement.uses(Lane::Gpu));
    check("-ngl 1", Request { gpu_layers: GpuLayers::Count(1), ..none() }, &|p| {
        on_card(p) == (0, 0) && p.placement.head == Lane::Gpu
    });
    check("-ngl 5", Request { gpu_layers: GpuLayers::Count(5), ..none() }, &|p| {
        on_card(p) == (4, 4) && p.placement.layers[55].ffn == Lane::Gpu
    });
    check("-ngl all", Request { gpu_layers: GpuLayers::All, ..none() }, &|p| {
        on_card(p) == (56, 56) && !p.notes.is_empty() && p.advice.contains(&"--cpu-moe".to_owned())
    });
    check("-cmoe", Request { cpu_moe: true, ..none() }, &|p| on_card(p) == (56, 0));
    check("-ngl all -ncmoe 50", Request { gpu_layers: GpuLayers::All, n_cpu_moe: 50, ..none() }, &|p| {
        on_card(p) == (56, 6) && p.placement.layers[49].ffn == Lane::Cpu
    });
    let experts = Request { gpu_layers: GpuLayers::All, overrides: vec![regex("exps", Lane::Cpu)], ..none() };
    check("-ngl all -ot exps=CPU", experts, &|p| {
        on_card(p) == (56, 0) && !p.notes.iter().any(|n| n.contains("override"))
    });
    let some = vec![regex(r"blk\.([0-4])\.ffn_.*_exps", Lane::Gpu), regex("exps", Lane::Cpu)];
    check("-ot of five layers", Request { overrides: some, ..none() }, &|p| on_card(p) == (56, 5));
    let half =
        Request { gpu_layers: GpuLayers::All, overrides: vec![regex(r"blk\.3\.ffn_up_exps", Lane::Cpu)], ..none() };
    check("-ot of one table", half, &|p| {
        p.placement.layers[3].ffn == Lane::Cpu && p.notes.iter().any(|n| n.contains("layers 3"))
    });
    check("-nkvo", Request { no_kv_offload: true, gpu_layers: GpuLayers::All, ..none() }, &|p| {
        on_card(p) == (0, 56) && p.gpu.kv == 0
    });
}

#[test]
fn without_a_card_everything_is_the_cpus_and_the_disk_is_told() {
    let sizes = sizes(&MIXTRAL_8X22B, 4096, KvType::F16);
    let plan = plan(&sizes, 4096, &machine(None, 64 * GIB), &auto());
    assert!(!plan.placement.uses(Lane::Gpu));
    assert_eq!(plan.gpu.bytes(), 0);
    assert!(plan.notes.iter().any(|n| n.contains("disk")), "{:?}", plan.notes);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Bytes are neither lost nor counted twice, auto stays within the card, and a larger card is never slower.
    #[test]
    fn numbers_add_up(vram in 0u64..96, more in 0u64..48, n_ctx in 1usize..65_536, shape in 0usize..5, q8 in any::<bool>()) {
        let shape = [&MIXTRAL_8X22B, &LLAMA_405B, &QWEN_72B, &COMMAND_R_PLUS, &DEEPSEEK_V2][shape];
        let kv = if q8 { KvType::Q8_0 } else { KvType::F16 };
        let sizes = sizes(shape, n_ctx, kv);
        let of = |vram: u64| plan(&sizes, n_ctx, &machine(Some(vram * GIB), 512 * GIB), &auto());
        let (small, large) = (of(vram), of(vram + more));
        for p in [&small, &large] {
            let copied = if sizes.tied_head && p.placement.head == Lane::Gpu { sizes.embedding } else { 0 };
            prop_assert_eq!(p.cpu.weights + p.gpu.weights, sizes.total + copied);
            let all: u64 = sizes.layers.iter().map(|(m, _)| m.kv).sum();
            prop_assert_eq!(p.cpu.kv + p.gpu.kv, all);
        }
        if small.placement.uses(Lane::Gpu) {
            prop_assert!(small.gpu.bytes() + small.margin <= vram * GIB, "{:?}", small.gpu);
        }
        prop_assert!(large.gpu.read_per_token + GIB >= small.gpu.read_per_token);
    }
}
