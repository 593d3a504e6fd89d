//! `ostro run`: one prompt, one answer.

use super::answer::{Answer, Flow};
use super::model_args::ModelArgs;
use super::sample_args::SampleArgs;
use super::statistics::Statistics;
use super::{catch_interrupts, input, interrupted, print, resolve, tell, tell_notes};
use crate::chat::{ChatTemplate, Message};
use crate::engine::{Engine, Model, SeqId, Session};
use crate::sample::Sampler;
use crate::tokenizer::{Encode, Tokenizer};
use anyhow::{Context, bail};
use clap::Args;
use indicatif::{HumanDuration, ProgressBar, ProgressState, ProgressStyle};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Instant;

/// Flags of `ostro run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// A GGUF file, the first part of a split set, or an alias of the catalogue [default: the catalogue's default]
    #[arg(value_name = "MODEL", conflicts_with = "model")]
    positional: Option<String>,

    /// The same, in llama.cpp's way
    #[arg(short = 'm', long, value_name = "MODEL")]
    model: Option<String>,

    /// The prompt; - reads it from standard input
    #[arg(short = 'p', long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    prompt: Option<String>,

    /// Read the prompt from a file
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Tokens to generate; -1 or -2 until the model is done or the context full
    #[arg(
        short = 'n',
        long,
        visible_alias = "predict",
        value_name = "N",
        default_value_t = -1,
        value_parser = clap::value_parser!(i64).range(-2..),
        allow_negative_numbers = true
    )]
    n_predict: i64,

    /// Take the prompt as it is, without the model's chat template
    #[arg(long)]
    raw: bool,

    /// Turn \n, \t, \", \\ and \xHH of -p and -r into characters (the default, as in llama.cpp)
    #[arg(short = 'e', long, overrides_with = "no_escape")]
    escape: bool,

    /// Take backslashes as they are, as those of files and pipes always are
    #[arg(long, overrides_with = "escape")]
    no_escape: bool,

    /// Stop where the answer contains this text; may be given more than once
    #[arg(short = 'r', long, value_name = "TEXT", allow_hyphen_values = true)]
    reverse_prompt: Vec<String>,

    /// With --raw: print the continuation alone, without the prompt before it
    #[arg(long)]
    no_display_prompt: bool,

    /// End with a line of statistics (always on a terminal)
    #[arg(long)]
    stats: bool,

    #[command(flatten)]
    sampling: SampleArgs,

    #[command(flatten)]
    computing: ModelArgs,
}

/// Answers one prompt on standard output.
///
/// # Errors
/// No prompt, no model, a file that cannot be run, a prompt that does not fit; a closed pipe as its I/O error.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let prompt = args.prompt_text()?;
    let resolved = resolve::model(args.positional.as_deref().or(args.model.as_deref()))?;
    // From here on, as neither typing nor a download says anything about the model.
    let start = Instant::now();
    let gguf = args.computing.open(&resolved.path)?;
    let file = || gguf.path().display().to_string();
    let model = Model::load(&gguf)?;
    let tokenizer = Tokenizer::from_metadata(gguf.metadata())?;
    tell_notes(model.warnings.iter().chain(tokenizer.notes()));
    let template = if args.raw { None } else { gguf.metadata().str("tokenizer.chat_template")? };
    let tokens = match template {
        Some(source) => chat_prompt(source, &tokenizer, &prompt).with_context(file)?,
        None => {
            let mut tokens = tokenizer.encode(&prompt, Encode { bos: true, special: true });
            // Some vocabularies end every text with EOS; this one goes on.
            if tokenizer.adds_eos() {
                tokens.pop();
            }
            tokens
        }
    };
    if tokens.is_empty() {
        bail!("prompt: found no token in it, expected some text; give it with -p, -f or through a pipe");
    }

    let limit = usize::try_from(args.n_predict).unwrap_or(usize::MAX);
    let most = tokens.len().saturating_add(limit);
    let recommended = resolved.entry.as_ref();
    let context = recommended.and_then(|e| e.context).map(|c| c as usize);
    let options = args.computing.engine_options(&model, most, context)?;
    if tokens.len() > options.n_ctx {
        bail!(
            "prompt: found {} tokens, expected at most the context's {}; give a larger --ctx-size (the model was trained for {}) or a shorter prompt",
            tokens.len(),
            options.n_ctx,
            model.spec.context
        );
    }
    let banned = if args.sampling.ignore_eos { tokenizer.eog().collect() } else { Vec::new() };
    let sampling = recommended.map(|e| e.sampling.clone()).unwrap_or_default();
    let sampling = args.sampling.options(&sampling, banned);
    if args.computing.verbose {
        tell(format_args!(
            "seed {}, temperature {}, top-k {}, top-p {}, min-p {}, repeat penalty {}",
            sampling.seed, sampling.temp, sampling.top_k, sampling.top_p, sampling.min_p, sampling.repeat_penalty
        ));
    }
    let mut sampler = Sampler::new(sampling);
    tokens.iter().for_each(|&t| sampler.accept(t));

    let mut engine = Engine::new(&model, &options);
    let mut session = Session::new(&mut engine, SeqId(0));
    let stops: Vec<_> = args.reverse_prompt.iter().map(|text| args.unescaped(text)).collect();
    let mut answer = Answer::new(&tokenizer, tokens.last().copied(), &stops);
    if template.is_none() && !args.no_display_prompt {
        print(&prompt)?;
    }
    let mut stats = Statistics::new(start, model.account.read_per_token, options.kv, &model.spec);
    catch_interrupts()?;
    let mut next = |row: &[f32]| {
        let token = sampler.sample(row).with_context(file)?;
        sampler.accept(token);
        Ok(token)
    };
    let ended = generate(&mut session, &tokens, limit, &mut next, &mut answer, &mut stats)?;
    answer.finish()?;
    if std::io::stdout().is_terminal() {
        print("\n")?;
    } else if std::io::stderr().is_terminal() {
        // The text may have come to it through a pipe, and ^C may have.
        tell("");
    }
    if ended == End::ContextFull {
        let n_ctx = session.tokens().len();
        tell(format_args!("stopped: the context of {n_ctx} tokens is full; give a larger --ctx-size to go on"));
    }
    if args.stats || interrupted() || std::io::stderr().is_terminal() {
        tell(stats.line());
    }
    Ok(())
}

/// Why a generation ended.
#[derive(PartialEq, Eq)]
enum End {
    Done,
    ContextFull,
}

fn generate(
    session: &mut Session,
    prompt: &[u32],
    limit: usize,
    next: &mut dyn FnMut(&[f32]) -> anyhow::Result<u32>,
    answer: &mut Answer,
    stats: &mut Statistics,
) -> anyhow::Result<End> {
    let bar = prompt_bar(prompt.len());
    let mut logits = session.feed(prompt, |done| {
        bar.set_position(done as u64);
        !interrupted()
    })?;
    bar.finish_and_clear();
    if logits.is_none() {
        stats.prompt_done(session.tokens().len());
        return Ok(End::Done);
    }
    stats.prompt_done(prompt.len());
    let mut made = 0;
    while let Some(row) = logits.filter(|_| made < limit && !interrupted()) {
        let token = next(row)?;
        stats.token(session.tokens().len());
        made += 1;
        if answer.push(token)? == Flow::Stop || made == limit {
            return Ok(End::Done);
        }
        if session.room() == 0 {
            return Ok(End::ContextFull);
        }
        logits = session.feed(&[token], |_| true)?;
    }
    Ok(End::Done)
}

/// A bar for prompts that take a while, on a terminal only.
fn prompt_bar(tokens: usize) -> ProgressBar {
    if tokens <= 64 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("reading the prompt {bar:30} {pos}/{len} tokens{left}");
    let left = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
        // Nothing is known before the first micro-batch is done; a failure to write has no one to be told to.
        let _ = if state.pos() == 0 { Ok(()) } else { write!(out, ", {:#} left", HumanDuration(state.eta())) };
    };
    let style = style.expect("the template is a constant").with_key("left", left);
    let bar = ProgressBar::new(tokens as u64).with_style(style);
    bar.tick();
    bar
}

impl RunArgs {
    fn unescaped(&self, text: &str) -> String {
        if self.no_escape { text.to_owned() } else { input::unescape(text) }
    }

    fn prompt_text(&self) -> anyhow::Result<String> {
        let text = match (&self.prompt, &self.file) {
            (Some(p), _) if p == "-" => input::bare(&input::stdin()?).to_owned(),
            (Some(p), _) => self.unescaped(p),
            (None, Some(file)) => input::bare(&input::file(file)?).to_owned(),
            (None, None) if !std::io::stdin().is_terminal() => input::bare(&input::stdin()?).to_owned(),
            (None, None) => bail!("prompt: none was given; give it with -p TEXT, -f FILE or through a pipe"),
        };
        if text.is_empty() {
            bail!("prompt: found an empty text, expected some; give it with -p TEXT, -f FILE or through a pipe");
        }
        Ok(text)
    }
}

/// The prompt as one user message, through the model's chat template, with BOS once.
fn chat_prompt(source: &str, tokenizer: &Tokenizer, prompt: &str) -> anyhow::Result<Vec<u32>> {
    let text = |id: Option<u32>| {
        let piece = id.and_then(|id| tokenizer.piece(id)).unwrap_or_default();
        String::from_utf8_lossy(&piece).into_owned()
    };
    let bos = text(tokenizer.bos());
    let template = ChatTemplate::new(source, &bos, &text(tokenizer.eos()))?;
    let rendered = template.render(&[Message::new("user", prompt)], true)?;
    let has_bos = !bos.is_empty() && rendered.starts_with(&bos);
    Ok(tokenizer.encode_rendered(&rendered, !has_bos))
}
