//! Logits to a token: a chain of filters, then a draw from what is left.
//!
//! Order, names and defaults are llama.cpp's: penalties, top-k, top-p, min-p, temperature. The same seed gives the
//! same tokens on every machine.

mod filters;

use filters::Candidate;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The settings of a [`Sampler`].
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// The seed of the draw.
    pub seed: u64,
    /// Logits are divided by this; 0 or less takes the best token.
    pub temp: f32,
    /// So many best tokens are kept; 0 keeps all.
    pub top_k: usize,
    /// The best tokens whose probabilities reach this sum are kept; 1 keeps all.
    pub top_p: f32,
    /// Tokens of at least this share of the best one's probability are kept; 0 keeps all.
    pub min_p: f32,
    /// How many last tokens the penalties look at; 0 none, `None` all.
    pub repeat_last_n: Option<usize>,
    /// Logits of seen tokens are divided by this if positive, else multiplied; 1 changes nothing.
    pub repeat_penalty: f32,
    /// Subtracted from the logits of seen tokens.
    pub presence_penalty: f32,
    /// Subtracted from the logits of seen tokens, for each time they were seen.
    pub frequency_penalty: f32,
    /// Tokens that are never drawn.
    pub banned: Vec<u32>,
}

impl Default for SampleOptions {
    fn default() -> SampleOptions {
        SampleOptions {
            seed: 0,
            temp: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            repeat_last_n: Some(64),
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            banned: Vec::new(),
        }
    }
}

/// Why no token could be drawn.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The model gave something that is not a number.
    #[error("logits: token {token} has a logit that is not a number; the file is damaged or the model overflows")]
    NotANumber {
        /// The first such token.
        token: usize,
    },
    /// Every token is banned or impossible.
    #[error("logits: no token is possible")]
    Nothing,
}

/// Draws tokens from logits.
pub struct Sampler {
    options: SampleOptions,
    rng: ChaCha8Rng,
    /// What the penalties have seen, oldest first.
    seen: Vec<u32>,
    candidates: Vec<Candidate>,
    counts: Vec<(u32, u32)>,
}

impl Sampler {
    /// A sampler that has seen nothing.
    pub fn new(options: SampleOptions) -> Sampler {
        let rng = ChaCha8Rng::seed_from_u64(options.seed);
        Sampler { options, rng, seen: Vec::new(), candidates: Vec::new(), counts: Vec::new() }
    }

    /// Tells the penalties of a token, of the prompt or drawn.
    pub fn accept(&mut self, token: u32) {
        self.seen.push(token);
    }

    /// Draws a token from `logits`, `[n_vocab]`. It is not yet accepted.
    ///
    /// # Errors
    /// A logit that is NaN or plus infinity, or nothing left to draw from.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, Error> {
        if let Some(token) = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY) {
            return Err(Error::NotANumber { token });
        }
        let o = &self.options;
        let list = &mut self.candidates;
        list.clear();
        list.extend(logits.iter().zip(0..).map(|(&logit, token)| Candidate { token, logit }));
        for &token in &o.banned {
            if let Some(c) = list.get_mut(token as usize) {
                c.logit = f32::NEG_INFINITY;
            }
        }
        let last_n = o.repeat_last_n.unwrap_or(usize::MAX).min(self.seen.len());
        filters::penalties(list, &self.seen[self.seen.len() - last_n..], &mut self.counts, o);
        let token = if o.temp <= 0.0 {
            filters::best(list)
        } else {
            filters::top_k(list, o.top_k);
            filters::top_p(list, o.top_p);
            filters::min_p(list, o.min_p);
            filters::temperature(list, o.temp);
            // 53 random bits make a number in [0, 1).
            let at = (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
            filters::draw(list, at)
        };
        token.ok_or(Error::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw_counts(options: SampleOptions, logits: &[f32], n: usize) -> Vec<usize> {
        let mut sampler = Sampler::new(options);
        let mut counts = vec![0; logits.len()];
        for _ in 0..n {
            counts[sampler.sample(logits).unwrap() as usize] += 1;
        }
        counts
    }

    fn open() -> SampleOptions {
        SampleOptions { seed: 7, temp: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SampleOptions::default() }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let probabilities = [0.5f32, 0.25, 0.125, 0.125];
        let logits = probabilities.map(f32::ln);
        let n = 40_000;
        let counts = draw_counts(open(), &logits, n);
        for (count, p) in counts.iter().zip(probabilities) {
            // Six standard deviations of a binomial.
            let sd = (n as f64 * f64::from(p) * (1.0 - f64::from(p))).sqrt();
            assert!((*count as f64 - n as f64 * f64::from(p)).abs() < 6.0 * sd, "{counts:?}");
        }
        // Temperature 0.5 squares the probabilities: 16 : 4 : 1 : 1.
        let counts = draw_counts(SampleOptions { temp: 0.5, ..open() }, &logits, n);
        assert!((counts[0] as f64 / n as f64 - 16.0 / 22.0).abs() < 0.02, "{counts:?}");
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
        let run = |seed| {
            let mut s = Sampler::new(SampleOptions { seed, ..open() });
            (0..50).map(|_| s.sample(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn greedy_takes_the_best_and_the_first_of_equals() {
        let mut s = Sampler::new(SampleOptions { temp: 0.0, ..open() });
        assert_eq!(s.sample(&[1.0, 3.0, 3.0, 2.0]), Ok(1));
        let mut s = Sampler::new(SampleOptions { temp: 0.0, banned: vec![1], ..open() });
        assert_eq!(s.sample(&[1.0, 3.0, 3.0, 2.0]), Ok(2));
    }

    #[test]
    fn penalties_look_at_the_last_tokens_only() {
        let options = SampleOptions { temp: 0.0, repeat_penalty: 10.0, repeat_last_n: Some(1), ..open() };
        let mut s = Sampler::new(options);
        s.accept(0);
        assert_eq!(s.sample(&[3.0, 2.0]), Ok(1), "token 0 falls to 0.3");
        s.accept(1);
        assert_eq!(s.sample(&[3.0, 2.0]), Ok(0), "token 0 is out of sight");
    }

    #[test]
    fn bad_logits_are_errors() {
        let mut s = Sampler::new(open());
        assert_eq!(s.sample(&[0.0, f32::NAN]), Err(Error::NotANumber { token: 1 }));
        assert_eq!(s.sample(&[f32::INFINITY, 0.0]), Err(Error::NotANumber { token: 0 }));
        assert_eq!(s.sample(&[f32::NEG_INFINITY; 3]), Err(Error::Nothing));
        assert_eq!(s.sample(&[]), Err(Error::Nothing));
        let mut s = Sampler::new(SampleOptions { banned: vec![0, 1], ..open() });
        assert_eq!(s.sample(&[0.0, 1.0]), Err(Error::Nothing));
    }
}
