//! `ostro logits`, `ostro tokenize` and `ostro inspect`: what other programs read.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::tiny::{Experts, Tiny};
use super::{Done, answer, ostro, words};

/// Rows of a .npy file of float32 in C order.
fn read_npy(path: &Path) -> Vec<Vec<f32>> {
    let bytes = fs::read(path).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let length = u16::from_le_bytes([bytes[8], bytes[9]]) as usize;
    let (header, data) = bytes[10..].split_at(length);
    assert_eq!((length + 10) % 64, 0, "the data is not aligned");
    let header: String = std::str::from_utf8(header).unwrap().split_whitespace().collect();
    assert!(header.contains("'descr':'<f4'") && header.contains("'fortran_order':False"), "{header}");
    let shape = header.split("'shape':(").nth(1).unwrap().split(')').next().unwrap();
    let shape: Vec<usize> = shape.split(',').filter(|s| !s.is_empty()).map(|s| s.parse().unwrap()).collect();
    let floats: Vec<f32> = data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!((data.len(), shape.len()), (4 * shape[0] * shape[1], 2));
    floats.chunks(shape[1]).map(<[f32]>::to_vec).collect()
}

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    Tiny::new(Experts::None).write(&folder.path().join("m"));
    Tiny::new(Experts::Merged).write(&folder.path().join("moe"));
    Tiny::new(Experts::Merged).legacy().write(&folder.path().join("legacy"));
    folder
}

fn logits(folder: &TempDir, line: &str) -> Vec<Vec<f32>> {
    assert_eq!(answer(folder, &format!("logits {line} -o out.npy")), "");
    read_npy(&folder.path().join("out.npy"))
}

#[test]
fn logits_are_those_of_the_library() {
    use ostro::engine::{Engine, EngineOptions, Error, KvTypes, Model, SeqId, Session};
    let folder = folder();
    for model in ["m", "moe"] {
        let gguf = ostro::gguf::Gguf::open(&folder.path().join(model)).unwrap();
        let loaded = Model::load(&gguf).unwrap();
        let cpu = ostro_kernels::Cpu::detect();
        let options = EngineOptions { n_ctx: 5, n_ubatch: 512, n_seqs: 1, threads: 1, kv: KvTypes::default(), cpu };
        let mut engine = Engine::new(&loaded, &options);
        let mut wanted: Vec<Vec<f32>> = Vec::new();
        let take = |rows: &[f32]| -> Result<(), Error> {
            wanted.extend(rows.chunks(loaded.spec.n_vocab).map(<[f32]>::to_vec));
            Ok(())
        };
        Session::new(&mut engine, SeqId(0)).feed_all(&[1, 260, 5, 270, 0], take).unwrap();
        let found = logits(&folder, &format!("{model} --tokens 1,260,5,270,0"));
        assert!(found == wanted && found.len() == 5 && found[0].len() == 294, "{model}");
        assert!(found.iter().flatten().all(|l| l.is_finite()) && found[0] != found[1]);
    }
}

#[test]
fn batches_layouts_and_spellings_agree() {
    let folder = folder();
    let tokens = (0..20).map(|i| (i * 37 % 294).to_string()).collect::<Vec<_>>().join(",");
    for model in ["m", "moe"] {
        let whole = logits(&folder, &format!("{model} --tokens {tokens}"));
        let close = |line: &str| {
            let found = logits(&folder, &format!("{model} --tokens {tokens} {line}")).concat();
            let error: f32 = found.iter().zip(whole.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            // Batches and single tokens sum in other orders, and caches round.
            assert!(error < 0.05, "{model} {line}: {error}");
        };
        for line in ["-ub 1", "-ub 7", "-b 3", "--ubatch-size 512 -c 64", "--no-mmap -t 1", "-ctk f32 -ctv f32"] {
            close(line);
        }
        for line in ["-t 1", "-t 3", "--no-mmap", "-c 100", "-ub 20", "-b 20"] {
            assert!(logits(&folder, &format!("{model} --tokens {tokens} {line}")) == whole, "{model} {line}");
        }
    }
    let line = |model| format!("{model} --tokens {tokens}");
    assert!(logits(&folder, &line("moe")) == logits(&folder, &line("legacy")), "one tensor for each expert");
    assert!(logits(&folder, "m -p hi") == logits(&folder, "m --tokens 1,267,275,276"), "a text, and BOS once");
}

/// A file that others may read, which replaces an old one.
#[cfg(unix)]
#[test]
fn the_file_is_like_any_other() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    let path = folder.path().join("out.npy");
    fs::write(&path, "old").unwrap();
    assert!(
        logits(&folder, "m --tokens [1,267]") == logits(&folder, "m --tokens 1,267"),
        "as tokenize --json prints them"
    );
    logits(&folder, "m --tokens 1");
    fs::write(folder.path().join("plain"), "").unwrap();
    let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
    assert_eq!(mode("out.npy"), mode("plain"));
    // A device is written to, and stays one.
    assert_eq!(answer(&folder, "logits m --tokens 1 -o /dev/null"), "");
    assert!(!fs::metadata("/dev/null").unwrap().is_file());
}

#[test]
fn tokens_go_there_and_back() {
    let folder = folder();
    for text in ["hi", "", " the inner state", "two  spaces", "tab\there", "größe 你好", "</s> <unk>", "-n 5"] {
        let run = |args: &[&str]| {
            let done = Done::from(ostro(folder.path(), [&["tokenize", "m"], args].concat()).output().unwrap());
            assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{text:?} {args:?}");
            done.out
        };
        let ids = run(&["--no-bos", "-p", text]);
        let json = run(&["--json", "-p", text]);
        let numbers: Vec<u32> = serde_json::from_str(&json).unwrap();
        let plain: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!((numbers[0], &numbers[1..]), (1, &plain[..]), "{text:?}: BOS once");
        for ids in [ids.trim_end(), &json, &ids.trim_end().replace(' ', ",")] {
            let back = run(&["--no-special", "--decode", ids]);
            // Control tokens of the text are left out.
            assert_eq!(back, if text.starts_with("</s>") { " " } else { text }, "{ids}");
        }
        let literal = run(&["--no-special", "--no-bos", "-p", text]);
        assert_eq!(run(&["--decode", literal.trim_end()]), text);
        fs::write(folder.path().join("text"), text).unwrap();
        assert_eq!(run(&["--json", "-f", "text"]), json);
    }
}

/// A file of which no model can be made has a header all the same.
#[test]
fn inspect_shows_what_cannot_run() {
    let folder = folder();
    Tiny::new(Experts::None).without_key("llama.block_count").write(&folder.path().join("odd"));
    for file in ["m", "moe", "legacy", "odd"] {
        let done = Done::from(ostro(folder.path(), words(&format!("inspect {file}"))).output().unwrap());
        assert!(done.code == Some(0) && done.out.contains("token_embd.weight"), "{done:?}");
        let json = Done::from(ostro(folder.path(), words(&format!("inspect --json {file}"))).output().unwrap()).out;
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["metadata"]["general.architecture"]["value"], "llama");
    }
}
