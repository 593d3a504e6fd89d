//! Rotary position embedding of one token's heads.

use super::simd::{Kernel, Simd, run};
use crate::Cpu;

/// Which two floats of a head turn together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pairs {
    /// `2 i` and `2 i + 1`: what llama.cpp calls NORM.
    Adjacent,
    /// `i` and `i + rot / 2`: what llama.cpp calls NEOX.
    Halves,
}

/// Turns the first `2 * cos.len()` floats of each head by the angles whose cosines and sines are given.
///
/// `x`: `[heads, head_dim]`, of one token; `cos`, `sin`: one for each pair, of the token's position.
pub fn rope(cpu: Cpu, x: &mut [f32], head_dim: usize, cos: &[f32], sin: &[f32], pairs: Pairs) {
    assert!(head_dim > 0 && x.len().is_multiple_of(head_dim), "{} floats in heads of {head_dim}", x.len());
    assert!(cos.len() == sin.len() && 2 * cos.len() <= head_dim, "{} angles for a head of {head_dim}", cos.len());
    match pairs {
        Pairs::Adjacent => run(cpu, Adjacent { x, head_dim, cos, sin }),
        Pairs::Halves => run(cpu, Halves { x, head_dim, cos, sin }),
    }
}

struct Adjacent<'a> {
    x: &'a mut [f32],
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Adjacent<'_> {
    #[inline(always)]
    fn go(self) {
        for head in self.x.chunks_exact_mut(self.head_dim) {
            for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(self.cos).zip(self.sin) {
                let [a, b] = *pair;
                *pair = [a * cos - b * sin, a * sin + b * cos];
            }
        }
    }
}

impl Kernel for Adjacent<'_> {
    type Out = ();

    fn scalar(self) {
        self.go();
    }

    #[inline(always)]
    fn simd<S: Simd>(self, _: S) {
        self.go(); // the compiler makes vectors of it
    }
}

struct Halves<'a> {
    x: &'a mut [f32],
    head_dim: usize,
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Halves<'_> {
    #[inline(always)]
    fn go(self) {
        let half = self.cos.len();
        for head in self.x.chunks_exact_mut(self.head_dim) {
            let (first, second) = head[..2 * half].split_at_mut(half);
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(self.cos).zip(self.sin) {
                (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
            }
        }
    }
}

impl Kernel for Halves<'_> {
    type Out = ();

    fn scalar(self) {
        self.go();
    }

    #[inline(always)]
    fn simd<S: Simd>(self, _: S) {
        self.go(); // the compiler makes vectors of it
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::check::{check, close, floats};

    #[test]
    fn ropes() {
        check("rope", |cpu, fail| {
            for (heads, head_dim, rot) in
                [(0, 64, 64), (1, 8, 2), (3, 64, 64), (2, 80, 20), (5, 128, 128), (2, 96, 6), (1, 40, 0), (2, 7, 6)]
            {
                for pairs in [Pairs::Adjacent, Pairs::Halves] {
                    let x = floats(heads * head_dim, 11);
                    let angles: Vec<f64> = (0..rot / 2).map(|i| 1000.0 / 1.3f64.powi(i as i32)).collect();
                    let (cos, sin): (Vec<f32>, Vec<f32>) =
                        angles.iter().map(|a| (a.cos() as f32, a.sin() as f32)).unzip();
                    let mut got = x.clone();
                    rope(cpu, &mut got, head_dim, &cos, &sin, pairs);
                    let mut want: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
                    for head in 0..heads {
                        for (i, angle) in angles.iter().enumerate() {
                            let (i, j) = match pairs {
                                Pairs::Adjacent => (2 * i, 2 * i + 1),
                                Pairs::Halves => (i, i + rot / 2),
                            };
                            let at = head * head_dim;
                            let (a, b) = (f64::from(x[at + i]), f64::from(x[at + j]));
                            want[at + i] = a * angle.cos() - b * angle.sin();
                            want[at + j] = a * angle.sin() + b * angle.cos();
                        }
                    }
                    if !got.iter().zip(&want).all(|(got, want)| close(*got, *want, 1e-6)) {
                        fail(format!("{heads} x {head_dim}, rot {rot}, {pairs:?}"));
                    }
                }
            }
        });
    }
}
