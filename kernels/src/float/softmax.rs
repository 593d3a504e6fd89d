//! Scores to probabilities.

use super::math;
use super::simd::{Kernel, Simd, run};
use crate::Cpu;

/// `x[i] = e^x[i] / sum of e^x`, computed so that nothing overflows. An empty row stays empty.
pub fn softmax(cpu: Cpu, x: &mut [f32]) {
    run(cpu, Softmax(x));
}

struct Softmax<'a>(&'a mut [f32]);

impl Kernel for Softmax<'_> {
    type Out = ();

    fn scalar(self) {
        let top = self.0.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut sum = 0.0f64;
        for x in self.0.iter_mut() {
            *x = (*x - top).exp();
            sum += f64::from(*x);
        }
        for x in self.0 {
            *x = (f64::from(*x) / sum) as f32;
        }
    }

    #[inline(always)]
    fn simd<S: Simd>(self, s: S) {
        let mut top = s.splat(f32::NEG_INFINITY);
        for x in self.0.chunks(S::LANES) {
            top = s.max(top, s.load_part(x, f32::NEG_INFINITY));
        }
        let top = s.splat(s.top(top));
        let mut sum = s.splat(0.0);
        for x in self.0.chunks_mut(S::LANES) {
            // The lanes past the end are -infinity, so they add e^-infinity = 0.
            let e = math::exp(s, s.sub(s.load_part(x, f32::NEG_INFINITY), top));
            sum = s.add(sum, e);
            s.store_part(x, e);
        }
        let factor = s.splat(1.0 / s.sum(sum));
        for x in self.0.chunks_mut(S::LANES) {
            let y = s.mul(s.load_part(x, 0.0), factor);
            s.store_part(x, y);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::check::{LENGTHS, check, close, floats};

    #[test]
    fn softmaxes() {
        check("softmax", |cpu, fail| {
            for n in LENGTHS {
                for (what, shift, factor) in [("plain", 0.0, 1.0), ("huge", 1e4, 300.0), ("masked", -3e4, 30.0)] {
                    let mut x: Vec<f32> = floats(n, 5).iter().map(|x| x * factor + shift).collect();
                    if what == "masked" {
                        x.iter_mut().skip(1).step_by(2).for_each(|x| *x = f32::NEG_INFINITY);
                    }
                    let top = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                    let exps: Vec<f64> = x.iter().map(|x| f64::from(x - top).exp()).collect();
                    let sum: f64 = exps.iter().sum();
                    softmax(cpu, &mut x);
                    for (x, e) in x.iter().zip(&exps) {
                        if !close(*x, e / sum, 1e-6 * (e / sum) + 1e-37) {
                            fail(format!("{what}, n {n}: {x}, expected {}", e / sum));
                        }
                    }
                }
            }
        });
    }
}
