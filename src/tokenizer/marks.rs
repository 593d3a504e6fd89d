//! Tokens that are found in the text as they stand, before anything else: control tokens and user-defined pieces;
//! and which tokens end a text.

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};

use super::vocab::{Kind, Vocab};

/// A stretch of a text.
pub(super) enum Part<'t> {
    /// Text.
    Text(&'t str),
    /// A token that stood there.
    Token(u32),
}

/// Finds tokens in a text: the leftmost first, of those that start at one place the longest (as the `tokenizers`
/// crate finds added tokens; llama.cpp takes the longest anywhere first, which differs only where two overlap).
pub(super) struct Finder {
    automaton: Option<AhoCorasick>,
    ids: Vec<u32>,
}

impl Finder {
    /// Finds user-defined pieces, and with `marks` control and unknown tokens too.
    pub(super) fn new(vocab: &Vocab, marks: bool) -> Finder {
        let (pieces, ids): (Vec<&[u8]>, Vec<u32>) = vocab
            .iter()
            .filter(|&(_, piece, kind)| !piece.is_empty() && (kind == Kind::UserDefined || marks && kind.is_mark()))
            // A piece that is not text could match half a character.
            .filter(|(_, piece, _)| std::str::from_utf8(piece).is_ok())
            .map(|(id, piece, _)| (piece, id))
            .unzip();
        let automaton = (!pieces.is_empty())
            .then(|| AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(pieces).ok())
            .flatten();
        Finder { automaton, ids }
    }

    /// Calls `part` with each stretch of `text`.
    pub(super) fn each<'t>(&self, text: &'t str, mut part: impl FnMut(Part<'t>)) {
        let mut at = 0;
        for found in self.automaton.iter().flat_map(|a| a.find_iter(text)) {
            if found.start() > at {
                part(Part::Text(&text[at..found.start()]));
            }
            part(Part::Token(self.ids[found.pattern().as_usize()]));
            at = found.end();
        }
        if at < text.len() {
            part(Part::Text(&text[at..]));
        }
    }
}

/// Names that end a text wherever they occur in a vocabulary (those of llama.cpp's `special_eog_ids`); the last
/// ones divide the files of a repository in models that complete code.
const ENDS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Names that are marks even where the file calls them text: without this a model's own template would not work.
const MARKS: &[&str] = &[
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
    "<|prefix|>",
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
    "<|suffix|>",
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
    "<|middle|>",
];

/// Marks that the reader of an answer must see (gpt-oss writes its channels with them).
const SHOWN: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// The tokens that end a text: `named` by the file's metadata, and those with a name that means it.
/// Corrects the kinds of tokens whose names say what they are.
pub(super) fn ends(vocab: &mut Vocab, named: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
    let ids =
        |vocab: &Vocab, names: &[&str]| -> Vec<u32> { names.iter().filter_map(|n| vocab.id(n.as_bytes())).collect() };
    let has = |vocab: &Vocab, name: &str| vocab.id(name.as_bytes()).is_some();
    let mut ends: BTreeSet<u32> = ids(vocab, ENDS).into_iter().collect();
    for &id in ends.iter().chain(&ids(vocab, MARKS)) {
        vocab.set_kind(id, Kind::Control);
    }
    for id in ids(vocab, SHOWN) {
        vocab.set_kind(id, Kind::UserDefined);
    }
    ends.extend(named);
    // `</s>` is a mark in some vocabularies and a tag of HTML in others (Qwen2, Gemma 4): here the file's word counts.
    ends.extend(vocab.id(b"</s>").filter(|&id| vocab.kind(id) == Some(Kind::Control)));
    // Where a message has ends of its own, `<|end|>` only ends a part of it (gpt-oss, solar-open).
    if has(vocab, "<|return|>") && has(vocab, "<|call|>") || has(vocab, "<|flush|>") && has(vocab, "<|calls|>") {
        for id in ids(vocab, &["<|end|>"]) {
            ends.remove(&id);
            vocab.set_kind(id, Kind::UserDefined);
        }
    }
    ends
}
