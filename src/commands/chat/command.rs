//! The words that begin with a slash: one table, for parsing, completion and /help.

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Does {
    Clear,
    Copy,
    Edit,
    Exit,
    Help,
    Load,
    Read,
    Regen,
    Save,
    Set,
    Show,
    Stats,
    System,
    Tokens,
    Undo,
}

/// A command.
#[derive(Debug)]
pub struct Command {
    /// Its names, the one to be told first: llama.cpp's words, ollama's and those that fingers find.
    pub names: &'static [&'static str],
    /// What follows it.
    pub takes: &'static str,
    /// What it does, for people.
    pub help: &'static str,
    /// What it does.
    pub does: Does,
}

/// All commands, in the order of /help.
pub const COMMANDS: &[Command] = &[
    command(&["help", "?"], "", "show this list", Does::Help),
    command(&["exit", "bye", "quit"], "", "leave (Ctrl-D as well)", Does::Exit),
    command(&["clear", "reset", "new"], "", "forget all that was said, but not the system prompt", Does::Clear),
    command(&["regen", "retry", "regenerate"], "", "answer once more", Does::Regen),
    command(&["undo"], "", "take back your last message and its answer", Does::Undo),
    command(&["edit"], "[TEXT]", "change your last message and answer it anew", Does::Edit),
    command(&["system"], "[TEXT|none]", "show or set the system prompt", Does::System),
    command(
        &["set"],
        "[KEY VALUE]",
        "set a sampling parameter, ctx-size, n-predict, system, stop, verbose, think, format json",
        Does::Set,
    ),
    command(&["show"], "[WHAT]", "show what is set: info, parameters, system, template, messages, license", Does::Show),
    command(&["stats"], "", "show what the answers cost", Does::Stats),
    command(&["tokens"], "[TEXT]", "show how full the context is, or the token ids of a text", Does::Tokens),
    command(&["read"], "FILE", "put a text file before your next message", Does::Read),
    command(&["save"], "[FILE]", "save conversation and cache; messages alone if the name ends in .json", Does::Save),
    command(&["load"], "[FILE]", "go on with what was saved", Does::Load),
    command(&["copy"], "", "copy the last answer to the clipboard, through the terminal", Does::Copy),
];

const fn command(names: &'static [&'static str], takes: &'static str, help: &'static str, does: Does) -> Command {
    Command { names, takes, help, does }
}

/// What a line is.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'t> {
    /// Something to say.
    Text(&'t str),
    /// A command and what follows it.
    Command(Does, &'t str),
    /// A word with a slash that is no command.
    Unknown(&'t str),
}

/// Tells commands from text. Only a word of letters right after the slash can be one, so that paths stay text.
pub fn parse(line: &str) -> Line<'_> {
    let Some(rest) = line.strip_prefix('/') else { return Line::Text(line) };
    let (word, rest) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
    let known = COMMANDS.iter().find(|c| c.names.iter().any(|n| n.eq_ignore_ascii_case(word)));
    match known {
        Some(command) => Line::Command(command.does, rest.trim()),
        None if !word.is_empty() && word.chars().all(|c| c.is_ascii_alphabetic()) => Line::Unknown(word),
        None => Line::Text(line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_text() {
        let rows = [
            ("hello", Line::Text("hello")),
            ("/exit", Line::Command(Does::Exit, "")),
            ("/BYE", Line::Command(Does::Exit, "")),
            ("/system  You are brief. ", Line::Command(Does::System, "You are brief.")),
            ("/system Two\nlines", Line::Command(Does::System, "Two\nlines")),
            ("/?", Line::Command(Does::Help, "")),
            ("/foo bar", Line::Unknown("foo")),
            ("/usr/bin is a folder", Line::Text("/usr/bin is a folder")),
            ("/ alone", Line::Text("/ alone")),
            (" /exit", Line::Text(" /exit")),
        ];
        for (line, want) in rows {
            assert_eq!(parse(line), want, "{line}");
        }
    }

    #[test]
    fn no_name_stands_twice() {
        let mut names: Vec<_> = COMMANDS.iter().flat_map(|c| c.names).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|two| two[0] != two[1]), "{names:?}");
    }
}
