//! One answer: from the prompt to the last token, printed as it comes.

use super::answer::Answer;
use super::{Models, Talk};
use crate::commands::progress::prompt_bar;
use crate::commands::statistics::Statistics;
use crate::commands::{interrupted, tell};
use crate::engine::Session;
use crate::generate::{self, Conversation, End, Flow};
use std::time::Instant;

/// How an answer is given.
pub struct Reply<'a, 's> {
    /// The models behind it.
    pub models: &'a Models<'a>,
    /// Texts that end it.
    pub stops: &'s [String],
    /// Tokens that it may have.
    pub limit: usize,
}

/// What is done when the context is full in the middle of an answer.
pub enum Room<'c, 't> {
    /// It ends there.
    None,
    /// The oldest turns go.
    Turns(&'c mut Conversation<'t>),
    /// Half of what comes after the first `keep` tokens goes.
    Half {
        /// Tokens that stay.
        keep: usize,
    },
}

impl Room<'_, '_> {
    /// Makes room: the tokens that must be fed again, or nothing where no room can be made.
    fn make(&mut self, session: &mut Session) -> anyhow::Result<Option<Vec<u32>>> {
        match self {
            Room::None => Ok(None),
            Room::Turns(conversation) => Ok(conversation.make_room(session)?),
            Room::Half { keep } => {
                let held = session.tokens().len();
                let gone = held.saturating_sub(*keep) / 2;
                if gone == 0 {
                    return Ok(None);
                }
                session.remove(*keep..*keep + gone)?;
                Ok(Some(Vec::new()))
            }
        }
    }
}

/// What an answer was.
pub struct Given<'a> {
    /// Its text.
    pub text: String,
    /// Its tokens, without the one that ended it.
    pub drawn: Vec<u32>,
    /// Whether it ended because the context is full.
    pub full: bool,
    /// Turns that were dropped in the middle of it.
    pub dropped: usize,
    /// What it cost.
    pub statistics: Statistics<'a>,
}

/// What a conversation cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// Answers.
    pub answers: usize,
    /// Tokens of prompts that were computed.
    pub computed: usize,
    /// Tokens of prompts that the cache held.
    pub kept: usize,
    /// Tokens drawn.
    pub drawn: usize,
    /// Turns dropped.
    pub dropped: usize,
}

/// Says that turns were dropped, if they were.
pub fn tell_dropped(turns: usize) {
    match turns {
        0 => {}
        1 => tell("note: the context was full: the oldest turn was dropped"),
        n => tell(format_args!("note: the context was full: the oldest {n} turns were dropped")),
    }
}

impl Totals {
    /// Adds an answer.
    pub fn add(&mut self, given: &Given<'_>, dropped: usize) {
        self.answers += 1;
        self.computed += given.statistics.computed();
        self.kept += given.statistics.kept();
        self.drawn += given.drawn.len();
        self.dropped += given.dropped + dropped;
    }

    /// One line for people.
    pub fn line(&self) -> String {
        format!(
            "in all: {} answers, {} tokens of prompts computed and {} kept, {} generated, {} turns dropped",
            self.answers, self.computed, self.kept, self.drawn, self.dropped
        )
    }
}

impl<'a> Reply<'a, '_> {
    /// Feeds `feed` after what the session holds, and prints what comes; `room` says what is done when the context is
    /// full.
    ///
    /// # Errors
    /// What the engine or the sampler refuses, output that cannot be written.
    pub fn give(&self, talk: &mut Talk, room: &mut Room, feed: &[u32], start: Instant) -> anyhow::Result<Given<'a>> {
        let Talk { session, generator } = talk;
        let kept = session.tokens().len();
        let prompt: Vec<u32> = session.tokens().iter().chain(feed).copied().collect();
        generator.sampler.begin(&prompt);
        let before = generator.drafted();
        let mut statistics = Statistics::new(start, &self.models.model, session.engine().kv_types(), kept);
        let mut answer = Answer::new(&self.models.tokenizer, prompt.last().copied(), self.stops);
        let mut given = Vec::new();
        let mut dropped = 0;
        if self.limit == 0 {
            session.feed(feed, |_| !interrupted())?;
            statistics.prompt_done(session.tokens().len() - kept);
            return Ok(Given { text: String::new(), drawn: given, full: false, dropped, statistics });
        }
        let bar = prompt_bar(feed.len());
        let mut take = |token: u32, held: usize| -> anyhow::Result<Flow> {
            if given.is_empty() {
                bar.finish_and_clear();
                statistics.prompt_done(feed.len());
            }
            statistics.token(held);
            let flow = answer.push(token)?;
            if !self.models.tokenizer.is_eog(token) {
                given.push(token);
            }
            let stop = flow == Flow::Stop || given.len() >= self.limit || interrupted();
            Ok(if stop { Flow::Stop } else { Flow::GoOn })
        };
        let progress = |done: usize| {
            bar.set_position(done as u64);
            !interrupted()
        };
        let named = |e: anyhow::Error| match e.is::<generate::Error>() {
            true => e.context(self.models.file()),
            false => e,
        };
        let mut end = generator.run(session, feed, progress, &mut take).map_err(named)?;
        while let End::Full(token) = end {
            let Some(mut rest) = room.make(session)? else { break };
            dropped += 1;
            rest.push(token);
            end = generator.run(session, &rest, |_| !interrupted(), &mut take).map_err(named)?;
        }
        bar.finish_and_clear();
        if end == End::InPrompt && given.is_empty() {
            statistics.prompt_done(session.tokens().len().saturating_sub(kept));
        }
        let after = generator.drafted();
        statistics.drafted(before, after);
        let text = answer.finish()?;
        if let Room::Turns(_) = room {
            tell_dropped(dropped);
        } else if dropped > 0 {
            tell("note: the context was full: its older half was dropped");
        }
        Ok(Given { text, drawn: given, full: matches!(end, End::Full(_)), dropped, statistics })
    }
}
