//! Logits to a token: a chain of samplers, then a draw from what is left.
//!
//! Samplers, order, names and defaults are llama.cpp's. The same seed gives the same tokens on every machine: the generator
//! and the exponentials are ours and not the system's, and of equals the lower id comes first.

mod adaptive;
mod candidates;
mod chain;
mod dry;
mod filters;
pub mod grammar;
mod math;
mod mirostat;
#[cfg(test)]
mod naive;
mod options;
mod parameters;

pub use chain::Kind;
pub use dry::Breakers;
pub use grammar::Grammar;
pub use options::SampleOptions;
pub use parameters::{PARAMETERS, Parameter};

use adaptive::Adaptive;
use candidates::Candidate;
use mirostat::Mirostat;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use std::hash::{BuildHasher, RandomState};

/// Why no token could be drawn, or an option could not be set.
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
    /// A bias for a token that does not exist.
    #[error("logit-bias: found token {token}, expected one below the vocabulary's {n_vocab}")]
    NoToken {
        /// The token.
        token: u32,
        /// The size of the vocabulary.
        n_vocab: usize,
    },
    /// The grammar could not go on.
    #[error(transparent)]
    Grammar(#[from] grammar::Error),
    /// A value that a parameter cannot have.
    #[error("{name}: found {found:?}, expected {expected}")]
    Parameter {
        /// The parameter.
        name: &'static str,
        /// What was given.
        found: String,
        /// What it takes.
        expected: String,
    },
    /// A parameter that does not exist.
    #[error("found no parameter {found:?}, expected one of {known}")]
    NoParameter {
        /// What was given.
        found: String,
        /// Those there are.
        known: String,
    },
}

/// Draws tokens from logits.
pub struct Sampler {
    options: SampleOptions,
    rng: ChaCha8Rng,
    /// The prompt and what was drawn, oldest first.
    seen: Vec<u32>,
    breakers: Breakers,
    mirostat: Mirostat,
    adaptive: Adaptive,
    grammar: Option<Grammar>,
    list: Vec<Candidate>,
    /// Scratch of the penalties: a zero for each token.
    counts: Vec<u32>,
}

impl Sampler {
    /// A sampler that has seen nothing.
    pub fn new(options: SampleOptions) -> Sampler {
        let options = with_seed(options);
        Sampler {
            rng: seeded(&options),
            seen: Vec::new(),
            breakers: Breakers::default(),
            mirostat: Mirostat::new(&options),
            adaptive: Adaptive::new(&options),
            grammar: None,
            list: Vec::new(),
            counts: Vec::new(),
            options,
        }
    }

    /// A new answer begins after `prompt`: only the generator goes on as it was.
    pub fn begin(&mut self, prompt: &[u32]) {
        self.seen.clear();
        self.seen.extend_from_slice(prompt);
        self.mirostat = Mirostat::new(&self.options);
        self.adaptive = Adaptive::new(&self.options);
        if let Some(grammar) = &mut self.grammar {
            grammar.reset();
        }
    }

    /// What answers must obey from the next one on.
    pub fn set_grammar(&mut self, grammar: Option<Grammar>) {
        self.grammar = grammar;
    }

    /// The settings, with the seed that is used where none was given.
    pub fn options(&self) -> &SampleOptions {
        &self.options
    }

    /// Changes the settings; a seed that is another begins a new row of draws.
    pub fn set_options(&mut self, options: SampleOptions) {
        let options = with_seed(options);
        if options.seed != self.options.seed {
            self.rng = seeded(&options);
        }
        // What was learned is of use as long as it is learned in the same way.
        if Mirostat::new(&options) != Mirostat::new(&self.options) || options.mirostat != self.options.mirostat {
            self.mirostat = Mirostat::new(&options);
        }
        if Adaptive::new(&options) != Adaptive::new(&self.options) {
            self.adaptive = Adaptive::new(&options);
        }
        self.options = options;
    }

    /// The texts that no repetition goes across, which DRY needs as tokens of the vocabulary.
    pub fn set_breakers(&mut self, breakers: Breakers) {
        self.breakers = breakers;
    }

    /// Takes a token that was drawn.
    ///
    /// # Errors
    /// A token that may not come here.
    pub fn accept(&mut self, token: u32) -> Result<(), Error> {
        self.seen.push(token);
        self.adaptive.accept(token, &self.options);
        self.mirostat.accept(token, &self.options);
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(token)?;
        }
        Ok(())
    }

    /// Draws a token from `logits`, `[n_vocab]`. It is not yet accepted.
    ///
    /// # Errors
    /// A logit that is NaN or plus infinity, or nothing left to draw from.
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, Error> {
        // All are looked at, as that is faster than to look for the first while there is none.
        if !logits.iter().fold(true, |fine, l| fine & (*l < f32::INFINITY)) {
            let token = logits.iter().position(|l| l.is_nan() || *l == f32::INFINITY).unwrap_or_default();
            return Err(Error::NotANumber { token });
        }
        let o = &self.options;
        let list = &mut self.list;
        list.clear();
        list.extend(logits.iter().zip(0..).map(|(&logit, token)| Candidate { token, logit }));
        self.counts.resize(logits.len(), 0);
        for &(token, bias) in &o.logit_bias {
            let n_vocab = list.len();
            let c = list.get_mut(token as usize).ok_or(Error::NoToken { token, n_vocab })?;
            c.set(c.logit + bias);
        }
        for &token in &o.banned {
            if let Some(c) = list.get_mut(token as usize) {
                c.logit = f32::NEG_INFINITY;
            }
        }
        if let Some(grammar) = &mut self.grammar {
            let mask = grammar.mask()?;
            list.retain(|c| mask.allows(c.token));
        }
        // 53 random bits make a number in [0, 1).
        let mut chance = || (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        if o.mirostat > 0 {
            filters::divide(list, o.temp);
            return self.mirostat.draw(list, logits.len(), chance(), o).ok_or(Error::Nothing);
        }
        for kind in &o.samplers {
            match kind {
                Kind::Penalties => filters::penalties(list, &self.seen, &mut self.counts, o),
                Kind::Dry => dry::dry(list, &self.seen, &self.breakers, o),
                Kind::TopNSigma => filters::top_n_sigma(list, o.top_n_sigma),
                Kind::TopK => filters::top_k(list, o.top_k),
                Kind::Typical => filters::typical(list, o.typical),
                Kind::TopP => filters::top_p(list, o.top_p),
                Kind::MinP => filters::min_p(list, o.min_p),
                Kind::Xtc if o.xtc_probability > 0.0 => filters::xtc(list, chance(), o),
                Kind::Xtc => {}
                Kind::Temperature => filters::temperature(list, o),
                // It draws by itself, at the end.
                Kind::AdaptiveP => {}
            }
        }
        let drawn = match o.samplers.contains(&Kind::AdaptiveP) {
            true => self.adaptive.draw(list, chance(), o),
            false => candidates::draw(list, chance()).map(|(token, _)| token),
        };
        drawn.ok_or(Error::Nothing)
    }
}

/// The options with a random seed where they have none, so that it can be told and given again.
fn with_seed(mut options: SampleOptions) -> SampleOptions {
    options.seed.get_or_insert_with(|| RandomState::new().hash_one(std::process::id()));
    options
}

fn seeded(options: &SampleOptions) -> ChaCha8Rng {
    ChaCha8Rng::seed_from_u64(options.seed.unwrap_or_default())
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
        SampleOptions { seed: Some(7), temp: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..SampleOptions::default() }
    }

    /// How often each token is drawn, against probabilities, within six standard deviations of a binomial.
    fn check(name: &str, options: SampleOptions, logits: &[f32], probabilities: &[f64]) {
        let n = 20_000;
        let counts = draw_counts(options, logits, n);
        for (count, p) in counts.iter().zip(probabilities) {
            let deviation = (n as f64 * p * (1.0 - p)).sqrt();
            assert!(
                (*count as f64 - n as f64 * p).abs() <= 6.0 * deviation,
                "{name}: {counts:?}, expected {probabilities:?}"
            );
        }
    }

    #[test]
    fn draws_follow_the_distribution() {
        let logits = [0.5f32, 0.25, 0.125, 0.125].map(f32::ln);
        check("as it is", open(), &logits, &[0.5, 0.25, 0.125, 0.125]);
        // A temperature of one half squares the probabilities: 16 : 4 : 1 : 1.
        let squared = [16.0, 4.0, 1.0, 1.0].map(|w| w / 22.0);
        check("temperature", SampleOptions { temp: 0.5, ..open() }, &logits, &squared);
        check("top-k", SampleOptions { top_k: 2, ..open() }, &logits, &[2.0 / 3.0, 1.0 / 3.0, 0.0, 0.0]);
        let bias = vec![(0, f32::NEG_INFINITY), (2, std::f32::consts::LN_2)];
        check("logit bias", SampleOptions { logit_bias: bias, ..open() }, &logits, &[0.0, 0.4, 0.4, 0.2]);
        // Three in four times the first, second and third are excluded but for the last of them.
        let xtc = SampleOptions { xtc_probability: 0.75, xtc_threshold: 0.2, ..open() };
        let [a, b, c] = [0.5 * 0.25, 0.25 * 0.25 + 0.75 * 0.5, 0.125 * 0.25 + 0.75 * 0.25];
        check("xtc", xtc, &logits, &[a, b, c, c]);
    }

    /// Top-k before a temperature that squares, top-p after it, or the other way round: not the same.
    #[test]
    fn the_order_of_the_samplers_counts() {
        let logits = [0.4f32, 0.3, 0.2, 0.1].map(f32::ln);
        let o = |letters: &str| {
            let mut o = SampleOptions { temp: 0.5, top_p: 0.65, ..open() };
            o.set("sampling-seq", letters).unwrap();
            o
        };
        // 0.4 + 0.3 reach 0.65; squared they are 16 : 9.
        check("pt", o("pt"), &logits, &[16.0 / 25.0, 9.0 / 25.0, 0.0, 0.0]);
        // Squared first: 16 : 9 : 4 : 1 of 30; 16 + 9 reach 0.65 of it.
        check("tp", o("tp"), &logits, &[16.0 / 25.0, 9.0 / 25.0, 0.0, 0.0]);
        let o = |letters: &str| SampleOptions { top_p: 0.55, ..o(letters) };
        check("pt", o("pt"), &logits, &[16.0 / 25.0, 9.0 / 25.0, 0.0, 0.0]);
        check("tp", SampleOptions { top_p: 0.5, ..o("tp") }, &logits, &[1.0, 0.0, 0.0, 0.0]);
        check("none", o(""), &logits, &[0.4, 0.3, 0.2, 0.1]);
    }

    #[test]
    fn a_seed_repeats_and_another_differs() {
        let logits: Vec<f32> = (0..100).map(|i| (i as f32 * 0.7).sin()).collect();
        let run = |seed| {
            let mut s = Sampler::new(SampleOptions { seed, ..open() });
            (0..50).map(|_| s.sample(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(run(Some(1)), run(Some(1)));
        assert_ne!(run(Some(1)), run(Some(2)));
        assert_ne!(run(None), run(None));
        // Pinned, so that a machine, a library or a change that draws otherwise shows.
        assert_eq!(run(Some(1))[..8], [38, 6, 57, 20, 28, 69, 46, 12]);
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
        s.begin(&[5, 0]);
        assert_eq!(s.sample(&[3.0, 2.0]), Ok(1), "token 0 falls to 0.3");
        s.accept(1).unwrap();
        assert_eq!(s.sample(&[3.0, 2.0]), Ok(0), "token 0 is out of sight");
        s.begin(&[]);
        assert_eq!(s.sample(&[3.0, 2.9]), Ok(0), "nothing was seen");
    }

    #[test]
    fn bad_logits_are_errors() {
        for mirostat in [0, 1, 2] {
            let o = SampleOptions { mirostat, ..open() };
            let sample = |logits: &[f32]| Sampler::new(o.clone()).sample(logits);
            assert_eq!(sample(&[0.0, f32::NAN]), Err(Error::NotANumber { token: 1 }));
            assert_eq!(sample(&[f32::INFINITY, 0.0]), Err(Error::NotANumber { token: 0 }));
            assert_eq!(sample(&[f32::NEG_INFINITY; 3]), Err(Error::Nothing), "{mirostat}");
            assert_eq!(sample(&[]), Err(Error::Nothing));
            let mut s = Sampler::new(SampleOptions { banned: vec![0, 1], ..o.clone() });
            assert_eq!(s.sample(&[0.0, 1.0]), Err(Error::Nothing));
        }
    }
}
