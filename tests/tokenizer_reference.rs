//! Token ids against other programs: sentencepiece and mistral-common (`tokenizers/mistral`), llama.cpp
//! (`tokenizers/llamacpp`), the `tokenizers` library and transformers (`models/*/golden/text.json`).

mod common;

use common::reference;
use std::path::Path;

use ostro::gguf::Gguf;
use ostro::tokenizer::{Encode, Tokenizer};
use serde_json::Value;

const PLAIN: Encode = Encode { bos: false, special: false };
const SPECIAL: Encode = Encode { bos: false, special: true };

fn tokenizer(path: &Path) -> Tokenizer {
    let gguf = Gguf::open(path).unwrap_or_else(|e| panic!("{e}"));
    Tokenizer::from_metadata(gguf.metadata()).unwrap_or_else(|e| panic!("{e}"))
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("a list of ids").iter().map(|v| v.as_u64().expect("an id") as u32).collect()
}

/// Collects what differs, so that all failing rows are reported.
#[derive(Default)]
struct Report {
    rows: usize,
    failures: Vec<String>,
}

impl Report {
    fn check<T: PartialEq + std::fmt::Debug>(&mut self, name: &str, text: &str, got: T, expected: T) {
        self.rows += 1;
        if got != expected {
            let short: String = text.chars().take(80).collect();
            self.failures.push(format!("{name} {short:?}:\n  got      {got:?}\n  expected {expected:?}"));
        }
    }

    fn done(self, at_least: usize) {
        let Report { rows, failures } = self;
        assert!(failures.is_empty(), "{} of {rows} differ:\n{}", failures.len(), failures.join("\n"));
        assert!(rows >= at_least, "only {rows} rows");
    }
}

/// Encodes and decodes, whole and as a stream.
fn round_trip(report: &mut Report, t: &Tokenizer, name: &str, text: &str, opts: Encode, expected: &str) {
    let ids = t.encode(text, opts);
    let decoded = String::from_utf8_lossy(&t.decode(&ids, opts.special)).into_owned();
    let mut stream = t.stream_after(None).special(opts.special);
    let mut streamed: String = ids.iter().map(|&id| stream.push(id).to_owned()).collect();
    streamed += &stream.finish();
    report.check(&format!("{name}, streamed"), text, streamed.as_str(), &decoded);
    report.check(&format!("{name}, decoded"), text, decoded.as_str(), expected);
}

#[test]
fn mistral_v3_is_sentencepiece() {
    let Some(dir) = reference("tokenizers/mistral") else { return };
    let t = tokenizer(&dir.join("mixtral-8x22b-instruct-v0.1-vocab.gguf"));
    assert_eq!((t.bos(), t.eos(), t.unk(), t.n_vocab()), (Some(1), Some(2), Some(0), 32768));
    assert!(t.adds_bos() && t.notes().is_empty() && t.is_eog(2) && !t.is_eog(3) && t.is_control(3));
    let mut report = Report::default();
    for vector in json(&dir.join("vectors_v3.json"))["vectors"].as_array().unwrap() {
        let text = vector["text"].as_str().unwrap();
        let expected = ids(&vector["ids"]);
        report.check("plain", text, t.encode(text, PLAIN), expected.clone());
        let special = vector.get("llama_cpp_ids_parse_special").map_or(expected, ids);
        report.check("special", text, t.encode(text, SPECIAL), special);
        // What is not the text again has U+2581 in it, which is how the vocabulary writes a space.
        let again = vector.get("sp_decode").map_or(text, |v| v.as_str().unwrap());
        round_trip(&mut report, &t, "plain", text, PLAIN, again);
        if !vector.as_object().unwrap().contains_key("sp_decode") {
            round_trip(&mut report, &t, "special", text, SPECIAL, text);
        }
    }
    report.done(4 * 378);
}

#[test]
fn mistral_v3_chats_are_mistral_common() {
    let Some(dir) = reference("tokenizers/mistral") else { return };
    let t = tokenizer(&dir.join("mixtral-8x22b-instruct-v0.1-vocab.gguf"));
    let mut report = Report::default();
    let mut same = 0;
    for chat in json(&dir.join("chats_v3.json"))["chats"].as_array().unwrap() {
        let name = chat["name"].as_str().unwrap();
        for form in ["template", "compact"] {
            let Some(text) = chat[format!("{form}_text").as_str()].as_str() else { continue };
            let expected = ids(&chat[format!("llama_cpp_ids_of_{form}_text").as_str()]);
            report.check(name, text, t.encode(text, SPECIAL), expected);
        }
        if chat["compact_path_equals_mistral_common"] == true {
            let text = chat["compact_text"].as_str().unwrap();
            report.check(name, text, t.encode(text, SPECIAL), ids(&chat["ids"]));
            same += 1;
        }
    }
    assert!(same >= 8, "{same}");
    report.done(19 + 8);
}

#[test]
fn vocabularies_agree_with_llama_cpp() {
    let Some(dir) = reference("tokenizers/llamacpp") else { return };
    let mut report = Report::default();
    for name in ["llama-spm", "llama-bpe", "gpt-2", "qwen2", "command-r", "deepseek-llm", "deepseek-coder"] {
        let Some(path) = reference(&format!("tokenizers/llamacpp/ggml-vocab-{name}.gguf")) else { return };
        let t = tokenizer(&path);
        let read = |ext| std::fs::read_to_string(dir.join(format!("ggml-vocab-{name}.gguf.{ext}"))).unwrap();
        let (texts, lines) = (read("inp"), read("out"));
        let texts = texts.split("\n__ggml_vocab_test__\n");
        for (text, line) in texts.zip(lines.lines()) {
            let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
            report.check(name, text, t.encode(text, PLAIN), expected);
            round_trip(&mut report, &t, name, text, PLAIN, text);
        }
    }
    report.done(7 * 46 * 3);
}

/// The vocabulary of GPT-2 with each pre-tokenizer's name: the ids show where llama.cpp cuts.
#[test]
fn pre_tokenizers_cut_where_llama_cpp_does() {
    let Some(path) = reference("tokenizers/llamacpp/ggml-vocab-gpt-2.gguf") else { return };
    let gguf = Gguf::open(&path).unwrap();
    let vectors: Value = serde_json::from_str(include_str!("data/tokenizer_vectors.json")).unwrap();
    let texts = vectors["pre texts"].as_array().unwrap();
    let mut report = Report::default();
    for (key, rows) in vectors.as_object().unwrap() {
        let Some(name) = key.strip_prefix("pre ").filter(|&n| n != "texts") else { continue };
        let mut md = gguf.metadata().clone();
        md.set("tokenizer.ggml.pre", ostro::gguf::Value::String(name.to_owned()));
        let t = Tokenizer::from_metadata(&md).unwrap_or_else(|e| panic!("{e}"));
        for (text, row) in texts.iter().zip(rows.as_array().unwrap()) {
            let text = text.as_str().unwrap();
            report.check(name, text, t.encode(text, PLAIN), ids(row));
        }
    }
    report.done(26 * 24);
}

#[test]
fn tiny_models_agree_with_transformers() {
    let mut report = Report::default();
    for name in
        ["mixtral", "llama31", "gemma3", "qwen2", "command-r", "command-r-plus", "deepseek2", "qwen3moe", "phi3"]
    {
        let Some(path) = reference(&format!("models/{name}/gguf/{name}-F32.gguf")) else { return };
        let Some(golden) = reference(&format!("models/{name}/golden/text.json")) else { return };
        let t = tokenizer(&path);
        let golden = json(&golden);
        for row in golden["encode"].as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            report.check(name, text, t.encode(text, Encode { bos: true, special: true }), ids(&row["ids"]));
            round_trip(&mut report, &t, name, text, PLAIN, text);
        }
        for chat in golden["chat"].as_array().unwrap() {
            let text = chat["text"].as_str().unwrap();
            report.check(&format!("{name} chat"), text, t.encode(text, SPECIAL), ids(&chat["ids"]));
        }
    }
    report.done(100);
}

#[test]
fn other_kinds_are_refused_with_what_works() {
    let Some(path) = reference("tokenizers/llamacpp/ggml-vocab-bert-bge.gguf") else { return };
    let gguf = Gguf::open(&path).unwrap();
    let error = Tokenizer::from_metadata(gguf.metadata()).err().expect("bert is not supported").to_string();
    assert!(
        error.ends_with(
            "ggml-vocab-bert-bge.gguf: tokenizer.ggml.model: found \"bert\", expected one of llama, gpt2, gemma4; \
         it needs a newer ostro"
        ),
        "{error}"
    );
}

/// Random text of all planes, with the white space and marks that matter, comes back as it was.
#[test]
fn random_text_round_trips() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |n: u32| -> u32 {
        // xorshift64*: any sequence will do, as long as it is the same each time.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        ((state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as u32) % n
    };
    let common = [
        "  ",
        " ",
        "\n",
        "\r\n",
        "\t",
        "a",
        "the",
        "'s",
        "12",
        "<s>",
        "[INST]",
        "<|eot_id|>",
        "<0x0A>",
        "é",
        "你好",
        "👩‍👧",
    ];
    let mut report = Report::default();
    for path in
        ["mistral/mixtral-8x22b-instruct-v0.1-vocab", "llamacpp/ggml-vocab-llama-bpe", "llamacpp/ggml-vocab-qwen2"]
    {
        let Some(file) = reference(&format!("tokenizers/{path}.gguf")) else { return };
        let t = tokenizer(&file);
        for _ in 0..2000 {
            let mut text = String::new();
            for _ in 0..random(40) {
                match random(3) {
                    0 => text.push_str(common[random(common.len() as u32) as usize]),
                    1 => text.extend(char::from_u32(random(0x300))),
                    _ => text.extend(char::from_u32(random(0x11_0000)).filter(|&c| c != '\u{2581}')),
                }
            }
            round_trip(&mut report, &t, path, &text, PLAIN, &text);
            round_trip(&mut report, &t, path, &text, SPECIAL, &text);
        }
    }
    report.done(3 * 2000 * 4);
}

/// The space that a template writes after a control token is the one that the vocabulary puts there. Ids: mistral-common.
#[test]
fn a_rendered_prompt_has_no_double_space() {
    let Some(path) = reference("tokenizers/mistral/mixtral-8x22b-instruct-v0.1-vocab.gguf") else { return };
    let t = tokenizer(&path);
    let want = [1, 3, 23325, 4, 16127, 1504, 2, 3, 23325, 4];
    for text in [
        "<s>[INST] Hello[/INST] Hi there</s>[INST] Hello[/INST]",
        "<s>[INST]Hello[/INST]Hi there</s>[INST]Hello[/INST]",
    ] {
        assert_eq!(t.encode_rendered(text, false, |_| None), want, "{text}");
        assert_eq!(t.encode_rendered(&text[3..], true, |_| None), want, "{text} without its BOS");
    }
}
