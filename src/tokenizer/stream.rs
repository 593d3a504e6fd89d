//! Tokens to text as they come: a character is written when its last byte is there.

use super::Tokenizer;

/// Turns tokens into text one at a time; see [`Tokenizer::stream`].
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Whether control tokens are written as well.
    special: bool,
    /// Whether a space at the start of the next piece is the one that encoding put there.
    strip: bool,
    utf8: Utf8Stream,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, strip: bool) -> TextStream<'a> {
        TextStream { tokenizer, special: false, strip, utf8: Utf8Stream::default() }
    }

    /// Writes control tokens (`</s>`, `[INST]`) too, or leaves them out (as from the start).
    pub fn special(mut self, special: bool) -> TextStream<'a> {
        self.special = special;
        self
    }

    /// Takes the next token and returns the text that is complete now; often one piece, sometimes none.
    pub fn push(&mut self, id: u32) -> &str {
        let bytes = self.tokenizer.step(id, self.special, &mut self.strip);
        self.utf8.push(&bytes)
    }

    /// The end: what is left of a character that did not become complete, as one U+FFFD.
    pub fn finish(self) -> String {
        self.utf8.finish()
    }
}

/// Bytes to text, keeping back the start of a character until the rest comes.
#[derive(Default)]
struct Utf8Stream {
    pending: Vec<u8>,
    text: String,
}

impl Utf8Stream {
    fn push(&mut self, bytes: &[u8]) -> &str {
        self.text.clear();
        self.pending.extend_from_slice(bytes);
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    self.text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(e) => {
                    let (valid, bad) = rest.split_at(e.valid_up_to());
                    self.text.push_str(&String::from_utf8_lossy(valid));
                    let Some(n) = e.error_len() else {
                        rest = bad;
                        break;
                    };
                    self.text.push(char::REPLACEMENT_CHARACTER);
                    rest = &bad[n..];
                }
            }
        }
        let done = self.pending.len() - rest.len();
        self.pending.drain(..done);
        &self.text
    }

    fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::Utf8Stream;

    #[test]
    fn characters_come_whole() {
        // Pushes, what each gives, what the end gives.
        type Case<'a> = (&'a [&'a [u8]], &'a [&'a str], &'a str);
        let cases: &[Case] = &[
            (&[], &[], ""),
            (&[b""], &[""], ""),
            (&[b"a", b"bc"], &["a", "bc"], ""),
            (&[b"\xf0", b"\x9f", b"\x98", b"\x80!"], &["", "", "", "\u{1f600}!"], ""),
            (&[b"a\xc3", b"\xa9"], &["a", "\u{e9}"], ""),
            // A byte that can begin nothing is replaced at once.
            (&[b"\xff", b"a"], &["\u{fffd}", "a"], ""),
            (&[b"\x80\x80"], &["\u{fffd}\u{fffd}"], ""),
            // A character that the next byte breaks off.
            (&[b"\xe4\xbd", b"a"], &["", "\u{fffd}a"], ""),
            (&[b"\xe4\xbd", b"\xe4\xbd\xa0"], &["", "\u{fffd}\u{4f60}"], ""),
            // A character that never ends.
            (&[b"x\xf0\x9f\x98"], &["x"], "\u{fffd}"),
            // Surrogates and overlong forms can never become valid.
            (&[b"\xed", b"\xa0", b"\x80"], &["", "\u{fffd}\u{fffd}", "\u{fffd}"], ""),
            (&[b"\xc0", b"\x80"], &["\u{fffd}", "\u{fffd}"], ""),
        ];
        let mut failures = Vec::new();
        for (n, (pushes, expected, end)) in cases.iter().enumerate() {
            let mut stream = Utf8Stream::default();
            let got: Vec<String> = pushes.iter().map(|p| stream.push(p).to_owned()).collect();
            let got_end = stream.finish();
            if got != *expected || got_end != *end {
                failures.push(format!("case {n}: {got:?} then {got_end:?}, expected {expected:?} then {end:?}"));
            }
            let all: Vec<u8> = pushes.concat();
            let whole = got.concat() + &got_end;
            if whole != String::from_utf8_lossy(&all) {
                failures.push(format!("case {n}: the whole is {whole:?}"));
            }
        }
        assert!(failures.is_empty(), "{failures:#?}");
    }
}
