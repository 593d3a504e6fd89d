//! The vocabularies of real models against llama.cpp's ids (`tests/data/tokenizer_vectors.json`, made by
//! `tests/tools/tokenizer_vectors.py`).

mod common;

use ostro::gguf::Gguf;
use ostro::tokenizer::{Encode, Tokenizer};
use serde_json::Value;

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list of ids").iter().map(|v| v.as_u64().expect("an id") as u32).collect()
}

fn check(name: &str, alias: &str, file: &str) {
    let Some(path) = common::real_model(alias, file) else { return };
    let gguf = Gguf::open(&path).unwrap_or_else(|e| panic!("{e}"));
    let t = Tokenizer::from_metadata(gguf.metadata()).unwrap_or_else(|e| panic!("{e}"));
    assert!(t.notes().is_empty(), "{:?}", t.notes());
    let vectors: Value = serde_json::from_str(include_str!("data/tokenizer_vectors.json")).unwrap();
    let texts = vectors["texts"].as_array().unwrap();
    let rows = vectors[name].as_array().unwrap();
    assert!(texts.len() == rows.len() && rows.len() > 200);
    let mut failures = Vec::new();
    for (text, row) in texts.iter().zip(rows) {
        let text = text.as_str().unwrap();
        for (special, expected) in [(false, &row[0]), (true, if row[1].is_null() { &row[0] } else { &row[1] })] {
            let got = t.encode(text, Encode { bos: false, special });
            if got != ids(expected) {
                failures.push(format!("{text:?}, special {special}:\n  got      {got:?}\n  expected {expected}"));
            }
            let decoded = t.decode(&got, special);
            // U+2581 is how a SentencePiece vocabulary writes a space.
            if decoded != text.as_bytes() && !text.contains('\u{2581}') {
                failures.push(format!("{text:?}, special {special}: decoded {:?}", String::from_utf8_lossy(&decoded)));
            }
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn smollm2_agrees_with_llama_cpp() {
    check("smollm2", "smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf");
}

#[test]
fn gemma3_agrees_with_llama_cpp() {
    check("gemma3", "gemma3-270m", "gemma-3-270m-q4_k_m.gguf");
}
