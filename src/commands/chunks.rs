//! A text in chunks of equal length, cut as llama-perplexity and llama-imatrix cut it, and their way through the engine.

use super::interrupted;
use super::model_args::ModelArgs;
use crate::engine::{BatchToken, Engine, EngineOptions, Model, SeqId};
use crate::tokenizer::{Encode, Tokenizer};
use anyhow::bail;
use std::ops::Range;

/// Chunks of a text.
pub(super) struct Chunks {
    /// The text.
    pub tokens: Vec<u32>,
    /// Tokens of a chunk.
    pub len: usize,
    /// Tokens between the beginnings of two chunks.
    pub step: usize,
    /// How many chunks there are.
    pub n: usize,
    /// What takes the place of each chunk's first token.
    pub bos: Option<u32>,
}

impl Chunks {
    /// A text in chunks of `len` tokens, one after the other, without the first `skip`; at most `most` of them.
    ///
    /// # Errors
    /// A text of less than two chunks, as nothing could be said of it.
    pub fn new(
        tokenizer: &Tokenizer,
        text: &str,
        special: bool,
        len: usize,
        skip: usize,
        most: Option<usize>,
    ) -> anyhow::Result<Chunks> {
        let mut tokens = tokenizer.encode(text, Encode { bos: true, special });
        let needed = skip.saturating_add(2).saturating_mul(len);
        if tokens.len() < needed {
            let after = if skip > 0 { format!(" after {skip} more") } else { String::new() };
            bail!(
                "text: found {} tokens, expected at least {needed}, two chunks of {len}{after}; give a longer one, or a smaller --ctx-size",
                tokens.len()
            );
        }
        tokens.drain(..skip * len);
        let n = (tokens.len() / len).min(most.unwrap_or(usize::MAX));
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        Ok(Chunks { tokens, len, step: len, n, bos })
    }

    /// What the model is given at position `i` of a chunk.
    fn token(&self, chunk: usize, i: usize) -> u32 {
        self.bos.filter(|_| i == 0).unwrap_or_else(|| self.tokens[chunk * self.step + i])
    }

    /// Goes through all chunks, and hands `step` one micro-batch after the other, to be computed by the engine. The
    /// logits of the positions `wanted` of each chunk are wanted.
    ///
    /// # Errors
    /// An interrupt, and what `step` returns.
    pub fn each(
        &self,
        engine: &mut Engine,
        wanted: Range<usize>,
        mut step: impl FnMut(&mut Engine, &MicroBatch) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let (n_ubatch, at_once) = (engine.n_ubatch(), n_seqs(engine.n_ubatch(), self.len));
        let mut batch = MicroBatch { tokens: Vec::with_capacity(n_ubatch), next: Vec::new(), done: 0 };
        for first in (0..self.n).step_by(at_once) {
            let group = at_once.min(self.n - first);
            (0..group).for_each(|seq| engine.truncate(SeqId(seq), 0));
            let all = group * self.len;
            for start in (0..all).step_by(n_ubatch) {
                if interrupted() {
                    bail!("interrupted");
                }
                let end = all.min(start + n_ubatch);
                batch.tokens.clear();
                batch.next.clear();
                batch.done = first + end / self.len;
                for at in start..end {
                    let (seq, pos) = (at / self.len, at % self.len);
                    let (chunk, logits) = (first + seq, wanted.contains(&pos));
                    batch.tokens.push(BatchToken { token: self.token(chunk, pos), seq: SeqId(seq), pos, logits });
                    if logits {
                        batch.next.push(self.tokens[chunk * self.step + pos + 1]);
                    }
                }
                step(engine, &batch)?;
            }
        }
        Ok(())
    }
}

/// Tokens that are computed at once.
pub(super) struct MicroBatch {
    /// For the engine.
    pub tokens: Vec<BatchToken>,
    /// The token that follows each whose logits are wanted.
    pub next: Vec<u32>,
    /// How many chunks are complete with it.
    pub done: usize,
}

/// Chunks that fit in one micro-batch.
fn n_seqs(n_ubatch: usize, len: usize) -> usize {
    (n_ubatch / len).max(1)
}

/// How the engine is set up for chunks of the length that --ctx-size gives.
///
/// # Errors
/// As [`ModelArgs::engine_options`], and chunks that are too short.
pub(super) fn engine_options(args: &ModelArgs, model: &Model) -> anyhow::Result<EngineOptions> {
    let options = args.engine_options(model, usize::MAX, None)?;
    for_length(options.n_ctx, options)
}

/// The same for chunks of `len` tokens.
///
/// # Errors
/// Chunks that are too short.
pub(super) fn for_length(len: usize, options: EngineOptions) -> anyhow::Result<EngineOptions> {
    // Of two tokens, the second half would have nothing to foretell.
    if len < 3 {
        bail!("--ctx-size: found {len}, expected 3 tokens or more");
    }
    Ok(EngineOptions { n_ctx: len, n_seqs: n_seqs(options.n_ubatch, len), ..options })
}
