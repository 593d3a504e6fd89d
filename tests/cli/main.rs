//! `ostro` as its users meet it: the process, its output, its errors and its exit codes. The models are made here.

mod bench;
mod chat;
#[path = "../common/mod.rs"]
mod common;
mod errors;
mod imatrix;
mod logits;
mod perplexity;
mod plan;
mod quantize;
mod run;
mod shell;
mod template;
mod terminal;
mod tiny;

use std::{
    ffi::OsStr,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// `ostro`, working in `folder`, with nothing of this machine's settings.
fn ostro(folder: &Path, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostro"));
    command.args(args).current_dir(folder).env_clear().env("HOME", folder).env("PATH", "/usr/bin:/bin");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What a process left.
#[derive(Debug, PartialEq, Eq)]
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Done {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// Runs to the end; `input` comes through a pipe.
fn piped(mut command: Command, input: &[u8]) -> Done {
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    // One that ends at once does not read; that is its affair.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap().into()
}

/// A line of the shell as arguments, without any quoting.
fn words(line: &str) -> Vec<&str> {
    line.split(' ').filter(|w| !w.is_empty()).collect()
}

/// Runs a line that must succeed, with nothing on standard error.
fn answer(folder: &TempDir, line: &str) -> String {
    let done = Done::from(ostro(folder.path(), words(line)).output().unwrap());
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{line}");
    done.out
}
