//! Where turns come from: a line editor on a terminal, lines otherwise.

use super::command::COMMANDS;
use crate::commands::{interrupts, tell_part};
use anyhow::Context;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Cmd, CompletionType, Config, Editor, EventHandler, Helper, KeyCode, KeyEvent, Modifiers};
use std::borrow::Cow;
use std::io::{BufRead, IsTerminal, stdin, stdout};
use std::path::PathBuf;

const PROMPT: &str = ">>> ";
/// What begins and ends a text of several lines.
const QUOTES: &str = "\"\"\"";
/// Entries of the history that are kept.
const REMEMBERED: usize = 1000;

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// A line, or several.
    Text(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D, or the end of a pipe.
    End,
}

/// Where turns come from.
pub enum Input {
    /// A person.
    Terminal(Box<Terminal>),
    /// A pipe or a file: a turn a line. `prompt` where a person types after all, and only the output goes elsewhere.
    Lines { prompt: bool },
}

/// The line editor.
pub struct Terminal {
    editor: Editor<Words, FileHistory>,
    history: Option<PathBuf>,
    /// Whether what is typed is remembered.
    pub remembers: bool,
}

impl Input {
    /// A line editor where input and output are a terminal and `simple` is not asked for. `history` is the file of what
    /// was typed before.
    ///
    /// # Errors
    /// A terminal that cannot be set up.
    pub fn new(simple: bool, colour: bool, history: Option<PathBuf>) -> anyhow::Result<Input> {
        let typed = stdin().is_terminal();
        if simple || !typed || !stdout().is_terminal() {
            return Ok(Input::Lines { prompt: typed });
        }
        let config = Config::builder()
            .completion_type(CompletionType::List)
            .auto_add_history(false)
            .max_history_size(REMEMBERED)?
            .history_ignore_dups(true)?
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(Words { files: FilenameCompleter::new(), colour }));
        editor.bind_sequence(KeyEvent(KeyCode::Enter, Modifiers::ALT), EventHandler::Simple(Cmd::Newline));
        if let Some(history) = history.as_deref().filter(|h| h.exists()) {
            // One that cannot be read is no reason not to talk.
            let _ = editor.load_history(history);
        }
        Ok(Input::Terminal(Box::new(Terminal { editor, history, remembers: true })))
    }

    /// Whether a person sits there and sees what is written.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal(_))
    }

    /// The next turn; `first` stands there to be changed.
    ///
    /// # Errors
    /// Input that cannot be read or is no text.
    pub fn read(&mut self, first: &str) -> anyhow::Result<Typed> {
        match self {
            Input::Terminal(terminal) => terminal.read(first),
            Input::Lines { prompt } => {
                if *prompt {
                    tell_part(PROMPT);
                }
                line()
            }
        }
    }
}

/// A line of standard input.
fn line() -> anyhow::Result<Typed> {
    let mut bytes = Vec::new();
    let read = interrupts::waiting(|| stdin().lock().read_until(b'\n', &mut bytes));
    if read.context("standard input")? == 0 {
        return Ok(Typed::End);
    }
    let text = crate::commands::input::utf8(bytes, "standard input")?;
    Ok(Typed::Text(crate::commands::input::bare(&text).to_owned()))
}

impl Terminal {
    fn read(&mut self, first: &str) -> anyhow::Result<Typed> {
        let text = match self.editor.readline_with_initial(PROMPT, (first, "")) {
            Ok(text) => text,
            Err(ReadlineError::Interrupted) => return Ok(Typed::Interrupt),
            Err(ReadlineError::Eof) => return Ok(Typed::End),
            Err(e) => return Err(e).context("terminal"),
        };
        if self.remembers && !text.trim().is_empty() {
            self.remember(&text);
        }
        Ok(Typed::Text(whole(&text)))
    }

    /// A history that cannot be written is no reason to stop.
    fn remember(&mut self, text: &str) {
        let _ = self.editor.add_history_entry(text);
        let Some(path) = &self.history else { return };
        if let Some(folder) = path.parent() {
            let _ = std::fs::create_dir_all(folder);
        }
        let _ = self.editor.append_history(path);
    }
}

/// What was typed, without the quotes around several lines and the backslashes that went on.
fn whole(text: &str) -> String {
    match text.trim().strip_prefix(QUOTES) {
        Some(quoted) => {
            let quoted = quoted.strip_suffix(QUOTES).unwrap_or(quoted);
            let quoted = quoted.strip_prefix('\n').unwrap_or(quoted);
            quoted.strip_suffix('\n').unwrap_or(quoted).to_owned()
        }
        None => text.replace("\\\n", "\n"),
    }
}

/// Whether more has to come before a text is whole.
fn goes_on(text: &str) -> bool {
    match text.trim_start().strip_prefix(QUOTES) {
        Some(quoted) => !quoted.trim_end().ends_with(QUOTES),
        None => text.ends_with('\\'),
    }
}

/// Completion of commands and file names, and the colour of the prompt.
struct Words {
    files: FilenameCompleter,
    colour: bool,
}

impl Helper for Words {}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {
    fn highlight_prompt<'b, 's: 'b, 'p: 'b>(&'s self, prompt: &'p str, _default: bool) -> Cow<'b, str> {
        if self.colour { Cow::Owned(format!("\x1b[1;32m{prompt}\x1b[0m")) } else { Cow::Borrowed(prompt) }
    }
}

impl Validator for Words {
    fn validate(&self, context: &mut ValidationContext) -> rustyline::Result<ValidationResult> {
        Ok(if goes_on(context.input()) { ValidationResult::Incomplete } else { ValidationResult::Valid(None) })
    }
}

impl Completer for Words {
    type Candidate = Pair;

    fn complete(&self, line: &str, at: usize, _: &rustyline::Context) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..at];
        if !typed.starts_with('/') {
            return Ok((at, Vec::new()));
        }
        if typed.contains(char::is_whitespace) {
            return self.files.complete_path(line, at);
        }
        let names = COMMANDS.iter().flat_map(|c| c.names).filter(|name| name.starts_with(&typed[1..]));
        let pair = |name: &&str| Pair { display: format!("/{name}"), replacement: format!("/{name} ") };
        Ok((0, names.map(pair).collect()))
    }
}

/// Where what is typed is remembered: OSTRO_HISTORY (empty: nowhere), else in the folder of such files.
pub fn history_file() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("OSTRO_HISTORY") {
        return (!path.is_empty()).then(|| PathBuf::from(path));
    }
    let state = std::env::var_os("XDG_STATE_HOME").filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = state.or_else(|| Some(std::env::home_dir()?.join(".local").join("state")))?;
    Some(state.join("ostro").join("history"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_lines_are_one_turn() {
        // Typed, whether it goes on, what it says.
        let rows = [
            ("hello", false, "hello"),
            ("one\\", true, "one\\"),
            ("one\\\ntwo", false, "one\ntwo"),
            ("\"\"\"", true, ""),
            ("\"\"\"one", true, "one"),
            ("\"\"\"one\ntwo\"\"\"", false, "one\ntwo"),
            ("\"\"\"\n one\ntwo\n\"\"\"", false, " one\ntwo"),
            ("say \"\"\"this", false, "say \"\"\"this"),
        ];
        for (typed, on, says) in rows {
            assert_eq!((goes_on(typed), whole(typed)), (on, says.to_owned()), "{typed:?}");
        }
    }
}
