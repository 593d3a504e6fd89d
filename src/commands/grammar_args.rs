//! The flags of grammars.

use super::input;
use crate::sample::Grammar;
use crate::sample::grammar::{Source, Vocabulary};
use crate::tokenizer::Tokenizer;
use anyhow::Context;
use clap::Args;
use std::path::{Path, PathBuf};

/// What answers must obey.
#[derive(Args, Debug)]
#[command(next_help_heading = "Grammar")]
pub struct GrammarArgs {
    /// Answers obey this grammar: a file, or GBNF itself
    #[arg(long, value_name = "FILE|GBNF", group = "obey", allow_hyphen_values = true)]
    grammar: Option<String>,

    /// The same, from a file
    #[arg(long, value_name = "FILE", group = "obey")]
    grammar_file: Option<PathBuf>,

    /// Answers are JSON that obeys this schema: a file, or the schema itself; {} is any JSON
    #[arg(short = 'j', long, value_name = "FILE|JSON", group = "obey")]
    json_schema: Option<String>,

    /// The same, from a file (-jf)
    #[arg(long, value_name = "FILE", group = "obey")]
    json_schema_file: Option<PathBuf>,
}

impl GrammarArgs {
    /// The grammar, if one was given.
    ///
    /// # Errors
    /// A file that cannot be read, what is no grammar and no schema.
    pub fn grammar(&self, tokenizer: &Tokenizer) -> anyhow::Result<Option<Grammar>> {
        if let Some((name, text)) = text("--grammar", self.grammar.as_deref(), self.grammar_file.as_deref())? {
            let grammar = vocabulary(tokenizer).and_then(|v| Ok(v.grammar(&Source::Gbnf(&text))?));
            return grammar.context(name).map(Some);
        }
        let schema = text("--json-schema", self.json_schema.as_deref(), self.json_schema_file.as_deref())?;
        schema.map(|(name, text)| json(tokenizer, &text).context(name)).transpose()
    }
}

/// A grammar of JSON that obeys a schema.
///
/// # Errors
/// What is no schema.
pub fn json(tokenizer: &Tokenizer, schema: &str) -> anyhow::Result<Grammar> {
    let schema =
        serde_json::from_str(schema).context("found no JSON, expected a schema such as {\"type\": \"object\"}")?;
    Ok(vocabulary(tokenizer)?.grammar(&Source::Schema(&schema))?)
}

/// The name of what was given, for errors, and its text.
fn text(flag: &str, given: Option<&str>, file: Option<&Path>) -> anyhow::Result<Option<(String, String)>> {
    let file = file.or(given.map(Path::new).filter(|path| path.is_file()));
    match (file, given) {
        (Some(file), _) => Ok(Some((file.display().to_string(), input::file(file)?))),
        (None, Some(text)) => Ok(Some((flag.to_owned(), text.to_owned()))),
        (None, None) => Ok(None),
    }
}

fn vocabulary(tokenizer: &Tokenizer) -> anyhow::Result<Vocabulary> {
    let word = |id| if tokenizer.is_text(id) { tokenizer.piece(id) } else { None };
    let words = (0..tokenizer.n_vocab() as u32).map(word).collect();
    Ok(Vocabulary::new(words, tokenizer.eog().collect())?)
}
