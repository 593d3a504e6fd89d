//! The driver's state: a card, its streams and events, modules, and errors that stay.
//!
//! Streams are lazy: what is queued runs when somebody waits for it, and pinned memory of the host is read and written then. So a
//! wait that is missing shows as wrong data, and not once in a thousand runs.

use crate::exec::{self, Fault, Launch};
use crate::memory::Memory;
use crate::ptx::{self, Kernel};
use crate::settings::Settings;
use crate::stats::Stats;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// What the driver answers; the numbers of `cuda.h`.
pub mod code {
    #![allow(missing_docs, reason = "the names are CUDA's own")]
    pub const SUCCESS: u32 = 0;
    pub const INVALID_VALUE: u32 = 1;
    pub const OUT_OF_MEMORY: u32 = 2;
    pub const NO_DEVICE: u32 = 100;
    pub const INVALID_DEVICE: u32 = 101;
    pub const INVALID_CONTEXT: u32 = 201;
    pub const NO_BINARY_FOR_GPU: u32 = 209;
    pub const INVALID_PTX: u32 = 218;
    pub const UNSUPPORTED_PTX_VERSION: u32 = 222;
    pub const INVALID_HANDLE: u32 = 400;
    pub const NOT_FOUND: u32 = 500;
    pub const LAUNCH_OUT_OF_RESOURCES: u32 = 701;
    pub const UNKNOWN: u32 = 999;
}

/// An answer that is no success.
pub type Answer<T> = Result<T, u32>;

/// Bytes of the host: those of a copy that was made at once, or pinned memory that is read when the copy runs.
pub enum Source {
    /// They were copied when the copy was queued.
    Copied(Vec<u8>),
    /// An address of pinned memory, and a length.
    Pinned(usize, usize),
}

/// Something that a stream has to do.
pub enum Work {
    /// From the host to the card.
    ToCard(Source, u64),
    /// From the card to pinned memory of the host.
    ToHost(u64, usize, usize),
    /// Within the card: from, to, bytes.
    Within(u64, u64, usize),
    /// Set bytes of the card.
    Fill(u64, u8, usize),
    /// A kernel.
    Kernel(Box<KernelWork>),
    /// Mark an event.
    Record(u64, u64),
    /// Wait for an event's mark.
    Wait(u64, u64),
}

/// A queued launch.
pub struct KernelWork {
    kernel: Arc<Kernel>,
    grid: [u32; 3],
    threads: u32,
    shared: usize,
    parameters: Vec<u8>,
    number: u64,
}

#[derive(Default)]
struct Event {
    /// The last mark that was queued, and in which stream.
    queued: Option<(u64, u64)>,
    /// The last mark that a stream has passed, and when.
    passed: u64,
    at: Option<std::time::Instant>,
}

/// Everything.
pub struct Driver {
    /// What the card is like.
    pub settings: Settings,
    memory: Memory,
    streams: HashMap<u64, VecDeque<Work>>,
    events: HashMap<u64, Event>,
    kernels: HashMap<u64, Arc<Kernel>>,
    modules: HashMap<u64, HashMap<String, u64>>,
    pinned: Vec<(usize, usize)>,
    handles: u64,
    launches: u64,
    error: Option<u32>,
    /// What was counted.
    pub stats: Stats,
}

impl Driver {
    /// A driver with a card.
    pub fn new(settings: Settings) -> Driver {
        Driver {
            memory: Memory::new(settings.memory, settings.check_init, settings.check_race),
            settings,
            streams: HashMap::from([(0, VecDeque::new())]),
            events: HashMap::new(),
            kernels: HashMap::new(),
            modules: HashMap::new(),
            pinned: Vec::new(),
            handles: 0x1000,
            launches: 0,
            error: None,
            stats: Stats::default(),
        }
    }

    fn handle(&mut self) -> u64 {
        self.handles += 0x10;
        self.handles
    }

    /// An error of a kernel stays: every later call gives it.
    ///
    /// # Errors
    /// That error.
    pub fn check(&self) -> Answer<()> {
        self.error.map_or(Ok(()), Err)
    }

    /// Free bytes and all.
    pub fn memory_info(&self) -> (u64, u64) {
        self.memory.info()
    }

    /// Hands out memory of the card.
    ///
    /// # Errors
    /// No room.
    pub fn allocate(&mut self, bytes: usize) -> Answer<u64> {
        if bytes == 0 {
            return Err(code::INVALID_VALUE);
        }
        self.memory.allocate(bytes as u64).ok_or(code::OUT_OF_MEMORY)
    }

    /// Takes memory back, once what is queued is done.
    ///
    /// # Errors
    /// An address that was not handed out.
    pub fn free(&mut self, at: u64) -> Answer<()> {
        self.synchronize_all()?;
        if self.memory.free(at) { Ok(()) } else { Err(code::INVALID_VALUE) }
    }

    /// Notes pinned memory of the host.
    pub fn pin(&mut self, at: usize, len: usize) {
        self.pinned.push((at, len));
    }

    /// Forgets it; its length.
    pub fn unpin(&mut self, at: usize) -> Option<usize> {
        let i = self.pinned.iter().position(|&(start, _)| start == at)?;
        Some(self.pinned.swap_remove(i).1)
    }

    /// Whether bytes of the host are pinned.
    pub fn is_pinned(&self, at: usize, len: usize) -> bool {
        self.pinned.iter().any(|&(start, size)| start <= at && at + len <= start + size)
    }

    /// Compiles PTX.
    ///
    /// # Errors
    /// PTX that is newer than the driver, for another card, or not understood.
    pub fn load(&mut self, text: &str) -> Answer<u64> {
        let module = ptx::parse(text).map_err(|what| {
            eprintln!("emulator: PTX: {what}");
            code::INVALID_PTX
        })?;
        std::thread::sleep(std::time::Duration::from_millis(self.settings.compile_ms));
        // PTX 8.0 came with CUDA 12.0, 8.4 with 12.4, 9.0 with 13.0.
        let (major, minor) = (self.settings.driver / 1000, self.settings.driver % 1000 / 10);
        if module.version > (major - 4) * 10 + minor {
            return Err(code::UNSUPPORTED_PTX_VERSION);
        }
        if module.target > self.settings.capability {
            return Err(code::NO_BINARY_FOR_GPU);
        }
        let mut functions = HashMap::new();
        for kernel in module.kernels {
            let handle = self.handle();
            functions.insert(kernel.name.clone(), handle);
            self.kernels.insert(handle, Arc::new(kernel));
        }
        let handle = self.handle();
        self.modules.insert(handle, functions);
        Ok(handle)
    }

    /// A kernel of a module.
    ///
    /// # Errors
    /// None of that name.
    pub fn function(&self, module: u64, name: &str) -> Answer<u64> {
        let functions = self.modules.get(&module).ok_or(code::INVALID_HANDLE)?;
        functions.get(name).copied().ok_or(code::NOT_FOUND)
    }

    /// Sizes and places of a kernel's parameters.
    ///
    /// # Errors
    /// No kernel.
    pub fn parameters(&self, function: u64) -> Answer<(Vec<(usize, usize)>, usize)> {
        let kernel = self.kernels.get(&function).ok_or(code::INVALID_HANDLE)?;
        Ok((kernel.arguments.clone(), kernel.parameters))
    }

    /// Queues a kernel.
    ///
    /// # Errors
    /// A launch that no card would take.
    pub fn launch(
        &mut self,
        function: u64,
        grid: [u32; 3],
        threads: u32,
        shared: usize,
        stream: u64,
        parameters: Vec<u8>,
    ) -> Answer<()> {
        self.launches += 1;
        if self.settings.lose_after.is_some_and(|most| self.launches > most) {
            self.error = Some(code::UNKNOWN);
            return Err(code::UNKNOWN);
        }
        let kernel = self.kernels.get(&function).ok_or(code::INVALID_HANDLE)?.clone();
        if threads == 0
            || threads > 1024
            || grid.contains(&0)
            || grid[1] > 65_535
            || grid[2] > 65_535
            || grid[0] > 1 << 31
        {
            return Err(code::INVALID_VALUE);
        }
        // More than 48 KiB must be asked for by an attribute, which nobody does here.
        if threads as usize > kernel.most_threads || kernel.shared + shared > 48 << 10 {
            return Err(code::LAUNCH_OUT_OF_RESOURCES);
        }
        let work = KernelWork { kernel, grid, threads, shared, parameters, number: self.launches };
        self.queue(stream, Work::Kernel(Box::new(work)))
    }

    /// Makes a stream.
    pub fn stream(&mut self) -> u64 {
        let handle = self.handle();
        self.streams.insert(handle, VecDeque::new());
        handle
    }

    /// Ends a stream, once what is queued is done.
    ///
    /// # Errors
    /// No stream.
    pub fn end_stream(&mut self, stream: u64) -> Answer<()> {
        self.synchronize(stream)?;
        self.streams.remove(&stream).map(|_| ()).ok_or(code::INVALID_HANDLE)
    }

    /// Queues some work.
    ///
    /// # Errors
    /// No stream, or an address that is not the card's.
    pub fn queue(&mut self, stream: u64, work: Work) -> Answer<()> {
        let fits = |at: u64, len: usize| len == 0 || self.memory.offset(at, len).is_some();
        let ok = match &work {
            Work::ToCard(Source::Copied(bytes), at) => fits(*at, bytes.len()),
            Work::ToCard(Source::Pinned(_, len), at) => fits(*at, *len),
            Work::ToHost(at, _, len) | Work::Fill(at, _, len) => fits(*at, *len),
            Work::Within(from, to, len) => fits(*from, *len) && fits(*to, *len),
            _ => true,
        };
        if !ok {
            return Err(code::INVALID_VALUE);
        }
        self.streams.get_mut(&stream).ok_or(code::INVALID_HANDLE)?.push_back(work);
        Ok(())
    }

    /// Makes an event.
    pub fn event(&mut self) -> u64 {
        let handle = self.handle();
        self.events.insert(handle, Event::default());
        handle
    }

    /// Ends it.
    ///
    /// # Errors
    /// No event.
    pub fn end_event(&mut self, event: u64) -> Answer<()> {
        self.events.remove(&event).map(|_| ()).ok_or(code::INVALID_HANDLE)
    }

    /// Queues a mark.
    ///
    /// # Errors
    /// No event or stream.
    pub fn record(&mut self, event: u64, stream: u64) -> Answer<()> {
        let mark = self.handle();
        self.events.get_mut(&event).ok_or(code::INVALID_HANDLE)?.queued = Some((mark, stream));
        self.queue(stream, Work::Record(event, mark))
    }

    /// Makes a stream wait for an event's last mark.
    ///
    /// # Errors
    /// No event or stream.
    pub fn wait(&mut self, stream: u64, event: u64) -> Answer<()> {
        match self.events.get(&event).ok_or(code::INVALID_HANDLE)?.queued {
            Some((mark, _)) => self.queue(stream, Work::Wait(event, mark)),
            None => Ok(()),
        }
    }

    /// Waits for an event's last mark.
    ///
    /// # Errors
    /// What went wrong on the way.
    pub fn synchronize_event(&mut self, event: u64) -> Answer<()> {
        let queued = self.events.get(&event).ok_or(code::INVALID_HANDLE)?.queued;
        queued.map_or(Ok(()), |(mark, _)| self.run_to(event, mark))
    }

    /// Milliseconds between two marks.
    ///
    /// # Errors
    /// Events that were not passed.
    pub fn elapsed(&self, start: u64, end: u64) -> Answer<f32> {
        let at = |event| self.events.get(&event).and_then(|e| e.at).ok_or(code::INVALID_HANDLE);
        Ok(at(end)?.saturating_duration_since(at(start)?).as_secs_f32() * 1e3)
    }

    /// Waits for a stream.
    ///
    /// # Errors
    /// What went wrong on the way.
    pub fn synchronize(&mut self, stream: u64) -> Answer<()> {
        self.stats.waits += 1;
        self.drain(stream)
    }

    /// Waits for all streams.
    ///
    /// # Errors
    /// What went wrong on the way.
    pub fn synchronize_all(&mut self) -> Answer<()> {
        let mut all: Vec<u64> = self.streams.keys().copied().collect();
        all.sort_unstable();
        all.into_iter().try_for_each(|stream| self.drain(stream))
    }

    fn drain(&mut self, stream: u64) -> Answer<()> {
        self.check()?;
        while let Some(work) = self.streams.get_mut(&stream).ok_or(code::INVALID_HANDLE)?.pop_front() {
            self.run(work)?;
        }
        Ok(())
    }

    /// Runs the stream of a mark up to it.
    fn run_to(&mut self, event: u64, mark: u64) -> Answer<()> {
        self.check()?;
        while self.events.get(&event).is_some_and(|e| e.passed < mark) {
            let holds = |work: &Work| matches!(work, Work::Record(e, m) if *e == event && *m >= mark);
            let stream = self.streams.iter().find(|(_, queue)| queue.iter().any(holds)).map(|(&stream, _)| stream);
            let Some(stream) = stream else { return Ok(()) };
            let work = self.streams.get_mut(&stream).and_then(VecDeque::pop_front).ok_or(code::INVALID_HANDLE)?;
            self.run(work)?;
        }
        Ok(())
    }

    fn run(&mut self, work: Work) -> Answer<()> {
        let place = |memory: &Memory, at: u64, len: usize| memory.offset(at, len).ok_or(code::INVALID_VALUE);
        match work {
            Work::ToCard(source, to) => {
                let (from, len) = match &source {
                    Source::Copied(bytes) => (bytes.as_ptr(), bytes.len()),
                    Source::Pinned(at, len) => (*at as *const u8, *len),
                };
                self.stats.copies += 1;
                self.stats.to_card += len as u64;
                if len > 0 {
                    let offset = place(&self.memory, to, len)?;
                    // SAFETY: pinned memory or our own copy of so many bytes, to memory of the card of as many.
                    unsafe { std::ptr::copy_nonoverlapping(from, self.memory.host(offset), len) };
                    self.memory.note_written(offset, len);
                }
            }
            Work::ToHost(from, to, len) => {
                self.stats.copies += 1;
                self.stats.from_card += len as u64;
                if len > 0 {
                    let offset = place(&self.memory, from, len)?;
                    // SAFETY: the caller's memory has so many bytes, and the card's has.
                    unsafe { std::ptr::copy_nonoverlapping(self.memory.host(offset), to as *mut u8, len) };
                }
            }
            Work::Within(from, to, len) if len > 0 => {
                let (a, b) = (place(&self.memory, from, len)?, place(&self.memory, to, len)?);
                // SAFETY: both are memory of the card; they may overlap.
                unsafe { std::ptr::copy(self.memory.host(a), self.memory.host(b), len) };
                self.memory.note_written(b, len);
            }
            Work::Fill(at, value, len) if len > 0 => {
                let offset = place(&self.memory, at, len)?;
                // SAFETY: memory of the card.
                unsafe { self.memory.host(offset).write_bytes(value, len) };
                self.memory.note_written(offset, len);
            }
            Work::Within(..) | Work::Fill(..) => {}
            Work::Record(event, mark) => {
                if let Some(event) = self.events.get_mut(&event) {
                    (event.passed, event.at) = (mark, Some(std::time::Instant::now()));
                }
            }
            Work::Wait(event, mark) => self.run_to(event, mark)?,
            Work::Kernel(work) => self.run_kernel(*work)?,
        }
        Ok(())
    }

    fn run_kernel(&mut self, work: KernelWork) -> Answer<()> {
        let KernelWork { kernel, grid, threads, shared, parameters, number } = work;
        if self.settings.skip.as_ref() == Some(&kernel.name) {
            return Ok(());
        }
        let launch = Launch { kernel: &kernel, grid, threads, shared, parameters, number };
        match exec::run(&launch, &self.memory, &self.settings) {
            Ok(counts) => {
                self.stats.kernels.entry(kernel.name.clone()).or_default().add(&counts);
                Ok(())
            }
            Err(Fault { code, what }) => {
                eprintln!("emulator: {what}");
                self.stats.errors += 1;
                self.error = Some(code);
                Err(code)
            }
        }
    }

    /// Writes the statistics where the settings say.
    pub fn write_stats(&self) {
        if let Some(path) = &self.settings.stats
            && let Err(e) = std::fs::write(path, self.stats.json())
        {
            eprintln!("emulator: {path}: {e}");
        }
    }
}
