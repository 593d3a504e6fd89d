//! What an answer cost: the line of statistics.

use crate::engine::{KvTypes, Model};
use crate::generate::Drafted;
use crate::model::ModelSpec;
use std::time::Instant;

/// Times and counts of one answer.
pub(super) struct Statistics<'a> {
    start: Instant,
    kept: usize,
    prompt_tokens: usize,
    weights_per_token: u64,
    kv: KvTypes,
    spec: &'a ModelSpec,
    prompt_start: Instant,
    prompt_seconds: f64,
    first_token: Option<Instant>,
    last_token: Instant,
    made: usize,
    kv_read: u64,
    drafted: Drafted,
}

impl<'a> Statistics<'a> {
    /// For an answer to a prompt of which the cache holds `kept` tokens.
    pub fn new(start: Instant, model: &'a Model, kv: KvTypes, kept: usize) -> Statistics<'a> {
        let now = Instant::now();
        Statistics {
            start,
            kept,
            prompt_tokens: 0,
            weights_per_token: model.account.read_per_token,
            kv,
            spec: &model.spec,
            prompt_start: now,
            prompt_seconds: 0.0,
            first_token: None,
            last_token: now,
            made: 0,
            kv_read: 0,
            drafted: Drafted::default(),
        }
    }

    /// So many tokens of the prompt were computed: all, unless it was interrupted.
    pub fn prompt_done(&mut self, tokens: usize) {
        self.prompt_tokens = tokens;
        self.prompt_seconds = self.prompt_start.elapsed().as_secs_f64();
    }

    /// What guessing had given before the answer and after it.
    pub fn drafted(&mut self, before: Drafted, after: Drafted) {
        self.drafted = Drafted {
            guessed: after.guessed - before.guessed,
            confirmed: after.confirmed - before.confirmed,
            switched_off: after.switched_off - before.switched_off,
        };
    }

    /// Tokens of the prompt that were computed.
    pub fn computed(&self) -> usize {
        self.prompt_tokens
    }

    /// Tokens of the prompt that the cache held.
    pub fn kept(&self) -> usize {
        self.kept
    }

    /// A token was drawn after `held` positions.
    pub fn token(&mut self, held: usize) {
        self.last_token = Instant::now();
        if self.first_token.is_none() {
            self.first_token = Some(self.last_token);
        } else {
            self.kv_read += self.kv.bytes_read(self.spec, held) as u64;
        }
        self.made += 1;
    }

    pub fn line(&self) -> String {
        let kept = if self.kept > 0 { format!(" and {} kept", self.kept) } else { String::new() };
        let mut line = format!(
            "prompt {} tokens{kept}, {:.1} tokens/s",
            self.prompt_tokens,
            self.prompt_tokens as f64 / self.prompt_seconds.max(1e-9)
        );
        let Some(first) = self.first_token else { return line };
        line +=
            &format!("; first token after {:.2} s; generated {} tokens", (first - self.start).as_secs_f64(), self.made);
        // The first token comes with the prompt: the others are what decoding took.
        if self.made > 1 {
            let steps = (self.made - 1) as f64;
            let seconds = (self.last_token - first).as_secs_f64().max(1e-9);
            line += &format!(", {:.1} tokens/s", steps / seconds);
            let Drafted { guessed, confirmed, switched_off } = self.drafted;
            if guessed > 0 {
                // Several tokens share a pass over the weights: bytes of a token say nothing.
                line += &format!("; {confirmed} of {guessed} guesses right");
                if switched_off > 0 {
                    line += &format!(", which lost and rested {switched_off} times");
                }
            } else {
                let bytes = self.weights_per_token as f64 + self.kv_read as f64 / steps;
                line += &format!("; {:.1} MB a token, {:.1} GB/s", bytes / 1e6, bytes * steps / seconds / 1e9);
            }
        }
        line
    }
}
