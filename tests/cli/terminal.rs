//! `ostro chat` on a terminal, driven by tmux: what a person types and sees.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::chat::talker;
use super::common::{real_model, skipped};

/// A terminal of its own, with a shell in a folder.
struct Terminal {
    socket: String,
    folder: TempDir,
}

/// Nothing takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

impl Terminal {
    /// `None`, said aloud, where there is no tmux.
    fn new(folder: TempDir) -> Option<Terminal> {
        if Command::new("tmux").arg("-V").output().is_err() {
            assert!(std::env::var_os("OSTRO_REQUIRE_TMUX").is_none(), "tmux is missing, and OSTRO_REQUIRE_TMUX is set");
            skipped("tmux is missing: nothing was typed on a terminal");
            return None;
        }
        let socket = format!("ostro-{}-{}", std::process::id(), folder.path().file_name()?.to_str()?);
        let terminal = Terminal { socket, folder };
        terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "sh"]);
        terminal.keys(&["PS1='$ '; export OSTRO_HISTORY=$PWD/history; unset NO_COLOR", "Enter"]);
        Some(terminal)
    }

    fn tmux(&self, args: &[&str]) -> String {
        let out = Command::new("tmux").arg("-L").arg(&self.socket).args(args).current_dir(self.folder.path()).output();
        let out = out.unwrap();
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// Types, in tmux's names for keys.
    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"]).trim_end().to_owned()
    }

    /// Waits until the screen is as it should be.
    fn until(&self, what: &str, right: impl Fn(&str) -> bool) -> String {
        let start = Instant::now();
        loop {
            let screen = self.screen();
            if right(&screen) {
                return screen;
            }
            assert!(start.elapsed() < PATIENCE, "waited for {what}, the screen shows\n{screen}");
            std::thread::sleep(Duration::from_millis(40));
        }
    }

    /// Waits until the last line is `line`.
    fn until_last(&self, line: &str) -> String {
        self.until(&format!("the last line {line:?}"), |s| s.lines().last().is_some_and(|last| last.trim_end() == line))
    }

    /// Starts a chat and waits for its prompt.
    fn chat(&self, args: &str) {
        self.keys(&["clear", "Enter"]);
        self.until_last("$");
        self.keys(&[&format!("{} chat {args}", env!("CARGO_BIN_EXE_ostro")), "Enter"]);
        self.until_last(">>>");
    }

    /// Types a line, sees it on the screen, and says it.
    fn ask(&self, line: &str) {
        self.keys(&["-l", line]);
        self.until(&format!("{line:?} to be typed"), |s| s.ends_with(line));
        self.keys(&["Enter"]);
    }

    /// Says a line and waits for the next prompt.
    fn say(&self, line: &str) -> String {
        self.ask(line);
        self.until_last(">>>")
    }

    /// Waits until the answer to what was said last, which ends in `line`, has words of its own.
    fn until_words(&self, line: &str) -> String {
        let words = |s: &str| s.lines().rev().take_while(|l| !l.ends_with(line)).any(|l| l.len() > 10);
        self.until("the first words", |s| s.contains(line) && words(s))
    }

    fn leave(&self) {
        self.keys(&["C-d"]);
        self.until_last("$");
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-L", &self.socket, "kill-server"]).output();
    }
}

/// A terminal in a folder with the small model `m`.
fn small() -> Option<Terminal> {
    Terminal::new(talker())
}

#[test]
fn a_conversation_is_held_and_left() {
    let Some(t) = small() else { return };
    t.chat("m --temp 0 -n 8");
    let screen = t.say("hello");
    assert!(screen.contains("/help lists the commands") && screen.contains(">>> hello"), "{screen}");
    let answer = screen.lines().skip_while(|l| !l.contains(">>> hello")).nth(1).unwrap_or_default();
    assert!(answer.len() >= 8 && answer.chars().all(|c| c.is_ascii_lowercase() || c == ' '), "{screen}");
    t.leave();
    t.keys(&["echo code $?", "Enter"]);
    t.until_last("$");
    assert!(t.screen().contains("code 0"));
}

#[test]
fn control_c_at_the_prompt_clears_it_and_leaves_the_second_time() {
    let Some(t) = small() else { return };
    t.chat("m --temp 0 -n 8");
    t.keys(&["not this", "C-c"]);
    t.until("the warning", |s| s.contains("Ctrl-C once more, or Ctrl-D, leaves"));
    // What is said in between makes the next one a first one again.
    t.say("hi");
    t.keys(&["C-c"]);
    t.until("the second warning", |s| s.matches("Ctrl-C once more").count() == 2);
    t.until_last(">>>");
    t.keys(&["C-c"]);
    t.until_last("$");
}

#[test]
fn several_lines_are_one_message() {
    let Some(t) = small() else { return };
    t.chat("m --temp 0 -n 4");
    t.ask("\"\"\"first");
    t.say("second\"\"\"");
    t.keys(&["-l", "third"]);
    t.keys(&["M-Enter"]);
    t.say("fourth");
    let screen = t.say("/show messages");
    for lines in ["user: first\nsecond\n", "user: third\nfourth\n"] {
        assert!(screen.contains(lines), "{lines:?} in\n{screen}");
    }
    t.leave();
}

#[test]
fn the_last_message_can_be_changed() {
    let Some(t) = small() else { return };
    t.chat("m --temp 0 -n 4");
    t.say("wrong words");
    t.keys(&["/edit", "Enter"]);
    t.until_last(">>> wrong words");
    // To the start of the line, and one word out.
    t.keys(&["C-a", "M-d", "-l", "right"]);
    t.keys(&["C-a"]);
    t.keys(&["-l", "right"]);
    t.keys(&["C-k"]);
    t.until_last(">>> right");
    t.say(" words");
    let screen = t.say("/show messages");
    assert!(screen.contains("user: right words") && !screen.contains("user: wrong words"), "{screen}");
    t.leave();
}

#[test]
fn what_was_typed_is_remembered_after_a_restart() {
    let Some(t) = small() else { return };
    t.chat("m --temp 0 -n 4");
    t.say("remember this");
    t.leave();
    t.chat("m --temp 0 -n 4");
    t.keys(&["Up"]);
    t.until_last(">>> remember this");
    t.keys(&["C-c"]);
    t.leave();
}

#[test]
fn commands_and_files_are_completed() {
    let Some(t) = small() else { return };
    std::fs::write(t.folder.path().join("a-long-name.txt"), "text of the file").unwrap();
    t.chat("m --temp 0 -n 4");
    t.keys(&["/rea", "Tab"]);
    t.until_last(">>> /read");
    t.keys(&["a-l", "Tab"]);
    t.until_last(">>> /read a-long-name.txt");
    t.keys(&["Enter"]);
    t.until("what was read", |s| s.contains("16 characters of a-long-name.txt"));
    t.say("and this");
    let screen = t.say("/show messages");
    assert!(screen.contains("user: text of the file\n\nand this"), "{screen}");
    t.leave();
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let Some(t) = small() else { return };
    let coloured =
        |t: &Terminal| t.tmux(&["capture-pane", "-p", "-e"]).lines().any(|l| l.contains(">>>") && l.contains('\x1b'));
    t.chat("m --temp 0 -n 4");
    assert!(coloured(&t));
    t.leave();
    t.chat("m --temp 0 -n 4 --color off");
    assert!(!coloured(&t));
    t.leave();
    t.keys(&["export NO_COLOR=1", "Enter"]);
    t.chat("m --temp 0 -n 4");
    assert!(!coloured(&t));
    t.leave();
}

/// A real model is slow enough to be interrupted.
fn real() -> Option<(Terminal, String)> {
    let model = real_model("smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")?;
    let folder = TempDir::new().unwrap();
    Some((Terminal::new(folder)?, Path::new(&model).display().to_string()))
}

#[test]
fn an_answer_streams_and_can_be_stopped_and_what_was_said_stays() {
    let Some((t, model)) = real() else { return };
    t.chat(&format!("{model} --temp 0"));
    t.ask("Tell me a very long story about a king.");
    // It comes word by word: the screen is seen to grow.
    let early = t.until_words("about a king.");
    t.until("more words", |s| s.len() > early.len() + 40);
    t.keys(&["C-c"]);
    let screen = t.until_last(">>>");
    assert!(!screen.contains("taken back"), "{screen}");
    let screen = t.say("/show messages");
    assert!(screen.contains("assistant: "), "{screen}");
    let screen = t.say("/tokens");
    assert!(screen.contains("3 messages") || screen.contains("2 messages"), "{screen}");
    // And the talk goes on.
    t.ask("Thank you.");
    t.until_words("Thank you.");
    t.keys(&["C-c"]);
    t.until_last(">>>");
    t.leave();
}

#[test]
fn control_c_in_an_answer_and_once_more_leaves() {
    let Some((t, model)) = real() else { return };
    t.chat(&format!("{model} --temp 0"));
    t.ask("Tell me a very long story about a king.");
    t.until_words("about a king.");
    t.keys(&["C-c"]);
    t.until_last(">>>");
    t.keys(&["C-c"]);
    t.until_last("$");
}

#[test]
fn a_window_may_change_its_size() {
    let Some((t, model)) = real() else { return };
    t.chat(&format!("{model} --temp 0 -n 60"));
    t.keys(&["-l", "Name the days of the week, please, and the months of the year as well."]);
    t.tmux(&["resize-window", "-x", "40", "-y", "15"]);
    t.until("the line wrapped", |s| s.lines().any(|l| l.contains("year as well")));
    t.keys(&["Enter"]);
    t.until_words("well.");
    t.tmux(&["resize-window", "-x", "100", "-y", "30"]);
    t.until_last(">>>");
    let screen = t.say("/stats");
    assert!(screen.contains("1 answers"), "{screen}");
    t.leave();
}
