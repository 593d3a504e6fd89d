//! `ostro plan`: what would go where, from a file's header and a machine, without loading anything.

use super::model_args::{kv_type, memory};
use super::offload_args::{OffloadArgs, gib};
use super::{print, resolve, tell};
use crate::gguf::{Gguf, OpenOptions};
use crate::model::{Account, Manifest, ModelSpec};
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
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Bandwidths")]
pub struct Assumed {
    /// GB/s that the CPU reads from memory; the default is two channels of DDR5
    #[arg(long, value_name = "GB/S", default_value_t = 70.0, value_parser = bandwidth)]
    ram_bandwidth: f64,

    /// GB/s that the card reads from its memory; the default is an RTX 4090
    #[arg(long, value_name = "GB/S", default_value_t = 1008.0, value_parser = bandwidth)]
    vram_bandwidth: f64,

    /// GB/s between them; the default is PCIe 4.0 with 16 lanes
    #[arg(long, value_name = "GB/S", default_value_t = 25.0, value_parser = bandwidth)]
    pcie: f64,

    /// GB/s from the disk
    #[arg(long, value_name = "GB/S", default_value_t = 3.0, value_parser = bandwidth)]
    disk: f64,
}

impl Default for Assumed {
    fn default() -> Assumed {
        Assumed { ram_bandwidth: 70.0, vram_bandwidth: 1008.0, pcie: 25.0, disk: 3.0 }
    }
}

impl Assumed {
    /// A machine with such bandwidths, the memory of this one, and so much free on a card.
    pub fn machine(&self, vram: Option<u64>) -> Machine {
        Machine {
            vram,
            ram: memory().unwrap_or(u64::MAX),
            ram_bandwidth: self.ram_bandwidth * 1e9,
            vram_bandwidth: self.vram_bandwidth * 1e9,
            pcie: self.pcie * 1e9,
            disk: self.disk * 1e9,
        }
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
    let plan = placement::plan(&sizes, n_ctx, &machine, &args.offload.request());
    if args.json {
        let value = json!({
            "model": spec.name, "n_ctx": n_ctx, "n_ubatch": n_ubatch, "card": card, "machine": machine,
            "tensor_bytes": sizes.total, "plan": plan,
        });
        return print(format!("{}\n", serde_json::to_string_pretty(&value)?));
    }
    print(text(&spec, &sizes, &context, &machine, &card, &plan))
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
    line(String::new());
    let binds = match plan.binds {
        Binds::Ram => "reading memory",
        Binds::Vram => "reading the card's memory",
        Binds::Pcie => "what crosses the bus",
        Binds::Disk => "reading the disk",
    };
    line(format!(
        "at most {:.1} tokens a second at the full context, bound by {binds} (memory {:.0} GB/s, card {:.0} GB/s, bus {:.0} GB/s, disk {:.0} GB/s: assumed unless given)",
        plan.tokens_per_second,
        machine.ram_bandwidth / 1e9,
        machine.vram_bandwidth / 1e9,
        machine.pcie / 1e9,
        machine.disk / 1e9
    ));
    line(format!("{} bytes cross the bus for a token", plan.crossing));
    match plan.largest_context {
        usize::MAX => {}
        n => line(format!("the longest context with this placement is {n} tokens (the model's is {})", spec.context)),
    }
    plan.notes.iter().for_each(|note| line(format!("note: {note}")));
    if !plan.advice.is_empty() {
        line(format!("try: {}", plan.advice.join("; or ")));
    }
    out
}
