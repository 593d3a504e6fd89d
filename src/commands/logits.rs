//! `ostro logits`: the logits of every position, to compare with other programs.

use super::model_args::CardModelArgs;
use super::output::write_whole;
use super::{catch_interrupts, input, interrupted, resolve, tell_notes};
use crate::engine::{Model, SeqId, Session};
use crate::tokenizer::{Encode, Tokenizer};
use anyhow::{Context, bail};
use clap::Args;
use npyz::WriterBuilder;
use std::path::PathBuf;

/// Flags of `ostro logits`.
#[derive(Args, Debug)]
pub struct LogitsArgs {
    /// A GGUF file, the first part of a split set, or an alias of the catalogue
    model: String,

    /// Token ids (separated by commas or spaces; a JSON list will do)
    #[arg(long, value_name = "IDS", conflicts_with = "prompt")]
    tokens: Option<String>,

    /// A text instead of token ids
    #[arg(short = 'p', long, value_name = "TEXT", allow_hyphen_values = true)]
    prompt: Option<String>,

    /// Where to write: float32, shape [tokens, vocabulary]
    #[arg(short = 'o', long, value_name = "OUT.npy")]
    output: PathBuf,

    #[command(flatten)]
    computing: CardModelArgs,
}

/// Writes the logits of every position.
///
/// # Errors
/// No tokens, a file that cannot be run, a context that is too short, a file that cannot be written.
pub fn run(args: &LogitsArgs) -> anyhow::Result<()> {
    let resolved = resolve::model(Some(&args.model))?;
    let gguf = args.computing.open(&resolved.path)?;
    let model = Model::load(&gguf)?;
    tell_notes(model.warnings.iter());
    let n_vocab = model.spec.n_vocab;
    let tokens = match &args.prompt {
        None => input::ids("--tokens", args.tokens.as_deref().unwrap_or_default(), n_vocab)?,
        Some(text) => {
            let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
            tell_notes(tokenizer.notes().iter());
            tokenizer.encode(text, Encode { bos: true, special: true })
        }
    };
    if tokens.is_empty() {
        bail!("tokens: found none, expected at least one; give --tokens 1,2,3 or -p TEXT");
    }
    let options = args.computing.engine_options(&model, tokens.len(), None)?;
    let mut engine = args.computing.engine(&model, &options)?;
    let mut session = Session::new(&mut engine, SeqId(0));
    catch_interrupts()?;
    let unwritten = || format!("{}: cannot be written", args.output.display());
    write_whole(&args.output, |file| {
        let mut npy = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&[tokens.len() as u64, n_vocab as u64])
            .writer(file)
            .begin_nd()
            .with_context(unwritten)?;
        session.feed_all(&tokens, |rows| -> anyhow::Result<()> {
            if interrupted() {
                bail!("interrupted");
            }
            npy.extend(rows.iter().copied()).with_context(unwritten)
        })?;
        npy.finish().with_context(unwritten)
    })
}
