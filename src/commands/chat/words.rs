//! What the commands of a conversation do.

use super::command::{COMMANDS, Does};
use super::{Chat, Next};
use crate::chat::Message;
use crate::commands::talk::Talk;
use crate::commands::{input, output, print, tell};
use crate::engine::Session;
use crate::gguf::shown;
use crate::tokenizer::Encode;
use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::io::Write;
use std::path::{Path, PathBuf};

impl Chat<'_> {
    /// Does what a command says.
    pub(super) fn obey(&mut self, does: Does, rest: &str, talk: &mut Talk) -> anyhow::Result<Next> {
        match does {
            Does::Help => help(),
            Does::Exit => return Ok(Next::Leave),
            Does::Clear => {
                self.conversation.clear();
                self.attached.clear();
                tell("forgotten");
            }
            Does::Regen => {
                if self.conversation.undo_answer() {
                    return Ok(Next::Answer);
                }
                bail!("/regen: found no answer to give again; say something first");
            }
            Does::Undo => match self.conversation.undo() {
                Some(text) => tell(format_args!("taken back: {}", start(&text))),
                None => bail!("/undo: found nothing that you said"),
            },
            Does::Edit => return self.edit(rest),
            Does::System => self.system(rest),
            Does::Set => return self.set(rest, talk),
            Does::Show => self.show(rest, talk)?,
            Does::Stats => {
                if !self.cost.is_empty() {
                    tell(&self.cost);
                }
                tell(self.totals.line());
            }
            Does::Tokens => self.tokens(rest, &talk.session)?,
            Does::Read => self.attach(rest)?,
            Does::Save => self.save(rest, talk)?,
            Does::Load => self.load(rest, talk)?,
            Does::Copy => self.copy()?,
        }
        Ok(Next::Read)
    }

    /// On a terminal the last message stands in the next line, to be changed; a text replaces it at once.
    fn edit(&mut self, text: &str) -> anyhow::Result<Next> {
        if text.is_empty() && !self.input.is_terminal() {
            bail!("/edit: found no text, expected the new message");
        }
        let Some(old) = self.conversation.undo() else { bail!("/edit: found nothing that you said") };
        if text.is_empty() {
            self.draft = old;
            return Ok(Next::Read);
        }
        self.conversation.push(Message::new("user", text));
        Ok(Next::Answer)
    }

    pub(super) fn system(&mut self, text: &str) {
        match (text, self.conversation.system()) {
            ("", None) => tell("no system prompt is set"),
            ("", Some(system)) => lines(system),
            ("none", _) => {
                self.conversation.set_system("");
                tell("no system prompt from here on");
            }
            (text, _) => {
                self.conversation.set_system(unquoted(text));
                tell("the system prompt is set");
            }
        }
    }

    fn show(&self, what: &str, talk: &Talk) -> anyhow::Result<()> {
        let (models, conversation) = (self.models, &self.conversation);
        let info = || {
            let spec = &models.model.spec;
            tell(format_args!(
                "model: {}, architecture {}, file {}",
                shown(&spec.name),
                shown(&spec.arch),
                models.file()
            ));
            tell(format_args!(
                "{:.2} billion parameters, {} layers, width {}, {} tokens",
                models.model.manifest.parameters() as f64 / 1e9,
                spec.layers.len(),
                spec.dim,
                spec.n_vocab
            ));
            tell(format_args!("context: {} of {}", talk.session.engine().n_ctx(), spec.context));
        };
        let parameters = || {
            for (name, value) in talk.generator.sampler.options().list() {
                tell(format_args!("{name} {value}"));
            }
            tell(format_args!("n-predict {}", self.limit as i64));
            self.stops.iter().for_each(|stop| tell(format_args!("stop {stop:?}")));
        };
        match what {
            "" => {
                info();
                tell(format_args!("form: {}", conversation.form().name()));
                parameters();
                lines(&format!("system: {}", conversation.system().unwrap_or("none")));
            }
            "info" | "model" => info(),
            "parameters" => parameters(),
            "system" => lines(conversation.system().unwrap_or("no system prompt is set")),
            "template" => lines(conversation.form().source()),
            "license" => {
                let key = "general.license";
                tell(models.metadata().str(key)?.map_or("the file names none".to_owned(), shown));
            }
            "messages" | "history" => {
                for message in conversation.messages() {
                    lines(&format!("{}: {}", message.role(), message.text()));
                }
            }
            other => bail!("/show: found {other:?}, expected info, parameters, system, template, messages or license"),
        }
        Ok(())
    }

    fn tokens(&self, text: &str, session: &Session) -> anyhow::Result<()> {
        if !text.is_empty() {
            let ids = self.models.tokenizer.encode(text, Encode { bos: false, special: true });
            let list: Vec<String> = ids.iter().map(u32::to_string).collect();
            tell(format_args!("{} tokens: {}", ids.len(), list.join(" ")));
            return Ok(());
        }
        let n_ctx = session.engine().n_ctx();
        let held = session.tokens().len();
        let kv = session.engine().kv_types().bytes_per_token(&self.models.model.spec) * held;
        tell(format_args!(
            "{held} of {n_ctx} positions are held ({:.1} MB of cache), {} are free; {} messages",
            kv as f64 / 1e6,
            n_ctx - held,
            self.conversation.messages().len()
        ));
        Ok(())
    }

    fn attach(&mut self, file: &str) -> anyhow::Result<()> {
        if file.is_empty() {
            bail!("/read: found no name, expected one of a text file");
        }
        let text = input::file(Path::new(unquoted(file)))?;
        let text = input::bare(&text);
        self.attached += text;
        self.attached += "\n\n";
        tell(format_args!("{} characters of {file} go before your next message", text.chars().count()));
        Ok(())
    }

    fn save(&self, file: &str, talk: &Talk) -> anyhow::Result<()> {
        let path = self.named(file, "/save")?;
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            let messages: Vec<_> = self.conversation.messages().iter().map(Message::fields).collect();
            output::write_whole(&path, |out| {
                serde_json::to_writer_pretty(&mut *out, &messages)?;
                Ok(out.write_all(b"\n")?)
            })?;
        } else {
            talk.save(&path, self.models, Some(&self.conversation))?;
        }
        tell(format_args!("saved: {}", path.display()));
        Ok(())
    }

    fn load(&mut self, file: &str, talk: &mut Talk) -> anyhow::Result<()> {
        let path = self.named(file, "/load")?;
        if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
            let text = input::file(&path)?;
            let messages = Message::list(&text).with_context(|| path.display().to_string())?;
            self.conversation.resume(messages, &[]);
        } else if !talk.restore(&path, self.models, Some(&mut self.conversation))? {
            bail!("{}: found no such file, expected one that /save wrote", path.display());
        }
        tell(format_args!("loaded: {} messages", self.conversation.messages().len()));
        Ok(())
    }

    /// The file that was named, else that of --session.
    fn named(&self, file: &str, command: &str) -> anyhow::Result<PathBuf> {
        match (file, self.args.talk.session_file()) {
            ("", Some(path)) => Ok(path.to_owned()),
            ("", None) => bail!("{command}: found no name, expected one of a file; with --session it may be left out"),
            (file, _) => Ok(PathBuf::from(unquoted(file))),
        }
    }

    /// Terminals take what is to be copied through a control sequence (OSC 52), over the network too.
    fn copy(&self) -> anyhow::Result<()> {
        if self.answer.is_empty() {
            bail!("/copy: found no answer yet");
        }
        if !self.input.is_terminal() {
            bail!("/copy: found no terminal, expected one that keeps a clipboard");
        }
        print(format!("\x1b]52;c;{}\x07", STANDARD.encode(&self.answer)))?;
        tell(format_args!("{} characters were handed to the terminal's clipboard", self.answer.chars().count()));
        Ok(())
    }
}

fn help() {
    for command in COMMANDS {
        let names: Vec<String> = command.names.iter().map(|n| format!("/{n}")).collect();
        let head = format!("{} {}", names.join(" "), command.takes);
        tell_line(&format!("  {head:28} {}", command.help));
    }
    tell_line("  Alt-Enter begins a new line; so does \\ at a line's end, and \"\"\" quotes several lines.");
    tell_line("  Ctrl-C stops an answer and keeps what was said.");
}

/// Several lines for people, each on its own.
fn lines(text: &str) {
    text.lines().for_each(tell_line);
}

/// A line whose spaces at the start matter.
fn tell_line(line: &str) {
    let mut safe = String::with_capacity(line.len());
    line.chars().for_each(|c| if c.is_control() { safe.extend(c.escape_default()) } else { safe.push(c) });
    let _ = writeln!(std::io::stderr(), "{safe}");
}

/// The start of a text, for people.
fn start(text: &str) -> String {
    let mut start: String = text.chars().take(60).collect();
    if start.len() < text.len() {
        start += "...";
    }
    start
}

/// A value without the quotes that ollama's users put around it.
pub(super) fn unquoted(text: &str) -> &str {
    let inner = text.strip_prefix("\"\"\"").and_then(|t| t.strip_suffix("\"\"\""));
    inner.or_else(|| text.strip_prefix('"').and_then(|t| t.strip_suffix('"'))).unwrap_or(text)
}
