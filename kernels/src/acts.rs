//! Activations, quantized once per input and shared by every matrix that reads it.
//!
//! An int8 dot product needs both sides in int8. ggml quantizes activations in blocks of 32 for the types whose
//! weights come in blocks of 32 (its Q8_0 and Q8_1), and of 256 for the K-quants (its Q8_K); so do we, with the same
//! rounding (`d = max|x| / 127`, to nearest), or logits would drift from llama.cpp's. The sums of the int8 values
//! stand beside them: offsets and minimums of the weights are applied through them.

use crate::DType;
use crate::buf::Buf;
use crate::cpu::kernels::Columns;

/// Which representations of the activations are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ActKinds(u8);

/// One representation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ActKind {
    F32,
    /// int8, one f32 scale for 32.
    Q8x32,
    /// int8, one f32 scale for 256.
    Q8x256,
}

impl ActKind {
    pub(crate) fn of(dtype: DType) -> ActKind {
        use DType::*;
        match dtype {
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 | IQ4_NL | MXFP4 => ActKind::Q8x32,
            Q2_K | Q3_K | Q4_K | Q5_K | Q6_K | IQ4_XS => ActKind::Q8x256,
            _ => ActKind::F32,
        }
    }
}

impl ActKinds {
    /// No representation.
    pub const NONE: ActKinds = ActKinds(0);

    /// The one that a product with weights of this type reads.
    pub fn of(dtype: DType) -> ActKinds {
        ActKinds::one(ActKind::of(dtype))
    }

    pub(crate) fn one(kind: ActKind) -> ActKinds {
        ActKinds(1 << kind as u8)
    }

    pub(crate) fn has(self, kind: ActKind) -> bool {
        self.0 & (1 << kind as u8) != 0
    }
}

impl std::ops::BitOr for ActKinds {
    type Output = ActKinds;
    fn bitor(self, other: ActKinds) -> ActKinds {
        ActKinds(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for ActKinds {
    fn bitor_assign(&mut self, other: ActKinds) {
        *self = *self | other;
    }
}

/// A batch of activations, `[n, k]`, in the representations that were asked for; filled by
/// [`Exec::quantize`](crate::Exec::quantize).
pub struct Acts {
    n: usize,
    k: usize,
    kinds: ActKinds,
    x: Buf<f32>, // [n, k]
    q32: Q8x32,
    q256: Q8x256,
}

/// Columns of int8 are this many bytes longer than their activations, so that columns of a power-of-two length do not
/// fall on the same cache sets.
const PAD: usize = 64;

fn stride(k: usize) -> usize {
    k.next_multiple_of(64) + PAD
}

pub(crate) struct Q8x32 {
    q: Buf<i8>,     // [n, stride(k)]
    d: Buf<f32>,    // [n, k/32]
    ds: Buf<f32>,   // [n, k/32]: scale x sum
    bias: Buf<i32>, // [n, k/32]: -128 x sum
}

pub(crate) struct Q8x256 {
    q: Buf<i8>,       // [n, stride(k)]
    d: Buf<f32>,      // [n, k/256]
    sum16: Buf<i16>,  // [n, k/16]
    sum32: Buf<i16>,  // [n, k/32]
    bias16: Buf<i32>, // [n, k/16]: -128 x sum
    bias32: Buf<i32>, // [n, k/32]: -128 x sum
}

/// One column in blocks of 32: `x = d * q`.
#[derive(Clone, Copy)]
pub(crate) struct Col32<'a> {
    pub q: &'a [i8],
    pub d: &'a [f32],
    /// Scale x sum of each block.
    pub ds: &'a [f32],
}

/// One column in blocks of 256: `x = d * q`.
#[derive(Clone, Copy)]
pub(crate) struct Col256<'a> {
    pub q: &'a [i8],
    pub d: &'a [f32],
    pub sum16: &'a [i16],
    pub sum32: &'a [i16],
}

/// All columns in blocks of 32, from some element on.
pub(crate) struct Raw32<'a> {
    q: &'a [i8],
    d: &'a [f32],
    ds: &'a [f32],
    bias: &'a [i32],
    stride: usize,
    blocks: usize,
    k: usize,
}

/// Where the parts of one column are.
#[derive(Clone, Copy)]
pub(crate) struct RawCol32 {
    pub q: *const i8,
    pub d: *const f32,
    pub ds: *const f32,
    #[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "NEON takes offsets off the bytes themselves"))]
    pub bias: *const i32,
}

impl Raw32<'_> {
    /// Column `i`, which exists; nothing is checked, and nothing read.
    #[inline(always)]
    pub(crate) fn column(&self, i: usize) -> RawCol32 {
        let block = i * self.blocks + self.k / 32;
        debug_assert!(block < self.d.len() && i * self.stride + self.k < self.q.len());
        RawCol32 {
            q: self.q.as_ptr().wrapping_add(i * self.stride + self.k),
            d: self.d.as_ptr().wrapping_add(block),
            ds: self.ds.as_ptr().wrapping_add(block),
            bias: self.bias.as_ptr().wrapping_add(block),
        }
    }
}

/// All columns in blocks of 256, from some element on.
pub(crate) struct Raw256<'a> {
    acts: &'a Q8x256,
    stride: usize,
    blocks: usize,
    k: usize,
}

/// Where the parts of one column are; sums are of sub-blocks.
#[derive(Clone, Copy)]
pub(crate) struct RawCol256 {
    pub q: *const i8,
    pub d: *const f32,
    pub sums: *const i16,
    #[cfg_attr(target_arch = "aarch64", allow(dead_code, reason = "NEON takes offsets off the bytes themselves"))]
    pub bias: *const i32,
}

impl<'a> Raw256<'a> {
    /// From `blocks` blocks further on.
    #[inline(always)]
    pub(crate) fn block(&self, blocks: usize) -> Raw256<'a> {
        Raw256 { k: self.k + 256 * blocks, ..*self }
    }

    /// Column `i`, which exists, with the sums of sub-blocks of 16 or 32; nothing is checked, and nothing read.
    #[inline(always)]
    pub(crate) fn column(&self, i: usize, sub: usize) -> RawCol256 {
        let block = i * self.blocks + self.k / 256;
        debug_assert!(block < self.acts.d.len() && i * self.stride + self.k < self.acts.q.len());
        let (sums, bias) = match sub {
            16 => (self.acts.sum16.as_ptr(), self.acts.bias16.as_ptr()),
            _ => (self.acts.sum32.as_ptr(), self.acts.bias32.as_ptr()),
        };
        RawCol256 {
            q: self.acts.q.as_ptr().wrapping_add(i * self.stride + self.k),
            d: self.acts.d.as_ptr().wrapping_add(block),
            sums: sums.wrapping_add(block * (256 / sub)),
            bias: bias.wrapping_add(block * (256 / sub)),
        }
    }
}

/// One column of a block of 32 as the quantizer writes it.
pub(crate) struct Col32Mut<'a> {
    q: &'a mut [i8],
    d: &'a mut [f32],
    ds: &'a mut [f32],
    bias: &'a mut [i32],
}

pub(crate) struct Col256Mut<'a> {
    q: &'a mut [i8],
    d: &'a mut [f32],
    sum16: &'a mut [i16],
    sum32: &'a mut [i16],
    bias16: &'a mut [i32],
    bias32: &'a mut [i32],
}

impl Default for Acts {
    fn default() -> Acts {
        Acts::new()
    }
}

impl Acts {
    /// An empty batch, which allocates nothing yet.
    pub const fn new() -> Acts {
        Acts {
            n: 0,
            k: 0,
            kinds: ActKinds::NONE,
            x: Buf::new(),
            q32: Q8x32 { q: Buf::new(), d: Buf::new(), ds: Buf::new(), bias: Buf::new() },
            q256: Q8x256 {
                q: Buf::new(),
                d: Buf::new(),
                sum16: Buf::new(),
                sum32: Buf::new(),
                bias16: Buf::new(),
                bias32: Buf::new(),
            },
        }
    }

    /// Activations in the batch.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Length of each.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The representations it holds.
    pub fn kinds(&self) -> ActKinds {
        self.kinds
    }

    /// Makes room for a batch; one that is not larger than any before it allocates nothing.
    ///
    /// # Panics
    /// When `k` is not a multiple of the block of a wanted representation, or the sizes overflow.
    pub fn reserve(&mut self, n: usize, k: usize, kinds: ActKinds) {
        assert!(n.checked_mul(stride(k)).is_some_and(|size| size < isize::MAX as usize / 4), "[{n}, {k}] activations");
        assert!(!kinds.has(ActKind::Q8x32) || k.is_multiple_of(32), "activations of length {k} in blocks of 32");
        assert!(!kinds.has(ActKind::Q8x256) || k.is_multiple_of(256), "activations of length {k} in blocks of 256");
        if kinds.has(ActKind::F32) {
            self.x.resize(n * k);
        }
        if kinds.has(ActKind::Q8x32) {
            let Q8x32 { q, d, ds, bias } = &mut self.q32;
            q.resize(n * stride(k));
            d.resize(n * k / 32);
            ds.resize(n * k / 32);
            bias.resize(n * k / 32);
        }
        if kinds.has(ActKind::Q8x256) {
            let Q8x256 { q, d, sum16, sum32, bias16, bias32 } = &mut self.q256;
            q.resize(n * stride(k));
            d.resize(n * k / 256);
            sum16.resize(n * k / 16);
            bias16.resize(n * k / 16);
            sum32.resize(n * k / 32);
            bias32.resize(n * k / 32);
        }
        (self.n, self.k, self.kinds) = (n, k, kinds);
    }

    /// All of them as the columns of a product.
    pub(crate) fn columns(&self) -> Columns<'_> {
        Columns::Range { from: 0, n: self.n }
    }

    /// The floats of activation `i`.
    pub(crate) fn col_f32(&self, i: usize) -> &[f32] {
        &self.x[i * self.k..][..self.k]
    }

    pub(crate) fn col32(&self, i: usize) -> Col32<'_> {
        let (k, b, a) = (self.k, self.k / 32, &self.q32);
        Col32 { q: &a.q[i * stride(k)..][..k], d: &a.d[i * b..][..b], ds: &a.ds[i * b..][..b] }
    }

    pub(crate) fn col256(&self, i: usize) -> Col256<'_> {
        let (k, b, a) = (self.k, self.k / 256, &self.q256);
        Col256 {
            q: &a.q[i * stride(k)..][..k],
            d: &a.d[i * b..][..b],
            sum16: &a.sum16[i * b * 16..][..b * 16],
            sum32: &a.sum32[i * b * 8..][..b * 8],
        }
    }

    /// The columns in blocks of 32 from element `k` on, for kernels.
    pub(crate) fn raw32(&self, k: usize) -> Raw32<'_> {
        let a = &self.q32;
        Raw32 { q: &a.q, d: &a.d, ds: &a.ds, bias: &a.bias, stride: stride(self.k), blocks: self.k / 32, k }
    }

    /// The columns in blocks of 256 from element `k` on, for kernels.
    pub(crate) fn raw256(&self, k: usize) -> Raw256<'_> {
        Raw256 { acts: &self.q256, stride: stride(self.k), blocks: self.k / 256, k }
    }

    /// A writer of columns, for the threads of a team.
    pub(crate) fn writer(&mut self) -> Writer {
        let (a, b) = (&mut self.q32, &mut self.q256);
        Writer {
            k: self.k,
            x: self.x.as_mut_ptr(),
            q32: (a.q.as_mut_ptr(), a.d.as_mut_ptr(), a.ds.as_mut_ptr(), a.bias.as_mut_ptr()),
            q256: (b.q.as_mut_ptr(), b.d.as_mut_ptr()),
            sums: (b.sum16.as_mut_ptr(), b.sum32.as_mut_ptr(), b.bias16.as_mut_ptr(), b.bias32.as_mut_ptr()),
        }
    }

    /// What activation `i` stands for in the representation that weights of `dtype` are multiplied with: the exact
    /// other side of the product, for tests and for the slow path.
    pub fn dequantized(&self, dtype: DType, i: usize, out: &mut [f32]) {
        assert!(i < self.n && out.len() == self.k && self.kinds.has(ActKind::of(dtype)));
        match ActKind::of(dtype) {
            ActKind::F32 => out.copy_from_slice(self.col_f32(i)),
            ActKind::Q8x32 => dequantize(self.col32(i).q, self.col32(i).d, 32, out),
            ActKind::Q8x256 => dequantize(self.col256(i).q, self.col256(i).d, 256, out),
        }
    }
}

fn dequantize(q: &[i8], d: &[f32], block: usize, out: &mut [f32]) {
    for (i, (out, &q)) in out.iter_mut().zip(q).enumerate() {
        *out = q as f32 * d[i / block];
    }
}

/// Hands out columns to write, from several threads.
pub(crate) struct Writer {
    k: usize,
    x: *mut f32,
    q32: (*mut i8, *mut f32, *mut f32, *mut i32),
    q256: (*mut i8, *mut f32),
    sums: (*mut i16, *mut i16, *mut i32, *mut i32),
}

// SAFETY: the callers of its methods promise that no two threads ask for the same column.
unsafe impl Sync for Writer {}

impl Writer {
    /// # Safety
    /// `i < n`, the representation was reserved, the `Acts` is borrowed mutably, and nobody else has this column.
    pub(crate) unsafe fn col_f32<'a>(&self, i: usize) -> &'a mut [f32] {
        // SAFETY: column `i` of `[n, k]`.
        unsafe { std::slice::from_raw_parts_mut(self.x.add(i * self.k), self.k) }
    }

    /// # Safety
    /// As [`Writer::col_f32`].
    pub(crate) unsafe fn col32<'a>(&self, i: usize) -> Col32Mut<'a> {
        let (k, b) = (self.k, self.k / 32);
        let (q, d, ds, bias) = self.q32;
        // SAFETY: column `i` of the shapes given at `Q8x32`.
        unsafe {
            Col32Mut {
                q: column(q, i, stride(k), k),
                d: column(d, i, b, b),
                ds: column(ds, i, b, b),
                bias: column(bias, i, b, b),
            }
        }
    }

    /// # Safety
    /// As [`Writer::col_f32`].
    pub(crate) unsafe fn col256<'a>(&self, i: usize) -> Col256Mut<'a> {
        let (k, b) = (self.k, self.k / 256);
        let ((q, d), (sum16, sum32, bias16, bias32)) = (self.q256, self.sums);
        // SAFETY: column `i` of the shapes given at `Q8x256`.
        unsafe {
            Col256Mut {
                q: column(q, i, stride(k), k),
                d: column(d, i, b, b),
                sum16: column(sum16, i, b * 16, b * 16),
                sum32: column(sum32, i, b * 8, b * 8),
                bias16: column(bias16, i, b * 16, b * 16),
                bias32: column(bias32, i, b * 8, b * 8),
            }
        }
    }
}

unsafe fn column<'a, T>(base: *mut T, i: usize, stride: usize, len: usize) -> &'a mut [T] {
    // SAFETY: promised by the callers.
    unsafe { std::slice::from_raw_parts_mut(base.add(i * stride), len) }
}

/// Quantizes a column in blocks of 32. Plain Rust that vectorizes: each instruction set compiles it for itself, and all
/// give the same bits.
#[inline(always)]
pub(crate) fn quantize32(x: &[f32], out: Col32Mut<'_>) {
    let (x, _) = x.as_chunks::<32>();
    let (q, _) = out.q.as_chunks_mut::<32>();
    for (i, (x, q)) in x.iter().zip(q).enumerate() {
        let (d, inverse) = scale(x);
        let sum = round(x, inverse, q);
        out.d[i] = half_precision(d);
        out.ds[i] = half_precision(d * sum as f32);
        out.bias[i] = -128 * sum;
    }
}

/// Quantizes a column in blocks of 256, as [`quantize32`] does.
#[inline(always)]
pub(crate) fn quantize256(x: &[f32], out: Col256Mut<'_>) {
    let (x, _) = x.as_chunks::<256>();
    let (q, _) = out.q.as_chunks_mut::<256>();
    for (i, (x, q)) in x.iter().zip(q).enumerate() {
        let (d, inverse) = scale(x);
        out.d[i] = d;
        let (x, _) = x.as_chunks::<16>();
        let (q, _) = q.as_chunks_mut::<16>();
        for (j, (x, q)) in x.iter().zip(q).enumerate() {
            let sum = round(x, inverse, q);
            out.sum16[i * 16 + j] = sum as i16;
            out.bias16[i * 16 + j] = -128 * sum;
        }
        for j in i * 8..i * 8 + 8 {
            let sum = out.sum16[2 * j] + out.sum16[2 * j + 1];
            out.sum32[j] = sum;
            out.bias32[j] = -128 * sum as i32;
        }
    }
}

/// `(d, 1/d)` of a block. A NaN or an infinity makes `d` NaN, and so every product with the block.
#[inline(always)]
fn scale<const N: usize>(x: &[f32; N]) -> (f32, f32) {
    // Bits compare as the numbers do once the sign is gone, and a maximum of integers vectorizes; NaN is the largest.
    let max = f32::from_bits(x.iter().fold(0, |max, x| max.max(x.to_bits() & 0x7fff_ffff)));
    if max.is_finite() {
        // 127 / max is infinite for a max below 4e-37, and 0 x inf is NaN.
        (max / 127.0, if max > 0.0 { (127.0 / max).min(f32::MAX) } else { 0.0 })
    } else {
        (f32::NAN, 0.0)
    }
}

/// Rounds to the 11 significant bits of an f16, ties to even, and keeps the range of an f32. ggml stores scale
/// and scaled sum of 32 activations as f16; with the same ones the products are llama.cpp's, and not merely as good.
#[inline(always)]
fn half_precision(d: f32) -> f32 {
    let bits = d.to_bits();
    f32::from_bits((bits + 0xFFF + ((bits >> 13) & 1)) & !0x1FFF)
}

/// Rounds to nearest, ties to even; returns the sum. `inverse` is such that nothing exceeds 127; 0 makes all zero.
#[inline(always)]
fn round<const N: usize>(x: &[f32; N], inverse: f32, q: &mut [i8; N]) -> i32 {
    if inverse == 0.0 {
        *q = [0; N];
        return 0;
    }
    // Adding 1.5 x 2^23 leaves the rounded integer in the low bits of the mantissa: two instructions on any machine.
    const MAGIC: f32 = 12_582_912.0;
    let mut sum = 0;
    for (q, x) in q.iter_mut().zip(x) {
        let value = (x * inverse + MAGIC).to_bits() as i32 - MAGIC.to_bits() as i32;
        *q = value as i8;
        sum += value;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantized(x: &[f32], kinds: ActKinds) -> Acts {
        let mut acts = Acts::new();
        acts.reserve(1, x.len(), kinds);
        let writer = acts.writer();
        // SAFETY: one thread, one column, reserved above.
        unsafe {
            if kinds.has(ActKind::Q8x32) {
                quantize32(x, writer.col32(0));
            }
            if kinds.has(ActKind::Q8x256) {
                quantize256(x, writer.col256(0));
            }
        }
        acts
    }

    #[test]
    fn values_round_to_nearest_and_sums_are_exact() {
        let x: Vec<f32> = (0..512).map(|i| ((i * 37) % 255) as f32 - 127.0).collect();
        let acts = quantized(&x, ActKinds::of(DType::Q8_0) | ActKinds::of(DType::Q4_K));
        let (a, b) = (acts.col32(0), acts.col256(0));
        for (i, &x) in x.iter().enumerate() {
            for (d, q) in [(a.d[i / 32], a.q[i]), (b.d[i / 256], b.q[i])] {
                // A scale of 11 bits moves the largest values by 127 / 2048.
                assert!((d * q as f32 - x).abs() <= d * (0.5001 + 127.0 / 2048.0), "{i}: {x} became {d} x {q}");
            }
        }
        for i in 0..16 {
            let sum = |q: &[i8]| q.iter().map(|&q| q as i32).sum::<i32>();
            let (q32, q256) = (sum(&a.q[i * 32..][..32]), sum(&b.q[i * 32..][..32]));
            assert_eq!(acts.q32.bias[i], -128 * q32);
            assert!((a.ds[i] / (a.d[i] * q32 as f32) - 1.0).abs() < 1.0 / 1024.0 || q32 == 0, "{i}: {}", a.ds[i]);
            assert_eq!((b.sum32[i] as i32, acts.q256.bias32[i]), (q256, -128 * q256));
            assert_eq!(b.sum16[2 * i] + b.sum16[2 * i + 1], b.sum32[i]);
            assert_eq!(acts.q256.bias16[i], -128 * b.sum16[i] as i32);
        }
    }

    #[test]
    fn numbers_at_the_edge_stay_numbers_and_the_rest_is_nan() {
        let kinds = ActKinds::of(DType::Q8_0) | ActKinds::of(DType::Q4_K);
        for (value, finite) in
            [(0.0, true), (1e-45, true), (1e-38, true), (1e38, true), (f32::INFINITY, false), (f32::NAN, false)]
        {
            let mut x = [0.0; 256];
            (x[3], x[4]) = (value, -value);
            let acts = quantized(&x, kinds);
            for dtype in [DType::Q8_0, DType::Q4_K] {
                let mut out = [7.0; 256];
                acts.dequantized(dtype, 0, &mut out);
                assert_eq!(out[3].is_finite(), finite, "{value}");
                // Below 4e-37 the inverse of the scale is cut off, and the values shrink.
                assert!(!finite || (out[3] - value).abs() <= value / 250.0 + 4e-37, "{value}: {}", out[3]);
                assert!(!finite || out[0] == 0.0);
            }
        }
    }
}
