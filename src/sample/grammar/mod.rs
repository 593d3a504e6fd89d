//! Grammars: which tokens may come next, so that the text obeys a GBNF grammar or a JSON schema.
//!
//! The work is done by the crate `llguidance`: an Earley parser over the bytes of the vocabulary, which gives a mask for
//! each token. Here are the vocabulary that it wants, and GBNF in the form that it reads ([`gbnf`]).

mod gbnf;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, SimpleVob, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Why there is no grammar, or a text cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A text that is no GBNF.
    #[error("line {line}: {what}")]
    Gbnf {
        /// The line.
        line: usize,
        /// What was found and what expected.
        what: String,
    },
    /// A grammar or schema that cannot be obeyed.
    #[error("{0}")]
    Refused(String),
    /// The parser gave up in the middle of a text.
    #[error("grammar: the parser gave up: {0}")]
    Parser(String),
}

/// A vocabulary as grammars see it.
pub struct Vocabulary {
    factory: Arc<ParserFactory>,
    ends: Vec<u32>,
    n_vocab: usize,
}

/// What the text shall obey.
#[derive(Clone, Debug)]
pub enum Source<'s> {
    /// llama.cpp's grammar language.
    Gbnf(&'s str),
    /// A JSON schema; `{}` is any JSON.
    Schema(&'s Value),
}

/// White space between the parts of JSON: as llama.cpp has it, so that none can go on for ever.
const SPACE: &str = r"( |\n{1,2}[ \t]{0,20})?";

impl Vocabulary {
    /// A vocabulary of `words`, the bytes of each token; none for a token that is no text. Generation ends at `ends`, one at
    /// least.
    ///
    /// # Errors
    /// A vocabulary without an end.
    pub fn new(words: Vec<Option<Vec<u8>>>, ends: Vec<u32>) -> Result<Vocabulary, Error> {
        let n_vocab = words.len();
        let end = *ends.iter().find(|&&end| (end as usize) < n_vocab).ok_or_else(|| {
            Error::Refused("found a vocabulary without a token that ends a text, expected one".to_owned())
        })?;
        let word = |(id, word): (usize, Option<Vec<u8>>)| match word {
            Some(word) => word,
            // A name that no text has: llguidance's mark of special tokens.
            None => [&[TokTrie::SPECIAL_TOKEN_MARKER], format!("[{id}]").as_bytes()].concat(),
        };
        let words: Vec<Vec<u8>> = words.into_iter().enumerate().map(word).collect();
        let trie = TokTrie::from(&TokRxInfo::new(n_vocab as u32, end), &words);
        let env: llguidance::toktrie::TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let mut factory = ParserFactory::new_simple(&env).map_err(|e| Error::Refused(e.to_string()))?;
        factory.quiet();
        let limits = factory.limits_mut();
        // A grammar of single characters takes more steps than one of words.
        limits.step_max_items = 10_000_000;
        limits.step_lexer_fuel = 50_000_000;
        limits.verbose_errors = false;
        Ok(Vocabulary { factory: Arc::new(factory), ends, n_vocab })
    }

    /// A grammar over this vocabulary.
    ///
    /// # Errors
    /// A source that is no grammar, or asks for what is not known.
    pub fn grammar(&self, source: &Source) -> Result<Grammar, Error> {
        let top = match source {
            Source::Gbnf(text) => TopLevelGrammar::from_lark(gbnf::to_lark(text)?),
            Source::Schema(schema) => TopLevelGrammar::from_json_schema(with_space(schema)),
        };
        let parser = self.factory.create_parser(top).map_err(|e| Error::Refused(one_line(&e.to_string())))?;
        let mut matcher = Matcher::new(Ok(parser));
        match matcher.get_error() {
            Some(e) => Err(Error::Refused(one_line(&e))),
            None => {
                let mask = matcher.compute_mask_or_eos().map_err(|e| Error::Refused(one_line(&e.to_string())))?;
                if mask.num_set() == 0 {
                    return Err(Error::Refused("found a grammar that no text obeys".to_owned()));
                }
                Ok(Grammar { fresh: matcher.deep_clone(), matcher, ends: self.ends.clone(), n_vocab: self.n_vocab })
            }
        }
    }
}

/// The schema with the white space that it may have.
fn with_space(schema: &Value) -> Value {
    let mut map = match schema {
        Value::Object(map) => map.clone(),
        // `true` is anything, as `{}` is.
        Value::Bool(true) => Map::new(),
        other => return other.clone(),
    };
    map.entry("x-guidance").or_insert_with(|| json!({ "whitespace_flexible": false, "whitespace_pattern": SPACE }));
    Value::Object(map)
}

/// A text in the making that obeys a grammar.
pub struct Grammar {
    matcher: Matcher,
    fresh: Matcher,
    ends: Vec<u32>,
    n_vocab: usize,
}

impl Grammar {
    /// A new text begins.
    pub fn reset(&mut self) {
        self.matcher = self.fresh.deep_clone();
    }

    /// Whether each token may come next: `allows` is asked for its answer.
    ///
    /// # Errors
    /// A parser that gave up.
    pub fn mask(&mut self) -> Result<Mask<'_>, Error> {
        let mask = self.matcher.compute_mask_or_eos().map_err(|e| Error::Parser(one_line(&e.to_string())))?;
        let may_end = self.ends.iter().any(|&end| (end as usize) < self.n_vocab && mask.is_allowed(end));
        Ok(Mask { mask, may_end, ends: &self.ends, n_vocab: self.n_vocab })
    }

    /// Takes the token that was drawn.
    ///
    /// # Errors
    /// One that may not come here, or a parser that gave up.
    pub fn accept(&mut self, token: u32) -> Result<(), Error> {
        if self.ends.contains(&token) {
            return Ok(());
        }
        self.matcher.consume_token(token).map_err(|e| Error::Parser(one_line(&e.to_string())))
    }
}

/// Which tokens may come next.
pub struct Mask<'g> {
    mask: SimpleVob,
    may_end: bool,
    ends: &'g [u32],
    n_vocab: usize,
}

impl Mask<'_> {
    /// Whether this one may.
    pub fn allows(&self, token: u32) -> bool {
        (token as usize) < self.n_vocab && (self.mask.is_allowed(token) || self.may_end && self.ends.contains(&token))
    }
}

fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
