//! `ostro chat`: a conversation, on a terminal or through a pipe.

mod command;
mod input;
mod set;
mod words;

use super::talk::{Given, Models, Reply, Room, Talk, TalkArgs, Totals, said, tell_dropped, too_long};
use super::{interrupts, is_closed_pipe, print, tell, use_colour};
use crate::chat::Form;
use crate::generate::Conversation;
use anyhow::bail;
use clap::Args;
use command::{Line, parse};
use input::{Input, Typed, history_file};
use std::path::PathBuf;
use std::time::Instant;

/// Flags of `ostro chat`.
#[derive(Args, Debug)]
pub struct ChatArgs {
    /// Say this first
    #[arg(short = 'p', long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "file")]
    prompt: Option<String>,

    /// Say first what is in this file
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// Leave after one answer (-st)
    #[arg(long)]
    single_turn: bool,

    /// Colours: on, off, or auto, which is on a terminal that has them; never with NO_COLOR (-co)
    #[arg(long, value_name = "WHEN", default_value = "auto", value_parser = ["on", "off", "auto"])]
    color: String,

    /// Read plain lines, without the line editor, even on a terminal
    #[arg(long)]
    simple_io: bool,

    #[command(flatten)]
    talk: TalkArgs,
}

/// What happens next.
enum Next {
    /// Another turn is read.
    Read,
    /// The last message is answered.
    Answer,
    /// It is over.
    Leave,
    /// It goes on with a context of another size.
    Context(usize),
}

/// A conversation in progress.
struct Chat<'a> {
    args: &'a ChatArgs,
    models: &'a Models<'a>,
    conversation: Conversation<'a>,
    input: Input,
    /// What is said before anything is read.
    first: Option<String>,
    /// What stands in the next line, to be changed.
    draft: String,
    /// Files that go with the next message.
    attached: String,
    stops: Vec<String>,
    limit: usize,
    verbose: bool,
    /// The last answer.
    answer: String,
    /// What it cost.
    cost: String,
    totals: Totals,
    /// Whether something could not be done.
    failed: bool,
    /// When the work began: for the first answer, with the model's loading.
    start: Option<Instant>,
}

/// Talks until the end of input.
///
/// # Errors
/// A model that cannot be run, a session that cannot be read or written, a closed pipe as its I/O error; through a pipe
/// also where a turn could not be answered.
pub fn run(args: &ChatArgs) -> anyhow::Result<()> {
    let first = match (&args.prompt, &args.file) {
        (Some(text), _) => Some(args.talk.unescaped(text)),
        (None, Some(file)) => Some(super::input::bare(&super::input::file(file)?).to_owned()),
        (None, None) => None,
    };
    let files = args.talk.open()?;
    let models = files.models()?;
    let mut stops = args.talk.stops();
    let form = match args.talk.form(&models)? {
        Some(form) => form,
        None => {
            tell(
                "note: no chat template fits the model; it is talked to as USER and ASSISTANT (--chat-template says otherwise)",
            );
            // No mark ends a turn there: the model would go on and speak for both.
            stops.push("USER:".to_owned());
            Form::wanted("vicuna", "", "")?
        }
    };
    let mut options = args.talk.engine_options(&models, usize::MAX)?;
    let mut sampler = args.talk.sampler(&models)?;
    let colour = use_colour(&args.color);
    let input = Input::new(args.simple_io, colour, history_file())?;
    if input.is_terminal() {
        let name = &models.model.spec.name;
        tell(format_args!("{name}, context {}; /help lists the commands, Ctrl-D leaves", options.n_ctx));
    }
    let mut chat = Chat {
        args,
        models: &models,
        conversation: args.talk.conversation(form, &models.tokenizer)?,
        input,
        first,
        draft: String::new(),
        attached: String::new(),
        stops,
        limit: args.talk.limit(),
        verbose: args.talk.stats,
        answer: String::new(),
        cost: String::new(),
        totals: Totals::default(),
        failed: false,
        start: Some(files.start),
    };
    interrupts::catch_patiently()?;
    let mut begun = false;
    loop {
        let mut engines = models.engines(&options, &args.talk.computing)?;
        let mut talk = args.talk.talk(&mut engines, sampler);
        if !begun && args.talk.resume(&mut talk, &models, Some(&mut chat.conversation))? && chat.input.is_terminal() {
            tell(format_args!("{} messages, to be continued", chat.conversation.messages().len()));
        }
        begun = true;
        let left = chat.converse(&mut talk);
        if let Ok(Some(n_ctx)) = left {
            options.n_ctx = n_ctx;
            sampler = talk.generator.sampler;
            continue;
        }
        // Even where nobody reads on, what was said is kept.
        if let Some(path) = args.talk.session_file() {
            talk.save(path, &models, Some(&chat.conversation))?;
        }
        left?;
        break;
    }
    if chat.failed && !chat.input.is_terminal() {
        bail!("some turns could not be answered, as told above");
    }
    Ok(())
}

impl Chat<'_> {
    /// Takes turns until the end, or until a context of another size is wished for.
    fn converse(&mut self, talk: &mut Talk) -> anyhow::Result<Option<usize>> {
        let mut interrupted = false;
        loop {
            let text = match self.first.take() {
                Some(text) => text,
                None => match self.input.read(&std::mem::take(&mut self.draft))? {
                    Typed::Text(text) => text,
                    Typed::Interrupt if interrupted => return Ok(None),
                    Typed::Interrupt => {
                        tell("Ctrl-C once more, or Ctrl-D, leaves");
                        interrupted = true;
                        continue;
                    }
                    Typed::End => return Ok(None),
                },
            };
            interrupted = false;
            let next = match parse(&text) {
                Line::Text(text) if text.trim().is_empty() => Ok(Next::Read),
                Line::Text(text) => {
                    let text = std::mem::take(&mut self.attached) + text;
                    self.conversation.push(said(&text));
                    Ok(Next::Answer)
                }
                Line::Command(does, rest) => self.obey(does, rest, talk),
                Line::Unknown(word) => Err(anyhow::anyhow!(
                    "/{word}: found no such command; /help lists them, and a space before it makes it text"
                )),
            };
            match self.told(next)? {
                None | Some(Next::Read) => {}
                Some(Next::Leave) => return Ok(None),
                Some(Next::Context(n)) => return Ok(Some(n)),
                Some(Next::Answer) => {
                    let answered = self.answer(talk);
                    if self.told(answered)?.is_none() {
                        // What could not be answered was not said.
                        self.conversation.undo();
                    }
                    if self.args.single_turn {
                        return Ok(None);
                    }
                }
            }
            match interrupts::take() {
                0 => {}
                // The one that stopped the answer counts: the next leaves.
                1 => interrupted = true,
                _ => return Ok(None),
            }
        }
    }

    /// Tells what went wrong and goes on, unless nobody reads on.
    fn told<T>(&mut self, done: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
        match done {
            Ok(done) => Ok(Some(done)),
            Err(e) if is_closed_pipe(&e) => Err(e),
            Err(e) => {
                tell(format_args!("error: {e:#}"));
                self.failed = true;
                Ok(None)
            }
        }
    }

    /// Answers the last message.
    fn answer(&mut self, talk: &mut Talk) -> anyhow::Result<()> {
        let start = self.start.take().unwrap_or_else(Instant::now);
        let shift = self.args.talk.shifts();
        let plan = self.conversation.plan(&mut talk.session, shift).map_err(|e| too_long(e, self.models))?;
        tell_dropped(plan.dropped);
        let reply = Reply { models: self.models, stops: &self.stops, limit: self.limit };
        let mut room = if shift { Room::Turns(&mut self.conversation) } else { Room::None };
        let given = reply.give(talk, &mut room, &plan.feed, start)?;
        print(if self.input.is_terminal() && !given.text.ends_with('\n') { "\n\n" } else { "\n" })?;
        self.totals.add(&given, plan.dropped);
        self.cost = given.statistics.line();
        self.conclude(given, talk);
        if self.verbose {
            tell(&self.cost);
        }
        Ok(())
    }

    /// Keeps what was said.
    fn conclude(&mut self, given: Given, talk: &Talk) {
        if given.text.is_empty() {
            // An empty answer is no message: some forms refuse one.
            tell("note: nothing was said; your message is taken back");
            let taken = self.conversation.undo().unwrap_or_default();
            self.draft = if self.input.is_terminal() && interrupts::interrupted() { taken } else { String::new() };
            return;
        }
        self.conversation.answered(&given.drawn, &given.text);
        self.answer = given.text;
        if given.full {
            let n_ctx = talk.session.tokens().len();
            tell(format_args!(
                "stopped: the context of {n_ctx} tokens is full; /clear or /undo makes room, /set ctx-size N or --context-shift goes on"
            ));
        }
    }
}
