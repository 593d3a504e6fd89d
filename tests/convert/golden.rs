//! What llama.cpp's converter wrote for the same folders: the same keys in the same order, the same tensors bit for bit.

use super::checkpoint::{Checkpoint, elements};
use super::common::reference;
use ostro::convert::{Source, hf};
use ostro::gguf::{Gguf, Metadata, Value};
use std::path::Path;

/// Keys that need not be equal, and why.
const EXCEPT: &[(&str, &str)] = &[
    ("general.name", "the reference files were given theirs by hand; by the rule it is that of the folder as a title"),
    ("general.file_type", "it follows from the type that the file is written in"),
];

/// Compares keys, their order and values; `failures` gets a line for each difference.
pub fn compare_metadata(found: &Metadata, wanted: &Metadata, failures: &mut Vec<String>) {
    let keys = |m: &Metadata| m.iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>();
    if keys(found) != keys(wanted) {
        failures.push(format!("keys {:?}\nexpected {:?}", keys(found), keys(wanted)));
    }
    for (key, value) in wanted.iter().filter(|(key, _)| !EXCEPT.iter().any(|(e, _)| e == key)) {
        if found.get(key) != Some(value) {
            let found = found.get(key).map_or("nothing".to_owned(), first_difference(value));
            failures.push(format!("{key}: found {found}, expected {value}"));
        }
    }
}

fn first_difference(wanted: &Value) -> impl Fn(&Value) -> String {
    move |found| match (found, wanted) {
        (Value::Array(a), Value::Array(b)) => {
            let at = (0..a.len().max(b.len())).find(|&i| a.value(i) != b.value(i)).unwrap_or(0);
            format!("{found}, of which number {at} is {:?} and not {:?}", a.value(at), b.value(at))
        }
        _ => found.to_string(),
    }
}

/// Compares tensors: names and order, shapes, elements.
pub fn compare_tensors(source: &Source, gguf: &Gguf, ordered: bool, failures: &mut Vec<String>) {
    let mut found: Vec<&str> = source.tensors.iter().map(|t| t.name.as_str()).collect();
    let mut wanted: Vec<&str> = gguf.tensors().iter().map(|t| t.name.as_str()).collect();
    if !ordered {
        found.sort();
        wanted.sort();
    }
    if found != wanted {
        failures.push(format!("tensors {found:?}\nexpected {wanted:?}"));
    }
    for tensor in &source.tensors {
        let Some(want) = gguf.tensor(&tensor.name) else { continue };
        if tensor.dims != want.dims {
            failures.push(format!("{}: shape {:?}, expected {:?}", tensor.name, tensor.dims, want.dims));
            continue;
        }
        let bits = gguf.data(want).chunks_exact(4).map(|b| u32::from_le_bytes(b.try_into().unwrap()));
        let found = elements(source, tensor, 7);
        let different = found.iter().map(|f| f.to_bits()).zip(bits).position(|(a, b)| a != b);
        if let Some(i) = different {
            failures.push(format!("{}: element {i} is {}", tensor.name, found[i]));
        }
    }
}

fn check(folder: &Path, golden: &Path, name: &str, ordered: bool, failures: &mut Vec<String>) {
    let source = hf::open(folder).unwrap();
    let gguf = Gguf::open(golden).unwrap();
    let from = failures.len();
    compare_metadata(&source.metadata, gguf.metadata(), failures);
    if source.metadata.str("general.name").unwrap() != Some(name) {
        failures.push(format!("general.name: {:?}, expected {name}", source.metadata.get("general.name")));
    }
    if source.metadata.u32("general.file_type").unwrap() != Some(32) {
        failures.push(format!("general.file_type: {:?}, expected BF16", source.metadata.get("general.file_type")));
    }
    compare_tensors(&source, &gguf, ordered, failures);
    if !source.notes.is_empty() {
        failures.push(format!("notes: {:?}", source.notes));
    }
    failures[from..].iter_mut().for_each(|f| *f = format!("{}: {f}", folder.display()));
}

#[test]
fn sources_are_what_the_converter_writes() {
    let Some(models) = reference("models") else { return };
    let mut failures = Vec::new();
    // The last: shards come one after the other, so the tensors have another order.
    for (folder, golden, name, ordered) in [
        ("llama31", "llama31", "Llama31", true),
        ("mixtral", "mixtral", "Mixtral", true),
        ("gemma3", "gemma3", "Gemma3", true),
        ("mixtral-sharded", "mixtral", "Mixtral Sharded", false),
        ("qwen2", "qwen2", "Qwen2", true),
        ("qwen3moe", "qwen3moe", "Qwen3Moe", true),
        ("command-r", "command-r", "Command R", true),
        ("command-r-plus", "command-r-plus", "Command R Plus", true),
        ("phi3", "phi3", "Phi3", true),
        ("deepseek2", "deepseek2", "Deepseek2", true),
    ] {
        let golden = models.join(format!("{golden}/gguf/{golden}-F32.gguf"));
        check(&models.join(folder), &golden, name, ordered, &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn other_architectures_are_named() {
    let Some(models) = reference("models") else { return };
    let mut other = Checkpoint::read(&models.join("qwen2"));
    other.config.insert("architectures".to_owned(), serde_json::json!(["GraniteForCausalLM"]));
    let error = hf::open(other.write().path()).unwrap_err().to_string();
    let expected = "config.json: architectures: found GraniteForCausalLM, expected one of LlamaForCausalLM, \
                    MistralForCausalLM, MixtralForCausalLM, Gemma2ForCausalLM, Gemma3ForCausalLM, \
                    Gemma3ForConditionalGeneration, Qwen2ForCausalLM, Qwen2MoeForCausalLM, Qwen3ForCausalLM, \
                    Qwen3MoeForCausalLM, CohereForCausalLM, Cohere2ForCausalLM, DeepseekV2ForCausalLM, \
                    DeepseekV3ForCausalLM, Phi3ForCausalLM; this architecture is not supported yet: it needs a newer \
                    ostro";
    assert!(error.ends_with(expected), "{error}");
}
