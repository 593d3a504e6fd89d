//! Text to tokens and back, from the vocabulary in a GGUF file.
//!
//! `tokenizer.ggml.model` decides: `llama` is SentencePiece BPE by score ([`spm`]), `gpt2` and `gemma4` are BPE by
//! merges ([`bpe`]) on the words of a pre-tokenizer ([`pre`]). Ids agree with sentencepiece, Hugging Face and
//! llama.cpp wherever these agree with each other.
//!
//! Where a vocabulary puts a space before text (Llama 2, Mistral), it is put before the text and again after each
//! control token inside it, as sentencepiece does for pieces of text that are encoded on their own and llama.cpp does
//! for the whole. So `[INST]Hello` is right and `[INST] Hello` has a space too many; what writes a prompt for such a
//! model must leave that space to the tokenizer. Decoding takes those spaces away again, so it is the exact inverse.
//!
//! Left out: WordPiece, Unigram and the other kinds of embedding and encoder models, which no architecture here uses.

mod bpe;
mod error;
mod marks;
mod pre;
mod spm;
mod stream;
mod vocab;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use bpe::Bpe;
pub use error::Error;
use marks::{Finder, Part};
use pre::{Alphabet, Pre};
pub use pre::{Step, pre_name};
use spm::{SPACE, Spm};
pub use stream::TextStream;
use vocab::{Kind, TYPES, Vocab, byte_value, check_len};

use crate::gguf::Metadata;

const MODEL: &str = "tokenizer.ggml.model";
const SCORES: &str = "tokenizer.ggml.scores";
/// A noncharacter: no text has it, and no piece of a vocabulary.
const GUARD: char = '\u{fdd0}';
const MODELS: &[&str] = &["llama", "gpt2", "gemma4"];

/// How to encode a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encode {
    /// Put BOS before the text and EOS after it, where the vocabulary asks for them.
    pub bos: bool,
    /// Control tokens in the text (`</s>`, `[INST]`) become their ids; otherwise they are text like any other.
    pub special: bool,
}

/// The vocabulary of a model, and what turns text into it.
pub struct Tokenizer {
    vocab: Vocab,
    method: Method,
    /// Whether text gets a space before it.
    space_prefix: bool,
    /// Whether control tokens swallow the white space after them (Phi-3).
    strip_after_marks: bool,
    ids: Ids,
    add_bos: bool,
    add_eos: bool,
    ends: BTreeSet<u32>,
    notes: Vec<String>,
    /// Finds user-defined pieces; built when the first text comes.
    pieces: OnceLock<Finder>,
    /// Finds control tokens too.
    marks: OnceLock<Finder>,
}

/// The ids that a text had.
type Lookup<'l, 'k> = &'l dyn Fn(&str) -> Option<&'k [u32]>;

enum Method {
    Spm(Box<Spm>),
    Bpe(Box<Bpe>),
}

/// The tokens with a role.
#[derive(Clone, Copy, Default)]
struct Ids {
    bos: Option<u32>,
    eos: Option<u32>,
    eot: Option<u32>,
    eom: Option<u32>,
    unk: Option<u32>,
    pad: Option<u32>,
}

impl Tokenizer {
    /// Reads the vocabulary (`tokenizer.ggml.*`) of a file.
    pub fn from_metadata(md: &Metadata) -> Result<Tokenizer, Error> {
        let model = md.require_str(MODEL)?;
        let file = || md.file().to_path_buf();
        let mut notes = Vec::new();
        // The ids and switches that hold when the file does not say are llama.cpp's, which files rely on.
        let (pre, default) = match model {
            "llama" => (None, Ids { bos: Some(1), eos: Some(2), unk: Some(0), ..Ids::default() }),
            "gpt2" | "gemma4" => {
                let name = if model == "gemma4" { Some(model) } else { md.str("tokenizer.ggml.pre")? };
                if name.is_none() {
                    notes.push(
                        "tokenizer.ggml.pre is missing (an old conversion); \"default\" is used, answers may be worse"
                            .to_owned(),
                    );
                }
                let name = name.unwrap_or("default");
                let pre = Pre::named(name).ok_or_else(|| Error::Pre {
                    file: file(),
                    found: name.to_owned(),
                    known: Pre::known(),
                })?;
                let end = (model == "gpt2").then_some(11);
                (Some(pre), Ids { bos: end, eos: end, ..Ids::default() })
            }
            found => {
                return Err(Error::Model { file: file(), found: found.to_owned(), supported: MODELS.join(", ") });
            }
        };

        let mut vocab = Vocab::read(md)?;
        if pre.is_none() {
            notes.extend(vocab.repair(md.get(TYPES).is_some()));
        }
        let ids = Ids::read(md, default, vocab.len())?;
        let method = match pre {
            Some(pre) => Method::Bpe(Box::new(Bpe::new(md, &vocab, pre)?)),
            None => {
                let scores = md.require_f32s(SCORES)?;
                check_len(md, SCORES, scores.len(), vocab.len())?;
                Method::Spm(Box::new(Spm::new(&vocab, &scores, ids.unk)))
            }
        };
        // After the merges: what they make is text, whatever its name.
        let ends = marks::ends(&mut vocab, [ids.eos, ids.eot, ids.eom].into_iter().flatten());
        let add_bos = md.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(pre.is_none_or(|p| p.add_bos))
            // Every gemma4 file says no, and every gemma4 model needs it (llama.cpp pull request 21500).
            || pre.is_some_and(|p| p.add_bos && p.alphabet == Alphabet::Spaces);
        let add_eos = md.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        let name = md.str("general.name")?.unwrap_or_default().to_lowercase();
        Ok(Tokenizer {
            vocab,
            method,
            space_prefix: md.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) && pre.is_none(),
            strip_after_marks: pre.is_none() && (name.contains("phi-3") || name.contains("phi3")),
            add_bos: add_bos && ids.bos.is_some(),
            add_eos: add_eos && ids.eos.is_some(),
            ids,
            ends,
            notes,
            pieces: OnceLock::new(),
            marks: OnceLock::new(),
        })
    }

    /// The tokens of `text`.
    pub fn encode(&self, text: &str, opts: Encode) -> Vec<u32> {
        let mut out = self.encode_parts(text, opts, None);
        if opts.bos && self.add_eos {
            out.extend(self.ids.eos);
        }
        out
    }

    /// The tokens of a prompt that a chat template wrote, control tokens included, to be continued: no EOS follows.
    ///
    /// Templates write a space after a control token where the vocabulary would put one: it is that one, and not a
    /// second (`[INST] Hello` is what mistral-common encodes as `[INST]` and `Hello`). A text between two control tokens
    /// that `known` knows has the ids that it gives. What [`Tokenizer::guarded`] put in goes out again.
    pub fn encode_rendered<'k>(&self, text: &str, bos: bool, known: impl Fn(&str) -> Option<&'k [u32]>) -> Vec<u32> {
        self.encode_parts(text, Encode { bos, special: true }, Some(&known))
    }

    /// `text` with every control token in it broken by a character that no text has, so that
    /// [`Tokenizer::encode_rendered`] takes it for text; nothing where it holds none.
    pub fn guarded(&self, text: &str) -> Option<String> {
        let mut out = String::new();
        let mut found = false;
        self.finder(true).each(text, |part| match part {
            Part::Token(id) => {
                let piece = self.vocab.raw(id).map(String::from_utf8_lossy).unwrap_or_default();
                let first = piece.chars().next().map_or(0, char::len_utf8);
                out.push_str(&piece[..first]);
                if self.is_control(id) {
                    found = true;
                    out.push(GUARD);
                }
                out.push_str(&piece[first..]);
            }
            Part::Text(text) => out.push_str(text),
        });
        found.then_some(out)
    }

    fn finder(&self, marks: bool) -> &Finder {
        let finder = if marks { &self.marks } else { &self.pieces };
        finder.get_or_init(|| Finder::new(&self.vocab, marks))
    }

    fn encode_parts<'k>(&self, text: &str, opts: Encode, rendered: Option<Lookup<'_, 'k>>) -> Vec<u32> {
        let mut out = Vec::with_capacity(text.len() / 4 + 2);
        if opts.bos && self.add_bos {
            out.extend(self.ids.bos);
        }
        let mut last = None;
        self.finder(opts.special).each(text, |part| match part {
            Part::Token(id) => {
                out.push(id);
                last = Some(id);
            }
            Part::Text(mut text) => {
                if self.strip_after_marks && last.is_some_and(|id| self.swallows(id)) {
                    text = text.trim_start_matches(|c: char| c.is_ascii_whitespace() || c == '\u{b}');
                }
                let Some(known) = rendered else {
                    // Every text part is at the start or after a token that was found.
                    if !text.is_empty() {
                        self.encode_text(text, &mut out);
                    }
                    return;
                };
                if self.space_prefix && last.is_some() {
                    text = text.strip_prefix(' ').unwrap_or(text);
                }
                let free = text.contains(GUARD).then(|| text.replace(GUARD, ""));
                let text = free.as_deref().unwrap_or(text);
                match known(text) {
                    Some(ids) => out.extend_from_slice(ids),
                    None if text.is_empty() => {}
                    None => self.encode_text(text, &mut out),
                }
            }
        });
        out
    }

    fn encode_text(&self, text: &str, out: &mut Vec<u32>) {
        match &self.method {
            Method::Bpe(bpe) => bpe.encode(&self.vocab, text, out),
            Method::Spm(spm) => {
                let prefix = if self.space_prefix { SPACE } else { "" };
                let text = text.replace(' ', SPACE);
                spm.encode(&self.vocab, &[prefix, text.as_str()].concat(), out);
            }
        }
    }

    /// Whether white space after this token belongs to it.
    fn swallows(&self, id: u32) -> bool {
        let keeps = [b"<unk>".as_slice(), b"<s>", b"<|endoftext|>"];
        self.vocab.raw(id).is_some_and(|piece| !keeps.contains(&piece))
    }

    /// The bytes that the tokens stand for, control tokens written out with `special` and left out otherwise.
    /// The inverse of [`Tokenizer::encode`]: the spaces that encoding put before text are taken away.
    /// An id past the end of the vocabulary stands for nothing.
    pub fn decode(&self, ids: &[u32], special: bool) -> Vec<u8> {
        let mut strip = self.space_prefix;
        ids.iter().flat_map(|&id| self.step(id, special, &mut strip)).collect()
    }

    /// The bytes of one more token; `strip` is whether a space before them is the one that encoding put there.
    fn step(&self, id: u32, special: bool, strip: &mut bool) -> Vec<u8> {
        let mut bytes = if special || !self.is_control(id) { self.piece(id).unwrap_or_default() } else { Vec::new() };
        if self.splits(id) {
            *strip = self.space_prefix;
        } else if !bytes.is_empty() && std::mem::take(strip) && bytes[0] == b' ' {
            bytes.remove(0);
        }
        bytes
    }

    /// Whether encoding begins anew after this token.
    pub(crate) fn splits(&self, id: u32) -> bool {
        self.vocab.kind(id).is_some_and(|kind| kind.is_mark() || kind == Kind::UserDefined)
    }

    /// Turns tokens into text as they come. What they continue is text: a space before the first one is kept.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self, false)
    }

    /// As [`Tokenizer::stream`], for tokens that follow `last` (nothing, at the start of a text): after a control
    /// token or at the start, the space that encoding puts before text is taken away.
    pub fn stream_after(&self, last: Option<u32>) -> TextStream<'_> {
        TextStream::new(self, self.space_prefix && last.is_none_or(|id| self.splits(id)))
    }

    /// The bytes that a token stands for; for a control token its name. `None` past the end of the vocabulary.
    pub fn piece(&self, id: u32) -> Option<Vec<u8>> {
        let raw = self.vocab.raw(id)?;
        Some(match (self.vocab.kind(id)?, std::str::from_utf8(raw)) {
            (Kind::Byte, _) => byte_value(raw).map_or_else(|| raw.to_vec(), |b| vec![b]),
            (Kind::Normal | Kind::Unused, Ok(text)) => match &self.method {
                Method::Spm(_) => text.replace(SPACE, " ").into_bytes(),
                Method::Bpe(bpe) => bpe.decode(text),
            },
            _ => raw.to_vec(),
        })
    }

    /// The id of a piece as the file writes it: `▁Hello`, `Ġworld`, `<|eot_id|>`.
    pub fn id_of(&self, piece: &str) -> Option<u32> {
        self.vocab.id(piece.as_bytes())
    }

    /// The number of tokens.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// The token that begins a text.
    pub fn bos(&self) -> Option<u32> {
        self.ids.bos
    }

    /// The token that ends a text.
    pub fn eos(&self) -> Option<u32> {
        self.ids.eos
    }

    /// The token that ends a turn, where the file names one.
    pub fn eot(&self) -> Option<u32> {
        self.ids.eot
    }

    /// The token that ends a message, where the file names one.
    pub fn eom(&self) -> Option<u32> {
        self.ids.eom
    }

    /// The token for text that has none.
    pub fn unk(&self) -> Option<u32> {
        self.ids.unk
    }

    /// The token that fills up a batch.
    pub fn pad(&self) -> Option<u32> {
        self.ids.pad
    }

    /// Whether generation ends at this token: EOS, the ends of turn and message, and those named like them.
    pub fn is_eog(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// The tokens that end generation, in ascending order.
    pub fn eog(&self) -> impl Iterator<Item = u32> {
        self.ends.iter().copied()
    }

    /// Whether the token is a mark and no text.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.kind(id).is_some_and(Kind::is_mark)
    }

    /// Whether the token is text: no mark, and not one that fills up the vocabulary.
    pub fn is_text(&self, id: u32) -> bool {
        self.vocab.kind(id).is_some_and(|kind| !kind.is_mark() && kind != Kind::Unused)
    }

    /// Whether text gets a space before it (SentencePiece).
    pub fn spaces_text(&self) -> bool {
        self.space_prefix
    }

    /// Whether [`Encode::bos`] puts BOS before a text.
    pub fn adds_bos(&self) -> bool {
        self.add_bos
    }

    /// Whether [`Encode::bos`] puts EOS after a text.
    pub fn adds_eos(&self) -> bool {
        self.add_eos
    }

    /// What was wrong with the vocabulary and has been corrected: to be told once.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }
}

impl Ids {
    /// The ids that the file names, else the default; one past the end of the vocabulary is none.
    fn read(md: &Metadata, default: Ids, n_vocab: usize) -> Result<Ids, Error> {
        let read = |name: &str, default: Option<u32>| -> Result<Option<u32>, Error> {
            // Converters write -1 for none.
            let key = format!("tokenizer.ggml.{name}_token_id");
            let none = md.get(&key).is_some_and(|v| v.integer() == Some(-1));
            let found = if none { None } else { md.u32(&key)? };
            let inside = |id: &u32| (*id as usize) < n_vocab;
            Ok(found.filter(inside).or(default.filter(inside)))
        };
        Ok(Ids {
            bos: read("bos", default.bos)?,
            eos: read("eos", default.eos)?,
            eot: read("eot", default.eot)?,
            eom: read("eom", default.eom)?,
            unk: read("unknown", default.unk)?,
            pad: read("padding", default.pad)?,
        })
    }
}
