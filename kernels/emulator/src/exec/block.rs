//! A block: its warps take turns from barrier to barrier. Within a warp the lanes that are furthest behind go first, so that those
//! which parted meet again where their ways do.

use super::alu::{self, Lanes};
use super::race::Who;
use super::tensor;
use super::{Fault, ILLEGAL_ADDRESS, LANES, LAUNCH_FAILED, Launch, MISALIGNED};
use crate::memory::Memory;
use crate::ptx::{Instruction, Kernel, Op, Preset, Shuffle, Space, Type};
use crate::settings::Settings;
use crate::stats::Counts;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Lanes at the same instruction.
#[derive(Clone, Copy)]
struct Group {
    at: usize,
    mask: u32,
}

struct Warp {
    registers: Vec<Lanes>,
    /// By place in the code, the last first.
    groups: Vec<Group>,
    /// Lanes that exist and have not returned.
    alive: u32,
    waiting: bool,
    local: Vec<u8>,
    /// Barriers of the warp so far.
    epoch: u64,
}

/// A block and its memory, used for one after the other.
pub(super) struct Block<'a> {
    launch: &'a Launch<'a>,
    kernel: &'a Kernel,
    memory: &'a Memory,
    settings: &'a Settings,
    warps: Vec<Warp>,
    shared: Vec<u8>,
    shared_written: Vec<bool>,
    shared_tags: Vec<[AtomicU64; 2]>,
    index: u64,
    epoch: u64,
    pub counts: Counts,
    /// The allocation that was used last.
    near: (u64, u64),
    /// Whether more is checked than bounds and alignment.
    checked: bool,
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

    fn fault(&self, code: u32, w: usize, lane: usize, i: &Instruction, what: &str) -> Fault {
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

    fn who(&self, w: usize, lane: usize) -> Who {
        let thread = (w * LANES + lane) as u64;
        let warp_epoch = self.warps[w].epoch;
        Who { launch: self.launch.number, block: self.index, thread, epoch: self.epoch, warp_epoch }
    }

    /// Counts a request of a warp, as the card's memory or the banks of shared memory see it.
    fn count(&mut self, space: Space, request: &Request, bytes: usize) {
        let addresses: Vec<(usize, u64)> = request.iter().collect();
        match space {
            Space::Global => {
                let mut sectors: Vec<u64> =
                    addresses.iter().flat_map(|&(_, at)| at / 32..=(at + bytes as u64 - 1) / 32).collect();
                sectors.sort_unstable();
                sectors.dedup();
                self.counts.requests += 1;
                self.counts.sectors += sectors.len() as u64;
                self.counts.bytes += (addresses.len() * bytes) as u64;
            }
            Space::Shared => {
                // Requests of more than 4 bytes a lane are made in parts of the warp.
                let lanes_at_once = (LANES * 4 / bytes.max(4)).max(1);
                self.counts.shared += 1;
                let (mut turns, mut parts) = (0, 0);
                for part in addresses.chunk_by(|a, b| a.0 / lanes_at_once == b.0 / lanes_at_once) {
                    let mut words: Vec<u64> =
                        part.iter().flat_map(|&(_, at)| at / 4..=(at + bytes as u64 - 1) / 4).collect();
                    words.sort_unstable();
                    words.dedup();
                    let mut banks = [0u64; 32];
                    words.iter().for_each(|word| banks[(word % 32) as usize] += 1);
                    turns += banks.iter().max().copied().unwrap_or(0);
                    parts += 1;
                }
                self.counts.conflicts += turns.saturating_sub(parts);
            }
            Space::Local | Space::Param => {}
        }
    }

    /// The lanes of a request and their addresses.
    fn addresses(&self, w: usize, i: &Instruction, active: u32) -> Request {
        let base = &self.warps[w].registers[usize::from(i.args[0])];
        Request { active, at: std::array::from_fn(|lane| base[lane].wrapping_add_signed(i.offset)) }
    }

    /// Where the bytes of an ordinary access are, without a word of what is wrong where there is something.
    #[inline(always)]
    fn place(&self, at: u64, space: Space, bytes: usize) -> Option<*mut u8> {
        if self.checked || !at.is_multiple_of(bytes as u64) {
            return None;
        }
        let within = |len: usize| at < len as u64 && at as usize + bytes <= len;
        match space {
            Space::Global => {
                let (start, end) = self.near;
                let inside = at >= start && at < end && at + bytes as u64 <= end;
                inside.then(|| self.memory.host(self.memory.unchecked_offset(at)))
            }
            Space::Shared => {
                within(self.shared.len()).then(|| self.shared.as_ptr().cast_mut().wrapping_add(at as usize))
            }
            Space::Param => {
                let parameters = &self.launch.parameters;
                within(parameters.len()).then(|| parameters.as_ptr().cast_mut().wrapping_add(at as usize))
            }
            Space::Local => None,
        }
    }

    /// Checks an access, and gives where its bytes are.
    fn access(
        &mut self,
        w: usize,
        i: &Instruction,
        (lane, at): (usize, u64),
        space: Space,
        bytes: usize,
        how: How,
    ) -> Result<*mut u8, Fault> {
        let (writes, atomic) = (how != How::Read, how == How::Atomic);
        if !at.is_multiple_of(bytes as u64) {
            return Err(self.fault(MISALIGNED, w, lane, i, &format!("{bytes} bytes at {at:#x}, which is not aligned")));
        }
        let beyond = |len: usize| at.checked_add(bytes as u64).is_none_or(|end| end > len as u64);
        let outside = |name: &str| format!("{bytes} bytes at {at:#x} are outside {name}");
        match space {
            Space::Global => {
                let (start, end) = self.near;
                if at < start || at + bytes as u64 > end {
                    let Some(near) = self.memory.allocation(at).filter(|&(_, end)| at + bytes as u64 <= end) else {
                        return Err(self.fault(ILLEGAL_ADDRESS, w, lane, i, &outside("every allocation")));
                    };
                    self.near = near;
                }
                let offset = self.memory.unchecked_offset(at);
                if self.settings.check_init {
                    if writes {
                        self.memory.note_written(offset, bytes);
                    } else if !self.memory.is_written(offset, bytes) {
                        return Err(self.fault(
                            ILLEGAL_ADDRESS,
                            w,
                            lane,
                            i,
                            &format!("{bytes} bytes at {at:#x} were never written"),
                        ));
                    }
                }
                if self.settings.check_race && !atomic {
                    let who = self.who(w, lane);
                    let raced = (offset..offset + bytes).any(|byte| {
                        let tags = self.memory.tags(byte).expect("races are checked");
                        who.touch(tags, writes)
                    });
                    if raced {
                        return Err(self.fault(
                            LAUNCH_FAILED,
                            w,
                            lane,
                            i,
                            &format!("a race at {at:#x} of the card's memory"),
                        ));
                    }
                }
                Ok(self.memory.host(offset))
            }
            Space::Shared => {
                if beyond(self.shared.len()) {
                    return Err(self.fault(ILLEGAL_ADDRESS, w, lane, i, &outside("shared memory")));
                }
                let place = at as usize..at as usize + bytes;
                if self.settings.check_init {
                    if writes {
                        self.shared_written[place.clone()].fill(true);
                    } else if self.shared_written[place.clone()].contains(&false) {
                        return Err(self.fault(
                            ILLEGAL_ADDRESS,
                            w,
                            lane,
                            i,
                            &format!("shared bytes at {at:#x} were never written"),
                        ));
                    }
                }
                if self.settings.check_race && !atomic {
                    let who = self.who(w, lane);
                    let raced = place.into_iter().any(|byte| {
                        let [writer, reader] = &self.shared_tags[byte];
                        who.touch([writer, reader], writes)
                    });
                    if raced {
                        return Err(self.fault(
                            LAUNCH_FAILED,
                            w,
                            lane,
                            i,
                            &format!("a race at {at:#x} of shared memory"),
                        ));
                    }
                }
                Ok(self.shared.as_mut_ptr().wrapping_add(at as usize))
            }
            Space::Local => {
                if beyond(self.kernel.local) {
                    return Err(self.fault(ILLEGAL_ADDRESS, w, lane, i, &outside("the thread's own memory")));
                }
                let base = lane * self.kernel.local;
                Ok(self.warps[w].local.as_mut_ptr().wrapping_add(base + at as usize))
            }
            Space::Param => {
                if writes || beyond(self.launch.parameters.len()) {
                    return Err(self.fault(ILLEGAL_ADDRESS, w, lane, i, &outside("the parameters")));
                }
                Ok(self.launch.parameters.as_ptr().cast_mut().wrapping_add(at as usize))
            }
        }
    }

    fn load(&mut self, w: usize, i: &Instruction, active: u32, space: Space) -> Result<(), Fault> {
        let (bytes, lanes) = (i.ty.bytes(), self.addresses(w, i, active));
        if self.settings.stats.is_some() {
            self.count(space, &lanes, bytes * i.to.len());
        }
        for (lane, at) in lanes.iter() {
            let from = match self.place(at, space, bytes * i.to.len()) {
                Some(place) => place,
                None => self.access(w, i, (lane, at), space, bytes * i.to.len(), How::Read)?,
            };
            for (n, &to) in i.to.iter().enumerate() {
                // SAFETY: `access` has checked so many bytes, aligned to all of them.
                let value = unsafe {
                    let from = from.add(n * bytes);
                    match bytes {
                        1 => u64::from(from.read()),
                        2 => u64::from(from.cast::<u16>().read_unaligned()),
                        4 => u64::from(from.cast::<u32>().read_unaligned()),
                        _ => from.cast::<u64>().read_unaligned(),
                    }
                };
                let value = if i.ty.signed() { alu::widened(value, i.ty, i.width) } else { value };
                self.warps[w].registers[usize::from(to)][lane] = value;
            }
        }
        Ok(())
    }

    fn store(&mut self, w: usize, i: &Instruction, active: u32, space: Space) -> Result<(), Fault> {
        let (bytes, lanes, values) = (i.ty.bytes(), self.addresses(w, i, active), &i.args[1..]);
        if self.settings.stats.is_some() {
            let count = bytes * (i.args.len() - 1);
            self.count(space, &lanes, count);
        }
        for (lane, at) in lanes.iter() {
            // Parameters are not written.
            let place = if space == Space::Param { None } else { self.place(at, space, bytes * values.len()) };
            let to = match place {
                Some(place) => place,
                None => self.access(w, i, (lane, at), space, bytes * values.len(), How::Write)?,
            };
            for (n, &from) in values.iter().enumerate() {
                let value = self.warps[w].registers[usize::from(from)][lane];
                // SAFETY: as in `load`.
                unsafe {
                    let to = to.add(n * bytes);
                    match bytes {
                        1 => to.write(value as u8),
                        2 => to.cast::<u16>().write_unaligned(value as u16),
                        4 => to.cast::<u32>().write_unaligned(value as u32),
                        _ => to.cast::<u64>().write_unaligned(value),
                    }
                }
            }
        }
        Ok(())
    }

    /// Additions to 32 bits, whole or floating.
    fn atomic_add(&mut self, w: usize, i: &Instruction, active: u32, space: Space) -> Result<(), Fault> {
        let lanes = self.addresses(w, i, active);
        if self.settings.stats.is_some() {
            self.count(space, &lanes, i.ty.bytes());
        }
        for (lane, at) in lanes.iter() {
            if i.ty.bytes() != 4 {
                return Err(self.fault(LAUNCH_FAILED, w, lane, i, "an atomic addition that is not of 32 bits"));
            }
            let place = self.access(w, i, (lane, at), space, 4, How::Atomic)?;
            let value = self.warps[w].registers[usize::from(i.args[1])][lane] as u32;
            // SAFETY: four aligned bytes, which other threads of the emulator touch by this alone.
            let word = unsafe { &*place.cast::<AtomicU32>() };
            let add = |old: u32| match i.ty {
                Type::F32 => (f32::from_bits(old) + f32::from_bits(value)).to_bits(),
                _ => old.wrapping_add(value),
            };
            let old =
                word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |old| Some(add(old))).unwrap_or_else(|old| old);
            if let Some(&to) = i.to.first() {
                self.warps[w].registers[usize::from(to)][lane] = u64::from(old);
            }
        }
        Ok(())
    }
}

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Read,
    Write,
    Atomic,
}

/// The addresses that the lanes of a warp ask for.
struct Request {
    active: u32,
    at: Lanes,
}

impl Request {
    fn iter(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        (0..LANES).filter(|lane| self.active >> lane & 1 == 1).map(|lane| (lane, self.at[lane]))
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
