//! A session: one sequence of an engine, fed token by token or in batches.

use super::{BatchToken, Engine, Error, SeqId};
use std::ops::Range;

/// One sequence of an engine. The tokens fed so far are kept, so that a caller can see what the cache holds.
pub struct Session<'e, 'm> {
    engine: &'e mut Engine<'m>,
    seq: SeqId,
    tokens: Vec<u32>,
    batch: Vec<BatchToken>,
}

impl<'e, 'm> Session<'e, 'm> {
    /// The sequence `seq`, emptied.
    pub fn new(engine: &'e mut Engine<'m>, seq: SeqId) -> Session<'e, 'm> {
        engine.truncate(seq, 0);
        let (n_ctx, n_ubatch) = (engine.n_ctx(), engine.n_ubatch());
        Session { engine, seq, tokens: Vec::with_capacity(n_ctx.min(1 << 20)), batch: Vec::with_capacity(n_ubatch) }
    }

    /// Tokens that [`Session::feed_exact`] takes at most.
    pub const EXACT: usize = 16;

    /// The tokens that the cache holds.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The engine that it drives.
    pub fn engine(&self) -> &Engine<'m> {
        self.engine
    }

    /// Forgets the tokens from `len` on.
    pub fn truncate(&mut self, len: usize) {
        self.engine.truncate(self.seq, len);
        self.tokens.truncate(len);
    }

    /// Forgets the tokens `range` and moves the later ones down; see [`Engine::remove`].
    ///
    /// # Errors
    /// A card that fails.
    ///
    /// # Panics
    /// When `range` is not within what is held.
    pub fn remove(&mut self, range: Range<usize>) -> Result<(), Error> {
        self.engine.remove(self.seq, range.clone())?;
        self.tokens.drain(range);
        Ok(())
    }

    /// The sequence that it drives.
    pub(super) fn seq(&self) -> SeqId {
        self.seq
    }

    pub(super) fn engine_mut(&mut self) -> &mut Engine<'m> {
        self.engine
    }

    pub(super) fn set_tokens(&mut self, tokens: Vec<u32>) {
        self.tokens.clear();
        self.tokens.extend(tokens);
    }

    /// Positions left.
    pub fn room(&self) -> usize {
        self.engine.n_ctx() - self.tokens.len()
    }

    /// Appends tokens, a micro-batch at a time, and gives the logits of the last one, `[n_vocab]`. `go_on` is asked
    /// before each micro-batch, with the tokens done so far; once it says no, `None` comes back and the cache holds
    /// what was computed.
    ///
    /// # Errors
    /// A token that does not exist, or no room for all of `tokens`; nothing is computed then.
    pub fn feed(&mut self, tokens: &[u32], mut go_on: impl FnMut(usize) -> bool) -> Result<Option<&[f32]>, Error> {
        self.check(tokens)?;
        let n_ubatch = self.engine.n_ubatch();
        let mut done = 0;
        while tokens.len() - done > n_ubatch {
            if !go_on(done) {
                return Ok(None);
            }
            self.step(&tokens[done..done + n_ubatch], |_| false)?;
            done += n_ubatch;
        }
        let left = &tokens[done..];
        if left.is_empty() || !go_on(done) {
            return Ok(None);
        }
        self.step(left, |i| i + 1 == left.len()).map(Some)
    }

    /// Appends tokens and hands the logits of every one to `take`, a micro-batch at a time, `[n, n_vocab]`.
    ///
    /// # Errors
    /// As [`Session::feed`], and what `take` returns.
    pub fn feed_all<E: From<Error>>(
        &mut self,
        tokens: &[u32],
        mut take: impl FnMut(&[f32]) -> Result<(), E>,
    ) -> Result<(), E> {
        self.check(tokens)?;
        for part in tokens.chunks(self.engine.n_ubatch()) {
            take(self.step(part, |_| true)?)?;
        }
        Ok(())
    }

    /// Appends at most [`Session::EXACT`] tokens in one pass over the weights and gives the logits of every one,
    /// `[n, n_vocab]`. Logits and cache have the very bits that feeding the tokens one by one would have given.
    ///
    /// # Errors
    /// As [`Session::feed`], and more tokens than that.
    pub fn feed_exact(&mut self, tokens: &[u32]) -> Result<&[f32], Error> {
        self.check(tokens)?;
        let (seq, first) = (self.seq, self.tokens.len());
        self.batch.clear();
        let batch = tokens.iter().enumerate();
        self.batch.extend(batch.map(|(i, &token)| BatchToken { token, seq, pos: first + i, logits: true }));
        let logits = self.engine.forward_exact(&self.batch)?;
        self.tokens.extend_from_slice(tokens);
        Ok(logits)
    }

    fn check(&self, tokens: &[u32]) -> Result<(), Error> {
        if tokens.len() > self.room() {
            return Err(Error::ContextFull { needed: self.tokens.len() + tokens.len(), n_ctx: self.engine.n_ctx() });
        }
        let n_vocab = self.engine.model().spec.n_vocab;
        match tokens.iter().find(|&&t| t as usize >= n_vocab) {
            Some(&token) => Err(Error::Token { token, n_vocab }),
            None => Ok(()),
        }
    }

    fn step(&mut self, tokens: &[u32], logits: impl Fn(usize) -> bool) -> Result<&[f32], Error> {
        let (first, seq) = (self.tokens.len(), self.seq);
        self.batch.clear();
        self.batch.extend(tokens.iter().enumerate().map(|(i, &token)| BatchToken {
            token,
            seq,
            pos: first + i,
            logits: logits(i),
        }));
        let logits = self.engine.forward(&self.batch)?;
        self.tokens.extend_from_slice(tokens);
        Ok(logits)
    }
}
