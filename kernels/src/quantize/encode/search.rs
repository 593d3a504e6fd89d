//! The searches for the scale of a few floats, one block a lane.
//!
//! Each tries some scales around the obvious one, fits a scale to the levels that a try leads to, and keeps what errs
//! least. ggml's names: `make_qkx2_quants` and `make_qkx3_quants` (here [`affine`]), `make_qx_quants` ([`symmetric`]),
//! `make_q3_quants` ([`corrected`]), `make_qp_quants` ([`positive`]).
//!
//! Several tries go on at once, or several searches where a try depends on the one before: their sums are chains of
//! additions, which hide each other's latency.

use crate::float::simd::Simd;

/// Floats that are all smaller than this are zeros.
pub(super) const ZERO: f32 = 1e-15;

/// `f` of each, as an array's `map`, but a loop of its caller: what is called must have the caller's instructions.
#[inline(always)]
pub(super) fn each<A: Copy, B: Copy, const N: usize>(from: &[A; N], start: B, f: impl Fn(A) -> B) -> [B; N] {
    let mut to = [start; N];
    for (to, &from) in to.iter_mut().zip(from) {
        *to = f(from);
    }
    to
}

/// The nearest integer, ties to even, within +-2^22. Beyond it, as ggml's trick with the bits has it: 0 for NaN.
#[inline(always)]
pub(super) fn nearest<S: Simd>(s: S, v: S::V) -> S::V {
    let bits = s.bits(s.add(v, s.splat(12_582_912.0)));
    s.to_float(s.sub_int(s.and(bits, s.splat_int(0x7f_ffff)), s.splat_int(0x40_0000)))
}

/// [`nearest`], not less than `low` and not more than `high`.
#[inline(always)]
pub(super) fn level<S: Simd>(s: S, v: S::V, low: f32, high: f32) -> S::V {
    s.max(s.splat(low), s.min(s.splat(high), nearest(s, v)))
}

/// [`level`] of what is known to be within +-2^22.
#[inline(always)]
fn small_level<S: Simd>(s: S, v: S::V, low: f32, high: f32) -> S::V {
    let anchor = 12_582_912.0; // 1.5 * 2^23, where floats are integers
    let v = s.add(v, s.splat(anchor));
    s.sub(s.max(s.splat(anchor + low), s.min(s.splat(anchor + high), v)), s.splat(anchor))
}

/// The float that is furthest from zero, the first of such, and how far it is.
#[inline(always)]
pub(super) fn extreme<S: Simd>(s: S, x: &[S::V]) -> (S::V, S::V) {
    let (mut far, mut distance) = (s.splat(0.0), s.splat(0.0));
    for &x in x {
        let other = s.abs(x);
        let further = s.less(distance, other);
        far = s.select(further, x, far);
        distance = s.select(further, other, distance);
    }
    (far, distance)
}

/// The sum from left to right.
#[inline(always)]
pub(super) fn sum<S: Simd>(s: S, terms: impl Iterator<Item = S::V>) -> S::V {
    let mut sum = s.splat(0.0);
    for term in terms {
        sum = s.add(sum, term);
    }
    sum
}

/// The scales that [`affine`] tries: `(first + i * step + top) / (greatest float - minimum so far)`.
pub(super) struct Tries {
    pub first: f32,
    pub step: f32,
    pub count: usize,
}

/// Floats as `scale * level + min`, with levels `0..=top`.
#[derive(Clone, Copy)]
pub(super) struct Affine<S: Simd> {
    pub scale: S::V,
    /// At most zero.
    pub min: S::V,
    /// The scale and the minimum that the levels were found with, which were then fitted to them.
    inverse: S::V,
    low: S::V,
    flat: S::M,
}

impl<S: Simd> Affine<S> {
    /// No floats have been searched yet.
    #[inline(always)]
    pub(super) fn nothing(s: S) -> Self {
        let zero = s.splat(0.0);
        Affine { scale: zero, min: zero, inverse: zero, low: zero, flat: s.equal(zero, zero) }
    }

    /// The level that the search gave to one of its floats.
    #[inline(always)]
    pub(super) fn level(&self, s: S, x: S::V, top: f32) -> S::V {
        s.select(self.flat, s.splat(0.0), level(s, s.mul(self.inverse, s.sub(x, self.low)), 0.0, top))
    }
}

/// Searches the scales and minimums of `T` times `N` floats; `cost` is what a difference costs.
#[inline(always)]
pub(super) fn affine<S: Simd, const N: usize, const T: usize>(
    s: S,
    x: &[[S::V; N]; T],
    weights: &[[S::V; N]; T],
    top: f32,
    tries: &Tries,
    cost: impl Fn(S::V) -> S::V + Copy,
) -> [Affine<S>; T] {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    let (mut low, mut high, mut sum_w, mut sum_x) = ([zero; T], [zero; T], [zero; T], [zero; T]);
    for t in 0..T {
        (low[t], high[t], sum_w[t]) = (x[t][0], x[t][0], weights[t][0]);
        sum_x[t] = s.mul(weights[t][0], x[t][0]);
        for (&x, &w) in x[t].iter().zip(&weights[t]).skip(1) {
            low[t] = s.select(s.less(x, low[t]), x, low[t]);
            high[t] = s.select(s.less(high[t], x), x, high[t]);
            sum_w[t] = s.add(sum_w[t], w);
            sum_x[t] = s.add(sum_x[t], s.mul(w, x));
        }
        low[t] = s.select(s.less(zero, low[t]), zero, low[t]);
    }
    let mut found = [Affine::nothing(s); T];
    for t in 0..T {
        let flat = s.equal(high[t], low[t]);
        let inverse = s.div(s.splat(top), s.select(flat, one, s.sub(high[t], low[t])));
        found[t] = Affine { scale: s.div(one, inverse), min: low[t], inverse, low: low[t], flat };
    }
    let mut levels = [[zero; T]; N];
    tally(s, x, weights, top, [low, high], &found, &mut levels);
    let mut best = errors(s, x, weights, &levels, &found, cost);
    for i in 0..tries.count {
        let mut next = found;
        for next in next.iter_mut().zip(&high) {
            let (next, &high) = next;
            let range = s.select(next.flat, one, s.sub(high, next.min));
            next.inverse = s.div(s.splat(tries.first + tries.step * i as f32 + top), range);
            next.low = next.min;
        }
        let [sum_l, sum_l2, sum_xl] = tally(s, x, weights, top, [low, high], &next, &mut levels);
        let mut fits = [s.less(zero, zero); T];
        for t in 0..T {
            // The line through the levels that errs least in squares; its minimum is not above zero.
            let (l, l2, xl) = (sum_l[t], sum_l2[t], sum_xl[t]);
            let determinant = s.sub(s.mul(sum_w[t], l2), s.mul(l, l));
            let scale = s.div(s.sub(s.mul(sum_w[t], xl), s.mul(sum_x[t], l)), determinant);
            let min = s.div(s.sub(s.mul(l2, sum_x[t]), s.mul(l, xl)), determinant);
            let above = s.less(zero, min);
            next[t].scale = s.select(above, s.div(xl, l2), scale);
            next[t].min = s.select(above, zero, min);
            fits[t] = s.both(s.less(zero, determinant), s.not(next[t].flat));
        }
        let errors = errors(s, x, weights, &levels, &next, cost);
        for t in 0..T {
            let better = s.both(fits[t], s.less(errors[t], best[t]));
            best[t] = s.select(better, errors[t], best[t]);
            let found = &mut found[t];
            found.scale = s.select(better, next[t].scale, found.scale);
            found.min = s.select(better, next[t].min, found.min);
            found.inverse = s.select(better, next[t].inverse, found.inverse);
            found.low = s.select(better, next[t].low, found.low);
        }
    }
    for found in &mut found {
        found.scale = s.select(found.flat, zero, found.scale);
    }
    found
}

/// The levels of a try, and the weighted sums of them, of their squares, and of their products with the floats.
/// `ends` are the least floats and the greatest.
#[inline(always)]
fn tally<S: Simd, const N: usize, const T: usize>(
    s: S,
    x: &[[S::V; N]; T],
    weights: &[[S::V; N]; T],
    top: f32,
    ends: [[S::V; T]; 2],
    tried: &[Affine<S>; T],
    levels: &mut [[S::V; T]; N],
) -> [[S::V; T]; 3] {
    // No float lies further from the minimum of the try than the ends.
    let mut small = s.equal(s.splat(0.0), s.splat(0.0));
    for end in ends {
        for t in 0..T {
            let v = s.abs(s.mul(tried[t].inverse, s.sub(end[t], tried[t].low)));
            small = s.both(small, s.less(v, s.splat(4e6)));
        }
    }
    if s.any(s.not(small)) {
        tally_by(s, x, weights, top, false, tried, levels)
    } else {
        tally_by(s, x, weights, top, true, tried, levels)
    }
}

#[inline(always)]
fn tally_by<S: Simd, const N: usize, const T: usize>(
    s: S,
    x: &[[S::V; N]; T],
    weights: &[[S::V; N]; T],
    top: f32,
    small: bool,
    tried: &[Affine<S>; T],
    levels: &mut [[S::V; T]; N],
) -> [[S::V; T]; 3] {
    let zero = s.splat(0.0);
    let (mut sum_l, mut sum_l2, mut sum_xl) = ([zero; T], [zero; T], [zero; T]);
    for i in 0..N {
        for t in 0..T {
            let x = x[t][i];
            let v = s.mul(tried[t].inverse, s.sub(x, tried[t].low));
            let l = if small { small_level(s, v, 0.0, top) } else { level(s, v, 0.0, top) };
            let wl = s.mul(weights[t][i], l);
            levels[i][t] = l;
            sum_l[t] = s.add(sum_l[t], wl);
            sum_l2[t] = s.add(sum_l2[t], s.mul(wl, l));
            sum_xl[t] = s.add(sum_xl[t], s.mul(wl, x));
        }
    }
    [sum_l, sum_l2, sum_xl]
}

/// What the levels cost under the scales and minimums of a try.
#[inline(always)]
fn errors<S: Simd, const N: usize, const T: usize>(
    s: S,
    x: &[[S::V; N]; T],
    weights: &[[S::V; N]; T],
    levels: &[[S::V; T]; N],
    tried: &[Affine<S>; T],
    cost: impl Fn(S::V) -> S::V,
) -> [S::V; T] {
    let mut errors = [s.splat(0.0); T];
    for i in 0..N {
        for t in 0..T {
            let difference = s.sub(s.add(s.mul(tried[t].scale, levels[i][t]), tried[t].min), x[t][i]);
            errors[t] = s.add(errors[t], s.mul(weights[t][i], cost(difference)));
        }
    }
    errors
}

/// Floats as `scale * level`, with levels `-top..top`.
pub(super) struct Symmetric<S: Simd> {
    pub scale: S::V,
    inverse: S::V,
    zeros: S::M,
    top: f32,
}

impl<S: Simd> Symmetric<S> {
    /// The level that the search gave to one of its floats, plus `top`. It is 0, not `top`, where all are zeros.
    #[inline(always)]
    pub(super) fn level(&self, s: S, x: S::V) -> S::V {
        let l = level(s, s.mul(self.inverse, x), -self.top, self.top - 1.0);
        s.select(self.zeros, s.splat(0.0), s.add(s.splat(self.top), l))
    }
}

/// Searches a scale for the least weighted squares. `finite` says that the floats are known to be.
#[inline(always)]
pub(super) fn symmetric<S: Simd, const N: usize>(
    s: S,
    x: &[S::V; N],
    weights: &[S::V; N],
    top: f32,
    finite: bool,
) -> Symmetric<S> {
    const AT_ONCE: usize = 3;
    let zero = s.splat(0.0);
    let (far, distance) = extreme(s, x);
    let zeros = s.less(distance, s.splat(ZERO));
    let mut weighted = *x;
    for (x, &w) in weighted.iter_mut().zip(weights) {
        *x = s.mul(w, *x);
    }
    let mut inverse = s.div(s.splat(-top), far);
    let ([sum_xl], [sum_l2]) = products(s, x, weights, &weighted, top, finite, [inverse]);
    let mut scale = s.select(s.equal(sum_l2, zero), zero, s.div(sum_xl, sum_l2));
    let mut best = s.mul(scale, sum_xl);
    for first in [-9, -6, -3, 1, 4, 7] {
        let mut inverses = [zero; AT_ONCE];
        for (t, inverse) in inverses.iter_mut().enumerate() {
            *inverse = s.div(s.splat(-(top + 0.1 * (first + t as i32) as f32)), far);
        }
        let (sum_xl, sum_l2) = products(s, x, weights, &weighted, top, finite, inverses);
        for t in 0..AT_ONCE {
            let less_error = s.less(s.mul(best, sum_l2[t]), s.mul(sum_xl[t], sum_xl[t]));
            let better = s.both(s.less(zero, sum_l2[t]), less_error);
            scale = s.select(better, s.div(sum_xl[t], sum_l2[t]), scale);
            best = s.select(better, s.mul(scale, sum_xl[t]), best);
            inverse = s.select(better, inverses[t], inverse);
        }
    }
    Symmetric { scale: s.select(zeros, zero, scale), inverse, zeros, top }
}

/// For `T` scales the sums of float times level and of level times level, weighted.
#[inline(always)]
fn products<S: Simd, const N: usize, const T: usize>(
    s: S,
    x: &[S::V; N],
    weights: &[S::V; N],
    weighted: &[S::V; N],
    top: f32,
    finite: bool,
    inverses: [S::V; T],
) -> ([S::V; T], [S::V; T]) {
    let (mut sum_xl, mut sum_l2) = ([s.splat(0.0); T], [s.splat(0.0); T]);
    for i in 0..N {
        for t in 0..T {
            // Where levels of what is finite could be great, all floats are zeros and nothing comes of this.
            let v = s.mul(inverses[t], x[i]);
            let l = if finite { small_level(s, v, -top, top - 1.0) } else { level(s, v, -top, top - 1.0) };
            sum_xl[t] = s.add(sum_xl[t], s.mul(weighted[i], l));
            sum_l2[t] = s.add(sum_l2[t], s.mul(s.mul(weights[i], l), l));
        }
    }
    (sum_xl, sum_l2)
}

/// Of `T` times 16 floats the levels `-4..4`, plus 4, and the scale, found from the obvious ones by changing one level
/// after the other as long as the squares, weighted with the squares of the floats, become less. Where all floats are
/// zeros the levels are 0, not 4.
#[inline(always)]
pub(super) fn corrected<S: Simd, const T: usize>(s: S, x: &[[S::V; 16]; T]) -> ([[S::V; 16]; T], [S::V; T]) {
    let zero = s.splat(0.0);
    let mut levels = [[zero; 16]; T];
    let (mut sum_xl, mut sum_l2) = ([zero; T], [zero; T]);
    let mut zeros = [s.less(zero, zero); T];
    for t in 0..T {
        let (far, distance) = extreme(s, &x[t]);
        zeros[t] = s.less(distance, s.splat(ZERO));
        let inverse = s.div(s.splat(-4.0), far);
        for (&x, to) in x[t].iter().zip(&mut levels[t]) {
            let l = level(s, s.mul(inverse, x), -4.0, 3.0);
            let w = s.mul(x, x);
            *to = l;
            sum_xl[t] = s.add(sum_xl[t], s.mul(s.mul(w, x), l));
            sum_l2[t] = s.add(sum_l2[t], s.mul(s.mul(w, l), l));
        }
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..16 {
            for t in 0..T {
                let (x, l) = (x[t][i], levels[t][i]);
                let w = s.mul(x, x);
                let wx = s.mul(w, x);
                let xl = s.sub(sum_xl[t], s.mul(wx, l));
                let l2 = s.sub(sum_l2[t], s.mul(s.mul(w, l), l));
                let other = level(s, s.div(s.mul(x, l2), xl), -4.0, 3.0);
                let (new_xl, new_l2) = (s.add(xl, s.mul(wx, other)), s.add(l2, s.mul(s.mul(w, other), other)));
                let less_error =
                    s.less(s.mul(s.mul(sum_xl[t], sum_xl[t]), new_l2), s.mul(s.mul(new_xl, new_xl), sum_l2[t]));
                let better = s.both(s.both(s.less(zero, xl), s.less(zero, new_l2)), less_error);
                // The same level leads to sums that are rounded anew, so it must not count as better.
                let better = s.both(better, s.not(s.equal(other, l)));
                levels[t][i] = s.select(better, other, l);
                sum_xl[t] = s.select(better, new_xl, sum_xl[t]);
                sum_l2[t] = s.select(better, new_l2, sum_l2[t]);
                changed |= s.any(better);
            }
        }
        if !changed {
            break;
        }
    }
    for (levels, &zeros) in levels.iter_mut().zip(&zeros) {
        *levels = each(levels, zero, |l| s.select(zeros, zero, s.add(l, s.splat(4.0))));
    }
    let mut scales = [zero; T];
    for t in 0..T {
        let fits = s.both(s.less(zero, sum_l2[t]), s.not(zeros[t]));
        scales[t] = s.select(fits, s.div(sum_xl[t], sum_l2[t]), zero);
    }
    (levels, scales)
}

/// Of `T` times `N` scales the levels `0..=top` and the scale of scales, in the way of [`corrected`]. The levels are
/// bytes: what is below zero wraps around.
#[inline(always)]
pub(super) fn positive<S: Simd, const N: usize, const T: usize>(
    s: S,
    x: &[[S::V; N]; T],
    weights: &[S::V; N],
    top: f32,
) -> ([[S::V; N]; T], [S::V; T]) {
    let zero = s.splat(0.0);
    let mut max = [zero; T];
    for (max, x) in max.iter_mut().zip(x) {
        for &x in x {
            *max = s.select(s.less(x, *max), *max, x);
        }
    }
    let mut inverse = each(&max, zero, |max| s.div(s.splat(top), max));
    let mut best = squares(s, x, weights, inverse, |l| byte(s, l));
    for step in [-4, -3, -2, -1, 1, 2, 3, 4] {
        let inverses = each(&max, zero, |max| s.div(s.splat(0.1 * step as f32 + top), max));
        let errors = squares(s, x, weights, inverses, |l| s.min(s.splat(top), l));
        for t in 0..T {
            let better = s.less(errors[t], best[t]);
            best[t] = s.select(better, errors[t], best[t]);
            inverse[t] = s.select(better, inverses[t], inverse[t]);
        }
    }
    let mut levels = [[zero; N]; T];
    let (mut sum_xl, mut sum_l2) = ([zero; T], [zero; T]);
    for i in 0..N {
        for t in 0..T {
            let (x, w) = (x[t][i], weights[i]);
            let l = s.min(s.splat(top), nearest(s, s.mul(inverse[t], x)));
            levels[t][i] = byte(s, l);
            sum_xl[t] = s.add(sum_xl[t], s.mul(s.mul(w, x), l));
            sum_l2[t] = s.add(sum_l2[t], s.mul(s.mul(w, l), l));
        }
    }
    for _ in 0..5 {
        let mut changed = false;
        for i in 0..N {
            for t in 0..T {
                let (x, w, l) = (x[t][i], weights[i], levels[t][i]);
                let wx = s.mul(w, x);
                let xl = s.sub(sum_xl[t], s.mul(wx, l));
                let l2 = s.sub(sum_l2[t], s.mul(s.mul(w, l), l));
                let other = s.min(s.splat(top), nearest(s, s.div(s.mul(x, l2), xl)));
                let (new_xl, new_l2) = (s.add(xl, s.mul(wx, other)), s.add(l2, s.mul(s.mul(w, other), other)));
                let less_error =
                    s.less(s.mul(s.mul(sum_xl[t], sum_xl[t]), new_l2), s.mul(s.mul(new_xl, new_xl), sum_l2[t]));
                let better = s.both(s.both(s.less(zero, xl), s.less(zero, l2)), less_error);
                let better = s.both(better, s.not(s.equal(other, l)));
                levels[t][i] = s.select(better, byte(s, other), l);
                sum_xl[t] = s.select(better, new_xl, sum_xl[t]);
                sum_l2[t] = s.select(better, new_l2, sum_l2[t]);
                changed |= s.any(better);
            }
        }
        if !changed {
            break;
        }
    }
    let mut scales = [zero; T];
    for t in 0..T {
        let zeros = s.less(max[t], s.splat(ZERO));
        let scale = s.select(s.less(zero, sum_l2[t]), s.div(sum_xl[t], sum_l2[t]), zero);
        scales[t] = s.select(zeros, zero, scale);
        levels[t] = each(&levels[t], zero, |l| s.select(zeros, zero, l));
    }
    (levels, scales)
}

/// The squares of the errors of `T` scales, weighted.
#[inline(always)]
fn squares<S: Simd, const N: usize, const T: usize>(
    s: S,
    x: &[[S::V; N]; T],
    weights: &[S::V; N],
    inverses: [S::V; T],
    to_level: impl Fn(S::V) -> S::V,
) -> [S::V; T] {
    let scales = each(&inverses, s.splat(0.0), |inverse| s.div(s.splat(1.0), inverse));
    let mut errors = [s.splat(0.0); T];
    for i in 0..N {
        for t in 0..T {
            let l = to_level(nearest(s, s.mul(inverses[t], x[t][i])));
            let difference = s.sub(x[t][i], s.mul(scales[t], l));
            errors[t] = s.add(errors[t], s.mul(s.mul(weights[i], difference), difference));
        }
    }
    errors
}

/// An integer as a byte holds it.
#[inline(always)]
pub(super) fn byte<S: Simd>(s: S, v: S::V) -> S::V {
    s.to_float(s.and(s.to_int(v), s.splat_int(0xff)))
}
