//! Files of `ostro quantize` against those of llama-quantize and of llama.cpp's converter, byte for byte.

mod common;

use common::{reference, skipped};
use ostro::convert::{FileType, Job, Outcome, Request, Source, Split, from_gguf, hf, plan};
use ostro::gguf::{Gguf, Value};
use ostro_kernels::Cpu;
use std::path::{Path, PathBuf};

/// A file that llama.cpp made.
struct Golden {
    /// The file of F32 that it was made from, or is.
    f32: PathBuf,
    path: PathBuf,
    model: String,
    file_type: FileType,
    pure: bool,
}

/// Every file of the reference models.
fn goldens() -> Option<Vec<Golden>> {
    let models = reference("models")?;
    let mut all = Vec::new();
    for model in std::fs::read_dir(models).unwrap() {
        let folder = model.unwrap().path().join("gguf");
        let Ok(files) = std::fs::read_dir(&folder) else { continue };
        for path in files.map(|f| f.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "gguf")) {
            let stem = path.file_stem().unwrap().to_str().unwrap();
            let pure = stem.ends_with("-pure");
            let (model, of) = stem.trim_end_matches("-pure").rsplit_once('-').unwrap();
            let Some(file_type) = FileType::parse(of) else { continue };
            let f32 = folder.join(format!("{model}-F32.gguf"));
            if !f32.exists() {
                skipped(&format!("{} is not unpacked: run unpack.sh of the reference folder", f32.display()));
                return None;
            }
            all.push(Golden { f32, model: model.to_owned(), path, file_type, pure });
        }
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(all.len() > 30, "{} files of llama.cpp", all.len());
    Some(all)
}

fn quantize(source: &Source, out: &Path, request: &Request, cpu: Cpu, threads: usize) {
    let plan = plan(source, None, request, out).unwrap();
    let job = Job { source, plan: &plan, imatrix: None, cpu, threads, resume: false, allow_nonfinite: false };
    assert_eq!(job.run(&mut |_| true).unwrap(), Outcome::Done);
}

fn request(golden: &Golden) -> Request {
    let mut request = Request { file_type: Some(golden.file_type), ..Request::default() };
    request.wishes.pure = golden.pure;
    request
}

fn same(found: &Path, golden: &Golden, failures: &mut Vec<String>) {
    if std::fs::read(found).unwrap() != std::fs::read(&golden.path).unwrap() {
        failures.push(golden.path.file_name().unwrap().to_string_lossy().into_owned());
    }
}

#[test]
fn from_f32_files_are_llama_quantizes() {
    let Some(goldens) = goldens() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    let all = Cpu::all();
    for (i, golden) in goldens.iter().filter(|g| !g.file_type.is_float()).enumerate() {
        let out = folder.path().join("out.gguf");
        let source = from_gguf::open(&golden.f32).unwrap();
        quantize(&source, &out, &request(golden), all[i % all.len()], 1 + i % 3);
        same(&out, golden, &mut failures);
    }
    assert!(failures.is_empty(), "differ: {failures:?}");
}

/// In one step: as the converter writes F32 and 16 bits, and as llama-quantize writes the others from its F32.
#[test]
fn from_checkpoints_files_are_llama_cpps() {
    let Some(goldens) = goldens() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut failures = Vec::new();
    let here = |g: &&Golden| ["llama31", "mixtral", "gemma3"].contains(&g.model.as_str());
    for golden in goldens.iter().filter(here) {
        let out = folder.path().join("out.gguf");
        let mut source = hf::open(golden.f32.parent().unwrap().parent().unwrap()).unwrap();
        // The reference files were given their names by hand.
        source.metadata.set("general.name", Value::String(golden.model.clone()));
        quantize(&source, &out, &request(golden), Cpu::detect(), 2);
        same(&out, golden, &mut failures);
    }
    assert!(failures.is_empty(), "differ: {failures:?}");
}

#[test]
fn split_sets_keep_their_parts() {
    let Some(models) = reference("models") else { return };
    let set = models.join("mixtral/gguf/split");
    let first = set.join("mixtral-Q4_K_M-00001-of-00003.gguf");
    let folder = tempfile::tempdir().unwrap();
    let source = from_gguf::open(&first).unwrap();
    let request = Request { split: Split::Keep, ..Request::default() };
    quantize(&source, &folder.path().join("kept.gguf"), &request, Cpu::detect(), 2);
    let whole = Gguf::open(&first).unwrap();
    let kept = Gguf::open(&folder.path().join("kept-00001-of-00003.gguf")).unwrap();
    assert_eq!(kept.files().count(), 3);
    assert_eq!(kept.tensors().len(), whole.tensors().len());
    for t in whole.tensors() {
        let other = kept.tensor(&t.name).unwrap();
        assert!(t.file == other.file && t.dtype == other.dtype, "{}", t.name);
        assert!(whole.data(t) == kept.data(other), "{}", t.name);
    }
}
