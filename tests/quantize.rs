//! Files of `ostro quantize` against those of llama-quantize and of llama.cpp's converter, byte for byte.

mod common;

use common::{reference, skipped};
use ostro::convert::{FileType, Imatrix, Job, Outcome, Request, Source, Split, from_gguf, hf, plan};
use ostro::gguf::{Gguf, Value};
use ostro_kernels::{Cpu, quantize::encode};
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
    for golden in &goldens {
        let out = folder.path().join("out.gguf");
        let mut source = hf::open(golden.f32.parent().unwrap().parent().unwrap()).unwrap();
        // The reference files were given their names by hand.
        source.metadata.set("general.name", Value::String(golden.model.clone()));
        quantize(&source, &out, &request(golden), Cpu::detect(), 2);
        same(&out, golden, &mut failures);
    }
    assert!(failures.is_empty(), "differ: {failures:?}");
}

/// The importance of each expert's columns weighs that expert's rows, wherever slabs and tasks begin.
#[test]
fn experts_have_their_own_importance() {
    let Some(models) = reference("models") else { return };
    let path = models.join("mixtral/gguf/mixtral-F32.gguf");
    if !path.exists() {
        return skipped(&format!("{} is not unpacked: run unpack.sh of the reference folder", path.display()));
    }
    let name = "blk.1.ffn_up_exps.weight";
    let (gguf, source) = (Gguf::open(&path).unwrap(), from_gguf::open(&path).unwrap());
    let dims = gguf.tensor(name).unwrap().dims.clone();
    let (cols, experts) = (dims[0] as usize, dims[2] as usize);
    let mut imatrix = Imatrix::new(512);
    let sums = |e: usize| (0..cols).map(|i| ((i * 37 + e * 101) % 97) as f32 + 0.5).collect::<Vec<_>>();
    (0..experts).for_each(|e| imatrix.add(name, (e, experts), &sums(e), 4 + e as u64));
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let request = Request { file_type: Some(FileType::Q4_K_M), ..Request::default() };
    let plan = plan(&source, Some(&imatrix), &request, &out).unwrap();
    let cpu = Cpu::detect();
    let (imatrix, allow_nonfinite) = (Some(&imatrix), false);
    let job = Job { source: &source, plan: &plan, imatrix, cpu, threads: 3, resume: false, allow_nonfinite };
    assert_eq!(job.run(&mut |_| true).unwrap(), Outcome::Done);

    let written = Gguf::open(&out).unwrap();
    let tensor = written.tensor(name).unwrap();
    let floats: Vec<f32> =
        gguf.data(gguf.tensor(name).unwrap()).as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
    let found = written.data(tensor);
    let (floats, bytes) = (floats.chunks(floats.len() / experts), found.chunks(found.len() / experts));
    let mut one_for_all = Vec::new();
    for (e, (floats, found)) in floats.zip(bytes).enumerate() {
        let means: Vec<f32> = sums(e).iter().map(|sum| sum / (4 + e) as f32).collect();
        let mut wanted = vec![0; found.len()];
        encode(cpu, tensor.dtype, floats, cols, Some(&means), &mut wanted);
        assert!(found == wanted, "expert {e}");
        let first: Vec<f32> = sums(0).iter().map(|sum| sum / 4.0).collect();
        encode(cpu, tensor.dtype, floats, cols, Some(&first), &mut wanted);
        one_for_all.push(found == wanted);
    }
    assert_eq!(one_for_all.iter().filter(|&&same| same).count(), 1, "the importance makes no difference");
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
