//! Mirostat: the surprise of what is drawn is held near a target, instead of a fixed filter.
//!
//! Definition: <https://arxiv.org/abs/2007.14966>; version 2 leaves out the estimate of Zipf's exponent.

use super::SampleOptions;
use super::candidates::{Candidate, Softmax, draw, logit, max_logit, select};
use super::filters::top_k;
use super::math::{ln, log2, pow};
use std::f64::consts::LN_2;

/// How many of the best tokens the exponent is estimated from.
const ESTIMATED_FROM: usize = 100;

/// What it has learned.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Mirostat {
    /// The surprise, in bits, up to which tokens are kept.
    mu: f64,
    /// The token that was drawn and its surprise, until it is accepted.
    drawn: Option<(u32, f64)>,
}

impl Mirostat {
    /// Nothing yet.
    pub fn new(o: &SampleOptions) -> Mirostat {
        Mirostat { mu: 2.0 * f64::from(o.mirostat_ent), drawn: None }
    }

    /// Draws at `at`, in 0..1, from a list of the `n_vocab` tokens.
    pub fn draw(&mut self, list: &mut Vec<Candidate>, n_vocab: usize, at: f64, o: &SampleOptions) -> Option<u32> {
        match o.mirostat {
            1 => top_k(list, self.k(list, n_vocab)),
            _ => {
                let softmax = Softmax::of(list)?;
                // The best stays, however surprising.
                let least = softmax.logit_of_surprise(self.mu * LN_2).min(f64::from(max_logit(list)));
                list.retain(|c| f64::from(c.logit) >= least);
            }
        }
        let (token, p) = draw(list, at)?;
        self.drawn = Some((token, -log2(p)));
        Some(token)
    }

    /// Learns of the token that is taken.
    pub fn accept(&mut self, token: u32, o: &SampleOptions) {
        if let Some((_, surprise)) = self.drawn.take().filter(|(drawn, _)| *drawn == token) {
            self.mu -= f64::from(o.mirostat_lr) * (surprise - f64::from(o.mirostat_ent));
        }
    }

    /// How many tokens to keep, for probabilities that fall as Zipf's law with the exponent that they show.
    fn k(&self, list: &[Candidate], n_vocab: usize) -> usize {
        let best = select(list, ESTIMATED_FROM, logit);
        let (mut products, mut squares) = (0.0, 0.0);
        for (i, two) in best.windows(2).enumerate().take_while(|(_, two)| two[1].logit > f32::NEG_INFINITY) {
            let t = ln((i + 2) as f64 / (i + 1) as f64);
            products += t * (f64::from(two[0].logit) - f64::from(two[1].logit));
            squares += t * t;
        }
        let s = products / squares;
        let epsilon = s - 1.0;
        let k = pow(epsilon * pow(2.0, self.mu) / (1.0 - pow(n_vocab as f64, -epsilon)), 1.0 / s);
        // Where all are alike there is no exponent, and all are kept.
        if k.is_finite() { (k as usize).max(1) } else { list.len().max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With a law of Zipf to draw from, the mean surprise comes near the target, in both versions.
    #[test]
    fn the_surprise_comes_near_its_target() {
        let zipf: Vec<Candidate> =
            (0..2000).map(|token| Candidate { token, logit: -1.1 * ((token + 1) as f32).ln() }).collect();
        let total: f64 = zipf.iter().map(|c| f64::from(c.logit).exp()).sum();
        for version in [1, 2] {
            for target in [2.0f32, 4.0] {
                let o = SampleOptions { mirostat: version, mirostat_ent: target, ..SampleOptions::default() };
                let mut mirostat = Mirostat::new(&o);
                let mut x = 1u64;
                let mut surprises = Vec::new();
                for _ in 0..4000 {
                    x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let at = (x >> 11) as f64 / (1u64 << 53) as f64;
                    let mut list = zipf.clone();
                    let token = mirostat.draw(&mut list, 2000, at, &o).unwrap();
                    mirostat.accept(token, &o);
                    // As mirostat sees it: among the tokens that were kept.
                    let kept: f64 = list.iter().map(|c| f64::from(c.logit).exp()).sum();
                    surprises.push(-(f64::from(zipf[token as usize].logit).exp() / kept).log2());
                }
                let late = &surprises[1000..];
                let mean = late.iter().sum::<f64>() / late.len() as f64;
                assert!(
                    (mean - f64::from(target)).abs() < 0.25,
                    "version {version}, target {target}: {mean} of {total}"
                );
            }
        }
    }

    #[test]
    fn the_edges_are_met() {
        for version in [1, 2] {
            let o = SampleOptions { mirostat: version, mirostat_ent: 0.0, ..SampleOptions::default() };
            let one = |logits: &[f32]| {
                let mut list: Vec<Candidate> =
                    logits.iter().zip(0..).map(|(&logit, token)| Candidate { token, logit }).collect();
                Mirostat::new(&o).draw(&mut list, logits.len(), 0.999, &o)
            };
            assert_eq!(one(&[]), None);
            assert_eq!(one(&[1.0]), Some(0));
            assert_eq!(one(&[f32::NEG_INFINITY, 1.0]), Some(1));
            // A target of nothing takes the best.
            assert_eq!(one(&[1.0, 9.0, 2.0]), Some(1), "version {version}");
            assert!(one(&[1.0; 5]).is_some());
        }
    }
}
