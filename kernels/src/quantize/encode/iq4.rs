//! IQ4_NL and IQ4_XS: a scale under which 32 floats lie near the 16 values of a table.

use super::group::{Blocks, Encode, Group, bits};
use super::k::{squares, weigh};
use super::legacy::{nibbles, over};
use super::search::{ZERO, extreme, level};
use crate::block::{BlockIQ4_NL, BlockIQ4_XS};
use crate::float::simd::Simd;
use crate::quantize::KVALUES_IQ4NL;

/// Scales that are tried on each side of the obvious one.
const TRIES: i32 = 7;

/// Where a value of the table ends and the next begins; what lies between is nearer to the next.
const fn border(i: usize) -> f32 {
    (KVALUES_IQ4NL[i] as f32 + KVALUES_IQ4NL[i + 1] as f32) / 2.0
}

/// The borders as a binary tree, for [`Simd::descend`] from 1: the children of `i` are `2 i` and `2 i + 1`.
const TREE: [f32; 8] = [0.0, border(7), border(3), border(11), border(1), border(5), border(9), border(13)];
/// What the eight ends of the tree decide between.
const ENDS: Ends = ends();

struct Ends {
    borders: [f32; 8],
    low: [f32; 8],
    high: [f32; 8],
}

const fn ends() -> Ends {
    let mut ends = Ends { borders: [0.0; 8], low: [0.0; 8], high: [0.0; 8] };
    let mut i = 0;
    while i < 8 {
        ends.borders[i] = border(2 * i);
        ends.low[i] = KVALUES_IQ4NL[2 * i] as f32;
        ends.high[i] = KVALUES_IQ4NL[2 * i + 1] as f32;
        i += 1;
    }
    ends
}

/// The end of the tree for a float, 0 to 7, and whether it is the lower of the two values there.
#[inline(always)]
fn place<S: Simd>(s: S, v: S::V) -> (S::I, S::M) {
    // NaN is less than nothing, so it goes right at each border.
    let mut i = s.descend(s.splat_int(1), s.less(v, s.splat(TREE[1])));
    i = s.descend(i, s.less(v, s.pick(&TREE, i)));
    i = s.descend(i, s.less(v, s.pick(&TREE, i)));
    let end = s.and(i, s.splat_int(7));
    (end, s.less(v, s.pick(&ENDS.borders, end)))
}

/// The value of the table that is nearest.
#[inline(always)]
fn value<S: Simd>(s: S, v: S::V) -> S::V {
    let (end, low) = place(s, v);
    s.select(low, s.pick(&ENDS.low, end), s.pick(&ENDS.high, end))
}

/// Which value that is.
#[inline(always)]
fn index<S: Simd>(s: S, v: S::V) -> S::I {
    let (end, low) = place(s, v);
    s.descend(end, low)
}

/// The scale of 32 floats.
#[inline(always)]
fn search<S: Simd>(s: S, x: &[S::V; 32], importance: Option<&[S::V]>, sigma2: S::V) -> S::V {
    let zero = s.splat(0.0);
    let weights = match importance {
        Some(importance) => weigh(s, x, importance, sigma2),
        None => {
            let mut weights = *x;
            for w in &mut weights {
                *w = s.mul(*w, *w);
            }
            weights
        }
    };
    let (far, distance) = extreme(s, x);
    let zeros = s.less(distance, s.splat(ZERO));
    let first = f32::from(KVALUES_IQ4NL[0]);
    // Minus the greatest over minus the first value, as ggml has it.
    let obvious = s.div(s.sub(s.splat(-0.0), far), s.splat(first));
    let (sum_xq, sum_q2) = products(s, x, &weights, s.div(s.splat(1.0), obvious));
    let mut scale = s.select(s.less(zero, sum_q2), s.div(sum_xq, sum_q2), zero);
    let mut best = s.mul(scale, sum_xq);
    for i in -TRIES..=TRIES {
        let (sum_xq, sum_q2) = products(s, x, &weights, s.div(s.splat(i as f32 + first), far));
        let less_error = s.less(s.mul(best, sum_q2), s.mul(sum_xq, sum_xq));
        let better = s.both(s.less(zero, sum_q2), less_error);
        scale = s.select(better, s.div(sum_xq, sum_q2), scale);
        best = s.select(better, s.mul(scale, sum_xq), best);
    }
    s.select(zeros, zero, scale)
}

/// The sums of float times value and of value times value, weighted.
#[inline(always)]
fn products<S: Simd>(s: S, x: &[S::V; 32], weights: &[S::V; 32], inverse: S::V) -> (S::V, S::V) {
    let (mut sum_xq, mut sum_q2) = (s.splat(0.0), s.splat(0.0));
    for (&x, &w) in x.iter().zip(weights) {
        let q = value(s, s.mul(inverse, x));
        let wq = s.mul(w, q);
        sum_xq = s.add(sum_xq, s.mul(wq, x));
        sum_q2 = s.add(sum_q2, s.mul(wq, q));
    }
    (sum_xq, sum_q2)
}

/// The places in the table of 32 floats.
#[inline(always)]
fn indices<S: Simd>(s: S, x: &[S::V; 32], scale: S::V) -> [S::I; 32] {
    let inverse = over(s, 1.0, scale);
    let mut indices = [s.splat_int(0); 32];
    for (to, &x) in indices.iter_mut().zip(x) {
        *to = index(s, s.mul(inverse, x));
    }
    indices
}

impl Encode<32> for BlockIQ4_NL {
    #[inline(always)]
    fn encode<S: Simd>(s: S, group: &Group<'_, S, 32>, out: &mut Blocks<'_>) {
        let sigma2 = s.mul(squares(s, group.x), s.splat(2.0 / 32.0));
        let scale = search(s, group.x, group.importance.map(|w| w.as_slice()), sigma2);
        out.half(s, 0, s.f16_bits(scale));
        nibbles(s, &indices(s, group.x, scale), 2, out);
    }
}

impl Encode<256> for BlockIQ4_XS {
    #[inline(always)]
    fn encode<S: Simd>(s: S, group: &Group<'_, S, 256>, out: &mut Blocks<'_>) {
        let parts = group.x.as_chunks::<32>().0;
        let sigma2 = s.mul(squares(s, group.x), s.splat(2.0 / 256.0));
        let mut scales = [s.splat(0.0); 8];
        for (i, scale) in scales.iter_mut().enumerate() {
            *scale = search(s, &parts[i], group.importance.map(|w| &w[32 * i..]), sigma2);
        }
        let (far, _) = extreme(s, &scales);
        let d = s.div(s.sub(s.splat(-0.0), far), s.splat(32.0));
        let inverse = over(s, 1.0, d);
        let mut levels = [s.splat_int(0); 8];
        for (i, &scale) in scales.iter().enumerate() {
            let l = level(s, s.mul(inverse, scale), -32.0, 31.0);
            levels[i] = s.to_int(s.add(l, s.splat(32.0)));
            nibbles(s, &indices(s, &parts[i], s.mul(d, l)), 8 + 16 * i, out);
        }
        let (mut low, mut high) = (s.splat_int(0), s.splat_int(0));
        for (i, &level) in levels.iter().enumerate() {
            low = s.or(low, s.shl(bits(s, level, 0, 4), 4 * i as u32));
            high = s.or(high, s.shl(bits(s, level, 4, 2), 2 * i as u32));
        }
        out.half(s, 0, s.f16_bits(d));
        out.half(s, 2, high);
        out.word(s, 4, low);
    }
}
