//! `ostro tokenize`: text to token ids and back, to compare with other programs.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::{ArgGroup, Args};

use super::{input, print, tell};
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
        let ids = input::ids("--decode", ids, tokenizer.n_vocab())?;
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
        (Some(text), _) if text == "-" => input::stdin(),
        (Some(text), _) => Ok(text.clone()),
        (None, Some(file)) => input::file(file),
        (None, None) => Err(anyhow!("no text: give one with -p or -f")),
    }
}
