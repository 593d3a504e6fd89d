//! Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: a scale, or a scale and a minimum, for 32 floats.
//!
//! Without an importance nothing is searched: the scale is that of the greatest float. Then the order of operations
//! hardly matters, and Q8_0, which never searches, spreads a block over vectors.

use super::group::{Blocks, Encode, Group, bits};
use super::k::{WEIGHTED, weigh};
use super::search::{affine, extreme, symmetric};
use crate::block::{BlockQ4_0, BlockQ4_1, BlockQ5_0, BlockQ5_1};
use crate::float::one::One;
use crate::float::simd::{Kernel, Simd};

/// `numerator / x`, or zero where `x` is.
#[inline(always)]
pub(super) fn over<S: Simd>(s: S, numerator: f32, x: S::V) -> S::V {
    let zero = s.splat(0.0);
    s.select(s.equal(x, zero), zero, s.div(s.splat(numerator), x))
}

/// Rounded down to a level `0..=top`; no more than a byte is made of what is greater than integers are.
#[inline(always)]
fn cut<S: Simd>(s: S, v: S::V, top: f32) -> S::I {
    let v = s.to_float(s.and(s.to_int(v), s.splat_int(0xff)));
    s.to_int(s.min(s.splat(top), v))
}

/// Levels `0..2 * top` and the scale.
#[inline(always)]
fn signed<S: Simd>(s: S, group: &Group<'_, S, 32>, top: f32) -> ([S::I; 32], S::V) {
    let mut levels = [s.splat_int(0); 32];
    if let Some(importance) = group.importance {
        let weights = weigh(s, group.x, importance, group.mean_square);
        let found = symmetric(s, group.x, &weights, top, true);
        for (to, &x) in levels.iter_mut().zip(group.x) {
            *to = s.to_int(found.level(s, x));
        }
        return (levels, found.scale);
    }
    let (far, _) = extreme(s, group.x);
    let scale = s.div(far, s.splat(-top));
    let inverse = over(s, 1.0, scale);
    for (to, &x) in levels.iter_mut().zip(group.x) {
        *to = cut(s, s.add(s.mul(x, inverse), s.splat(top + 0.5)), 2.0 * top - 1.0);
    }
    (levels, scale)
}

/// Levels `0..=top`, the scale and the minimum.
#[inline(always)]
fn above_minimum<S: Simd>(s: S, group: &Group<'_, S, 32>, top: f32) -> ([S::I; 32], S::V, S::V) {
    let mut levels = [s.splat_int(0); 32];
    if let Some(importance) = group.importance {
        let weights = weigh(s, group.x, importance, group.mean_square);
        let [found] = affine(s, &[*group.x], &[weights], top, &WEIGHTED, |x| s.mul(x, x));
        for (to, &x) in levels.iter_mut().zip(group.x) {
            *to = s.to_int(found.level(s, x, top));
        }
        return (levels, found.scale, found.min);
    }
    let (mut min, mut max) = (s.splat(f32::MAX), s.splat(-f32::MAX));
    for &x in group.x {
        min = s.select(s.less(x, min), x, min);
        max = s.select(s.less(max, x), x, max);
    }
    let scale = s.div(s.sub(max, min), s.splat(top));
    let inverse = over(s, 1.0, scale);
    for (to, &x) in levels.iter_mut().zip(group.x) {
        *to = cut(s, s.add(s.mul(s.sub(x, min), inverse), s.splat(0.5)), top);
    }
    (levels, scale, min)
}

/// Nibbles: elements 16 apart share a byte.
#[inline(always)]
pub(super) fn nibbles<S: Simd>(s: S, levels: &[S::I; 32], at: usize, out: &mut Blocks<'_>) {
    out.fields(s, at, 16, levels, 0, 4);
}

/// The fifth bits, in the order of the elements.
#[inline(always)]
fn fifths<S: Simd>(s: S, levels: &[S::I; 32], at: usize, out: &mut Blocks<'_>) {
    let mut fifths = s.splat_int(0);
    for (i, &level) in levels.iter().enumerate() {
        fifths = s.or(fifths, s.shl(bits(s, level, 4, 1), i as u32));
    }
    out.word(s, at, fifths);
}

impl Encode<32> for BlockQ4_0 {
    const OF_ROW: bool = true;

    #[inline(always)]
    fn encode<S: Simd>(s: S, group: &Group<'_, S, 32>, out: &mut Blocks<'_>) {
        let (levels, scale) = signed(s, group, 8.0);
        out.half(s, 0, s.f16_bits(scale));
        nibbles(s, &levels, 2, out);
    }
}

impl Encode<32> for BlockQ5_0 {
    const OF_ROW: bool = true;

    #[inline(always)]
    fn encode<S: Simd>(s: S, group: &Group<'_, S, 32>, out: &mut Blocks<'_>) {
        let (levels, scale) = signed(s, group, 16.0);
        out.half(s, 0, s.f16_bits(scale));
        fifths(s, &levels, 2, out);
        nibbles(s, &levels, 6, out);
    }
}

impl Encode<32> for BlockQ4_1 {
    const OF_ROW: bool = true;

    #[inline(always)]
    fn encode<S: Simd>(s: S, group: &Group<'_, S, 32>, out: &mut Blocks<'_>) {
        let (levels, scale, min) = above_minimum(s, group, 15.0);
        out.half(s, 0, s.f16_bits(scale));
        out.half(s, 2, s.f16_bits(min));
        nibbles(s, &levels, 4, out);
    }
}

impl Encode<32> for BlockQ5_1 {
    const OF_ROW: bool = true;

    #[inline(always)]
    fn encode<S: Simd>(s: S, group: &Group<'_, S, 32>, out: &mut Blocks<'_>) {
        let (levels, scale, min) = above_minimum(s, group, 31.0);
        out.half(s, 0, s.f16_bits(scale));
        out.half(s, 2, s.f16_bits(min));
        fifths(s, &levels, 4, out);
        nibbles(s, &levels, 8, out);
    }
}

/// Rows to blocks of Q8_0.
#[allow(non_camel_case_types, reason = "as the format is called")]
pub(super) struct Q8_0<'a>(pub &'a [f32], pub &'a mut [u8]);

impl Kernel for Q8_0<'_> {
    type Out = ();

    fn scalar(self) {
        self.simd(One);
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let zero = s.splat(0.0);
        for (x, block) in self.0.as_chunks::<32>().0.iter().zip(self.1.as_chunks_mut::<34>().0) {
            let mut far = zero;
            for x in x.chunks_exact(S::LANES) {
                // SAFETY: the chunk has LANES floats.
                far = s.max(far, s.abs(unsafe { s.load(x.as_ptr()) }));
            }
            let scale = s.div(s.splat(s.top(far)), s.splat(127.0));
            let inverse = over(s, 1.0, scale);
            block[..2].copy_from_slice(&(s.to_array(s.f16_bits(scale))[0] as u16).to_le_bytes());
            for (x, q) in x.chunks_exact(S::LANES).zip(block[2..].chunks_exact_mut(S::LANES)) {
                // SAFETY: the chunk has LANES floats.
                let v = s.mul(unsafe { s.load(x.as_ptr()) }, inverse);
                // Ties away from zero, by the greatest float below a half.
                let half = s.select(s.less(v, zero), s.splat(-0.499_999_97), s.splat(0.499_999_97));
                // SAFETY: the chunk has LANES bytes.
                unsafe { s.store_bytes(q.as_mut_ptr(), s.to_int(s.add(v, half))) };
            }
        }
    }
}
