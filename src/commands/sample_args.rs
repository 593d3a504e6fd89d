//! The flags of the sampling chain, with llama.cpp's names and defaults.

use crate::registry::Sampling;
use crate::sample::SampleOptions;
use clap::Args;
use std::hash::{BuildHasher, RandomState};

/// How tokens are drawn.
#[derive(Args, Debug)]
#[command(next_help_heading = "Sampling")]
pub struct SampleArgs {
    /// Seed of the draw; -1 takes a random one
    #[arg(short = 's', long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    seed: i64,

    /// Temperature; 0 takes the best token [default: 0.8]
    #[arg(long, visible_alias = "temperature", value_name = "T", value_parser = finite, allow_negative_numbers = true)]
    temp: Option<f32>,

    /// Keep so many best tokens; 0 keeps all [default: 40]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    top_k: Option<i64>,

    /// Keep the best tokens of this probability in all; 1 keeps all [default: 0.95]
    #[arg(long, value_name = "P", value_parser = finite)]
    top_p: Option<f32>,

    /// Keep tokens of at least this share of the best one's probability; 0 keeps all [default: 0.05]
    #[arg(long, value_name = "P", value_parser = finite)]
    min_p: Option<f32>,

    /// Tokens that the penalties look back on; 0 none, -1 all
    #[arg(long, value_name = "N", default_value_t = 64, allow_negative_numbers = true)]
    repeat_last_n: i64,

    /// Divide the logits of repeated tokens; 1 is off [default: 1]
    #[arg(long, value_name = "X", value_parser = above_0)]
    repeat_penalty: Option<f32>,

    /// Subtract from the logits of repeated tokens
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = finite, allow_negative_numbers = true)]
    presence_penalty: f32,

    /// Subtract from the logits of repeated tokens, for each time
    #[arg(long, value_name = "X", default_value_t = 0.0, value_parser = finite, allow_negative_numbers = true)]
    frequency_penalty: f32,

    /// Go on when the model says that it is done
    #[arg(long)]
    pub ignore_eos: bool,
}

fn finite(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|v: &f32| v.is_finite()).ok_or_else(|| "expected a number".into())
}

fn above_0(text: &str) -> Result<f32, String> {
    finite(text).ok().filter(|&v| v > 0.0).ok_or_else(|| "expected a number above 0".into())
}

impl SampleArgs {
    /// The options of a sampler: flags first, then what the catalogue recommends for the model, then the defaults.
    pub fn options(&self, recommended: &Sampling, banned: Vec<u32>) -> SampleOptions {
        let seed = match self.seed {
            -1 => RandomState::new().hash_one(std::process::id()),
            seed => seed as u64,
        };
        let default = SampleOptions::default();
        let r = recommended;
        let top_k = self.top_k.map(|k| usize::try_from(k).unwrap_or(0)).or(r.top_k.map(|k| k as usize));
        SampleOptions {
            seed,
            temp: self.temp.or(r.temp).unwrap_or(default.temp),
            top_k: top_k.unwrap_or(default.top_k),
            top_p: self.top_p.or(r.top_p).unwrap_or(default.top_p),
            min_p: self.min_p.or(r.min_p).unwrap_or(default.min_p),
            repeat_last_n: usize::try_from(self.repeat_last_n).ok(),
            repeat_penalty: self.repeat_penalty.or(r.repeat_penalty).unwrap_or(default.repeat_penalty),
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            banned,
        }
    }
}
