//! Holds the import table and the invariants of ARCHITECTURE.md against the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What each module of `src/` may import: itself, and these.
const IMPORTS: &[(&str, &[&str])] = &[
    (
        "commands",
        &[
            "generate",
            "engine",
            "chat",
            "placement",
            "convert",
            "registry",
            "tokenizer",
            "model",
            "gguf",
            "sample",
            "kernels",
        ],
    ),
    ("generate", &["engine", "chat", "tokenizer", "sample"]),
    ("engine", &["placement", "model", "gguf", "kernels"]),
    ("placement", &["model", "kernels"]),
    ("convert", &["tokenizer", "model", "gguf", "kernels"]),
    ("chat", &["tokenizer", "gguf"]),
    ("registry", &[]),
    ("tokenizer", &["gguf"]),
    ("model", &["gguf", "kernels"]),
    ("gguf", &["kernels"]),
    ("sample", &[]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!files.is_empty(), "{folder} has no sources");
    files.sort();
    files
}

/// Lines of code with their numbers: without comments, and without the tests at a file's end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let until = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    let lines = text[..until].lines().enumerate();
    lines.map(|(i, line)| (i + 1, line.split("//").next().unwrap_or(""))).filter(|(_, line)| !line.trim().is_empty())
}

fn check(rule: &str, failures: Vec<String>) {
    assert!(failures.is_empty(), "{rule}:\n{}", failures.join("\n"));
}

/// Every line of code of `files` for which `wrong` says why.
fn lines(files: &[(PathBuf, String)], wrong: impl Fn(&Path, &str) -> Option<String>) -> Vec<String> {
    let mut failures = Vec::new();
    for (path, text) in files {
        for (n, line) in code(text) {
            if let Some(why) = wrong(path, line) {
                failures.push(format!("{}:{n}: {why}: {}", path.display(), line.trim()));
            }
        }
    }
    failures
}

#[test]
fn imports_go_down_only() {
    let known: BTreeSet<&str> = IMPORTS.iter().map(|(module, _)| *module).collect();
    let found: BTreeSet<String> = fs::read_dir(root().join("src"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.is_dir())
        .map(|p| p.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert!(found.iter().map(String::as_str).eq(known.iter().copied()), "modules {found:?}, the table has {known:?}");
    let mut failures = Vec::new();
    for (module, allowed) in IMPORTS {
        failures.extend(lines(&rust_files(&format!("src/{module}")), |_, line| {
            let named = |name: &str| match name {
                "kernels" => line.contains("ostro_kernels"),
                name => line.contains(&format!("crate::{name}::")) || line.contains(&format!("crate::{name};")),
            };
            let all = known.iter().copied().chain(["kernels"]);
            all.filter(|name| name != module && !allowed.contains(name) && named(name))
                .map(|name| format!("{module} must not import {name}"))
                .next()
        }));
    }
    check("imports go down only", failures);
}

#[test]
fn the_kernels_know_shapes_and_slices_only() {
    let files = rust_files("kernels/src");
    let wrong = |_: &Path, line: &str| {
        let words = ["std::fs", "std::path", "std::env", "ostro::", "gguf", "tokenizer"];
        words.iter().find(|w| line.contains(*w)).map(|w| format!("the kernels know no {w}"))
    };
    check("kernels import nothing of ours and touch no file", lines(&files, wrong));
}

#[test]
fn the_engine_knows_no_architecture() {
    let names: Vec<String> = rust_files("src/model/arch")
        .iter()
        .map(|(path, _)| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "mod")
        .collect();
    assert!(names.iter().any(|n| n == "llama"), "{names:?}");
    let names: Vec<String> = names.into_iter().chain(ostro::model::architectures().map(str::to_owned)).collect();
    let wrong = |_: &Path, line: &str| {
        let line = line.to_lowercase();
        names.iter().find(|name| line.contains(name.as_str())).map(|name| format!("names {name}"))
    };
    check("engine knows no architecture by name", lines(&rust_files("src/engine"), wrong));
}

/// What an architecture is stays data.
#[test]
fn an_architecture_is_a_short_file() {
    let files = rust_files("src/model/arch");
    let specs = files.iter().filter(|(path, _)| {
        let name = path.file_stem().unwrap().to_str().unwrap();
        name != "mod" && !name.ends_with("_hf")
    });
    let long: Vec<_> = specs.filter(|(_, text)| text.lines().count() > 100).map(|(path, _)| path).collect();
    assert!(long.is_empty(), "more than 100 lines: {long:?}");
}

#[test]
fn models_touch_no_tensor_data_and_no_file() {
    let wrong = |_: &Path, line: &str| {
        let words = ["std::fs", "File::open", "Gguf::open", ".data(", "quantize"];
        words.iter().find(|w| line.contains(*w)).map(|w| format!("model must not use {w}"))
    };
    check("model does no arithmetic on tensor data and opens no file", lines(&rust_files("src/model"), wrong));
}

#[test]
fn unsafe_is_in_its_places_and_has_its_reason() {
    let is_unsafe = |line: &str| line.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe");
    let wrong = |path: &Path, line: &str| {
        (path != Path::new("src/gguf/mmap.rs") && is_unsafe(line)).then(|| "unsafe outside of src/gguf/mmap.rs".into())
    };
    check("unsafe is in kernels and src/gguf/mmap.rs only", lines(&rust_files("src"), wrong));
    // Blocks and impls in the kernels: clippy's undocumented_unsafe_blocks is an error in CI; it must stay switched on.
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("undocumented_unsafe_blocks = \"warn\""), "the lint for SAFETY comments is off");
    let lib = fs::read_to_string(root().join("src/lib.rs")).unwrap();
    assert!(lib.contains("#![deny(unsafe_code)]"), "src/lib.rs must deny unsafe code");
}

#[test]
fn only_commands_print_and_read_the_environment() {
    let files: Vec<_> = rust_files("src")
        .into_iter()
        .chain(rust_files("kernels/src"))
        .filter(|(p, _)| !p.starts_with("src/commands"))
        .collect();
    let wrong = |_: &Path, line: &str| {
        let words = [
            "println!",
            "eprintln!",
            "print!(",
            "dbg!",
            "stdout()",
            "stderr()",
            "env::var",
            "env::args",
            "process::exit",
        ];
        words.iter().find(|w| line.contains(*w)).map(|w| format!("{w} outside of commands"))
    };
    check("only commands print and read the environment", lines(&files, wrong));
}

#[test]
fn files_are_of_one_idea_and_finished() {
    let files: Vec<_> = ["src", "kernels/src", "kernels/emulator/src", "examples", "tests"]
        .iter()
        .flat_map(|f| rust_files(f))
        .collect();
    let long = files.iter().map(|(path, text)| (path, text.lines().count())).filter(|(_, n)| *n > 700);
    check("no source file has more than 700 lines", long.map(|(p, n)| format!("{}: {n}", p.display())).collect());
    let marks = ["todo!(", "unimplemented!(", "FIXME", "#[ignore"];
    let others = files.iter().filter(|(path, _)| path != Path::new("tests/tidy.rs"));
    let left = others.flat_map(|(path, text)| {
        let found = marks.iter().filter(|m| text.contains(**m));
        found.map(|m| format!("{}: {m} is left", path.display())).collect::<Vec<_>>()
    });
    check("nothing is left undone", left.collect());
}

#[test]
fn test_data_stays_small() {
    let mut total = 0;
    let mut folders = vec![root().join("tests"), root().join("kernels/tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let meta = entry.metadata().unwrap();
            if meta.is_dir() { folders.push(entry.path()) } else { total += meta.len() }
        }
    }
    assert!(total < 5_000_000, "tests hold {total} bytes, at most 5 MB may be committed");
}
