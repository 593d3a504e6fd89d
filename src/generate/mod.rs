//! Tokens in a row: a session fed with a prompt, a sampler that draws, and, where one is asked for, a drafter whose
//! guesses are checked several at a time.
//!
//! A guess is kept when the sampler draws the same token from the model's own logits, and the batch that checks them
//! gives the logits that single steps would have given ([`Session::feed_exact`]). So with a drafter the tokens are
//! those without, at every temperature: only how many come from one pass over the weights differs.

mod conversation;
mod draft_model;
mod ngram;
mod pace;

pub use conversation::{Conversation, Error as ConversationError, Plan};
pub use draft_model::{DraftModel, same_vocabulary};
pub use ngram::Ngram;

use crate::engine::{self, Session};
use crate::sample::{self, Sampler};
use pace::Pace;

/// Something that guesses what comes next.
pub trait Drafter {
    /// Appends at most `most` tokens to `out` which may follow `tokens`; none where it has no idea.
    ///
    /// # Errors
    /// What a model behind it cannot compute.
    fn draft(&mut self, tokens: &[u32], most: usize, out: &mut Vec<u32>) -> Result<(), engine::Error>;
}

/// Why a step gave no token.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine could not compute it.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The sampler could not draw.
    #[error(transparent)]
    Sample(#[from] sample::Error),
}

/// Whether to go on after a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Draw the next one.
    GoOn,
    /// This was the last.
    Stop,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Whoever takes the tokens said so.
    Stopped,
    /// The context is full. The token was drawn and given, and is not in the cache.
    Full(u32),
    /// It was interrupted while the prompt was read; the cache holds what was computed.
    InPrompt,
}

/// What guessing gave so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drafted {
    /// Tokens guessed.
    pub guessed: usize,
    /// Guesses that the model confirmed.
    pub confirmed: usize,
    /// Times that guessing was switched off because it lost.
    pub switched_off: usize,
}

/// Draws tokens for a session.
pub struct Generator<'d> {
    /// What draws.
    pub sampler: Sampler,
    drafter: Option<Box<dyn Drafter + 'd>>,
    pace: Pace,
    drafted: Drafted,
    /// The token to be fed and the guesses after it.
    batch: Vec<u32>,
    /// What a drafter looks at: all that is held, and the token to be fed.
    seen: Vec<u32>,
}

impl<'d> Generator<'d> {
    /// A generator; `drafter` guesses at most `most` tokens ahead.
    pub fn new(sampler: Sampler, drafter: Option<Box<dyn Drafter + 'd>>, most: usize) -> Generator<'d> {
        let pace = Pace::new(most.min(Session::EXACT - 1));
        Generator { sampler, drafter, pace, drafted: Drafted::default(), batch: Vec::new(), seen: Vec::new() }
    }

    /// What guessing gave so far.
    pub fn drafted(&self) -> Drafted {
        self.drafted
    }

    /// Feeds `prompt` and draws tokens until `take` stops or the context is full. `take` is given each token and the
    /// number of positions that were held when it was drawn; what it stops at is drawn but not in the cache. `progress`
    /// is told the tokens of the prompt done so far and says whether to go on.
    ///
    /// # Errors
    /// A prompt that does not fit, logits that are no numbers, and what `take` returns.
    pub fn run<E: From<Error>>(
        &mut self,
        session: &mut Session,
        prompt: &[u32],
        mut progress: impl FnMut(usize) -> bool,
        mut take: impl FnMut(u32, usize) -> Result<Flow, E>,
    ) -> Result<End, E> {
        let Some(logits) = session.feed(prompt, &mut progress).map_err(Error::from)? else { return Ok(End::InPrompt) };
        let mut token = self.draw(logits)?;
        loop {
            if take(token, session.tokens().len())? == Flow::Stop {
                return Ok(End::Stopped);
            }
            if session.room() == 0 {
                return Ok(End::Full(token));
            }
            token = match self.step(session, token, &mut take)? {
                Some(token) => token,
                None => return Ok(End::Stopped),
            };
        }
    }

    /// Feeds `token` with the guesses after it and draws from what they give: the next token that is drawn and not yet
    /// given, or nothing once `take` has stopped.
    fn step<E: From<Error>>(
        &mut self,
        session: &mut Session,
        token: u32,
        take: &mut impl FnMut(u32, usize) -> Result<Flow, E>,
    ) -> Result<Option<u32>, E> {
        self.pace.start();
        self.guess(session, token)?;
        let (first, guesses) = (session.tokens().len(), self.batch.len() - 1);
        if guesses == 0 {
            let logits = session.feed(&self.batch, |_| true).map_err(Error::from)?;
            let next = self.draw(logits.unwrap_or_default())?;
            self.pace.step(0, 0);
            return Ok(Some(next));
        }
        let logits = session.feed_exact(&self.batch).map_err(Error::from)?;
        let n_vocab = logits.len() / self.batch.len();
        let mut next = None;
        let mut confirmed = 0;
        for (i, row) in logits.chunks_exact(n_vocab).enumerate() {
            let drawn = self.sampler.sample(row).map_err(Error::from)?;
            self.sampler.accept(drawn).map_err(Error::from)?;
            if self.batch.get(i + 1) != Some(&drawn) {
                next = Some(drawn);
                break;
            }
            if take(drawn, first + i + 1)? == Flow::Stop {
                break;
            }
            confirmed += 1;
        }
        session.truncate(first + 1 + confirmed);
        self.drafted.guessed += guesses;
        self.drafted.confirmed += confirmed;
        self.drafted.switched_off += usize::from(self.pace.step(guesses, confirmed));
        Ok(next)
    }

    /// Puts `token` and the guesses after it in the batch.
    fn guess(&mut self, session: &Session, token: u32) -> Result<(), Error> {
        self.batch.clear();
        self.batch.push(token);
        let Some(drafter) = &mut self.drafter else { return Ok(()) };
        // The token itself takes one position, and one place of the batch.
        let most = self.pace.guesses().min(session.room() - 1).min(session.engine().n_ubatch() - 1);
        if most > 0 {
            self.seen.clear();
            self.seen.extend_from_slice(session.tokens());
            self.seen.push(token);
            drafter.draft(&self.seen, most, &mut self.batch)?;
        }
        Ok(())
    }

    fn draw(&mut self, logits: &[f32]) -> Result<u32, Error> {
        let token = self.sampler.sample(logits)?;
        self.sampler.accept(token)?;
        Ok(token)
    }
}
