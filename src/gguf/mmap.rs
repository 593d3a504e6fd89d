//! The bytes of a file: mapped, or read into memory.
//!
//! The map is read only and is the page cache itself, so a file larger than memory can be used,
//! and a second start finds the pages there. Opening touches the pages of the header alone.
//!
//! A file that is truncated by another process while it is mapped ends this process with SIGBUS when a page past the
//! new end is touched; no check can prevent that. Replace model files by renaming, as every downloader does, or use
//! `--no-mmap`.

#![allow(unsafe_code, reason = "mapping a file cannot be safe: another process may change it")]

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapMut, MmapOptions};

use super::error::{MAP, name, plain};
use super::{Error, OpenOptions};

/// The bytes of one file.
#[derive(Debug)]
pub(super) struct FileBytes {
    pub(super) path: PathBuf,
    map: Mmap,
}

impl FileBytes {
    /// Opens `path`. What did not go as asked, without making the file unusable, is added to `warnings`.
    pub(super) fn open(path: &Path, options: &OpenOptions, warnings: &mut Vec<String>) -> Result<FileBytes, Error> {
        let open = |e| Error::io(path, "open the file", e);
        // Asked by the path first, as opening a pipe would wait for its other end.
        let kind = std::fs::metadata(path).map_err(open)?;
        if !kind.is_file() {
            let found = if kind.is_dir() { "a directory" } else { "a pipe or a device" };
            return Err(Error::NotAFile { file: path.to_path_buf(), found });
        }
        let file = File::open(path).map_err(open)?;
        let meta = file.metadata().map_err(open)?;
        let len = usize::try_from(meta.len())
            .map_err(|_| Error::io(path, MAP, io::Error::other("larger than the address space")))?;

        let mapped = if options.mmap && len > 0 {
            match map(&file, len) {
                Ok(map) => Some(map),
                // No room for the map, so none for a copy either.
                Err(e) if e.kind() == io::ErrorKind::OutOfMemory => return Err(Error::io(path, MAP, e)),
                Err(e) => {
                    warnings.push(format!(
                        "{}: cannot map the file ({}), reading it into memory",
                        name(path),
                        plain(&e)
                    ));
                    None
                }
            }
        } else {
            None
        };
        let map = match mapped {
            Some(map) => map,
            None => read(&file, len).map_err(|e| Error::io(path, "read the file into memory", e))?,
        };
        let bytes = FileBytes { path: path.to_path_buf(), map };
        if options.mlock {
            bytes.lock(warnings);
        }
        Ok(bytes)
    }

    /// All bytes of the file.
    pub(super) fn all(&self) -> &[u8] {
        &self.map
    }

    fn lock(&self, warnings: &mut Vec<String>) {
        #[cfg(unix)]
        let locked = self.map.lock();
        #[cfg(not(unix))]
        let locked: io::Result<()> = Err(io::Error::other("not supported on this system"));
        if let Err(e) = locked {
            warnings.push(format!(
                "{}: cannot lock {} bytes in memory ({}), going on without; raise the limit with `ulimit -l unlimited`",
                name(&self.path),
                self.map.len(),
                plain(&e)
            ));
        }
    }
}

/// Maps the file. No populating: a file may be larger than memory, and its header is all that opening needs.
fn map(file: &File, len: usize) -> io::Result<Mmap> {
    // SAFETY: the map is read only and lives as long as the `Mmap` that owns it. Its bytes are only ever used as
    // `&[u8]` and checked where they are interpreted; when another process changes the file the values read change,
    // and when it truncates the file the process ends by a signal (see the module comment). Both are accepted, as in
    // every program that maps its model.
    unsafe { MmapOptions::new().len(len).map(file) }
}

/// Reads the file into anonymous memory, which takes no time to clear and can be locked like a map.
fn read(mut file: &File, len: usize) -> io::Result<Mmap> {
    let mut memory = MmapMut::map_anon(len)?;
    file.read_exact(&mut memory)?;
    memory.make_read_only()
}
