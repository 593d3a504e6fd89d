//! Functions of one vector: exp and what is made of it.
//!
//! Written without branches, so that every lane is treated alike: a value gives the same result wherever it stands.

use super::simd::Simd;

/// e^x within 2 ulp. Overflows to infinity above 88.72, is subnormal below -87.33 and zero below -103.97.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    // The operand order lets NaN through.
    let x = s.min(s.splat(89.0), s.max(s.splat(-105.0), x));
    // x = n ln 2 + r, |r| <= ln 2 / 2; ln 2 in two parts, each product with n rounded by the fma alone.
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.fma(n, s.splat(-0.693_359_4), x);
    let r = s.fma(n, s.splat(2.121_944_4e-4), r);
    // The polynomial of Cephes' expf (S. Moshier): e^r = 1 + r + r^2 P(r).
    let mut p = s.splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = s.fma(p, r, s.splat(c));
    }
    let y = s.add(s.fma(s.mul(r, r), p, r), s.splat(1.0));
    s.scale_exp(y, n)
}

/// tanh x within 4 ulp.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    // Near zero 1 - 2 / (e^2x + 1) would cancel: the polynomial of Cephes' tanhf (S. Moshier) there.
    let z = s.mul(x, x);
    let mut p = s.splat(-5.704_988_7e-3);
    for c in [2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1] {
        p = s.fma(p, z, s.splat(c));
    }
    let near = s.fma(s.mul(p, z), x, x);
    let e = exp(s, s.add(x, x));
    let far = s.sub(s.splat(1.0), s.div(s.splat(2.0), s.add(e, s.splat(1.0))));
    s.if_less(s.abs(x), s.splat(0.625), near, far)
}

/// x / (1 + e^-x): x times its logistic function.
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    let e = exp(s, s.sub(s.splat(0.0), x));
    s.div(x, s.add(s.splat(1.0), e))
}

/// x (1 + tanh u) / 2 with u = sqrt(2/pi) (x + 0.044715 x^3), which is x / (1 + e^-2u): no cancellation.
#[inline(always)]
pub(crate) fn gelu<S: Simd>(s: S, x: S::V) -> S::V {
    let cubic = s.fma(s.mul(s.splat(GELU_CUBIC), x), s.mul(x, x), x);
    let e = exp(s, s.mul(s.splat(-2.0 * GELU_SLOPE), cubic));
    s.div(x, s.add(s.splat(1.0), e))
}

/// sqrt(2 / pi).
pub(crate) const GELU_SLOPE: f32 = 0.797_884_6;
pub(crate) const GELU_CUBIC: f32 = 0.044_715;
