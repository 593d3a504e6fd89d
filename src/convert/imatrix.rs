//! Importance matrices: how strongly each column of each weight matrix is used, as sums of squared inputs.
//!
//! llama.cpp has two forms. The GGUF form has two tensors an entry: `NAME.in_sum2`, a row of sums for each matrix (more
//! than one where there are experts), and `NAME.counts`, how many inputs each row summed. The older form (`.dat`) has
//! no magic and no counts by expert: an entry is its mean multiplied by a number of calls.

use super::Error;
use crate::gguf::{Array, Gguf, Metadata, NewTensor, Value, Writer, shown};
use ostro_kernels::DType;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const NEXT: &str = "make the importance matrix again with `ostro imatrix` or llama-imatrix";

/// Sums of squared inputs of weight matrices, by the name of the tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// The texts that it was made from.
    pub datasets: Vec<String>,
    /// How many chunks of them.
    pub chunk_count: u32,
    /// Tokens of a chunk. 0 in a file of the older form: its counts are of calls, not of tokens.
    pub chunk_size: u32,
    entries: BTreeMap<String, Entry>,
}

/// What was summed of one tensor's inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// Sums of squares, `[counts.len(), cols]`.
    pub sums: Vec<f32>,
    /// How many inputs each row of `sums` has seen; one for all matrices where the file does not tell them apart.
    pub counts: Vec<u64>,
}

impl Entry {
    /// The mean squares, `[counts.len(), cols]`; 1 for a matrix that has seen nothing.
    pub fn means(&self) -> Vec<f32> {
        let cols = self.sums.len() / self.counts.len();
        let mean = |(sums, &count): (&[f32], &u64)| -> Vec<f32> {
            sums.iter().map(|&sum| if count > 0 { sum / count as f32 } else { 1.0 }).collect()
        };
        self.sums.chunks_exact(cols.max(1)).zip(&self.counts).flat_map(mean).collect()
    }
}

impl Imatrix {
    /// Nothing yet, to be filled from chunks of `chunk_size` tokens.
    pub fn new(chunk_size: u32) -> Imatrix {
        Imatrix { chunk_size, ..Imatrix::default() }
    }

    /// Reads a file of either form, told apart by GGUF's magic.
    ///
    /// # Errors
    /// A file that cannot be read, is not an importance matrix, is cut off, or holds what is not finite.
    pub fn open(path: &Path) -> Result<Imatrix, Error> {
        // A folder or a pipe is refused by the reader of GGUF files, in its words.
        let plain = std::fs::metadata(path).is_ok_and(|there| there.is_file());
        let (mut legacy, magic) = if plain {
            let mut file = Legacy::open(path)?;
            let magic = file.peek()?;
            (Some(file), magic)
        } else {
            (None, *b"GGUF")
        };
        let imatrix = match &mut legacy {
            Some(file) if &magic != b"GGUF" => file.read()?,
            _ => from_gguf(&Gguf::open(path)?)?,
        };
        if imatrix.is_empty() {
            return Err(Error::bad(path, "entries", "none", "at least one", NEXT));
        }
        match imatrix.entries.iter().find(|(_, e)| e.sums.iter().any(|x| !x.is_finite())) {
            Some((name, _)) => Err(Error::bad(path, entry(name), "a value that is not finite", "finite values", NEXT)),
            None => Ok(imatrix),
        }
    }

    /// The number of entries, as llama-quantize counts them for `quantize.imatrix.entries_count`.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keeps the entries of some tensors only.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|name, _| keep(name));
    }

    /// Names and entries, sorted by name.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(name, entry)| (name.as_str(), entry))
    }

    /// The weight of each column of the tensor `name` in the error of quantization, `[matrices * cols]`: the mean
    /// squares of its inputs, the very floats that llama-quantize takes. `None` where nothing is known of it.
    pub fn importance(&self, name: &str) -> Option<Vec<f32>> {
        self.entries.get(name).map(Entry::means)
    }

    /// Adds sums of squares over `count` inputs to matrix `matrix` of the `matrices` of a tensor. What is not finite
    /// comes into the entry and makes it useless: [`Imatrix::find_not_finite`] tells.
    ///
    /// # Panics
    /// When the entry has another shape.
    pub fn add(&mut self, name: &str, (matrix, matrices): (usize, usize), sums: &[f32], count: u64) {
        if !self.entries.contains_key(name) {
            self.entries.insert(name.to_owned(), Entry::default());
        }
        let entry = self.entries.get_mut(name).expect("it was made");
        if entry.sums.is_empty() {
            *entry = Entry { sums: vec![0.0; matrices * sums.len()], counts: vec![0; matrices] };
        } else if entry.counts.len() == 1 {
            // Of a file that does not tell the experts apart.
            entry.counts.resize(matrices, entry.counts[0]);
        }
        assert!(entry.sums.len() == matrices * sums.len() && entry.counts.len() == matrices, "{name}: another shape");
        let old = &mut entry.sums[matrix * sums.len()..][..sums.len()];
        old.iter_mut().zip(sums).for_each(|(old, new)| *old += new);
        entry.counts[matrix] += count;
        self.chunk_count = self.chunk_count.max(chunks(entry, self.chunk_size));
    }

    /// Adds all that `other`, read from `path`, holds.
    ///
    /// # Errors
    /// An entry of another shape.
    pub fn merge(&mut self, path: &Path, other: Imatrix) -> Result<(), Error> {
        // In the older form, counts are calls, each of one chunk.
        let scale = if other.chunk_size == 0 { self.chunk_size } else { 1 };
        for (name, from) in other.entries {
            let shape = |e: &Entry| format!("{} sums of {} matrices", e.sums.len(), e.counts.len());
            let to = self
                .entries
                .entry(name.clone())
                .or_insert_with(|| Entry { sums: vec![0.0; from.sums.len()], counts: vec![0; from.counts.len()] });
            if to.counts.len() == 1 {
                to.counts.resize(from.counts.len(), to.counts[0]);
            }
            if to.sums.len() != from.sums.len() || (from.counts.len() != to.counts.len() && from.counts.len() != 1) {
                let next = "combine matrices of one model only";
                return Err(Error::bad(path, entry(&name), shape(&from), shape(to), next));
            }
            to.sums.iter_mut().zip(&from.sums).for_each(|(to, from)| *to += from * scale as f32);
            let counts = from.counts.iter().cycle();
            to.counts
                .iter_mut()
                .zip(counts)
                .for_each(|(to, &from)| *to = to.saturating_add(from.saturating_mul(scale.into())));
            self.chunk_count = self.chunk_count.max(chunks(to, self.chunk_size));
        }
        self.datasets.extend(other.datasets);
        Ok(())
    }

    /// The first entry with a value that is not finite.
    pub fn find_not_finite(&self) -> Option<&str> {
        self.entries().find(|(_, e)| e.sums.iter().any(|x| !x.is_finite())).map(|(name, _)| name)
    }

    /// Writes the GGUF form, under a temporary name until it is whole and on the disk.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let mut metadata = Metadata::new(path);
        metadata.set("general.type", Value::String("imatrix".into()));
        metadata.set(DATASETS, Value::Array(Array::String(self.datasets.clone())));
        metadata.set(CHUNK_COUNT, Value::U32(self.chunk_count));
        metadata.set(CHUNK_SIZE, Value::U32(self.chunk_size));
        let mut tensors = Vec::with_capacity(2 * self.len());
        for (name, entry) in &self.entries {
            let matrices = entry.counts.len();
            for (what, cols) in [(SUMS, entry.sums.len() / matrices), (COUNTS, 1)] {
                let dims = if matrices > 1 { vec![cols as u64, matrices as u64] } else { vec![cols as u64] };
                tensors.push(NewTensor { name: format!("{name}{what}"), dtype: DType::F32, dims });
            }
        }
        let mut writer = Writer::create(path, &metadata, &tensors)?;
        for entry in self.entries.values() {
            writer.append(&bytes(entry.sums.iter().copied()))?;
            writer.append(&bytes(entry.counts.iter().map(|&count| count as f32)))?;
        }
        Ok(writer.commit()?)
    }

    /// Writes the older form. Entries that have seen nothing are left out, as it cannot tell them.
    ///
    /// # Errors
    /// What `out` refuses.
    pub fn write_legacy(&self, mut out: impl Write) -> io::Result<()> {
        let int = |n: usize| i32::try_from(n).map_err(|_| io::Error::other("more than the .dat form can hold"));
        let chunk_size = u64::from(self.chunk_size.max(1));
        let seen: Vec<_> = self.entries.iter().filter(|(_, e)| e.counts.iter().any(|&n| n > 0)).collect();
        out.write_all(&int(seen.len())?.to_le_bytes())?;
        for (name, entry) in seen {
            let most = entry.counts.iter().max().copied().unwrap_or_default();
            let calls = int(most.div_ceil(chunk_size) as usize)?;
            out.write_all(&int(name.len())?.to_le_bytes())?;
            out.write_all(name.as_bytes())?;
            out.write_all(&calls.to_le_bytes())?;
            out.write_all(&int(entry.sums.len())?.to_le_bytes())?;
            out.write_all(&bytes(entry.means().into_iter().map(|mean| mean * calls as f32)))?;
        }
        let dataset = self.datasets.last().map_or("", String::as_str);
        out.write_all(&int(self.chunk_count as usize)?.to_le_bytes())?;
        out.write_all(&int(dataset.len())?.to_le_bytes())?;
        out.write_all(dataset.as_bytes())
    }
}

fn bytes(floats: impl Iterator<Item = f32>) -> Vec<u8> {
    floats.flat_map(f32::to_le_bytes).collect()
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

fn chunks(entry: &Entry, chunk_size: u32) -> u32 {
    let most = entry.counts.iter().max().copied().unwrap_or_default();
    most.checked_div(u64::from(chunk_size)).map_or(0, |n| n.try_into().unwrap_or(u32::MAX))
}

fn entry(name: &str) -> String {
    format!("entry {}", shown(name))
}

fn from_gguf(gguf: &Gguf) -> Result<Imatrix, Error> {
    let (path, metadata) = (gguf.path(), gguf.metadata());
    if let Some(kind) = metadata.str("general.type")?.filter(|&kind| kind != "imatrix") {
        return Err(Error::bad(path, "key general.type", format!("{kind:?}"), "\"imatrix\"", NEXT));
    }
    let mut imatrix = Imatrix {
        datasets: metadata.require_strings(DATASETS)?.to_vec(),
        chunk_count: metadata.require_u32(CHUNK_COUNT)?,
        chunk_size: metadata.require_u32(CHUNK_SIZE)?,
        entries: BTreeMap::new(),
    };
    for tensor in gguf.tensors() {
        let (name, other) = match (tensor.name.strip_suffix(SUMS), tensor.name.strip_suffix(COUNTS)) {
            (Some(name), _) => (name, COUNTS),
            (_, Some(name)) => (name, SUMS),
            _ => continue,
        };
        let thing = || format!("tensor {}", shown(&tensor.name));
        if tensor.dtype != DType::F32 {
            return Err(Error::bad(path, thing(), tensor.dtype, "F32", NEXT));
        }
        if gguf.tensor(&format!("{name}{other}")).is_none() {
            return Err(Error::bad(path, entry(name), format!("no tensor of its {other}"), "sums and counts", NEXT));
        }
        let values = floats(gguf.data(tensor));
        let entry = imatrix.entries.entry(name.to_owned()).or_default();
        if other == COUNTS {
            entry.sums = values;
            continue;
        }
        for count in values {
            let rounded = count.round();
            if !(0.0..1e15).contains(&rounded) {
                return Err(Error::bad(path, thing(), count, "a count", NEXT));
            }
            entry.counts.push(rounded as u64);
        }
    }
    match imatrix.entries.iter().find(|(_, e)| e.counts.is_empty() || e.sums.len() % e.counts.len() != 0) {
        Some((name, e)) => {
            let found = format!("{} sums and {} counts", e.sums.len(), e.counts.len());
            Err(Error::bad(path, entry(name), found, "as many sums for each count", NEXT))
        }
        None => Ok(imatrix),
    }
}

/// A file of the older form, from its begin.
struct Legacy {
    path: PathBuf,
    file: BufReader<File>,
    at: u64,
    len: u64,
}

impl Legacy {
    fn open(path: &Path) -> Result<Legacy, Error> {
        let file = File::open(path).map_err(|e| Error::io(path, "open the file", e))?;
        let len = file.metadata().map_err(|e| Error::io(path, "read the size of the file", e))?.len();
        Ok(Legacy { path: path.to_owned(), file: BufReader::new(file), at: 0, len })
    }

    /// The first four bytes, which stay to be read; zeros where there are not so many.
    fn peek(&mut self) -> Result<[u8; 4], Error> {
        use std::io::BufRead;
        let there = self.file.fill_buf().map_err(|e| Error::io(&self.path, "read the file", e))?;
        Ok(there.first_chunk().copied().unwrap_or_default())
    }

    fn read(&mut self) -> Result<Imatrix, Error> {
        let mut imatrix = Imatrix::default();
        for i in 0..self.count("the number of entries", 1, 16)? {
            let thing = |what: &str| format!("{what} of entry {}", i + 1);
            let name = self.text(&thing("the name"))?;
            let calls = self.int(&thing("the number of calls"))?;
            let n = self.count(&thing("the number of values"), 1, 4)?;
            let sums = floats(&self.take(n * 4, &thing("the values"))?);
            // Without calls, the values are what is wanted.
            let counts = vec![u64::try_from(calls).unwrap_or(1).max(1)];
            imatrix.entries.insert(name, Entry { sums, counts });
        }
        // What follows came later into the format.
        if self.at < self.len {
            imatrix.chunk_count = self.int("the number of chunks")?.try_into().unwrap_or(0);
        }
        if self.at < self.len {
            let dataset = self.text("the name of the text")?;
            imatrix.datasets.extend(Some(dataset).filter(|name| !name.is_empty()));
        }
        Ok(imatrix)
    }

    fn int(&mut self, thing: &str) -> Result<i32, Error> {
        let bytes = self.take(4, thing)?;
        Ok(i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    /// A count of things that take at least so many bytes each.
    fn count(&mut self, thing: &str, least: u64, bytes: u64) -> Result<u64, Error> {
        let at = self.at;
        let n = self.int(thing)?;
        let most = (self.len - self.at) / bytes;
        match u64::try_from(n) {
            Ok(n) if (least..=most).contains(&n) => Ok(n),
            _ => Err(self.bad(thing, format!("{n} at byte {at}"), format!("{least} to {most}"))),
        }
    }

    fn text(&mut self, thing: &str) -> Result<String, Error> {
        let n = self.count(&format!("the length of {thing}"), 0, 1)?;
        let mut bytes = self.take(n, thing)?;
        // Readers in C see it end there.
        if let Some(end) = bytes.iter().position(|&b| b == 0) {
            bytes.truncate(end);
        }
        String::from_utf8(bytes).map_err(|_| self.bad(thing, "bytes that are not UTF-8".into(), "UTF-8".into()))
    }

    fn take(&mut self, n: u64, thing: &str) -> Result<Vec<u8>, Error> {
        if n > self.len - self.at {
            let found = format!("the end of the file after {} bytes", self.len);
            return Err(self.bad(thing, found, format!("{n} bytes at byte {}", self.at)));
        }
        let mut bytes = vec![0; n as usize];
        self.file.read_exact(&mut bytes).map_err(|e| Error::io(&self.path, "read the file", e))?;
        self.at += n;
        Ok(bytes)
    }

    fn bad(&self, thing: &str, found: String, expected: String) -> Error {
        let next = format!("the file is no importance matrix, or is cut off: {NEXT}");
        Error::bad(&self.path, thing, found, expected, next)
    }
}
