//! A batch: tokens of one or several sequences, computed together.

use super::{Engine, Error};

/// A sequence: one conversation's tokens and their part of the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeqId(
    /// Index, below [`n_seqs`](super::EngineOptions::n_seqs).
    pub usize,
);

/// One token of a batch.
#[derive(Clone, Copy, Debug)]
pub struct BatchToken {
    /// Its id.
    pub token: u32,
    /// Its sequence.
    pub seq: SeqId,
    /// Its position; a sequence's tokens come in order and without a gap.
    pub pos: usize,
    /// Whether its logits are wanted.
    pub logits: bool,
}

/// Consecutive tokens of one sequence within a batch.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub seq: SeqId,
    /// Index of the first token in the batch.
    pub first: usize,
    pub n: usize,
    /// Position of the first token.
    pub pos: usize,
}

impl Engine<'_> {
    /// Checks a batch and splits it into runs. What a sequence held from a run's first position on is forgotten.
    pub(super) fn plan_batch(&mut self, batch: &[BatchToken]) -> Result<(), Error> {
        let n_vocab = self.model.spec.n_vocab;
        if batch.len() > self.n_ubatch {
            let what = format!("{} tokens, at most {} can be computed at once", batch.len(), self.n_ubatch);
            return Err(Error::Batch { index: self.n_ubatch, what });
        }
        let (n_seqs, n_ctx) = (self.lens.len(), self.n_ctx());
        let runs = &mut self.runs;
        runs.clear();
        for (index, t) in batch.iter().enumerate() {
            if t.token as usize >= n_vocab {
                return Err(Error::Token { token: t.token, n_vocab });
            }
            if t.seq.0 >= n_seqs {
                let what = format!("sequence {}, there are {n_seqs}", t.seq.0);
                return Err(Error::Batch { index, what });
            }
            if t.pos >= n_ctx {
                return Err(Error::ContextFull { needed: t.pos + 1, n_ctx });
            }
            match runs.last_mut() {
                Some(run) if run.seq == t.seq && run.pos + run.n == t.pos => run.n += 1,
                _ => {
                    let earlier = runs.iter().rev().find(|r| r.seq == t.seq).map(|r| r.pos + r.n);
                    let len = earlier.unwrap_or(self.lens[t.seq.0]);
                    if t.pos > len || (earlier.is_some() && t.pos != len) {
                        let what = format!("position {} of sequence {}, which holds {len}", t.pos, t.seq.0);
                        return Err(Error::Batch { index, what });
                    }
                    runs.push(Run { seq: t.seq, first: index, n: 1, pos: t.pos });
                }
            }
        }
        Ok(())
    }
}
