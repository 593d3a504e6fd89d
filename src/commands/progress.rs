//! How what takes a while looks: bars on a terminal, a few plain lines elsewhere; always on stderr.

use std::{
    cell::RefCell,
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::tell;
use crate::registry::{Event, Progress, human_bytes};

/// Between two plain lines about the same file.
const PLAIN_INTERVAL: Duration = Duration::from_secs(20);

/// A bar for prompts that take a while, on a terminal only.
pub(super) fn prompt_bar(tokens: usize) -> ProgressBar {
    if tokens <= 64 || !stderr().is_terminal() {
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

/// A bar for weights on their way to a card, on a terminal only.
#[cfg(feature = "cuda")]
pub(super) fn upload_bar(bytes: u64) -> ProgressBar {
    if bytes < 256 << 20 || !stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("copying to the card {bar:30} {bytes}/{total_bytes}, {bytes_per_sec}");
    ProgressBar::new(bytes).with_style(style.expect("the template is a constant"))
}

/// Shows how one thing goes: the pull of a model, the making of a file.
pub struct Bars {
    alias: String,
    terminal: bool,
    now: RefCell<Now>,
}

/// What is being shown.
#[derive(Default)]
struct Now {
    bar: Option<ProgressBar>,
    label: String,
    total: Option<u64>,
    last_line: Option<Instant>,
}

impl Bars {
    /// For the alias that is pulled, or the name of the file.
    pub fn new(alias: &str) -> Self {
        Self { alias: alias.to_owned(), terminal: stderr().is_terminal(), now: RefCell::default() }
    }

    /// Begins something that takes a while.
    pub(super) fn begin(&self, label: String, total: Option<u64>, done: u64) {
        let mut now = self.now.borrow_mut();
        if now.label == label && now.total == total {
            return; // the same file from a new connection
        }
        if let Some(bar) = now.bar.take() {
            bar.finish_and_clear();
        }
        if self.terminal {
            let (bar, template) = match total {
                Some(total) => (
                    ProgressBar::new(total),
                    "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}",
                ),
                None => (ProgressBar::new_spinner(), "{spinner} {msg} {decimal_bytes} {decimal_bytes_per_sec}"),
            };
            bar.set_draw_target(ProgressDrawTarget::stderr());
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_message(tail(&label));
            bar.set_position(done);
            bar.reset_eta();
            bar.enable_steady_tick(Duration::from_millis(100));
            now.bar = Some(bar);
        } else {
            let of = total.map_or(String::new(), |t| format!(", {}", human_bytes(t)));
            let from = if done > 0 { format!(", {} are already here", human_bytes(done)) } else { String::new() };
            tell(format_args!("{}: {label}{of}{from}", self.alias));
            now.last_line = Some(Instant::now());
        }
        (now.label, now.total) = (label, total);
    }

    /// So much of it is done.
    pub(super) fn at(&self, done: u64) {
        let mut now = self.now.borrow_mut();
        if let Some(bar) = &now.bar {
            bar.set_position(done);
        } else if now.last_line.is_some_and(|t| t.elapsed() >= PLAIN_INTERVAL) {
            let of = now.total.map_or(String::new(), |t| format!(" of {}", human_bytes(t)));
            tell(format_args!("{}: {}: {}{of}", self.alias, now.label, human_bytes(done)));
            now.last_line = Some(Instant::now());
        }
    }

    /// A step of what was begun: a number beside the bar, or a line.
    fn step(&self, package: &str, index: usize, of: usize) {
        match &self.now.borrow().bar {
            Some(bar) => bar.set_message(format!("{}, part {index} of {of}", self.alias)),
            None => tell(format_args!("{}: pip download {package} ({index} of {of})", self.alias)),
        }
    }

    /// A line that stays, above the bar.
    pub(super) fn beside(&self, text: &str) {
        match &self.now.borrow().bar {
            Some(bar) => bar.suspend(|| tell(text)),
            None => tell(text),
        }
    }

    /// A line that stays, and ends what was begun.
    pub(super) fn line(&self, text: &str) {
        let mut now = self.now.borrow_mut();
        if let Some(bar) = now.bar.take() {
            bar.finish_and_clear();
        }
        *now = Now::default();
        tell(format_args!("{}: {text}", self.alias));
    }
}

/// The end of a long name, which tells the parts of a split set apart, so that the bar has room.
fn tail(label: &str) -> String {
    const ROOM: usize = 28;
    match label.char_indices().rev().nth(ROOM - 1) {
        Some((at, _)) if at > 0 => format!("…{}", &label[at..]),
        _ => label.to_owned(),
    }
}

impl Progress for Bars {
    fn event(&self, event: Event<'_>) {
        match event {
            Event::Waiting => self.line("another process is pulling it, waiting"),
            Event::Source(source) => self.line(&format!("from {source}")),
            Event::Failed(source, e) => self.line(&format!("{source} failed: {e}")),
            Event::Package { package, index, of } => self.step(package, index, of),
            Event::Hashing { name, total } => self.begin(format!("checking {name}"), Some(total), 0),
            Event::File { name, total, done } => self.begin(name.to_owned(), total, done),
            Event::Bytes { done } => self.at(done),
            Event::Verified(file) => self.line(&format!("{}: sha256 verified", file.name)),
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        if let Some(bar) = self.now.borrow_mut().bar.take() {
            bar.finish_and_clear();
        }
    }
}
