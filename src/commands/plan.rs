//! `ostro plan`: what would go where, from a file's header and a machine, without loading anything.

use super::model_args::{kv_type, memory};
use super::offload_args::{OffloadArgs, gib};
use super::{print, resolve, tell};
use crate::gguf::{Gguf, OpenOptions};
use crate::model::{Account, Manifest, ModelSpec, Role};
use crate::placement::{self, Binds, Context, Held, Lane, Machine, Plan, Sizes};
use clap::Args;
use ostro_kernels::KvType;
use serde_json::json;

/// Flags of `ostro plan`.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// A GGUF file, the first part of a split set, or an alias of the catalogue [default: the catalogue's default]
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,

    /// The same, in llama.cpp's way
    #[arg(short = 'm', long, value_name = "MODEL")]
    model: Option<String>,

    /// Context in tokens; 0 takes the model's
    #[arg(short = 'c', long, value_name = "N", default_value_t = 4096)]
    ctx_size: usize,

    /// Tokens computed at once (-ub)
    #[arg(long, value_name = "N", default_value_t = 512)]
    ubatch_size: usize,

    /// Type of the cached keys (-ctk): f32, f16, q8_0
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = kv_type)]
    cache_type_k: KvType,

    /// Type of the cached values (-ctv): f32, f16, q8_0
    #[arg(long, value_name = "TYPE", default_value = "f16", value_parser = kv_type)]
    cache_type_v: KvType,

    /// Free memory of the card, as in 24GiB; 0 for none [default: what the driver tells]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    vram: Option<u64>,

    /// Memory for weights, cache and buffers, as in 64GiB [default: this machine's]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    ram: Option<u64>,

    #[command(flatten)]
    assumed: Assumed,

    #[command(flatten)]
    offload: OffloadArgs,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Bandwidths that nobody has measured here.
#[derive(Args, Clone, Copy, Debug, Default)]
#[command(next_help_heading = "Bandwidths")]
pub struct Assumed {
    /// GB/s that the CPU reads from memory [default: 70, two channels of DDR5]
    #[arg(long, value_name = "GB/S", value_parser = bandwidth)]
    ram_bandwidth: Option<f64>,

    /// GB/s that the card reads from its memory [default: 1008, an RTX 4090]
    #[arg(long, value_name = "GB/S", value_parser = bandwidth)]
    vram_bandwidth: Option<f64>,

    /// GB/s between them [default: 25, PCIe 4.0 with 16 lanes]
    #[arg(long, value_name = "GB/S", value_parser = bandwidth)]
    pcie: Option<f64>,

    /// GB/s from the disk [default: 3]
    #[arg(long, value_name = "GB/S", value_parser = bandwidth)]
    disk: Option<f64>,
}

impl Assumed {
    /// A machine with such bandwidths, the memory of this one, and so much free on a card.
    pub fn machine(&self, vram: Option<u64>) -> Machine {
        Machine {
            vram,
            ram: memory().unwrap_or(u64::MAX),
            ram_bandwidth: self.ram_bandwidth.unwrap_or(70.0) * 1e9,
            vram_bandwidth: self.vram_bandwidth.unwrap_or(1008.0) * 1e9,
            pcie: self.pcie.unwrap_or(25.0) * 1e9,
            disk: self.disk.unwrap_or(3.0) * 1e9,
        }
    }

    /// Those that were not given.
    fn assumed(&self) -> Vec<&'static str> {
        let all = [
            ("ram_bandwidth", self.ram_bandwidth),
            ("vram_bandwidth", self.vram_bandwidth),
            ("pcie", self.pcie),
            ("disk", self.disk),
        ];
        all.into_iter().filter(|(_, given)| given.is_none()).map(|(name, _)| name).collect()
    }
}

fn bandwidth(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(gb) if gb > 0.0 && gb.is_finite() => Ok(gb),
        _ => Err("expected a number of GB/s above 0".to_owned()),
    }
}

/// A number of bytes with a unit.
fn size(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 9] = [
        ("kib", 1 << 10),
        ("mib", 1 << 20),
        ("gib", 1 << 30),
        ("tib", 1 << 40),
        ("kb", 1000),
        ("mb", 1_000_000),
        ("gb", 1_000_000_000),
        ("tb", 1_000_000_000_000),
        ("b", 1),
    ];
    let lower = text.trim().to_ascii_lowercase();
    let unit = UNITS.iter().find_map(|(name, factor)| Some((lower.strip_suffix(name)?, *factor)));
    let (number, factor) = unit.unwrap_or((&lower, 1));
    match number.trim().parse::<f64>() {
        Ok(n) if n >= 0.0 && n * (factor as f64) < u64::MAX as f64 => Ok((n * factor as f64) as u64),
        _ => Err("expected a size, as in 24GiB or 500MB".to_owned()),
    }
}

/// Prints what would go where.
///
/// # Errors
/// A file that is not there or whose header is no model's.
pub fn run(args: &PlanArgs) -> anyhow::Result<()> {
    let resolved = resolve::model(args.positional.as_deref().or(args.model.as_deref()))?;
    let gguf = Gguf::open_with(&resolved.path, &OpenOptions { mmap: true, mlock: false })?;
    let (spec, _) = ModelSpec::from_gguf(&gguf)?;
    let manifest = Manifest::new(&spec, &gguf);
    let account = Account::new(&spec, &manifest, &manifest.resolve(&spec, &gguf)?);
    let n_ctx = if args.ctx_size == 0 { spec.context } else { args.ctx_size };
    let n_ubatch = args.ubatch_size.clamp(1, n_ctx.max(1));
    let context = Context { n_ctx, n_ubatch, k: args.cache_type_k, v: args.cache_type_v };
    let sizes = Sizes::new(&spec, &manifest, &account.by_binding, &context);
    let (vram, card) = args.card();
    let mut machine = args.assumed.machine(vram);
    machine.ram = args.ram.unwrap_or(machine.ram);
    let request = args.offload.request();
    let plan = placement::plan(&sizes, n_ctx, &machine, &request);
    let advice = placement::advise(&context, &machine, &request, &|context: &Context| {
        Sizes::new(&spec, &manifest, &account.by_binding, context)
    });
    let assumed = args.assumed.assumed();
    if args.json {
        let value = json!({
            "model": spec.name, "n_ctx": n_ctx, "n_ubatch": n_ubatch, "card": card, "machine": machine,
            "assumed": assumed, "tensor_bytes": sizes.total, "plan": plan, "advice": advice,
        });
        return print(format!("{}\n", serde_json::to_string_pretty(&value)?));
    }
    let mut out = text(&spec, &sizes, &context, &machine, &card, &plan);
    out += &bound(&spec, &machine, &assumed, &plan);
    for note in &plan.notes {
        out += &format!("note: {note}\n");
    }
    if !advice.is_empty() {
        out += &format!("try: {}\n", advice.join("; or "));
    }
    print(out)
}

impl PlanArgs {
    /// Free memory of a card, and where that comes from.
    fn card(&self) -> (Option<u64>, String) {
        match self.vram {
            Some(0) => return (None, "no card".to_owned()),
            Some(vram) => return (Some(vram), "a card as given".to_owned()),
            None => {}
        }
        #[cfg(feature = "cuda")]
        match ostro_kernels::cuda::Gpu::open() {
            Ok(gpu) => match gpu.free_memory() {
                Ok(free) => return (Some(free), gpu.info().name.clone()),
                Err(e) => tell(format_args!("note: {e}")),
            },
            Err(why) => return (None, format!("no card: {why}")),
        }
        #[cfg(not(feature = "cuda"))]
        tell("note: this build cannot use a card");
        (None, "no card".to_owned())
    }
}

fn text(spec: &ModelSpec, sizes: &Sizes, context: &Context, machine: &Machine, card: &str, plan: &Plan) -> String {
    use std::fmt::Write as _;
    let mut out = String::new();
    let lane = |lane: Lane| if lane == Lane::Gpu { "card" } else { "CPU" };
    let mut line = |text: String| _ = writeln!(out, "{text}");
    line(format!("{}: {} layers, {:.2} GiB of weights", spec.name, spec.layers.len(), gib(sizes.total)));
    line(format!(
        "context {} tokens, {} at once, cache {:?} and {:?}",
        context.n_ctx, context.n_ubatch, context.k, context.v
    ));
    let vram = machine.vram.map_or(String::new(), |vram| format!(", {:.2} GiB free", gib(vram)));
    line(format!("{card}{vram}; memory {:.1} GiB", gib(machine.ram)));
    line(String::new());
    line(format!("{:<14} {:>10} {:>10} {:>14} {:>14}", "layers", "attention", "cache", "feed-forward", "read a token"));
    let mut start = 0;
    while start < sizes.layers.len() {
        let same = |i: &usize| plan.placement.layers[*i] == plan.placement.layers[start];
        let end = (start..sizes.layers.len()).take_while(same).last().unwrap_or(start) + 1;
        let sum = |of: fn(&(placement::Size, placement::Size)) -> u64| -> f64 {
            gib(sizes.layers[start..end].iter().map(of).sum())
        };
        let lanes = plan.placement.layers[start];
        line(format!(
            "{:<14} {:>4} {:>5.2} {:>4} {:>5.2} {:>8} {:>5.2} {:>14.2}",
            placement::ranges(&(start..end).collect::<Vec<_>>()),
            lane(lanes.mixer),
            sum(|l| l.0.weights),
            lane(lanes.mixer),
            sum(|l| l.0.kv),
            lane(lanes.ffn),
            sum(|l| l.1.weights),
            sum(|l| l.0.reads() + l.1.reads()),
        ));
        start = end;
    }
    line(format!(
        "{:<14} {:>4} {:>5.2} {:>41.2}",
        "head",
        lane(plan.placement.head),
        gib(sizes.head.weights),
        gib(sizes.head.read)
    ));
    line(format!("{:<14} {:>4} {:>5.2}", "embedding", "CPU", gib(sizes.embedding)));
    line(String::new());
    line(format!(
        "{:<10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>14}",
        "GiB", "weights", "cache", "buffers", "streaming", "in all", "read a token"
    ));
    let mut held = |name: &str, h: &Held| {
        line(format!(
            "{name:<10} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>9.3} {:>14.3}",
            gib(h.weights),
            gib(h.kv),
            gib(h.buffers),
            gib(h.slots),
            gib(h.bytes()),
            gib(h.read_per_token)
        ));
    };
    held("CPU", &plan.cpu);
    if machine.vram.is_some() {
        held("card", &plan.gpu);
        line(format!("{:<10} {:>49.3}", "margin", gib(plan.margin)));
    }
    for (name, held) in [("CPU", &plan.cpu), ("card", &plan.gpu)] {
        if held.weights > 0 {
            let role =
                |(role, bytes): (&Role, &u64)| format!("{} {:.3}", format!("{role:?}").to_lowercase(), gib(*bytes));
            line(format!("{name} weights: {}", held.roles.iter().map(role).collect::<Vec<_>>().join(", ")));
        }
    }
    out
}

/// Speed, what bounds it, and the longest context.
fn bound(spec: &ModelSpec, machine: &Machine, assumed: &[&str], plan: &Plan) -> String {
    let binds = match plan.binds {
        Binds::Ram => "reading memory",
        Binds::Vram => "reading the card's memory",
        Binds::Pcie => "what crosses the bus",
        Binds::Disk => "reading the disk",
    };
    let rate = |name: &str, key: &str, bytes: f64| {
        let whence = if assumed.contains(&key) { " assumed" } else { "" };
        format!("{name} {:.0} GB/s{whence}", bytes / 1e9)
    };
    let rates = [
        rate("memory", "ram_bandwidth", machine.ram_bandwidth),
        rate("card", "vram_bandwidth", machine.vram_bandwidth),
        rate("bus", "pcie", machine.pcie),
        rate("disk", "disk", machine.disk),
    ];
    let mut out = format!(
        "\nat most {:.1} tokens a second at the full context{}, bound by {binds} ({})\n{} bytes cross the bus for a token\n",
        plan.tokens_per_second,
        if plan.card_lacks > 0 { " if all of this fitted" } else { "" },
        rates.join(", "),
        plan.crossing
    );
    let longest = plan.largest_context;
    let of = [("the card", longest.card), ("memory", longest.memory)];
    let parts: Vec<String> = of.iter().filter_map(|(who, n)| n.map(|n| format!("{n} tokens by {who}"))).collect();
    if !parts.is_empty() {
        out += &format!(
            "the longest context with this placement is {} (the model's is {})\n",
            parts.join(" and "),
            spec.context
        );
    }
    out
}
