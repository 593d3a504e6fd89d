//! A model as it lies in files: metadata, and tensors whose rows are read when they are wanted.
//!
//! Files are read, not mapped: each byte is used once, in order, and pages of a map would count as memory in use.

use super::encode::NonFinite;
use super::{Error, FileType};
use crate::gguf::Metadata;
use ostro_kernels::DType;
use std::fs::File;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A model that can be written as GGUF.
#[derive(Debug)]
pub struct Source {
    /// The keys of the GGUF file, in order. What depends on the type it is written in (`general.file_type`) stands in
    /// its place with the value for the type that the tensors are stored in.
    pub metadata: Metadata,
    /// The tensors, in the order in which llama.cpp's converter writes them (of a GGUF file: as it has them).
    pub tensors: Vec<SourceTensor>,
    /// The files that the pieces name by number.
    pub files: Vec<SourceFile>,
    /// A checkpoint in another form than GGUF: names and types are as llama.cpp's converter would write them.
    pub is_checkpoint: bool,
    /// What the user should know, one line each.
    pub notes: Vec<String>,
}

/// A tensor under its GGUF name.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceTensor {
    /// The GGUF name.
    pub name: String,
    /// The type it is stored in.
    pub dtype: DType,
    /// One to four dimensions in ggml's order: the length of a row first.
    pub dims: Vec<u64>,
    /// Where its rows lie, one piece after the other; several where experts are merged.
    pub pieces: Vec<Piece>,
    /// What is done to the rows on the way.
    pub change: Change,
}

/// Rows that lie together in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which of [`Source::files`].
    pub file: usize,
    /// Where the first byte lies.
    pub offset: u64,
    /// How many rows.
    pub rows: u64,
}

/// What is done to the rows of a tensor between reading and writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// Rows of each of so many heads change places: from halves to adjacent pairs of the rotary embedding. Row
    /// `2 i + j` of a head is what was row `j * half + i`. (`LlamaModel.permute` of llama.cpp's converter) Of a vector,
    /// a bias, it is the elements.
    Interleave {
        /// The number of heads that the rows are divided into.
        heads: u64,
    },
    /// Each piece is a matrix that lies the other way round: its columns become rows.
    Turn,
    /// 1 is added to each element, in f32: norms that are stored as their distance from 1.
    AddOne,
}

/// An open file, or bytes that were computed and are read like one.
#[derive(Debug)]
pub struct SourceFile {
    /// Its path, or that of the file it was computed from; for messages.
    pub path: PathBuf,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    File(File),
    Computed(Vec<u8>),
}

impl SourceFile {
    /// Opens a file for reading.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &Path) -> Result<SourceFile, Error> {
        let file = File::open(path).map_err(|e| Error::io(path, "open the file", e))?;
        Ok(SourceFile { path: path.to_path_buf(), bytes: Bytes::File(file) })
    }

    /// Bytes that were computed from what the file at `path` says.
    pub fn computed(path: &Path, bytes: Vec<u8>) -> SourceFile {
        SourceFile { path: path.to_path_buf(), bytes: Bytes::Computed(bytes) }
    }

    /// Its length in bytes.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn bytes(&self) -> Result<u64, Error> {
        match &self.bytes {
            Bytes::File(file) => {
                Ok(file.metadata().map_err(|e| Error::io(&self.path, "read the size of the file", e))?.len())
            }
            Bytes::Computed(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Reads exactly `out.len()` bytes from `offset` on.
    ///
    /// # Errors
    /// When the system refuses, or the file ends before.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let read = match &self.bytes {
            Bytes::File(file) => read_exact_at(file, offset, out),
            Bytes::Computed(bytes) => {
                let from = usize::try_from(offset).ok().and_then(|at| bytes.get(at..)?.get(..out.len()));
                from.map(|from| out.copy_from_slice(from)).ok_or_else(|| ErrorKind::UnexpectedEof.into())
            }
        };
        read.map_err(|e| Error::io(&self.path, "read the file", e))
    }
}

#[cfg(unix)]
fn read_exact_at(file: &File, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, out, offset)
}

#[cfg(not(unix))]
fn read_exact_at(mut file: &File, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
    use std::io::{Read, Seek, SeekFrom};
    file.seek(SeekFrom::Start(offset))?;
    file.read_exact(out)
}

impl SourceTensor {
    /// The length of a row.
    pub fn cols(&self) -> u64 {
        self.dims[0]
    }

    /// The number of rows, of all matrices together.
    pub fn rows(&self) -> u64 {
        self.dims[1..].iter().product()
    }

    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }

    /// Bytes of a row in the stored type.
    pub fn row_bytes(&self) -> u64 {
        self.cols() / self.dtype.block_elems() as u64 * self.dtype.block_bytes() as u64
    }

    /// Bytes in the stored type.
    pub fn bytes(&self) -> u64 {
        self.rows() * self.row_bytes()
    }
}

impl Source {
    /// The type of file that a checkpoint is itself, by its first matrix; `None` for a GGUF file, which has its own.
    pub fn own_type(&self) -> Option<FileType> {
        let matrix = self.tensors.iter().find(|t| t.dims.len() > 1).filter(|_| self.is_checkpoint)?;
        Some(match matrix.dtype {
            DType::F16 => FileType::F16,
            DType::BF16 => FileType::BF16,
            _ => FileType::F32,
        })
    }

    /// The error that names a weight that is no number.
    pub(super) fn nonfinite(&self, tensor: &SourceTensor, found: NonFinite) -> Error {
        let file = tensor.pieces.first().map_or(self.metadata.file(), |piece| &self.files[piece.file].path);
        Error::bad(
            file,
            format!("tensor {}, row {}, column {}", tensor.name, found.row, found.column),
            found.value,
            "a number",
            "the checkpoint is damaged; --allow-nonfinite writes it as it is",
        )
    }

    /// Reads the bytes of some rows, in their places after [`Change::Interleave`] or [`Change::Turn`]; `out` is as long as they
    /// are.
    ///
    /// # Errors
    /// When a file cannot be read.
    ///
    /// # Panics
    /// When the rows are not those of the tensor, or `out` has another length.
    pub fn read_rows(&self, tensor: &SourceTensor, rows: Range<u64>, out: &mut [u8]) -> Result<(), Error> {
        let row_bytes = tensor.row_bytes();
        assert!(rows.end <= tensor.rows() && out.len() as u64 == (rows.end - rows.start) * row_bytes);
        let heads = match tensor.change {
            Change::None | Change::AddOne => return self.read_run(tensor, rows.start, out),
            Change::Turn => return self.read_turned(tensor, rows, out),
            Change::Interleave { heads } => heads,
        };
        if tensor.dims.len() == 1 {
            let mut stored = vec![0; out.len()];
            self.read_run(tensor, rows.start, &mut stored)?;
            let size = tensor.dtype.block_bytes();
            for (i, out) in out.chunks_exact_mut(size).enumerate() {
                let from = stored_at(i as u64, tensor.cols() / heads) as usize * size;
                out.copy_from_slice(&stored[from..from + size]);
            }
            return Ok(());
        }
        for (row, out) in rows.zip(out.chunks_exact_mut(row_bytes as usize)) {
            self.read_run(tensor, stored_at(row, tensor.rows() / heads), out)?;
        }
        Ok(())
    }

    /// Rows that are columns of the pieces.
    fn read_turned(&self, tensor: &SourceTensor, rows: Range<u64>, out: &mut [u8]) -> Result<(), Error> {
        let (each, size) = (tensor.dims[1], tensor.dtype.block_bytes());
        let mut stored = vec![0; (each * tensor.cols()) as usize * size];
        let mut held = None;
        for (row, out) in rows.zip(out.chunks_exact_mut(tensor.row_bytes() as usize)) {
            let (piece, column) = ((row / each) as usize, (row % each) as usize);
            if held != Some(piece) {
                let Piece { file, offset, .. } = tensor.pieces[piece];
                self.files[file].read_at(offset, &mut stored)?;
                held = Some(piece);
            }
            for (from, to) in stored.chunks_exact(each as usize * size).zip(out.chunks_exact_mut(size)) {
                to.copy_from_slice(&from[column * size..][..size]);
            }
        }
        Ok(())
    }

    /// Rows as they lie, from `first` on.
    fn read_run(&self, tensor: &SourceTensor, mut first: u64, mut out: &mut [u8]) -> Result<(), Error> {
        let row_bytes = tensor.row_bytes();
        for piece in &tensor.pieces {
            if out.is_empty() {
                break;
            }
            if first >= piece.rows {
                first -= piece.rows;
                continue;
            }
            let n = ((piece.rows - first) * row_bytes).min(out.len() as u64);
            let (some, rest) = out.split_at_mut(n as usize);
            self.files[piece.file].read_at(piece.offset + first * row_bytes, some)?;
            (out, first) = (rest, 0);
        }
        assert!(out.is_empty(), "the pieces have all rows");
        Ok(())
    }
}

/// Where row `row` was before [`Change::Interleave`], with heads of `width` rows.
fn stored_at(row: u64, width: u64) -> u64 {
    let (head, row) = (row / width, row % width);
    head * width + row % 2 * (width / 2) + row / 2
}
