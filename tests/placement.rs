//! Where the planner puts models, and that its numbers add up: headers without data, no card.

use ostro::convert::{FileType, Wishes, mix};
use ostro::model::{
    Activation, ExpertGroups, Ffn, Gated, Gqa, Layer, Manifest, Mixer, Mla, ModelSpec, Moe, Norm, NormKind, Pairs,
    Residual, RopeFactors, RopeScaling, RopeSpec, Router, Shapes, Shared,
};
use ostro::placement::{Context, GpuLayers, Lane, Machine, Plan, Request, Sizes, advise, plan};
use ostro_kernels::{DType, KvType};
use proptest::prelude::*;
use regex::Regex;

const GIB: u64 = 1 << 30;

/// A model's shape; what is an architecture's own is told by its name.
struct Shape {
    name: &'static str,
    arch: &'static str,
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
    qkv_bias: bool,
    rope_factors: bool,
}

const MIXTRAL_8X22B: Shape = Shape {
    name: "Mixtral 8x22B",
    arch: "llama",
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
    qkv_bias: false,
    rope_factors: false,
};
const DENSE: Shape = Shape { experts: 0, active: 0, kv_heads: 8, head_dim: 128, ..MIXTRAL_8X22B };
const LLAMA_405B: Shape = Shape {
    name: "Llama 3.1 405B",
    layers: 126,
    dim: 16384,
    heads: 128,
    hidden: 53248,
    vocab: 128_256,
    rope_factors: true,
    ..DENSE
};
const QWEN_72B: Shape = Shape {
    name: "Qwen2.5 72B",
    arch: "qwen2",
    layers: 80,
    dim: 8192,
    heads: 64,
    hidden: 29568,
    vocab: 152_064,
    qkv_bias: true,
    ..DENSE
};
const COMMAND_R_PLUS: Shape = Shape {
    name: "Command R+",
    arch: "command-r",
    layers: 64,
    dim: 12288,
    heads: 96,
    hidden: 33792,
    vocab: 256_000,
    tied: true,
    ..DENSE
};
const DEEPSEEK_V2: Shape = Shape {
    name: "DeepSeek-V2",
    arch: "deepseek2",
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
    let (latent, cohere) = (s.arch == "deepseek2", s.arch == "command-r");
    let norm = Norm { kind: if cohere { NormKind::Layer } else { NormKind::Rms }, eps: 1e-5 };
    let act = Activation::Silu;
    let mixer = match latent {
        true => Mixer::Mla(Mla {
            n_heads: s.heads,
            q_rank: Some(1536),
            kv_rank: 512,
            nope_dim: 128,
            rope_dim: 64,
            v_dim: 128,
            rope: 0,
            scale: 1.0,
            norm,
            joined: false,
        }),
        false => Mixer::Gqa(Gqa {
            n_heads: s.heads,
            n_kv_heads: s.kv_heads,
            head_dim: s.head_dim,
            v_dim: s.head_dim,
            rope: Some(0),
            window: None,
            scale: 1.0,
            softcap: None,
            qk_norm: cohere.then_some(norm),
            norm_by_head: cohere,
            qkv_bias: s.qkv_bias,
            fused: false,
            out_bias: false,
        }),
    };
    let dense = |hidden| Ffn::Gated(Gated { hidden, act, fused: false });
    let ffn = match s.experts {
        0 => dense(s.hidden),
        n => Ffn::Moe(Moe {
            n_experts: n,
            n_active: s.active,
            hidden: s.hidden,
            act,
            router: Router::Softmax,
            groups: latent.then_some(ExpertGroups { n: 8, n_active: 3, best: 1 }),
            bias: false,
            renormalize: !latent,
            scale: 1.0,
            shared: latent.then_some(Shared { hidden: 2 * s.hidden, gated: false }),
            fused: false,
        }),
    };
    let residual = if cohere { Residual::Parallel } else { Residual::Sequential };
    let layer = Layer { norm, residual, post_norm: None, mixer, ffn };
    let mut layers = vec![layer; s.layers];
    if latent {
        layers[0].ffn = dense(12288);
    }
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
            dim: if latent { 64 } else { s.head_dim },
            pairs: Pairs::Adjacent,
            base: 1e6,
            scaling: RopeScaling::None,
            factors: if s.rope_factors { RopeFactors::Fixed } else { RopeFactors::None },
            magnitude: 1.0,
        }],
        layers,
        spare_layers: 0,
    }
}

/// A model in llama-quantize's Q4_K_M: its spec, its manifest, and bytes of each binding.
fn q4_k_m(s: &Shape) -> (ModelSpec, Manifest, Vec<u64>) {
    let spec = spec(s);
    let manifest = Manifest::new(&spec, &Merged);
    let mut order: Vec<usize> = (0..manifest.bindings.len()).collect();
    order.sort_by(|&a, &b| mix::by_layer(&manifest.bindings[a].names()[0], &manifest.bindings[b].names()[0]));
    let shapes: Vec<mix::Shape<'_>> = order
        .iter()
        .map(|&i| &manifest.bindings[i])
        .map(|b| mix::Shape { name: &b.names()[0], dims: &b.dims, dtype: DType::F32 })
        .collect();
    let traits = mix::Traits {
        arch: s.arch.to_owned(),
        n_layers: s.layers,
        n_heads: s.heads,
        n_kv_heads: s.kv_heads,
        n_experts: s.experts,
    };
    let types = mix::choose(FileType::Q4_K_M, &traits, false, &Wishes::default(), &shapes);
    let mut bytes = vec![0; order.len()];
    for ((i, shape), choice) in order.into_iter().zip(&shapes).zip(types) {
        let rows: u64 = shape.dims[1..].iter().product();
        bytes[i] = rows * choice.dtype.row_bytes(shape.dims[0] as usize).unwrap() as u64;
    }
    (spec, manifest, bytes)
}

fn context(n_ctx: usize, kv: KvType) -> Context {
    Context { n_ctx, n_ubatch: 512, k: kv, v: kv }
}

fn sizes(s: &Shape, n_ctx: usize, kv: KvType) -> Sizes {
    let (spec, manifest, bytes) = q4_k_m(s);
    Sizes::new(&spec, &manifest, &bytes, &context(n_ctx, kv))
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
        on_card(p) == (56, 56) && !p.notes.is_empty() && p.card_lacks > 0
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
    let all = Request {
        gpu_layers: GpuLayers::Count(31),
        n_cpu_moe: 40,
        overrides: vec![regex(r"blk\.0\.ffn_.*_exps", Lane::Gpu), regex(r"blk\.55\.ffn_.*_exps", Lane::Cpu)],
        no_kv_offload: true,
        ..none()
    };
    check("-ngl 31 -ncmoe 40 -ot ... -nkvo", all, &|p| {
        let right = |i: usize, l: &ostro::placement::Lanes| {
            l.mixer == Lane::Cpu && (l.ffn == Lane::Gpu) == (i == 0 || (40..55).contains(&i))
        };
        p.gpu.kv == 0 && p.placement.layers.iter().enumerate().all(|(i, l)| right(i, l))
    });
    let both = Request { cpu_moe: true, overrides: vec![regex(r"blk\.7\.ffn_.*_exps", Lane::Gpu)], ..none() };
    check("-cmoe -ot of one layer", both, &|p| on_card(p) == (56, 1) && p.placement.layers[7].ffn == Lane::Gpu);
    let nothing = Request { overrides: vec![regex("attn_norm", Lane::Cpu)], ..none() };
    check("-ot of no matrix", nothing, &|p| p.notes.iter().any(|n| n.contains("attn_norm moves nothing")));
    let attention = Request { no_kv_offload: true, overrides: vec![regex("attn", Lane::Gpu)], ..none() };
    check("-nkvo -ot attn=CUDA0", attention, &|p| {
        on_card(p).0 == 0 && p.notes.iter().any(|n| n.starts_with("--no-kv-offload"))
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

#[test]
fn shapes_are_the_published_ones() {
    // Billions of parameters, and bits of each in Q4_K_M.
    let rows = [(&MIXTRAL_8X22B, 140.63), (&LLAMA_405B, 405.85), (&QWEN_72B, 72.71), (&COMMAND_R_PLUS, 103.81)];
    for (shape, published) in rows {
        let (_, manifest, bytes) = q4_k_m(shape);
        let layers = manifest.bindings.iter().filter(|b| b.role != ostro::model::Role::Table);
        let parameters: u64 = layers.map(|b| b.dims.iter().product::<u64>()).sum();
        assert!((parameters as f64 / 1e9 - published).abs() < 0.006, "{}: {parameters}", shape.name);
        let bits = bytes.iter().sum::<u64>() as f64 * 8.0 / parameters as f64;
        // Rows of 29,568 do not divide into blocks of 256, so a third of Qwen2.5's weights have more bits.
        assert!((4.7..5.3).contains(&bits), "{}: {bits} bits", shape.name);
    }
}

#[test]
fn the_longest_context_fits_and_one_more_does_not() {
    let rows = [(&MIXTRAL_8X22B, 24), (&QWEN_72B, 64), (&COMMAND_R_PLUS, 80)];
    for (shape, vram) in rows {
        let machine = machine(Some(vram * GIB), 512 * GIB);
        let request = Request { gpu_layers: GpuLayers::All, cpu_moe: true, ..auto() };
        let at = |n_ctx: usize| plan(&sizes(shape, n_ctx, KvType::F16), n_ctx, &machine, &request);
        let longest = at(4096).largest_context.of_both().unwrap();
        let lacks = [longest, longest + 1].map(|n| at(n).card_lacks > 0);
        assert_eq!(lacks, [false, true], "{}: {longest}", shape.name);
    }
}

#[test]
fn what_is_advised_fits() {
    let all = || Request { gpu_layers: GpuLayers::All, ..auto() };
    let q8 = "--cache-type-k q8_0 --cache-type-v q8_0";
    let moe = |request: Request, n: &str| Request { n_cpu_moe: n.parse().unwrap(), ..request };
    // What is asked for of which model on 24 GiB, and with how much memory.
    let check = |what: &str, shape: &Shape, n_ctx: usize, ram: u64, request: Request, wanted: &[&str]| {
        let (spec, manifest, bytes) = q4_k_m(shape);
        let sizes_at = |c: &Context| Sizes::new(&spec, &manifest, &bytes, c);
        let machine = machine(Some(24 * GIB), ram * GIB);
        let advice = advise(&context(n_ctx, KvType::F16), &machine, &request, &sizes_at);
        for wanted in wanted {
            assert!(advice.iter().any(|a| a.starts_with(wanted)), "{what}: no {wanted} in {advice:?}");
        }
        assert!(advice.len() <= 3, "{what}: {advice:?}");
        for line in advice.iter().filter(|a| a.starts_with("--")) {
            let (mut with, mut c) = (request.clone(), context(n_ctx, KvType::F16));
            for pair in line.split(" --").map(|f| f.trim_start_matches("--")) {
                match pair.split_once(' ').unwrap_or((pair, "")) {
                    ("n-cpu-moe", n) => with = moe(with, n),
                    ("cpu-moe", "") => with.cpu_moe = true,
                    ("gpu-layers", "auto") => with.gpu_layers = GpuLayers::Auto,
                    ("gpu-layers", n) => with.gpu_layers = GpuLayers::Count(n.parse().unwrap()),
                    ("cache-type-k", "q8_0") => c.k = KvType::Q8_0,
                    ("cache-type-v", "q8_0") => c.v = KvType::Q8_0,
                    ("ctx-size", n) => c.n_ctx = n.parse().unwrap(),
                    ("ubatch-size", n) => c.n_ubatch = n.parse().unwrap(),
                    ("fit-target", n) => with.margin = n.parse::<u64>().unwrap() << 20,
                    other => panic!("{what}: {other:?}"),
                }
            }
            let plan = plan(&sizes_at(&c), c.n_ctx, &machine, &with);
            assert!(plan.card_lacks == 0 && plan.memory_lacks == 0, "{what}: {line} lacks {}", plan.card_lacks);
        }
        advice
    };
    let fits = check("auto", &MIXTRAL_8X22B, 4096, 96, auto(), &[]);
    assert!(fits.is_empty(), "{fits:?}");
    check("all", &MIXTRAL_8X22B, 4096, 96, all(), &["--n-cpu-moe", "--gpu-layers"]);
    let experts = Request { n_cpu_moe: 44, ..all() };
    check("all but some experts", &MIXTRAL_8X22B, 16384, 96, experts, &["--n-cpu-moe", q8]);
    let context = Request { cpu_moe: true, ..all() };
    check("long", &MIXTRAL_8X22B, 130_000, 128, context, &["--ctx-size", q8]);
    check("dense", &QWEN_72B, 4096, 96, all(), &["--gpu-layers"]);
    check("memory", &LLAMA_405B, 4096, 96, auto(), &["a file of fewer bits"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Bytes are neither lost nor counted twice, auto stays within the card, and a larger card is never slower.
    #[test]
    fn numbers_add_up(quarters in 0u64..384, more in 0u64..192, n_ctx in 1usize..65_536, shape in 0usize..5, q8 in any::<bool>()) {
        let shape = [&MIXTRAL_8X22B, &LLAMA_405B, &QWEN_72B, &COMMAND_R_PLUS, &DEEPSEEK_V2][shape];
        let kv = if q8 { KvType::Q8_0 } else { KvType::F16 };
        let sizes = sizes(shape, n_ctx, kv);
        let of = |quarters: u64| plan(&sizes, n_ctx, &machine(Some(quarters * GIB / 4), 512 * GIB), &auto());
        let (small, large) = (of(quarters), of(quarters + more));
        let roles = |p: &Plan| p.cpu.roles.values().chain(p.gpu.roles.values()).sum::<u64>();
        for p in [&small, &large] {
            let copied = if sizes.tied_head && p.placement.head == Lane::Gpu { sizes.embedding } else { 0 };
            prop_assert_eq!(p.cpu.weights + p.gpu.weights, sizes.total + copied);
            prop_assert_eq!(roles(p), sizes.total + copied);
            let all: u64 = sizes.layers.iter().map(|(m, _)| m.kv).sum();
            prop_assert_eq!(p.cpu.kv + p.gpu.kv, all);
        }
        if small.placement.uses(Lane::Gpu) {
            prop_assert!(small.gpu.bytes() + small.margin <= quarters * GIB / 4, "{:?}", small.gpu);
        }
        // Where there is first room for the slots of streaming, they take it from experts, of one layer at most.
        let allowed = if large.gpu.slots > small.gpu.slots { 0.95 } else { 0.999 };
        prop_assert!(
            large.tokens_per_second >= allowed * small.tokens_per_second,
            "{}: {} on {quarters} quarters of a GiB, {} on {}", shape.name, small.tokens_per_second, large.tokens_per_second, quarters + more
        );
    }
}
