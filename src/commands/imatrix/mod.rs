//! `ostro imatrix`: an importance matrix from a text, and what several of them are together.
//!
//! The text is cut as by `ostro perplexity`, and the sums are those of llama-imatrix: the same tensors, the same counts,
//! by expert where there are experts.

mod collect;
mod statistics;

use super::chunks::{self, Chunks};
use super::model_args::ModelArgs;
use super::output::write_whole;
use super::perplexity::score::{Likelihood, nlls};
use super::perplexity::{Running, second_half};
use super::{catch_interrupts, input, print, resolve, tell, tell_notes, tell_part};
use crate::convert::Imatrix;
use crate::engine::{Engine, Model};
use crate::tokenizer::Tokenizer;
use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use collect::Collector;
use std::path::{Path, PathBuf};

/// Flags of `ostro imatrix`.
#[derive(Args, Debug)]
#[command(mut_arg("ctx_size", |arg| arg.default_value("512").help("Tokens of a chunk; 0 takes the model's context")))]
pub struct ImatrixArgs {
    /// A GGUF file, the first part of a split set, or an alias of the catalogue; not needed to combine files
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,

    /// The same, in llama.cpp's way
    #[arg(short = 'm', long, value_name = "MODEL")]
    model: Option<String>,

    /// The text; - is standard input. Without it the files of --in-file are combined
    #[arg(short = 'f', long, value_name = "FILE", required_unless_present = "in_file")]
    file: Option<PathBuf>,

    /// Where to write
    #[arg(short = 'o', long, visible_alias = "output-file", value_name = "FILE", default_value = "imatrix.gguf")]
    output: PathBuf,

    /// The form of the file: dat is for llama.cpp of before August 2025
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Form::Gguf)]
    output_format: Form,

    /// Collect output.weight too
    #[arg(long)]
    process_output: bool,

    /// Chunks to compute at most; -1 for all
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    chunks: i64,

    /// Chunks to leave out at the beginning
    #[arg(long, visible_alias = "from-chunk", value_name = "N", default_value_t = 0)]
    chunk: usize,

    /// Control tokens in the text become their ids
    #[arg(long)]
    parse_special: bool,

    /// Do not compute the perplexity, which is faster
    #[arg(long)]
    no_ppl: bool,

    /// Write the file every so many chunks (-ofreq)
    #[arg(long, value_name = "N", default_value_t = 10)]
    output_frequency: usize,

    /// Keep a copy every so many chunks, as FILE.at_N; 0 for none
    #[arg(long, value_name = "N", default_value_t = 0)]
    save_frequency: usize,

    /// Add what this importance matrix has; may be given more than once
    #[arg(long, value_name = "FILE")]
    in_file: Vec<PathBuf>,

    /// Print statistics of the one --in-file, and compute nothing
    #[arg(long, requires = "in_file", conflicts_with = "file")]
    show_statistics: bool,

    #[command(flatten)]
    computing: ModelArgs,
}

/// Forms of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// llama.cpp's of today.
    Gguf,
    /// The older one.
    Dat,
}

/// Collects an importance matrix, combines several, or prints what one holds.
///
/// # Errors
/// A file that cannot be run, a text that is too short, importance matrices of another model, what cannot be written.
pub fn run(args: &ImatrixArgs) -> anyhow::Result<()> {
    if args.show_statistics {
        let [path] = args.in_file.as_slice() else {
            bail!("--show-statistics: found {} files, expected one --in-file", args.in_file.len());
        };
        return print(statistics::table(&Imatrix::open(path)?));
    }
    let Some(file) = &args.file else {
        let chunk_size = match Imatrix::open(&args.in_file[0])?.chunk_size {
            0 => 512,
            n => n,
        };
        return args.write(&args.combined(Imatrix::new(chunk_size))?, &args.output);
    };
    let most = usize::try_from(args.chunks).ok();
    if most == Some(0) {
        bail!("--chunks: found 0, expected at least 1, or -1 for all");
    }
    let text = input::file(file)?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let resolved = resolve::model(args.positional.as_deref().or(args.model.as_deref()))?;
    let gguf = args.computing.open(&resolved.path)?;
    let model = Model::load(&gguf)?;
    let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
    tell_notes(model.warnings.iter().chain(tokenizer.notes()));
    let options = chunks::engine_options(&args.computing, &model)?;
    let chunk_size = options.n_ctx as u32;
    let before = args.combined(collect::shapes(&model, chunk_size, args.process_output))?;
    let chunks = Chunks::new(&tokenizer, text, args.parse_special, options.n_ctx, args.chunk, most)?;
    let mut engine = Engine::new(&model, &options);
    catch_interrupts()?;

    let mut collector = Collector::new(&model, chunk_size, args.process_output);
    let together = |collected: &Imatrix| -> anyhow::Result<Imatrix> {
        let mut all = before.clone();
        all.merge(&args.output, collected.clone())?;
        all.datasets.push(file.display().to_string());
        Ok(all)
    };
    let likelihood = args.collect(&mut engine, &chunks, &mut collector, &together)?;
    let all = together(&collector.imatrix)?;
    tell_unseen(&all);
    args.write(&all, &args.output)?;
    match likelihood {
        Some(likelihood) => print(likelihood.estimate()),
        None => Ok(()),
    }
}

impl ImatrixArgs {
    /// Sends all chunks through the model, and writes what is there from time to time. Gives the likelihoods, where
    /// they are wanted.
    fn collect(
        &self,
        engine: &mut Engine,
        chunks: &Chunks,
        collector: &mut Collector,
        together: &dyn Fn(&Imatrix) -> anyhow::Result<Imatrix>,
    ) -> anyhow::Result<Option<Likelihood>> {
        let wanted = if self.no_ppl { 0..0 } else { second_half(chunks.len) };
        let mut likelihood = Likelihood::default();
        let mut running = Running::new(chunks, wanted.len());
        let mut written = 0;
        let finished = chunks.each(engine, wanted, |engine, batch| {
            engine.forward_observed(&batch.tokens, collector)?;
            let done = batch.done;
            running.time(done);
            running.add(&mut likelihood, nlls(engine.exec(), engine.logits(), &batch.next));
            if let Some(name) = &collector.not_finite {
                bail!("{name}: found inputs that are not finite, expected finite ones; the model is damaged");
            }
            let due = |every: usize| every > 0 && done / every > written / every && done < chunks.n;
            if due(self.output_frequency) {
                self.write(&together(&collector.imatrix)?, &self.output)?;
            }
            if due(self.save_frequency) {
                let mut path = self.output.clone().into_os_string();
                path.push(format!(".at_{done}"));
                self.write(&together(&collector.imatrix)?, Path::new(&path))?;
            }
            written = done;
            Ok(())
        });
        tell_part("\n");
        finished?;
        Ok(Some(likelihood).filter(|_| !self.no_ppl))
    }

    /// `start` with all that --in-file names.
    fn combined(&self, mut start: Imatrix) -> anyhow::Result<Imatrix> {
        for path in &self.in_file {
            start.merge(path, Imatrix::open(path)?)?;
        }
        Ok(start)
    }

    fn write(&self, imatrix: &Imatrix, path: &Path) -> anyhow::Result<()> {
        match self.output_format {
            Form::Gguf => Ok(imatrix.write(path)?),
            Form::Dat => write_whole(path, |out| {
                imatrix.write_legacy(out).with_context(|| format!("{}: cannot be written", path.display()))
            }),
        }
    }
}

/// Tells of experts that no token was sent to.
fn tell_unseen(imatrix: &Imatrix) {
    for (name, entry) in imatrix.entries() {
        let unseen = entry.counts.iter().filter(|&&count| count == 0).count();
        if unseen > 0 {
            let all = entry.counts.len();
            tell(format_args!(
                "note: {name}: {unseen} of {all} experts have seen no token; their columns will count evenly; give a longer text"
            ));
        }
    }
}
