//! `ostro perplexity`: how well a model foretells a text, and how far it is from another model.
//!
//! The text is cut into chunks as llama-perplexity cuts it, each begins with BOS where the model wants one, and the
//! second half of each is scored, so that every token has some context. So the numbers are comparable.

mod base;
mod divergence;
pub(super) mod score;

use super::chunks::{self, Chunks};
use super::model_args::CardModelArgs;
use super::output::write_whole;
use super::{catch_interrupts, input, print, resolve, tell, tell_notes, tell_part};
use crate::engine::{Engine, Model};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, bail};
use base::Base;
use clap::Args;
use divergence::Divergence;
use score::{Likelihood, nlls, parallel};
use std::io::Write;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Instant;

/// Flags of `ostro perplexity`.
#[derive(Args, Debug)]
#[command(mut_arg("ctx_size", |arg| arg.default_value("512").help("Tokens of a chunk; 0 takes the model's context")))]
pub struct PerplexityArgs {
    /// A GGUF file, the first part of a split set, or an alias of the catalogue
    #[arg(value_name = "MODEL", required_unless_present = "model", conflicts_with = "model")]
    positional: Option<String>,

    /// The same, in llama.cpp's way
    #[arg(short = 'm', long, value_name = "MODEL")]
    model: Option<String>,

    /// The text; - is standard input
    #[arg(short = 'f', long, value_name = "FILE", required_unless_present_any = ["kl_divergence", "prompt"])]
    file: Option<PathBuf>,

    /// A text instead of a file
    #[arg(short = 'p', long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    prompt: Option<String>,

    /// Chunks to compute at most; -1 for all
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    chunks: i64,

    /// Move a window by so many tokens and score these, instead of scoring the second half of each chunk. The window
    /// is the chunk and half of this, rounded up to 256, as llama-perplexity has it
    #[arg(long, value_name = "N", conflicts_with_all = ["kl_divergence", "kl_divergence_base"])]
    ppl_stride: Option<usize>,

    /// Write the probabilities of all tokens to a file; with --kl-divergence, read them from there
    #[arg(long, visible_alias = "save-all-logits", value_name = "FILE")]
    kl_divergence_base: Option<PathBuf>,

    /// Compare with the model that wrote --kl-divergence-base; the text is that of the file
    #[arg(long, requires = "kl_divergence_base")]
    kl_divergence: bool,

    #[command(flatten)]
    computing: CardModelArgs,
}

/// Prints the perplexity of a text, or the statistics of how two models differ.
///
/// # Errors
/// A file that cannot be run, a text that is too short, a file of probabilities that does not fit.
pub fn run(args: &PerplexityArgs) -> anyhow::Result<()> {
    let text = args.text()?;
    let resolved = resolve::model(args.positional.as_deref().or(args.model.as_deref()))?;
    let gguf = args.computing.open(&resolved.path)?;
    let model = Model::load(&gguf)?;
    let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
    tell_notes(model.warnings.iter().chain(tokenizer.notes()));
    let options = chunks::engine_options(&args.computing, &model)?;
    let most = usize::try_from(args.chunks).ok();
    if most == Some(0) {
        bail!("--chunks: found 0, expected at least 1, or -1 for all");
    }
    let Some(text) = text else {
        // The flags see to it that there is one.
        let path = args.kl_divergence_base.as_deref().context("--kl-divergence-base: found none")?;
        let bos = tokenizer.bos().filter(|_| tokenizer.adds_bos());
        let (base, mut chunks) = Base::open(path, model.spec.n_vocab, bos)?;
        chunks.n = chunks.n.min(most.unwrap_or(usize::MAX));
        let mut engine = args.computing.engine(&model, &chunks::for_length(chunks.len, options)?)?;
        catch_interrupts()?;
        return compare(&mut engine, &chunks, base);
    };

    let (chunks, wanted, options) = match args.ppl_stride {
        None => {
            let chunks = Chunks::new(&tokenizer, &text, false, options.n_ctx, 0, most)?;
            (chunks, second_half(options.n_ctx), options)
        }
        Some(stride) => {
            if stride == 0 || stride >= options.n_ctx {
                bail!("--ppl-stride: found {stride}, expected 1 to {}, less than a chunk", options.n_ctx - 1);
            }
            let window = (options.n_ctx + stride / 2).next_multiple_of(256);
            let mut chunks = Chunks::new(&tokenizer, &text, false, window, 0, None)?;
            // There, chunks do not begin with BOS.
            (chunks.step, chunks.bos) = (stride, None);
            chunks.n = (chunks.tokens.len() - window).div_ceil(stride).min(most.unwrap_or(usize::MAX));
            (chunks, window - stride - 1..window - 1, chunks::for_length(window, options)?)
        }
    };
    let mut engine = args.computing.engine(&model, &options)?;
    catch_interrupts()?;
    let likelihood = match &args.kl_divergence_base {
        None => evaluate(&mut engine, &chunks, wanted, None)?,
        Some(path) => {
            let mut likelihood = Likelihood::default();
            write_whole(path, |out| {
                let unwritten = || format!("{}: cannot be written", path.display());
                base::write_header(out, &chunks, model.spec.n_vocab).with_context(unwritten)?;
                likelihood = evaluate(&mut engine, &chunks, wanted, Some(out))?;
                Ok(())
            })?;
            likelihood
        }
    };
    print(likelihood.estimate())
}

impl PerplexityArgs {
    /// The text to score; `None` where the file of probabilities has it. As llama.cpp does, a file loses its last
    /// line's end and nothing else.
    fn text(&self) -> anyhow::Result<Option<String>> {
        match (&self.prompt, &self.file) {
            _ if self.kl_divergence => Ok(None),
            (Some(text), _) => Ok(Some(text.clone())),
            (None, Some(path)) => {
                let text = input::file(path)?;
                Ok(Some(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text)))
            }
            (None, None) => bail!("text: found none; give one with -f FILE or -p TEXT"),
        }
    }
}

/// The positions of a chunk that are scored: whose next token is in the second half.
pub(super) fn second_half(len: usize) -> Range<usize> {
    len / 2..len - 1
}

/// Scores all chunks, telling the perplexity after each; `out` gets the probabilities of all tokens.
fn evaluate(
    engine: &mut Engine,
    chunks: &Chunks,
    wanted: Range<usize>,
    mut out: Option<&mut dyn Write>,
) -> anyhow::Result<Likelihood> {
    let mut likelihood = Likelihood::default();
    let mut running = Running::new(chunks, wanted.len());
    let done = chunks.each(engine, wanted, |engine, batch| {
        engine.forward(&batch.tokens)?;
        let (exec, logits, next) = (engine.exec(), engine.logits(), &batch.next);
        running.time(batch.done);
        match &mut out {
            None => running.add(&mut likelihood, nlls(exec, logits, next)),
            Some(out) => {
                let width = engine.model().spec.n_vocab;
                let row = |cpu, i: usize| base::row(cpu, &logits[i * width..(i + 1) * width], next[i]);
                let (rows, nlls): (Vec<_>, Vec<_>) = parallel(exec, next.len(), row).into_iter().unzip();
                for row in rows {
                    out.write_all(&row).context("the file of probabilities cannot be written")?;
                }
                running.add(&mut likelihood, nlls);
            }
        }
        Ok(())
    });
    tell_part("\n");
    done.map(|()| likelihood)
}

/// Tells the perplexity chunk by chunk, as llama-perplexity does.
pub(super) struct Running {
    per_chunk: usize,
    chunks: usize,
    /// Until it is told how long it takes.
    start: Option<Instant>,
}

impl Running {
    /// For chunks of which `per_chunk` tokens are scored.
    pub fn new(chunks: &Chunks, per_chunk: usize) -> Running {
        tell(format_args!(
            "{} tokens, {} chunks of {}, {per_chunk} tokens of each scored",
            chunks.tokens.len(),
            chunks.n,
            chunks.len
        ));
        Running { per_chunk, chunks: chunks.n, start: Some(Instant::now()) }
    }

    /// Tells how long it takes, once the first chunks are done.
    pub fn time(&mut self, done: usize) {
        if let Some(start) = self.start.take_if(|_| done > 0) {
            let seconds = start.elapsed().as_secs_f64() / done as f64;
            let left = seconds * (self.chunks - done) as f64;
            tell(format_args!("{seconds:.2} seconds a chunk, {:.1} minutes to go", left / 60.0));
        }
    }

    /// Counts tokens, and tells the perplexity after each chunk that they complete.
    pub fn add(&self, likelihood: &mut Likelihood, nlls: Vec<f64>) {
        for nll in nlls {
            likelihood.add(nll);
            if likelihood.count().is_multiple_of(self.per_chunk) {
                tell_part(format_args!("[{}]{:.4},", likelihood.count() / self.per_chunk, likelihood.perplexity()));
            }
        }
    }
}

/// Compares all chunks with the base model's probabilities, and prints the statistics.
fn compare(engine: &mut Engine, chunks: &Chunks, mut base: Base) -> anyhow::Result<()> {
    let mut found = Divergence::default();
    let wanted = second_half(chunks.len);
    let per_chunk = wanted.len();
    tell_part(divergence::HEAD);
    let mut rows = Vec::new();
    chunks.each(engine, wanted, |engine, batch| {
        engine.forward(&batch.tokens)?;
        let (exec, logits, next) = (engine.exec(), engine.logits(), &batch.next);
        let width = engine.model().spec.n_vocab;
        base.read_rows(next.len(), &mut rows)?;
        let bytes = base.row_bytes();
        let position = |cpu, i: usize| {
            let row = base::Row::new(&rows[i * bytes..(i + 1) * bytes], width);
            divergence::compare(cpu, &logits[i * width..(i + 1) * width], &row, next[i])
        };
        for position in parallel(exec, next.len(), position) {
            found.add(position);
            if found.count().is_multiple_of(per_chunk) {
                tell_part(found.line(found.count() / per_chunk));
            }
        }
        Ok(())
    })?;
    print(found.report())
}
