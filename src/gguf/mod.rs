//! GGUF files: header, metadata, tensors, and the bytes of the tensors in the file map.
//!
//! A model is one file or a split set of files; either is a [`Gguf`]. Opening checks everything that could make us
//! read wrong bytes, and reads the header only. What the keys and tensors *mean* is for `model` and `tokenizer`.

mod error;
mod magic;
mod metadata;
mod mmap;
mod parse;
mod reader;
mod split;
mod value;
mod writer;

use std::collections::HashMap;
use std::path::Path;

use ostro_kernels::DType;

pub use error::{Error, Fault};
pub use metadata::Metadata;
pub use parse::{DEFAULT_ALIGNMENT, Header, parse};
pub use split::part_path as split_path;
pub use value::{Array, Value, shown};
pub use writer::{Layout, NewTensor, TempFile, Writer};

use mmap::FileBytes;

/// An open model: one file, or all parts of a split set.
#[derive(Debug)]
pub struct Gguf {
    files: Vec<FileBytes>,
    version: u32,
    alignment: u64,
    metadata: Metadata,
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
    warnings: Vec<String>,
    made: elsa::sync::FrozenVec<Box<[u8]>>,
}

/// Pieces of a tensor that [`Gguf::fingerprint`] looks at, and bytes of a piece.
const PIECES: usize = 8;
const PIECE: usize = 256;

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// Map the file (the default); otherwise read it into memory.
    pub mmap: bool,
    /// Lock the bytes in memory. When the system refuses, that is one of the [`Gguf::warnings`].
    pub mlock: bool,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions { mmap: true, mlock: false }
    }
}

/// A tensor: its name, type and shape, and where its bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The name, unique in the model.
    pub name: String,
    /// The type of its elements.
    pub dtype: DType,
    /// One to four dimensions in ggml's order: the length of a row first. None is 0.
    pub dims: Vec<u64>,
    /// Which part of the split set holds it, from 0.
    pub file: usize,
    /// Where its first byte lies, from the start of that file.
    pub offset: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

impl Tensor {
    /// The number of elements.
    pub fn elements(&self) -> u64 {
        self.dims.iter().product()
    }
}

impl Gguf {
    /// Keeps bytes that were made of the file's, for as long as those are there.
    pub fn keep(&self, bytes: Vec<u8>) -> &[u8] {
        self.made.push_get(bytes.into())
    }

    /// Opens a file, or a split set by its first part, with the default options.
    pub fn open(path: &Path) -> Result<Gguf, Error> {
        Gguf::open_with(path, &OpenOptions::default())
    }

    /// Opens a file, or a split set by its first part.
    pub fn open_with(path: &Path, options: &OpenOptions) -> Result<Gguf, Error> {
        let mut warnings = Vec::new();
        let mut open = |path: &Path| {
            let file = FileBytes::open(path, options, &mut warnings)?;
            let mut header =
                parse(file.all()).map_err(|e| Error::Parse { file: path.to_path_buf(), fault: Box::new(e) })?;
            header.metadata.set_file(path);
            Ok((file, header))
        };
        let (file, Header { version, alignment, metadata, mut tensors, .. }) = open(path)?;
        let mut files = vec![file];
        if let Some(set) = split::Set::of_first(path, &metadata)? {
            for (i, path) in set.later_parts()?.into_iter().enumerate() {
                let (file, header) = open(&path)?;
                set.check_part(i + 1, &header.metadata)?;
                tensors.extend(header.tensors.into_iter().map(|t| Tensor { file: i + 1, ..t }));
                files.push(file);
            }
            set.check_tensors(&tensors)?;
        }
        let index = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Ok(Gguf { files, version, alignment, metadata, tensors, index, warnings, made: Default::default() })
    }

    /// The path of the file, or of the first part.
    pub fn path(&self) -> &Path {
        &self.files[0].path
    }

    /// Tells the model from others: a hash of the headers, the sizes of the files and some pieces of each tensor. Two
    /// fine-tunes of one model differ in it, though their headers are the same; what differs in a few weights may not.
    pub fn fingerprint(&self) -> u64 {
        let mut hash = xxhash_rust::xxh3::Xxh3::new();
        for (i, file) in self.files.iter().enumerate() {
            let bytes = file.all();
            let data = self.tensors.iter().filter(|t| t.file == i).map(|t| t.offset as usize).min();
            hash.update(&bytes[..data.unwrap_or(bytes.len()).min(bytes.len())]);
            hash.update(&(bytes.len() as u64).to_le_bytes());
        }
        for tensor in &self.tensors {
            let bytes = self.data(tensor);
            for i in 0..PIECES {
                let at = bytes.len() * i / PIECES;
                hash.update(&bytes[at..bytes.len().min(at + PIECE)]);
            }
        }
        hash.digest()
    }

    /// The format's version: 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The alignment of the tensors' data in bytes (of the first part).
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The files with their sizes in bytes, in the order of the parts.
    pub fn files(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.files.iter().map(|f| (f.path.as_path(), f.all().len() as u64))
    }

    /// The metadata, which is that of the first part.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// All tensors in the order of the file, part after part.
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// The tensor of this name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The bytes of a tensor, from the map: exactly `tensor.bytes` of them.
    ///
    /// # Panics
    /// If `tensor` is of another model and lies outside this one.
    pub fn data(&self, tensor: &Tensor) -> &[u8] {
        &self.files[tensor.file].all()[range(tensor)]
    }

    /// What did not go as asked but did not prevent opening, one line each: memory that could not be locked, a file
    /// that had to be read instead of mapped.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

fn range(tensor: &Tensor) -> std::ops::Range<usize> {
    tensor.offset as usize..(tensor.offset + tensor.bytes) as usize
}
