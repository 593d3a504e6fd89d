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
