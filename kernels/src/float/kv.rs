//! Rows of the KV cache: f32 in, f32 out, stored as f32, f16 or Q8_0.
//!
//! A Q8_0 row is ggml's blocks of 32 (f16 scale, 32 i8); a head that is no multiple of 32 is padded with zeros.

use half::f16;

use super::simd::{Kernel, Simd, run};
use crate::Cpu;

/// How keys or values are stored in the cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KvType {
    /// 4 bytes a value.
    F32,
    /// 2 bytes a value.
    F16,
    /// 34 bytes for 32 values.
    Q8_0,
}

/// Values and bytes of a Q8_0 block: an f16 scale, then i8s.
const QK: usize = 32;
const BLOCK: usize = 2 + QK;

impl KvType {
    /// The bytes of one head's row.
    pub const fn row_bytes(self, head_dim: usize) -> usize {
        match self {
            KvType::F32 => 4 * head_dim,
            KvType::F16 => 2 * head_dim,
            KvType::Q8_0 => head_dim.div_ceil(QK) * BLOCK,
        }
    }

    /// Stores a row; `row.len()` must be `row_bytes(x.len())`.
    pub fn store(self, cpu: Cpu, x: &[f32], row: &mut [u8]) {
        assert_eq!(row.len(), self.row_bytes(x.len()));
        match self {
            KvType::F32 => row.as_chunks_mut().0.iter_mut().zip(x).for_each(|(to, x)| *to = x.to_le_bytes()),
            KvType::F16 => run(cpu, StoreF16(x, row)),
            KvType::Q8_0 => run(cpu, StoreQ8(x, row)),
        }
    }

    /// Reads a row back; `row.len()` must be `row_bytes(x.len())`.
    pub fn load(self, cpu: Cpu, row: &[u8], x: &mut [f32]) {
        assert_eq!(row.len(), self.row_bytes(x.len()));
        run(cpu, Load { kind: self, row, x });
    }
}

impl KvType {
    /// [`KvType::load`], slow and obvious.
    pub(crate) fn load_scalar(self, row: &[u8], x: &mut [f32]) {
        Load { kind: self, row, x }.scalar();
    }
}

struct StoreF16<'a>(&'a [f32], &'a mut [u8]);

impl Kernel for StoreF16<'_> {
    type Out = ();

    fn scalar(self) {
        for (to, x) in self.1.as_chunks_mut().0.iter_mut().zip(self.0) {
            *to = f16::from_f32_const(*x).to_le_bytes();
        }
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        for (to, x) in self.1.chunks_mut(2 * S::LANES).zip(self.0.chunks(S::LANES)) {
            if x.len() == S::LANES {
                // SAFETY: both have room for LANES values: `to` is twice as long in bytes as `x` in floats.
                unsafe { s.store_f16(to.as_mut_ptr(), s.load(x.as_ptr())) };
            } else {
                StoreF16(x, to).scalar();
            }
        }
    }
}

struct StoreQ8<'a>(&'a [f32], &'a mut [u8]);

impl StoreQ8<'_> {
    /// As `quantize_row_q8_0` of ggml's x86 code: `d = amax / 127`, ties to even.
    #[inline(always)]
    fn go(self) {
        for (x, block) in self.0.chunks(QK).zip(self.1.chunks_exact_mut(BLOCK)) {
            let mut padded = [0.0; QK];
            padded[..x.len()].copy_from_slice(x);
            // Eight maxima, so that the compiler may use vectors.
            let mut top = [0.0f32; 8];
            for x in padded.as_chunks::<8>().0 {
                for (top, x) in top.iter_mut().zip(x) {
                    *top = top.max(x.abs());
                }
            }
            let top = top.into_iter().fold(0.0, f32::max);
            let inverse = if top > 0.0 { 127.0 / top } else { 0.0 };
            let (scale, quants) = block.split_at_mut(2);
            scale.copy_from_slice(&f16::from_f32_const(top / 127.0).to_le_bytes());
            for (q, x) in quants.iter_mut().zip(padded) {
                *q = (x * inverse).round_ties_even() as i8 as u8;
            }
        }
    }
}

impl Kernel for StoreQ8<'_> {
    type Out = ();

    fn scalar(self) {
        self.go();
    }

    #[inline(always)]
    fn simd<S: Simd>(self, _: S) {
        self.go(); // once a token and head: the compiler's vectors will do
    }
}

struct Load<'a> {
    kind: KvType,
    row: &'a [u8],
    x: &'a mut [f32],
}

impl Kernel for Load<'_> {
    type Out = ();

    fn scalar(self) {
        match self.kind {
            KvType::F32 => {
                self.row.as_chunks().0.iter().zip(self.x).for_each(|(from, x)| *x = f32::from_le_bytes(*from));
            }
            KvType::F16 => {
                let values = self.row.as_chunks().0.iter().map(|from| f16::from_le_bytes(*from).to_f32_const());
                self.x.iter_mut().zip(values).for_each(|(x, value)| *x = value);
            }
            KvType::Q8_0 => {
                for (block, x) in self.row.chunks_exact(BLOCK).zip(self.x.chunks_mut(QK)) {
                    let d = f16::from_le_bytes([block[0], block[1]]).to_f32_const();
                    block[2..].iter().zip(x).for_each(|(q, x)| *x = f32::from(*q as i8) * d);
                }
            }
        }
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let n = self.x.len();
        if n.is_multiple_of(S::LANES) {
            // SAFETY: the public function has compared the lengths.
            unsafe { load_row(s, self.kind, self.row.as_ptr(), n, self.x.as_mut_ptr()) };
        } else {
            self.scalar(); // a row that does not end with a vector has no room for the last one
        }
    }
}

/// A way of storing rows, as a type, so that a loop is compiled for each.
pub(crate) trait Stored: Copy {
    /// Values that fit a cache line, a power of two.
    const IN_LINE: usize;
    /// Bytes of a row of `n` values.
    fn row_bytes(n: usize) -> usize;
    /// The values `at..at + LANES` of a row.
    ///
    /// # Safety
    /// `at` is a multiple of `S::LANES`; the row at `row` has `at + S::LANES` values or more, its last block counted
    /// as whole.
    unsafe fn vector<S: Simd>(s: S, row: *const u8, at: usize) -> S::V;
}

/// [`KvType::F32`].
#[derive(Clone, Copy)]
pub(crate) struct F32;
/// [`KvType::F16`].
#[derive(Clone, Copy)]
pub(crate) struct F16;
/// [`KvType::Q8_0`].
#[derive(Clone, Copy)]
#[allow(non_camel_case_types, reason = "as the format is called")]
pub(crate) struct Q8_0;

impl Stored for F32 {
    const IN_LINE: usize = 16;

    fn row_bytes(n: usize) -> usize {
        KvType::F32.row_bytes(n)
    }

    #[inline(always)]
    unsafe fn vector<S: Simd>(s: S, row: *const u8, at: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load(row.add(4 * at).cast()) }
    }
}

impl Stored for F16 {
    const IN_LINE: usize = 32;

    fn row_bytes(n: usize) -> usize {
        KvType::F16.row_bytes(n)
    }

    #[inline(always)]
    unsafe fn vector<S: Simd>(s: S, row: *const u8, at: usize) -> S::V {
        // SAFETY: the caller's promise.
        unsafe { s.load_f16(row.add(2 * at)) }
    }
}

impl Stored for Q8_0 {
    const IN_LINE: usize = 32;

    fn row_bytes(n: usize) -> usize {
        KvType::Q8_0.row_bytes(n)
    }

    #[inline(always)]
    unsafe fn vector<S: Simd>(s: S, row: *const u8, at: usize) -> S::V {
        // SAFETY: the caller's promise; a vector does not cross blocks, for its lanes divide 32.
        unsafe {
            let block = row.add(at / QK * BLOCK);
            let d = s.splat_f16(u16::from_le_bytes(block.cast::<[u8; 2]>().read()));
            s.mul(d, s.load_i8(block.add(2 + at % QK)))
        }
    }
}

/// Reads a stored row of `n` values into floats. Up to a vector's end, what follows the `n` floats is overwritten.
///
/// # Safety
/// `kind.row_bytes(n)` bytes can be read at `row`; `n` rounded up to whole vectors can be written at `x`.
#[inline(always)]
pub(crate) unsafe fn load_row<S: Simd>(s: S, kind: KvType, row: *const u8, n: usize, x: *mut f32) {
    // SAFETY: the caller's promise.
    unsafe {
        match kind {
            KvType::F32 => load_stored::<S, F32>(s, row, n, x),
            KvType::F16 => load_stored::<S, F16>(s, row, n, x),
            KvType::Q8_0 => load_stored::<S, Q8_0>(s, row, n, x),
        }
    }
}

/// [`load_row`] of one kind; the same contract.
#[inline(always)]
unsafe fn load_stored<S: Simd, K: Stored>(s: S, row: *const u8, n: usize, x: *mut f32) {
    let whole = n / S::LANES * S::LANES;
    // SAFETY: whole vectors lie in the row; the last one is read from a copy with room for it.
    unsafe {
        for at in (0..whole).step_by(S::LANES) {
            s.store(x.add(at), K::vector(s, row, at));
        }
        if whole < n {
            let start = K::row_bytes(whole / QK * QK); // of its block
            let copy = tail(row.add(start), K::row_bytes(n) - start);
            s.store(x.add(whole), K::vector(s, copy.0.as_ptr(), whole % QK));
        }
    }
}

#[repr(align(64))]
struct Tail([u8; 4 * QK]);

/// The end of a row, with zeros after it.
///
/// # Safety
/// `n <= 4 * QK` bytes can be read at `p`.
#[inline(always)]
unsafe fn tail(p: *const u8, n: usize) -> Tail {
    let mut tail = Tail([0; 4 * QK]);
    // SAFETY: the caller's promise.
    unsafe { std::ptr::copy_nonoverlapping(p, tail.0.as_mut_ptr(), n) };
    tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::check::{check, close, floats};

    const DIMS: [usize; 9] = [8, 24, 32, 64, 72, 80, 96, 128, 200];

    #[test]
    fn rows_come_back() {
        check("kv row", |cpu, fail| {
            for dim in DIMS {
                for kind in [KvType::F32, KvType::F16, KvType::Q8_0] {
                    let mut x = floats(dim, 12);
                    x[1] = 1e-7; // subnormal as f16
                    let mut row = vec![0xff; kind.row_bytes(dim)];
                    kind.store(cpu, &x, &mut row);
                    let mut reference = vec![0xff; kind.row_bytes(dim)];
                    kind.store(Cpu::all()[0], &x, &mut reference);
                    if row != reference {
                        fail(format!("store {kind:?}, {dim}: not the scalar bytes"));
                    }
                    let mut got = vec![f32::NAN; dim];
                    kind.load(cpu, &row, &mut got);
                    for (i, (x, got)) in x.iter().zip(&got).enumerate() {
                        let block = &floats(dim, 12)[i / 32 * 32..(i / 32 * 32 + 32).min(dim)];
                        let error = match kind {
                            KvType::F32 => 0.0,
                            KvType::F16 => (x.abs() / 2048.0).max(2f32.powi(-25)),
                            // Half a step, and the rounding of the scale to f16 (2^-11) of at most 127 steps.
                            KvType::Q8_0 => {
                                block.iter().fold(0f32, |top, x| top.max(x.abs())) * (0.5 / 127.0 + 1.0 / 2048.0)
                            }
                        };
                        if !close(*got, f64::from(*x), f64::from(error) * 1.0001) {
                            fail(format!("{kind:?}, {dim}: value {i} is {got}, expected {x} within {error}"));
                        }
                    }
                }
            }
        });
    }

    #[test]
    fn f16_is_rounded_to_nearest_even() {
        check("f16", |cpu, fail| {
            // Every f16 and the midpoints to the next, as f32.
            for chunk in (0..0x7c00u16).collect::<Vec<_>>().chunks(64) {
                let mids: Vec<f32> = chunk
                    .iter()
                    .flat_map(|&h| {
                        let (a, b) = (f16::from_bits(h).to_f32_const(), f16::from_bits(h + 1).to_f32_const());
                        let mid = if b.is_finite() { (a + b) / 2.0 } else { 65520.0 };
                        [a, -a, mid, f32::from_bits(mid.to_bits() - 1), f32::from_bits(mid.to_bits() + 1), -mid]
                    })
                    .collect();
                let mut row = vec![0; KvType::F16.row_bytes(mids.len())];
                KvType::F16.store(cpu, &mids, &mut row);
                for ((&h, got), mids) in chunk.iter().zip(row.as_chunks::<12>().0).zip(mids.chunks(6)) {
                    let even = h + (h & 1);
                    let want = [h, h | 0x8000, even, h, h + 1, even | 0x8000];
                    let got: Vec<u16> = got.as_chunks().0.iter().map(|b| u16::from_le_bytes(*b)).collect();
                    if got != want {
                        fail(format!("{mids:?}: {got:04x?}, expected {want:04x?}"));
                    }
                }
            }
        });
    }

    #[test]
    fn zeros_and_padding() {
        check("q8_0 zeros", |cpu, fail| {
            for dim in [8, 32, 40] {
                let mut row = vec![0xff; KvType::Q8_0.row_bytes(dim)];
                KvType::Q8_0.store(cpu, &vec![0.0; dim], &mut row);
                if row.iter().any(|&b| b != 0) {
                    fail(format!("{dim}: {row:?}"));
                }
            }
        });
    }
}
