//! The first bytes of a file, and what a file that is not GGUF looks like.

use super::Fault;

/// Passes when `file` starts with GGUF's magic.
pub(super) fn check(file: &[u8]) -> Result<(), Fault> {
    if file.is_empty() {
        return Err(Fault::Empty);
    }
    if file.starts_with(b"GGUF") {
        return Ok(());
    }
    let first = &file[..file.len().min(4)];
    let (looks_like, next) = guess(file);
    let found = format!("\"{}\"{looks_like}", first.escape_ascii());
    Err(Fault::NotGguf { found, next })
}

/// What the file looks like, and what to do with it.
fn guess(file: &[u8]) -> (&'static str, &'static str) {
    const UNPACK: &str = "unpack it and give the GGUF inside";
    let head = &file[..file.len().min(512)];
    let text = head.trim_ascii_start().to_ascii_lowercase();
    // Magic numbers of GGML's formats before GGUF, as they lie in a little-endian file.
    let old_ggml: [&[u8]; 5] = [b"lmgg", b"fmgg", b"tjgg", b"algg", b"aggl"];
    match head {
        _ if head.starts_with(b"version https://git-lfs") => {
            (" (a git-lfs pointer)", "fetch the file it stands for with `git lfs pull`")
        }
        _ if head.starts_with(b"PK\x03\x04") => (" (a zip archive, a wheel or a PyTorch file)", UNPACK),
        _ if head.starts_with(b"\x1f\x8b") => (" (a gzip archive)", UNPACK),
        _ if head.starts_with(b"\xfd7zXZ\0") => (" (an xz archive)", UNPACK),
        _ if head.starts_with(b"\x28\xb5\x2f\xfd") => (" (a zstd archive)", UNPACK),
        _ if old_ggml.iter().any(|magic| head.starts_with(magic)) => {
            (" (a GGML file from before GGUF)", "download a GGUF file of the model, or convert it again")
        }
        _ if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") => {
            (" (a web page)", "download the file itself: the link leads to a page about it")
        }
        _ if is_safetensors(head) => {
            (" (a safetensors file)", "convert it to GGUF, or download a GGUF file of the model")
        }
        _ if text.starts_with(b"{") => (" (JSON text)", "download the model file itself"),
        _ if head.iter().all(|&b| b == 0) => (" (zeros)", "the download is not complete: download it again"),
        _ => ("", "give a GGUF file"),
    }
}

/// A safetensors file starts with the length of its JSON header (at most 100 MB) and the header's brace.
fn is_safetensors(head: &[u8]) -> bool {
    match head.split_first_chunk::<8>() {
        Some((length, rest)) => u64::from_le_bytes(*length) <= 100_000_000 && rest.first() == Some(&b'{'),
        None => false,
    }
}
