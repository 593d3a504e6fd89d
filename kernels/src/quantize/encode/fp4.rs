//! MXFP4: a power of two for 32 floats, each to the nearest of eight values and a sign.

use super::group::{Blocks, Encode, Group};
use super::legacy::nibbles;
use super::search::extreme;
use crate::block::BlockMXFP4;
use crate::float::simd::{MAX_LANES, Simd};
use crate::quantize::{KVALUES_FP4, e8m0_half_to_f32};

impl Encode<32> for BlockMXFP4 {
    #[inline(always)]
    fn encode<S: Simd>(s: S, group: &Group<'_, S, 32>, out: &mut Blocks<'_>) {
        let (_, distance) = extreme(s, group.x);
        let (mut bits, mut exponents) = (s.to_array(s.bits(distance)), [0.0; MAX_LANES]);
        let mut scales = [0.0; MAX_LANES];
        for (i, bits) in bits.iter_mut().enumerate().take(S::LANES) {
            let e = exponent(f32::from_bits(*bits));
            (exponents[i], scales[i]) = (f32::from(e), e8m0_half_to_f32(e));
        }
        // SAFETY: MAX_LANES floats can be read.
        let (exponents, scale) = unsafe { (s.load(exponents.as_ptr()), s.load(scales.as_ptr())) };
        out.byte(s, 0, s.to_int(exponents));
        let zero = s.splat(0.0);
        let mut levels = [s.splat_int(0); 32];
        for (to, &x) in levels.iter_mut().zip(group.x) {
            // The values below zero are the others with a sign: what is near is the same on both sides.
            let size = s.abs(x);
            let (mut best, mut error) = (zero, size);
            for (i, &value) in KVALUES_FP4[..8].iter().enumerate().skip(1) {
                let other = s.abs(s.sub(s.mul(s.splat(f32::from(value)), scale), size));
                let less = s.less(other, error);
                best = s.select(less, s.splat(i as f32), best);
                error = s.select(less, other, error);
            }
            let negative = s.both(s.less(x, zero), s.less(zero, best));
            *to = s.to_int(s.select(negative, s.add(best, s.splat(8.0)), best));
        }
        nibbles(s, &levels, 1, out);
    }
}

/// The exponent as stored: that of the greatest float, so that it lies between 4 and 8. A byte: it wraps around.
fn exponent(distance: f32) -> u8 {
    if distance > 0.0 { (floor_log2(distance) - 2 + 127) as u8 } else { 0 }
}

/// `floor(log2 x)`, where the logarithm is first rounded to f32 as ggml has it: just below a power of two, it is that
/// power's.
fn floor_log2(x: f32) -> i32 {
    let x = f64::from(x);
    let exponent = (x.to_bits() >> 52) as i32 - 1023;
    // At most 44 of 2^24 below a power of two round up to it.
    let near = x.to_bits() >> 36 & 0xffff == 0xffff;
    if near { (x.log2() as f32).floor() as i32 } else { exponent }
}
