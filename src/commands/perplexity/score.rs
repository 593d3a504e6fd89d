//! How well logits foretell the tokens that came: sums of log-likelihoods, and the perplexity that follows.

use ostro_kernels::{Cpu, Exec, float};
use std::sync::OnceLock;

/// Computes `each(cpu, 0)` to `each(cpu, n - 1)` on all threads.
pub(in crate::commands) fn parallel<T: Send + Sync>(
    exec: &Exec,
    n: usize,
    each: impl Fn(Cpu, usize) -> T + Sync,
) -> Vec<T> {
    let results: Vec<OnceLock<T>> = (0..n).map(|_| OnceLock::new()).collect();
    let cpu = exec.cpu();
    exec.team().run(n, &|i, _| _ = results[i].set(each(cpu, i)));
    results.into_iter().map(|result| result.into_inner().expect("each task runs once")).collect()
}

/// The largest of some logits, and the sum of the exponentials of their distances from it.
pub(in crate::commands) fn max_and_sum_exp(cpu: Cpu, logits: &[f32]) -> (f32, f64) {
    const LANES: usize = 8;
    const TILE: usize = 128 * LANES;
    let mut largest = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = logits.as_chunks::<LANES>();
    for chunk in chunks {
        largest.iter_mut().zip(chunk).for_each(|(max, &x)| *max = if x > *max { x } else { *max });
    }
    let max = largest.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max);
    let (mut sums, mut tile) = ([0.0; LANES], [0.0; TILE]);
    for logits in logits.chunks(TILE) {
        let tile = &mut tile[..logits.len()];
        tile.iter_mut().zip(logits).for_each(|(e, &x)| *e = x - max);
        float::exp(cpu, tile);
        let (chunks, rest) = tile.as_chunks::<LANES>();
        for chunk in chunks.iter().map(<[f32; LANES]>::as_slice).chain([rest]) {
            sums.iter_mut().zip(chunk).for_each(|(sum, &e)| *sum += f64::from(e));
        }
    }
    (max, sums.iter().sum())
}

/// The negative log-likelihoods of the tokens `next`, each after its row of `logits`.
pub(in crate::commands) fn nlls(exec: &Exec, logits: &[f32], next: &[u32]) -> Vec<f64> {
    let width = logits.len() / next.len().max(1);
    parallel(exec, next.len(), |cpu, i| {
        let row = &logits[i * width..(i + 1) * width];
        let (max, sum) = max_and_sum_exp(cpu, row);
        f64::from(max - row[next[i] as usize]) + sum.ln()
    })
}

/// Negative log-likelihoods of tokens.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::commands) struct Likelihood {
    sum: f64,
    sum2: f64,
    count: usize,
}

impl Likelihood {
    /// Counts a token.
    pub fn add(&mut self, nll: f64) {
        self.sum += nll;
        self.sum2 += nll * nll;
        self.count += 1;
    }

    /// How many tokens were counted.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The perplexity so far.
    pub fn perplexity(&self) -> f64 {
        (self.sum / self.count as f64).exp()
    }

    /// The last line of llama-perplexity.
    pub fn estimate(&self) -> String {
        let (count, perplexity) = (self.count as f64, self.perplexity());
        let (mean, mean2) = (self.sum / count, self.sum2 / count);
        let deviation = ((mean2 - mean * mean).max(0.0) / (count - 1.0).max(1.0)).sqrt();
        format!("Final estimate: PPL = {perplexity:.4} +/- {:.5}\n", deviation * perplexity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likelihood_is_that_of_the_softmax() {
        for cpu in Cpu::all() {
            let exec = Exec::new(cpu, 3);
            for width in [1, 7, 8, 1023, 1024, 1025, 5000] {
                let logits: Vec<f32> = (0..3 * width).map(|i| ((i * 7919) % 1000) as f32 / 37.0 - 9.0).collect();
                let next = [0, width as u32 / 2, width as u32 - 1];
                let found: f64 = nlls(&exec, &logits, &next).into_iter().sum();
                let rows = logits.chunks_exact(width).zip(next);
                let expected: f64 = rows
                    .map(|(row, token)| {
                        let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
                        sum.ln() - f64::from(row[token as usize])
                    })
                    .sum();
                let near = (found - expected).abs() < 1e-6 * expected.abs().max(1.0);
                assert!(near, "{} {width}: {found:?}, {expected}", cpu.name());
            }
        }
    }

    #[test]
    fn the_estimate_is_llama_perplexitys() {
        let mut l = Likelihood::default();
        [1.0, 2.0, 4.0].into_iter().for_each(|nll| l.add(nll));
        // e^(7/3); the deviation of the mean is sqrt((7 - 49/9) / 2).
        assert_eq!(l.estimate(), "Final estimate: PPL = 10.3123 +/- 9.09456\n");
        let mut one = Likelihood::default();
        one.add(0.0);
        assert_eq!(one.estimate(), "Final estimate: PPL = 1.0000 +/- 0.00000\n");
    }
}
