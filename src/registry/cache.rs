//! The local cache: `models/ALIAS/FILE` holds verified files only.
//!
//! A download is written to `FILE.part`, hashed as it grows, synced, and renamed. What was verified is
//! remembered in `.verified.json` by length and time of change, so that 85 GB need not be hashed again.
//! Locks lie in `locks/`, apart from what `rm` deletes: a lock file that is deleted locks nothing.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Entry, Error, FileSpec, IoAt, SourceError, catalogue::is_alias};

/// How much is read or written at a time.
pub(super) const CHUNK: usize = 1 << 20;

/// The folder of one alias.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    pub dir: PathBuf,
    lock: PathBuf,
}

/// What is known of a verified file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Verified {
    size: u64,
    mtime_ns: u64,
    sha256: String,
}

/// How much of an entry is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Nothing.
    Absent,
    /// Something of it, in bytes: an interrupted download, or some of the files.
    Partial(u64),
    /// All of it, verified, in bytes.
    Cached(u64),
}

/// What a file must be.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    pub name: String,
    pub size: Option<u64>,
    pub sha256: String,
}

impl Shelf {
    pub fn new(cache: &Path, alias: &str) -> Self {
        Self { dir: cache.join("models").join(alias), lock: cache.join("locks").join(format!("{alias}.lock")) }
    }

    pub fn path(&self, file: &FileSpec) -> PathBuf {
        self.dir.join(&file.name)
    }

    pub fn part(&self, file: &FileSpec) -> PathBuf {
        self.dir.join(format!("{}.part", file.name))
    }

    /// Whether the file is there as it was verified, and as the catalogue wants it.
    pub fn has(&self, file: &FileSpec) -> bool {
        let Some(known) = self.verified().remove(&file.name) else { return false };
        stamp(&self.path(file)).is_some_and(|(size, mtime_ns)| (size, mtime_ns) == (known.size, known.mtime_ns))
            && file.size.is_none_or(|size| size == known.size)
            && file.sha256.as_ref().is_none_or(|hash| *hash == known.sha256)
    }

    pub fn status(&self, entry: &Entry) -> Status {
        let bytes = tree_bytes(&self.dir);
        if entry.files.iter().all(|f| self.has(f)) {
            Status::Cached(bytes)
        } else if bytes > 0 {
            Status::Partial(bytes)
        } else {
            Status::Absent
        }
    }

    /// Takes the lock of the alias; `waiting` is called once if another process has it.
    pub fn lock(&self, waiting: impl FnOnce()) -> Result<File, IoAt> {
        let file = self.open_lock()?;
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => waiting(),
            Err(TryLockError::Error(e)) => return Err(IoAt::new(&self.lock, "lock")(e)),
        }
        file.lock().map_err(IoAt::new(&self.lock, "lock"))?;
        Ok(file)
    }

    fn open_lock(&self) -> Result<File, IoAt> {
        if let Some(dir) = self.lock.parent() {
            fs::create_dir_all(dir).map_err(IoAt::new(dir, "create the folder"))?;
        }
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.lock)
            .map_err(IoAt::new(&self.lock, "open"))
    }

    /// Gives a complete part its final name if it is what it must be, else deletes it.
    pub fn install(&self, file: &FileSpec, part: Part, expected: &Expected) -> Result<(), SourceError> {
        let path = part.path.clone();
        let (found, size) = part.finish()?;
        if found != expected.sha256 || expected.size.is_some_and(|want| want != size) {
            discard(&path);
            return Err(match expected.size {
                Some(want) if want != size => {
                    SourceError::Size { file: expected.name.clone(), found: size, expected: want }
                }
                _ => SourceError::Hash { file: expected.name.clone(), found, expected: expected.sha256.clone() },
            });
        }
        let target = self.path(file);
        fs::rename(&path, &target).map_err(IoAt::new(&target, "rename the finished download"))?;
        discard(&path); // the note beside it
        sync_dir(&self.dir);
        self.remember(&file.name, &target, found)?;
        Ok(())
    }

    /// Hashes a file that lies under its final name but is not on record as it is now, and keeps it only
    /// if it is right. Without a hash to compare it becomes a part, which the Hub's hash can judge.
    pub fn adopt(&self, file: &FileSpec, tick: impl FnMut(u64)) -> Result<bool, IoAt> {
        let path = self.path(file);
        if !path.is_file() {
            return Ok(false);
        }
        let Some(want) = file.sha256.clone().or_else(|| Some(self.verified().remove(&file.name)?.sha256)) else {
            fs::rename(&path, self.part(file)).map_err(IoAt::new(&path, "set aside as an unverified download"))?;
            return Ok(false);
        };
        if want == hash_file(&path, tick)? {
            self.remember(&file.name, &path, want)?;
            return Ok(true);
        }
        fs::remove_file(&path).map_err(IoAt::new(&path, "remove a file that is not what it should be"))?;
        Ok(false)
    }

    /// Takes a file that was verified elsewhere: by a hard link where possible, else by a copy.
    pub fn take(&self, file: &FileSpec, verified: &Path, sha256: String) -> Result<(), IoAt> {
        let (part, target) = (self.part(file), self.path(file));
        discard(&part);
        if fs::hard_link(verified, &part).is_err() {
            fs::copy(verified, &part).map_err(IoAt::new(&part, "copy into the cache"))?;
        }
        fs::rename(&part, &target).map_err(IoAt::new(&target, "rename"))?;
        sync_dir(&self.dir);
        self.remember(&file.name, &target, sha256)
    }

    fn record(&self) -> PathBuf {
        self.dir.join(".verified.json")
    }

    fn verified(&self) -> BTreeMap<String, Verified> {
        // A record that is lost or damaged costs one more hash, nothing else.
        fs::read(self.record()).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    fn remember(&self, name: &str, path: &Path, sha256: String) -> Result<(), IoAt> {
        let mut all = self.verified();
        let Some((size, mtime_ns)) = stamp(path) else { return Ok(()) };
        all.insert(name.to_owned(), Verified { size, mtime_ns, sha256 });
        let (record, new) = (self.record(), self.dir.join(".verified.json.new"));
        let json = serde_json::to_vec_pretty(&all).unwrap_or_default();
        fs::write(&new, json).and_then(|()| fs::rename(&new, &record)).map_err(IoAt::new(&record, "write"))
    }
}

/// Deletes all files of an alias and returns how many bytes that freed.
pub fn remove(cache: &Path, alias: &str) -> Result<u64, Error> {
    let shelf = Shelf::new(cache, alias);
    if !is_alias(alias) || !shelf.dir.is_dir() {
        return Err(Error::NotCached { alias: alias.to_owned(), dir: cache.join("models") });
    }
    let lock = shelf.open_lock()?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(Error::Busy { alias: alias.to_owned() }),
        Err(TryLockError::Error(e)) => return Err(IoAt::new(&shelf.lock, "lock")(e).into()),
    }
    let bytes = tree_bytes(&shelf.dir);
    fs::remove_dir_all(&shelf.dir).map_err(IoAt::new(&shelf.dir, "remove"))?;
    Ok(bytes)
}

/// A download in progress: every byte written is hashed.
pub(super) struct Part {
    pub path: PathBuf,
    file: File,
    hasher: Sha256,
    len: u64,
}

impl Part {
    /// An empty part; what was there is lost.
    pub fn create(path: &Path) -> Result<Self, IoAt> {
        discard(path); // not truncated: it could be a link to a file of another cache
        let file = File::create(path).map_err(IoAt::new(path, "create"))?;
        Ok(Self { path: path.to_owned(), file, hasher: Sha256::new(), len: 0 })
    }

    /// Goes on with the part that is there: reads it for the hash; `tick` gets the bytes done.
    pub fn resume(path: &Path, mut tick: impl FnMut(u64)) -> Result<Self, IoAt> {
        let io = || IoAt::new(path, "read the interrupted download");
        let mut file = OpenOptions::new().read(true).append(true).open(path).map_err(io())?;
        let (mut hasher, mut len) = (Sha256::new(), 0);
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = file.read(&mut buffer).map_err(io())?;
            if n == 0 {
                return Ok(Self { path: path.to_owned(), file, hasher, len });
            }
            hasher.update(&buffer[..n]);
            len += n as u64;
            tick(len);
        }
    }

    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), IoAt> {
        self.file.write_all(bytes).map_err(IoAt::new(&self.path, "write"))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Starts again with nothing.
    pub fn restart(&mut self) -> Result<(), IoAt> {
        *self = Self::create(&self.path)?;
        Ok(())
    }

    fn finish(self) -> Result<(String, u64), IoAt> {
        self.file.sync_all().map_err(IoAt::new(&self.path, "sync"))?;
        Ok((hex(&self.hasher.finalize()), self.len))
    }
}

/// Where the origin of a part is noted.
pub(super) fn note_of(part: &Path) -> PathBuf {
    let mut name = part.as_os_str().to_owned();
    name.push(".json");
    name.into()
}

/// Deletes a part and its note.
pub(super) fn discard(part: &Path) {
    // A file that cannot be deleted is found again, and judged again, by the next attempt.
    let _ = fs::remove_file(part);
    let _ = fs::remove_file(note_of(part));
}

/// The sha256 of a file; `tick` gets the bytes done.
pub(super) fn hash_file(path: &Path, tick: impl FnMut(u64)) -> Result<String, IoAt> {
    let mut tick = tick;
    let mut file = File::open(path).map_err(IoAt::new(path, "open"))?;
    let (mut hasher, mut buffer, mut done) = (Sha256::new(), vec![0; CHUNK], 0);
    loop {
        let n = file.read(&mut buffer).map_err(IoAt::new(path, "read"))?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
        done += n as u64;
        tick(done);
    }
}

/// Bytes of all files below a folder; 0 if it is not there.
pub(super) fn tree_bytes(dir: &Path) -> u64 {
    let Ok(items) = fs::read_dir(dir) else { return 0 };
    items
        .flatten()
        .map(|item| match item.file_type() {
            Ok(kind) if kind.is_dir() => tree_bytes(&item.path()),
            Ok(kind) if kind.is_file() => item.metadata().map_or(0, |m| m.len()),
            _ => 0,
        })
        .sum()
}

fn stamp(path: &Path) -> Option<(u64, u64)> {
    let meta = fs::metadata(path).ok().filter(|m| m.is_file())?;
    let since = meta.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some((meta.len(), u64::try_from(since.as_nanos()).ok()?))
}

fn sync_dir(dir: &Path) {
    // So that the new name survives a power cut; not every file system can do it, none fails for want of it.
    if let Ok(dir) = File::open(dir) {
        let _ = dir.sync_all();
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}
