//! A model's answer on its way to standard output.

use crate::commands::print;
use crate::generate::Flow;
use crate::tokenizer::{TextStream, Tokenizer};

/// The answer on its way to standard output, whole characters at a time, held back where a stop text may begin.
pub(super) struct Answer<'a> {
    tokenizer: &'a Tokenizer,
    text: TextStream<'a>,
    stops: &'a [String],
    /// Text that may be the beginning of a stop text.
    held: String,
    /// What was printed.
    said: String,
    /// A stop text came: what follows it is dropped.
    stopped: bool,
}

impl<'a> Answer<'a> {
    /// For the tokens that follow `last`.
    pub fn new(tokenizer: &'a Tokenizer, last: Option<u32>, stops: &'a [String]) -> Answer<'a> {
        Answer {
            tokenizer,
            text: tokenizer.stream_after(last),
            stops,
            held: String::new(),
            said: String::new(),
            stopped: false,
        }
    }

    pub fn push(&mut self, token: u32) -> anyhow::Result<Flow> {
        if self.tokenizer.is_eog(token) {
            return Ok(Flow::Stop);
        }
        self.held.push_str(self.text.push(token));
        let stop = self.stops.iter().filter(|s| !s.is_empty()).filter_map(|s| self.held.find(s.as_str())).min();
        if let Some(at) = stop {
            self.held.truncate(at);
            self.stopped = true;
            return Ok(Flow::Stop);
        }
        let keep = self.stops.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let free = self.held.len() - keep;
        let ready: String = self.held.drain(..free).collect();
        self.say(&ready)?;
        Ok(Flow::GoOn)
    }

    fn say(&mut self, text: &str) -> anyhow::Result<()> {
        self.said.push_str(text);
        print(text)
    }

    /// Prints what was held back, and gives the whole text.
    pub fn finish(mut self) -> anyhow::Result<String> {
        let held = std::mem::take(&mut self.held);
        self.say(&held)?;
        if !self.stopped {
            let last = std::mem::replace(&mut self.text, self.tokenizer.stream()).finish();
            self.say(&last)?;
        }
        Ok(self.said)
    }
}

/// Bytes at the end of `text` that begin `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    (1..stop.len().min(text.len() + 1)).rev().find(|&n| text.as_bytes().ends_with(&stop.as_bytes()[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_the_longest_beginning() {
        let rows = [
            ("abc", "cd", 1),
            ("abc", "bcd", 2),
            ("abc", "abc", 0),
            ("abcab", "abc", 2),
            ("abc", "x", 0),
            ("", "x", 0),
            ("aa", "aab", 2),
        ];
        for (text, stop, want) in rows {
            assert_eq!(overlap(text, stop), want, "{text} {stop}");
        }
    }
}
