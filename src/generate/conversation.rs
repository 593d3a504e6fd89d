//! A conversation and the cache that holds it: what of the next prompt is computed already, and what is dropped when the
//! context is full.

use crate::chat::{self, Form, Known, Message, Request};
use crate::engine::{self, Session};
use crate::tokenizer::Tokenizer;
use serde_json::{Map, Value};

/// Why a turn cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The form refuses the messages.
    #[error(transparent)]
    Chat(#[from] chat::Error),
    /// The engine could not compute it.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The form made nothing of the messages.
    #[error(
        "chat template: found no token in what it renders of the messages, expected some; --chat-template names another"
    )]
    Nothing,
    /// The conversation does not fit, and nothing may be dropped.
    #[error("context: the conversation has {needed} tokens, the context {n_ctx}")]
    Full {
        /// Tokens of the prompt.
        needed: usize,
        /// Positions of the context.
        n_ctx: usize,
    },
}

/// What is to be done for the next answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Tokens to be fed; never none.
    pub feed: Vec<u32>,
    /// Tokens of the prompt that the cache holds.
    pub kept: usize,
    /// Oldest turns that were dropped to make room.
    pub dropped: usize,
}

impl Plan {
    /// For a text without turns: the cache is cut to what it shares with `ids`, which are not none.
    ///
    /// # Errors
    /// A text that does not fit.
    pub fn of(session: &mut Session, ids: Vec<u32>) -> Result<Plan, Error> {
        let n_ctx = session.engine().n_ctx();
        if ids.len() > n_ctx {
            return Err(Error::Full { needed: ids.len(), n_ctx });
        }
        let kept = keep(session, &ids, 0);
        Ok(Plan { feed: ids[kept..].to_vec(), kept, dropped: 0 })
    }
}

/// Messages in the form that the model knows.
pub struct Conversation<'t> {
    tokenizer: &'t Tokenizer,
    form: Form,
    messages: Vec<Message>,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
    /// The day that a template may ask for.
    pub now: Option<chrono::NaiveDateTime>,
    /// Ids of texts as they were computed.
    known: Known,
    /// The prompt of the answer that is being given.
    prompt: Vec<u32>,
}

impl<'t> Conversation<'t> {
    /// A conversation without a word.
    pub fn new(tokenizer: &'t Tokenizer, form: Form) -> Conversation<'t> {
        Conversation {
            tokenizer,
            form,
            messages: Vec::new(),
            variables: Map::new(),
            now: None,
            known: Known::default(),
            prompt: Vec::new(),
        }
    }

    /// The form of the prompts.
    pub fn form(&self) -> &Form {
        &self.form
    }

    /// All that was said.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The system prompt.
    pub fn system(&self) -> Option<&str> {
        self.messages.first().filter(|m| m.role() == "system").map(Message::text)
    }

    /// Sets the system prompt; an empty one is none.
    pub fn set_system(&mut self, text: &str) {
        if self.system().is_some() {
            self.messages.remove(0);
        }
        if !text.is_empty() {
            self.messages.insert(0, Message::new("system", text));
        }
    }

    /// Adds a message.
    pub fn push(&mut self, message: Message) {
        self.messages.push(message);
    }

    /// Takes back the last thing that the user said and what followed it, and gives its text.
    pub fn undo(&mut self) -> Option<String> {
        let at = self.messages.iter().rposition(|m| m.role() == "user")?;
        let text = self.messages[at].text().to_owned();
        self.messages.truncate(at);
        Some(text)
    }

    /// Takes back the last answer; whether there was one.
    pub fn undo_answer(&mut self) -> bool {
        match self.messages.iter().rposition(|m| m.role() == "user") {
            Some(at) if at + 1 < self.messages.len() => {
                self.messages.truncate(at + 1);
                true
            }
            _ => false,
        }
    }

    /// Forgets all but the system prompt.
    pub fn clear(&mut self) {
        let kept = usize::from(self.system().is_some());
        self.messages.truncate(kept);
    }

    /// Goes on with what was said before; `held` are the tokens that the cache holds of it.
    pub fn resume(&mut self, messages: Vec<Message>, held: &[u32]) {
        self.messages = messages;
        self.known.remember(&[], held, self.tokenizer);
    }

    /// The prompt as ids.
    ///
    /// # Errors
    /// What the form refuses.
    pub fn ids(&self) -> Result<Vec<u32>, chat::Error> {
        let Conversation { messages, variables, now, .. } = self;
        let request = Request { messages, tools: &[], answer: true, variables, now: *now };
        self.form.encode(&request, self.tokenizer, &self.known)
    }

    /// Makes ready for an answer to the last message: the cache is cut to what the prompt shares with it. Where the
    /// prompt leaves no room for an answer, the oldest turns are dropped with `shift`.
    ///
    /// # Errors
    /// Messages that the form refuses, a prompt that does not fit; no message is dropped then.
    pub fn plan(&mut self, session: &mut Session, shift: bool) -> Result<Plan, Error> {
        let before = self.messages.clone();
        let plan = self.fit(session, shift);
        if plan.is_err() {
            self.messages = before;
        }
        plan
    }

    fn fit(&mut self, session: &mut Session, shift: bool) -> Result<Plan, Error> {
        let n_ctx = session.engine().n_ctx();
        let full = self.ids()?;
        let mut ids = full.clone();
        let mut dropped = 0;
        while ids.len() >= n_ctx {
            if !(shift && self.drop_turn()) {
                // A prompt that fills the context to the last place still gets one token.
                if ids.len() == n_ctx {
                    break;
                }
                return Err(Error::Full { needed: ids.len(), n_ctx });
            }
            dropped += 1;
            ids = self.ids()?;
        }
        if ids.is_empty() {
            return Err(Error::Nothing);
        }
        let kept = keep(session, &ids, full.len() - ids.len());
        let feed = ids[kept..].to_vec();
        self.prompt = ids;
        Ok(Plan { feed, kept, dropped })
    }

    /// Makes room in the middle of an answer: drops the oldest turn from the messages and the cache. Whether that could
    /// be done; what is left to be fed, before the token that found no room, comes with it.
    ///
    /// # Errors
    /// As [`Conversation::plan`].
    pub fn make_room(&mut self, session: &mut Session) -> Result<Option<Vec<u32>>, Error> {
        let answer = session.tokens()[self.prompt.len().min(session.tokens().len())..].to_vec();
        if !self.drop_turn() {
            return Ok(None);
        }
        let prompt = self.ids()?;
        let gone = self.prompt.len().saturating_sub(prompt.len());
        let wanted = [prompt.as_slice(), &answer].concat();
        let kept = align(session, &wanted, gone);
        session.truncate(kept);
        self.prompt = prompt;
        Ok(Some(wanted[kept..].to_vec()))
    }

    /// The answer is over: it becomes a message. `drawn` are its tokens, without the one that ended it; the cache holds
    /// all of them or all but the last.
    pub fn answered(&mut self, drawn: &[u32], text: &str) {
        self.known.remember(&self.prompt, drawn, self.tokenizer);
        self.messages.push(Message::new("assistant", text));
    }

    /// Drops the oldest turn: a message of the user and all up to the next one. The last turn stays.
    fn drop_turn(&mut self) -> bool {
        let first = usize::from(self.system().is_some());
        let next = self.messages.iter().enumerate().skip(first + 1).find(|(_, m)| m.role() == "user");
        let Some((next, _)) = next else { return false };
        self.messages.drain(first..next);
        true
    }
}

/// Cuts the cache to what it shares with `ids`, as [`align`] finds it, and says how many tokens that is: never all of
/// them, as the logits of the last are wanted.
fn keep(session: &mut Session, ids: &[u32], gone: usize) -> usize {
    let kept = align(session, ids, gone).min(ids.len() - 1);
    session.truncate(kept);
    kept
}

/// Makes the cache share as much as it can with `ids`, and says how many tokens that is. Where they part, `gone` tokens
/// may have been dropped from the middle: then what is held behind them moves up.
fn align(session: &mut Session, ids: &[u32], gone: usize) -> usize {
    let common = |a: &[u32], b: &[u32]| a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let same = common(session.tokens(), ids);
    let behind = session.tokens().get(same + gone..).map_or(0, |held| common(held, &ids[same..]));
    // A card that fails here fails in the next step again, and is told there.
    if gone == 0 || behind == 0 || session.remove(same..same + gone).is_err() {
        return same;
    }
    same + behind
}
