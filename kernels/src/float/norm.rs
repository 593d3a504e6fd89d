//! Norms of rows: one row for each `weight.len()` floats, so that a norm per head is the same loop with shorter rows.

use super::simd::{Kernel, Simd, run};
use crate::Cpu;

/// `out = x / sqrt(mean(x^2) + eps) * weight`, row by row. `x` and `out`: `[n, weight.len()]`.
pub fn rms_norm(cpu: Cpu, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    let dim = row_len(x, weight);
    for (x, out) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)) {
        let factor = run(cpu, RmsFactor { x, eps });
        run(cpu, Scaled { x, factor, weight, out });
    }
}

/// [`rms_norm`] that replaces its input.
pub fn rms_norm_in_place(cpu: Cpu, x: &mut [f32], weight: &[f32], eps: f32) {
    let dim = row_len(x, weight);
    for x in x.chunks_exact_mut(dim) {
        let factor = run(cpu, RmsFactor { x, eps });
        run(cpu, ScaledInPlace { x, factor, weight });
    }
}

/// `x = (x - mean(x)) / sqrt(variance(x) + eps) * weight`, row by row, `[n, weight.len()]`.
pub fn layer_norm_in_place(cpu: Cpu, x: &mut [f32], weight: &[f32], eps: f32) {
    let dim = row_len(x, weight);
    for x in x.chunks_exact_mut(dim) {
        run(cpu, Centred { x });
        let factor = run(cpu, RmsFactor { x, eps });
        run(cpu, ScaledInPlace { x, factor, weight });
    }
}

fn row_len(x: &[f32], weight: &[f32]) -> usize {
    assert!(
        !weight.is_empty() && x.len().is_multiple_of(weight.len()),
        "{} floats in rows of {}",
        x.len(),
        weight.len()
    );
    weight.len()
}

/// Takes the mean off.
struct Centred<'a> {
    x: &'a mut [f32],
}

impl Centred<'_> {
    #[inline(always)]
    fn go(self) {
        // Summed in f64, as ggml does. Sixteen sums, which the compiler makes vectors of.
        let mut sums = [0.0f64; 16];
        let (chunks, rest) = self.x.as_chunks::<16>();
        for chunk in chunks {
            sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += f64::from(*x));
        }
        let sum: f64 = sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(*x)).sum::<f64>();
        let mean = (sum / self.x.len() as f64) as f32;
        self.x.iter_mut().for_each(|x| *x -= mean);
    }
}

impl Kernel for Centred<'_> {
    type Out = ();

    fn scalar(self) {
        self.go();
    }

    #[inline(always)]
    fn simd<S: Simd>(self, _: S) {
        self.go();
    }
}

/// `1 / sqrt(mean(x^2) + eps)`.
struct RmsFactor<'a> {
    x: &'a [f32],
    eps: f32,
}

impl Kernel for RmsFactor<'_> {
    type Out = f32;

    fn scalar(self) -> f32 {
        let sum: f64 = self.x.iter().map(|&x| f64::from(x * x)).sum();
        1.0 / ((sum / self.x.len() as f64) as f32 + self.eps).sqrt()
    }

    #[inline(always)]
    fn simd<S: Simd>(self, _: S) -> f32 {
        // Squares in f32, summed in f64: then the factor is ggml's to the last bit, and activations that lie between
        // two integers round as llama.cpp's do. Sixteen sums, which the compiler makes vectors of.
        let mut sums = [0.0f64; 16];
        let (chunks, rest) = self.x.as_chunks::<16>();
        for chunk in chunks {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum += f64::from(x * x);
            }
        }
        let sum: f64 = sums.iter().sum::<f64>() + rest.iter().map(|x| f64::from(x * x)).sum::<f64>();
        1.0 / ((sum / self.x.len() as f64) as f32 + self.eps).sqrt()
    }
}

struct Scaled<'a> {
    x: &'a [f32],
    factor: f32,
    weight: &'a [f32],
    out: &'a mut [f32],
}

impl Kernel for Scaled<'_> {
    type Out = ();

    fn scalar(self) {
        for ((x, weight), out) in self.x.iter().zip(self.weight).zip(self.out) {
            *out = x * self.factor * weight;
        }
    }

    #[inline(always)]
    fn simd<S: Simd>(self, _: S) {
        // The compiler makes vectors of it.
        for ((x, weight), out) in self.x.iter().zip(self.weight).zip(self.out) {
            *out = x * self.factor * weight;
        }
    }
}

struct ScaledInPlace<'a> {
    x: &'a mut [f32],
    factor: f32,
    weight: &'a [f32],
}

impl Kernel for ScaledInPlace<'_> {
    type Out = ();

    fn scalar(self) {
        for (x, weight) in self.x.iter_mut().zip(self.weight) {
            *x = *x * self.factor * weight;
        }
    }

    #[inline(always)]
    fn simd<S: Simd>(self, _: S) {
        for (x, weight) in self.x.iter_mut().zip(self.weight) {
            *x = *x * self.factor * weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::float::check::{LENGTHS, check, close, floats};

    fn naive(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
        let dim = weight.len();
        let mut out = Vec::new();
        for row in x.chunks(dim) {
            let square = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / dim as f64;
            let factor = 1.0 / (square + f64::from(eps)).sqrt();
            out.extend(row.iter().zip(weight).map(|(&x, &w)| f64::from(x) * factor * f64::from(w)));
        }
        out
    }

    fn centred(row: &[f32]) -> Vec<f32> {
        let mean = row.iter().map(|&x| f64::from(x)).sum::<f64>() / row.len() as f64;
        row.iter().map(|&x| (f64::from(x) - mean) as f32).collect()
    }

    fn far(got: &[f32], want: &[f64]) -> Option<String> {
        let wrong = |(got, want): &(&f32, &f64)| !close(**got, **want, 2e-6 * want.abs().max(1.0));
        got.iter().zip(want).find(wrong).map(|(got, want)| format!("{got}, expected {want}"))
    }

    #[test]
    fn norms() {
        check("norm", |cpu, fail| {
            for dim in LENGTHS.into_iter().filter(|&dim| dim > 0) {
                for rows in [0, 1, 3] {
                    for eps in [1e-5, 1e-6] {
                        let x: Vec<f32> = floats(rows * dim, 6).iter().map(|x| x + 0.5).collect();
                        let weight = floats(dim, 7);
                        let mut row = |what: &str, got: &[f32], want: &[f64]| {
                            if let Some(far) = far(got, want) {
                                fail(format!("{what}, {rows} x {dim}: {far}"));
                            }
                        };
                        let want = naive(&x, &weight, eps);
                        let mut out = vec![f32::NAN; x.len()];
                        rms_norm(cpu, &x, &weight, eps, &mut out);
                        row("rms", &out, &want);
                        let mut out = x.clone();
                        rms_norm_in_place(cpu, &mut out, &weight, eps);
                        row("rms in place", &out, &want);
                        let centred: Vec<f32> = x.chunks(dim).flat_map(centred).collect();
                        let mut out = x.clone();
                        layer_norm_in_place(cpu, &mut out, &weight, eps);
                        // A row of nearly equal values is all rounding.
                        if dim > 1 {
                            row("layer in place", &out, &naive(&centred, &weight, eps));
                        }
                    }
                }
            }
        });
    }
}
