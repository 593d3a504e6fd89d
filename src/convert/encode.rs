//! Rows of a tensor from one type to another, on several threads.

use super::{Change, SourceTensor};
use ostro_kernels::quantize::{self, decode_row};
use ostro_kernels::{Cpu, DType};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};
use std::io;
use std::ops::Range;

/// Elements that a thread takes at a time: they stay in its cache while they are decoded and encoded.
const CHUNK: u64 = 1 << 16;

/// A weight that is no number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NonFinite {
    /// The row, over all matrices of the tensor.
    pub row: u64,
    /// The place within the row.
    pub column: u64,
    /// NaN or infinity.
    pub value: f32,
}

/// The threads that encode.
pub struct Encoder {
    pool: ThreadPool,
    cpu: Cpu,
    allow_nonfinite: bool,
}

impl Encoder {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the system refuses them.
    pub fn new(cpu: Cpu, threads: usize, allow_nonfinite: bool) -> io::Result<Encoder> {
        let pool = ThreadPoolBuilder::new().num_threads(threads).build().map_err(io::Error::other)?;
        Ok(Encoder { pool, cpu, allow_nonfinite })
    }

    /// Encodes the rows `rows` of `tensor`, whose stored bytes are `bytes`, as `dtype` to `out`. `importance` is one
    /// value for each column of each expert.
    ///
    /// # Errors
    /// The first weight that is no number, unless they are allowed.
    pub fn encode(
        &self,
        tensor: &SourceTensor,
        dtype: DType,
        rows: Range<u64>,
        bytes: &[u8],
        importance: Option<&[f32]>,
        out: &mut Vec<u8>,
    ) -> Result<(), NonFinite> {
        let (cols, in_bytes) = (tensor.cols(), tensor.row_bytes() as usize);
        let out_bytes = cols as usize / dtype.block_elems() * dtype.block_bytes();
        out.resize((rows.end - rows.start) as usize * out_bytes, 0);
        let step = (CHUNK / cols).max(1) as usize;
        let per_expert = tensor.dims.get(1).copied().unwrap_or(1);
        let same = tensor.dtype == dtype && tensor.change != Change::AddOne;
        let integers = matches!(tensor.dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64 | DType::F64);
        let chunks = out.par_chunks_mut(step * out_bytes).zip(bytes.par_chunks(step * in_bytes)).enumerate();
        let bad = self.pool.install(|| {
            chunks
                .map_init(Vec::new, |floats, (i, (out, bytes))| {
                    let first = rows.start + (i * step) as u64;
                    if same {
                        out.copy_from_slice(bytes);
                        if integers || self.allow_nonfinite {
                            return None;
                        }
                    }
                    let n = bytes.len() / in_bytes * cols as usize;
                    floats.resize(n, 0.0f32);
                    decode_row(tensor.dtype, bytes, floats);
                    if tensor.change == Change::AddOne {
                        floats.iter_mut().for_each(|x| *x += 1.0);
                    }
                    if !self.allow_nonfinite && !all_finite(floats) {
                        let at = floats.iter().position(|x| !x.is_finite()).unwrap_or(0);
                        let (row, column) = (first + at as u64 / cols, at as u64 % cols);
                        return Some(NonFinite { row, column, value: floats[at] });
                    }
                    if !same {
                        self.rows(dtype, floats, cols, first, per_expert, importance, out);
                    }
                    None
                })
                .collect::<Vec<_>>()
        });
        bad.into_iter().flatten().next().map_or(Ok(()), Err)
    }

    /// Encodes rows from `first` on, each with the importance of its expert.
    #[allow(clippy::too_many_arguments, reason = "what to encode, and where to")]
    fn rows(
        &self,
        dtype: DType,
        floats: &[f32],
        cols: u64,
        first: u64,
        per_expert: u64,
        importance: Option<&[f32]>,
        out: &mut [u8],
    ) {
        let Some(importance) = importance else {
            return quantize::encode(self.cpu, dtype, floats, cols as usize, None, out);
        };
        let (mut floats, mut out, mut row) = (floats, out, first);
        let row_bytes = out.len() / (floats.len() / cols as usize);
        while !floats.is_empty() {
            let rows = (per_expert - row % per_expert).min(floats.len() as u64 / cols);
            let (some, rest) = floats.split_at((rows * cols) as usize);
            let (bytes, behind) = out.split_at_mut(rows as usize * row_bytes);
            let of_expert = &importance[(row / per_expert * cols) as usize..][..cols as usize];
            quantize::encode(self.cpu, dtype, some, cols as usize, Some(of_expert), bytes);
            (floats, out, row) = (rest, behind, row + rows);
        }
    }
}

/// Whether all are numbers, without a branch for each.
fn all_finite(x: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    x.chunks(1024).all(|x| !x.iter().fold(false, |bad, x| bad | (x.to_bits() & EXPONENT == EXPONENT)))
}
