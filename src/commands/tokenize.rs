//! `ostro tokenize`: text to token ids and back, to compare with other programs.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::{ArgGroup, Args};

use super::{print, tell};
use crate::gguf::Gguf;
use crate::tokenizer::{Encode, Tokenizer};

/// Print the token ids of a text, or the text of token ids
#[derive(Args, Debug)]
#[command(group = ArgGroup::new("input").required(true))]
pub struct TokenizeArgs {
    /// GGUF file or alias of the catalogue
    pub model: String,
    /// The text; `-` reads it from standard input
    #[arg(short, long, group = "input", value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// A file with the text
    #[arg(short, long, group = "input", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Print the text of these ids (separated by commas or spaces; a JSON list will do)
    #[arg(long, group = "input", value_name = "IDS")]
    pub decode: Option<String>,
    /// Leave out BOS and EOS, even where the model asks for them
    #[arg(long)]
    pub no_bos: bool,
    /// Take control tokens in the text as text; with --decode, leave them out
    #[arg(long)]
    pub no_special: bool,
    /// Print ids as a JSON list
    #[arg(long, conflicts_with = "decode")]
    pub json: bool,
    /// Print each id with its piece on a line of its own
    #[arg(long, conflicts_with_all = ["json", "decode"])]
    pub pieces: bool,
}

/// Runs the command.
pub fn run(args: &TokenizeArgs) -> anyhow::Result<()> {
    let gguf = Gguf::open(&super::resolve::model_path(Some(&args.model))?)?;
    let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
    for note in tokenizer.notes() {
        tell(format_args!("note: {}: {note}", gguf.path().display()));
    }
    if let Some(ids) = &args.decode {
        let ids = parse_ids(ids, tokenizer.n_vocab())?;
        let mut text = tokenizer.decode(&ids, !args.no_special);
        // A file or another program gets the text and nothing else.
        if std::io::stdout().is_terminal() {
            text.push(b'\n');
        }
        return print(text);
    }
    let ids = tokenizer.encode(&text(args)?, Encode { bos: !args.no_bos, special: !args.no_special });
    let lines = if args.json {
        serde_json::to_string(&ids)? + "\n"
    } else if args.pieces {
        let piece = |id| tokenizer.piece(id).unwrap_or_default();
        let line = |id: u32| format!("{id:6} -> '{}'\n", String::from_utf8_lossy(&piece(id)).escape_debug());
        ids.into_iter().map(line).collect()
    } else {
        ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ") + "\n"
    };
    print(lines)
}

fn text(args: &TokenizeArgs) -> anyhow::Result<String> {
    match (&args.prompt, &args.file) {
        (Some(text), _) if text == "-" => {
            let mut bytes = Vec::new();
            std::io::stdin().lock().read_to_end(&mut bytes).context("standard input")?;
            utf8(bytes, Path::new("standard input"))
        }
        (Some(text), _) => Ok(text.clone()),
        (None, Some(file)) => {
            utf8(std::fs::read(file).with_context(|| format!("{}: cannot be read", file.display()))?, file)
        }
        (None, None) => Err(anyhow!("no text: give one with -p or -f")),
    }
}

fn utf8(bytes: Vec<u8>, source: &Path) -> anyhow::Result<String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow!(
            "{}: found byte 0x{:02x} at offset {at}, expected UTF-8 text; convert it first",
            source.display(),
            e.as_bytes()[at]
        )
    })
}

/// Ids from `1,2,3`, `1 2 3` or `[1, 2, 3]`.
fn parse_ids(text: &str, n_vocab: usize) -> anyhow::Result<Vec<u32>> {
    let text = text.trim();
    let text = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|w| !w.is_empty());
    words
        .map(|word| match word.parse::<u32>() {
            Ok(id) if (id as usize) < n_vocab => Ok(id),
            _ => Err(anyhow!(
                "--decode: found {word:?}, expected token ids from 0 to {}; give them with commas or spaces",
                n_vocab - 1
            )),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(parse_ids(text, 10).ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn text_that_is_not_utf8_is_told_where() {
        let error = utf8(b"ab\xffc".to_vec(), Path::new("x.txt")).unwrap_err().to_string();
        assert_eq!(error, "x.txt: found byte 0xff at offset 2, expected UTF-8 text; convert it first");
    }
}
