//! Logits against those of other programs: Hugging Face transformers in float32, and llama.cpp on the same file.
//!
//! The reference models are small, with random weights, and have all the shapes of the real ones.

mod common;

use common::{nmse, reference, top1};
use ostro::engine::{Engine, EngineOptions, KvTypes, Model, SeqId, Session};
use ostro::gguf::Gguf;
use ostro_kernels::{Cpu, KvType};
use safetensors::SafeTensors;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug)]
struct Setting {
    cpu: Cpu,
    threads: usize,
    n_ubatch: usize,
    kv: KvType,
}

impl Setting {
    fn best() -> Setting {
        Setting { cpu: Cpu::detect(), threads: 2, n_ubatch: 512, kv: KvType::F16 }
    }
}

fn logits(path: &Path, tokens: &[u32], s: Setting) -> Vec<f32> {
    let gguf = Gguf::open(path).unwrap();
    let model = Model::load(&gguf).unwrap();
    let options = EngineOptions {
        n_ctx: tokens.len(),
        n_ubatch: s.n_ubatch,
        n_seqs: 1,
        threads: s.threads,
        kv: KvTypes { k: s.kv, v: s.kv },
        cpu: s.cpu,
    };
    let mut engine = Engine::new(&model, &options);
    let mut all = Vec::new();
    let take = |rows: &[f32]| -> Result<(), ostro::engine::Error> {
        all.extend_from_slice(rows);
        Ok(())
    };
    Session::new(&mut engine, SeqId(0)).feed_all(tokens, take).unwrap();
    all
}

struct Golden {
    folder: PathBuf,
    prompt: Vec<u32>,
    vocab: usize,
    files: Vec<(String, PathBuf)>,
}

/// A reference model: its prompt, and its GGUF files by quantization.
fn golden(name: &str) -> Option<Golden> {
    let folder = reference("models")?.join(name);
    let text = std::fs::read(folder.join("golden/golden.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let prompt = json["prompt_ids"].as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect();
    let files = json["gguf"].as_object().unwrap().iter().filter_map(|(quant, entry)| {
        let path = folder.join("gguf").join(entry["file"].as_str().unwrap());
        let there = path.exists();
        if !there {
            assert!(std::env::var_os("OSTRO_REQUIRE_REFERENCE").is_none(), "{} is missing", path.display());
            common::skipped(&format!("{} is missing: run unpack.sh of the reference folder", path.display()));
        }
        there.then(|| (quant.clone(), path))
    });
    let files = files.collect();
    Some(Golden { prompt, vocab: json["vocab_size"].as_u64().unwrap() as usize, files, folder })
}

impl Golden {
    fn tensor(&self, file: &str, name: &str) -> Vec<f32> {
        let bytes = std::fs::read(self.folder.join("golden").join(file)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        file.tensor(name).unwrap().data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }
}

const MODELS: [&str; 9] =
    ["mixtral", "llama31", "gemma3", "qwen2", "qwen3moe", "command-r", "command-r-plus", "phi3", "deepseek2"];

#[test]
fn every_file_agrees_with_its_golden() {
    let mut failures = Vec::new();
    for name in MODELS {
        let Some(g) = golden(name) else { return };
        for (quant, path) in &g.files {
            let f32_file = quant == "F32";
            // The goldens were made with an f32 cache: another one rolls the rounding of the activations anew, and eight
            // bits are less than what is asked of floats.
            let settings =
                [(KvType::F32, 512), (KvType::F16, 512), (KvType::F16, 1), (KvType::Q8_0, 512), (KvType::Q8_0, 1)];
            for (kv, n_ubatch) in settings.into_iter().filter(|(kv, _)| !(f32_file && *kv == KvType::Q8_0)) {
                let found = logits(path, &g.prompt, Setting { kv, n_ubatch, ..Setting::best() });
                let (wanted, most, source) = if f32_file {
                    (g.tensor("hf.safetensors", "logits"), 1e-5, "transformers")
                } else {
                    (g.tensor(&format!("{name}-{quant}.safetensors"), "prefill_logits"), 5e-3, "llama.cpp")
                };
                let (error, same) = (nmse(&found, &wanted), top1(&found, &wanted, g.vocab));
                let line = format!(
                    "{name} {quant} {kv:?} -ub {n_ubatch}: NMSE {error:.2e} (at most {most:.0e}) against {source}, top-1 {same:.3}"
                );
                eprintln!("{line}");
                // With the goldens' own cache the best token is theirs too.
                if !(error <= most && (same >= 0.95 || kv != KvType::F32)) {
                    failures.push(line);
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn legacy_and_split_layouts_give_the_same_bits() {
    let Some(g) = golden("mixtral") else { return };
    let gguf = g.folder.join("gguf");
    let merged = logits(&gguf.join("mixtral-Q4_K_M.gguf"), &g.prompt, Setting::best());
    for other in ["mixtral-Q4_K_M-legacy.gguf", "split/mixtral-Q4_K_M-00001-of-00003.gguf"] {
        assert!(logits(&gguf.join(other), &g.prompt, Setting::best()) == merged, "{other}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    for name in MODELS {
        let Some(g) = golden(name) else { return };
        for (quant, path) in &g.files {
            for cpu in Cpu::all() {
                // Whole batches and single tokens take different kernels.
                for n_ubatch in [512, 1] {
                    let at =
                        |threads| logits(path, &g.prompt[..24], Setting { cpu, threads, n_ubatch, ..Setting::best() });
                    let one = at(1);
                    for threads in [2, 3] {
                        assert!(at(threads) == one, "{name} {quant} {}: {threads} threads, -ub {n_ubatch}", cpu.name());
                    }
                }
            }
        }
    }
}

#[test]
fn a_batch_agrees_with_single_tokens() {
    let mut failures = Vec::new();
    for name in MODELS {
        let Some(g) = golden(name) else { return };
        for (quant, path) in &g.files {
            for cpu in Cpu::all() {
                // An f32 cache, as the goldens have: rounding keys to f16 rolls the rounding of activations anew.
                let kv = KvType::F32;
                let at = |n_ubatch| logits(path, &g.prompt, Setting { cpu, n_ubatch, kv, ..Setting::best() });
                let single = at(1);
                for n_ubatch in [512, 7] {
                    let error = nmse(&at(n_ubatch), &single);
                    // A rounding that falls the other way grows from layer to layer, of which this model has 64.
                    let most = if name == "command-r-plus" { 1e-3 } else { 1e-4 };
                    if error.is_nan() || error > most {
                        failures.push(format!("{name} {quant} {} -ub {n_ubatch}: NMSE {error:.2e}", cpu.name()));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// What speculation rests on: several tokens in one exact batch have the bits that they have one by one, in the logits and
/// in the cache, for every file, cache and kernel set.
#[test]
fn an_exact_batch_has_the_bits_of_single_tokens() {
    for name in MODELS {
        let Some(golden) = golden(name) else { return };
        for (quant, path) in &golden.files {
            let gguf = Gguf::open(path).unwrap();
            let model = Model::load(&gguf).unwrap();
            for cpu in Cpu::all() {
                for kv in [KvType::F16, KvType::Q8_0, KvType::F32] {
                    let options = EngineOptions {
                        n_ctx: golden.prompt.len(),
                        n_ubatch: 512,
                        n_seqs: 1,
                        threads: 2,
                        kv: KvTypes { k: kv, v: kv },
                        cpu,
                    };
                    let run = |sizes: &[usize]| {
                        let mut engine = Engine::new(&model, &options);
                        let mut session = Session::new(&mut engine, SeqId(0));
                        let (mut all, mut at) = (Vec::new(), 0);
                        for n in sizes {
                            all.extend_from_slice(session.feed_exact(&golden.prompt[at..at + n]).unwrap());
                            at += n;
                        }
                        all
                    };
                    let single = run(&[1; 34]);
                    let several = run(&[2, 3, 8, 16, 5]);
                    let same = single.iter().zip(&several).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same && single.len() == several.len(), "{name} {quant} {} {kv:?}", cpu.name());
                }
            }
        }
    }
}

#[test]
fn every_kernel_set_agrees_with_the_scalar_one() {
    let mut failures = Vec::new();
    for name in MODELS {
        let Some(g) = golden(name) else { return };
        for (quant, path) in &g.files {
            for kv in [KvType::F32, KvType::F16, KvType::Q8_0] {
                let at = |cpu| logits(path, &g.prompt, Setting { cpu, kv, ..Setting::best() });
                let scalar = at(Cpu::by_name("scalar").unwrap());
                for cpu in Cpu::all() {
                    let error = nmse(&at(cpu), &scalar);
                    if error.is_nan() || error > 1e-3 {
                        failures.push(format!("{name} {quant} {kv:?} {}: NMSE {error:.2e}", cpu.name()));
                    }
                }
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn sequences_of_one_batch_do_not_see_each_other() {
    use ostro::engine::BatchToken;
    let Some(g) = golden("mixtral") else { return };
    let gguf = Gguf::open(&g.folder.join("gguf/mixtral-Q8_0.gguf")).unwrap();
    let model = Model::load(&gguf).unwrap();
    let options =
        EngineOptions { n_ctx: 16, n_ubatch: 32, n_seqs: 2, threads: 2, kv: KvTypes::default(), cpu: Cpu::detect() };
    let mut engine = Engine::new(&model, &options);
    let token = |seq: usize, pos: usize, logits| BatchToken {
        token: g.prompt[if seq == 0 { pos } else { 20 + pos }],
        seq: SeqId(seq),
        pos,
        logits,
    };
    let vocab = g.vocab;
    let alone = |engine: &mut Engine, seq| {
        engine.truncate(SeqId(seq), 0);
        let batch: Vec<_> = (0..8).map(|pos| token(seq, pos, pos == 7)).collect();
        let out = engine.forward(&batch).unwrap().to_vec();
        engine.truncate(SeqId(seq), 0);
        out
    };
    let wanted = [alone(&mut engine, 0), alone(&mut engine, 1)];
    // Both together: whole prompts first, then token by token in turn.
    let batch: Vec<_> = (0..2).flat_map(|seq| (0..8).map(move |pos| (seq, pos))).collect();
    let batch: Vec<_> = batch.into_iter().map(|(seq, pos)| token(seq, pos, pos == 7)).collect();
    let both = engine.forward(&batch).unwrap().to_vec();
    for seq in 0..2 {
        let error = nmse(&both[seq * vocab..(seq + 1) * vocab], &wanted[seq]);
        assert!(error < 1e-6, "sequence {seq}: NMSE {error:.2e}");
    }
    engine.truncate(SeqId(0), 0);
    engine.truncate(SeqId(1), 0);
    let mut last = Vec::new();
    for pos in 0..8 {
        last = engine.forward(&[token(0, pos, true), token(1, pos, true)]).unwrap().to_vec();
    }
    for seq in 0..2 {
        let error = nmse(&last[seq * vocab..(seq + 1) * vocab], &wanted[seq]);
        assert!(error < 1e-4, "sequence {seq}, in turn: NMSE {error:.2e}");
    }
    // A gap, a sequence that does not exist and too large a batch are refused.
    assert!(engine.forward(&[token(0, 9, true)]).is_err());
    assert!(engine.forward(&[token(2, 0, true)]).is_err());
    assert!(engine.forward(&[BatchToken { token: vocab as u32, ..token(0, 8, true) }]).is_err());
    let long: Vec<_> = (0..33).map(|_| token(0, 0, false)).collect();
    assert!(engine.forward(&long).is_err());
}

/// Texts and what llama.cpp goes on with, token by token, for the files of F32: there rounding decides nothing.
#[test]
fn greedy_answers_are_llama_cpps() {
    let mut failures = Vec::new();
    for name in MODELS {
        let Some(g) = golden(name) else { return };
        let text = std::fs::read(g.folder.join("golden/text.json")).unwrap();
        let text: serde_json::Value = serde_json::from_slice(&text).unwrap();
        let ids = |value: &serde_json::Value| -> Vec<u32> {
            value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
        };
        let (_, path) = g.files.iter().find(|(quant, _)| quant == "F32").unwrap();
        let gguf = Gguf::open(path).unwrap();
        let model = Model::load(&gguf).unwrap();
        let kv = KvTypes { k: KvType::F32, v: KvType::F32 };
        let options = EngineOptions { n_ctx: 128, n_ubatch: 512, n_seqs: 1, threads: 2, kv, cpu: Cpu::detect() };
        let mut engine = Engine::new(&model, &options);
        let cases: Vec<_> = text["generate"].as_array().unwrap().iter().filter(|c| c["gguf"] == "F32").collect();
        assert!(!cases.is_empty(), "{name}");
        for case in cases {
            let (mut next, wanted) = (ids(&case["prompt_ids"]), ids(&case["greedy_ids"]));
            let mut session = Session::new(&mut engine, SeqId(0));
            let mut found = Vec::new();
            while found.len() < wanted.len() {
                let best = common::argmax(session.feed(&next, |_| true).unwrap().unwrap()) as u32;
                found.push(best);
                next = vec![best];
            }
            if found != wanted {
                failures.push(format!("{name}, {}: {found:?}, expected {wanted:?}", case["text"]));
            }
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
