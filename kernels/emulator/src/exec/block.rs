//! A block: its warps take turns from barrier to barrier. Within a warp the lanes that are furthest behind go first, so that those
//! which parted meet again where their ways do.

use super::alu::{self, Lanes};
use super::tensor;
use super::{Fault, LANES, LAUNCH_FAILED, Launch};
use crate::memory::Memory;
use crate::ptx::{Instruction, Kernel, Op, Preset, Shuffle};
use crate::settings::Settings;
use crate::stats::Counts;
use std::sync::atomic::AtomicU64;

/// Lanes at the same instruction.
#[derive(Clone, Copy)]
struct Group {
    at: usize,
    mask: u32,
}

pub(super) struct Warp {
    pub registers: Vec<Lanes>,
    /// By place in the code, the last first.
    groups: Vec<Group>,
    /// Lanes that exist and have not returned.
    alive: u32,
    waiting: bool,
    pub local: Vec<u8>,
    /// Barriers of the warp so far.
    pub epoch: u64,
}

/// A block and its memory, used for one after the other.
pub(super) struct Block<'a> {
    pub launch: &'a Launch<'a>,
    pub kernel: &'a Kernel,
    pub memory: &'a Memory,
    pub settings: &'a Settings,
    pub warps: Vec<Warp>,
    pub shared: Vec<u8>,
    pub shared_written: Vec<bool>,
    pub shared_tags: Vec<[AtomicU64; 2]>,
    pub index: u64,
    pub epoch: u64,
    pub counts: Counts,
    /// The allocation that was used last.
    pub near: (u64, u64),
    /// Whether more is checked than bounds and alignment.
    pub checked: bool,
}

impl<'a> Block<'a> {
    pub fn new(launch: &'a Launch<'a>, memory: &'a Memory, settings: &'a Settings) -> Block<'a> {
        let kernel = launch.kernel;
        let bytes = kernel.shared + launch.shared;
        let warp = || Warp {
            registers: vec![[0; LANES]; kernel.registers],
            groups: Vec::new(),
            alive: 0,
            waiting: false,
            local: vec![0; kernel.local * LANES],
            epoch: 0,
        };
        let tags = if settings.check_race { bytes } else { 0 };
        Block {
            launch,
            kernel,
            memory,
            settings,
            warps: (0..launch.threads.div_ceil(LANES as u32)).map(|_| warp()).collect(),
            shared: vec![0; bytes],
            shared_written: vec![false; bytes],
            shared_tags: (0..tags).map(|_| Default::default()).collect(),
            index: 0,
            epoch: 0,
            counts: Counts::default(),
            near: (0, 0),
            checked: settings.check_init || settings.check_race,
        }
    }

    /// Runs block `index` to its end.
    pub fn run(&mut self, index: u64) -> Result<(), Fault> {
        self.index = index;
        self.epoch = 0;
        // What a block before this one left in shared memory is not this one's.
        self.shared_written.fill(false);
        self.shared_tags.iter_mut().flatten().for_each(|tag| *tag.get_mut() = 0);
        let [x, y, _] = self.launch.grid.map(u64::from);
        let block = [index % x, index / x % y, index / (x * y)];
        for (w, warp) in self.warps.iter_mut().enumerate() {
            let lanes = (self.launch.threads as usize - w * LANES).min(LANES);
            warp.alive = if lanes == LANES { u32::MAX } else { (1 << lanes) - 1 };
            warp.groups.clear();
            warp.groups.push(Group { at: 0, mask: warp.alive });
            warp.waiting = false;
            warp.epoch = 0;
            for &(register, preset) in &self.kernel.presets {
                warp.registers[usize::from(register)] = std::array::from_fn(|lane| match preset {
                    Preset::Value(value) => value,
                    Preset::TidX => (w * LANES + lane) as u64,
                    Preset::NtidX => u64::from(self.launch.threads),
                    Preset::CtaidX => block[0],
                    Preset::CtaidY => block[1],
                    Preset::CtaidZ => block[2],
                    Preset::NctaidX => u64::from(self.launch.grid[0]),
                    Preset::NctaidY => u64::from(self.launch.grid[1]),
                    Preset::NctaidZ => u64::from(self.launch.grid[2]),
                    Preset::LaneId => lane as u64,
                });
            }
        }
        loop {
            for w in 0..self.warps.len() {
                self.run_warp(w)?;
            }
            let mut alive = self.warps.iter_mut().filter(|warp| warp.alive != 0).peekable();
            if alive.peek().is_none() {
                return Ok(());
            }
            // Every warp that is not done waits now.
            alive.for_each(|warp| {
                warp.waiting = false;
                warp.epoch += 1;
            });
            self.epoch += 1;
        }
    }

    pub fn fault(&self, code: u32, w: usize, lane: usize, i: &Instruction, what: &str) -> Fault {
        let thread = w * LANES + lane;
        let place = format!("{}, block {}, thread {thread}, PTX line {}", self.kernel.name, self.index, i.line);
        Fault { code, what: format!("{place}: {what}") }
    }

    /// Runs a warp until it waits or is done.
    fn run_warp(&mut self, w: usize) -> Result<(), Fault> {
        let kernel = self.kernel;
        while !self.warps[w].waiting {
            let warp = &mut self.warps[w];
            let Some(mut group) = warp.groups.pop() else { return Ok(()) };
            while let Some(next) = warp.groups.last().filter(|next| next.at == group.at) {
                group.mask |= next.mask;
                warp.groups.pop();
            }
            let until = warp.groups.last().map_or(usize::MAX, |next| next.at);
            // Straight on, up to where others are met.
            loop {
                let Some(i) = kernel.code.get(group.at) else {
                    let lane = group.mask.trailing_zeros() as usize;
                    let last = kernel.code.last().expect("a kernel has code");
                    return Err(self.fault(LAUNCH_FAILED, w, lane, last, "the code ends without a return"));
                };
                self.counts.instructions += 1;
                let warp = &mut self.warps[w];
                let active = match i.guard {
                    None => group.mask,
                    Some((register, wanted)) => {
                        let predicate = &warp.registers[usize::from(register)];
                        let holds = |lane: &usize| predicate[*lane] & 1 == u64::from(wanted);
                        group.mask & (0..LANES).filter(holds).fold(0, |mask, lane| mask | 1 << lane)
                    }
                };
                match i.op {
                    Op::Bra if active == group.mask => group.at = i.target,
                    Op::Bra if active == 0 => group.at += 1,
                    Op::Bra => {
                        self.counts.divergent += 1;
                        push(&mut warp.groups, Group { at: i.target, mask: active });
                        push(&mut warp.groups, Group { at: group.at + 1, mask: group.mask & !active });
                        break;
                    }
                    Op::Ret => {
                        warp.alive &= !active;
                        group.mask &= !active;
                        group.at += 1;
                    }
                    Op::Barrier if active != 0 => {
                        if active != warp.alive {
                            let lane = active.trailing_zeros() as usize;
                            let what = "a barrier that other lanes of the warp do not reach together with this one";
                            return Err(self.fault(LAUNCH_FAILED, w, lane, i, what));
                        }
                        warp.waiting = true;
                        push(&mut warp.groups, Group { at: group.at + 1, mask: group.mask });
                        break;
                    }
                    _ => {
                        if active != 0 {
                            self.execute(w, i, active)?;
                        }
                        group.at += 1;
                    }
                }
                if group.mask == 0 {
                    break;
                }
                if group.at >= until {
                    push(&mut self.warps[w].groups, group);
                    break;
                }
                if i.op == Op::Bra && group.at < until {
                    // A loop may come back to before others; they are still ahead.
                    continue;
                }
            }
        }
        Ok(())
    }

    fn execute(&mut self, w: usize, i: &Instruction, active: u32) -> Result<(), Fault> {
        match i.op {
            Op::Load(space) => self.load(w, i, active, space),
            Op::Store(space) => self.store(w, i, active, space),
            Op::AtomicAdd(space) => self.atomic_add(w, i, active, space),
            Op::WarpBarrier => {
                self.together(w, i, active, 0)?;
                self.warps[w].epoch += 1;
                Ok(())
            }
            Op::Shuffle(way) => self.shuffle(w, i, active, way),
            Op::Mma(kind) => {
                if active != u32::MAX {
                    let what = "a product of the tensor cores without all lanes of the warp";
                    return Err(self.fault(LAUNCH_FAILED, w, active.trailing_zeros() as usize, i, what));
                }
                let args: Vec<Lanes> = i.args.iter().map(|&r| self.warps[w].registers[usize::from(r)]).collect();
                for (&to, out) in i.to.iter().zip(tensor::mma(kind, &args)) {
                    self.warps[w].registers[usize::from(to)] = out;
                }
                Ok(())
            }
            Op::Pack => {
                let part = 8 * i.ty.bytes() / i.args.len();
                let registers = &self.warps[w].registers;
                let out = std::array::from_fn(|lane| {
                    let parts = i.args.iter().enumerate();
                    parts.fold(0, |all, (n, &r)| all | (registers[usize::from(r)][lane] & low(part)) << (n * part))
                });
                self.set(w, i.to[0], active, &out);
                Ok(())
            }
            Op::Unpack => {
                let part = 8 * i.ty.bytes() / i.to.len();
                let value = self.warps[w].registers[usize::from(i.args[0])];
                for (n, &to) in i.to.iter().enumerate() {
                    let out = value.map(|v| v >> (n * part) & low(part));
                    self.set(w, to, active, &out);
                }
                Ok(())
            }
            _ => {
                let registers = &self.warps[w].registers;
                let out = alu::result(i, |n| &registers[usize::from(i.args[n])]);
                let Some(out) = out else {
                    let what = "an instruction of types that are not emulated";
                    return Err(self.fault(LAUNCH_FAILED, w, active.trailing_zeros() as usize, i, what));
                };
                self.set(w, i.to[0], active, &out);
                Ok(())
            }
        }
    }

    fn set(&mut self, w: usize, register: u16, active: u32, values: &Lanes) {
        let to = &mut self.warps[w].registers[usize::from(register)];
        if active == u32::MAX {
            *to = *values;
        } else {
            for (lane, value) in values.iter().enumerate().filter(|(lane, _)| active >> lane & 1 == 1) {
                to[lane] = *value;
            }
        }
    }

    /// Whether all lanes that a mask names are here.
    fn together(&self, w: usize, i: &Instruction, active: u32, mask: usize) -> Result<(), Fault> {
        let lane = active.trailing_zeros() as usize;
        let named = self.warps[w].registers[usize::from(i.args[mask])][lane] as u32;
        match named & self.warps[w].alive == active && named & active == active {
            true => Ok(()),
            false => {
                let what = format!("lanes {named:#x} are named, {active:#x} are here");
                Err(self.fault(LAUNCH_FAILED, w, lane, i, &what))
            }
        }
    }

    fn shuffle(&mut self, w: usize, i: &Instruction, active: u32, way: Shuffle) -> Result<(), Fault> {
        self.together(w, i, active, 3)?;
        let value = |n: usize| self.warps[w].registers[usize::from(i.args[n])];
        let (a, b, c) = (value(0), value(1), value(2));
        let (mut out, mut inside) = ([0; LANES], [0; LANES]);
        for lane in (0..LANES).filter(|lane| active >> lane & 1 == 1) {
            let (b, clamp, segment) = (b[lane] as usize & 31, c[lane] as usize & 31, c[lane] as usize >> 8 & 31);
            let most = lane & segment | clamp & !segment;
            let (from, ok) = match way {
                Shuffle::Up => (lane.wrapping_sub(b), lane as isize - b as isize >= most as isize),
                Shuffle::Down => (lane + b, lane + b <= most),
                Shuffle::Bfly => (lane ^ b, (lane ^ b) <= most),
                Shuffle::Idx => (lane & segment | b & !segment, (lane & segment | b & !segment) <= most),
            };
            let from = if ok { from } else { lane };
            if active >> from & 1 == 0 {
                return Err(self.fault(
                    LAUNCH_FAILED,
                    w,
                    lane,
                    i,
                    &format!("a shuffle from lane {from}, which is not here"),
                ));
            }
            (out[lane], inside[lane]) = (a[from], u64::from(ok));
        }
        self.set(w, i.to[0], active, &out);
        if let Some(&predicate) = i.to.get(1) {
            self.set(w, predicate, active, &inside);
        }
        Ok(())
    }
}

/// So many low bits.
fn low(bits: usize) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}

/// Keeps the groups by place, the last first, those that meet as one.
fn push(groups: &mut Vec<Group>, group: Group) {
    let at = groups.partition_point(|other| other.at > group.at);
    match groups.get_mut(at).filter(|other| other.at == group.at) {
        Some(other) => other.mask |= group.mask,
        None => groups.insert(at, group),
    }
}
