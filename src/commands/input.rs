//! What commands are given: texts from files, standard input and flags, and lists of token ids.

use anyhow::{Context, anyhow};
use std::io::Read;
use std::path::Path;

/// All of standard input.
pub(super) fn stdin() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("standard input")?;
    utf8(bytes, "standard input")
}

/// All of a file; `-` is standard input.
pub(super) fn file(path: &Path) -> anyhow::Result<String> {
    if path == Path::new("-") {
        return stdin();
    }
    let bytes = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    utf8(bytes, &path.display().to_string())
}

/// A text without what editors and `echo` put around it: a byte order mark and the last line's end.
pub(super) fn bare(text: &str) -> &str {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

pub(super) fn utf8(bytes: Vec<u8>, source: &str) -> anyhow::Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow!("{source}: found byte 0x{:02x} at offset {at}, expected UTF-8 text; convert it first", e.as_bytes()[at])
    })
}

/// llama.cpp's escapes: \n \r \t \' \" \\ and \xHH; other backslashes stay.
pub(super) fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let plain = match after.first() {
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(&c @ (b'\'' | b'"' | b'\\')) => c,
            Some(b'x') => {
                let code = after.get(1..3).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
                // Above 0x7F one byte alone would not be text.
                match code.filter(u8::is_ascii) {
                    Some(code) => {
                        out.push(code);
                        rest = &after[3..];
                    }
                    None => out.push(byte),
                }
                continue;
            }
            _ => {
                out.push(byte);
                continue;
            }
        };
        out.push(plain);
        rest = &after[1..];
    }
    String::from_utf8(out).expect("only ASCII was replaced by ASCII")
}

/// Ids from `1,2,3`, `1 2 3` or `[1, 2, 3]`, given with `flag`.
pub(super) fn ids(flag: &str, text: &str, n_vocab: usize) -> anyhow::Result<Vec<u32>> {
    let text = text.trim();
    let text = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|w| !w.is_empty());
    words
        .map(|word| match word.parse::<u32>() {
            Ok(id) if (id as usize) < n_vocab => Ok(id),
            _ => Err(anyhow!(
                "{flag}: found {word:?}, expected token ids from 0 to {}; give them with commas or spaces",
                n_vocab - 1
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_llama_cpps() {
        let rows = [
            (r"a\nb\tc", "a\nb\tc"),
            (r#"\"x\" \'y\' \\n"#, "\"x\" 'y' \\n"),
            (r"\x41\x7a\xff\x4", r"Az\xff\x4"),
            (r"\q \", r"\q \"),
            ("ünï", "ünï"),
        ];
        for (given, want) in rows {
            assert_eq!(unescape(given), want, "{given}");
        }
    }

    #[test]
    fn ids_in_every_form() {
        let cases = [
            ("1,2,3", Some(vec![1, 2, 3])),
            ("1 2\n3", Some(vec![1, 2, 3])),
            (" [1, 2, 9] ", Some(vec![1, 2, 9])),
            ("", Some(vec![])),
            ("[]", Some(vec![])),
            ("10", None),
            ("-1", None),
            ("1;2", None),
            ("99999999999", None),
        ];
        for (text, expected) in cases {
            assert_eq!(ids("--decode", text, 10).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_told_where() {
        let error = utf8(b"ab\xffc".to_vec(), "x.txt").unwrap_err().to_string();
        assert_eq!(error, "x.txt: found byte 0xff at offset 2, expected UTF-8 text; convert it first");
    }

    #[test]
    fn bare_texts_lose_one_line_end() {
        for (text, want) in [("a\n", "a"), ("\u{feff}a\r\n", "a"), ("a\n\n", "a\n"), ("a", "a"), ("", "")] {
            assert_eq!(bare(text), want, "{text:?}");
        }
    }
}
