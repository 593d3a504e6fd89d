//! Functions applied to each float of a row.

use super::math;
use super::simd::{Kernel, Simd, run};
use crate::Cpu;

/// The function of a gate, between the gate and the up projection of a feed-forward network.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// GELU in its tanh form, which ggml calls gelu: `x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2`.
    GeluTanh,
}

/// `gate = act(gate) * up`.
pub fn gate(cpu: Cpu, act: Activation, gate: &mut [f32], up: &[f32]) {
    assert_eq!(gate.len(), up.len());
    match act {
        Activation::Silu => run(cpu, Gated(Silu, gate, up)),
        Activation::GeluTanh => run(cpu, Gated(Gelu, gate, up)),
    }
}

/// `x = cap * tanh(x / cap)`.
pub fn soft_cap(cpu: Cpu, cap: f32, x: &mut [f32]) {
    run(cpu, Each(SoftCap(cap), x));
}

/// `x = e^x`, within 2 ulp.
pub fn exp(cpu: Cpu, x: &mut [f32]) {
    run(cpu, Each(Exp, x));
}

/// A function of one float, and of a vector of them.
trait Map: Copy {
    fn scalar(self, x: f32) -> f32;
    fn simd<S: Simd>(self, s: S, x: S::V) -> S::V;
}

#[derive(Clone, Copy)]
struct Silu;
#[derive(Clone, Copy)]
struct Gelu;
#[derive(Clone, Copy)]
struct Exp;
#[derive(Clone, Copy)]
struct SoftCap(f32);

impl Map for Silu {
    fn scalar(self, x: f32) -> f32 {
        x / (1.0 + (-x).exp())
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S, x: S::V) -> S::V {
        math::silu(s, x)
    }
}

impl Map for Gelu {
    fn scalar(self, x: f32) -> f32 {
        // In f64, for 1 + tanh cancels when x is far below zero.
        let x = f64::from(x);
        let u = f64::from(math::GELU_SLOPE) * (x + f64::from(math::GELU_CUBIC) * x * x * x);
        (0.5 * x * (1.0 + u.tanh())) as f32
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S, x: S::V) -> S::V {
        math::gelu(s, x)
    }
}

impl Map for Exp {
    fn scalar(self, x: f32) -> f32 {
        x.exp()
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S, x: S::V) -> S::V {
        math::exp(s, x)
    }
}

impl Map for SoftCap {
    fn scalar(self, x: f32) -> f32 {
        self.0 * (x / self.0).tanh()
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S, x: S::V) -> S::V {
        let cap = s.splat(self.0);
        s.mul(cap, math::tanh(s, s.div(x, cap)))
    }
}

struct Each<'a, M>(M, &'a mut [f32]);

impl<M: Map> Kernel for Each<'_, M> {
    type Out = ();

    fn scalar(self) {
        for x in self.1 {
            *x = self.0.scalar(*x);
        }
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        for x in self.1.chunks_mut(S::LANES) {
            let y = self.0.simd(s, s.load_part(x, 0.0));
            s.store_part(x, y);
        }
    }
}

struct Gated<'a, M>(M, &'a mut [f32], &'a [f32]);

impl<M: Map> Kernel for Gated<'_, M> {
    type Out = ();

    fn scalar(self) {
        for (gate, up) in self.1.iter_mut().zip(self.2) {
            *gate = self.0.scalar(*gate) * up;
        }
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        for (gate, up) in self.1.chunks_mut(S::LANES).zip(self.2.chunks(S::LANES)) {
            let y = s.mul(self.0.simd(s, s.load_part(gate, 0.0)), s.load_part(up, 0.0));
            s.store_part(gate, y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::check::{LENGTHS, check, close, floats};

    /// The function itself, as the gate of ones.
    fn alone(cpu: Cpu, act: Activation, x: &mut [f32]) {
        gate(cpu, act, x, &vec![1.0; x.len()]);
    }

    /// Values in range, where e^x ends, and what is not a number.
    fn inputs(n: usize) -> Vec<f32> {
        let special = [0.0, -0.0, 1e-30, 0.6249, 0.6251, 88.72, 88.73, -87.4, -103.9, -104.1, 200.0, -200.0];
        let mut x = floats(n, n as u64);
        for (x, y) in x.iter_mut().step_by(3).zip(special) {
            *x = y;
        }
        x
    }

    fn against(what: &str, (relative, absolute): (f64, f64), f: impl Fn(Cpu, &mut [f32]), exact: impl Fn(f64) -> f64) {
        check(what, |cpu, fail| {
            for n in LENGTHS {
                let x = inputs(n);
                let mut y = x.clone();
                f(cpu, &mut y);
                for (&x, &y) in x.iter().zip(&y) {
                    let want = exact(f64::from(x));
                    let same = want as f32 == y || close(y, want, relative * want.abs() + absolute);
                    if !same {
                        fail(format!("n {n}: f({x}) = {y}, expected {want}"));
                    }
                }
            }
        });
    }

    #[test]
    fn functions_of_a_float() {
        // 2 ulp = 2.4e-7; the quotients add one rounding each, their argument's rounding counts |2u| times.
        against("exp", (2.4e-7, 1e-44), exp, f64::exp);
        // Below -88.7 e^-x overflows, and the quotient is zero.
        against("silu", (5e-7, 1e-36), |cpu, x| alone(cpu, Activation::Silu, x), |x| x / (1.0 + (-x).exp()));
        let gelu = |x: f64| {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            x / (1.0 + (-2.0 * u).exp())
        };
        check("gelu", |cpu, fail| {
            for n in LENGTHS {
                let x = inputs(n);
                let mut y = x.clone();
                alone(cpu, Activation::GeluTanh, &mut y);
                for (&x, &y) in x.iter().zip(&y) {
                    let want = gelu(f64::from(x));
                    if !close(y, want, 1e-6 * want.abs().max(1.0)) {
                        fail(format!("gelu({x}) = {y}, expected {want}"));
                    }
                }
            }
        });
        for cap in [1.0f32, 30.0, 50.0] {
            let c = f64::from(cap);
            against("soft cap", (5e-7, 0.0), |cpu, x| soft_cap(cpu, cap, x), |x| c * (x / c).tanh());
        }
    }

    #[test]
    fn exp_is_within_2_ulp_and_keeps_nan() {
        check("exp", |cpu, fail| {
            let mut x: Vec<f32> = (0..200_000).map(|i| -104.0 + 193.0 * i as f32 / 200_000.0).collect();
            let args = x.clone();
            exp(cpu, &mut x);
            for (&x, &y) in args.iter().zip(&x) {
                let want = f64::from(x).exp();
                if want > f64::from(f32::MIN_POSITIVE) && want < f64::from(f32::MAX) {
                    let ulp = 2f64.powi(want.log2().floor() as i32 - 23);
                    if !close(y, want, 2.0 * ulp) {
                        fail(format!("exp({x}) = {y}, expected {want}"));
                    }
                }
            }
            let mut special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
            exp(cpu, &mut special);
            if !(special[0].is_nan() && special[1] == f32::INFINITY && special[2] == 0.0) {
                fail(format!("NaN, inf, -inf give {special:?}"));
            }
        });
    }

    #[test]
    fn a_gate_multiplies() {
        check("gate", |cpu, fail| {
            for n in LENGTHS {
                for act in [Activation::Silu, Activation::GeluTanh] {
                    let (mut gated, up) = (floats(n, 1), floats(n, 2));
                    let mut want = gated.clone();
                    alone(cpu, act, &mut want);
                    want.iter_mut().zip(&up).for_each(|(g, u)| *g *= u);
                    gate(cpu, act, &mut gated, &up);
                    if gated != want {
                        fail(format!("n {n}, {act:?}"));
                    }
                }
            }
        });
    }
}
