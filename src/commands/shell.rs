//! What shells and `man` want to know, made from the flags themselves: `ostro completions`, `ostro man`, `ostro help`.

use super::{Cli, output, print, tell};
use anyhow::{Context, bail};
use clap::{Args, Command, CommandFactory};
use clap_complete::Shell;
use std::io::Write;
use std::path::PathBuf;

/// Flags of `ostro completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Flags of `ostro man`.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// The command whose page is printed [default: ostro itself]
    #[arg(value_name = "COMMAND", conflicts_with = "out_dir")]
    command: Option<String>,

    /// Write the pages of all commands into this folder: ostro.1, ostro-run.1, ...
    #[arg(short = 'o', long, value_name = "FOLDER")]
    out_dir: Option<PathBuf>,
}

/// Flags of `ostro help`.
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub struct HelpArgs {
    /// The command
    #[arg(value_name = "COMMAND")]
    command: Option<String>,

    /// Tell of every flag
    #[arg(long, alias = "all")]
    help: bool,
}

/// Prints what makes a shell complete the commands and flags.
///
/// # Errors
/// Output that cannot be written.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut cli(), "ostro", &mut script);
    print(script)
}

/// Prints or writes manual pages.
///
/// # Errors
/// A command that does not exist, a folder that cannot be written to.
pub fn man(args: &ManArgs) -> anyhow::Result<()> {
    // Pages leave out what the first screen leaves out: these are of the flags as they are.
    let mut cli = Cli::command();
    cli.build();
    let Some(folder) = &args.out_dir else {
        return print(page(found(&mut cli, args.command.as_deref())?)?);
    };
    std::fs::create_dir_all(folder).with_context(|| format!("{}: cannot be made", folder.display()))?;
    let mut pages = vec![("ostro".to_owned(), page(&cli)?)];
    for command in cli.get_subcommands() {
        pages.push((format!("ostro-{}", command.get_name()), page(command)?));
    }
    for (name, page) in &pages {
        output::write_whole(&folder.join(format!("{name}.1")), |out| Ok(out.write_all(page)?))?;
    }
    tell(format_args!("{} pages were written to {}", pages.len(), folder.display()));
    Ok(())
}

/// Tells of a command on one screen, or all of it.
///
/// # Errors
/// A command that does not exist.
pub fn help(args: &HelpArgs) -> anyhow::Result<()> {
    let mut cli = cli();
    found(&mut cli, args.command.as_deref())?;
    // What the flag of the same meaning prints.
    let flag = if args.help { "--help" } else { "-h" };
    let words = ["ostro"].into_iter().chain(args.command.as_deref()).chain([flag]);
    match cli.try_get_matches_from(words) {
        Err(help) => print(help.to_string()),
        Ok(_) => Ok(()),
    }
}

/// Flags that stand on the first screen of a command's help, in `-h` and `ostro help`; `--help` tells of all.
const FIRST: &[&str] = &[
    "prompt",
    "file",
    "system_prompt",
    "n_predict",
    "context_shift",
    "session",
    "stats",
    "seed",
    "temp",
    "top-k",
    "top-p",
    "min-p",
    "json_schema",
    "grammar",
    "spec",
    "ctx_size",
    "threads",
    "help",
    "version",
];

/// Commands with more flags than this have only the first of them on the first screen.
const SCREEN: usize = 30;

/// The commands, each with a first screen of help.
pub(super) fn cli() -> Command {
    let names: Vec<String> = Cli::command().get_subcommands().map(|c| c.get_name().to_owned()).collect();
    names.iter().fold(Cli::command(), |cli, name| {
        cli.mut_subcommand(name, |command| {
            if command.get_arguments().count() <= SCREEN {
                return command;
            }
            command.mut_args(|arg| {
                let first = arg.is_positional() || FIRST.contains(&arg.get_id().as_str());
                arg.hide_short_help(!first)
            })
        })
    })
}

/// The command of that name.
fn found<'c>(cli: &'c mut Command, name: Option<&str>) -> anyhow::Result<&'c mut Command> {
    let Some(name) = name else { return Ok(cli) };
    let names: Vec<String> = cli.get_subcommands().map(|c| c.get_name().to_owned()).collect();
    match cli.find_subcommand_mut(name) {
        Some(command) => Ok(command),
        None => bail!("COMMAND: found {name:?}, expected one of {}", names.join(", ")),
    }
}

/// A manual page.
fn page(command: &Command) -> anyhow::Result<Vec<u8>> {
    let mut roff = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut roff)?;
    Ok(roff)
}
