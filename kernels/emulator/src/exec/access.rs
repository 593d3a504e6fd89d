//! Accesses of a warp to memory: what is checked, what is counted, and where the bytes are.

use super::alu::{self, Lanes};
use super::block::Block;
use super::race::Who;
use super::{Fault, ILLEGAL_ADDRESS, LANES, LAUNCH_FAILED, MISALIGNED};
use crate::ptx::{Instruction, Space, Type};
use std::sync::atomic::{AtomicU32, Ordering};

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

impl Block<'_> {
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

    pub(super) fn load(&mut self, w: usize, i: &Instruction, active: u32, space: Space) -> Result<(), Fault> {
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

    pub(super) fn store(&mut self, w: usize, i: &Instruction, active: u32, space: Space) -> Result<(), Fault> {
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
    pub(super) fn atomic_add(&mut self, w: usize, i: &Instruction, active: u32, space: Space) -> Result<(), Fault> {
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
