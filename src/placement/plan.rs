//! A placement from sizes, a machine and a request, and what it costs.

use super::request::Say;
use super::{GpuLayers, Lane, Placement, Request, Size, Sizes};
use serde::Serialize;

/// What the machine has.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Machine {
    /// Free bytes of the card; none: there is no card.
    pub vram: Option<u64>,
    /// Bytes of memory for weights, cache and buffers.
    pub ram: u64,
    /// Bytes a second that the CPU reads from memory.
    pub ram_bandwidth: f64,
    /// Bytes a second that the card reads from its own.
    pub vram_bandwidth: f64,
    /// Bytes a second over the bus between them.
    pub pcie: f64,
    /// Bytes a second from the disk.
    pub disk: f64,
}

/// What a device holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Bytes of weights.
    pub weights: u64,
    /// Bytes of the cache.
    pub kv: u64,
    /// Bytes of buffers.
    pub buffers: u64,
    /// Bytes of the slots through which experts are streamed.
    pub slots: u64,
    /// Bytes of weights and cache that a token reads at the full context.
    pub read_per_token: u64,
}

impl Held {
    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        self.weights + self.kv + self.buffers + self.slots
    }
}

/// What a token's time is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Binds {
    /// Reading memory.
    Ram,
    /// Reading the card's memory.
    Vram,
    /// What goes over the bus.
    Pcie,
    /// Reading weights from the disk, again and again.
    Disk,
}

/// Where everything goes, and what follows.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// Where each part is computed.
    pub placement: Placement,
    /// What memory holds: what the CPU computes with, and the embedding.
    pub cpu: Held,
    /// What the card holds.
    pub gpu: Held,
    /// Bytes of the card that stay free.
    pub margin: u64,
    /// Bytes that go over the bus for a token.
    pub crossing: u64,
    /// Tokens a second at most, at the full context.
    pub tokens_per_second: f64,
    /// What takes the most of that time.
    pub binds: Binds,
    /// The longest context that fits with this placement.
    pub largest_context: usize,
    /// What does not fit, and what else should be known.
    pub notes: Vec<String>,
    /// Flags that would make it fit, or faster.
    pub advice: Vec<String>,
}

/// What one crossing takes at least, in seconds: starting a copy, and waiting for it.
const CROSSING_SECONDS: f64 = 20e-6;

/// Decides where everything goes.
pub fn plan(sizes: &Sizes, n_ctx: usize, machine: &Machine, request: &Request) -> Plan {
    let mut notes = Vec::new();
    let (placement, streams) = place(sizes, machine, request, &mut notes);
    let (cpu, gpu) = held(sizes, &placement, streams);
    let crossings = crossings(&placement);
    let crossing = (crossings * sizes.dim * size_of::<f32>()) as u64;

    let missing = cpu.bytes().saturating_sub(machine.ram) as f64 / cpu.weights.max(1) as f64;
    let times = [
        (cpu.read_per_token as f64 * (1.0 - missing.min(1.0)) / machine.ram_bandwidth, Binds::Ram),
        (gpu.read_per_token as f64 / machine.vram_bandwidth, Binds::Vram),
        (crossing as f64 / machine.pcie + crossings as f64 * CROSSING_SECONDS, Binds::Pcie),
        (cpu.read_per_token as f64 * missing.min(1.0) / machine.disk, Binds::Disk),
    ];
    let seconds: f64 = times.iter().map(|(seconds, _)| seconds).sum();
    let binds = times.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).map_or(Binds::Ram, |(_, binds)| binds);

    let kv_of = |lane: Lane| -> u64 {
        let layers = placement.layers.iter().zip(&sizes.layers);
        layers.filter(|(l, _)| l.mixer == lane).map(|(_, (mixer, _))| mixer.kv).sum()
    };
    let room = |total: u64, held: &Held, kv: u64| match kv {
        0 => usize::MAX,
        kv => (total.saturating_sub(held.bytes() - held.kv) as f64 / (kv as f64 / n_ctx.max(1) as f64)) as usize,
    };
    let card = machine.vram.map(|vram| vram.saturating_sub(request.margin));
    let on_card = card.map_or(usize::MAX, |card| room(card, &gpu, kv_of(Lane::Gpu)));
    let largest_context = on_card.min(room(machine.ram, &cpu, kv_of(Lane::Cpu)));

    let mut plan = Plan {
        placement,
        cpu,
        gpu,
        margin: request.margin,
        crossing,
        tokens_per_second: 1.0 / seconds,
        binds,
        largest_context,
        notes,
        advice: Vec::new(),
    };
    advise(&mut plan, sizes, machine, request);
    plan
}

/// A part that may go to the card: its place in the order, its bytes, and where the answer goes.
struct Candidate {
    /// Bytes that a token reads, per thousand of those that it takes: parts that are read whole first.
    density: u64,
    /// Among parts that are read whole, those of one layer together, the last layer first; among experts the smallest first.
    order: u64,
    bytes: u64,
    at: At,
}

#[derive(Clone, Copy)]
enum At {
    Head,
    Mixer(usize),
    Ffn(usize),
}

/// The placement, and whether there is room for two slots through which prompts stream the experts that stay with the CPU.
fn place(sizes: &Sizes, machine: &Machine, request: &Request, notes: &mut Vec<String>) -> (Placement, bool) {
    let n = sizes.layers.len();
    let mut placement = Placement::all(Lane::Cpu, n);
    let Some(vram) = machine.vram else {
        if matches!(request.gpu_layers, GpuLayers::All | GpuLayers::Count(1..)) {
            notes.push("there is no card: everything is computed by the CPU".to_owned());
        }
        return (placement, false);
    };
    let mut candidates = Vec::new();
    let mut taken = 0;
    let mut consider = |at: At, size: &Size, order: u64, say: Say| match say {
        Say::Must(Lane::Gpu) => {
            taken += size.bytes();
            Some(Lane::Gpu)
        }
        Say::Must(Lane::Cpu) => None,
        Say::Free => {
            let density = size.reads() * 1000 / size.bytes().max(1);
            candidates.push(Candidate { density, order, bytes: size.bytes(), at });
            None
        }
    };
    if consider(At::Head, &sizes.head, 0, request.head(&sizes.head.names)).is_some() {
        placement.head = Lane::Gpu;
    }
    let (mut divided, mut experts_must_stay) = (Vec::new(), false);
    for (layer, (mixer, ffn)) in sizes.layers.iter().enumerate() {
        let is_moe = ffn.table > 0;
        let from_last = 2 * (n - layer) as u64;
        let say = request.half(layer, n, true, is_moe, &mixer.names);
        if consider(At::Mixer(layer), mixer, from_last + 1, say).is_some() {
            placement.layers[layer].mixer = Lane::Gpu;
        }
        let say = request.half(layer, n, false, is_moe, &ffn.names);
        experts_must_stay |= is_moe && say == Say::Must(Lane::Cpu);
        // Experts: the smallest first, so that more layers fit; of equal ones the last.
        let order = if is_moe { ffn.bytes() + from_last } else { from_last };
        if consider(At::Ffn(layer), ffn, order, say).is_some() {
            placement.layers[layer].ffn = Lane::Gpu;
        }
        if request.divides(&mixer.names) || request.divides(&ffn.names) {
            divided.push(layer);
        }
    }
    if !divided.is_empty() {
        notes.push(format!(
            "--override-tensor names some matrices of a half of layers {}; a half stays together, with the CPU if any of it must",
            super::ranges(&divided)
        ));
    }

    candidates.sort_by_key(|c| (std::cmp::Reverse(c.density.min(990)), c.order));
    let mut room = vram.saturating_sub(request.margin + sizes.buffers).saturating_sub(taken);
    // Experts that stay with the CPU are streamed through two slots by prompts; that is worth a quarter of the room.
    let table = sizes.layers.iter().map(|(_, ffn)| ffn.table).max().unwrap_or(0);
    let waiting: u64 = candidates.iter().map(|c| c.bytes).sum();
    let stay = experts_must_stay || waiting > room;
    let streams = table > 0 && stay && 2 * table <= room / 4;
    if streams {
        room -= 2 * table;
    }
    for c in candidates {
        if c.bytes > room {
            continue;
        }
        room -= c.bytes;
        match c.at {
            At::Head => placement.head = Lane::Gpu,
            At::Mixer(layer) => placement.layers[layer].mixer = Lane::Gpu,
            At::Ffn(layer) => placement.layers[layer].ffn = Lane::Gpu,
        }
    }
    let used = placement.uses(Lane::Gpu);
    (placement, streams && used)
}

/// What memory and the card hold.
fn held(sizes: &Sizes, placement: &Placement, streams: bool) -> (Held, Held) {
    let (mut cpu, mut gpu) = (Held::default(), Held::default());
    let mut put = |lane: Lane, size: &Size| {
        let held = if lane == Lane::Gpu { &mut gpu } else { &mut cpu };
        held.weights += size.weights;
        held.kv += size.kv;
        held.read_per_token += size.reads();
    };
    for (lanes, (mixer, ffn)) in placement.layers.iter().zip(&sizes.layers) {
        put(lanes.mixer, mixer);
        put(lanes.ffn, ffn);
    }
    put(placement.head, &sizes.head);
    cpu.weights += match (sizes.tied_head, placement.head) {
        // The head is the embedding, which memory has already.
        (true, Lane::Cpu) => 0,
        _ => sizes.embedding,
    };
    cpu.read_per_token += sizes.embedding_read;
    cpu.buffers = sizes.buffers;
    if placement.uses(Lane::Gpu) {
        gpu.buffers = sizes.buffers;
    }
    if streams {
        let left = placement.layers.iter().zip(&sizes.layers).filter(|(l, _)| l.ffn == Lane::Cpu);
        gpu.slots = 2 * left.map(|(_, (_, ffn))| ffn.table).max().unwrap_or(0);
    }
    (cpu, gpu)
}

/// How often the residual crosses the bus for a token.
fn crossings(placement: &Placement) -> usize {
    let halves = placement.layers.iter().flat_map(|l| [l.mixer, l.ffn]);
    // It begins with the CPU, which looks up the embedding, and ends with the logits there.
    let lanes: Vec<Lane> = [Lane::Cpu].into_iter().chain(halves).chain([placement.head, Lane::Cpu]).collect();
    lanes.windows(2).filter(|pair| pair[0] != pair[1]).count()
}

/// Says what does not fit, and which flags would help.
fn advise(plan: &mut Plan, sizes: &Sizes, machine: &Machine, request: &Request) {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
    if let Some(vram) = machine.vram {
        let over = (plan.gpu.bytes() + request.margin).saturating_sub(vram);
        if over > 0 && plan.placement.uses(Lane::Gpu) {
            plan.notes.push(format!(
                "the card lacks {} of the {} that these flags give it; when loading, what does not fit stays with the CPU",
                gib(over),
                gib(plan.gpu.bytes() + request.margin)
            ));
            if sizes.layers.iter().any(|(_, ffn)| ffn.table > 0) && !request.cpu_moe {
                plan.advice.push("--cpu-moe".to_owned());
            }
            if request.gpu_layers != GpuLayers::Auto {
                plan.advice.push("--gpu-layers auto".to_owned());
            }
            if plan.gpu.kv > over {
                plan.advice.push("--cache-type-k q8_0 --cache-type-v q8_0".to_owned());
            }
        }
        if vram < request.margin + sizes.buffers {
            plan.notes.push(format!(
                "the card has {} free, less than the margin and the buffers of a batch, {}",
                gib(vram),
                gib(request.margin + sizes.buffers)
            ));
            plan.advice.push("--fit-target 256 --ubatch-size 64".to_owned());
        }
    }
    let over = plan.cpu.bytes().saturating_sub(machine.ram);
    if over > 0 {
        plan.notes.push(format!(
            "memory lacks {} of {}: so much of the weights is read from the disk again and again",
            gib(over),
            gib(plan.cpu.bytes())
        ));
        if plan.cpu.kv > over {
            plan.advice.push("--cache-type-k q8_0 --cache-type-v q8_0, or a smaller --ctx-size".to_owned());
        }
        plan.advice.push("a file of fewer bits (ostro quantize --dry-run shows sizes)".to_owned());
    }
    plan.advice.truncate(3);
}
