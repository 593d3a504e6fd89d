//! SentencePiece BPE: text to pieces by score, bytes where there is no piece.
//!
//! Adjacent symbols whose concatenation is a piece are merged, the piece with the highest score first, of equal
//! scores the leftmost (sentencepiece, `bpe_model.cc`). The BPE of the `tokenizers` crate ranks *pairs*: its table
//! would have to be derived at each start from every split of every piece, and two ways to one piece, or two pieces
//! of one score, cannot share a rank there. Looking up the concatenation in the vocabulary is exact by construction
//! and needs no table: a vocabulary of 32,768 pieces is ready in 5 ms, one of 262,144 in 20 ms.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::vocab::{Kind, Vocab};

/// `▁`, which stands for a space inside a piece.
pub(super) const SPACE: &str = "\u{2581}";

/// What the merges need beside the pieces.
pub(super) struct Spm {
    /// For each id the score, as an integer that orders the same way; `None` for what text never becomes.
    ranks: Vec<Option<u32>>,
    /// For each byte the token that stands for it.
    bytes: [Option<u32>; 256],
}

/// A stretch of text that will be a token: a node of a doubly linked list.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    /// 0 when the symbol has become part of the one before it.
    len: usize,
    prev: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

/// A possible merge; the greatest is done first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Merge {
    rank: u32,
    left: Reverse<usize>,
    right: usize,
    /// The length of the merged text: when it no longer fits the symbols, one of them has been merged otherwise.
    len: usize,
}

impl Spm {
    pub(super) fn new(vocab: &Vocab, scores: &[f32], unknown: Option<u32>) -> Spm {
        let ranks = vocab
            .iter()
            .zip(scores)
            .map(|((_, _, kind), &score)| match kind {
                Kind::Normal | Kind::UserDefined | Kind::Unused => Some(ordered(score)),
                Kind::Control | Kind::Unknown | Kind::Byte => None,
            })
            .collect();
        let bytes = std::array::from_fn(|b| {
            let b = b as u8;
            vocab.id(format!("<0x{b:02X}>").as_bytes()).or_else(|| vocab.id(&[b])).or(unknown)
        });
        Spm { ranks, bytes }
    }

    /// Appends the tokens of `text`, in which spaces are already [`SPACE`].
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, out: &mut Vec<u32>) {
        let bytes = text.as_bytes();
        let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
        for (i, (start, c)) in text.char_indices().enumerate() {
            symbols.push(Symbol { start, len: c.len_utf8(), prev: i.wrapping_sub(1), next: i + 1 });
        }
        let Some(last) = symbols.last_mut() else { return };
        last.next = NONE;

        let merge_of = |symbols: &[Symbol], left: usize, right: usize| -> Option<Merge> {
            if left == NONE || right == NONE {
                return None;
            }
            let start = symbols[left].start;
            let len = symbols[left].len + symbols[right].len;
            // Without this bound a long text of merged symbols would be hashed again and again.
            if len > vocab.longest() {
                return None;
            }
            let rank = self.ranks[vocab.id(&bytes[start..start + len])? as usize]?;
            Some(Merge { rank, left: Reverse(left), right, len })
        };

        let first: Vec<Merge> = (1..symbols.len()).filter_map(|i| merge_of(&symbols, i - 1, i)).collect();
        let mut queue = BinaryHeap::from(first);
        while let Some(Merge { left: Reverse(left), right, len, .. }) = queue.pop() {
            if symbols[left].len == 0 || symbols[right].len == 0 || symbols[left].len + symbols[right].len != len {
                continue;
            }
            let next = symbols[right].next;
            symbols[left].len = len;
            symbols[left].next = next;
            symbols[right].len = 0;
            if next != NONE {
                symbols[next].prev = left;
            }
            queue.extend(merge_of(&symbols, symbols[left].prev, left));
            queue.extend(merge_of(&symbols, left, next));
        }

        for symbol in symbols.iter().filter(|s| s.len > 0) {
            let piece = &bytes[symbol.start..symbol.start + symbol.len];
            match vocab.id(piece).filter(|&id| self.ranks[id as usize].is_some()) {
                Some(id) => out.push(id),
                None => out.extend(piece.iter().filter_map(|&b| self.bytes[b as usize])),
            }
        }
    }
}

/// An integer that orders as the score does.
fn ordered(score: f32) -> u32 {
    // Adding zero makes one zero of the two.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

#[cfg(test)]
mod tests {
    use super::ordered;

    #[test]
    fn scores_keep_their_order() {
        let scores = [f32::NEG_INFINITY, -1e9, -1.5, -1.0, -1e-40, 0.0, 1e-40, 2.0, f32::INFINITY];
        for pair in scores.windows(2) {
            assert!(ordered(pair[0]) < ordered(pair[1]), "{pair:?}");
        }
        assert_eq!(ordered(-0.0), ordered(0.0));
    }
}
