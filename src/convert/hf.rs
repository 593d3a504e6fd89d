//! A folder as Hugging Face has them, or in Mistral's own layout, as a [`Source`].
//!
//! What is written is what llama.cpp's converter writes for the same folder: the same keys in the same order, the same
//! tensors. What an architecture is called there and how its tensors change is data in `model/arch/*_hf.rs`.

mod files;
mod general;
mod json;
mod naming;
mod native;
mod pieces;
mod place;
mod special;
mod tokenizer_json;
mod vocab;

use super::{Error, Source, SourceFile, SourceTensor};
use crate::gguf::{Metadata, Value};
use crate::model::checkpoint::{Checkpoint, Config, Keys, PARAMS, Rotary};
use crate::model::{Manifest, ModelSpec, Shapes};
use files::Files;
use ostro_kernels::DType;
use place::Placed;
use std::collections::{HashMap, HashSet};
use std::path::Path;
use vocab::{Input, Vocab};

const EMBEDDING: &str = "token_embd.weight";

/// Reads what lies in a folder: config.json or params.json, the headers of the weights, the tokenizer's files.
///
/// # Errors
/// When a file is missing or cannot be used, when the architecture is not one that can be converted, and when the
/// tensors are not those that the configuration speaks of.
pub fn open(dir: &Path) -> Result<Source, Error> {
    let (checkpoint, written) = configuration(dir)?;
    let mut config = written.clone();
    config.flatten("text_config");
    (checkpoint.complete)(&mut config)?;
    let rotary = Rotary::read(&config)?;
    let native = checkpoint.classes == [PARAMS];
    let Files { mut files, tensors } = Files::open(dir, if native { "consolidated" } else { "model" })?;
    let found = Files { files: std::mem::take(&mut files), tensors };
    let mut placed = place::place(&found, checkpoint, &config)?;
    let mut notes = std::mem::take(&mut placed.notes);

    let rows = embedding_rows(&placed, &config, checkpoint)?;
    let n_vocab = match config.u32(&["vocab_size"])? {
        Some(n) if !native => n as usize,
        _ => rows,
    };
    check_rows(&found, &placed, checkpoint, &config, rows, n_vocab)?;
    let tokenizer_config = json::object(&dir.join("tokenizer_config.json"))?;
    let tokens = tokenizer_config.as_ref();
    let input = Input { dir, checkpoint, written: &written, tokenizer_config: tokens, n_vocab };
    let vocab = Vocab::read(&input, &mut notes)?;
    cut_embedding(&mut placed, n_vocab as u64);

    let Files { mut files, tensors: stored } = found;
    let mut tensors = Vec::new();
    for (name, elements) in (checkpoint.computed)(&config, &rotary)? {
        tensors.push(place::computed(name, &elements, files.len()));
        let bytes = elements.iter().flat_map(|e| e.to_le_bytes()).collect();
        files.push(SourceFile::computed(config.file(), bytes));
    }
    tensors.append(&mut placed.tensors);

    let mut metadata = Metadata::new(dir);
    let mut keys = Keys::new(&mut metadata, checkpoint.arch);
    keys.set("general.architecture", Value::String(checkpoint.arch.to_owned()));
    (checkpoint.first_keys)(&config, &rotary, &mut keys)?;
    general::write(dir, &written, &tensors, &mut keys, &mut notes)?;
    (checkpoint.architecture)(&config, &rotary, &mut keys)?;
    keys.set("general.file_type", Value::U32(file_type(&tensors)));
    (checkpoint.keys)(&config, &rotary, &mut keys)?;
    keys.set("general.quantization_version", Value::U32(2));
    let nothing = Config::default();
    (checkpoint.before_tokens)(&config, tokens.unwrap_or(&nothing), &mut keys)?;
    let kind = vocab.kind;
    vocab.write(&mut keys);
    (checkpoint.after_tokens)(&config, kind, &mut keys)?;

    let origin = |name: &str| placed.origins.get(name).map(|&i| stored[i].name.clone());
    check_tensors(dir, checkpoint, &metadata, &tensors, origin)?;
    Ok(Source { metadata, tensors, files, is_checkpoint: true, notes })
}

/// The kind of checkpoint, and its configuration as it is written.
fn configuration(dir: &Path) -> Result<(&'static Checkpoint, Config), Error> {
    if !dir.is_dir() {
        return Err(Error::bad(dir, "the model", "no folder", "one with config.json and *.safetensors", ""));
    }
    if let Some(config) = json::object(&dir.join("config.json"))? {
        let class = class(&config)?;
        let checkpoint = Checkpoint::of(&class).filter(|_| class != PARAMS).ok_or_else(|| {
            let next = "this architecture is not supported yet: it needs a newer ostro";
            Error::bad(config.file(), "architectures", &class, format!("one of {}", Checkpoint::known()), next)
        })?;
        if let Some(quantized) = config.get("quantization_config") {
            let found = quantized["quant_method"].as_str().unwrap_or("a quantized model").to_owned();
            let next = "take the checkpoint that it was made from";
            return Err(Error::bad(config.file(), "quantization_config", found, "F32, F16 or BF16 weights", next));
        }
        return Ok((checkpoint, config));
    }
    let params = json::object(&dir.join(PARAMS))?;
    match (params, Checkpoint::of(PARAMS)) {
        (Some(params), Some(checkpoint)) => Ok((checkpoint, params)),
        _ => {
            let next = "give the folder of a model as Hugging Face has it";
            Err(Error::bad(dir, "the configuration", "nothing", "config.json or params.json", next))
        }
    }
}

/// The class of the text model.
fn class(config: &Config) -> Result<String, Error> {
    let first = |config: &Config| config.get("architectures").and_then(|a| Some(a.get(0)?.as_str()?.to_owned()));
    let inner = config.object("text_config")?;
    let class = inner.as_ref().and_then(first).or_else(|| first(config));
    Ok(class.ok_or_else(|| config.bad("architectures", "nothing", format!("one of {}", Checkpoint::known())))?)
}

fn embedding_rows(placed: &Placed, config: &Config, checkpoint: &Checkpoint) -> Result<usize, Error> {
    match placed.tensors.iter().find(|t| t.name == EMBEDDING) {
        Some(t) => Ok(t.rows() as usize),
        None => {
            let name = checkpoint.origin(EMBEDDING).unwrap_or_default();
            Err(Error::bad(config.file(), format!("tensor {name}"), "nothing", "the embedding", json::AGAIN))
        }
    }
}

/// The embedding has a row for each token.
fn check_rows(
    files: &Files,
    placed: &Placed,
    checkpoint: &Checkpoint,
    config: &Config,
    rows: usize,
    n_vocab: usize,
) -> Result<(), Error> {
    if rows == n_vocab || (checkpoint.cut_embedding && rows > n_vocab) {
        return Ok(());
    }
    let expected = format!("{n_vocab}, which {} gives as vocab_size", config.file().display());
    let t = &files.tensors[placed.origins[EMBEDDING]];
    Err(files.bad(t, format!("{rows} rows"), expected, "correct vocab_size, or download the files again"))
}

/// Leaves out rows of the embedding that no token has.
fn cut_embedding(placed: &mut Placed, n_vocab: u64) {
    for t in placed.tensors.iter_mut().filter(|t| t.name == EMBEDDING && t.rows() > n_vocab) {
        t.dims[1] = n_vocab;
        t.pieces[0].rows = n_vocab;
    }
}

/// `general.file_type` of what is stored: that of the first matrix, as the converter guesses it.
fn file_type(tensors: &[SourceTensor]) -> u32 {
    let dtype = tensors.iter().find(|t| t.dims.len() > 1).map(|t| t.dtype);
    match dtype {
        Some(DType::F16) => 1,
        Some(DType::BF16) => 32,
        _ => 0,
    }
}

struct Dims<'a>(HashMap<&'a str, &'a [u64]>);

impl Shapes for Dims<'_> {
    fn dims(&self, name: &str) -> Option<&[u64]> {
        self.0.get(name).copied()
    }

    fn count(&self) -> usize {
        self.0.len()
    }
}

/// Every tensor that the configuration speaks of is there, in its shape, and no other.
fn check_tensors(
    dir: &Path,
    checkpoint: &Checkpoint,
    metadata: &Metadata,
    tensors: &[SourceTensor],
    origin: impl Fn(&str) -> Option<String>,
) -> Result<(), Error> {
    let dims = Dims(tensors.iter().map(|t| (t.name.as_str(), t.dims.as_slice())).collect());
    let (spec, _) = ModelSpec::read(metadata, &dims)?;
    let manifest = Manifest::new(&spec, &dims);
    let called =
        |name: &str| format!("tensor {}", origin(name).or_else(|| checkpoint.origin(name)).unwrap_or(name.into()));
    let mut left: HashSet<&str> = dims.0.keys().copied().collect();
    for binding in &manifest.bindings {
        let reversed = |dims: &[u64]| format!("shape {:?}", dims.iter().rev().collect::<Vec<_>>());
        for name in binding.names() {
            let expected = reversed(binding.file_dims());
            match dims.dims(name) {
                None => {
                    return Err(Error::bad(
                        dir,
                        called(name),
                        "nothing",
                        expected,
                        "the checkpoint is incomplete: download it again",
                    ));
                }
                Some(found) if !binding.fits(found) => {
                    let next = "the configuration is not that of the weights: download both again";
                    return Err(Error::bad(dir, called(name), reversed(found), expected, next));
                }
                Some(_) => left.remove(name.as_str()),
            };
        }
    }
    match tensors.iter().find(|t| left.contains(t.name.as_str())) {
        None => Ok(()),
        Some(t) => {
            let expected = format!("only tensors that {} uses ({} are not)", spec.arch, left.len());
            Err(Error::bad(dir, called(&t.name), "it", expected, "it needs a newer ostro"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_change_places() {
        // Two heads of four rows; a vector changes as the rows of a matrix do.
        let file = SourceFile::computed(Path::new("x"), (0..8u16).flat_map(|i| i.to_le_bytes()).collect());
        let metadata = Metadata::new(Path::new("x"));
        let mut source =
            Source { metadata, tensors: Vec::new(), files: vec![file], is_checkpoint: true, notes: Vec::new() };
        for dims in [vec![1, 8], vec![8]] {
            let rows = if dims.len() == 1 { 1 } else { 8 };
            let pieces = vec![super::super::Piece { file: 0, offset: 0, rows }];
            let change = super::super::Change::Interleave { heads: 2 };
            let tensor = SourceTensor { name: "q".into(), dtype: DType::F16, dims, pieces, change };
            let mut out = [0; 16];
            source.read_rows(&tensor, 0..rows, &mut out).unwrap();
            let values: Vec<u8> = out.iter().step_by(2).copied().collect();
            assert_eq!(values, [0, 2, 1, 3, 4, 6, 5, 7]);
        }
        source.tensors.clear();
    }
}
