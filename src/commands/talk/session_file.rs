//! The file of `--session`: a conversation and its cache, so that a later run goes on where this one ended.
//!
//! ```text
//! "OSTROSES"  u32 version  u64 fingerprint of the model  u32 n, n bytes of JSON (Header)  engine state  u64 xxh3 of all before
//! ```
//! Numbers are little-endian. The file is replaced as a whole, so a run that is killed leaves the one of before.

use crate::chat::Message;
use crate::commands::output::write_whole;
use crate::engine::{self, Session};
use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

const MAGIC: &[u8; 8] = b"OSTROSES";
const VERSION: u32 = 1;
/// No conversation has a longer one; what says so is damaged.
const LONGEST_HEADER: u32 = 1 << 30;

#[derive(Serialize, Deserialize)]
struct Header {
    /// The model's name, for people.
    model: String,
    messages: Vec<Map<String, Value>>,
}

/// The model that a session belongs to.
pub struct Owner<'a> {
    /// Its name, for people.
    pub name: &'a str,
    /// What tells it from others.
    pub fingerprint: u64,
}

/// What a file gave.
pub struct Restored {
    /// The conversation.
    pub messages: Vec<Message>,
    /// Why the cache could not be used, if it could not: the conversation has to be computed again.
    pub recompute: Option<String>,
}

/// Writes the conversation and the cache.
///
/// # Errors
/// A file that cannot be written; the one of before stays.
pub fn save(path: &Path, owner: &Owner, messages: &[Message], session: &Session) -> anyhow::Result<()> {
    let messages = messages.iter().map(|m| m.fields().clone()).collect();
    let header = Header { model: owner.name.to_owned(), messages };
    let json = serde_json::to_vec(&header)?;
    let unwritten = || format!("{}: cannot be written", path.display());
    write_whole(path, |out| {
        let mut out = Hashing { inner: out, hash: Xxh3::new() };
        let mut write = || -> io::Result<()> {
            out.write_all(MAGIC)?;
            out.write_all(&VERSION.to_le_bytes())?;
            out.write_all(&owner.fingerprint.to_le_bytes())?;
            let too_long = |_| io::Error::other("the conversation is too long for a session file");
            out.write_all(&u32::try_from(json.len()).map_err(too_long)?.to_le_bytes())?;
            out.write_all(&json)?;
            session.save(&mut out)?;
            let hash = out.hash.digest();
            out.inner.write_all(&hash.to_le_bytes())
        };
        write().with_context(unwritten)
    })
}

/// Reads a file that [`save`] wrote: the cache goes into `session`, which is empty where it cannot be used.
///
/// # Errors
/// A file that is damaged, of another version, or of another model.
pub fn restore(path: &Path, owner: &Owner, session: &mut Session) -> anyhow::Result<Restored> {
    let file = File::open(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let read = read(BufReader::with_capacity(1 << 20, file), owner, session);
    if read.is_err() {
        session.truncate(0);
    }
    read.with_context(|| path.display().to_string())
}

fn read(file: impl Read, owner: &Owner, session: &mut Session) -> anyhow::Result<Restored> {
    let damaged = "found a file that ends too early, expected a whole session; it is damaged: take another --session";
    let mut input = Hashing { inner: file, hash: Xxh3::new() };
    let mut magic = [0; 8];
    input.read_exact(&mut magic).context(damaged)?;
    if magic != *MAGIC {
        bail!("found another kind of file, expected a session that ostro saved; give another name to --session");
    }
    let version = u32::from_le_bytes(array(&mut input).context(damaged)?);
    if version != VERSION {
        bail!("found version {version} of session files, expected {VERSION}; begin a new one");
    }
    let fingerprint = u64::from_le_bytes(array(&mut input).context(damaged)?);
    let length = u32::from_le_bytes(array(&mut input).context(damaged)?);
    if length > LONGEST_HEADER {
        bail!("found a conversation of {length} bytes, expected at most {LONGEST_HEADER}; the file is damaged");
    }
    let mut json = Vec::new();
    input.by_ref().take(u64::from(length)).read_to_end(&mut json)?;
    let header: Header = serde_json::from_slice(&json).context(damaged)?;
    if fingerprint != owner.fingerprint {
        bail!(
            "found a session of the model {:?}, expected one of {:?} in this very file; load that model, or give another name to --session",
            header.model,
            owner.name
        );
    }
    let messages = header.messages.into_iter().map(Message::from_fields).collect::<Result<Vec<_>, _>>()?;
    let mut restored = Restored { messages, recompute: None };
    match session.restore(&mut input) {
        Ok(()) => {}
        Err(engine::Error::StateDiffers(why)) => {
            session.truncate(0);
            restored.recompute = Some(why);
            return Ok(restored);
        }
        Err(e) => return Err(e).context(damaged),
    }
    let wanted = input.hash.digest();
    let found = u64::from_le_bytes(array(&mut input.inner).context(damaged)?);
    if found != wanted {
        bail!("found checksum {found:016x}, expected {wanted:016x}; the file is damaged: take another --session");
    }
    Ok(restored)
}

fn array<const N: usize>(input: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Hashes what passes.
struct Hashing<T> {
    inner: T,
    hash: Xxh3,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(bytes)?;
        self.hash.update(&bytes[..n]);
        Ok(n)
    }
}
