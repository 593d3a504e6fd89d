//! `tokenizer.model` of SentencePiece: a protobuf message, of which the pieces and a few names matter.

use super::super::Error;
use super::json::AGAIN;
use prost::Message;
use std::path::Path;

/// `ModelProto` of sentencepiece_model.proto.
#[derive(Clone, PartialEq, Message)]
struct ModelProto {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<PieceProto>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<TrainerProto>,
}

#[derive(Clone, PartialEq, Message)]
struct PieceProto {
    #[prost(string, optional, tag = "1")]
    piece: Option<String>,
    #[prost(float, optional, tag = "2")]
    score: Option<f32>,
    #[prost(int32, optional, tag = "3")]
    kind: Option<i32>,
}

#[derive(Clone, PartialEq, Message)]
struct TrainerProto {
    #[prost(string, optional, tag = "45")]
    unk_piece: Option<String>,
    #[prost(string, optional, tag = "46")]
    bos_piece: Option<String>,
    #[prost(string, optional, tag = "47")]
    eos_piece: Option<String>,
    #[prost(string, optional, tag = "48")]
    pad_piece: Option<String>,
}

/// A vocabulary: what each piece is, how much it weighs and of which type it is.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    pub tokens: Vec<String>,
    pub scores: Vec<f32>,
    pub types: Vec<i32>,
}

/// The pieces with a role, by id.
#[derive(Debug, Default)]
pub(super) struct Roles {
    pub unk: Option<u32>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub pad: Option<u32>,
}

/// The values of `tokenizer.ggml.token_type`, which are those of SentencePiece.
pub(super) mod kind {
    pub const NORMAL: i32 = 1;
    pub const UNKNOWN: i32 = 2;
    pub const CONTROL: i32 = 3;
    pub const USER_DEFINED: i32 = 4;
    pub const UNUSED: i32 = 5;
    pub const BYTE: i32 = 6;
}

impl Pieces {
    /// Reads the file; `None` when there is none.
    ///
    /// # Errors
    /// When it cannot be read, or is no such message.
    pub(super) fn read(path: &Path) -> Result<Option<(Pieces, Roles)>, Error> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path, "read the file", e)),
        };
        let bad = |found: String| Error::bad(path, "the pieces", found, "a SentencePiece model", AGAIN);
        let model = ModelProto::decode(bytes.as_slice()).map_err(|e| bad(e.to_string()))?;
        if model.pieces.is_empty() {
            return Err(bad("none".into()));
        }
        let mut pieces = Pieces::default();
        for piece in model.pieces {
            pieces.tokens.push(piece.piece.unwrap_or_default());
            pieces.scores.push(piece.score.unwrap_or(0.0));
            // llama.cpp's converter takes what the file's maker defined for text like any other.
            pieces.types.push(match piece.kind.unwrap_or(kind::NORMAL) {
                known @ (kind::UNKNOWN | kind::CONTROL | kind::UNUSED | kind::BYTE) => known,
                _ => kind::NORMAL,
            });
        }
        let trainer = model.trainer.unwrap_or_default();
        let role = |name: Option<String>, default: &str, kind: i32| {
            let name = name.unwrap_or_else(|| default.to_owned());
            let id = pieces.tokens.iter().position(|t| *t == name)?;
            (pieces.types[id] == kind).then_some(id as u32)
        };
        let roles = Roles {
            unk: role(trainer.unk_piece, "<unk>", kind::UNKNOWN),
            bos: role(trainer.bos_piece, "<s>", kind::CONTROL),
            eos: role(trainer.eos_piece, "</s>", kind::CONTROL),
            pad: role(trainer.pad_piece, "<pad>", kind::CONTROL),
        };
        Ok(Some((pieces, roles)))
    }

    /// Makes the list `n` long: with places that stand for no text, or by leaving out what has no row in the model.
    pub(super) fn resize(&mut self, n: usize, notes: &mut Vec<String>) {
        if self.tokens.len() > n {
            notes.push(format!("the last {} pieces of tokenizer.model are left out", self.tokens.len() - n));
        }
        self.tokens.truncate(n);
        self.scores.truncate(n);
        for i in self.tokens.len()..n {
            self.tokens.push(format!("[PAD{i}]"));
        }
        self.scores.resize(n, -10000.0);
        self.types.resize(n, kind::UNUSED);
    }

    /// Sets a piece that another file defines.
    pub(super) fn set(&mut self, id: usize, token: String, kind: i32) {
        self.tokens[id] = token;
        self.scores[id] = -1000.0;
        self.types[id] = kind;
    }
}

/// Whether a token must be a mark although its file does not say so (`does_token_look_special` of the converter).
pub(super) fn looks_special(token: &str) -> bool {
    let between = |start: &str, end: &str| token.starts_with(start) && token.ends_with(end);
    matches!(token, "<pad>" | "<mask>" | "<2mass>" | "[@BOS@]")
        || between("<|", "|>")
        || between("<｜", "｜>")
        || between("<unused", ">")
}
