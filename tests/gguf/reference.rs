//! Real files: every GGUF of the reference folder opens, and says what `golden.json` says about it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ostro::gguf::{Gguf, OpenOptions, Tensor};
use serde_json::Value;

fn reference() -> Option<PathBuf> {
    super::common::reference(".")
}

fn ggufs_below(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in folder.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            ggufs_below(&path, found);
        } else if path.extension().is_some_and(|e| e == "gguf") {
            found.push(path);
        }
    }
    found.sort();
}

/// What is wrong with one file that should be sound.
fn faults(path: &Path) -> Vec<String> {
    let gguf = match Gguf::open(path) {
        Ok(gguf) => gguf,
        Err(e) => return vec![format!("{e}, {e:?}")],
    };
    let mut faults = Vec::new();
    for t in gguf.tensors() {
        if gguf.data(t).len() as u64 != t.bytes {
            faults.push(format!("{}: {} bytes of data, {} in the table", t.name, gguf.data(t).len(), t.bytes));
        }
        if gguf.tensor(&t.name) != Some(t) {
            faults.push(format!("{}: not found by its name", t.name));
        }
    }
    // The data of a file made by llama.cpp is contiguous and goes to the end: header + padded tensors = size.
    for (i, (_, size)) in gguf.files().enumerate() {
        let tensors: Vec<&Tensor> = gguf.tensors().iter().filter(|t| t.file == i).collect();
        let Some(first) = tensors.first() else { continue };
        let padded: u64 = tensors.iter().map(|t| t.bytes.next_multiple_of(gguf.alignment())).sum();
        if first.offset + padded != size {
            faults.push(format!("part {i}: {} + {padded} bytes, the file has {size}", first.offset));
        }
    }
    faults.into_iter().map(|f| format!("{}: {f}", path.display())).collect()
}

#[test]
fn every_reference_file_opens() {
    let Some(folder) = reference() else { return };
    let mut paths = Vec::new();
    ggufs_below(&folder, &mut paths);
    // The parts after the first are opened with their set.
    paths.retain(|p| !p.to_string_lossy().contains("-of-") || p.to_string_lossy().contains("-00001-of-"));
    assert!(paths.len() >= 20, "only {} files below {}", paths.len(), folder.display());
    let faults: Vec<String> = paths.iter().flat_map(|p| faults(p)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Size and number of tensors of each type, against what was written down when the files were made.
#[test]
fn as_golden_json_says() {
    let Some(folder) = reference() else { return };
    let mut failed = Vec::new();
    let mut rows = 0;
    for model in folder.join("models").read_dir().unwrap() {
        let model = model.unwrap().path();
        let Ok(golden) = fs::read_to_string(model.join("golden/golden.json")) else { continue };
        let golden: Value = serde_json::from_str(&golden).unwrap();
        for entry in golden["gguf"].as_object().unwrap().values() {
            let path = model.join("gguf").join(entry["file"].as_str().unwrap());
            if !path.exists() {
                super::common::skipped(&format!("{} is not unpacked", path.display()));
                continue;
            }
            rows += 1;
            let gguf = Gguf::open(&path).unwrap();
            let mut types = BTreeMap::<&str, u64>::new();
            gguf.tensors().iter().for_each(|t| *types.entry(t.dtype.name()).or_default() += 1);
            let types = serde_json::to_value(types).unwrap();
            let size = gguf.files().map(|(_, n)| n).sum::<u64>();
            if types != entry["tensor_types"] || Some(size) != entry["size"].as_u64() {
                failed.push(format!("{}: {size} bytes, {types}; expected {entry}", path.display()));
            }
        }
    }
    assert!(rows >= 15, "only {rows} files");
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

/// The split set is the merged file, tensor by tensor; so is the legacy layout, expert by expert.
#[test]
fn split_and_legacy_hold_the_bytes_of_the_merged_file() {
    let Some(folder) = reference() else { return };
    let folder = folder.join("models/mixtral/gguf");
    let merged = Gguf::open(&folder.join("mixtral-Q4_K_M.gguf")).unwrap();
    for mmap in [true, false] {
        let options = OpenOptions { mmap, mlock: false };
        let split = Gguf::open_with(&folder.join("split/mixtral-Q4_K_M-00001-of-00003.gguf"), &options).unwrap();
        assert_eq!(split.files().count(), 3);
        assert_eq!(split.tensors().len(), merged.tensors().len());
        for t in merged.tensors() {
            let s = split.tensor(&t.name).unwrap_or_else(|| panic!("{} is not in the set", t.name));
            assert_eq!((s.dtype, &s.dims), (t.dtype, &t.dims), "{}", t.name);
            assert!(split.data(s) == merged.data(t), "{}", t.name);
        }
    }

    let legacy = Gguf::open(&folder.join("mixtral-Q4_K_M-legacy.gguf")).unwrap();
    let mut experts = 0;
    for t in merged.tensors() {
        match t.name.strip_suffix("_exps.weight") {
            None => assert!(legacy.data(legacy.tensor(&t.name).unwrap()) == merged.data(t), "{}", t.name),
            Some(stem) => {
                let all: Vec<u8> = (0..t.dims[2])
                    .flat_map(|e| legacy.data(legacy.tensor(&format!("{stem}.{e}.weight")).unwrap()).to_vec())
                    .collect();
                assert!(all == merged.data(t), "{}", t.name);
                experts += t.dims[2];
            }
        }
    }
    assert_eq!(experts, 2 * 3 * 8);
}

/// Opening reads the header alone, and a vocabulary of 128k pieces takes well below the time one notices.
#[test]
fn large_vocabularies_parse_fast() {
    let Some(folder) = reference() else { return };
    let path = folder.join("tokenizers/llamacpp/ggml-vocab-llama-bpe.gguf");
    if !path.exists() {
        super::common::skipped(&format!("{} is not unpacked", path.display()));
        return;
    }
    let time = |_| {
        let start = std::time::Instant::now();
        let gguf = Gguf::open(&path).unwrap();
        assert_eq!(gguf.metadata().require_strings("tokenizer.ggml.tokens").unwrap().len(), 128_256);
        start.elapsed()
    };
    let best = (0..5).map(time).min().unwrap();
    eprintln!("128256 tokens and their merges: {best:?}");
    // Ten times what it takes here: a guard against quadratic work, not a measurement.
    assert!(best.as_millis() < 300, "{best:?}");
}
