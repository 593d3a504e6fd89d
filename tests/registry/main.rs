//! The registry against servers and wheels made here: nothing leaves this machine.

mod catalogue;
mod cli;
mod hf;
mod pip;
mod server;
mod url;

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use ostro::registry::{Catalogue, Entry, Env, Event, Progress};
use sha2::{Digest, Sha256};

/// A folder of its own for each test, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static N: AtomicU32 = AtomicU32::new(0);
        let name = format!("ostro-registry-{}-{}", std::process::id(), N.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn env(&self) -> Env {
        Env {
            cache: self.0.join("home"),
            hf_home: self.0.join("hf"),
            hf_endpoint: "http://127.0.0.1:1".to_owned(),
            hf_token: None,
            python: self.0.join("python3"),
            ca_file: None,
        }
    }

    /// Where the one file of `entry()` belongs.
    fn target(&self) -> PathBuf {
        self.0.join("home/models/toy/toy.gguf")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Writes down what happened.
#[derive(Default)]
struct Log(RefCell<Vec<String>>);

impl Progress for Log {
    fn event(&self, event: Event<'_>) {
        let line = match event {
            Event::Bytes { .. } => return,
            Event::Waiting => "waiting".to_owned(),
            Event::Source(s) => format!("source {s}"),
            Event::Failed(s, e) => format!("failed {s}: {e}"),
            Event::Package { package, .. } => format!("package {package}"),
            Event::Hashing { name, total } => format!("hashing {name} {total}"),
            Event::File { name, done, .. } => format!("file {name} from {done}"),
            Event::Verified(file) => format!("verified {}", file.name),
        };
        self.0.borrow_mut().push(line);
    }
}

impl Log {
    fn has(&self, start: &str) -> bool {
        self.0.borrow().iter().any(|l| l.starts_with(start))
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes that do not repeat soon.
fn content(len: usize) -> Vec<u8> {
    let mut x = 1_u32;
    (0..len)
        .map(|_| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 24) as u8
        })
        .collect()
}

/// An entry `toy` with the file toy.gguf, which is to be `bytes`.
fn entry(bytes: &[u8], sources: &str) -> Entry {
    entry_of(&format!("size = {}\nsha256 = \"{}\"", bytes.len(), sha256(bytes)), sources)
}

fn entry_of(file: &str, sources: &str) -> Entry {
    Catalogue::parse(&models(file, sources), None).unwrap().get("toy").unwrap().clone()
}

/// A models.toml with that one entry.
fn models(file: &str, sources: &str) -> String {
    format!(
        "default = \"toy\"\n[[model]]\nalias = \"toy\"\nname = \"Toy\"\nlicence = \"none\"\n\
         [[model.file]]\nname = \"toy.gguf\"\n{file}\n{sources}\n"
    )
}

fn url_source(url: &str) -> String {
    format!("[[model.source]]\nkind = \"url\"\nurls = [\"{url}\"]\n")
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn part_of(target: &Path) -> PathBuf {
    target.with_file_name("toy.gguf.part")
}

/// The cache holds no file that claims to be verified, and no part of one.
fn assert_clean(scratch: &Scratch) {
    let target = scratch.target();
    assert!(!exists(&target), "an unverified file got its final name");
    assert!(!exists(&part_of(&target)), "a bad part was left behind");
    assert!(!exists(&target.with_file_name(".pip")), "pip's folder was left behind");
}
