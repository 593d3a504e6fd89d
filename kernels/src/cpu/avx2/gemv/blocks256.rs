//! Blocks of 256 with integer scales of sub-blocks: the scales are applied in integers, the floats once a block.
//!
//! ```text
//!   32 weights (bytes) x 32 activations -> 16 sums of two, 16 bits   (at most 63 x 127 x 2: no saturation)
//!   16 sums x the scales of their sub-blocks -> 8 integers, added over the block
//! ```

#![allow(clippy::needless_range_loop, reason = "an index runs over the registers of several arrays at once")]

use std::arch::x86_64::*;

use super::{bits, half, load, lookup, nibbles16, pairs, sum};
use crate::acts::Col256;
use crate::block::*;
use crate::cpu::kernels::Rows;
use crate::cpu::streams::{STREAMS, ahead, by_rows};
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

    /// The scales of the sub-blocks, and their minimums if they have such, as 16-bit integers.
    unsafe fn scales(&self) -> (__m256i, __m256i);
    /// Super scale, and super minimum or 0, as f16.
    fn super_scales(&self) -> (F16Bytes, F16Bytes);
    /// The bytes of weights `32 * j..32 * j + 32`.
    unsafe fn weights(&self, j: usize) -> __m256i;
}

/// The scales and minimums of Q4_K and Q5_K: six bits each.
#[inline]
#[target_feature(enable = "avx2")]
fn six_bits(packed: &[u8; 12]) -> (__m256i, __m256i) {
    let word = |i: usize| u32::from_le_bytes(*part(packed, i));
    let (a, b, c) = (word(0), word(1), word(2));
    let scales = (a & 0x3f3f_3f3f) as u64 | ((c & 0x0f0f_0f0f | a >> 2 & 0x3030_3030) as u64) << 32;
    let mins = (b & 0x3f3f_3f3f) as u64 | ((c >> 4 & 0x0f0f_0f0f | b >> 2 & 0x3030_3030) as u64) << 32;
    let wide = |x: u64| _mm256_zextsi128_si256(_mm_cvtepu8_epi16(_mm_cvtsi64_si128(x as i64)));
    (wide(scales), wide(mins))
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
    ($($block:ident, $sub:literal, $signed:literal, $offset:expr, |$b:ident, $j:ident| $supers:expr, $scales:expr, $weights:expr;)*) => {$(
        impl Block256 for $block {
            const SUB: usize = $sub;
            const SIGNED: bool = $signed;
            const OFFSET: Option<u32> = $offset;
            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn scales(&self) -> (__m256i, __m256i) { let $b = self; $scales }
            #[inline]
            fn super_scales(&self) -> (F16Bytes, F16Bytes) { let $b = self; $supers }
            #[inline]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn weights(&self, $j: usize) -> __m256i { let $b = self; $weights }
        }
    )*};
}

block256! {
    BlockQ4_K, 32, false, None, |b, j| (b.d, b.dmin), six_bits(&b.scales), {
        bits(load(part(&b.qs, j / 2)), 4 * (j % 2) as i32, 0x0f)
    };
    BlockQ5_K, 32, false, None, |b, j| (b.d, b.dmin), six_bits(&b.scales), {
        let q = bits(load(part(&b.qs, j / 2)), 4 * (j % 2) as i32, 0x0f);
        _mm256_or_si256(q, one_bit(load(&b.qh), j, 16))
    };
    // Each half of the block: the low nibbles of 64 bytes, then the high ones; two bits each from 32 bytes.
    BlockQ6_K, 16, false, Some(32), |b, j| (b.d, [0; 2]), signed_bytes(b.scales), {
        let low = bits(load(part(&b.ql, j / 4 * 2 + j % 2)), 4 * (j % 4 / 2) as i32, 0x0f);
        let high = bits(load(part(&b.qh, j / 4)), 2 * (j % 4) as i32, 3);
        _mm256_or_si256(low, _mm256_slli_epi16::<4>(high))
    };
    BlockQ3_K, 16, false, Some(4), |b, j| (b.d, [0; 2]), {
        let word = |i: usize| u32::from_le_bytes(*part(&b.scales, i));
        let (a, b, c) = (word(0), word(1), word(2));
        let low = |x: u32, bits: u32| x & 0x0f0f_0f0f | (bits & 0x0303_0303) << 4;
        let words = [low(a, c), low(b, c >> 2), low(a >> 4, c >> 4), low(b >> 4, c >> 6)].map(|x| x as i32);
        let bytes = _mm_set_epi32(words[3], words[2], words[1], words[0]);
        (_mm256_cvtepi8_epi16(_mm_sub_epi8(bytes, _mm_set1_epi8(32))), _mm256_setzero_si256())
    }, {
        let low = bits(load(part(&b.qs, j / 4)), 2 * (j % 4) as i32, 3);
        _mm256_or_si256(low, one_bit(load(&b.hmask), j, 4))
    };
    BlockQ2_K, 16, false, None, |b, j| (b.d, b.dmin), {
        let bytes = u128::from_le_bytes(b.scales);
        let wide = |x: u128| signed_bytes((x & 0x0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f_0f0f).to_le_bytes()).0;
        (wide(bytes), wide(bytes >> 4))
    }, {
        bits(load(part(&b.qs, j / 4)), 2 * (j % 4) as i32, 3)
    };
    BlockIQ4_XS, 32, true, Some(0), |b, j| (b.d, [0; 2]), {
        let (low, high) = (u32::from_le_bytes(b.scales_l), u16::from_le_bytes(b.scales_h));
        let scale = |i: u32| ((low >> (4 * i) & 15) | (high as u32 >> (2 * i) & 3) << 4) as i16 - 32;
        let s = [0, 1, 2, 3, 4, 5, 6, 7].map(scale);
        let scales = _mm_set_epi16(s[7], s[6], s[5], s[4], s[3], s[2], s[1], s[0]);
        (_mm256_zextsi128_si256(scales), _mm256_setzero_si256())
    }, {
        lookup(&KVALUES_IQ4NL, nibbles16(part(&b.qs, j)))
    };
}

#[inline]
#[target_feature(enable = "avx2")]
fn signed_bytes(bytes: [u8; 16]) -> (__m256i, __m256i) {
    // SAFETY: 16 bytes.
    let bytes = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    (_mm256_cvtepi8_epi16(bytes), _mm256_setzero_si256())
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

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn gemv<B: Block256>(rows: Rows<'_>, x: Col256<'_>, out: &mut [f32]) {
    let n = x.d.len();
    assert!(rows.row_bytes() == n * size_of::<B>() && x.q.len() == n * 256);
    assert!(x.sum16.len() == n * 16 && x.sum32.len() == n * 8);
    // SAFETY: rows and column have the same number of blocks.
    by_rows(rows, out, |w| unsafe { dots::<B>(w, x) });
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dots<B: Block256>(w: [*const u8; STREAMS], x: Col256<'_>) -> [f32; STREAMS] {
    let mut f = [_mm256_setzero_ps(); STREAMS];
    let mut below = [_mm256_setzero_ps(); STREAMS];
    let spread = if B::SUB == 16 { &SPREAD16 } else { &SPREAD32 };
    for (b, d) in x.d.iter().enumerate() {
        // SAFETY: block `b` of rows and column.
        unsafe {
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
                let first = _mm256_permute4x64_epi64::<0x44>(scales);
                let second = if B::SUB == 16 { _mm256_permute4x64_epi64::<0xee>(scales) } else { first };
                let mut acc = _mm256_setzero_si256();
                for j in 0..8 {
                    let a = _mm256_loadu_si256(x.q.as_ptr().add(b * 256 + 32 * j).cast());
                    let scales = if j < 4 { first } else { second };
                    let scales = _mm256_shuffle_epi8(scales, _mm256_loadu_si256(spread.0[j].as_ptr().cast()));
                    let dot = match B::SIGNED {
                        true => pairs::<true>(block.weights(j), a),
                        false => pairs::<false>(block.weights(j), a),
                    };
                    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(dot, scales));
                }
                let (super_scale, super_min) = block.super_scales();
                match B::OFFSET {
                    Some(0) => {}
                    Some(offset) => {
                        let by = _mm256_set1_epi32(offset.trailing_zeros() as i32);
                        acc = _mm256_sub_epi32(acc, _mm256_sllv_epi32(_mm256_madd_epi16(scales, sums), by));
                    }
                    None => {
                        let min = _mm256_set1_ps(half(super_min) * d);
                        let sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(mins, sums));
                        below[r] = _mm256_fmadd_ps(sum, min, below[r]);
                    }
                }
                let scale = _mm256_set1_ps(half(super_scale) * d);
                f[r] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(acc), scale, f[r]);
            }
        }
    }
    std::array::from_fn(|r| sum(_mm256_sub_ps(f[r], below[r])))
}
