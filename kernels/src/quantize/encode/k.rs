//! Q2_K to Q6_K: blocks of 256 in sub-blocks, whose scales are levels of a scale of the block.
//!
//! Each sub-block is searched by itself; the scales found become levels; then the floats get the levels that fit the
//! scales as they will be read. Where such a scale is zero, those of the search stay.

use super::group::{Blocks, Encode, Group, bits};
use super::search::{self, Affine, Tries, affine, byte, each, level, nearest, positive, sum};
use crate::block::{BlockQ2_K, BlockQ3_K, BlockQ4_K, BlockQ5_K, BlockQ6_K};
use crate::float::simd::Simd;

/// What is tried without an importance: by types of 2, 4 and 5 bits.
const PLAIN_2: Tries = Tries { first: -0.5, step: 0.1, count: 16 };
const PLAIN_4: Tries = Tries { first: -1.0, step: 0.1, count: 21 };
const PLAIN_5: Tries = Tries { first: -0.5, step: 0.1, count: 16 };
/// What is tried with one.
pub(super) const WEIGHTED: Tries = Tries { first: -0.9, step: 0.05, count: 37 };

/// Weights of floats under an importance: `importance * sqrt(sigma2 + x^2)`.
#[inline(always)]
pub(super) fn weigh<S: Simd, const N: usize>(s: S, x: &[S::V; N], importance: &[S::V], sigma2: S::V) -> [S::V; N] {
    let mut weights = *x;
    for (w, &importance) in weights.iter_mut().zip(importance) {
        *w = s.mul(importance, s.sqrt(s.add(sigma2, s.mul(*w, *w))));
    }
    weights
}

/// The sum of the squares of floats.
#[inline(always)]
pub(super) fn squares<S: Simd>(s: S, x: &[S::V]) -> S::V {
    sum(s, x.iter().map(|&x| s.mul(x, x)))
}

#[inline(always)]
fn minus<S: Simd>(s: S, x: S::V) -> S::V {
    s.sub(s.splat(-0.0), x)
}

#[inline(always)]
fn greatest<S: Simd>(s: S, x: &[S::V]) -> S::V {
    let mut top = s.splat(0.0);
    for &x in x {
        top = s.select(s.less(top, x), x, top);
    }
    top
}

/// The scales and minimums of `SUBS` sub-blocks as bytes, and the f16 bits of what they are multiplied with.
struct Scales<S: Simd, const SUBS: usize> {
    scales: [S::I; SUBS],
    mins: [S::I; SUBS],
    d: S::I,
    dmin: S::I,
}

impl<S: Simd, const SUBS: usize> Scales<S, SUBS> {
    /// As levels of the greatest, `0..=top`; as bytes they are not more than `limit`.
    #[inline(always)]
    fn plain(s: S, found: &[Affine<S>; SUBS], top: f32, limit: f32) -> Self {
        let (mut scales, mut mins) = ([s.splat(0.0); SUBS], [s.splat(0.0); SUBS]);
        for (i, found) in found.iter().enumerate() {
            (scales[i], mins[i]) = (found.scale, minus(s, found.min));
        }
        let (scales, d) = levels(s, &scales, top, limit);
        let (mins, dmin) = levels(s, &mins, top, limit);
        Scales { scales, mins, d, dmin }
    }

    /// As the levels `0..=top` that err least under the weights of the sub-blocks.
    #[inline(always)]
    fn weighted(s: S, found: &[Affine<S>; SUBS], weights: &[S::V; SUBS], top: f32, limit: f32) -> Self {
        let mut both = [[s.splat(0.0); SUBS]; 2];
        for (i, found) in found.iter().enumerate() {
            (both[0][i], both[1][i]) = (found.scale, minus(s, found.min));
        }
        let (levels, [d, dmin]) = positive(s, &both, weights, top);
        let mut bytes = [[s.splat_int(0); SUBS]; 2];
        for (bytes, levels) in bytes.iter_mut().zip(&levels) {
            for (byte, &level) in bytes.iter_mut().zip(levels) {
                *byte = s.to_int(s.min(s.splat(limit), level));
            }
        }
        let [scales, mins] = bytes;
        Scales { scales, mins, d: s.f16_bits(d), dmin: s.f16_bits(dmin) }
    }
}

#[inline(always)]
fn levels<S: Simd, const SUBS: usize>(s: S, x: &[S::V; SUBS], top: f32, limit: f32) -> ([S::I; SUBS], S::I) {
    let zero = s.splat(0.0);
    let greatest = greatest(s, x);
    let inverse = s.select(s.less(zero, greatest), s.div(s.splat(top), greatest), zero);
    let mut bytes = [s.splat_int(0); SUBS];
    for (to, &x) in bytes.iter_mut().zip(x) {
        *to = s.to_int(s.min(s.splat(limit), byte(s, nearest(s, s.mul(inverse, x)))));
    }
    (bytes, s.f16_bits(s.div(greatest, s.splat(top))))
}

/// The levels `0..=top` of a sub-block under the scale and the minimum that will be read.
#[inline(always)]
fn fit<S: Simd, const N: usize>(s: S, x: &[S::V; N], found: &Affine<S>, scale: S::V, min: S::V, top: f32) -> [S::I; N] {
    let nothing = s.equal(scale, s.splat(0.0));
    let mut levels = [s.splat_int(0); N];
    for (to, &x) in levels.iter_mut().zip(x) {
        *to = s.to_int(level(s, s.div(s.add(x, min), scale), 0.0, top));
    }
    if s.any(nothing) {
        for (to, &x) in levels.iter_mut().zip(x) {
            *to = s.to_int(s.select(nothing, found.level(s, x, top), s.to_float(*to)));
        }
    }
    levels
}

/// Types of 8 sub-blocks of 32 and levels `0..=top`: the 16 bytes in front, and the levels.
#[inline(always)]
fn eights<S: Simd>(
    s: S,
    group: &Group<'_, S, 256>,
    top: f32,
    tries: &Tries,
    limit: f32,
    out: &mut Blocks<'_>,
) -> [[S::I; 32]; 8] {
    let parts = group.x.as_chunks::<32>().0;
    let sigma2 = match group.importance {
        Some(_) => s.div(s.mul(s.splat(2.0), squares(s, group.x)), s.splat(256.0)),
        None => s.splat(0.0),
    };
    let (mut sums, mut found) = ([s.splat(0.0); 8], [Affine::nothing(s); 8]);
    for (i, pair) in parts.as_chunks::<2>().0.iter().enumerate() {
        let mut weights = *pair;
        for (j, x) in pair.iter().enumerate() {
            if let Some(importance) = group.importance {
                weights[j] = weigh(s, x, &importance[32 * (2 * i + j)..], sigma2);
                sums[2 * i + j] = sum(s, weights[j].iter().copied());
            } else {
                let mean = s.sqrt(s.div(squares(s, x), s.splat(32.0)));
                for w in &mut weights[j] {
                    *w = s.add(mean, s.abs(*w));
                }
            }
        }
        let tries = if group.importance.is_some() { &WEIGHTED } else { tries };
        let pair = affine(s, pair, &weights, top, tries, |x| s.mul(x, x));
        found[2 * i..][..2].copy_from_slice(&pair);
    }
    let scales = match group.importance {
        Some(_) => Scales::weighted(s, &found, &sums, 63.0, limit),
        None => Scales::plain(s, &found, 63.0, 63.0),
    };
    out.half(s, 0, scales.d);
    out.half(s, 2, scales.dmin);
    // Six bits each. The upper two of the last four lie over the first four.
    let zero = s.splat_int(0);
    let mut bytes = [zero; 12];
    for i in 0..4 {
        let (scale, min) = (scales.scales[i + 4], scales.mins[i + 4]);
        bytes[i] = s.or(scales.scales[i], s.shl(bits(s, scale, 4, 2), 6));
        bytes[i + 4] = s.or(scales.mins[i], s.shl(bits(s, min, 4, 2), 6));
        bytes[i + 8] = s.or(bits(s, scale, 0, 4), s.shl(bits(s, min, 0, 4), 4));
    }
    out.bytes(s, 4, &bytes);
    let (d, dmin) = (s.f16_value(scales.d), s.f16_value(scales.dmin));
    let mut levels = [[zero; 32]; 8];
    for (i, levels) in levels.iter_mut().enumerate() {
        let (scale, min) = if i < 4 {
            (bits(s, bytes[i], 0, 6), bits(s, bytes[i + 4], 0, 6))
        } else {
            let (scale, min) = (bits(s, bytes[i + 4], 0, 4), bits(s, bytes[i + 4], 4, 4));
            (s.or(scale, s.shl(bits(s, bytes[i - 4], 6, 2), 4)), s.or(min, s.shl(bits(s, bytes[i], 6, 2), 4)))
        };
        let (scale, min) = (s.mul(d, s.to_float(scale)), s.mul(dmin, s.to_float(min)));
        *levels = fit(s, &parts[i], &found[i], scale, min, top);
    }
    levels
}

impl Encode<256> for BlockQ4_K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, group: &Group<'_, S, 256>, out: &mut Blocks<'_>) {
        // Its scales under an importance are whole bytes, of which more than six bits spill over: ggml's own way.
        let levels = eights(s, group, 15.0, &PLAIN_4, 255.0, out);
        for (i, pair) in levels.as_chunks::<2>().0.iter().enumerate() {
            out.fields(s, 16 + 32 * i, 32, pair.as_flattened(), 0, 4);
        }
    }
}

impl Encode<256> for BlockQ5_K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, group: &Group<'_, S, 256>, out: &mut Blocks<'_>) {
        let levels = eights(s, group, 31.0, &PLAIN_5, 63.0, out);
        out.fields(s, 16, 32, levels.as_flattened(), 4, 1);
        for (i, pair) in levels.as_chunks::<2>().0.iter().enumerate() {
            out.fields(s, 48 + 32 * i, 32, pair.as_flattened(), 0, 4);
        }
    }
}

/// The low two bits of 256 levels: a byte of each half holds levels that are 32 apart.
#[inline(always)]
fn two_bits<S: Simd>(s: S, levels: &[[S::I; 16]; 16], at: usize, out: &mut Blocks<'_>) {
    for (half, levels) in levels.as_flattened().as_chunks::<128>().0.iter().enumerate() {
        out.fields(s, at + 32 * half, 32, levels, 0, 2);
    }
}

impl Encode<256> for BlockQ2_K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, group: &Group<'_, S, 256>, out: &mut Blocks<'_>) {
        let parts = group.x.as_chunks::<16>().0;
        let mean = match group.importance {
            Some(_) => s.div(squares(s, group.x), s.splat(256.0)),
            None => s.splat(0.0),
        };
        let (mut sums, mut found) = ([s.splat(0.0); 16], [Affine::nothing(s); 16]);
        for (i, pair) in parts.as_chunks::<2>().0.iter().enumerate() {
            let mut weights = *pair;
            for (j, x) in pair.iter().enumerate() {
                if let Some(importance) = group.importance {
                    weights[j] = weigh(s, x, &importance[16 * (2 * i + j)..], mean);
                    sums[2 * i + j] = sum(s, weights[j].iter().copied());
                } else {
                    for w in &mut weights[j] {
                        *w = s.abs(*w);
                    }
                }
            }
            let pair = match group.importance {
                Some(_) => affine(s, pair, &weights, 3.0, &WEIGHTED, |x| s.mul(x, x)),
                None => affine(s, pair, &weights, 3.0, &PLAIN_2, |x| s.abs(x)),
            };
            found[2 * i..][..2].copy_from_slice(&pair);
        }
        let scales = match group.importance {
            Some(_) => Scales::weighted(s, &found, &sums, 15.0, 255.0),
            None => Scales::plain(s, &found, 15.0, 255.0),
        };
        let mut bytes = scales.scales;
        for (byte, &min) in bytes.iter_mut().zip(&scales.mins) {
            *byte = s.or(*byte, s.and(s.shl(min, 4), s.splat_int(0xff)));
        }
        out.bytes(s, 0, &bytes);
        out.half(s, 80, scales.d);
        out.half(s, 82, scales.dmin);
        let (d, dmin) = (s.f16_value(scales.d), s.f16_value(scales.dmin));
        let mut levels = [[s.splat_int(0); 16]; 16];
        for (i, levels) in levels.iter_mut().enumerate() {
            let scale = s.mul(d, s.to_float(s.and(bytes[i], s.splat_int(15))));
            let min = s.mul(dmin, s.to_float(s.shr(bytes[i], 4)));
            *levels = fit(s, &parts[i], &found[i], scale, min, 3.0);
        }
        two_bits(s, &levels, 16, out);
    }
}

/// The levels `0..2 * top` of a sub-block under the scale that will be read; where it is zero, those of `before`.
#[inline(always)]
fn fit_signed<S: Simd>(s: S, x: &[S::V; 16], scale: S::V, top: f32, before: &[S::V; 16]) -> [S::I; 16] {
    let nothing = s.equal(scale, s.splat(0.0));
    let mut levels = [s.splat(0.0); 16];
    for (to, &x) in levels.iter_mut().zip(x) {
        *to = s.add(level(s, s.div(x, scale), -top, top - 1.0), s.splat(top));
    }
    if s.any(nothing) {
        for (to, &before) in levels.iter_mut().zip(before) {
            *to = s.select(nothing, before, *to);
        }
    }
    each(&levels, s.splat_int(0), |l| s.to_int(l))
}

impl Encode<256> for BlockQ3_K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, group: &Group<'_, S, 256>, out: &mut Blocks<'_>) {
        let zero = s.splat(0.0);
        let parts = group.x.as_chunks::<16>().0;
        let (mut scales, mut found) = ([zero; 16], [[zero; 16]; 16]);
        let mut bytes = [zero; 16];
        let d;
        if let Some(importance) = group.importance {
            let sigma2 = s.div(s.mul(s.splat(2.0), squares(s, group.x)), s.splat(256.0));
            let mut sums = [zero; 16];
            for i in 0..16 {
                let weights = weigh(s, &parts[i], &importance[16 * i..], sigma2);
                sums[i] = sum(s, weights.iter().copied());
                let search = search::symmetric(s, &parts[i], &weights, 4.0, true);
                scales[i] = search.scale;
                for (to, &x) in found[i].iter_mut().zip(&parts[i]) {
                    *to = search.level(s, x);
                }
            }
            // Sums that overflow make scales that are none.
            let search = search::symmetric(s, &scales, &sums, 32.0, false);
            for (byte, &scale) in bytes.iter_mut().zip(&scales) {
                *byte = search.level(s, scale);
            }
            d = s.f16_bits(search.scale);
        } else {
            for i in 0..4 {
                let four = parts[4 * i..].first_chunk::<4>().expect("16 sub-blocks");
                let (levels, four) = search::corrected(s, four);
                found[4 * i..][..4].copy_from_slice(&levels);
                scales[4 * i..][..4].copy_from_slice(&four);
            }
            let (far, _) = search::extreme(s, &scales);
            let none = s.equal(far, zero);
            let inverse = s.div(s.splat(-32.0), far);
            for (byte, &scale) in bytes.iter_mut().zip(&scales) {
                let l = level(s, s.mul(inverse, scale), -32.0, 31.0);
                *byte = s.select(none, zero, s.add(l, s.splat(32.0)));
            }
            d = s.f16_bits(s.select(none, zero, s.div(s.splat(1.0), inverse)));
        }
        let scale = s.f16_value(d);
        let mut levels = [[s.splat_int(0); 16]; 16];
        for (i, levels) in levels.iter_mut().enumerate() {
            let scale = s.mul(scale, s.sub(bytes[i], s.splat(32.0)));
            *levels = fit_signed(s, &parts[i], scale, 4.0, &found[i]);
        }
        // The third bits of levels that are 32 apart share a byte.
        out.fields(s, 0, 32, levels.as_flattened(), 2, 1);
        two_bits(s, &levels, 32, out);
        let bytes = each(&bytes, s.splat_int(0), |b| s.to_int(b));
        out.fields(s, 96, 8, &bytes, 0, 4);
        out.fields(s, 104, 4, &bytes, 4, 2);
        out.half(s, 108, d);
    }
}

impl Encode<256> for BlockQ6_K {
    #[inline(always)]
    fn encode<S: Simd>(s: S, group: &Group<'_, S, 256>, out: &mut Blocks<'_>) {
        let zero = s.splat(0.0);
        let parts = group.x.as_chunks::<16>().0;
        let (mut scales, mut found) = ([zero; 16], [[zero; 16]; 16]);
        for i in 0..16 {
            let mut weights = parts[i];
            for (j, w) in weights.iter_mut().enumerate() {
                *w = match group.importance {
                    Some(importance) => importance[16 * i + j],
                    None => s.mul(*w, *w),
                };
            }
            let search = search::symmetric(s, &parts[i], &weights, 32.0, true);
            scales[i] = search.scale;
            for (to, &x) in found[i].iter_mut().zip(&parts[i]) {
                *to = search.level(s, x);
            }
        }
        let (far, distance) = search::extreme(s, &scales);
        // A block of zeros is all zero bytes.
        let none = s.less(distance, s.splat(search::ZERO));
        let inverse = s.div(s.splat(-128.0), far);
        let d = s.f16_bits(s.select(none, zero, s.div(s.splat(1.0), inverse)));
        let scale = s.f16_value(d);
        let mut levels = [[s.splat_int(0); 16]; 16];
        for (i, levels) in levels.iter_mut().enumerate() {
            let level = s.min(s.splat(127.0), nearest(s, s.mul(inverse, scales[i])));
            scales[i] = s.select(none, zero, level);
            let before = each(&found[i], zero, |l| s.select(none, zero, l));
            *levels = fit_signed(s, &parts[i], s.mul(scale, scales[i]), 32.0, &before);
        }
        for (half, levels) in levels.as_flattened().as_chunks::<128>().0.iter().enumerate() {
            out.fields(s, 64 * half, 64, levels, 0, 4);
            out.fields(s, 128 + 32 * half, 32, levels, 4, 2);
        }
        out.bytes(s, 192, &each(&scales, s.splat_int(0), |scale| s.to_int(scale)));
        out.half(s, 208, d);
    }
}
