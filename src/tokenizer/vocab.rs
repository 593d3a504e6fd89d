//! The pieces of a vocabulary: their bytes, what kind each is, and the way back from bytes to id.
//!
//! All bytes lie in one buffer and the index holds ids only, so that a vocabulary of 262,144 pieces is ready in
//! milliseconds: start-up time is mostly this.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

use super::Error;
use crate::gguf::Metadata;

pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TYPES: &str = "tokenizer.ggml.token_type";

/// What a piece is for (the values of `tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Normal,
    /// Stands for text that has no piece.
    Unknown,
    /// A mark that is no text: in a prompt it becomes its id only when that is asked for.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// A place in the table that is not used.
    Unused,
    /// One byte, written `<0x0A>`.
    Byte,
}

impl Kind {
    fn from_gguf(value: i32) -> Kind {
        match value {
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => Kind::Normal,
        }
    }

    /// Whether the piece is a mark rather than text: `<s>`, `<unk>`.
    pub(super) fn is_mark(self) -> bool {
        matches!(self, Kind::Control | Kind::Unknown)
    }
}

/// The pieces of a vocabulary, by id and by bytes.
pub(super) struct Vocab {
    bytes: Vec<u8>,
    /// Where piece `i` ends in `bytes`; it starts where the one before ends.
    ends: Vec<usize>,
    kinds: Vec<Kind>,
    index: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

impl Vocab {
    /// Reads the tokens and their kinds. Without kinds in the file every piece is normal text.
    pub(super) fn read(md: &Metadata) -> Result<Vocab, Error> {
        let pieces = md.require_byte_strings(TOKENS)?;
        if u32::try_from(pieces.len()).is_err() || pieces.is_empty() {
            return Err(Error::Value {
                file: md.file().to_path_buf(),
                key: TOKENS,
                found: format!("{} tokens", pieces.len()),
                expected: "from 1 to 4294967295".to_owned(),
            });
        }
        let kinds: Vec<Kind> = match md.i32s(TYPES)? {
            Some(types) => types.iter().map(|&t| Kind::from_gguf(t)).collect(),
            None => vec![Kind::Normal; pieces.len()],
        };
        check_len(md, TYPES, kinds.len(), pieces.len())?;
        let mut vocab = Vocab {
            bytes: Vec::with_capacity(pieces.iter().map(|p| p.len()).sum()),
            ends: Vec::with_capacity(pieces.len()),
            kinds,
            index: HashTable::with_capacity(pieces.len()),
            hasher: DefaultHashBuilder::default(),
            longest: 0,
        };
        for (id, piece) in (0..).zip(pieces) {
            vocab.push(id, piece);
        }
        Ok(vocab)
    }

    fn push(&mut self, id: u32, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
        self.ends.push(self.bytes.len());
        self.longest = self.longest.max(piece.len());
        // Of two pieces with the same bytes the first is the one that text becomes.
        if !piece.is_empty() && self.id(piece).is_none() {
            let Vocab { index, hasher, bytes, ends, .. } = self;
            index.insert_unique(hasher.hash_one(piece), id, |&id| hasher.hash_one(slice(bytes, ends, id as usize)));
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// The bytes of the longest piece.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// The piece as the file writes it: `▁Hello`, `Ġworld`, `<0x0A>`. `None` past the end.
    pub(super) fn raw(&self, id: u32) -> Option<&[u8]> {
        let id = id as usize;
        (id < self.ends.len()).then(|| slice(&self.bytes, &self.ends, id))
    }

    pub(super) fn id(&self, piece: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(piece);
        self.index.find(hash, |&id| slice(&self.bytes, &self.ends, id as usize) == piece).copied()
    }

    pub(super) fn kind(&self, id: u32) -> Option<Kind> {
        self.kinds.get(id as usize).copied()
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: Kind) {
        if let Some(k) = self.kinds.get_mut(id as usize) {
            *k = kind;
        }
    }

    /// Id, bytes and kind of every piece.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &[u8], Kind)> {
        (0..).zip(&self.kinds).map(|(id, &kind)| (id, slice(&self.bytes, &self.ends, id as usize), kind))
    }

    /// Kinds that were forgotten: files converted from Mistral's v2 and v3 vocabularies before July 2024 call the
    /// control tokens normal text (llama.cpp issue 7969), which breaks `[INST]` into four pieces; files without
    /// kinds call everything normal. The names say what is meant. Returns what was done, if anything.
    pub(super) fn repair(&mut self, has_kinds: bool) -> Option<String> {
        let mistral = self.raw(3) == Some(b"[INST]") && self.kind(3) == Some(Kind::Normal);
        if has_kinds && !mistral {
            return None;
        }
        let mut changed = 0;
        for id in (0..).take(self.len()) {
            let Some(piece) = self.raw(id) else { continue };
            let kind = match piece {
                b"<unk>" => Kind::Unknown,
                b"<s>" | b"</s>" => Kind::Control,
                _ if byte_value(piece).is_some() => Kind::Byte,
                _ if !mistral => continue,
                _ if (3..14).contains(&id) || piece.starts_with(b"[control_") => Kind::Control,
                _ if piece.starts_with(b"[REFERENCE_DOC_") => Kind::UserDefined,
                _ => continue,
            };
            if self.kinds[id as usize] == Kind::Normal {
                self.kinds[id as usize] = kind;
                changed += 1;
            }
        }
        (changed > 0).then(|| {
            format!(
                "{TYPES}: {changed} control and byte tokens are marked as text in this file (an old conversion); \
                 corrected by their names, a newer conversion of the model has them right"
            )
        })
    }
}

fn slice<'a>(bytes: &'a [u8], ends: &[usize], id: usize) -> &'a [u8] {
    let start = if id == 0 { 0 } else { ends[id - 1] };
    &bytes[start..ends[id]]
}

/// The byte that `<0x0A>` stands for.
pub(super) fn byte_value(piece: &[u8]) -> Option<u8> {
    let hex = piece.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    if hex.len() != 2 || !hex.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
}

pub(super) fn check_len(md: &Metadata, key: &'static str, found: usize, expected: usize) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    Err(Error::Value {
        file: md.file().to_path_buf(),
        key,
        found: format!("{found} entries"),
        expected: format!("{expected}, as many as {TOKENS} has"),
    })
}
