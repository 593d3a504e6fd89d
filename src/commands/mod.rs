//! The command line: flags, one file a subcommand, and everything that is printed.
//!
//! Standard output carries the model's text or the data that was asked for; all else goes to standard error. Only
//! here is the environment read.

pub mod bench;
pub mod chat;
#[cfg(feature = "cuda")]
pub mod cuda_selftest;
pub mod imatrix;
pub mod inspect;
pub mod list;
pub mod logits;
pub mod perplexity;
pub mod plan;
pub mod progress;
pub mod pull;
pub mod quantize;
pub mod resolve;
pub mod rm;
pub mod run;
pub mod shell;
pub mod template;
pub mod tokenize;

mod chunks;
mod grammar_args;
mod input;
mod inspect_model;
mod interrupts;
mod model_args;
mod offload_args;
mod output;
mod sample_args;
mod spelling;
mod statistics;
mod talk;
mod template_args;

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{FromArgMatches, Parser, Subcommand};
use interrupts::{catch as catch_interrupts, interrupted};
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

/// A local runner for large language models in GGUF files.
#[derive(Parser)]
#[command(name = "ostro", version, disable_help_subcommand = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer one prompt
    Run(Box<run::RunArgs>),
    /// Talk with a model
    Chat(Box<chat::ChatArgs>),
    /// Measure how fast models and kernels are here
    Bench(Box<bench::BenchArgs>),
    /// Write a checkpoint or a GGUF file as GGUF of another type
    Quantize(Box<quantize::QuantizeArgs>),
    /// Fetch a model of the catalogue
    Pull(pull::PullArgs),
    /// Show the catalogue and what is cached
    List(list::ListArgs),
    /// Remove a cached model
    Rm(rm::RmArgs),
    /// Show what would be computed where, and how fast that can be, without loading anything
    Plan(Box<plan::PlanArgs>),
    /// Compare every kernel for cards with the CPU, on the card that is here
    #[cfg(feature = "cuda")]
    #[command(name = "cuda-selftest")]
    CudaSelftest(cuda_selftest::SelftestArgs),
    /// Show what a GGUF file holds
    Inspect(inspect::InspectArgs),
    /// Show what a conversation looks like to a model
    Template(template::TemplateCommandArgs),
    /// Text to token ids, or back
    Tokenize(tokenize::TokenizeArgs),
    /// Write the logits of every position to a .npy file
    Logits(logits::LogitsArgs),
    /// Measure how well a model foretells a text, and what quantizing it cost
    Perplexity(perplexity::PerplexityArgs),
    /// Collect an importance matrix: which columns of the weights a text uses most
    Imatrix(imatrix::ImatrixArgs),
    /// Make a shell complete commands and flags
    Completions(shell::CompletionsArgs),
    /// Print or write manual pages
    Man(shell::ManArgs),
    /// Tell of a command on one screen; with --help tell all
    Help(shell::HelpArgs),
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let parsed = shell::cli().try_get_matches_from(spelling::today(std::env::args_os()));
    let cli = match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(e) => {
            // Usage goes to stderr with code 2, --help and --version to stdout with 0; a closed pipe is no failure.
            match e.kind() {
                ErrorKind::DisplayHelp
                | ErrorKind::DisplayVersion
                | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => _ = e.print(),
                _ => tell(usage(&e.to_string())),
            }
            return ExitCode::from(u8::try_from(e.exit_code()).unwrap_or(2));
        }
    };
    let done = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Quantize(args) => quantize::run(args),
        Command::Pull(args) => pull::run(args),
        Command::List(args) => list::run(args),
        Command::Rm(args) => rm::run(args),
        Command::Plan(args) => plan::run(args),
        #[cfg(feature = "cuda")]
        Command::CudaSelftest(args) => cuda_selftest::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Template(args) => template::run(args),
        Command::Tokenize(args) => tokenize::run(args),
        Command::Logits(args) => logits::run(args),
        Command::Perplexity(args) => perplexity::run(args),
        Command::Imatrix(args) => imatrix::run(args),
        Command::Completions(args) => shell::completions(args),
        Command::Man(args) => shell::man(args),
        Command::Help(args) => shell::help(args),
    };
    match done {
        Ok(()) if interrupted() => ExitCode::from(130),
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if is_closed_pipe(&e) => ExitCode::SUCCESS,
        Err(e) => {
            tell(format_args!("error: {e:#}"));
            ExitCode::from(if interrupted() { 130 } else { 1 })
        }
    }
}

/// Whoever read our output has had enough.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}

/// Writes a line to standard error. Nobody can be told when that is closed, and it is no reason to stop.
fn tell(line: impl Display) {
    let _ = writeln!(io::stderr(), "{}", one_line(&line.to_string()));
}

/// Writes to standard error without ending the line: values that come one by one.
fn tell_part(text: impl Display) {
    let mut err = io::stderr().lock();
    let _ = write!(err, "{text}").and_then(|()| err.flush());
}

/// Says what the user of a model should know.
fn tell_notes<'a>(notes: impl Iterator<Item = &'a String>) {
    notes.for_each(|note| tell(format_args!("note: {note}")));
}

/// Writes to standard output and flushes: a reader sees each token as it comes.
fn print(text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref()).and_then(|()| out.flush()).context(STDOUT)
}

const STDOUT: &str = "standard output: cannot be written";

/// What clap says of a wrong command line, without the usage and tips below it.
fn usage(error: &str) -> String {
    let what = error.split("\n\n").next().unwrap_or(error);
    format!("{}; `ostro help` and `ostro COMMAND --help` list what there is", one_line(what))
}

/// Some libraries speak in several lines, and what a file holds must not command the terminal.
fn one_line(text: &str) -> String {
    let line = text.split('\n').map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join(" ");
    let mut out = String::with_capacity(line.len());
    line.chars().for_each(|c| if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) });
    out
}

/// Whether to write colours: on a terminal that has them, or where `when` says so, but never with NO_COLOR.
fn use_colour(when: &str) -> bool {
    let able = || io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb");
    let wanted = when == "on" || when == "auto" && able();
    wanted && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
}
