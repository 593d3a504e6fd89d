//! Bytes of headers put together by hand, so that they can be wrong; and a folder for the files of a test.

use std::path::{Path, PathBuf};

/// A string of the format.
pub fn string(s: impl AsRef<[u8]>) -> Vec<u8> {
    [&(s.as_ref().len() as u64).to_le_bytes(), s.as_ref()].concat()
}

/// A key with the id of its value type and the bytes of the value.
pub fn key(name: impl AsRef<[u8]>, id: u32, value: impl AsRef<[u8]>) -> Vec<u8> {
    [&string(name), &id.to_le_bytes()[..], value.as_ref()].concat()
}

/// A tensor entry; the number of dimensions stands for itself.
pub fn tensor(name: impl AsRef<[u8]>, dims: &[u64], id: u32, offset: u64) -> Vec<u8> {
    let dims_bytes: Vec<u8> = dims.iter().flat_map(|d| d.to_le_bytes()).collect();
    [&string(name), &(dims.len() as u32).to_le_bytes()[..], &dims_bytes, &id.to_le_bytes(), &offset.to_le_bytes()]
        .concat()
}

/// A version 3 file of these keys and tensors, padded to 32, with `data` zeros behind it.
pub fn file(keys: &[Vec<u8>], tensors: &[Vec<u8>], data: usize) -> Vec<u8> {
    let mut out = [b"GGUF", &3u32.to_le_bytes()[..]].concat();
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((keys.len() as u64).to_le_bytes());
    out.extend(keys.concat());
    out.extend(tensors.concat());
    out.resize(out.len().next_multiple_of(32) + data, 0);
    out
}

/// A fresh folder, removed at the end of the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(test: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("ostro-gguf-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl std::ops::Deref for Folder {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
