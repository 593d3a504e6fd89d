//! Byte-level BPE: words by the pre-tokenizer, merges by the `tokenizers` crate.

use tokenizers::Model as _;
use tokenizers::models::bpe::{BPE, Vocab as Pieces};

use super::Error;
use super::pre::{Alphabet, Cut, Pre, words};
use super::spm::SPACE;
use super::vocab::{Vocab, byte_value};
use crate::gguf::Metadata;

const MERGES: &str = "tokenizer.ggml.merges";

/// Words and merges of one vocabulary.
pub(super) struct Bpe {
    cuts: Vec<Cut>,
    alphabet: Alphabet,
    model: BPE,
}

impl Bpe {
    pub(super) fn new(md: &Metadata, vocab: &Vocab, pre: &Pre) -> Result<Bpe, Error> {
        let written = md.require_strings(MERGES)?;
        let mut merges = Vec::with_capacity(written.len());
        for (i, merge) in written.iter().enumerate() {
            // The first character may itself be a space.
            let cut = merge.char_indices().skip(1).find(|&(_, c)| c == ' ');
            let parts = cut.map(|(at, _)| (merge[..at].to_owned(), merge[at + 1..].to_owned()));
            merges.push(parts.ok_or_else(|| wrong(md, format!("entry {i} is {merge:?}"), "two pieces and a space"))?);
        }
        // Marks are left out: no text becomes one, not even a word that looks like it.
        let mut pieces = Pieces::with_capacity(vocab.len());
        pieces.extend(
            vocab
                .iter()
                .filter(|(_, piece, kind)| !kind.is_mark() && !piece.is_empty())
                .filter_map(|(id, piece, _)| Some((std::str::from_utf8(piece).ok()?.to_owned(), id))),
        );
        let model = BPE::builder()
            .vocab_and_merges(pieces, merges)
            .ignore_merges(pre.ignore_merges)
            .byte_fallback(pre.alphabet == Alphabet::Spaces)
            .build()
            .map_err(|e| wrong(md, e.to_string(), "pairs of pieces that make a piece of the vocabulary"))?;
        Ok(Bpe { cuts: pre.cuts(), alphabet: pre.alphabet, model })
    }

    /// Appends the tokens of `text`.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        if text.is_empty() {
            return;
        }
        let mut coded = String::new();
        match self.alphabet {
            Alphabet::Bytes => words(&self.cuts, text, &mut |word| {
                coded.clear();
                coded.extend(word.bytes().map(char_of));
                self.merge(&coded, out);
            }),
            Alphabet::Spaces => words(&self.cuts, text, &mut |word| {
                coded.clear();
                coded.push_str(&word.replace(' ', SPACE));
                // A run of line ends is one piece where there is one, though no merges lead to it.
                match vocab.id(coded.as_bytes()).filter(|_| word.starts_with('\n')) {
                    Some(id) => out.push(id),
                    None => self.merge(&coded, out),
                }
            }),
        }
    }

    fn merge(&self, word: &str, out: &mut Vec<u32>) {
        let tokens = self.model.tokenize(word).expect("without an unknown token and dropout a BPE has no error");
        out.extend(tokens.iter().map(|t| t.id));
    }

    /// The bytes that a piece of text stands for.
    pub(super) fn decode(&self, piece: &str) -> Vec<u8> {
        match self.alphabet {
            Alphabet::Bytes => {
                let mut bytes = Vec::with_capacity(piece.len());
                for c in piece.chars() {
                    match byte_of(c) {
                        Some(b) => bytes.push(b),
                        // Not of the alphabet: a piece that was added as it is.
                        None => return piece.as_bytes().to_vec(),
                    }
                }
                bytes
            }
            Alphabet::Spaces => match byte_value(piece.as_bytes()) {
                Some(b) => vec![b],
                None => piece.replace(SPACE, " ").into_bytes(),
            },
        }
    }
}

fn wrong(md: &Metadata, found: String, expected: &str) -> Error {
    Error::Value { file: md.file().to_path_buf(), key: MERGES, found, expected: expected.to_owned() }
}

/// Whether GPT-2 writes a byte as the character of the same number (`bytes_to_unicode` of its encoder.py).
const fn printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// Each byte's character: its own when printable, else one from 256 on, in order.
const CHARS: [char; 256] = {
    let mut chars = ['\0'; 256];
    let mut next = 256;
    let mut b = 0;
    while b < 256 {
        let n = if printable(b as u8) { b as u32 } else { next };
        if n == next {
            next += 1;
        }
        chars[b] = match char::from_u32(n) {
            Some(c) => c,
            None => panic!("below 0x144 every number is a character"),
        };
        b += 1;
    }
    chars
};

fn char_of(byte: u8) -> char {
    CHARS[byte as usize]
}

fn byte_of(c: char) -> Option<u8> {
    match u8::try_from(c) {
        Ok(b) => printable(b).then_some(b),
        // The others are in order, so the table is sorted where it is not the identity.
        Err(_) => {
            let n = (c as u32).checked_sub(256)? as usize;
            (0..=255).filter(|&b| !printable(b)).nth(n)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_gpt2s() {
        let known =
            [(b'a', 'a'), (b' ', 'Ġ'), (b'\n', 'Ċ'), (b'\t', 'ĉ'), (0, 'Ā'), (0x7f, 'ġ'), (0xad, 'Ń'), (0xff, 'ÿ')];
        for (byte, c) in known {
            assert_eq!(char_of(byte), c, "{byte}");
        }
        for byte in 0..=255 {
            assert_eq!(byte_of(char_of(byte)), Some(byte));
        }
        for c in ['\0', ' ', '\u{ad}', '\u{144}', '▁', '\u{10ffff}'] {
            assert_eq!(byte_of(c), None, "{c:?}");
        }
    }
}
