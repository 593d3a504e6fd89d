//! The settings of a sampler, with llama.cpp's defaults.

use super::chain::{self, Kind};

/// The settings of a [`Sampler`](super::Sampler).
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// The seed of the draws; `None` takes a random one.
    pub seed: Option<u64>,
    /// Which samplers there are, in which order.
    pub samplers: Vec<Kind>,
    /// Logits are divided by this; 0 or less takes the best token.
    pub temp: f32,
    /// The temperature moves so far up and down with the entropy; 0 is off.
    pub dynatemp_range: f32,
    /// The power of the entropy that it follows.
    pub dynatemp_exp: f32,
    /// So many best tokens are kept; 0 keeps all.
    pub top_k: usize,
    /// The best tokens whose probabilities reach this sum are kept; 1 keeps all.
    pub top_p: f32,
    /// Tokens of at least this share of the best one's probability are kept; 0 keeps all.
    pub min_p: f32,
    /// The tokens nearest to the expected surprise whose probabilities exceed this sum are kept; 1 keeps all.
    pub typical: f32,
    /// Tokens within so many standard deviations of the best logit are kept; 0 or less keeps all.
    pub top_n_sigma: f32,
    /// How often all but the last of the likely tokens are excluded; 0 is never.
    pub xtc_probability: f32,
    /// From which probability on a token is likely; above 0.5 is off.
    pub xtc_threshold: f32,
    /// How many last tokens the penalties look at; 0 none, `None` all.
    pub repeat_last_n: Option<usize>,
    /// Logits of seen tokens are divided by this if positive, else multiplied; 1 changes nothing.
    pub repeat_penalty: f32,
    /// Subtracted from the logits of seen tokens.
    pub presence_penalty: f32,
    /// Subtracted from the logits of seen tokens, for each time they were seen.
    pub frequency_penalty: f32,
    /// The weight of the penalty on going on with a repetition; 0 is off.
    pub dry_multiplier: f32,
    /// The penalty grows with this to the power of the repetition's length.
    pub dry_base: f32,
    /// Repetitions up to this length are free.
    pub dry_allowed_length: usize,
    /// How many last tokens are looked at; 0 none, `None` all.
    pub dry_penalty_last_n: Option<usize>,
    /// Texts that no repetition goes across.
    pub dry_breakers: Vec<String>,
    /// 1 or 2 controls the surprise and replaces the other samplers; 0 is off.
    pub mirostat: u32,
    /// Its learning rate, eta.
    pub mirostat_lr: f32,
    /// Its target surprise in bits, tau.
    pub mirostat_ent: f32,
    /// Tokens near this probability are preferred; below 0 is off.
    pub adaptive_target: f32,
    /// How long that remembers what it drew, 0 to 0.99.
    pub adaptive_decay: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens that are never drawn.
    pub banned: Vec<u32>,
}

impl Default for SampleOptions {
    fn default() -> SampleOptions {
        SampleOptions {
            seed: None,
            samplers: chain::DEFAULT.to_vec(),
            temp: 0.8,
            dynatemp_range: 0.0,
            dynatemp_exp: 1.0,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical: 1.0,
            top_n_sigma: -1.0,
            xtc_probability: 0.0,
            xtc_threshold: 0.1,
            repeat_last_n: Some(64),
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            dry_multiplier: 0.0,
            dry_base: 1.75,
            dry_allowed_length: 2,
            dry_penalty_last_n: Some(64),
            dry_breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            mirostat: 0,
            mirostat_lr: 0.1,
            mirostat_ent: 5.0,
            adaptive_target: -1.0,
            adaptive_decay: 0.9,
            logit_bias: Vec::new(),
            banned: Vec::new(),
        }
    }
}
