//! A placement from sizes, a machine and a request, and what it costs.

use super::request::Say;
use super::{GpuLayers, Lane, Placement, Request, Size, Sizes};
use crate::model::Role;
use serde::Serialize;
use std::collections::BTreeMap;

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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Bytes of weights.
    pub weights: u64,
    /// The same by what they are for.
    pub roles: BTreeMap<Role, u64>,
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
    pub largest_context: Longest,
    /// Bytes that the card is short of for what it is given and the margin.
    pub card_lacks: u64,
    /// Bytes that memory is short of.
    pub memory_lacks: u64,
    /// What does not fit, and what else should be known.
    pub notes: Vec<String>,
}

/// The longest context, in tokens; none where a device keeps no cache and so bounds nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Longest {
    /// What the card's room allows.
    pub card: Option<usize>,
    /// What memory allows.
    pub memory: Option<usize>,
}

impl Longest {
    /// What both allow.
    pub fn of_both(&self) -> Option<usize> {
        self.card.into_iter().chain(self.memory).min()
    }
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

    let longest = |total: u64, held: &Held| match held.kv / n_ctx.max(1) as u64 {
        0 => None,
        // The slots go where a longer cache needs the room.
        position => Some((total.saturating_sub(held.bytes() - held.kv - held.slots) / position) as usize),
    };
    let card = machine.vram.map(|vram| vram.saturating_sub(request.margin));
    let largest_context =
        Longest { card: card.and_then(|card| longest(card, &gpu)), memory: longest(machine.ram, &cpu) };
    let card_lacks = match machine.vram {
        Some(vram) if placement.uses(Lane::Gpu) => (gpu.bytes() + request.margin).saturating_sub(vram),
        _ => 0,
    };
    let memory_lacks = cpu.bytes().saturating_sub(machine.ram);

    let mut plan = Plan {
        placement,
        cpu,
        gpu,
        margin: request.margin,
        crossing,
        tokens_per_second: 1.0 / seconds,
        binds,
        largest_context,
        card_lacks,
        memory_lacks,
        notes,
    };
    tell_what_lacks(&mut plan, sizes, machine, request);
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

    let names = sizes.layers.iter().flat_map(|(m, f)| [m, f]).chain([&sizes.head]).flat_map(|size| &size.names);
    for (regex, _) in &request.overrides {
        if !names.clone().any(|name| regex.is_match(name)) {
            notes.push(format!(
                "--override-tensor {regex} moves nothing: no matrix of attention, of a feed-forward part or of the head has such a name"
            ));
        }
    }
    if request.no_kv_offload && sizes.layers.iter().any(|(m, _)| request.overridden(&m.names) == Some(Lane::Gpu)) {
        notes.push(
            "--no-kv-offload keeps attention with the CPU, its matrices that --override-tensor names too".to_owned(),
        );
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
        for (&role, &bytes) in &size.roles {
            *held.roles.entry(role).or_default() += bytes;
        }
        held.kv += size.kv;
        held.read_per_token += size.reads();
    };
    for (lanes, (mixer, ffn)) in placement.layers.iter().zip(&sizes.layers) {
        put(lanes.mixer, mixer);
        put(lanes.ffn, ffn);
    }
    put(placement.head, &sizes.head);
    let embedding = match (sizes.tied_head, placement.head) {
        // The head is the embedding, which memory has already.
        (true, Lane::Cpu) => 0,
        _ => sizes.embedding,
    };
    cpu.weights += embedding + sizes.tables;
    for (role, bytes) in [(Role::Embed, embedding), (Role::Table, sizes.tables)].into_iter().filter(|(_, b)| *b > 0) {
        *cpu.roles.entry(role).or_default() += bytes;
    }
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

/// Says what does not fit.
fn tell_what_lacks(plan: &mut Plan, sizes: &Sizes, machine: &Machine, request: &Request) {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
    if plan.card_lacks > 0 {
        plan.notes.push(format!(
            "the card lacks {} of the {} that these flags give it; when loading, what does not fit stays with the CPU",
            gib(plan.card_lacks),
            gib(plan.gpu.bytes() + request.margin)
        ));
    }
    if let Some(vram) = machine.vram.filter(|&vram| vram < request.margin + sizes.buffers)
        && request.gpu_layers != GpuLayers::Count(0)
    {
        plan.notes.push(format!(
            "the card has {} free, less than the margin and the buffers of a batch, {}",
            gib(vram),
            gib(request.margin + sizes.buffers)
        ));
    }
    if plan.memory_lacks > 0 {
        plan.notes.push(format!(
            "memory lacks {} of {}: so much of the weights is read from the disk again and again",
            gib(plan.memory_lacks),
            gib(plan.cpu.bytes())
        ));
    }
}
