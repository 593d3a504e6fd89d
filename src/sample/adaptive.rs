//! adaptive_p: tokens near a target probability are preferred, and the target moves so that what was drawn comes near it
//! on the average.
//!
//! Definition: llama.cpp's `llama_sampler_adaptive_p` (its pull request 17927).

use super::SampleOptions;
use super::candidates::{Candidate, Softmax, draw};

/// A token at the target has this logit, and others less.
const PEAK: f64 = 5.0;
const SHARPNESS: f64 = 10.0;
const WIDTH: f64 = 0.3;

/// Probabilities that were drawn, older ones counting less.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Adaptive {
    sum: f64,
    weight: f64,
    /// The token that was drawn and its probability, until it is accepted.
    drawn: Option<(u32, f64)>,
}

fn decay(o: &SampleOptions) -> f64 {
    f64::from(o.adaptive_decay.clamp(0.0, 0.99))
}

impl Adaptive {
    /// As if all before had been at the target.
    pub fn new(o: &SampleOptions) -> Adaptive {
        let weight = 1.0 / (1.0 - decay(o));
        Adaptive { sum: f64::from(o.adaptive_target) * weight, weight, drawn: None }
    }

    /// Draws at `at`, in 0..1.
    pub fn draw(&mut self, list: &mut [Candidate], at: f64, o: &SampleOptions) -> Option<u32> {
        if o.adaptive_target < 0.0 {
            return draw(list, at).map(|(token, _)| token);
        }
        let target = f64::from(o.adaptive_target.min(1.0));
        let adapted = (2.0 * target - self.sum / self.weight).clamp(0.0, 1.0);
        let softmax = Softmax::of(list)?;
        let probabilities: Vec<f64> = list.iter().map(|c| softmax.p(c)).collect();
        for (c, p) in list.iter_mut().zip(&probabilities).filter(|(c, _)| c.logit > f32::NEG_INFINITY) {
            let distance = ((p - adapted) / WIDTH).abs();
            c.logit = (PEAK - SHARPNESS * distance * distance / (1.0 + distance)) as f32;
        }
        let (token, _) = draw(list, at)?;
        let place = list.iter().position(|c| c.token == token);
        self.drawn = place.map(|i| (token, probabilities[i]));
        Some(token)
    }

    /// Learns of the token that is taken.
    pub fn accept(&mut self, token: u32, o: &SampleOptions) {
        if let Some((_, p)) = self.drawn.take().filter(|(drawn, _)| *drawn == token) {
            self.sum = p + decay(o) * self.sum;
            self.weight = 1.0 + decay(o) * self.weight;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(probabilities: &[f64]) -> Vec<Candidate> {
        probabilities.iter().zip(0..).map(|(p, token)| Candidate { token, logit: p.ln() as f32 }).collect()
    }

    #[test]
    fn the_first_distribution_is_that_of_the_definition() {
        let p = [0.5, 0.3, 0.15, 0.05];
        let o = SampleOptions { adaptive_target: 0.3, ..SampleOptions::default() };
        let mut l = list(&p);
        Adaptive::new(&o).draw(&mut l, 0.5, &o).unwrap();
        for (c, p) in l.iter().zip(p) {
            let d = (p - 0.3f64).abs() / 0.3;
            let want = 5.0 - 10.0 * d * d / (1.0 + d);
            assert!((f64::from(c.logit) - want).abs() < 1e-5, "{c:?}, expected {want}");
        }
    }

    #[test]
    fn what_is_drawn_comes_near_the_target_on_the_average() {
        let o = SampleOptions { adaptive_target: 0.25, ..SampleOptions::default() };
        let p = [0.45, 0.25, 0.2, 0.07, 0.03];
        let mut adaptive = Adaptive::new(&o);
        let (mut x, mut sum) = (1u64, 0.0);
        for _ in 0..4000 {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let token = adaptive.draw(&mut list(&p), (x >> 11) as f64 / (1u64 << 53) as f64, &o).unwrap();
            adaptive.accept(token, &o);
            sum += p[token as usize];
        }
        assert!((sum / 4000.0 - 0.25).abs() < 0.03, "{}", sum / 4000.0);
    }

    #[test]
    fn without_a_target_it_draws_as_it_is() {
        let o = SampleOptions::default();
        assert_eq!(Adaptive::new(&o).draw(&mut list(&[0.5, 0.5]), 0.7, &o), Some(1));
        assert_eq!(Adaptive::new(&o).draw(&mut [], 0.7, &o), None);
    }
}
