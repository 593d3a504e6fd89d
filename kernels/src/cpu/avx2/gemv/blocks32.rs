//! Blocks of 32 with a float scale, one to a register.

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::x86_64::*;

use super::{first_of, heads, load, lookup, nibbles16, pairs, sum};
use crate::acts::Col32;
use crate::block::*;
use crate::cpu::avx2::dpbusd;
use crate::cpu::kernels::{FEW, Gemv, Rows};
use crate::cpu::streams::{STREAMS, ahead, by_rows_and_columns};
use crate::quantize::{KVALUES_FP4, KVALUES_IQ4NL, e8m0_half_to_f32};

/// What a block of 32 is to this loop.
///
/// # Safety
/// (Of its functions) the machine has the instructions.
#[allow(clippy::missing_safety_doc, reason = "said above, once")]
pub(super) trait Block32: Block {
    /// Whether the bytes are signed.
    const SIGNED: bool;
    /// How far the weights lie below their bytes (not at all: 0); `None` for those with a minimum.
    const OFFSET: Option<u32>;

    /// The bytes of the block.
    unsafe fn weights(&self) -> __m256i;
    /// Scale, and minimum or 0, of one block in each row.
    unsafe fn heads(rows: [&Self; STREAMS]) -> __m256;
}

/// Adds 16 where the fifth bit is set.
#[inline]
#[target_feature(enable = "avx2")]
fn fifth(q: __m256i, bits: [u8; 4]) -> __m256i {
    // Every byte gets the byte of its bit, then loses all but the bit.
    let all = _mm256_set1_epi32(i32::from_le_bytes(bits));
    let bytes = _mm256_set_epi64x(0x0303_0303_0303_0303, 0x0202_0202_0202_0202, 0x0101_0101_0101_0101, 0);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201u64 as i64);
    let own = _mm256_and_si256(_mm256_shuffle_epi8(all, bytes), bit);
    let set = _mm256_cmpeq_epi8(own, bit);
    _mm256_or_si256(q, _mm256_and_si256(set, _mm256_set1_epi8(16)))
}

macro_rules! block32 {
    ($($block:ident, $signed:literal, $offset:expr, |$rows:ident| $heads:expr, |$b:ident| $weights:expr;)*) => {$(
        impl Block32 for $block {
            const SIGNED: bool = $signed;
            const OFFSET: Option<u32> = $offset;
            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn weights(&self) -> __m256i { let $b = self; $weights }
            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn heads($rows: [&Self; STREAMS]) -> __m256 { $heads }
        }
    )*};
}

block32! {
    BlockQ4_0, false, Some(8), |rows| heads(rows.map(|b| (b.d, [0; 2]))), |b| nibbles16(&b.qs);
    BlockQ4_1, false, None, |rows| heads(rows.map(|b| (b.d, b.m))), |b| nibbles16(&b.qs);
    BlockQ5_0, false, Some(16), |rows| heads(rows.map(|b| (b.d, [0; 2]))), |b| fifth(nibbles16(&b.qs), b.qh);
    BlockQ5_1, false, None, |rows| heads(rows.map(|b| (b.d, b.m))), |b| fifth(nibbles16(&b.qs), b.qh);
    BlockQ8_0, true, Some(0), |rows| heads(rows.map(|b| (b.d, [0; 2]))), |b| load(&b.qs);
    BlockIQ4_NL, true, Some(0), |rows| heads(rows.map(|b| (b.d, [0; 2]))), |b| lookup(&KVALUES_IQ4NL, nibbles16(&b.qs));
    // The values are twice the weights.
    BlockMXFP4, true, Some(0), |rows| {
        let [a, b, c, d] = rows.map(|b| e8m0_half_to_f32(b.e));
        _mm256_set_ps(0.0, d, 0.0, c, 0.0, b, 0.0, a)
    }, |b| lookup(&KVALUES_FP4, nibbles16(&b.qs));
}

pub(super) fn kernel<B: Block32, const VNNI: bool>() -> Gemv {
    Gemv::Q8x32(gemv::<B, VNNI>, Some(gemv_few::<B, VNNI>))
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemv<B: Block32, const VNNI: bool>(rows: Rows<'_>, x: Col32<'_>, out: &mut [f32]) {
    // SAFETY: promised by the caller.
    unsafe { columns::<B, VNNI, 1>(rows, &[x], [out]) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemv_few<B: Block32, const VNNI: bool>(rows: Rows<'_>, x: &[Col32<'_>; FEW], out: [&mut [f32]; FEW]) {
    // SAFETY: promised by the caller.
    unsafe { columns::<B, VNNI, FEW>(rows, x, out) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn columns<B: Block32, const VNNI: bool, const C: usize>(
    rows: Rows<'_>,
    x: &[Col32<'_>; C],
    out: [&mut [f32]; C],
) {
    let n = x[0].d.len();
    assert!(rows.row_bytes() == n * size_of::<B>());
    assert!(x.iter().all(|x| x.d.len() == n && x.q.len() == n * 32 && x.ds.len() == n));
    // SAFETY: rows and columns have the same number of blocks.
    by_rows_and_columns(rows, out, |w| unsafe { dots::<B, VNNI, C>(w, x, n) });
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots<B: Block32, const VNNI: bool, const C: usize>(
    w: [*const u8; STREAMS],
    x: &[Col32<'_>; C],
    n: usize,
) -> [[f32; STREAMS]; C] {
    let (ones, zero) = (_mm256_set1_epi16(1), _mm256_setzero_si256());
    let mut f = [[_mm256_setzero_ps(); STREAMS]; C];
    let mut mins = [_mm256_setzero_ps(); C]; // of row r in lane 2 r + 1
    // `vpdpbusd` takes unsigned bytes: signed ones are raised by 128.
    let (raise, offset) = match (VNNI && B::SIGNED, B::OFFSET) {
        (true, _) => (_mm256_set1_epi8(-128), 128),
        (false, offset) => (zero, offset.unwrap_or(0)),
    };
    let offsets = _mm256_set1_epi8(offset as i8);
    for b in 0..n {
        // SAFETY: block `b` of rows and columns; `VNNI` is for machines that have it.
        unsafe {
            let rows = w.map(|w| &*w.cast::<B>().add(b));
            let own = B::heads(rows);
            let (mut a, mut below, mut heads) = ([zero; C], [zero; C], [own; C]);
            for c in 0..C {
                a[c] = _mm256_loadu_si256(x[c].q.as_ptr().add(b * 32).cast());
                // Minus the offset times the activations, lane by lane.
                below[c] = match (offset, VNNI) {
                    (0, _) => zero,
                    (_, true) => _mm256_sub_epi32(zero, dpbusd(zero, offsets, a[c])),
                    (_, false) => _mm256_sub_epi16(zero, _mm256_maddubs_epi16(offsets, a[c])),
                };
                let (d, ds) = (*x[c].d.as_ptr().add(b), *x[c].ds.as_ptr().add(b));
                let factors = f64::from_bits(d.to_bits() as u64 | (ds.to_bits() as u64) << 32);
                heads[c] = _mm256_mul_ps(own, _mm256_castpd_ps(_mm256_set1_pd(factors)));
                if B::OFFSET.is_none() {
                    mins[c] = _mm256_add_ps(mins[c], heads[c]);
                }
            }
            each_stream!(|r| {
                ahead(STREAMS, (&raw const *rows[r]).cast(), size_of::<B>());
                let q = rows[r].weights();
                for c in 0..C {
                    let dot = match (VNNI, B::SIGNED) {
                        (true, _) => dpbusd(below[c], _mm256_xor_si256(q, raise), a[c]),
                        (false, true) => _mm256_madd_epi16(pairs::<true>(q, a[c]), ones),
                        (false, false) => _mm256_madd_epi16(_mm256_add_epi16(pairs::<false>(q, a[c]), below[c]), ones),
                    };
                    f[c][r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), first_of(r, heads[c]), f[c][r]);
                }
            });
        }
    }
    std::array::from_fn(|c| {
        let mut each = [0.0; 8];
        // SAFETY: eight floats.
        unsafe { _mm256_storeu_ps(each.as_mut_ptr(), mins[c]) };
        std::array::from_fn(|r| sum(f[c][r]) + if B::OFFSET.is_none() { each[2 * r + 1] } else { 0.0 })
    })
}
