//! The work: slabs of rows are read, changed, encoded and written, each by its own threads, in bounded memory.
//!
//! ```text
//! reader --slabs--> encoders (all threads, some rows each) --bytes--> writer
//! ```
//!
//! A file grows under a temporary name, `NAME.part`, with all of its header from the start. Beside it a journal gets a
//! line for each tensor that is whole, with a hash of its bytes; so a run that was killed can be continued: what is
//! there is read again and compared, and the work goes on behind the last tensor that is right. Files get their names
//! when all of them are on the disk.

use super::encode::Encoder;
use super::journal::{Hash, Journal};
use super::{Error, Imatrix, Plan, Source, SourceTensor};
use crate::gguf::Writer;
use ostro_kernels::Cpu;
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// Elements of a slab: rows that are in memory together, 16 MB of BF16.
const SLAB: u64 = 8 << 20;
/// Slabs that wait between two stages.
const WAITING: usize = 4;
/// Bytes that are written before the disk is waited for: left to itself the system keeps them until the end, and the
/// disk is idle while rows are encoded.
const SYNC: u64 = 64 << 20;

/// How to do it.
pub struct Job<'a> {
    /// Where the numbers come from.
    pub source: &'a Source,
    /// What they become.
    pub plan: &'a Plan,
    /// Which weights matter.
    pub imatrix: Option<&'a Imatrix>,
    /// The instruction set.
    pub cpu: Cpu,
    /// Threads that encode.
    pub threads: usize,
    /// Go on with what an earlier run has left.
    pub resume: bool,
    /// NaN and infinity are written as they come.
    pub allow_nonfinite: bool,
}

/// What happens meanwhile.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// Bytes of what is there already are being checked.
    Checking {
        /// How many are checked.
        done: u64,
    },
    /// So many tensors and bytes are there from an earlier run.
    Resumed {
        /// Tensors that need not be made again.
        tensors: usize,
        /// Bytes of the source that they were made of.
        bytes: u64,
        /// Why what lies behind them is made again, when there is more.
        again: Option<&'a str>,
    },
    /// So many bytes of the source are done.
    Bytes {
        /// From the start, with what an earlier run did.
        done: u64,
    },
    /// A tensor is done: its number in [`Plan::tensors`].
    Tensor(usize),
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The files are there.
    Done,
    /// It was asked to stop; `--resume` goes on.
    Stopped,
}

/// `NAME.part`: the temporary name of a file.
pub fn part(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    part.into()
}

/// Rows on their way.
struct Slab {
    tensor: usize,
    rows: Range<u64>,
    bytes: Vec<u8>,
}

impl Job<'_> {
    /// Writes all files. `event` is told what happens, and says whether to go on.
    ///
    /// # Errors
    /// What cannot be read or written, weights that are not finite, and an earlier run's leftovers that do not belong
    /// to this one. What is done stays for `resume`, if it is a whole tensor at least.
    pub fn run(&self, event: &mut dyn FnMut(Event<'_>) -> bool) -> Result<Outcome, Error> {
        let journal = Journal::new(self);
        let start = if self.resume { journal.check(self, event)? } else { Some(0) };
        let Some(start) = start else { return Ok(Outcome::Stopped) };
        let mut output = Output::open(self, journal, start)?;
        let encoder = Encoder::new(self.cpu, self.threads, self.allow_nonfinite)
            .map_err(|e| Error::io(&output.path(), "start threads", e))?;
        let mut done: u64 = self.plan.tensors[..start].iter().map(|t| self.source.tensors[t.source].bytes()).sum();

        let outcome = thread::scope(|scope| {
            let (to_encode, slabs) = sync_channel::<Result<Slab, Error>>(WAITING);
            let (to_write, finished) = sync_channel::<Slab>(WAITING);
            // Buffers go back to where they are filled.
            let (give_read, free_read) = sync_channel::<Vec<u8>>(WAITING + 2);
            let (give_write, free_write) = sync_channel::<Vec<u8>>(WAITING + 2);
            scope.spawn(move || self.read(start, &to_encode, &free_read));
            let output = &mut output;
            let writer = scope.spawn(move || output.write_all(finished, &give_write));
            let encoded = || {
                let mut importance = None;
                for slab in slabs {
                    let slab = slab?;
                    let (tensor, rows) = (slab.tensor, slab.rows.clone());
                    let planned = &self.plan.tensors[tensor];
                    let of = &self.source.tensors[planned.source];
                    if rows.start == 0 {
                        importance = self.importance(of);
                    }
                    let mut bytes = free_write.try_recv().unwrap_or_default();
                    encoder
                        .encode(of, planned.dtype, rows.clone(), &slab.bytes, importance.as_deref(), &mut bytes)
                        .map_err(|found| self.source.nonfinite(of, found))?;
                    let read = slab.bytes.len() as u64;
                    let _ = give_read.try_send(slab.bytes);
                    let last = rows.end == of.rows();
                    if to_write.send(Slab { tensor, rows, bytes }).is_err() {
                        // The writer has failed and will say why.
                        return Ok(Outcome::Stopped);
                    }
                    done += read;
                    let go_on = event(Event::Bytes { done }) && (!last || event(Event::Tensor(tensor)));
                    if !go_on {
                        return Ok(Outcome::Stopped);
                    }
                }
                Ok(Outcome::Done)
            };
            let encoded = encoded();
            drop(to_write);
            let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            written.and(encoded)
        });
        match outcome {
            Ok(Outcome::Done) => output.finish().map(|()| Outcome::Done),
            stopped => {
                if output.done == 0 {
                    // There is nothing to go on with.
                    output.discard();
                }
                stopped
            }
        }
    }

    /// The importance of a tensor's columns, `[experts * cols]`. That of the embedding is of no use where it was made
    /// with another vocabulary.
    pub(super) fn importance(&self, tensor: &SourceTensor) -> Option<Vec<f32>> {
        let importance = self.imatrix?.importance(&tensor.name)?;
        let wanted = tensor.cols() * tensor.dims.get(2).copied().unwrap_or(1);
        (importance.len() as u64 == wanted).then_some(importance)
    }

    /// Reads all tensors from `start` on, slab by slab, until nobody wants more.
    fn read(&self, start: usize, to_encode: &SyncSender<Result<Slab, Error>>, free: &Receiver<Vec<u8>>) {
        for (tensor, planned) in self.plan.tensors.iter().enumerate().skip(start) {
            let of = &self.source.tensors[planned.source];
            let step = (SLAB / of.cols()).max(1);
            let mut row = 0;
            while row < of.rows() {
                let rows = row..of.rows().min(row + step);
                row = rows.end;
                let mut bytes = free.try_recv().unwrap_or_default();
                bytes.resize(((rows.end - rows.start) * of.row_bytes()) as usize, 0);
                let slab = self.source.read_rows(of, rows.clone(), &mut bytes).map(|()| Slab { tensor, rows, bytes });
                let failed = slab.is_err();
                if to_encode.send(slab).is_err() || failed {
                    return;
                }
            }
        }
    }
}

/// The files that are being written.
struct Output<'j, 'a> {
    job: &'j Job<'a>,
    journal: Journal,
    /// The file that is being written, and which it is; `None` when all are complete.
    file: Option<(usize, Writer<BufWriter<File>>)>,
    /// Tensors that are whole.
    done: usize,
    /// Bytes that are written and perhaps not on the disk.
    unsynced: u64,
    hash: Hash,
}

impl<'j, 'a> Output<'j, 'a> {
    /// Begins behind the first `start` tensors, which are there.
    fn open(job: &'j Job<'a>, mut journal: Journal, start: usize) -> Result<Output<'j, 'a>, Error> {
        if start == 0 {
            journal.begin(job)?;
        } else {
            journal.go_on(start)?;
        }
        let mut output = Output { job, journal, file: None, done: start, unsynced: 0, hash: Hash::default() };
        let at = job.plan.files.iter().position(|f| f.tensors.contains(&start));
        if let Some(file) = at {
            output.file = Some((file, output.writer(file, start - job.plan.files[file].tensors.start)?));
        } else if start == 0 {
            // No tensors at all: the header alone.
            output.file = Some((0, output.writer(0, 0)?));
        }
        Ok(output)
    }

    /// The path that errors name.
    fn path(&self) -> PathBuf {
        let file = self.file.as_ref().map_or(0, |(file, _)| *file);
        self.job.plan.files[file].path.clone()
    }

    /// Opens a file of which the first `done` tensors are there.
    fn writer(&self, file: usize, done: usize) -> Result<Writer<BufWriter<File>>, Error> {
        let planned = &self.job.plan.files[file];
        let path = part(&planned.path);
        let buffered = |file| BufWriter::with_capacity(1 << 20, file);
        if done == 0 {
            let file = File::create(&path).map_err(|e| Error::io(&path, "create the file", e))?;
            return Ok(Writer::new(buffered(file), &path, planned.layout.clone())?);
        }
        let open = || -> io::Result<File> {
            let mut file = File::options().write(true).open(&path)?;
            let at = planned.layout.offset(done);
            file.set_len(at)?;
            file.seek(SeekFrom::Start(at))?;
            Ok(file)
        };
        let file = open().map_err(|e| Error::io(&path, "go on with the file", e))?;
        Ok(Writer::resume(buffered(file), &path, planned.layout.clone(), done))
    }

    /// Writes what comes until no more does.
    fn write_all(&mut self, finished: Receiver<Slab>, free: &SyncSender<Vec<u8>>) -> Result<(), Error> {
        for slab in finished {
            self.write(&slab)?;
            let _ = free.try_send(slab.bytes);
        }
        Ok(())
    }

    fn write(&mut self, slab: &Slab) -> Result<(), Error> {
        let plan = self.job.plan;
        let file = plan.files.iter().position(|f| f.tensors.contains(&slab.tensor)).unwrap_or(0);
        if self.file.as_ref().is_none_or(|(now, _)| *now != file) {
            self.close()?;
            self.file = Some((file, self.writer(file, 0)?));
        }
        if let Some((file, writer)) = &mut self.file {
            writer.append(&slab.bytes)?;
            self.unsynced += slab.bytes.len() as u64;
            if self.unsynced >= SYNC {
                self.unsynced = 0;
                writer.flush()?;
                let path = part(&plan.files[*file].path);
                writer.get_ref().get_ref().sync_data().map_err(|e| Error::io(&path, "write the file", e))?;
            }
        }
        self.hash.update(&slab.bytes);
        let of = &self.job.source.tensors[plan.tensors[slab.tensor].source];
        if slab.rows.end == of.rows() {
            if let Some((_, writer)) = &mut self.file {
                writer.flush()?;
            }
            self.done = slab.tensor + 1;
            self.journal.note(self.done, std::mem::take(&mut self.hash))?;
        }
        Ok(())
    }

    /// Ends the file that is being written: all of it is on the disk.
    fn close(&mut self) -> Result<(), Error> {
        let Some((file, writer)) = self.file.take() else { return Ok(()) };
        let path = part(&self.job.plan.files[file].path);
        let sync = |mut out: BufWriter<File>| {
            out.flush()?;
            out.get_ref().sync_all()
        };
        sync(writer.finish()?).map_err(|e| Error::io(&path, "write the file", e))
    }

    /// Removes what was begun.
    fn discard(self) {
        for file in &self.job.plan.files {
            let _ = std::fs::remove_file(part(&file.path));
        }
        self.journal.remove();
    }

    /// Gives all files their names.
    fn finish(mut self) -> Result<(), Error> {
        self.close()?;
        for file in &self.job.plan.files {
            std::fs::rename(part(&file.path), &file.path).map_err(|e| Error::io(&file.path, "name the file", e))?;
        }
        // The names are on the disk when the folder is.
        #[cfg(unix)]
        if let Some(folder) = self.job.plan.files.first().and_then(|f| f.path.parent()) {
            let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
            let _ = File::open(folder).and_then(|folder| folder.sync_all());
        }
        self.journal.remove();
        Ok(())
    }
}
