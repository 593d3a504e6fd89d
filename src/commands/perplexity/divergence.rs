//! How far the probabilities of one model are from those of another: the statistics of llama-perplexity, in its words.

use super::base::Row;
use super::score::max_and_sum_exp;
use ostro_kernels::{Cpu, float};
use std::fmt::Write;

/// Base probabilities below e^-16 are not counted: the file has no bits for them.
const LEAST: f32 = -16.0;

/// The two models at one position.
#[derive(Clone, Copy, Debug)]
pub(super) struct Position {
    /// Negative log-likelihood of the token that came.
    nll: f32,
    nll_base: f32,
    /// Kullback-Leibler divergence of all tokens.
    divergence: f64,
    /// By how much the token that came is more likely than in the base model.
    difference: f32,
    /// Whether both find the same token the most likely.
    same_top: bool,
}

/// Compares a row of logits with the base model's.
pub(super) fn compare(cpu: Cpu, logits: &[f32], base: &Row, next: u32) -> Position {
    const TILE: usize = 1024;
    let (max, sum) = max_and_sum_exp(cpu, logits);
    let log_sum = max + sum.ln() as f32;
    let mut top_base = (0, f32::NEG_INFINITY);
    let mut divergence = 0.0;
    let (mut logs, mut exps) = ([0.0; TILE], [0.0; TILE]);
    let mut base_logs = base.log_probabilities();
    for (tile, logits) in logits.chunks(TILE).enumerate() {
        let (logs, exps) = (&mut logs[..logits.len()], &mut exps[..logits.len()]);
        logs.iter_mut().zip(&mut base_logs).for_each(|(log, p)| *log = p);
        exps.copy_from_slice(logs);
        float::exp(cpu, exps);
        for (i, ((&log, &p), &logit)) in logs.iter().zip(&*exps).zip(logits).enumerate() {
            if log > top_base.1 {
                top_base = (tile * TILE + i, log);
            }
            if log > LEAST {
                divergence += f64::from(p * (log - logit + log_sum));
            }
        }
    }
    let (nll, nll_base) = (log_sum - logits[next as usize], -base.of(next));
    Position {
        nll,
        nll_base,
        divergence,
        difference: (-nll).exp() - (-nll_base).exp(),
        same_top: logits.iter().position(|&x| x == max) == Some(top_base.0),
    }
}

/// A sum, and the sum of the squares.
#[derive(Clone, Copy, Default)]
struct Moments {
    sum: f64,
    sum2: f64,
}

/// A mean and how uncertain it is.
#[derive(Clone, Copy)]
struct Mean {
    value: f64,
    error: f64,
}

impl Moments {
    fn add(&mut self, x: f64) {
        self.sum += x;
        self.sum2 += x * x;
    }

    fn mean(self, count: usize) -> Mean {
        let n = count as f64;
        let value = self.sum / n;
        let variance = self.sum2 / n - value * value;
        Mean { value, error: if variance > 0.0 && count > 10 { (variance / (n - 1.0)).sqrt() } else { 0.0 } }
    }
}

/// What was found at all positions.
#[derive(Default)]
pub(super) struct Divergence {
    nll: Moments,
    nll_base: Moments,
    nll_times_base: f64,
    divergence: Moments,
    difference: Moments,
    difference2: Moments,
    same_top: usize,
    divergences: Vec<f32>,
    differences: Vec<f32>,
}

/// The head of the lines that [`Divergence::line`] gives.
pub(super) const HEAD: &str = "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Δp RMS            Same top p\n";

impl Divergence {
    /// Counts a position.
    pub fn add(&mut self, at: Position) {
        let (nll, base) = (f64::from(at.nll), f64::from(at.nll_base));
        self.nll.add(nll);
        self.nll_base.add(base);
        self.nll_times_base += nll * base;
        self.divergence.add(at.divergence);
        self.difference.add(at.difference.into());
        self.difference2.add(f64::from(at.difference).powi(2));
        self.same_top += usize::from(at.same_top);
        self.divergences.push(at.divergence as f32);
        self.differences.push(at.difference);
    }

    /// Positions so far.
    pub fn count(&self) -> usize {
        self.divergences.len()
    }

    fn perplexity(&self, nll: Moments) -> Mean {
        let Mean { value, error } = nll.mean(self.count());
        Mean { value: value.exp(), error: value.exp() * error }
    }

    /// The covariance of the means of both log-likelihoods.
    fn covariance(&self) -> f64 {
        let n = self.count() as f64;
        if n < 10.0 {
            return 0.0;
        }
        (self.nll_times_base / n - self.nll.sum / n * (self.nll_base.sum / n)) / (n - 1.0)
    }

    /// ln(PPL(Q) / PPL(base)).
    fn log_ratio(&self) -> Mean {
        let (nll, base) = (self.nll.mean(self.count()), self.nll_base.mean(self.count()));
        let variance = nll.error.powi(2) + base.error.powi(2) - 2.0 * self.covariance();
        Mean { value: nll.value - base.value, error: variance.max(0.0).sqrt() }
    }

    fn difference_rms(&self) -> Mean {
        let Mean { value, error } = self.difference2.mean(self.count());
        let rms = value.sqrt();
        Mean { value: rms, error: if rms > 0.0 { 0.5 / rms * error } else { 0.0 } }
    }

    fn same_top(&self) -> Mean {
        let n = self.count() as f64;
        let p = self.same_top as f64 / n;
        Mean { value: p, error: (p * (1.0 - p) / (n - 1.0).max(1.0)).sqrt() }
    }

    /// What is known after `chunk` chunks.
    pub fn line(&self, chunk: usize) -> String {
        let plain = |m: Mean, width: usize, digits: usize| {
            format!("    {:width$.digits$} ± {:width$.digits$}", m.value, m.error)
        };
        let percent = |m: Mean| format!("    {:6.3} ± {:6.3} %", 100.0 * m.value, 100.0 * m.error);
        [
            format!("{chunk:4}"),
            plain(self.perplexity(self.nll), 9, 4),
            plain(self.log_ratio(), 10, 5),
            plain(self.divergence.mean(self.count()), 10, 5),
            percent(self.difference_rms()),
            percent(self.same_top()),
            "\n".into(),
        ]
        .concat()
    }

    /// The whole report.
    pub fn report(&mut self) -> String {
        self.divergences.sort_by(f32::total_cmp);
        self.differences.sort_by(f32::total_cmp);
        let mut out = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let n = self.count();
        let (nll, base) = (self.nll.mean(n), self.nll_base.mean(n));
        let (ppl, ppl_base) = (self.perplexity(self.nll), self.perplexity(self.nll_base));
        let ratio = self.log_ratio();
        let covariance = self.covariance();
        let difference_error =
            ppl.error.powi(2) + ppl_base.error.powi(2) - 2.0 * ppl.value * ppl_base.value * covariance;
        let mut row = |name: &str, m: Mean| writeln!(out, "{name:<30}: {:10.6} ± {:10.6}", m.value, m.error);
        row("====== Perplexity statistics ======\nMean PPL(Q)                   ", ppl)?;
        row("Mean PPL(base)", ppl_base)?;
        let correlation = 100.0 * covariance / (nll.error * base.error);
        writeln!(out, "Cor(ln(PPL(Q)), ln(PPL(base))): {correlation:6.2}%")?;
        let mut row = |name: &str, m: Mean| writeln!(out, "{name:<30}: {:10.6} ± {:10.6}", m.value, m.error);
        row("Mean ln(PPL(Q)/PPL(base))", ratio)?;
        row("Mean PPL(Q)/PPL(base)", Mean { value: ratio.value.exp(), error: ratio.value.exp() * ratio.error })?;
        let error = difference_error.max(0.0).sqrt();
        row("Mean PPL(Q)-PPL(base)", Mean { value: ppl.value - ppl_base.value, error })?;

        let kld = self.divergence.mean(n);
        writeln!(out, "\n====== KL divergence statistics ======")?;
        writeln!(out, "Mean    KLD: {:10.6} ± {:10.6}", kld.value, kld.error)?;
        let all = &self.divergences;
        for (name, fraction) in
            [("Maximum", 1.0), ("99.9%  ", 0.999), ("99.0%  ", 0.99), ("95.0%  ", 0.95), ("90.0%  ", 0.9)]
        {
            writeln!(out, "{name} KLD: {:10.6}", percentile(all, fraction))?;
        }
        writeln!(out, "Median  KLD: {:10.6}", median(all))?;
        for (name, fraction) in
            [("10.0%  ", 0.1), (" 5.0%  ", 0.05), (" 1.0%  ", 0.01), (" 0.1%  ", 0.001), ("Minimum", 0.0)]
        {
            writeln!(out, "{name} KLD: {:10.6}", percentile(all, fraction))?;
        }

        let percent = |m: Mean| format!("{:6.3} ± {:5.3} %", 100.0 * m.value, 100.0 * m.error);
        writeln!(out, "\n====== Token probability statistics ======")?;
        writeln!(out, "Mean    Δp: {}", percent(self.difference.mean(n)))?;
        let all = &self.differences;
        let high = [
            ("Maximum", 1.0),
            ("99.9%  ", 0.999),
            ("99.0%  ", 0.99),
            ("95.0%  ", 0.95),
            ("90.0%  ", 0.9),
            ("75.0%  ", 0.75),
        ];
        for (name, fraction) in high {
            writeln!(out, "{name} Δp: {:6.3}%", 100.0 * percentile(all, fraction))?;
        }
        writeln!(out, "Median  Δp: {:6.3}%", 100.0 * median(all))?;
        let low = [
            ("25.0%  ", 0.25),
            ("10.0%  ", 0.1),
            (" 5.0%  ", 0.05),
            (" 1.0%  ", 0.01),
            (" 0.1%  ", 0.001),
            ("Minimum", 0.0),
        ];
        for (name, fraction) in low {
            writeln!(out, "{name} Δp: {:6.3}%", 100.0 * percentile(all, fraction))?;
        }
        writeln!(out, "RMS Δp    : {}", percent(self.difference_rms()))?;
        writeln!(out, "Same top p: {}", percent(self.same_top()))
    }
}

/// The middle of sorted values.
fn median(values: &[f32]) -> f32 {
    match (values.len() / 2, values.len() % 2) {
        (half, 0) => 0.5 * (values[half] + values[half - 1]),
        (half, _) => values[half],
    }
}

/// The value below which a fraction of the sorted values lies.
fn percentile(values: &[f32], fraction: f32) -> f32 {
    let at = fraction * (values.len() - 1) as f32;
    let (i, part) = (at as usize, at.fract());
    (1.0 - part) * values[i] + part * values[(i + 1).min(values.len() - 1)]
}

#[cfg(test)]
mod tests {
    use super::super::base;
    use super::*;

    #[test]
    fn a_model_is_not_far_from_itself() {
        for cpu in Cpu::all() {
            let logits: Vec<f32> = (0..3000).map(|i| ((i * 7919) % 1000) as f32 / 60.0 - 3.0).collect();
            let (bytes, _) = base::row(cpu, &logits, 0);
            let same = compare(cpu, &logits, &Row::new(&bytes, 3000), 5);
            assert!(same.divergence.abs() < 1e-4 && same.difference.abs() < 1e-6 && same.same_top, "{same:?}");
            // Three more logits for one of the tokens; what that means is computed in f64.
            let mut other = logits.clone();
            other[7] += 18.0;
            let found = compare(cpu, &other, &Row::new(&bytes, 3000), 7);
            let softmax = |logits: &[f32]| {
                let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
                logits.iter().map(|&x| f64::from(x).exp() / sum).collect::<Vec<_>>()
            };
            let (p, q) = (softmax(&logits), softmax(&other));
            let expected: f64 = p.iter().zip(&q).map(|(p, q)| p * (p / q).ln()).sum();
            assert!((found.divergence - expected).abs() < 1e-4, "{}: {found:?}, {expected}", cpu.name());
            assert!((f64::from(found.difference) - (q[7] - p[7])).abs() < 1e-6 && !found.same_top);
        }
    }

    #[test]
    fn percentiles_lie_between_values() {
        let values = [1.0, 2.0, 4.0, 8.0];
        for (fraction, expected) in [(0.0, 1.0), (1.0, 8.0), (0.5, 3.0), (0.25, 1.75)] {
            assert_eq!(percentile(&values, fraction), expected, "{fraction}");
        }
        assert_eq!((median(&values), median(&values[..3]), percentile(&[5.0], 0.999)), (3.0, 2.0, 5.0));
    }
}
