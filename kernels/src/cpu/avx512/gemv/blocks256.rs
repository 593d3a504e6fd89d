//! Blocks of 256 with integer scales of sub-blocks: the scales are applied in integers, the floats once a block.
//!
//! ```text
//!   64 weights (bytes) x 64 activations -> 32 sums of two, 16 bits   (at most 63 x 127 x 2: no saturation)
//!   32 sums x the scales of their sub-blocks -> 16 integers, added over the block
//! ```
//!
//! A register of packed bytes holds the low bits of 64 weights and, above them, the bits of 64 others: a mask or a shift
//! gives either. So the weights of a block come in an order of their own, in which the activations are loaded and the
//! scales spread.
//!
//! IQ4_XS has bytes up to 241, which would saturate: its products go to 32 bits first.

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::x86_64::*;

use super::{both_halves, halves};
use crate::acts::Col256;
use crate::block::*;
use crate::cpu::avx512::dpwssd;
use crate::cpu::kernels::Rows;
use crate::cpu::streams::{STREAMS, ahead, by_rows};
use crate::quantize::KVALUES_IQ4NL;

/// Which sixteen weights of a block lie in each quarter of its four registers.
type Order = [[usize; 4]; 4];

/// One after the other.
const NATURAL: Order = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]];

/// What a block of 256 is to this loop.
///
/// # Safety
/// (Of its unsafe functions) the machine has the instructions.
#[allow(clippy::missing_safety_doc, reason = "said above, once")]
pub(super) trait Block256: Block {
    /// Weights that share a scale.
    const SUB: usize;
    /// Whether products of pairs do not fit 16 bits.
    const WIDE: bool;
    /// How far the weights lie below their bytes; `None` for those with minimums.
    const OFFSET: Option<u32>;
    /// The order of [`Block256::weights`].
    const ORDER: Order;
    /// For each 16 bits of the registers, the number of their sub-block.
    const SPREAD: [[u16; 32]; 4] = spread(Self::SUB, Self::ORDER);

    /// The scales of the sub-blocks, and their minimums if they have such, as 16-bit integers.
    unsafe fn scales(&self) -> (__m256i, __m256i);
    /// Super scale and, if there is one, super minimum.
    unsafe fn super_scales(&self) -> __m128;
    /// The bytes of all weights.
    unsafe fn weights(&self) -> [__m512i; 4];
}

const fn spread(sub: usize, order: Order) -> [[u16; 32]; 4] {
    let mut table = [[0; 32]; 4];
    let mut i = 0;
    while i < 128 {
        table[i / 32][i % 32] = (order[i / 32][i % 32 / 8] * 16 / sub) as u16;
        i += 1;
    }
    table
}

/// The activations that meet a block's weights.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
unsafe fn activations(q: *const i8, order: &Order) -> [__m512i; 4] {
    order.each_ref().map(|&[a, b, c, d]| {
        // SAFETY: the caller has 256 of them.
        unsafe {
            let quarter = |i: usize| _mm_loadu_si128(q.add(16 * i).cast());
            let half = |i: usize| _mm256_loadu_si256(q.add(16 * i).cast());
            if b != a + 1 {
                let v = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(quarter(a)), quarter(b));
                _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(v, quarter(c)), quarter(d))
            } else if c != b + 1 {
                _mm512_inserti64x4::<1>(_mm512_castsi256_si512(half(a)), half(c))
            } else {
                _mm512_loadu_si512(q.add(16 * a).cast())
            }
        }
    })
}

/// The scales and minimums of Q4_K and Q5_K: six bits each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn six_bits(packed: &[u8; 12]) -> (__m256i, __m256i) {
    let word = |i: usize| u32::from_le_bytes([packed[i], packed[i + 1], packed[i + 2], packed[i + 3]]);
    let (a, b, c) = (word(0), word(4), word(8));
    let scales = (a & 0x3f3f_3f3f) as u64 | ((c & 0x0f0f_0f0f | a >> 2 & 0x3030_3030) as u64) << 32;
    let mins = (b & 0x3f3f_3f3f) as u64 | ((c >> 4 & 0x0f0f_0f0f | b >> 2 & 0x3030_3030) as u64) << 32;
    let wide = |x: u64| _mm256_zextsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi64_si128(x as i64)));
    (wide(scales), wide(mins))
}

/// One f16, or two.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,f16c")]
fn supers(d: F16Bytes, dmin: F16Bytes) -> __m128 {
    _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from_le_bytes([d[0], d[1], dmin[0], dmin[1]])))
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl,f16c")]
fn no_min(d: F16Bytes) -> __m128 {
    _mm_cvtph_ps(_mm_cvtsi32_si128(u16::from_le_bytes(d) as i32))
}

/// Register `i` of packed bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn load<const N: usize>(bytes: &[u8; N], i: usize) -> __m512i {
    // SAFETY: 64 bytes.
    unsafe { _mm512_loadu_si512(bytes[64 * i..64 * i + 64].as_ptr().cast()) }
}

/// The bits of each byte from `SHIFT` on that are in `mask`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn bits<const SHIFT: u32>(bytes: __m512i, mask: i8) -> __m512i {
    let bytes = if SHIFT == 0 { bytes } else { _mm512_srli_epi16::<SHIFT>(bytes) };
    _mm512_and_si512(bytes, _mm512_set1_epi8(mask))
}

/// The nibbles of 128 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn nibbles(bytes: &[u8; 128]) -> [__m512i; 4] {
    let (a, b) = (load(bytes, 0), load(bytes, 1));
    [bits::<0>(a, 15), bits::<4>(a, 15), bits::<0>(b, 15), bits::<4>(b, 15)]
}

/// The pairs of bits of 64 bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn two_bits(bytes: &[u8; 64]) -> [__m512i; 4] {
    let q = load(bytes, 0);
    [bits::<0>(q, 3), bits::<2>(q, 3), bits::<4>(q, 3), bits::<6>(q, 3)]
}

/// Adds `value` to the bytes of `q` for which a bit is set: bit `low` of the bytes in the lower half, `high` in the upper.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_bit(q: __m512i, bytes: __m512i, low: usize, high: usize, value: i8) -> __m512i {
    let bit = |i: usize| (0x0101_0101u32 << i) as i32;
    let set = _mm512_test_epi8_mask(bytes, halves(bit(low), bit(high)));
    _mm512_mask_add_epi8(q, set, q, _mm512_set1_epi8(value))
}

macro_rules! block256 {
    ($($block:ident, $sub:literal, $offset:expr, $order:expr, |$b:ident| $supers:expr, $scales:expr, $weights:expr;)*) => {$(
        impl Block256 for $block {
            const SUB: usize = $sub;
            const OFFSET: Option<u32> = $offset;
            const ORDER: Order = $order;
            const WIDE: bool = matches!($offset, Some(128));
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn scales(&self) -> (__m256i, __m256i) { let $b = self; $scales }
            #[inline]
            #[target_feature(enable = "avx512f,avx512vl,f16c")]
            unsafe fn super_scales(&self) -> __m128 { let $b = self; $supers }
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            unsafe fn weights(&self) -> [__m512i; 4] { let $b = self; $weights }
        }
    )*};
}

/// A register holds two sub-blocks of 32 in its low nibbles, and those that follow each of them in its high ones.
const NIBBLES: Order = [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]];
/// A register holds the first quarter of each half of the block in its lowest pairs of bits, the next in the next.
const PAIRS: Order = [[0, 1, 8, 9], [2, 3, 10, 11], [4, 5, 12, 13], [6, 7, 14, 15]];
/// A register holds the first halves of four sub-blocks in its low nibbles, the second ones in its high nibbles.
const HALVES: Order = [[0, 2, 4, 6], [1, 3, 5, 7], [8, 10, 12, 14], [9, 11, 13, 15]];

block256! {
    BlockQ4_K, 32, None, NIBBLES, |b| supers(b.d, b.dmin), six_bits(&b.scales), nibbles(&b.qs);
    BlockQ5_K, 32, None, NIBBLES, |b| supers(b.d, b.dmin), six_bits(&b.scales), {
        let (q, high) = (nibbles(&b.qs), both_halves(&b.qh));
        // Bit i belongs to sub-block i.
        std::array::from_fn(|j| add_bit(q[j], high, NIBBLES[j][0] / 2, NIBBLES[j][2] / 2, 16))
    };
    // Each half of the block: the low nibbles of its 64 bytes with bits 0-1 and 2-3 of the 32 bytes of high bits, then
    // the high nibbles with bits 4-5 and 6-7.
    BlockQ6_K, 16, Some(32), NATURAL, |b| no_min(b.d), {
        // SAFETY: 16 bytes.
        let scales = unsafe { _mm_loadu_si128(b.scales.as_ptr().cast()) };
        (_mm256_cvtepi8_epi16(scales), _mm256_setzero_si256())
    }, {
        std::array::from_fn(|j| {
            let low = load(&b.ql, j / 2);
            let high = both_halves(part(&b.qh, j / 2));
            let (low, high) = match j % 2 {
                0 => (low, _mm512_sllv_epi32(high, halves(4, 2))),
                _ => (_mm512_srli_epi32::<4>(low), _mm512_srlv_epi32(high, halves(0, 2))),
            };
            // Bits 0-3 of one, 4-5 of the other: `a & m | b & !m`, then without bits 6-7.
            let q = _mm512_ternarylogic_epi32::<0xca>(_mm512_set1_epi8(0x0f), low, high);
            _mm512_and_si512(q, _mm512_set1_epi8(0x3f))
        })
    };
    BlockQ3_K, 16, Some(4), PAIRS, |b| no_min(b.d), {
        let word = |i: usize| u32::from_le_bytes(*part(&b.scales, i));
        let (a, b, c) = (word(0), word(1), word(2));
        let low = |x: u32, bits: u32| x & 0x0f0f_0f0f | (bits & 0x0303_0303) << 4;
        let words = [low(a, c), low(b, c >> 2), low(a >> 4, c >> 4), low(b >> 4, c >> 6)].map(|x| x as i32);
        let bytes = _mm_set_epi32(words[3], words[2], words[1], words[0]);
        (_mm256_cvtepi8_epi16(_mm_sub_epi8(bytes, _mm_set1_epi8(32))), _mm256_setzero_si256())
    }, {
        let (q, high) = (two_bits(&b.qs), both_halves(&b.hmask));
        std::array::from_fn(|j| add_bit(q[j], high, j, 4 + j, 4))
    };
    BlockQ2_K, 16, None, PAIRS, |b| supers(b.d, b.dmin), {
        // SAFETY: 16 bytes.
        let both = unsafe { _mm_loadu_si128(b.scales.as_ptr().cast()) };
        let low = |x| _mm256_cvtepu8_epi16(_mm_and_si128(x, _mm_set1_epi8(0x0f)));
        (low(both), low(_mm_srli_epi16::<4>(both)))
    }, two_bits(&b.qs);
    BlockIQ4_XS, 32, Some(128), HALVES, |b| no_min(b.d), {
        let (low, high) = (u32::from_le_bytes(b.scales_l), u16::from_le_bytes(b.scales_h) as u32);
        let shifts = |step: i32| _mm256_set_epi32(7 * step, 6 * step, 5 * step, 4 * step, 3 * step, 2 * step, step, 0);
        let low = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(low as i32), shifts(4)), _mm256_set1_epi32(15));
        let high = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(high as i32), shifts(2)), _mm256_set1_epi32(3));
        let scales = _mm256_or_si256(low, _mm256_slli_epi32::<4>(high));
        let scales = _mm256_cvtepi32_epi16(_mm256_sub_epi32(scales, _mm256_set1_epi32(32)));
        (_mm256_zextsi128_si256(scales), _mm256_setzero_si256())
    }, {
        // SAFETY: 16 bytes.
        let table = unsafe { _mm_loadu_si128(KVALUES_IQ4NL.as_ptr().cast()) };
        let table = _mm512_broadcast_i32x4(_mm_xor_si128(table, _mm_set1_epi8(-128)));
        nibbles(&b.qs).map(|index| _mm512_shuffle_epi8(table, index))
    };
}

/// Part `i` of a longer array.
#[inline(always)]
fn part<const N: usize>(bytes: &[u8], i: usize) -> &[u8; N] {
    bytes[i * N..][..N].try_into().expect("a part of N bytes")
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
pub(super) unsafe fn gemv<B: Block256>(rows: Rows<'_>, x: Col256<'_>, out: &mut [f32]) {
    let n = x.d.len();
    assert!(rows.row_bytes() == n * size_of::<B>() && x.q.len() == n * 256);
    assert!(x.sum16.len() == n * 16 && x.sum32.len() == n * 8);
    // SAFETY: rows and column have the same number of blocks.
    by_rows(rows, out, |w| unsafe { dots::<B>(w, x) });
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,fma,f16c")]
unsafe fn dots<B: Block256>(w: [*const u8; STREAMS], x: Col256<'_>) -> [f32; STREAMS] {
    let mut f = [_mm512_setzero_ps(); STREAMS];
    let mut below = [_mm256_setzero_ps(); STREAMS];
    // SAFETY: 64 bytes each.
    let spread = const { B::SPREAD }.each_ref().map(|words| unsafe { _mm512_loadu_si512(words.as_ptr().cast()) });
    for (b, &d) in x.d.iter().enumerate() {
        // SAFETY: block `b` of rows and column.
        unsafe {
            let a = activations(x.q.as_ptr().add(b * 256), &const { B::ORDER });
            let sums = if B::SUB == 16 {
                _mm256_loadu_si256(x.sum16.as_ptr().add(b * 16).cast())
            } else {
                _mm256_zextsi128_si256(_mm_loadu_si128(x.sum32.as_ptr().add(b * 8).cast()))
            };
            for r in 0..STREAMS {
                let block = w[r].cast::<B>().add(b);
                ahead(STREAMS, block.cast(), size_of::<B>());
                let block = &*block;
                let (scales, mins) = block.scales();
                let q = block.weights();
                let mut acc = _mm512_setzero_si512();
                for j in 0..4 {
                    let scales = _mm512_permutexvar_epi16(spread[j], _mm512_castsi256_si512(scales));
                    acc = if B::WIDE {
                        let dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), q[j], a[j]);
                        // Both halves of a lane hold its scale.
                        let scales = _mm512_srai_epi32::<16>(scales);
                        _mm512_add_epi32(acc, _mm512_mullo_epi32(dot, scales))
                    } else {
                        dpwssd(acc, _mm512_maddubs_epi16(q[j], a[j]), scales)
                    };
                }
                let sums = _mm256_madd_epi16(if B::OFFSET.is_some() { scales } else { mins }, sums);
                let supers = _mm_mul_ps(block.super_scales(), _mm_set1_ps(d));
                if let Some(offset) = B::OFFSET {
                    let by = _mm256_set1_epi32(offset.trailing_zeros() as i32);
                    acc = _mm512_sub_epi32(acc, _mm512_zextsi256_si512(_mm256_sllv_epi32(sums, by)));
                } else {
                    let min = _mm256_broadcastss_ps(_mm_movehdup_ps(supers));
                    below[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), min, below[r]);
                }
                f[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), _mm512_broadcastss_ps(supers), f[r]);
            }
        }
    }
    std::array::from_fn(|r| _mm512_reduce_add_ps(_mm512_sub_ps(f[r], _mm512_zextps256_ps512(below[r]))))
}
