//! Ids of texts as they were computed: a model may write a word in other pieces than the encoder would, and what the KV
//! cache holds are its own.

use crate::tokenizer::Tokenizer;
use std::collections::HashMap;

/// Texts between two marks, with the ids that they had when they were fed or drawn.
#[derive(Clone, Debug, Default)]
pub struct Known {
    ids: HashMap<String, Vec<u32>>,
}

impl Known {
    /// The ids that a text between two marks had.
    pub fn get(&self, text: &str) -> Option<&[u32]> {
        self.ids.get(text).map(Vec::as_slice)
    }

    /// Remembers an answer: `drawn` came after `prompt`. The text that the next prompt will have there begins after the
    /// prompt's last mark.
    pub fn remember(&mut self, prompt: &[u32], drawn: &[u32], tokenizer: &Tokenizer) {
        let begin = prompt.iter().rposition(|&id| tokenizer.splits(id)).map_or(0, |at| at + 1);
        let ids: Vec<u32> = prompt[begin..].iter().chain(drawn).copied().collect();
        for part in ids.split(|&id| tokenizer.splits(id)) {
            // What is not whole characters is not what a message will say.
            if let Ok(text) = String::from_utf8(tokenizer.decode(part, false))
                && !part.is_empty()
            {
                self.ids.insert(text, part.to_vec());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::{Array, Metadata, Value};
    use crate::tokenizer::Encode;

    /// `ab` is a token, so the encoder never writes `a` and `b`; a model may.
    fn tokenizer() -> Tokenizer {
        let pieces = ["<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a"];
        let mut md = Metadata::default();
        md.set("tokenizer.ggml.model", Value::String("llama".into()));
        md.set("tokenizer.ggml.tokens", Value::Array(Array::String(pieces.map(str::to_owned).to_vec())));
        md.set("tokenizer.ggml.scores", Value::Array(Array::F32((0..8).map(|i| i as f32).collect())));
        md.set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![2, 3, 3, 1, 1, 1, 1, 1])));
        Tokenizer::from_metadata(&md).unwrap()
    }

    #[test]
    fn an_answer_keeps_the_pieces_that_it_was_written_in() {
        let t = tokenizer();
        let text = "<s>ab</s>b";
        let prompt = t.encode_rendered(text, false, |_| None);
        // After `b` the model wrote `a`, `b`, `b` in single letters, where the encoder has `ab`.
        let drawn = [4, 5, 5];
        let mut known = Known::default();
        known.remember(&prompt, &drawn, &t);
        let next = "<s>ab</s>babb</s>";
        let fresh = t.encode_rendered(next, false, |_| None);
        let ids = t.encode_rendered(next, false, |part| known.get(part));
        let held = [prompt.as_slice(), &drawn].concat();
        assert!(ids.starts_with(&held), "{ids:?} does not begin with {held:?}");
        assert!(!fresh.starts_with(&held), "the encoder writes the same: {fresh:?}");
        assert_eq!(t.decode(&ids, true), t.decode(&fresh, true));
        // Another text has no ids yet.
        assert_eq!(known.get("ba"), None);
        assert_eq!(t.encode("ab", Encode { bos: false, special: true }).len(), 2);
    }
}
