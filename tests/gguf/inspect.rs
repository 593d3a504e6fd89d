//! `ostro inspect`: the text shortens, the JSON does not.

use ostro::commands::inspect::{write_json, write_text};
use ostro::gguf::{Array, Gguf, Metadata, NewTensor, Value, Writer};
use ostro_kernels::DType;

use super::raw::Folder;

fn sample(folder: &Folder) -> Gguf {
    let path = folder.join("x.gguf");
    let mut m = Metadata::new(&path);
    m.set("general.architecture", Value::String("llama".into()));
    m.set("eps", Value::F32(1e-5));
    m.set("template", Value::String("a\nb".repeat(40)));
    m.set("tokens", Value::Array(Array::String((0..1000).map(|i| format!("<{i}>")).collect())));
    m.set("raw", Value::Bytes(vec![0xff, 0x41]));
    let new = |name: &str, dtype, dims: &[u64]| NewTensor { name: name.into(), dtype, dims: dims.into() };
    let tensors = [new("a.weight", DType::Q4_K, &[256, 1024, 8]), new("b", DType::F32, &[256])];
    let mut writer = Writer::create(&path, &m, &tensors).unwrap();
    writer.append(&vec![0; 256 * 1024 * 8 / 256 * 144]).unwrap();
    writer.append(&[0; 1024]).unwrap();
    writer.commit().unwrap();
    Gguf::open(&path).unwrap()
}

#[test]
fn text() {
    let folder = Folder::new("inspect-text");
    let mut out = Vec::new();
    write_text(&sample(&folder), &mut out).unwrap();
    let out = String::from_utf8(out).unwrap().replace(&folder.to_string_lossy().into_owned(), "DIR");
    let expected = r#"GGUF version 3, alignment 32
DIR/x.gguf  1,193,952 bytes

KEY (5)               TYPE          VALUE
general.architecture  string        llama
eps                   f32           0.00001
template              string        a\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\nba\n...
tokens                string[1000]  ["<0>", "<1>", "<2>", "<3>", "<4>", "<5>", ...]
raw                   string        \xffA

TENSOR (2)  TYPE  SHAPE               BYTES
a.weight    Q4_K  256 x 1024 x 8  1,179,648
b           F32   256                 1,024

TYPE  TENSORS  PARAMETERS      BYTES   BITS
Q4_K        1   2,097,152  1,179,648   4.50
F32         1         256      1,024  32.00
all         2   2,097,408  1,180,672   4.50

This file cannot be run: DIR/x.gguf: key llama.block_count: found nothing, expected an integer from 0 to 4294967295; convert the model again with a current converter
"#;
    assert_eq!(out, expected, "found:\n{out}");
}

#[test]
fn json() {
    let folder = Folder::new("inspect-json");
    let gguf = sample(&folder);
    let mut out = Vec::new();
    write_json(&gguf, &mut out).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(json["parameters"], 2_097_408);
    assert_eq!(json["bytes"], 1_180_672);
    assert_eq!(json["files"][0]["bytes"], 1_193_952);
    assert_eq!(json["types"]["Q4_K"]["tensors"], 1);
    assert_eq!(json["metadata"]["eps"], serde_json::json!({"type": "f32", "value": 1e-5}));
    assert_eq!(json["metadata"]["tokens"]["of"], "string");
    assert_eq!(json["metadata"]["tokens"]["value"][999], "<999>");
    assert_eq!(json["metadata"]["raw"]["value"], serde_json::json!([255, 65]));
    assert_eq!(json["tensors"][0]["shape"], serde_json::json!([256, 1024, 8]));
    assert_eq!(json["tensors"][1]["offset"], gguf.tensors()[1].offset);
}
