//! The vocabulary of a checkpoint, as the keys of a GGUF file have it.

use super::super::Error;
use super::pieces::{Pieces, Roles, kind, looks_special};
use super::special::{self, KeyValues, Place, content};
use super::tokenizer_json::{Added, TokenizerJson};
use super::{json, native};
use crate::gguf::{Array, Value};
use crate::model::checkpoint::{Checkpoint, Config, Keys, Vocabulary};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

/// What a vocabulary is read from.
pub(super) struct Input<'a> {
    pub dir: &'a Path,
    pub checkpoint: &'a Checkpoint,
    /// config.json as it is.
    pub written: &'a Config,
    /// tokenizer_config.json.
    pub tokenizer_config: Option<&'a Config>,
    /// How many tokens the model has.
    pub n_vocab: usize,
}

/// A vocabulary.
#[derive(Debug)]
pub(super) struct Vocab {
    pub kind: Vocabulary,
    pub pieces: Pieces,
    /// The name of the pre-tokenizer.
    pre: &'static str,
    roles: Roles,
    special: KeyValues,
}

impl Vocab {
    /// Reads the first of the files that this kind of checkpoint may have.
    ///
    /// # Errors
    /// When there is none, or it cannot be used.
    pub(super) fn read(input: &Input, notes: &mut Vec<String>) -> Result<Vocab, Error> {
        if input.checkpoint.tokenizers.contains(&Vocabulary::Native) {
            let native = native::read(input.dir, input.n_vocab, notes)?;
            let (kind, pre) = (Vocabulary::Native, "");
            return Ok(Vocab { kind, pieces: native.pieces, pre, roles: native.roles, special: native.template });
        }
        let file = TokenizerJson::read(input.dir)?;
        for &kind in input.checkpoint.tokenizers {
            match (kind, &file) {
                (Vocabulary::Pieces | Vocabulary::PlainPieces, _) => {
                    let path = input.dir.join("tokenizer.model");
                    if let Some((pieces, _)) = Pieces::read(&path)? {
                        let plain = (kind == Vocabulary::PlainPieces).then_some(file.as_ref());
                        let pieces = pieces_with_added(input, pieces, plain, notes)?;
                        return Vocab::with_special(input, kind, pieces, "default", file);
                    }
                }
                (Vocabulary::Fallback, Some(tokenizer)) if tokenizer.is_fallback() => {
                    notes.push(
                        "there is no tokenizer.model: pieces get no scores, as llama.cpp's converter does it, so long \
                         words may be cut differently; put that file into the folder if the model has one"
                            .to_owned(),
                    );
                    let pieces = fallback(input, tokenizer)?;
                    return Vocab::with_special(input, kind, pieces, "default", file);
                }
                (Vocabulary::Bytes, Some(tokenizer)) => {
                    let pre = tokenizer.pre(input.checkpoint.pre)?;
                    let pieces = byte_level(input, tokenizer)?;
                    return Vocab::with_special(input, kind, pieces, pre, file);
                }
                _ => {}
            }
        }
        let pieces_only = input.checkpoint.tokenizers == [Vocabulary::Pieces];
        let expected = if pieces_only { "tokenizer.model" } else { "tokenizer.model or tokenizer.json" };
        let found = if input.dir.join("tekken.json").exists() { "tekken.json" } else { "nothing that can be used" };
        Err(Error::bad(input.dir, "the vocabulary", found, expected, "download the file into the folder"))
    }

    fn with_special(
        input: &Input,
        kind: Vocabulary,
        mut pieces: Pieces,
        pre: &'static str,
        file: Option<TokenizerJson>,
    ) -> Result<Vocab, Error> {
        let place = Place {
            dir: input.dir,
            tokenizer: file.as_ref(),
            tokenizer_config: input.tokenizer_config,
            config: input.written,
            n_vocab: (kind != Vocabulary::Bytes).then_some(pieces.tokens.len()),
        };
        let mut special = special::read(&place)?;
        if let (Vocabulary::Bytes, Some(file)) = (kind, file) {
            pieces.scores.clear();
            let merges: Vec<String> = file.model.merges.into_iter().map(super::tokenizer_json::Merge::line).collect();
            if !merges.is_empty() {
                special.insert(0, ("tokenizer.ggml.merges".to_owned(), Value::Array(Array::String(merges))));
            }
        }
        Ok(Vocab { kind, pieces, pre, roles: Roles::default(), special })
    }

    /// Writes all keys, in the order of the converter.
    pub(super) fn write(self, keys: &mut Keys) {
        let Vocab { kind, pieces, pre, roles, special } = self;
        let n = pieces.tokens.len();
        let model = if kind == Vocabulary::Bytes { "gpt2" } else { "llama" };
        keys.set("tokenizer.ggml.model", Value::String(model.to_owned()));
        let native = kind == Vocabulary::Native;
        if native {
            let ids = [("bos", roles.bos), ("eos", roles.eos), ("unknown", roles.unk), ("padding", roles.pad)];
            for (role, id) in ids.into_iter().filter_map(|(role, id)| Some((role, id?))) {
                keys.set(&format!("tokenizer.ggml.{role}_token_id"), Value::U32(id));
            }
        } else {
            keys.set("tokenizer.ggml.pre", Value::String(pre.to_owned()));
        }
        keys.set("tokenizer.ggml.tokens", Value::Array(Array::String(pieces.tokens)));
        if kind != Vocabulary::Bytes {
            keys.set("tokenizer.ggml.scores", Value::Array(Array::F32(pieces.scores)));
        }
        keys.set("tokenizer.ggml.token_type", Value::Array(Array::I32(pieces.types)));
        if native {
            keys.u32("vocab_size", Some(n as u32));
            keys.set("tokenizer.ggml.add_bos_token", Value::Bool(true));
            keys.set("tokenizer.ggml.add_eos_token", Value::Bool(false));
        }
        for (key, value) in special {
            keys.set(&key, value);
        }
    }
}

/// The pieces of tokenizer.model, and what the other files add to them or make of them.
///
/// `plain`: those of tokenizer.json too, and all as they are.
fn pieces_with_added(
    input: &Input,
    mut pieces: Pieces,
    plain: Option<Option<&TokenizerJson>>,
    notes: &mut Vec<String>,
) -> Result<Pieces, Error> {
    pieces.resize(input.n_vocab, notes);
    let mut past = 0;
    if let Some(added) = json::object(&input.dir.join("added_tokens.json"))? {
        for (token, id) in added.map() {
            let id = id.as_u64().ok_or_else(|| added.bad(token, id, "an id"))?;
            match usize::try_from(id) {
                Ok(id) if id < input.n_vocab => pieces.set(id, token.clone(), kind::USER_DEFINED),
                _ => past += 1,
            }
        }
    }
    let file = plain.flatten().map_or(&[][..], |tokenizer| &tokenizer.added_tokens);
    for added in added_in_config(input.tokenizer_config)?.into_iter().chain(file.iter().cloned()) {
        if added.id as usize >= input.n_vocab {
            past += 1;
            continue;
        }
        let id = added.id as usize;
        if added.special || (plain.is_none() && looks_special(&added.content)) {
            pieces.set(id, added.content, kind::CONTROL);
        } else if plain.is_some() {
            pieces.set(id, added.content, kind::USER_DEFINED);
        } else {
            pieces.set(id, added.content.replace('▁', " "), kind::USER_DEFINED);
        }
    }
    if past > 0 {
        notes.push(format!("{past} added tokens are left out: their ids are past the {} of the model", input.n_vocab));
    }
    Ok(pieces)
}

/// `added_tokens_decoder` of tokenizer_config.json.
fn added_in_config(config: Option<&Config>) -> Result<Vec<Added>, Error> {
    let Some(config) = config else { return Ok(Vec::new()) };
    let Some(added) = config.object("added_tokens_decoder")? else { return Ok(Vec::new()) };
    let read = |(id, token): (&String, &serde_json::Value)| {
        let id = id.parse().ok()?;
        Some(Added { id, content: token["content"].as_str()?.to_owned(), special: token["special"] == true })
    };
    let one = |entry: (&String, &serde_json::Value)| {
        let thing = format!("added_tokens_decoder.{}", entry.0);
        read(entry).ok_or_else(|| config.bad(&thing, entry.1, "an id with an object that has `content`").into())
    };
    added.map().iter().map(one).collect()
}

/// The names that tokenizer_config.json gives to tokens with a role.
fn named_specials(config: Option<&Config>) -> Vec<&str> {
    let Some(config) = config else { return Vec::new() };
    let roles = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"];
    let mut names: Vec<&str> = roles.iter().filter_map(|role| content(config.get(&format!("{role}_token")))).collect();
    for key in ["additional_special_tokens", "extra_special_tokens"] {
        let more = config.get(key).and_then(|v| v.as_array());
        names.extend(more.into_iter().flatten().filter_map(|token| content(Some(token))));
    }
    names
}

/// All tokens of a tokenizer.json by id, and those that are added ones.
struct Table<'a> {
    tokens: BTreeMap<u32, &'a str>,
    added: BTreeMap<u32, Added>,
}

impl<'a> Table<'a> {
    /// As transformers loads them: tokenizer_config.json can add tokens that tokenizer.json does not have.
    fn new(tokenizer: &'a TokenizerJson, config: Option<&Config>) -> Result<Table<'a>, Error> {
        let tokens: BTreeMap<u32, &str> = tokenizer.model.vocab.0.iter().map(|(t, id)| (*id, t.as_str())).collect();
        let mut added: BTreeMap<u32, Added> = tokenizer.added_tokens.iter().map(|a| (a.id, a.clone())).collect();
        let ids: HashMap<&str, u32> = tokenizer.model.vocab.0.iter().map(|(t, id)| (t.as_str(), *id)).collect();
        let mut contents: BTreeSet<String> = added.values().map(|a| a.content.clone()).collect();
        let specials = named_specials(config);
        let named = specials.iter().map(|&name| Added { id: 0, content: name.to_owned(), special: true });
        for mut more in added_in_config(config)?.into_iter().chain(named) {
            if !contents.insert(more.content.clone()) {
                continue;
            }
            let next = tokens.keys().chain(added.keys()).max().map_or(0, |last| last.saturating_add(1));
            more.id = ids.get(more.content.as_str()).copied().unwrap_or(next);
            more.special |= specials.contains(&more.content.as_str());
            added.insert(more.id, more);
        }
        Ok(Table { tokens, added })
    }

    /// An error where an id is past the rows of the embedding.
    fn check(&self, path: &Path, n_vocab: usize) -> Result<(), Error> {
        let last = self.tokens.keys().chain(self.added.keys()).max();
        match last {
            Some(&last) if last as usize >= n_vocab => Err(too_large(path, last as usize + 1, n_vocab)),
            _ => Ok(()),
        }
    }
}

fn too_large(path: &Path, found: usize, n_vocab: usize) -> Error {
    let expected = format!("at most {n_vocab}, which config.json gives as vocab_size");
    Error::bad(
        path,
        "the vocabulary",
        format!("{found} tokens"),
        expected,
        "take the tokenizer that belongs to the model",
    )
}

/// Byte-level BPE: places without a token are filled.
fn byte_level(input: &Input, tokenizer: &TokenizerJson) -> Result<Pieces, Error> {
    let path: &PathBuf = &tokenizer.path;
    if tokenizer.model.kind != "BPE" || tokenizer.model.vocab.0.is_empty() {
        let next = "it needs a newer ostro, or a GGUF file that llama.cpp's converter made";
        return Err(Error::bad(path, "model.type", &tokenizer.model.kind, "BPE", next));
    }
    let table = Table::new(tokenizer, input.tokenizer_config)?;
    table.check(path, input.n_vocab)?;
    let mut pieces = Pieces::default();
    for id in 0..input.n_vocab as u32 {
        let (token, kind) = match (table.added.get(&id), table.tokens.get(&id)) {
            (Some(a), _) if a.special || looks_special(&a.content) => (a.content.clone(), kind::CONTROL),
            (Some(a), _) => (a.content.replace('▁', " "), kind::USER_DEFINED),
            (None, Some(token)) => ((*token).to_owned(), kind::NORMAL),
            (None, None) => (format!("[PAD{id}]"), kind::UNUSED),
        };
        pieces.tokens.push(token);
        pieces.types.push(kind);
    }
    Ok(pieces)
}

/// A SentencePiece model that only tokenizer.json is left of (`LlamaHfVocab` of gguf-py).
fn fallback(input: &Input, tokenizer: &TokenizerJson) -> Result<Pieces, Error> {
    let table = Table::new(tokenizer, input.tokenizer_config)?;
    table.check(&tokenizer.path, input.n_vocab)?;
    let named = named_specials(input.tokenizer_config);
    let base = table.tokens.len() as u32;
    let mut pieces = Pieces::default();
    for id in 0..input.n_vocab as u32 {
        let token = table.tokens.get(&id).copied().or_else(|| Some(table.added.get(&id)?.content.as_str()));
        let Some(token) = token else { break };
        let kind = match token {
            _ if id < base && is_byte(token) => kind::BYTE,
            _ if named.contains(&token) => kind::CONTROL,
            _ if id < base => kind::NORMAL,
            _ => kind::USER_DEFINED,
        };
        pieces.tokens.push(token.to_owned());
        pieces.types.push(kind);
        pieces.scores.push(-1000.0);
    }
    pieces.resize(input.n_vocab, &mut Vec::new());
    Ok(pieces)
}

/// `<0x0A>`.
fn is_byte(token: &str) -> bool {
    let digits = token.strip_prefix("<0x").and_then(|t| t.strip_suffix('>'));
    digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}
