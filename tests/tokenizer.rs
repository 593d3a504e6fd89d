//! Vocabularies made here: the rules one at a time, and files that are wrong.

use std::path::Path;

use ostro::gguf::{Array, Metadata, Value};
use ostro::tokenizer::{Encode, Tokenizer};

const PLAIN: Encode = Encode { bos: false, special: false };
const SPECIAL: Encode = Encode { bos: false, special: true };
const WHOLE: Encode = Encode { bos: true, special: true };

const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const BYTE: i32 = 6;

fn string(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn strings<S: ToString>(texts: &[S]) -> Value {
    Value::Array(Array::String(texts.iter().map(S::to_string).collect()))
}

/// Metadata of a vocabulary: pieces with score and kind.
fn metadata(model: &str, pieces: &[(String, f32, i32)]) -> Metadata {
    let mut md = Metadata::new(Path::new("made.gguf"));
    md.set("tokenizer.ggml.model", string(model));
    let texts: Vec<&str> = pieces.iter().map(|p| p.0.as_str()).collect();
    md.set("tokenizer.ggml.tokens", strings(&texts));
    md.set("tokenizer.ggml.scores", Value::Array(Array::F32(pieces.iter().map(|p| p.1).collect())));
    md.set("tokenizer.ggml.token_type", Value::Array(Array::I32(pieces.iter().map(|p| p.2).collect())));
    md
}

/// `<unk> <s> </s>`, then `first` (from id 3 on), then 256 bytes, then `rest` with falling scores.
fn spm(first: &[(&str, i32)], rest: &[&str]) -> Metadata {
    let mut pieces = vec![("<unk>".to_owned(), 0.0, UNKNOWN)];
    pieces.extend([("<s>", CONTROL), ("</s>", CONTROL)].map(|(t, k)| (t.to_owned(), 0.0, k)));
    pieces.extend(first.iter().map(|&(t, k)| (t.to_owned(), 0.0, k)));
    pieces.extend((0..256).map(|b| (format!("<0x{b:02X}>"), 0.0, BYTE)));
    pieces.extend(rest.iter().enumerate().map(|(i, t)| ((*t).to_owned(), -(i as f32), NORMAL)));
    metadata("llama", &pieces)
}

/// A byte-level vocabulary: the letters of `ascii`, then `rest` with its merges.
fn bpe(pre: &str, ascii: &str, merges: &[&str], marks: &[(&str, i32)]) -> Metadata {
    let mut pieces: Vec<_> = ascii.chars().map(|c| (c.to_string(), 0.0, NORMAL)).collect();
    pieces.extend(merges.iter().map(|m| (m.replace(' ', ""), 0.0, NORMAL)));
    pieces.extend(marks.iter().map(|&(t, k)| (t.to_owned(), 0.0, k)));
    let mut md = metadata("gpt2", &pieces);
    md.set("tokenizer.ggml.pre", string(pre));
    md.set("tokenizer.ggml.merges", strings(merges));
    md
}

fn tokenizer(md: &Metadata) -> Tokenizer {
    Tokenizer::from_metadata(md).unwrap_or_else(|e| panic!("{e}"))
}

/// The tokens of a text by name, divided by '|'.
fn names(t: &Tokenizer, text: &str, opts: Encode) -> String {
    let ids = t.encode(text, opts);
    let names: Vec<String> =
        ids.iter().map(|&id| String::from_utf8_lossy(&t.piece(id).expect("an id of ours")).into_owned()).collect();
    names.join("|")
}

#[test]
fn merges_go_by_score_and_then_from_the_left() {
    let equal = |pieces: &[&str]| {
        let mut md = spm(&[], pieces);
        md.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
        let n = 259 + pieces.len();
        md.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; n])));
        tokenizer(&md)
    };
    let falling = |pieces: &[&str]| {
        let mut md = spm(&[], pieces);
        md.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
        tokenizer(&md)
    };
    let cases = [
        ("higher score first", falling(&["bc", "ab", "a", "b", "c"]), "abc", "a|bc"),
        ("higher score first", falling(&["ab", "bc", "a", "b", "c"]), "abc", "ab|c"),
        ("leftmost of equals", equal(&["bc", "ab", "a", "b", "c"]), "abc", "ab|c"),
        ("leftmost of one piece", falling(&["aa", "a"]), "aaaaa", "aa|aa|a"),
        ("a piece of pieces", falling(&["aa", "aaa", "a", "b"]), "aaaaab", "aa|aaa|b"),
        ("never reached", falling(&["b", "abc", "a", "c"]), "abc", "a|b|c"),
        ("no piece", falling(&["a"]), "ab", "a|b"),
        ("no piece", falling(&["a"]), "\u{e9}a", "\u{fffd}|\u{fffd}|a"),
        ("nothing", falling(&["a"]), "", ""),
    ];
    for (name, t, text, expected) in cases {
        assert_eq!(names(&t, text, PLAIN), expected, "{name}: {text:?}");
    }
}

#[test]
fn control_tokens_are_text_unless_asked_for() {
    let first = [("[INST]", CONTROL), ("[/INST]", CONTROL), ("<tool>", USER_DEFINED)];
    let t = tokenizer(&spm(&first, &["▁a", "a", "b", "▁", "<", ">", "s", "/", "s>", "<s", "</"]));
    let cases = [
        ("a<s>b", PLAIN, " a|<|s>|b"),
        ("</s>", PLAIN, " |</|s>"),
        ("a<s>b", SPECIAL, " a|<s>| |b"),
        ("a", WHOLE, "<s>| a"),
        ("", WHOLE, "<s>"),
        ("", SPECIAL, ""),
        ("<s><s>", SPECIAL, "<s>|<s>"),
        ("[INST]a[/INST]", SPECIAL, "[INST]| a|[/INST]"),
        // What is always one token is found in any case.
        ("<tool>a", PLAIN, "<tool>| a"),
        ("<0x41>", PLAIN, " |<|0|x|4|1|>"),
    ];
    let mut failures = Vec::new();
    for (text, opts, expected) in cases {
        let got = names(&t, text, opts);
        if got != expected {
            failures.push(format!("{text:?} {opts:?}: {got}, expected {expected}"));
        }
        let decoded = t.decode(&t.encode(text, Encode { bos: false, ..opts }), true);
        if decoded != text.as_bytes() {
            failures.push(format!("{text:?} {opts:?}: decoded {:?}", String::from_utf8_lossy(&decoded)));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
    assert_eq!(t.decode(&t.encode("a<s>b", SPECIAL), false), b"ab");
    assert_eq!(t.decode(&[1, 3, 9999, u32::MAX], false), b"");
}

#[test]
fn a_stream_knows_what_it_follows() {
    let t = tokenizer(&spm(&[("[/INST]", CONTROL)], &["▁a", "▁"]));
    let a = t.id_of("▁a").unwrap();
    let read = |mut s: ostro::tokenizer::TextStream<'_>, ids: &[u32]| -> String {
        let text: String = ids.iter().map(|&id| s.push(id).to_owned()).collect();
        text + &s.finish()
    };
    assert_eq!(read(t.stream(), &[a, a]), " a a");
    assert_eq!(read(t.stream_after(None), &[a, a]), "a a");
    assert_eq!(read(t.stream_after(Some(3)), &[a, a]), "a a");
    assert_eq!(read(t.stream_after(Some(a)), &[a, a]), " a a");
    assert_eq!(read(t.stream(), &[a, 2]), " a");
    assert_eq!(read(t.stream().special(true), &[a, 2]), " a</s>");
    let bytes: Vec<u32> = "é😀".bytes().map(|b| t.id_of(&format!("<0x{b:02X}>")).unwrap()).collect();
    assert_eq!(read(t.stream(), &bytes), "é😀");
    assert_eq!(read(t.stream(), &bytes[..5]), "é\u{fffd}");
}

#[test]
fn forgotten_kinds_of_mistral_files_are_repaired() {
    let marks = ["[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"];
    let marks = marks.into_iter().chain(["[/TOOL_RESULTS]", "[IMG]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"]);
    let named = marks.chain(["[control_12]", "[REFERENCE_DOC_0]"]);
    let first: Vec<(&str, i32)> = named.map(|m| (m, NORMAL)).collect();
    let t = tokenizer(&spm(&first, &["▁a", "[", "]", "I", "N", "S", "T", "▁"]));
    assert_eq!(t.notes().len(), 1, "{:?}", t.notes());
    assert_eq!(names(&t, "[INST]a", SPECIAL), "[INST]| a");
    assert_eq!(names(&t, "[INST]", PLAIN), " |[|I|N|S|T|]");
    assert!((3..15).all(|id| t.is_control(id)) && !t.is_control(15));
    // A sound file, and one of another model, are left alone.
    assert!(tokenizer(&spm(&[("[INST]", CONTROL)], &["a"])).notes().is_empty());
    assert!(tokenizer(&spm(&[("a", NORMAL)], &["b"])).notes().is_empty());
}

#[test]
fn ends_of_generation_go_by_role_and_by_name() {
    let marks = [
        ("<|endoftext|>", CONTROL),
        ("<|im_start|>", CONTROL),
        ("<|im_end|>", NORMAL),
        ("</s>", NORMAL),
        ("<|last|>", CONTROL),
        ("<|turn|>", CONTROL),
    ];
    let mut md = bpe("gpt-2", "ab", &["a b"], &marks);
    let id = |name: &str| tokenizer(&bpe("gpt-2", "ab", &["a b"], &marks)).id_of(name).unwrap();
    md.set("tokenizer.ggml.eos_token_id", Value::U32(id("<|last|>")));
    md.set("tokenizer.ggml.eot_token_id", Value::U32(id("<|turn|>")));
    md.set("tokenizer.ggml.bos_token_id", Value::U32(9999));
    md.set("tokenizer.ggml.padding_token_id", Value::I32(-1));
    let t = tokenizer(&md);
    let ends: Vec<u32> = ["<|endoftext|>", "<|im_end|>", "<|last|>", "<|turn|>"].map(id).to_vec();
    assert_eq!(t.eog().collect::<Vec<u32>>(), ends);
    assert!(t.is_control(id("<|im_end|>")) && !t.is_control(id("</s>")));
    assert_eq!((t.bos(), t.pad(), t.eos(), t.eot()), (None, None, Some(id("<|last|>")), Some(id("<|turn|>"))));
    assert!(!t.adds_bos() && !t.adds_eos());
}

#[test]
fn merges_of_words() {
    let t = tokenizer(&bpe("gpt-2", "abcĠ", &["a b", "Ġ ab", "c c"], &[("<|endoftext|>", CONTROL)]));
    for (text, expected) in [("ab ab", "ab| ab"), ("abc", "ab|c"), ("cc<|endoftext|>ccc", "cc|<|endoftext|>|cc|c")] {
        assert_eq!(names(&t, text, SPECIAL), expected);
    }
    let without = {
        let mut md = bpe("gpt-2", "abcĠ", &["a b"], &[]);
        md.set("tokenizer.ggml.pre", Value::U8(0));
        md
    };
    let error = Tokenizer::from_metadata(&without).err().expect("pre is no string").to_string();
    assert!(error.contains("tokenizer.ggml.pre"), "{error}");
}

#[test]
fn wrong_vocabularies_are_told_in_a_line() {
    type Change = fn(&mut Metadata);
    let cases: &[(&str, Change, &[&str])] = &[
        (
            "model",
            |m| _ = m.set("tokenizer.ggml.model", string("t5")),
            &["\"t5\"", "expected one of llama, gpt2, gemma4;"],
        ),
        ("no model", |m| _ = m.set("tokenizer.ggml.model", Value::Bool(true)), &["tokenizer.ggml.model"]),
        (
            "pre",
            |m| _ = m.set("tokenizer.ggml.pre", string("nonesuch")),
            &["\"nonesuch\"", "expected one of a.x-4.0, bailing"],
        ),
        ("no tokens", |m| _ = m.set("tokenizer.ggml.tokens", strings::<&str>(&[])), &["0 tokens"]),
        (
            "kinds",
            |m| _ = m.set("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1]))),
            &["1 entries", "3, as"],
        ),
        ("merge", |m| _ = m.set("tokenizer.ggml.merges", strings(&["ab"])), &["entry 0 is \"ab\"", "two pieces"]),
        ("merge", |m| _ = m.set("tokenizer.ggml.merges", strings(&[""])), &["entry 0 is \"\""]),
        ("merge", |m| _ = m.set("tokenizer.ggml.merges", strings(&["b a"])), &["`ba`", "pairs of pieces"]),
        ("bos", |m| _ = m.set("tokenizer.ggml.bos_token_id", string("x")), &["tokenizer.ggml.bos_token_id"]),
    ];
    let mut failures = Vec::new();
    for (name, change, parts) in cases {
        let mut md = bpe("gpt-2", "ab", &["a b"], &[]);
        change(&mut md);
        match Tokenizer::from_metadata(&md) {
            Ok(_) => failures.push(format!("{name}: accepted")),
            Err(e) => {
                let e = e.to_string();
                if !e.starts_with("made.gguf: ") || e.contains('\n') || !parts.iter().all(|p| e.contains(p)) {
                    failures.push(format!("{name}: {e}"));
                }
            }
        }
    }
    let mut md = spm(&[], &["a"]);
    md.set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0])));
    let error = Tokenizer::from_metadata(&md).err().expect("too few scores").to_string();
    if error
        != "made.gguf: tokenizer.ggml.scores: found 1 entries, expected 260, as many as tokenizer.ggml.tokens has; convert the model again with a current converter"
    {
        failures.push(error);
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn pieces_that_are_not_text_do_no_harm() {
    let mut md = spm(&[], &["a"]);
    let mut tokens: Vec<Vec<u8>> = (0..259).map(|i| format!("t{i}").into_bytes()).collect();
    tokens.push(vec![0xf0, 0x9f]);
    md.set("tokenizer.ggml.tokens", Value::Array(Array::Bytes(tokens)));
    let t = tokenizer(&md);
    assert_eq!(t.piece(259), Some(vec![0xf0, 0x9f]));
    assert_eq!(t.piece(260), None);
    let mut stream = t.stream();
    assert_eq!(stream.push(259), "");
    assert_eq!(stream.finish(), "\u{fffd}");
}
