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

use super::{both_halves, first16, halves, quarters};
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

    /// What stands beside the weights of one block in each row.
    unsafe fn heads(rows: [&Self; STREAMS]) -> Heads;
    /// The bytes of all weights.
    unsafe fn weights(&self) -> [__m512i; 4];
}

/// Scales and minimums of one block in each row.
pub(super) struct Heads {
    /// Scales of the sub-blocks as 16-bit integers, from the lowest bits on, a row to a register.
    scales: [__m512i; STREAMS],
    /// Minimums as 16-bit integers, row `r` in quarter `r`: of the first eight sub-blocks, of the others.
    mins: [__m512i; 2],
    /// Super scale and super minimum (or any number) of each row.
    supers: __m256,
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
    let mut out = [_mm512_setzero_si512(); 4]; // a loop: a closure would be called
    for (&[a, b, c, d], out) in order.iter().zip(&mut out) {
        // SAFETY: the caller has 256 of them.
        *out = unsafe {
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
        };
    }
    out
}

/// Each quarter in a register of its own, four times.
#[inline]
#[target_feature(enable = "avx512f")]
fn each_quarter(v: __m512i) -> [__m512i; STREAMS] {
    [
        _mm512_shuffle_i32x4::<0x00>(v, v),
        _mm512_shuffle_i32x4::<0x55>(v, v),
        _mm512_shuffle_i32x4::<0xaa>(v, v),
        _mm512_shuffle_i32x4::<0xff>(v, v),
    ]
}

/// The sixteen signed bytes of each quarter as 16-bit integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn widened(v: __m512i) -> [__m512i; STREAMS] {
    [
        _mm512_castsi512_si128(v),
        _mm512_extracti32x4_epi32::<1>(v),
        _mm512_extracti32x4_epi32::<2>(v),
        _mm512_extracti32x4_epi32::<3>(v),
    ]
    .map(|bytes| wide(bytes))
}

/// Sixteen signed bytes as 16-bit integers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn wide(bytes: __m128i) -> __m512i {
    _mm512_castsi256_si512(_mm256_cvtepi8_epi16(bytes))
}

/// Two f16 of each row.
#[inline]
#[target_feature(enable = "avx512f,avx512vl,f16c")]
fn supers(rows: [(F16Bytes, F16Bytes); STREAMS]) -> __m256 {
    let [a, b, c, d] = rows.map(|(d, dmin)| i32::from_le_bytes([d[0], d[1], dmin[0], dmin[1]]));
    _mm256_cvtph_ps(_mm_set_epi32(d, c, b, a))
}

/// Of Q4_K and Q5_K, which begin alike: two f16, eight scales and eight minimums of six bits each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
fn k_heads(rows: [__m128i; STREAMS]) -> Heads {
    // In each quarter: supers, then a, b and c, of which the low bits are four scales, four minimums, and four of both;
    // the high bits of a and b complete the third.
    let words = quarters(rows);
    let mask = |scales: i32, rest: i32| _mm512_set1_epi64((rest as i64) << 32 | scales as i64);
    let low = _mm512_shuffle_epi32::<0b11_10_11_01>(words); // a, c, b, c
    let low = _mm512_srlv_epi32(low, _mm512_broadcast_i32x4(_mm_set_epi32(4, 0, 0, 0)));
    let high = _mm512_srli_epi32::<2>(_mm512_shuffle_epi32::<0b10_10_01_01>(words)); // a, a, b, b
    let low = _mm512_and_si512(low, mask(0x3f3f_3f3f, 0x0f0f_0f0f));
    let bytes = _mm512_ternarylogic_epi32::<0xf8>(low, high, mask(0, 0x3030_3030)); // low | high & mask
    let zero = _mm512_setzero_si512();
    let firsts = _mm512_permutexvar_epi32(_mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 8, 4, 0), words);
    Heads {
        scales: each_quarter(_mm512_unpacklo_epi8(bytes, zero)),
        mins: [_mm512_unpackhi_epi8(bytes, zero), zero],
        supers: _mm256_cvtph_ps(_mm512_castsi512_si128(firsts)),
    }
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
    ($($block:ident, $sub:literal, $offset:expr, $order:expr, |$rows:ident| $heads:expr, |$b:ident| $weights:expr;)*) => {$(
        impl Block256 for $block {
            const SUB: usize = $sub;
            const OFFSET: Option<u32> = $offset;
            const ORDER: Order = $order;
            const WIDE: bool = matches!($offset, Some(128));
            #[inline]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,f16c")]
            unsafe fn heads($rows: [&Self; STREAMS]) -> Heads { $heads }
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
    BlockQ4_K, 32, None, NIBBLES, |rows| k_heads(rows.map(|b| first16(b))), |b| nibbles(&b.qs);
    BlockQ5_K, 32, None, NIBBLES, |rows| k_heads(rows.map(|b| first16(b))), |b| {
        let (q, high) = (nibbles(&b.qs), both_halves(&b.qh));
        // Bit i belongs to sub-block i.
        std::array::from_fn(|j| add_bit(q[j], high, NIBBLES[j][0] / 2, NIBBLES[j][2] / 2, 16))
    };
    // Each half of the block: the low nibbles of its 64 bytes with bits 0-1 and 2-3 of the 32 bytes of high bits, then
    // the high nibbles with bits 4-5 and 6-7.
    BlockQ6_K, 16, Some(32), NATURAL, |rows| Heads {
        scales: rows.map(|b| wide(first16(&b.scales))),
        mins: [_mm512_setzero_si512(); 2],
        supers: supers(rows.map(|b| (b.d, [0; 2]))),
    }, |b| {
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
    BlockQ3_K, 16, Some(4), PAIRS, |rows| Heads {
        scales: {
            // In each quarter a, b and c: the low nibbles of a and b, then their high ones, and two bits each from c.
            // SAFETY: the mask leaves twelve bytes.
            let words = quarters(rows.map(|b| unsafe { _mm_maskz_loadu_epi32(7, b.scales.as_ptr().cast()) }));
            let low = _mm512_shuffle_epi32::<0b01_00_01_00>(words); // a, b, a, b
            let low = _mm512_srlv_epi32(low, _mm512_broadcast_i32x4(_mm_set_epi32(4, 4, 0, 0)));
            let high = _mm512_shuffle_epi32::<0b10_10_10_10>(words); // c
            let high = _mm512_slli_epi32::<4>(_mm512_srlv_epi32(high, _mm512_broadcast_i32x4(_mm_set_epi32(6, 4, 2, 0))));
            let low = _mm512_and_si512(low, _mm512_set1_epi8(0x0f));
            let bytes = _mm512_ternarylogic_epi32::<0xf8>(low, high, _mm512_set1_epi8(0x30)); // low | high & mask
            widened(_mm512_sub_epi8(bytes, _mm512_set1_epi8(32)))
        },
        mins: [_mm512_setzero_si512(); 2],
        supers: supers(rows.map(|b| (b.d, [0; 2]))),
    }, |b| {
        let (q, high) = (two_bits(&b.qs), both_halves(&b.hmask));
        std::array::from_fn(|j| add_bit(q[j], high, j, 4 + j, 4))
    };
    BlockQ2_K, 16, None, PAIRS, |rows| {
        let (both, zero) = (quarters(rows.map(|b| first16(&b.scales))), _mm512_setzero_si512());
        let mins = bits::<4>(both, 0x0f);
        let low = _mm512_and_si512(both, _mm512_set1_epi8(0x0f));
        Heads {
            scales: widened(low),
            mins: [_mm512_unpacklo_epi8(mins, zero), _mm512_unpackhi_epi8(mins, zero)],
            supers: supers(rows.map(|b| (b.d, b.dmin))),
        }
    }, |b| two_bits(&b.qs);
    BlockIQ4_XS, 32, Some(128), HALVES, |rows| Heads {
        scales: {
            rows.map(|b| {
                let (low, high) = (u32::from_le_bytes(b.scales_l), u16::from_le_bytes(b.scales_h) as u32);
                let shifts =
                    |step: i32| _mm256_set_epi32(7 * step, 6 * step, 5 * step, 4 * step, 3 * step, 2 * step, step, 0);
                let low = _mm256_srlv_epi32(_mm256_set1_epi32(low as i32), shifts(4));
                let high = _mm256_slli_epi32::<4>(_mm256_srlv_epi32(_mm256_set1_epi32(high as i32), shifts(2)));
                let low = _mm256_and_si256(low, _mm256_set1_epi32(15));
                let scales = _mm256_ternarylogic_epi32::<0xf8>(low, high, _mm256_set1_epi32(0x30));
                let scales = _mm256_cvtepi32_epi16(_mm256_sub_epi32(scales, _mm256_set1_epi32(32)));
                _mm512_zextsi128_si512(scales)
            })
        },
        mins: [_mm512_setzero_si512(); 2],
        supers: supers(rows.map(|b| (b.d, [0; 2]))),
    }, |b| {
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
    let mut below = _mm512_setzero_ps(); // row r in quarter r
    // SAFETY: 64 bytes each.
    let spread = const { B::SPREAD }.each_ref().map(|words| unsafe { _mm512_loadu_si512(words.as_ptr().cast()) });
    for (b, &d) in x.d.iter().enumerate() {
        // SAFETY: block `b` of rows and column.
        unsafe {
            let rows = w.map(|w| &*w.cast::<B>().add(b));
            rows.iter().for_each(|&row| ahead(STREAMS, (&raw const *row).cast(), size_of::<B>()));
            let a = activations(x.q.as_ptr().add(b * 256), &const { B::ORDER });
            let Heads { scales, mins, supers } = B::heads(rows);
            let supers = _mm512_zextps256_ps512(_mm256_mul_ps(supers, _mm256_set1_ps(d)));
            for r in 0..STREAMS {
                let q = rows[r].weights();
                let mut acc = _mm512_setzero_si512();
                for j in 0..4 {
                    let scales = _mm512_permutexvar_epi16(spread[j], scales[r]);
                    acc = if B::WIDE {
                        let dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), q[j], a[j]);
                        // Both halves of a lane hold its scale.
                        let scales = _mm512_srai_epi32::<16>(scales);
                        _mm512_add_epi32(acc, _mm512_mullo_epi32(dot, scales))
                    } else {
                        dpwssd(acc, _mm512_maddubs_epi16(q[j], a[j]), scales)
                    };
                }
                if let Some(offset) = B::OFFSET {
                    let sums = if B::SUB == 16 {
                        _mm256_loadu_si256(x.sum16.as_ptr().add(b * 16).cast())
                    } else {
                        _mm256_zextsi128_si256(_mm_loadu_si128(x.sum32.as_ptr().add(b * 8).cast()))
                    };
                    let sums = _mm256_madd_epi16(_mm512_castsi512_si256(scales[r]), sums);
                    let by = _mm256_set1_epi32(offset.trailing_zeros() as i32);
                    acc = _mm512_sub_epi32(acc, _mm512_zextsi256_si512(_mm256_sllv_epi32(sums, by)));
                }
                let scale = _mm512_permutexvar_ps(_mm512_set1_epi32(2 * r as i32), supers);
                f[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), scale, f[r]);
            }
            if B::OFFSET.is_none() {
                let eight = |sums: *const i16| _mm512_broadcast_i32x4(_mm_loadu_si128(sums.cast()));
                let acc = if B::SUB == 16 {
                    let at = x.sum16.as_ptr().add(b * 16);
                    dpwssd(_mm512_madd_epi16(mins[0], eight(at)), mins[1], eight(at.add(8)))
                } else {
                    _mm512_madd_epi16(mins[0], eight(x.sum32.as_ptr().add(b * 8)))
                };
                let index = _mm512_set_epi32(7, 7, 7, 7, 5, 5, 5, 5, 3, 3, 3, 3, 1, 1, 1, 1);
                below = _mm512_fmadd_ps(_mm512_cvtepi32_ps(acc), _mm512_permutexvar_ps(index, supers), below);
            }
        }
    }
    // At the same place for every row: a sum does not depend on which of the four a row is.
    let below = [
        _mm512_castps512_ps128(below),
        _mm512_extractf32x4_ps::<1>(below),
        _mm512_extractf32x4_ps::<2>(below),
        _mm512_extractf32x4_ps::<3>(below),
    ];
    std::array::from_fn(|r| _mm512_reduce_add_ps(_mm512_sub_ps(f[r], _mm512_zextps128_ps512(below[r]))))
}
