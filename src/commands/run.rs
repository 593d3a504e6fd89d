//! `ostro run`: one prompt, one answer.

use super::talk::{Reply, Room, TalkArgs, said, tell_dropped, too_long};
use super::{catch_interrupts, input, interrupted, print, tell};
use crate::generate::Plan;
use crate::tokenizer::{Encode, Tokenizer};
use anyhow::{Context, bail};
use clap::Args;
use std::io::IsTerminal;
use std::path::PathBuf;

/// Flags of `ostro run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// The prompt; - reads it from standard input
    #[arg(short = 'p', long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    prompt: Option<String>,

    /// Read the prompt from a file
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Take the prompt as it is, without the model's chat template
    #[arg(long, conflicts_with_all = ["chat_template", "chat_template_file", "system_prompt", "system_prompt_file"])]
    raw: bool,

    /// With --raw and --context-shift: tokens of the beginning that stay; -1 all of the prompt
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    keep: i64,

    /// With --raw: print the continuation alone, without the prompt before it
    #[arg(long)]
    no_display_prompt: bool,

    #[command(flatten)]
    talk: TalkArgs,
}

/// Answers one prompt on standard output.
///
/// # Errors
/// No prompt, no model, a file that cannot be run, a prompt that does not fit; a closed pipe as its I/O error.
pub fn run(args: &RunArgs) -> anyhow::Result<()> {
    let prompt = args.prompt_text()?;
    let files = args.talk.open()?;
    let models = files.models()?;
    let tokenizer = &models.tokenizer;
    let form = if args.raw { None } else { args.talk.form(&models)? };
    let mut conversation = match form {
        Some(form) => {
            let mut conversation = args.talk.conversation(form, tokenizer)?;
            conversation.push(said(&prompt));
            Some(conversation)
        }
        None => None,
    };
    let tokens = match &conversation {
        Some(conversation) => conversation.ids().with_context(|| models.file())?,
        None => raw_tokens(tokenizer, &prompt),
    };
    if tokens.is_empty() {
        bail!("prompt: found no token in it, expected some text; give it with -p, -f or through a pipe");
    }

    let limit = args.talk.limit();
    // A session brings what was said before; how much is not known yet.
    let most = if args.talk.session_file().is_some() { usize::MAX } else { tokens.len().saturating_add(limit) };
    let options = args.talk.engine_options(&models, most)?;
    let sampler = args.talk.sampler(&models)?;
    let mut engines = models.engines(&options, &args.talk.computing)?;
    let mut talk = args.talk.talk(&mut engines, sampler);
    if args.talk.resume(&mut talk, &models, conversation.as_mut())?
        && let Some(conversation) = &mut conversation
    {
        conversation.push(said(&prompt));
    }
    let plan = match &mut conversation {
        Some(conversation) => conversation.plan(&mut talk.session, args.talk.shifts()),
        None => Plan::of(&mut talk.session, tokens),
    };
    let plan = plan.map_err(|e| too_long(e, &models))?;
    tell_dropped(plan.dropped);

    catch_interrupts()?;
    if conversation.is_none() && !args.no_display_prompt {
        print(&prompt)?;
    }
    let stops = args.talk.stops();
    let reply = Reply { models: &models, stops: &stops, limit };
    let keep = usize::try_from(args.keep).unwrap_or(plan.kept + plan.feed.len());
    let mut room = match &mut conversation {
        _ if !args.talk.shifts() => Room::None,
        Some(conversation) => Room::Turns(conversation),
        None => Room::Half { keep },
    };
    let given = reply.give(&mut talk, &mut room, &plan.feed, files.start)?;
    if std::io::stdout().is_terminal() {
        print("\n")?;
    } else if std::io::stderr().is_terminal() {
        // The text may have come to it through a pipe, and ^C may have.
        tell("");
    }
    if given.full {
        let n_ctx = talk.session.tokens().len();
        tell(format_args!(
            "stopped: the context of {n_ctx} tokens is full; give a larger --ctx-size, or --context-shift, to go on"
        ));
    }
    if args.talk.stats || interrupted() || std::io::stderr().is_terminal() {
        tell(given.statistics.line());
    }
    if let Some(path) = args.talk.session_file() {
        // An empty answer is no message: some forms refuse one.
        match &mut conversation {
            Some(conversation) if given.text.is_empty() => _ = conversation.undo(),
            Some(conversation) => conversation.answered(&given.drawn, &given.text),
            None => {}
        }
        talk.save(path, &models, conversation.as_ref())?;
    }
    Ok(())
}

/// The tokens of a text that is continued as it is.
fn raw_tokens(tokenizer: &Tokenizer, prompt: &str) -> Vec<u32> {
    let mut tokens = tokenizer.encode(prompt, Encode { bos: true, special: true });
    // Some vocabularies end every text with EOS; this one goes on.
    if tokenizer.adds_eos() {
        tokens.pop();
    }
    tokens
}

impl RunArgs {
    fn prompt_text(&self) -> anyhow::Result<String> {
        let text = match (&self.prompt, &self.file) {
            (Some(p), _) if p == "-" => input::bare(&input::stdin()?).to_owned(),
            (Some(p), _) => self.talk.unescaped(p),
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
