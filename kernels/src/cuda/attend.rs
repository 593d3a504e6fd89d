//! The cache on the card, and attention over it.

use super::args::{AttendArgs, ShiftArgs, StoreArgs};
use super::error::CudaError;
use super::layer::Functions;
use super::memory::Buffer;
use super::ptx::Function;
use super::{Gpu, GpuRope, int, need};
use crate::{KvType, Pairs};
use std::ops::Range;

/// Keys or values of one layer of one sequence, as the CPU's cache has them: `[heads][capacity][row_bytes(width)]`.
pub struct GpuKv {
    bytes: Buffer<u8>,
    kind: KvType,
    heads: usize,
    capacity: usize,
    width: usize,
}

impl GpuKv {
    /// The bytes, to save and restore them.
    pub fn bytes(&self) -> &Buffer<u8> {
        &self.bytes
    }
}

/// Queries and the cache they look at.
pub struct GpuAttend<'a> {
    /// `[n, n_heads, head_dim]` of all tokens of the batch, after rope.
    pub q: &'a Buffer<f32>,
    /// The keys.
    pub k: &'a GpuKv,
    /// The values; `None`: a value is the front of its key, `v_dim` long.
    pub v: Option<&'a GpuKv>,
    /// Length of a value.
    pub v_dim: usize,
    /// The first query token in the batch.
    pub first: usize,
    /// The number of query tokens.
    pub n: usize,
    /// The position of the first; token `i` sees no position after `first_pos + i`.
    pub first_pos: usize,
    /// Query heads, in groups that share a key head.
    pub n_heads: usize,
    /// A token at `p` sees only positions greater than `p - window`.
    pub window: Option<usize>,
    /// Factor of the scores.
    pub scale: f32,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

/// Positions of a chunk at least, when there are too few rows for all processors of the card.
const CHUNK: usize = 256;
/// Chunks at most, which bounds the scratch: longer contexts have longer chunks.
const MOST_CHUNKS: usize = 32;
/// Rows from which on the positions are not cut: as many blocks as a large card has processors.
const MANY_BLOCKS: usize = 128;
const THREADS: usize = 128;
const TILE: usize = 32;
/// Values of a key at most.
const MOST_WIDTH: usize = 640;

fn code(kind: KvType) -> i32 {
    match kind {
        KvType::F32 => 0,
        KvType::F16 => 1,
        KvType::Q8_0 => 2,
    }
}

/// Which of the kernels.
type Which = fn(&Functions) -> Function;

/// Heads of these lengths: whose kernel, and how many rows a block of it takes.
fn heads_kernel(head_dim: usize, v_dim: usize) -> Option<(Which, usize)> {
    match (head_dim, v_dim) {
        (0..=256, 0..=128) => Some((|f| f.attend_128, 16)),
        (0..=512, 0..=256) => Some((|f| f.attend_256, 8)),
        (0..=MOST_WIDTH, 0..=512) => Some((|f| f.attend_512, 8)),
        _ => None,
    }
}

impl Gpu {
    /// Whether there is a kernel for heads of these lengths.
    pub fn attends(head_dim: usize, v_dim: usize) -> bool {
        heads_kernel(head_dim, v_dim).is_some()
    }

    /// A cache of `heads` heads of `width` values for `capacity` positions.
    ///
    /// # Errors
    /// No room, or a driver that is lost.
    pub fn kv(&self, kind: KvType, heads: usize, capacity: usize, width: usize) -> Result<GpuKv, CudaError> {
        let bytes = self.buffer(heads * capacity * kind.row_bytes(width))?;
        Ok(GpuKv { bytes, kind, heads, capacity, width })
    }

    /// Stores rows of `n` tokens of the batch, `[tokens, heads, width]`, from token `first` on, at the positions from `pos`
    /// on.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When they do not fit.
    pub fn store(
        &self,
        kv: &mut GpuKv,
        rows: &Buffer<f32>,
        first: usize,
        n: usize,
        pos: usize,
    ) -> Result<(), CudaError> {
        let row = kv.heads * kv.width;
        need("rows", rows, (first + n) * row);
        assert!(pos + n <= kv.capacity, "positions up to {} of {}", pos + n, kv.capacity);
        let args = StoreArgs {
            x: rows.at + (first * row * size_of::<f32>()) as u64,
            cache: kv.bytes.at,
            kind: code(kv.kind),
            n: int(n),
            heads: int(kv.heads),
            width: int(kv.width),
            capacity: int(kv.capacity),
            pos: int(pos),
        };
        // SAFETY: the lengths were checked.
        unsafe { self.launch(self.functions.store, ((n * kv.heads).div_ceil(8), 1, 1), 256, 0, &args) }
    }

    /// Forgets the positions `gone` and moves those up to `held` down. Keys are turned by `rope`, one row of angles for
    /// all, from a key's value `skip` on; values move as they are.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn shift(
        &self,
        kv: &mut GpuKv,
        rope: Option<(&GpuRope<'_>, usize)>,
        gone: Range<usize>,
        held: usize,
    ) -> Result<(), CudaError> {
        assert!(gone.start <= gone.end && gone.end <= held && held <= kv.capacity, "{gone:?} of {held}");
        assert!(kv.width <= MOST_WIDTH, "heads of {}", kv.width);
        if let Some((rope, skip)) = rope {
            need("cosines", rope.cos, rope.pairs);
            need("sines", rope.sin, rope.pairs);
            assert!(skip + 2 * rope.pairs <= kv.width, "{} pairs of a head of {}", rope.pairs, kv.width);
        }
        let args = ShiftArgs {
            cache: kv.bytes.at,
            cos: rope.map_or(0, |(r, _)| r.cos.at),
            sin: rope.map_or(0, |(r, _)| r.sin.at),
            kind: code(kv.kind),
            width: int(kv.width),
            capacity: int(kv.capacity),
            start: int(gone.start),
            end: int(gone.end),
            held: int(held),
            pairs: rope.map_or(0, |(r, _)| int(r.pairs)),
            adjacent: rope.map_or(0, |(r, _)| i32::from(r.pairing == Pairs::Adjacent)),
            skip: rope.map_or(0, |(_, skip)| int(skip)),
        };
        // SAFETY: the positions and lengths were checked.
        unsafe { self.launch(self.functions.shift, (kv.heads, 1, 1), 256, 0, &args) }
    }

    /// Floats of scratch that [`Gpu::attend`] needs for a batch of `n` tokens.
    pub fn attend_scratch(n: usize, n_heads: usize, v_dim: usize) -> usize {
        // Positions are cut while there are few blocks, each of 16 rows at most.
        (n * n_heads).min(16 * MANY_BLOCKS) * MOST_CHUNKS * (v_dim + 2)
    }

    /// Attention; rows `first..first + n` of `out`, `[tokens, n_heads, v_dim]`.
    ///
    /// # Errors
    /// A driver that is lost.
    ///
    /// # Panics
    /// When a shape does not fit.
    pub fn attend(&self, a: &GpuAttend<'_>, scratch: &mut Buffer<f32>, out: &mut Buffer<f32>) -> Result<(), CudaError> {
        let k = a.k;
        let v = a.v.unwrap_or(k);
        let (head_dim, v_dim, n_kv_heads) = (k.width, a.v_dim, k.heads);
        let Some((function, rows_of_block)) = heads_kernel(head_dim, v_dim) else {
            panic!("heads of {head_dim} and {v_dim}")
        };
        assert!(v.heads == n_kv_heads && v.capacity == k.capacity, "keys and values of different shapes");
        assert!(v_dim <= v.width && (a.v.is_none() || v_dim == v.width), "values of {v_dim} in rows of {}", v.width);
        assert!(n_kv_heads > 0 && a.n_heads.is_multiple_of(n_kv_heads), "{} / {n_kv_heads} heads", a.n_heads);
        assert!(a.first_pos + a.n <= k.capacity, "positions up to {} of {}", a.first_pos + a.n, k.capacity);
        need("queries", a.q, (a.first + a.n) * a.n_heads * head_dim);
        need("output", out, (a.first + a.n) * a.n_heads * v_dim);
        if a.n == 0 {
            return Ok(());
        }
        let rows = a.n * (a.n_heads / n_kv_heads);
        let row_blocks = rows.div_ceil(rows_of_block);
        let held = a.first_pos + a.n;
        let (chunk, chunks) = match row_blocks * n_kv_heads {
            blocks if blocks < MANY_BLOCKS && held > CHUNK => {
                let chunk = held.div_ceil(MOST_CHUNKS).next_multiple_of(TILE).max(CHUNK);
                (chunk, held.div_ceil(chunk))
            }
            _ => (held.next_multiple_of(TILE), 1),
        };
        if chunks > 1 {
            need("scratch", scratch, chunks * a.n * a.n_heads * (v_dim + 2));
        }
        let float = size_of::<f32>();
        let args = AttendArgs {
            q: a.q.at + (a.first * a.n_heads * head_dim * float) as u64,
            k: k.bytes.at,
            v: v.bytes.at,
            out: out.at + (a.first * a.n_heads * v_dim * float) as u64,
            parts: scratch.at,
            k_type: code(k.kind),
            v_type: code(v.kind),
            k_row: int(k.kind.row_bytes(k.width)),
            v_row: int(v.kind.row_bytes(v.width)),
            n: int(a.n),
            first_pos: int(a.first_pos),
            heads: int(a.n_heads),
            kv_heads: int(n_kv_heads),
            head_dim: int(head_dim),
            v_dim: int(v_dim),
            capacity: int(k.capacity),
            window: int(a.window.unwrap_or(k.capacity).min(k.capacity)),
            chunk: int(chunk),
            chunks: int(chunks),
            scale: a.scale,
            cap: a.softcap.unwrap_or(0.0),
        };
        let shared = float * (rows_of_block * (head_dim + TILE + 1) + TILE * (THREADS + 1));
        // SAFETY: the lengths were checked; shared memory is laid out as `attend.cuh` does.
        unsafe {
            self.launch(function(&self.functions), (row_blocks, n_kv_heads, chunks), THREADS, shared, &args)?;
            if chunks > 1 {
                self.launch(self.functions.attend_join, (a.n * a.n_heads, 1, 1), THREADS, 0, &args)?;
            }
        }
        Ok(())
    }
}
