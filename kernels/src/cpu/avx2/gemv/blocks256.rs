//! Blocks of 256 with integer scales of sub-blocks: the scales are applied in integers, the floats once a block.
//!
//! ```text
//!   32 weights (bytes) x 32 activations -> 16 sums of two, 16 bits   (at most 63 x 127 x 2: no saturation)
//!   16 sums x the scales of their sub-blocks -> 8 integers, added over the block
//! ```

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::x86_64::*;

use super::{bits, first_of, heads, load, lookup, nibbles16, pairs, sum};
use crate::acts::Col256;
use crate::block::*;
use crate::cpu::avx2::dpwssd;
use crate::cpu::kernels::{FEW, Gemv, Rows};
use crate::cpu::streams::{STREAMS, ahead, by_rows_and_columns};
use crate::quantize::KVALUES_IQ4NL;

/// What a block of 256 is to this loop.
///
/// # Safety
/// (Of its unsafe functions) the machine has the instructions.
#[allow(clippy::missing_safety_doc, reason = "said above, once")]
pub(super) trait Block256: Block {
    /// Weights that share a scale.
    const SUB: usize;
    /// Whether the bytes are signed.
    const SIGNED: bool = false;
    /// How far the weights lie below their bytes (not at all: 0); `None` for those with minimums.
    const OFFSET: Option<u32>;

    /// What stands beside the weights of one block in each row.
    unsafe fn heads(rows: [&Self; STREAMS]) -> Heads;
    /// The bytes of weights `32 * j..32 * j + 32`.
    unsafe fn weights(&self, j: usize) -> __m256i;
}

/// Scales and minimums of one block in each row.
pub(super) struct Heads {
    /// Scales of the sub-blocks as 16-bit integers, a row to a register; eight in both halves, or sixteen.
    scales: [__m256i; STREAMS],
    /// Minimums as 16-bit integers: sixteen a row, or eight, of rows 0 and 1, then of 2 and 3.
    mins: [__m256i; STREAMS],
    /// Super scale and super minimum (or any number) of each row.
    supers: __m256,
}

/// Of Q4_K and Q5_K, which begin alike: two f16, eight scales and eight minimums of six bits each.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn k_heads(rows: [&[u8; 16]; STREAMS]) -> Heads {
    let zero = _mm256_setzero_si256();
    let two = |a: &[u8; 16], b: &[u8; 16]| {
        // In each half: supers, then a, b and c, of which the low bits are four scales, four minimums, and four of both;
        // the high bits of a and b complete the third.
        // SAFETY: 16 bytes each.
        let (a, b) = unsafe { (_mm_loadu_si128(a.as_ptr().cast()), _mm_loadu_si128(b.as_ptr().cast())) };
        let words = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(a), b);
        let mask = |scales: i32, rest: i32| _mm256_set1_epi64x((rest as i64) << 32 | scales as i64);
        let low = _mm256_shuffle_epi32::<0b11_10_11_01>(words); // a, c, b, c
        let low = _mm256_srlv_epi32(low, _mm256_broadcastsi128_si256(_mm_set_epi32(4, 0, 0, 0)));
        let high = _mm256_srli_epi32::<2>(_mm256_shuffle_epi32::<0b10_10_01_01>(words)); // a, a, b, b
        let low = _mm256_and_si256(low, mask(0x3f3f_3f3f, 0x0f0f_0f0f));
        let bytes = _mm256_or_si256(low, _mm256_and_si256(high, mask(0, 0x3030_3030)));
        (_mm256_unpacklo_epi8(bytes, zero), _mm256_unpackhi_epi8(bytes, zero))
    };
    let ((s01, m01), (s23, m23)) = (two(rows[0], rows[1]), two(rows[2], rows[3]));
    Heads {
        scales: [
            _mm256_permute4x64_epi64::<0x44>(s01),
            _mm256_permute4x64_epi64::<0xee>(s01),
            _mm256_permute4x64_epi64::<0x44>(s23),
            _mm256_permute4x64_epi64::<0xee>(s23),
        ],
        mins: [m01, m23, zero, zero],
        supers: heads(rows.map(|b| ([b[0], b[1]], [b[2], b[3]]))),
    }
}

/// Bit `bit` of each byte, worth `value`.
#[inline]
#[target_feature(enable = "avx2")]
fn one_bit(bytes: __m256i, bit: usize, value: i8) -> __m256i {
    let bit = _mm256_set1_epi8((1u8 << bit) as i8);
    _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit), _mm256_set1_epi8(value))
}

/// Part `i` of a longer array.
#[inline(always)]
fn part<const N: usize>(bytes: &[u8], i: usize) -> &[u8; N] {
    bytes[i * N..][..N].try_into().expect("a part of N bytes")
}

macro_rules! block256 {
    ($($block:ident, $sub:literal, $signed:literal, $offset:expr, |$rows:ident| $heads:expr, |$b:ident, $j:ident| $weights:expr;)*) => {$(
        impl Block256 for $block {
            const SUB: usize = $sub;
            const SIGNED: bool = $signed;
            const OFFSET: Option<u32> = $offset;
            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn heads($rows: [&Self; STREAMS]) -> Heads { $heads }
            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn weights(&self, $j: usize) -> __m256i { let $b = self; $weights }
        }
    )*};
}

block256! {
    BlockQ4_K, 32, false, None, |rows| k_heads(rows.map(first16)), |b, j| {
        bits(load(part(&b.qs, j / 2)), 4 * (j % 2) as i32, 0x0f)
    };
    BlockQ5_K, 32, false, None, |rows| k_heads(rows.map(first16)), |b, j| {
        let q = bits(load(part(&b.qs, j / 2)), 4 * (j % 2) as i32, 0x0f);
        _mm256_or_si256(q, one_bit(load(&b.qh), j, 16))
    };
    // Each half of the block: the low nibbles of 64 bytes, then the high ones; two bits each from 32 bytes.
    BlockQ6_K, 16, false, Some(32), |rows| Heads {
        scales: rows.map(|b| signed_bytes(b.scales)),
        mins: [_mm256_setzero_si256(); STREAMS],
        supers: heads(rows.map(|b| (b.d, [0; 2]))),
    }, |b, j| {
        let low = bits(load(part(&b.ql, j / 4 * 2 + j % 2)), 4 * (j % 4 / 2) as i32, 0x0f);
        let high = bits(load(part(&b.qh, j / 4)), 2 * (j % 4) as i32, 3);
        _mm256_or_si256(low, _mm256_slli_epi16::<4>(high))
    };
    BlockQ3_K, 16, false, Some(4), |rows| Heads {
        scales: rows.map(|b| {
            let word = |i: usize| u32::from_le_bytes(*part(&b.scales, i));
            let (a, b, c) = (word(0), word(1), word(2));
            let low = |x: u32, bits: u32| x & 0x0f0f_0f0f | (bits & 0x0303_0303) << 4;
            let words = [low(a, c), low(b, c >> 2), low(a >> 4, c >> 4), low(b >> 4, c >> 6)].map(|x| x as i32);
            let bytes = _mm_set_epi32(words[3], words[2], words[1], words[0]);
            _mm256_cvtepi8_epi16(_mm_sub_epi8(bytes, _mm_set1_epi8(32)))
        }),
        mins: [_mm256_setzero_si256(); STREAMS],
        supers: heads(rows.map(|b| (b.d, [0; 2]))),
    }, |b, j| {
        let low = bits(load(part(&b.qs, j / 4)), 2 * (j % 4) as i32, 3);
        _mm256_or_si256(low, one_bit(load(&b.hmask), j, 4))
    };
    BlockQ2_K, 16, false, None, |rows| {
        let wide = |shift: u32| {
            rows.map(|b| {
                let bytes = u128::from_le_bytes(b.scales) >> shift;
                signed_bytes((bytes & 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f).to_le_bytes())
            })
        };
        Heads { scales: wide(0), mins: wide(4), supers: heads(rows.map(|b| (b.d, b.dmin))) }
    }, |b, j| bits(load(part(&b.qs, j / 4)), 2 * (j % 4) as i32, 3);
    BlockIQ4_XS, 32, true, Some(0), |rows| Heads {
        scales: rows.map(|b| {
            // Eight nibbles, and eight times two bits: each in a lane of its own.
            let (low, high) = (u32::from_le_bytes(b.scales_l) as i32, u16::from_le_bytes(b.scales_h) as i32);
            let shifts =
                |step: i32| _mm256_set_epi32(7 * step, 6 * step, 5 * step, 4 * step, 3 * step, 2 * step, step, 0);
            let low = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(low), shifts(4)), _mm256_set1_epi32(15));
            let high = _mm256_and_si256(_mm256_srlv_epi32(_mm256_set1_epi32(high), shifts(2)), _mm256_set1_epi32(3));
            let scales = _mm256_or_si256(low, _mm256_slli_epi32::<4>(high));
            let scales = _mm256_sub_epi32(scales, _mm256_set1_epi32(32));
            // To 16 bits: all eight in the order 0-3, 4-7 in each half.
            _mm256_permute4x64_epi64::<0b10_00_10_00>(_mm256_packs_epi32(scales, scales))
        }),
        mins: [_mm256_setzero_si256(); STREAMS],
        supers: heads(rows.map(|b| (b.d, [0; 2]))),
    }, |b, j| lookup(&KVALUES_IQ4NL, nibbles16(part(&b.qs, j)));
}

/// The first sixteen bytes of a block.
#[inline(always)]
fn first16<B: Block>(block: &B) -> &[u8; 16] {
    const { assert!(size_of::<B>() >= 16) };
    // SAFETY: blocks are bytes, and as many.
    unsafe { &*(&raw const *block).cast() }
}

#[inline]
#[target_feature(enable = "avx2")]
fn signed_bytes(bytes: [u8; 16]) -> __m256i {
    // SAFETY: 16 bytes.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}

/// Shuffles of 16-bit integers within halves: for each register of weights, which scale of eight each half takes.
struct Spread([[u8; 32]; 8]);

const fn spread(sub: usize) -> Spread {
    let mut table = [[0; 32]; 8];
    let mut i = 0;
    while i < 256 {
        let scale = (i - i % sub) / sub % 8;
        table[i / 32][i % 32] = (2 * scale + i % 2) as u8;
        i += 1;
    }
    Spread(table)
}

static SPREAD16: Spread = spread(16);
static SPREAD32: Spread = spread(32);

pub(super) fn kernel<B: Block256, const VNNI: bool>() -> Gemv {
    Gemv::Q8x256(gemv::<B, VNNI>, Some(gemv_few::<B, VNNI>))
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemv<B: Block256, const VNNI: bool>(rows: Rows<'_>, x: Col256<'_>, out: &mut [f32]) {
    // SAFETY: promised by the caller.
    unsafe { columns::<B, VNNI, 1>(rows, &[x], [out]) }
}

#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn gemv_few<B: Block256, const VNNI: bool>(rows: Rows<'_>, x: &[Col256<'_>; FEW], out: [&mut [f32]; FEW]) {
    // SAFETY: promised by the caller.
    unsafe { columns::<B, VNNI, FEW>(rows, x, out) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn columns<B: Block256, const VNNI: bool, const C: usize>(
    rows: Rows<'_>,
    x: &[Col256<'_>; C],
    out: [&mut [f32]; C],
) {
    let n = x[0].d.len();
    assert!(rows.row_bytes() == n * size_of::<B>());
    assert!(x.iter().all(|x| x.d.len() == n && x.q.len() == n * 256));
    assert!(x.iter().all(|x| x.sum16.len() == n * 16 && x.sum32.len() == n * 8));
    // SAFETY: rows and columns have the same number of blocks.
    by_rows_and_columns(rows, out, |w| unsafe { dots::<B, VNNI, C>(w, x, n) });
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots<B: Block256, const VNNI: bool, const C: usize>(
    w: [*const u8; STREAMS],
    x: &[Col256<'_>; C],
    n: usize,
) -> [[f32; STREAMS]; C] {
    let zero = _mm256_setzero_ps();
    let mut f = [[zero; STREAMS]; C];
    let mut below = [[zero; STREAMS]; C]; // as `Heads::mins`
    // The compiler must not know the masks, or it makes two shuffles of each one. With the other hint below Q4_K gains 17 %, Q5_K
    // 21 %, Q6_K 10 % on Zen 3, in the cache.
    let spread = std::hint::black_box(if B::SUB == 16 { &SPREAD16 } else { &SPREAD32 });
    for b in 0..n {
        // SAFETY: block `b` of rows and columns; `VNNI` is for machines that have it.
        unsafe {
            let rows = w.map(|w| &*w.cast::<B>().add(b));
            let Heads { scales, mins, supers: own } = B::heads(rows);
            let (mut sums, mut supers) = ([_mm256_setzero_si256(); C], [own; C]);
            for c in 0..C {
                sums[c] = if B::SUB == 16 {
                    _mm256_loadu_si256(x[c].sum16.as_ptr().add(b * 16).cast())
                } else {
                    _mm256_broadcastsi128_si256(_mm_loadu_si128(x[c].sum32.as_ptr().add(b * 8).cast()))
                };
                supers[c] = _mm256_mul_ps(own, _mm256_set1_ps(*x[c].d.as_ptr().add(b)));
            }
            each_stream!(|r| {
                if C == 1 {
                    // Nor keep the activations for the next row: it has no registers for all, and spills them.
                    std::arch::asm!("", options(nostack, preserves_flags));
                }
                ahead(STREAMS, (&raw const *rows[r]).cast(), size_of::<B>());
                let (first, second) = match B::SUB {
                    16 => (_mm256_permute4x64_epi64::<0x44>(scales[r]), _mm256_permute4x64_epi64::<0xee>(scales[r])),
                    _ => (scales[r], scales[r]),
                };
                let mut acc = [_mm256_setzero_si256(); C];
                for j in 0..8 {
                    let q = rows[r].weights(j);
                    let scales = if j < 4 { first } else { second };
                    let scales = _mm256_shuffle_epi8(scales, _mm256_loadu_si256(spread.0[j].as_ptr().cast()));
                    for c in 0..C {
                        let a = _mm256_loadu_si256(x[c].q.as_ptr().add(b * 256 + 32 * j).cast());
                        let dot = match B::SIGNED {
                            true => pairs::<true>(q, a),
                            false => pairs::<false>(q, a),
                        };
                        acc[c] = match VNNI {
                            true => dpwssd(acc[c], dot, scales),
                            false => _mm256_add_epi32(acc[c], _mm256_madd_epi16(dot, scales)),
                        };
                    }
                }
                for c in 0..C {
                    if let Some(offset @ 1..) = B::OFFSET {
                        let by = _mm256_set1_epi32(offset.trailing_zeros() as i32);
                        let under = _mm256_sllv_epi32(_mm256_madd_epi16(scales[r], sums[c]), by);
                        acc[c] = _mm256_sub_epi32(acc[c], under);
                    }
                    f[c][r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc[c]), first_of(r, supers[c]), f[c][r]);
                }
            });
            for c in 0..if B::OFFSET.is_none() { C } else { 0 } {
                let supers = supers[c];
                let of = |a: i32, b: i32| _mm256_permutevar8x32_ps(supers, _mm256_set_epi32(b, b, b, b, a, a, a, a));
                let factors = match B::SUB {
                    16 => [of(1, 1), of(3, 3), of(5, 5), of(7, 7)],
                    _ => [of(1, 3), of(5, 7), zero, zero],
                };
                for i in 0..if B::SUB == 16 { STREAMS } else { STREAMS / 2 } {
                    let sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(mins[i], sums[c]));
                    below[c][i] = _mm256_fmadd_ps(sum, factors[i], below[c][i]);
                }
            }
        }
    }
    std::array::from_fn(|c| {
        let mut below = below[c];
        if B::SUB == 32 {
            // At the same place for every row: a sum does not depend on which of the four a row is.
            let half = |v: __m128| _mm256_zextps128_ps256(v);
            let [a, b, ..] = below;
            let (low, high) = (|v| half(_mm256_castps256_ps128(v)), |v| half(_mm256_extractf128_ps::<1>(v)));
            below = [low(a), high(a), low(b), high(b)];
        }
        std::array::from_fn(|r| sum(_mm256_sub_ps(f[c][r], below[r])))
    })
}
