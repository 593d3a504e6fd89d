//! Bad files, bad prompts, bad flags: one line that names file, thing, found, expected and the next step.

use std::fs;

use ostro::gguf::{Array, Value};
use ostro_kernels::DType;
use tempfile::TempDir;

use super::tiny::{Experts, Tiny};
use super::{Done, ostro, piped, words};

/// A line of the shell, and what it leaves on standard error with exit code 1 (without `error: `).
type Row<'a> = (&'a str, &'a str);

/// Runs the rows in `folder` with nothing on standard input; all that fail are shown.
fn check(folder: &TempDir, rows: &[Row]) {
    let mut failed = Vec::new();
    for (line, expected) in rows {
        let done = Done::from(ostro(folder.path(), words(line)).output().unwrap());
        let mut expected = Done { code: Some(1), out: String::new(), err: format!("error: {expected}\n") };
        // What goes on with dots is a list that grows.
        if let Some(start) = expected.err.strip_suffix("...\n")
            && done.err.starts_with(start)
            && done.err.lines().count() == 1
        {
            expected.err = done.err.clone();
        }
        if done != expected {
            failed.push(format!("ostro {line}\n  expected {expected:?}\n     found {done:?}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

fn folder_with(models: &[(&str, Tiny)]) -> TempDir {
    let folder = TempDir::new().unwrap();
    for (name, model) in models {
        model.write(&folder.path().join(name));
    }
    folder
}

fn text(s: &str) -> Value {
    Value::String(s.into())
}

#[test]
fn broken_bytes() {
    let folder = folder_with(&[("good.gguf", Tiny::new(Experts::None))]);
    let good = fs::read(folder.path().join("good.gguf")).unwrap();
    let put = |name: &str, at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(folder.path().join(name), file).unwrap();
    };
    let find = |what: &[u8]| good.windows(what.len()).position(|w| w == what).unwrap();
    fs::write(folder.path().join("short.gguf"), &good[..good.len() - 1]).unwrap();
    fs::write(folder.path().join("header.gguf"), &good[..100]).unwrap();
    fs::write(folder.path().join("empty.gguf"), "").unwrap();
    fs::write(folder.path().join("page.gguf"), "<!DOCTYPE html><title>Sign in</title>").unwrap();
    put("magic.gguf", 0, b"GGXX");
    put("v1.gguf", 4, &1u32.to_le_bytes());
    put("v9.gguf", 4, &9u32.to_le_bytes());
    put("big-endian.gguf", 4, &3u32.to_be_bytes());
    put("tensors.gguf", 8, &u64::MAX.to_le_bytes());
    put("keys.gguf", 16, &(u64::MAX / 2).to_le_bytes());
    put("key.gguf", 24, &u64::MAX.to_le_bytes());
    let entry = find(b"output_norm.weight") + "output_norm.weight".len();
    put("type.gguf", entry + 4 + 8, &99u32.to_le_bytes());
    put("old-type.gguf", entry + 4 + 8, &31u32.to_le_bytes());
    put("shape.gguf", entry + 4, &(u64::MAX / 4).to_le_bytes());
    put("offset.gguf", entry + 4 + 8 + 4, &(1u64 << 40).to_le_bytes());
    let rows = [
        (
            "short.gguf",
            "short.gguf: tensor output.weight: data ends at byte 405664, the file has 405663; the file is truncated: download it again",
        ),
        (
            "header.gguf",
            "header.gguf: header: tensors: found a count of 21 at byte 8, expected at most 2 in a file of 100 bytes; the file is truncated or damaged: download it again",
        ),
        ("empty.gguf", "empty.gguf: size: found 0 bytes, expected a GGUF file; download it again"),
        (
            "page.gguf",
            "page.gguf: magic: found \"<!DO\" (a web page), expected \"GGUF\"; download the file itself: the link leads to a page about it",
        ),
        ("magic.gguf", "magic.gguf: magic: found \"GGXX\", expected \"GGUF\"; give a GGUF file"),
        ("v1.gguf", "v1.gguf: version: found 1, expected 2 or 3; convert the model again with a current converter"),
        ("v9.gguf", "v9.gguf: version: found 9, expected 2 or 3; a newer release may read it"),
        (
            "big-endian.gguf",
            "big-endian.gguf: byte order: found a big-endian file of version 3, expected little-endian; turn it around with gguf-py's gguf_convert_endian.py, or download the little-endian file",
        ),
        (
            "tensors.gguf",
            "tensors.gguf: header: tensors: found a count of 18446744073709551615 at byte 8, expected at most 12676 in a file of 405664 bytes; the file is truncated or damaged: download it again",
        ),
        (
            "keys.gguf",
            "keys.gguf: header: keys: found a count of 9223372036854775807 at byte 16, expected at most 31203 in a file of 405664 bytes; the file is truncated or damaged: download it again",
        ),
        (
            "key.gguf",
            "key.gguf: key 0 of 12: found the end of the file after 405664 bytes, expected 18446744073709551615 more bytes at byte 32; the file is truncated or damaged: download it again",
        ),
        (
            "type.gguf",
            "type.gguf: tensor output_norm.weight: found type 99, expected a ggml type of today; the file is damaged, or a newer release may read it",
        ),
        (
            "old-type.gguf",
            "old-type.gguf: tensor output_norm.weight: found type 31 (Q4_0_4_4, which ggml has removed), expected a ggml type of today; quantize the model again, or download a newer file of it",
        ),
        (
            "shape.gguf",
            "shape.gguf: tensor output_norm.weight: found shape [4611686018427387903] at byte 7994, expected less than 2^63 elements and bytes; the file is damaged: download or convert it again",
        ),
        (
            "offset.gguf",
            "offset.gguf: tensor output_norm.weight: data ends at byte 1099511636128, the file has 405664; the file is truncated: download it again",
        ),
    ];
    // Every command that opens a file says the same.
    let lines = |(file, error): (&str, &str)| {
        ["inspect FILE", "run FILE -p hi", "bench FILE", "logits FILE --tokens 1 -o out.npy", "tokenize FILE -p hi"]
            .map(|line| (line.replace("FILE", file), error.to_owned()))
    };
    let rows: Vec<_> = rows.into_iter().flat_map(lines).collect();
    let rows: Vec<_> = rows.iter().map(|(line, error)| (line.as_str(), error.as_str())).collect();
    check(&folder, &rows);
    assert!(!folder.path().join("out.npy").exists());
}

#[test]
fn unsound_models() {
    let tiny = || Tiny::new(Experts::None);
    let moe = || Tiny::new(Experts::Merged);
    let number = "an integer from 0 to 4294967295";
    let required = [
        ("general.architecture", "key general.architecture", "a string"),
        ("llama.context_length", "key llama.context_length", number),
        ("llama.embedding_length", "key llama.embedding_length", number),
        ("llama.block_count", "key llama.block_count", number),
        ("llama.feed_forward_length", "llama.feed_forward_length", "the inner width"),
        ("llama.attention.head_count", "llama.attention.head_count", "the number of heads"),
        (
            "llama.attention.layer_norm_rms_epsilon",
            "llama.attention.layer_norm_rms_epsilon",
            "a small number such as 1e-5",
        ),
        ("tokenizer.ggml.model", "key tokenizer.ggml.model", "a string"),
        ("tokenizer.ggml.tokens", "key tokenizer.ggml.tokens", "an array of strings"),
        ("tokenizer.ggml.scores", "key tokenizer.ggml.scores", "an array of numbers"),
    ];
    let required = required.map(|(key, thing, expected)| {
        let next = "convert the model again with a current converter";
        (key, tiny().without_key(key), format!("{thing}: found nothing, expected {expected}; {next}"))
    });
    let u = Value::U32;
    let mut models = Vec::from(required);
    let others = [
        (
            "arch",
            tiny().set("general.architecture", text("mamba")),
            "general.architecture: found \"mamba\", expected one of cohere2, command-r, deepseek2, gemma2, gemma3, llama, phi3, qwen2, qwen2moe, qwen3, qwen3moe; take a file of one of these, or a newer ostro",
        ),
        (
            "arch-type",
            tiny().set("general.architecture", u(3)),
            "key general.architecture: found u32 3, expected a string; convert the model again with a current converter",
        ),
        (
            "layers-0",
            tiny().set("llama.block_count", u(0)),
            "llama.block_count: found 0, expected 1 to 4096; convert the model again with a current converter",
        ),
        (
            "layers-3",
            tiny().set("llama.block_count", u(3)),
            "tensor blk.2.attn_norm.weight: found nothing, expected shape [64]; the file is incomplete: download or convert it again",
        ),
        (
            "layers-text",
            tiny().set("llama.block_count", text("2")),
            "key llama.block_count: found string \"2\", expected an integer from 0 to 4294967295; convert the model again with a current converter",
        ),
        (
            "layers-many",
            tiny().set("llama.block_count", u(u32::MAX)),
            "llama.block_count: found 4294967295, expected 1 to 4096; convert the model again with a current converter",
        ),
        (
            "heads-0",
            tiny().set("llama.attention.head_count", u(0)),
            "llama.attention.head_count: found 0, expected 1 to 1048576; convert the model again with a current converter",
        ),
        (
            "heads-5",
            tiny().set("llama.attention.head_count", u(5)),
            "llama.attention.head_count_kv: found 2, expected a divisor of the 5 query heads; convert the model again with a current converter",
        ),
        (
            "heads-list",
            tiny().set("llama.attention.head_count", Value::Array(Array::U32(vec![4]))),
            "key llama.attention.head_count: found an array of 1, expected an array of 2, or one integer; convert the model again with a current converter",
        ),
        (
            "kv-heads-3",
            tiny().set("llama.attention.head_count_kv", u(3)),
            "llama.attention.head_count_kv: found 3, expected a divisor of the 4 query heads; convert the model again with a current converter",
        ),
        (
            "width",
            tiny().set("llama.embedding_length", u(32)),
            "tensor token_embd.weight: shape [64, 294], expected [32, 294]; the file contradicts itself: convert it again",
        ),
        (
            "eps-nan",
            tiny().set("llama.attention.layer_norm_rms_epsilon", Value::F32(f32::NAN)),
            "llama.attention.layer_norm_rms_epsilon: found NaN, expected a finite number; convert the model again with a current converter",
        ),
        (
            "rope-dim",
            tiny().set("llama.rope.dimension_count", u(17)),
            "llama.rope.dimension_count: found 17, expected an even number up to the head's width 16; convert the model again with a current converter",
        ),
        (
            "head-width",
            tiny().set("llama.attention.key_length", u(1)),
            "llama.rope.dimension_count: found 1, expected an even number up to the head's width 1; convert the model again with a current converter",
        ),
        (
            "rope-base",
            tiny().set("llama.rope.freq_base", Value::F32(-1.0)),
            "llama.rope.freq_base: found -1, expected a number above 0; convert the model again with a current converter",
        ),
        (
            "rope-type",
            tiny().set("llama.rope.scaling.type", text("longrope")),
            "llama.rope.scaling.type: found longrope, expected none, linear or yarn, or longrope with its tables; convert the model again with a current converter",
        ),
        (
            "rope-factor",
            tiny().set("llama.rope.scaling.type", text("linear")),
            "llama.rope.scaling.factor: found nothing, expected a number above 0; convert the model again with a current converter",
        ),
        (
            "experts-0",
            moe().set("llama.expert_used_count", u(0)),
            "llama.expert_used_count: found 0, expected 1 to the 4 experts; convert the model again with a current converter",
        ),
        (
            "experts-9",
            moe().set("llama.expert_used_count", u(9)),
            "llama.expert_used_count: found 9, expected 1 to the 4 experts; convert the model again with a current converter",
        ),
        (
            "experts-8",
            moe().set("llama.expert_count", u(8)),
            "tensor blk.0.ffn_gate_inp.weight: shape [64, 4], expected [64, 8]; the file contradicts itself: convert it again",
        ),
        (
            "experts-many",
            moe().legacy().set("llama.expert_count", u(1 << 20)),
            "tensor blk.0.ffn_gate_inp.weight: shape [64, 4], expected [64, 1048576]; the file contradicts itself: convert it again",
        ),
        (
            "experts-gone",
            moe().without_tensor("blk.1.ffn_up_exps.weight"),
            "tensor blk.1.ffn_up_exps.weight: found nothing, expected shape [64, 96, 4]; the file is incomplete: download or convert it again",
        ),
        (
            "expert-3-gone",
            moe().legacy().without_tensor("blk.1.ffn_up.3.weight"),
            "tensor blk.1.ffn_up.3.weight: found nothing, expected shape [64, 96]; the file is incomplete: download or convert it again",
        ),
        (
            "vocabulary",
            tiny().tensor("token_embd.weight", DType::F32, &[64, 300]),
            "tokenizer.ggml.tokens: found 294 tokens, expected 300, the rows of token_embd.weight; convert the model again with a current converter",
        ),
        (
            "head",
            tiny().tensor("output.weight", DType::F32, &[64, 300]),
            "tensor output.weight: shape [64, 300], expected [64, 294]; the file contradicts itself: convert it again",
        ),
        (
            "embedding",
            tiny().without_tensor("token_embd.weight"),
            "tensor token_embd.weight: found nothing, expected shape [width, vocabulary]; the file is incomplete: download or convert it again",
        ),
        (
            "gone",
            tiny().without_tensor("blk.1.ffn_up.weight"),
            "tensor blk.1.ffn_up.weight: found nothing, expected shape [64, 96]; the file is incomplete: download or convert it again",
        ),
        (
            "shape",
            tiny().tensor("blk.0.attn_k.weight", DType::F32, &[64, 64]),
            "tensor blk.0.attn_k.weight: shape [64, 64], expected [64, 32]; the file contradicts itself: convert it again",
        ),
        (
            "integers",
            tiny().tensor("blk.0.attn_k.weight", DType::I32, &[64, 32]),
            "tensor blk.0.attn_k.weight: found type I32, expected a weight of floats or blocks; convert the model again with a current converter",
        ),
        (
            "norm-type",
            tiny().tensor("blk.0.attn_norm.weight", DType::Q8_0, &[64]),
            "tensor blk.0.attn_norm.weight: found type Q8_0, expected F32, F16 or BF16; convert the model again with a current converter",
        ),
        (
            "extra",
            tiny().tensor("blk.0.attn_sinks.weight", DType::F32, &[4]),
            "tensor blk.0.attn_sinks.weight: found, expected only tensors that architecture llama uses (1 are not); it needs a newer ostro",
        ),
        (
            "kind",
            tiny().set("tokenizer.ggml.model", text("rwkv")),
            "tokenizer.ggml.model: found \"rwkv\", expected one of llama, gpt2, gemma4; it needs a newer ostro",
        ),
        (
            "pre",
            tiny().set("tokenizer.ggml.model", text("gpt2")).set("tokenizer.ggml.pre", text("nonsense")),
            "tokenizer.ggml.pre: found \"nonsense\", which needs a newer ostro; expected one of ...",
        ),
        (
            "merges",
            tiny().set("tokenizer.ggml.model", text("gpt2")).set("tokenizer.ggml.pre", text("llama-bpe")),
            "key tokenizer.ggml.merges: found nothing, expected an array of strings; convert the model again with a current converter",
        ),
        (
            "scores",
            tiny().set("tokenizer.ggml.scores", Value::Array(Array::F32(vec![0.0; 9]))),
            "tokenizer.ggml.scores: found 9 entries, expected 294, as many as tokenizer.ggml.tokens has; convert the model again with a current converter",
        ),
        (
            "template",
            tiny().set("tokenizer.chat_template", text("{% for %}")),
            "chat template: line 1: unexpected end of block, expected in; --chat-template names another, `run --raw` does without",
        ),
        (
            "refuses",
            tiny().set("tokenizer.chat_template", text("{{ raise_exception('no users') }}")),
            "chat template: refuses the messages: no users",
        ),
    ];
    models.extend(others.map(|(name, model, error)| (name, model, error.to_owned())));
    let folder = folder_with(&[]);
    let mut rows = Vec::new();
    for (name, model, error) in &models {
        let name = format!("{name}.gguf");
        model.write(&folder.path().join(&name));
        rows.push((format!("run {name} -p hi -n 1"), format!("{name}: {error}")));
    }
    let rows: Vec<_> = rows.iter().map(|(line, error)| (line.as_str(), error.as_str())).collect();
    check(&folder, &rows);
}

#[test]
fn split_sets() {
    let folder = TempDir::new().unwrap();
    let whole = Tiny::new(Experts::None);
    let part = |no: u16, count: u16, tensors: std::ops::Range<usize>| {
        let mut part = if no == 0 { whole.clone() } else { Tiny { metadata: Default::default(), tensors: Vec::new() } };
        part.metadata.set("split.no", Value::U16(no));
        part.metadata.set("split.count", Value::U16(count));
        part.metadata.set("split.tensors.count", Value::I32(whole.tensors.len() as i32));
        part.tensors = whole.tensors[tensors].to_vec();
        part
    };
    let n = whole.tensors.len();
    for (stem, parts) in [("gap", &[0, 2][..]), ("all", &[0, 1, 2]), ("swapped", &[0, 1, 2])] {
        for &no in parts {
            let range = [0..5, 5..9, 9..n][usize::from(no)].clone();
            let path = folder.path().join(format!("{stem}-0000{}-of-00003.gguf", no + 1));
            part(if stem == "swapped" && no > 0 { 3 - no } else { no }, 3, range).write(&path);
        }
    }
    part(0, 2, 0..5).write(&folder.path().join("less-00001-of-00002.gguf"));
    part(1, 2, 5..9).write(&folder.path().join("less-00002-of-00002.gguf"));
    part(0, 3, 0..5).write(&folder.path().join("renamed.gguf"));
    check(
        &folder,
        &[
            (
                "run gap-00001-of-00003.gguf -p hi",
                "gap-00001-of-00003.gguf: split set: found no gap-00002-of-00003.gguf, expected 3 parts in one folder; download the missing parts to the folder of the first",
            ),
            (
                "inspect all-00002-of-00003.gguf",
                "all-00002-of-00003.gguf: key split.no: found part 2 of 3, expected the first part of the set; give all-00001-of-00003.gguf",
            ),
            (
                "logits swapped-00001-of-00003.gguf --tokens 1 -o x.npy",
                "swapped-00002-of-00003.gguf: key split.no: found 2, expected 1; the parts are of different sets: download them again",
            ),
            (
                "run less-00001-of-00002.gguf -p hi",
                "less-00001-of-00002.gguf: split set: found 9 tensors in 2 parts, expected 21 (split.tensors.count); the parts are of different sets: download them again",
            ),
            (
                "tokenize renamed.gguf -p hi",
                "renamed.gguf: file name: found renamed.gguf, expected a name that ends in -00001-of-00003.gguf, as this is part 1 of 3; give the parts their names back, or merge them",
            ),
        ],
    );
    // The whole set says what the one file says.
    whole.write(&folder.path().join("whole.gguf"));
    let say = |file| super::answer(&folder, &format!("run {file} -p hi -n 8 --temp 0"));
    assert_eq!(say("all-00001-of-00003.gguf"), say("whole.gguf"));
}

#[test]
fn prompts_files_and_flags() {
    let folder = folder_with(&[("tiny.gguf", Tiny::new(Experts::None))]);
    fs::create_dir(folder.path().join("folder")).unwrap();
    fs::write(folder.path().join("empty.txt"), "").unwrap();
    fs::write(folder.path().join("latin1.txt"), b"caf\xe9").unwrap();
    fs::write(folder.path().join("long.txt"), "a ".repeat(5000)).unwrap();
    check(
        &folder,
        &[
            (
                "run tiny.gguf",
                "prompt: found an empty text, expected some; give it with -p TEXT, -f FILE or through a pipe",
            ),
            (
                "run tiny.gguf -p -",
                "prompt: found an empty text, expected some; give it with -p TEXT, -f FILE or through a pipe",
            ),
            (
                "run tiny.gguf -f empty.txt",
                "prompt: found an empty text, expected some; give it with -p TEXT, -f FILE or through a pipe",
            ),
            ("run tiny.gguf -f nope.txt", "nope.txt: cannot be read: No such file or directory (os error 2)"),
            ("run tiny.gguf -f folder", "folder: cannot be read: Is a directory (os error 21)"),
            (
                "run tiny.gguf -f latin1.txt",
                "latin1.txt: found byte 0xe9 at offset 3, expected UTF-8 text; convert it first",
            ),
            (
                "run tiny.gguf -f long.txt",
                "prompt: found 5002 tokens, expected at most the context's 4096; give a larger --ctx-size (the model was trained for 4096) or a shorter prompt",
            ),
            (
                "run tiny.gguf -p aaaa -c 3",
                "prompt: found 5 tokens, expected at most the context's 3; give a larger --ctx-size (the model was trained for 4096) or a shorter prompt",
            ),
            (
                "run tiny.gguf -p a -c 1000000000000",
                "--ctx-size: found 1000000000000, expected a cache that fits in memory, at 256 bytes a token; give a smaller one",
            ),
            (
                "run tiny.gguf -p a -c 18446744073709551615",
                "--ctx-size: found 18446744073709551615, expected a cache that fits in memory, at 256 bytes a token; give a smaller one",
            ),
            (
                "run nope.gguf -p hi",
                "nope.gguf: neither a file nor an alias of the catalogue: `ostro list` shows the aliases",
            ),
            (
                "run folder -p hi",
                "folder: a folder, not a GGUF file, and no alias of the catalogue: `ostro list` shows the aliases",
            ),
            (
                "run smollm -p hi",
                "smollm: neither a file nor an alias of the catalogue (did you mean smollm2?): `ostro list` shows the aliases",
            ),
            (
                "run -m /dev/null -p hi",
                "/dev/null: neither a file nor an alias of the catalogue: `ostro list` shows the aliases",
            ),
            (
                "inspect nope.gguf",
                "nope.gguf: cannot open the file: no such file, expected a GGUF file; check the path",
            ),
            ("inspect folder", "folder: found a directory, expected a GGUF file; give the path of the file itself"),
            (
                "inspect /dev/null",
                "/dev/null: found a pipe or a device, expected a GGUF file; give the path of the file itself",
            ),
            (
                "tokenize nope.gguf -p hi",
                "nope.gguf: neither a file nor an alias of the catalogue: `ostro list` shows the aliases",
            ),
            ("tokenize tiny.gguf -f nope.txt", "nope.txt: cannot be read: No such file or directory (os error 2)"),
            (
                "tokenize tiny.gguf -f latin1.txt",
                "latin1.txt: found byte 0xe9 at offset 3, expected UTF-8 text; convert it first",
            ),
            (
                "tokenize tiny.gguf --decode 1,294",
                "--decode: found \"294\", expected token ids from 0 to 293; give them with commas or spaces",
            ),
            (
                "tokenize tiny.gguf --decode one",
                "--decode: found \"one\", expected token ids from 0 to 293; give them with commas or spaces",
            ),
            (
                "logits nope.gguf --tokens 1 -o x.npy",
                "nope.gguf: neither a file nor an alias of the catalogue: `ostro list` shows the aliases",
            ),
            ("logits tiny.gguf -o x.npy", "tokens: found none, expected at least one; give --tokens 1,2,3 or -p TEXT"),
            (
                "logits tiny.gguf --tokens 1,294 -o x.npy",
                "--tokens: found \"294\", expected token ids from 0 to 293; give them with commas or spaces",
            ),
            (
                "logits tiny.gguf --tokens 1,x -o x.npy",
                "--tokens: found \"x\", expected token ids from 0 to 293; give them with commas or spaces",
            ),
            (
                "logits tiny.gguf --tokens 1,2,3 -c 2 -o x.npy",
                "context: 3 positions needed, 2 available; give a larger --ctx-size or a shorter prompt",
            ),
            (
                "logits tiny.gguf --tokens 1 -o nope/x.npy",
                "nope/x.npy: found no folder nope, expected one; create it first",
            ),
            (
                "logits tiny.gguf --tokens 1 -o tiny.gguf/x.npy",
                "tiny.gguf/x.npy: found no folder tiny.gguf, expected one; create it first",
            ),
            ("logits tiny.gguf --tokens 1 -o folder", "folder: cannot be written: Is a directory (os error 21)"),
            (
                "logits tiny.gguf --tokens 1 -o /dev/full",
                "/dev/full: cannot be written: No space left on device (os error 28)",
            ),
        ],
    );
    assert!(!folder.path().join("x.npy").exists());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5, "something was left");

    let mut nonsense = ostro(folder.path(), words("run tiny.gguf -p hi"));
    let done = Done::from(nonsense.env("OSTRO_CPU", "nonsense").output().unwrap());
    let start = "error: OSTRO_CPU: found \"nonsense\", expected one of ";
    assert!(
        done.code == Some(1) && done.err.starts_with(start) && done.err.ends_with("; unset it for the best of them\n"),
        "{done:?}"
    );

    let done = piped(ostro(folder.path(), words("run tiny.gguf")), b"\n");
    assert_eq!(
        done.err,
        "error: prompt: found an empty text, expected some; give it with -p TEXT, -f FILE or through a pipe\n"
    );
}

/// Standard output that takes nothing.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_behind_standard_output() {
    let folder = folder_with(&[("tiny.gguf", Tiny::new(Experts::None))]);
    for line in [
        "run tiny.gguf -p hi",
        "bench tiny.gguf -p 2 -r 1",
        "tokenize tiny.gguf -p hi",
        "inspect tiny.gguf",
        "inspect --json tiny.gguf",
        "list",
    ] {
        let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let done = Done::from(ostro(folder.path(), words(line)).stdout(full).output().unwrap());
        let error = "error: standard output: cannot be written: No space left on device (os error 28)\n";
        assert_eq!((done.code, done.err.as_str()), (Some(1), error), "{line}");
    }
}

/// What clap refuses: exit code 2, and the flag by its name.
#[test]
fn usage() {
    let folder = folder_with(&[("tiny.gguf", Tiny::new(Experts::None))]);
    let rows = [
        ("", "Usage: ostro"),
        ("nonsense", "'nonsense'"),
        ("run tiny.gguf -p hi --nonsense", "'--nonsense'"),
        ("run tiny.gguf -m tiny.gguf -p hi", "'--model <MODEL>'"),
        ("run tiny.gguf -p hi -f x", "'--file <FILE>'"),
        ("run tiny.gguf -p hi -n many", "'--n-predict <N>'"),
        ("run tiny.gguf -p hi -n -3", "'--n-predict <N>'"),
        ("run tiny.gguf -p hi -c -1", "'--ctx-size <N>'"),
        ("run tiny.gguf -p hi -t 0", "'--threads <N>'"),
        ("run tiny.gguf -p hi -t 5000", "'--threads <N>'"),
        ("run tiny.gguf -p hi -b 0", "'--batch-size <N>'"),
        ("run tiny.gguf -p hi -ub 0", "'--ubatch-size <N>'"),
        ("run tiny.gguf -p hi -ctk q4_2", "'--cache-type-k <TYPE>'"),
        ("run tiny.gguf -p hi --temp warm", "'--temp <T>'"),
        ("run tiny.gguf -p hi --temp nan", "'--temp <T>'"),
        ("run tiny.gguf -p hi --top-p inf", "'--top-p <P>'"),
        ("run tiny.gguf -p hi --repeat-penalty 0", "'--repeat-penalty <X>'"),
        ("run tiny.gguf -p hi -s x", "'--seed <N>'"),
        ("run tiny.gguf -p hi -fa on", "'--flash-attn'"),
        ("run tiny.gguf -p hi -ngl many", "'--gpu-layers <N>': expected a number, all or auto"),
        ("run tiny.gguf -p hi -ot exps", "'--override-tensor <REGEX=DEVICE>': found \"exps\", expected REGEX=DEVICE"),
        (
            "run tiny.gguf -p hi -ot exps=NPU0",
            "'--override-tensor <REGEX=DEVICE>': device \"NPU0\", expected CPU or CUDA0",
        ),
        ("run tiny.gguf -p hi -ot a(=CPU", "'--override-tensor <REGEX=DEVICE>': regular expression \"a(\""),
        ("plan tiny.gguf --vram much", "'--vram <SIZE>': expected a size, as in 24GiB or 500MB"),
        ("plan tiny.gguf --pcie 0", "'--pcie <GB/S>': expected a number of GB/s above 0"),
        ("run -hf someone/something -p hi", "'--hf-repo'"),
        ("run tiny.gguf -p", "'--prompt <TEXT>'"),
        ("logits tiny.gguf --tokens 1", "--output <OUT.npy>"),
        ("logits tiny.gguf --tokens 1 -p hi -o x.npy", "'--prompt <TEXT>'"),
        ("tokenize tiny.gguf", "--prompt <TEXT>"),
        ("inspect", "<FILE>"),
    ];
    let mut failed = Vec::new();
    for (line, part) in rows {
        let done = Done::from(ostro(folder.path(), words(line)).output().unwrap());
        let one_line = line.is_empty() || done.err.lines().count() == 1;
        if done.code != Some(2) || !done.out.is_empty() || !done.err.contains(part) || !one_line {
            failed.push(format!("ostro {line}\n  expected code 2 and {part}\n     found {done:?}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
