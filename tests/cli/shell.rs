//! Completions, manual pages and help, all made from the flags.

use std::fs;
use std::process::Command;

use tempfile::TempDir;

use super::common::skipped;
use super::{Done, ostro, words};

fn say(line: &str) -> String {
    let folder = TempDir::new().unwrap();
    let done = Done::from(ostro(folder.path(), words(line)).output().unwrap());
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{line}");
    done.out
}

/// The commands, as help lists them.
fn commands() -> Vec<String> {
    let help = say("help");
    let listed = help.lines().skip_while(|l| !l.starts_with("Commands:")).skip(1).take_while(|l| !l.is_empty());
    listed.filter_map(|l| l.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn help_of_every_command_fits_a_screen_and_help_tells_all() {
    let commands = commands();
    assert!(["run", "chat", "quantize", "template"].iter().all(|c| commands.iter().any(|d| d == c)), "{commands:?}");
    let mut failures = Vec::new();
    for command in &commands {
        let short = say(&format!("help {command}"));
        // A wide terminal of 40 lines; longer lines take two.
        let lines: usize = short.lines().map(|l| l.chars().count().div_ceil(120).max(1)).sum();
        if lines > 40 {
            failures.push(format!("{command}: {lines} lines"));
        }
        if command != "help" {
            assert_eq!(say(&format!("{command} -h")), short, "{command}");
            assert_eq!(say(&format!("{command} --help")), say(&format!("help {command} --help")), "{command}");
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    let all = say("run --help");
    for flag in ["--mirostat", "--dry-multiplier", "--cache-type-k", "--json-schema", "--spec"] {
        assert!(all.contains(flag), "{flag}");
    }
    let folder = TempDir::new().unwrap();
    let done = Done::from(ostro(folder.path(), words("help nonsense")).output().unwrap());
    assert!(
        done.code == Some(1) && done.err.starts_with("error: COMMAND: found \"nonsense\", expected one of run, "),
        "{done:?}"
    );
}

/// What bash completes after some words.
fn completed(script: &str, line: &str) -> Option<Vec<String>> {
    let folder = TempDir::new().unwrap();
    fs::write(folder.path().join("script"), script).unwrap();
    let ask = format!(
        "source ./script; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
         _ostro ostro \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD - 1]}}\"; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let done = Command::new("bash").args(["-c", &ask]).current_dir(folder.path()).output();
    let Ok(done) = done else {
        skipped("bash is missing: nothing was completed");
        return None;
    };
    Some(String::from_utf8(done.stdout).unwrap().lines().map(str::to_owned).collect())
}

#[test]
fn shells_complete_commands_and_flags() {
    let bash = say("completions bash");
    let rows: &[(&str, &[&str])] = &[
        ("ostro ru", &["run"]),
        ("ostro comp", &["completions"]),
        ("ostro run --min", &["--min-p"]),
        ("ostro chat --single", &["--single-turn"]),
        ("ostro completions z", &["zsh"]),
    ];
    for (line, want) in rows {
        let Some(found) = completed(&bash, line) else { break };
        assert_eq!(found, *want, "{line}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = say(&format!("completions {shell}"));
        for command in commands() {
            assert!(script.contains(&command), "{shell}: {command}");
        }
        assert!(script.contains("top-k") && script.contains("mirostat"), "{shell}");
    }
}

#[test]
fn manual_pages_tell_of_every_flag() {
    let page = say("man run");
    assert!(page.contains(".TH ostro-run 1") && page.contains("\\-\\-json\\-schema"), "{page}");
    assert!(say("man").contains("ostro\\-chat(1)"), "{}", say("man"));
    let folder = TempDir::new().unwrap();
    let done = Done::from(ostro(folder.path(), words("man -o pages")).output().unwrap());
    assert_eq!(done.code, Some(0), "{done:?}");
    let mut names: Vec<_> = fs::read_dir(folder.path().join("pages"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    let mut want: Vec<_> = commands().iter().map(|c| format!("ostro-{c}.1")).chain(["ostro.1".to_owned()]).collect();
    want.sort();
    assert_eq!(names, want);
}
