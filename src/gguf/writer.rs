//! Writes GGUF version 3: the header first, then the tensors' bytes in order, as they come.
//!
//! Nothing is kept but the sizes, so a file may be larger than memory. [`Writer::create`] writes under a temporary
//! name and gives the file its own name at the end, so that a file which is there is complete.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use ostro_kernels::DType;

use super::parse::{alignment_of, tensor_bytes};
use super::{Array, Error, Metadata, Value, shown};

/// A tensor to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTensor {
    /// The name.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// One to four dimensions in ggml's order: the length of a row first.
    pub dims: Vec<u64>,
}

/// Everything of a file but the tensors' bytes: its header, and where each tensor will lie.
#[derive(Clone, Debug)]
pub struct Layout {
    header: Vec<u8>,
    alignment: u64,
    /// Name and size of each tensor.
    tensors: Vec<(String, u64)>,
}

impl Layout {
    /// The layout of a file, which errors name. The alignment is that of the metadata, or 32.
    ///
    /// # Errors
    /// Shapes that do not divide into blocks, a name that comes twice, more than 2^64 bytes.
    pub fn new(file: &Path, metadata: &Metadata, tensors: &[NewTensor]) -> Result<Layout, Error> {
        let wrong = |thing: String, found: String, expected: &str| Error::Write {
            file: file.to_path_buf(),
            thing,
            found,
            expected: expected.into(),
        };
        let alignment =
            alignment_of(metadata).map_err(|found| wrong("key general.alignment".into(), found, "a power of two"))?;

        let mut header = b"GGUF".to_vec();
        header.extend(3u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata.iter() {
            put_string(&mut header, key.as_bytes());
            put_value(&mut header, value);
        }
        let mut names = HashSet::new();
        let mut sizes = Vec::with_capacity(tensors.len());
        let mut offset = 0u64;
        for t in tensors {
            let thing = || format!("tensor {}", shown(&t.name));
            let bytes = tensor_bytes(t.dtype, &t.dims).map_err(|(found, expected)| wrong(thing(), found, &expected))?;
            if !names.insert(t.name.as_str()) {
                return Err(wrong(thing(), "the name a second time".into(), "each name once"));
            }
            put_string(&mut header, t.name.as_bytes());
            header.extend((t.dims.len() as u32).to_le_bytes());
            t.dims.iter().for_each(|d| header.extend(d.to_le_bytes()));
            header.extend(t.dtype.id().to_le_bytes());
            header.extend(offset.to_le_bytes());
            offset = offset
                .checked_add(bytes)
                .and_then(|end| end.checked_next_multiple_of(alignment))
                .ok_or_else(|| wrong(thing(), "more than 2^64 bytes of data".into(), "less"))?;
            sizes.push((t.name.clone(), bytes));
        }
        header.resize(header.len().next_multiple_of(alignment as usize), 0);
        Ok(Layout { header, alignment, tensors: sizes })
    }

    /// The header, with the padding behind it.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Bytes of tensor `i`, without padding.
    pub fn tensor_bytes(&self, i: usize) -> u64 {
        self.tensors[i].1
    }

    /// Where tensor `i` begins, from the start of the file; where the file ends for the number of tensors.
    pub fn offset(&self, i: usize) -> u64 {
        let data: u64 = self.tensors[..i].iter().map(|(_, bytes)| bytes.next_multiple_of(self.alignment)).sum();
        self.header.len() as u64 + data
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.offset(self.tensors.len())
    }
}

/// Writes the tensors' bytes behind a header; made by [`Writer::new`], [`Writer::resume`] or [`Writer::create`].
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: W,
    file: PathBuf,
    layout: Layout,
    /// The tensor whose bytes come next, and how many of them are written.
    current: usize,
    written: u64,
}

impl<W: Write> Writer<W> {
    /// Writes the header to `out`. Errors name `file`.
    pub fn new(mut out: W, file: &Path, layout: Layout) -> Result<Writer<W>, Error> {
        out.write_all(&layout.header).map_err(|e| Error::io(file, "write the header", e))?;
        Ok(Writer { out, file: file.to_path_buf(), layout, current: 0, written: 0 })
    }

    /// Goes on where the header and the first `done` tensors are written: `out` stands at [`Layout::offset`] of `done`.
    pub fn resume(out: W, file: &Path, layout: Layout, done: usize) -> Writer<W> {
        Writer { out, file: file.to_path_buf(), layout, current: done, written: 0 }
    }

    /// Appends bytes of the tensor that is next in order; after its last byte the one behind it is next.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some((name, size)) = self.layout.tensors.get(self.current) else {
            return Err(self.wrong(
                "data".into(),
                format!("{} bytes after the last tensor", bytes.len()),
                "none".into(),
            ));
        };
        let (size, left) = (*size, size - self.written);
        if bytes.len() as u64 > left {
            let thing = format!("tensor {}", shown(name));
            return Err(self.wrong(thing, format!("{} more bytes", bytes.len()), format!("at most {left}")));
        }
        self.put(bytes)?;
        self.written += bytes.len() as u64;
        if self.written == size {
            let padding = size.next_multiple_of(self.layout.alignment) - size;
            self.put(&vec![0; padding as usize])?;
            (self.current, self.written) = (self.current + 1, 0);
        }
        Ok(())
    }

    /// Hands what is written so far to the system.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.out.flush().map_err(|e| Error::io(&self.file, "write the file", e))
    }

    /// What is written to.
    pub fn get_ref(&self) -> &W {
        &self.out
    }

    /// Ends the file: every tensor must be complete. Returns what was written to, flushed.
    pub fn finish(mut self) -> Result<W, Error> {
        if let Some((name, size)) = self.layout.tensors.get(self.current) {
            let thing = format!("tensor {}", shown(name));
            return Err(self.wrong(thing, format!("{} bytes written", self.written), size.to_string()));
        }
        self.out.flush().map_err(|e| Error::io(&self.file, "write the file", e))?;
        Ok(self.out)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(|e| Error::io(&self.file, "write the file", e))
    }

    fn wrong(&self, thing: String, found: String, expected: String) -> Error {
        Error::Write { file: self.file.clone(), thing, found, expected }
    }
}

impl Writer<TempFile> {
    /// Starts the file `path` under the name `path.part`; [`Writer::commit`] gives it its own.
    pub fn create(path: &Path, metadata: &Metadata, tensors: &[NewTensor]) -> Result<Writer<TempFile>, Error> {
        let layout = Layout::new(path, metadata, tensors)?;
        let out = TempFile::create(path).map_err(|e| Error::io(path, "create the file", e))?;
        Writer::new(out, path, layout)
    }

    /// Ends the file, waits until it is on the disk, and gives it its name; a file of that name is replaced.
    pub fn commit(self) -> Result<(), Error> {
        let path = self.file.clone();
        self.finish()?.persist(&path).map_err(|e| Error::io(&path, "write the file", e))
    }
}

/// A file under a temporary name, which is removed unless it gets its own.
#[derive(Debug)]
pub struct TempFile {
    path: PathBuf,
    out: BufWriter<File>,
    keep: bool,
}

impl TempFile {
    fn create(target: &Path) -> io::Result<TempFile> {
        let mut path = target.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        Ok(TempFile { out: BufWriter::with_capacity(1 << 20, File::create(&path)?), path, keep: false })
    }

    fn persist(mut self, target: &Path) -> io::Result<()> {
        self.out.flush()?;
        self.out.get_ref().sync_all()?;
        std::fs::rename(&self.path, target)?;
        self.keep = true;
        Ok(())
    }
}

impl Write for TempFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing can be done about a failure here, and the name says what the file is.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn put_string(out: &mut Vec<u8>, s: &[u8]) {
    out.extend((s.len() as u64).to_le_bytes());
    out.extend(s);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    let mut put = |id: u32, bytes: &[u8]| {
        out.extend(id.to_le_bytes());
        out.extend(bytes);
    };
    match value {
        Value::U8(v) => put(0, &v.to_le_bytes()),
        Value::I8(v) => put(1, &v.to_le_bytes()),
        Value::U16(v) => put(2, &v.to_le_bytes()),
        Value::I16(v) => put(3, &v.to_le_bytes()),
        Value::U32(v) => put(4, &v.to_le_bytes()),
        Value::I32(v) => put(5, &v.to_le_bytes()),
        Value::F32(v) => put(6, &v.to_le_bytes()),
        Value::Bool(v) => put(7, &[u8::from(*v)]),
        Value::String(v) => {
            put(8, &[]);
            put_string(out, v.as_bytes());
        }
        Value::Bytes(v) => {
            put(8, &[]);
            put_string(out, v);
        }
        Value::Array(v) => {
            put(9, &[]);
            put_array(out, v);
        }
        Value::U64(v) => put(10, &v.to_le_bytes()),
        Value::I64(v) => put(11, &v.to_le_bytes()),
        Value::F64(v) => put(12, &v.to_le_bytes()),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    macro_rules! numbers {
        ($id:literal, $v:expr) => {{
            out.extend(u32::to_le_bytes($id));
            out.extend(($v.len() as u64).to_le_bytes());
            $v.iter().for_each(|x| out.extend(x.to_le_bytes()));
        }};
    }
    let mut put = |id: u32, n: usize| {
        out.extend(id.to_le_bytes());
        out.extend((n as u64).to_le_bytes());
    };
    match array {
        Array::U8(v) => numbers!(0, v),
        Array::I8(v) => numbers!(1, v),
        Array::U16(v) => numbers!(2, v),
        Array::I16(v) => numbers!(3, v),
        Array::U32(v) => numbers!(4, v),
        Array::I32(v) => numbers!(5, v),
        Array::F32(v) => numbers!(6, v),
        Array::Bool(v) => {
            put(7, v.len());
            out.extend(v.iter().map(|&b| u8::from(b)));
        }
        Array::String(v) => {
            put(8, v.len());
            v.iter().for_each(|s| put_string(out, s.as_bytes()));
        }
        Array::Bytes(v) => {
            put(8, v.len());
            v.iter().for_each(|s| put_string(out, s));
        }
        Array::Nested(v) => {
            put(9, v.len());
            v.iter().for_each(|a| put_array(out, a));
        }
        Array::U64(v) => numbers!(10, v),
        Array::I64(v) => numbers!(11, v),
        Array::F64(v) => numbers!(12, v),
    }
}
