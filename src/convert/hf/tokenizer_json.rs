//! tokenizer.json of Hugging Face's tokenizers: the parts that a GGUF file has room for.

use super::super::Error;
use super::json;
use crate::tokenizer::{Step, pre_name};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::fmt;
use std::path::{Path, PathBuf};

/// The file.
#[derive(Debug, Deserialize)]
pub(super) struct TokenizerJson {
    #[serde(skip)]
    pub path: PathBuf,
    pub model: Model,
    #[serde(default)]
    pub added_tokens: Vec<Added>,
    pub normalizer: Option<Value>,
    pub pre_tokenizer: Option<Value>,
    pub post_processor: Option<Value>,
    pub decoder: Option<Value>,
}

/// What makes tokens of words.
#[derive(Debug, Deserialize)]
pub(super) struct Model {
    #[serde(rename = "type", default = "bpe")]
    pub kind: String,
    #[serde(default)]
    pub vocab: Vocab,
    #[serde(default)]
    pub merges: Vec<Merge>,
    pub byte_fallback: Option<bool>,
    pub ignore_merges: Option<bool>,
}

fn bpe() -> String {
    "BPE".to_owned()
}

/// A token that stands beside the model's own, or gives one of them a role.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Added {
    pub id: u32,
    pub content: String,
    #[serde(default)]
    pub special: bool,
}

/// Two pieces that become one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Merge {
    Line(String),
    Pair(String, String),
}

impl Merge {
    /// With a space between the two; one inside of them is written as byte-level BPE writes it.
    pub(super) fn line(self) -> String {
        match self {
            Merge::Line(line) => line,
            Merge::Pair(a, b) => format!("{} {}", a.replace(' ', "Ġ"), b.replace(' ', "Ġ")),
        }
    }
}

/// Tokens with their ids. Of other models than BPE it is a list, of which nothing is kept.
#[derive(Debug, Default)]
pub(super) struct Vocab(pub Vec<(String, u32)>);

impl<'de> Deserialize<'de> for Vocab {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Vocab, D::Error> {
        struct Tokens;
        impl<'de> Visitor<'de> for Tokens {
            type Value = Vocab;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("tokens with their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocab, A::Error> {
                let mut tokens = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    tokens.push(entry);
                }
                Ok(Vocab(tokens))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vocab, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Vocab::default())
            }
        }
        deserializer.deserialize_any(Tokens)
    }
}

impl TokenizerJson {
    /// Reads the file of a folder; `None` when there is none.
    pub(super) fn read(dir: &Path) -> Result<Option<TokenizerJson>, Error> {
        let path = dir.join("tokenizer.json");
        let file: Option<TokenizerJson> = json::read(&path)?;
        Ok(file.map(|file| TokenizerJson { path, ..file }))
    }

    /// Whether it is a SentencePiece model in another form: bytes stand for what has no piece.
    pub(super) fn is_fallback(&self) -> bool {
        let decoder = self.decoder.as_ref().map(|d| &d["type"]);
        self.model.kind == "BPE" && self.model.byte_fallback == Some(true) && decoder.is_some_and(|d| d == "Sequence")
    }

    /// The name of the pre-tokenizer in GGUF files. The converter finds it by the hash of an encoded text; here it is the
    /// expressions that tell, of which `preferred` decides between names for the same ones.
    ///
    /// # Errors
    /// When no name stands for these expressions.
    pub(super) fn pre(&self, preferred: &[&str]) -> Result<&'static str, Error> {
        let mut steps = Vec::new();
        let known = match &self.pre_tokenizer {
            Some(step) => add_steps(step, &mut steps),
            None => false,
        };
        let name = if known { pre_name(&steps, self.model.ignore_merges, preferred) } else { None };
        name.ok_or_else(|| {
            let found = self.pre_tokenizer.as_ref().map_or("nothing".to_owned(), Value::to_string);
            let next = "it needs a newer ostro, or a GGUF file that llama.cpp's converter made";
            Error::bad(&self.path, "pre_tokenizer", crate::gguf::shown(&found), "one that is known", next)
        })
    }
}

/// Adds what `step` does to a text; `false` when it is not known.
fn add_steps<'a>(step: &'a Value, steps: &mut Vec<Step<'a>>) -> bool {
    match step["type"].as_str() {
        Some("Sequence") => {
            step["pretokenizers"].as_array().is_some_and(|all| all.iter().all(|step| add_steps(step, steps)))
        }
        Some("Split") => {
            let whole = step["behavior"] == "Isolated" || (step["behavior"] == "Removed" && step["invert"] == true);
            let pattern = step["pattern"]["Regex"].as_str();
            steps.extend(pattern.map(Step::Expression));
            whole && pattern.is_some()
        }
        Some("Digits") => {
            steps.push(Step::Digits { single: step["individual_digits"] == true });
            true
        }
        Some("ByteLevel") => {
            if step["use_regex"] != false {
                steps.push(Step::ByteLevel);
            }
            step["add_prefix_space"] != true
        }
        _ => false,
    }
}
