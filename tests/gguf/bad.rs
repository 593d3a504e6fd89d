//! Bad files: each gives one line that names file, thing, found, expected and the next step.

use ostro::gguf::{Error, Gguf, OpenOptions, parse};

use super::raw::{Folder, file, key, string, tensor};

/// Parses `bytes` and compares the message; what differs is added to `failed`.
fn check(failed: &mut Vec<String>, bytes: &[u8], expected: &str) {
    let found = match parse(bytes) {
        Ok(_) => "no error".to_owned(),
        Err(fault) => fault.to_string(),
    };
    if found != expected || found.contains('\n') {
        failed.push(format!("expected: {expected}\n   found: {found}"));
    }
}

/// The first `n` bytes of `file` with `value` at `at`.
fn with(mut file: Vec<u8>, at: usize, value: impl AsRef<[u8]>) -> Vec<u8> {
    file[at..at + value.as_ref().len()].copy_from_slice(value.as_ref());
    file
}

/// An array value: element type, count, elements.
fn array(id: u32, n: u64, elements: &[u8]) -> Vec<u8> {
    [&id.to_le_bytes()[..], &n.to_le_bytes(), elements].concat()
}

#[test]
fn kinds_of_files_that_are_not_gguf() {
    let mut failed = Vec::new();
    let mut safetensors = 20u64.to_le_bytes().to_vec();
    safetensors.extend(b"{\"__metadata__\":{}}");
    #[rustfmt::skip]
    let rows: &[(&[u8], &str)] = &[
        (b"", "size: found 0 bytes, expected a GGUF file; download it again"),
        (b"GG", "magic: found \"GG\", expected \"GGUF\"; give a GGUF file"),
        (b"hello world", "magic: found \"hell\", expected \"GGUF\"; give a GGUF file"),
        (b"PK\x03\x04....", "magic: found \"PK\\x03\\x04\" (a zip archive, a wheel or a PyTorch file), expected \"GGUF\"; unpack it and give the GGUF inside"),
        (b"\xfd7zXZ\0\0", "magic: found \"\\xfd7zX\" (an xz archive), expected \"GGUF\"; unpack it and give the GGUF inside"),
        (b"\x1f\x8b\x08\0", "magic: found \"\\x1f\\x8b\\x08\\x00\" (a gzip archive), expected \"GGUF\"; unpack it and give the GGUF inside"),
        (b"\x28\xb5\x2f\xfd.", "magic: found \"(\\xb5/\\xfd\" (a zstd archive), expected \"GGUF\"; unpack it and give the GGUF inside"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "magic: found \"vers\" (a git-lfs pointer), expected \"GGUF\"; fetch the file it stands for with `git lfs pull`"),
        (b"\n<!DOCTYPE html><html>", "magic: found \"\\n<!D\" (a web page), expected \"GGUF\"; download the file itself: the link leads to a page about it"),
        (b"{\"error\":\"not found\"}", "magic: found \"{\\\"er\" (JSON text), expected \"GGUF\"; download the model file itself"),
        (b"tjgg\x03\0\0\0", "magic: found \"tjgg\" (a GGML file from before GGUF), expected \"GGUF\"; download a GGUF file of the model, or convert it again"),
        (&[0; 100], "magic: found \"\\x00\\x00\\x00\\x00\" (zeros), expected \"GGUF\"; the download is not complete: download it again"),
        (&safetensors, "magic: found \"\\x14\\x00\\x00\\x00\" (a safetensors file), expected \"GGUF\"; convert it to GGUF, or download a GGUF file of the model"),
    ];
    for (bytes, expected) in rows {
        check(&mut failed, bytes, expected);
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn versions_and_counts() {
    let mut failed = Vec::new();
    let empty = || file(&[], &[], 0);
    let damaged = "the file is damaged: download or convert it again";
    let cut = "the file is truncated or damaged: download it again";
    #[rustfmt::skip]
    let rows = [
        (with(empty(), 4, 3u32.to_be_bytes()), "byte order: found a big-endian file of version 3, expected little-endian; turn it around with gguf-py's gguf_convert_endian.py, or download the little-endian file".to_owned()),
        (with(empty(), 4, 1u32.to_le_bytes()), "version: found 1, expected 2 or 3; convert the model again with a current converter".into()),
        (with(empty(), 4, 4u32.to_le_bytes()), "version: found 4, expected 2 or 3; a newer release may read it".into()),
        (with(empty(), 4, 0u32.to_le_bytes()), format!("version: found 0, expected 2 or 3; {damaged}")),
        (b"GGUF".to_vec(), format!("version: found the end of the file after 4 bytes, expected 4 more bytes at byte 4; {cut}")),
        (b"GGUF\x03\0\0\0\0".to_vec(), format!("header: tensors: found the end of the file after 9 bytes, expected 8 more bytes at byte 8; {cut}")),
        (with(empty(), 8, (1u64 << 40).to_le_bytes()), format!("header: tensors: found a count of 1099511627776 at byte 8, expected at most 0 in a file of 32 bytes; {cut}")),
        (with(empty(), 8, u64::MAX.to_le_bytes()), format!("header: tensors: found a count of 18446744073709551615 at byte 8, expected at most 0 in a file of 32 bytes; {cut}")),
        (with(empty(), 16, (1u64 << 63).to_le_bytes()), format!("header: keys: found a count of 9223372036854775808 at byte 16, expected at most 0 in a file of 32 bytes; {cut}")),
    ];
    for (bytes, expected) in rows {
        check(&mut failed, &bytes, &expected);
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn keys() {
    let mut failed = Vec::new();
    let damaged = "the file is damaged: download or convert it again";
    let cut = "the file is truncated or damaged: download it again";
    let nested = |levels: usize| {
        let inner = array(0, 0, &[]);
        key("k", 9, (0..levels).fold(inner, |inner, _| array(9, 1, &inner)))
    };
    let one = |k: Vec<u8>| file(&[k], &[], 0);
    #[rustfmt::skip]
    let rows = [
        (one(key("k", 13, [0; 8])), format!("key k: found value type 13 at byte 33, expected 0 to 12; {damaged}")),
        (one(key("k", 9, array(13, 0, &[]))), format!("key k: found an array of value type 13 at byte 37, expected 0 to 12; {damaged}")),
        (one(key("k", 7, [2])), format!("key k: found bool 2 at byte 37, expected 0 or 1; {damaged}")),
        (one(key("k", 9, array(7, 3, &[0, 1, 7]))), format!("key k: found bool 7 at byte 51, expected 0 or 1; {damaged}")),
        (one(key("k", 8, u64::MAX.to_le_bytes())), format!("key k: found the end of the file after 64 bytes, expected 18446744073709551615 more bytes at byte 45; {cut}")),
        (one(key("k", 9, array(4, 1 << 62, &[]))), format!("key k: found a count of 4611686018427387904 at byte 41, expected at most 3 in a file of 64 bytes; {cut}")),
        (one(key("k", 9, array(8, 1 << 40, &[]))), format!("key k: found a count of 1099511627776 at byte 41, expected at most 1 in a file of 64 bytes; {cut}")),
        (one(key("k", 9, array(9, 1 << 40, &[]))), format!("key k: found a count of 1099511627776 at byte 41, expected at most 1 in a file of 64 bytes; {cut}")),
        (one(nested(8)), format!("key k: found arrays nested deeper than 8 at byte 121, expected fewer levels; {damaged}")),
        (one(key(b"k\xff", 0, [0])), format!("key 0 of 1: found a name that is not UTF-8 at byte 24, expected UTF-8; {damaged}")),
        (one(key("a\nb\x1b[1m", 7, [2])), format!("key a\\nb\\u{{1b}}[1m: found bool 2 at byte 43, expected 0 or 1; {damaged}")),
        (file(&[key("k", 0, [0]), key("k", 0, [1])], &[], 0), format!("key k: found the key a second time at byte 38, expected each key once; {damaged}")),
        (one(key("general.alignment", 4, 24u32.to_le_bytes())), "key general.alignment: found u32 24, expected a power of two; convert the model again".into()),
        (one(key("general.alignment", 4, 0u32.to_le_bytes())), "key general.alignment: found u32 0, expected a power of two; convert the model again".into()),
        (one(key("general.alignment", 8, string("x"))), "key general.alignment: found string \"x\", expected a power of two; convert the model again".into()),
    ];
    for (bytes, expected) in rows {
        check(&mut failed, &bytes, &expected);
    }
    assert!(parse(&one(nested(7))).is_ok());
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn tensors() {
    let mut failed = Vec::new();
    let damaged = "the file is damaged: download or convert it again";
    let one = |t: Vec<u8>| file(&[], &[t], 128);
    let huge = 1u64 << 63;
    let dims_0 = [&string("t")[..], &[0; 4 + 4 + 8]].concat();
    #[rustfmt::skip]
    let rows = [
        (one(dims_0), format!("tensor t: found 0 dimensions at byte 33, expected 1 to 4; {damaged}")),
        (one(tensor("t", &[1, 1, 1, 1, 1], 0, 0)), format!("tensor t: found 5 dimensions at byte 33, expected 1 to 4; {damaged}")),
        (one(tensor("t", &[4, 0], 0, 0)), format!("tensor t: found shape [4, 0] at byte 37, expected no dimension of 0; {damaged}")),
        (one(tensor("t", &[huge, huge], 0, 0)), format!("tensor t: found shape [9223372036854775808, 9223372036854775808] at byte 37, expected less than 2^63 elements and bytes; {damaged}")),
        (one(tensor("t", &[1 << 62], 0, 0)), format!("tensor t: found shape [4611686018427387904] at byte 37, expected less than 2^63 elements and bytes; {damaged}")),
        (one(tensor("t", &[33, 2], 2, 0)), format!("tensor t: found rows of 33 at byte 37, expected rows of a multiple of 32 (Q4_0); {damaged}")),
        (one(tensor("t", &[128, 2], 12, 0)), format!("tensor t: found rows of 128 at byte 37, expected rows of a multiple of 256 (Q4_K); {damaged}")),
        (one(tensor("t", &[32], 4, 0)), "tensor t: found type 4 (Q4_2, which ggml has removed), expected a ggml type of today; quantize the model again, or download a newer file of it".into()),
        (one(tensor("t", &[32], 31, 0)), "tensor t: found type 31 (Q4_0_4_4, which ggml has removed), expected a ggml type of today; quantize the model again, or download a newer file of it".into()),
        (one(tensor("t", &[32], 99, 0)), "tensor t: found type 99, expected a ggml type of today; the file is damaged, or a newer release may read it".into()),
        (one(tensor("t", &[4], 0, 8)), format!("tensor t: found offset 8 at byte 24, expected a multiple of the alignment, 32; {damaged}")),
        (one(tensor("t", &[33], 0, 0)), "tensor t: data ends at byte 196, the file has 192; the file is truncated: download it again".into()),
        (one(tensor("t", &[1], 0, u64::MAX - 31)), format!("tensor t: found offset 18446744073709551584 at byte 24, expected an offset within a file of 192 bytes; {damaged}")),
        (one(tensor(b"t\xff", &[1], 0, 0)), format!("tensor 0 of 1: found a name that is not UTF-8 at byte 24, expected UTF-8; {damaged}")),
        (file(&[], &[tensor("t", &[1], 0, 0), tensor("t", &[1], 0, 32)], 64), format!("tensor t: found the name a second time at byte 57, expected each name once; {damaged}")),
        (file(&[], &[tensor("b", &[1], 0, 32), tensor("a", &[9], 0, 0)], 64), format!("tensor b: found its data to start at byte 128, expected byte 132 or later, where the data of tensor a ends; {damaged}")),
        (file(&[], &[tensor("b", &[1], 0, 32), tensor("a", &[1], 0, 32)], 64), format!("tensor a: found its data to start at byte 128, expected byte 132 or later, where the data of tensor b ends; {damaged}")),
    ];
    for (bytes, expected) in rows {
        check(&mut failed, &bytes, &expected);
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// A header cut anywhere is an error, and says that the file ends.
#[test]
fn every_truncation() {
    let whole = file(
        &[key("general.name", 8, string("x")), key("l", 9, array(8, 2, &[string("a"), string("b")].concat()))],
        &[tensor("a", &[4], 0, 0), tensor("b", &[32], 8, 32)],
        66,
    );
    parse(&whole).unwrap();
    let mut failed = Vec::new();
    for n in 4..whole.len() {
        match parse(&whole[..n]) {
            Ok(_) => failed.push(format!("{n} bytes: no error")),
            Err(e) if !e.to_string().contains("file") => failed.push(format!("{n} bytes: {e}")),
            Err(_) => {}
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn what_the_file_system_says() {
    let folder = Folder::new("io");
    let show = |e: Result<Gguf, Error>| match e {
        Ok(_) => "no error".to_owned(),
        Err(e) => e.to_string().replace(&folder.to_string_lossy().into_owned(), "DIR"),
    };
    folder.write("empty.gguf", b"");
    let mut rows = vec![
        ("none.gguf", "DIR/none.gguf: cannot open the file: no such file, expected a GGUF file; check the path"),
        ("", "DIR/: found a directory, expected a GGUF file; give the path of the file itself"),
        ("empty.gguf", "DIR/empty.gguf: size: found 0 bytes, expected a GGUF file; download it again"),
    ];
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let locked = folder.write("locked.gguf", b"GGUF");
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o0)).unwrap();
        // Root may read it all the same.
        if std::fs::File::open(&locked).is_err() {
            rows.push(("locked.gguf", "DIR/locked.gguf: cannot open the file: permission denied, expected a readable file; change its permissions or its owner"));
        }
    }
    let mut failed = Vec::new();
    for (name, expected) in rows {
        for mmap in [true, false] {
            let found = show(Gguf::open_with(&folder.join(name), &OpenOptions { mmap, mlock: false }));
            if found != expected {
                failed.push(format!("expected: {expected}\n   found: {found}"));
            }
        }
    }
    #[cfg(target_os = "linux")]
    {
        let found = Gguf::open(std::path::Path::new("/dev/null")).map(|_| ()).unwrap_err().to_string();
        let expected = "/dev/null: found a pipe or a device, expected a GGUF file; give the path of the file itself";
        assert_eq!(found, expected);
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
