//! Sessions that lose tokens from their middle, and that are saved and restored.

#[path = "cli/tiny.rs"]
mod tiny;

use std::path::PathBuf;

use ostro::engine::{Engine, EngineOptions, Error, KvTypes, Model, SeqId, Session};
use ostro::gguf::{Gguf, Value};
use ostro_kernels::{Cpu, DType, KvType};
use tempfile::TempDir;
use tiny::{Experts, Tiny};

const KINDS: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8_0];

fn options(kv: KvType, n_ctx: usize) -> EngineOptions {
    EngineOptions { n_ctx, n_ubatch: 8, n_seqs: 1, threads: 2, kv: KvTypes { k: kv, v: kv }, cpu: Cpu::detect() }
}

/// The small model with so many layers.
fn model(layers: u32) -> (TempDir, PathBuf) {
    let folder = TempDir::new().unwrap();
    let mut tiny = Tiny::new(Experts::None).set("llama.block_count", Value::U32(layers));
    for layer in layers..2 {
        tiny.tensors.retain(|t| !t.0.starts_with(&format!("blk.{layer}.")));
    }
    let path = tiny.write(&folder.path().join("m"));
    (folder, path)
}

/// In a model of one layer, keys and values depend on a token and its position alone: a session that has lost its middle is
/// one that never had it, up to the rounding of the cache.
#[test]
fn what_is_left_moves_to_its_new_place() {
    let (_folder, path) = model(1);
    let gguf = Gguf::open(&path).unwrap();
    let model = Model::load(&gguf).unwrap();
    let tokens: Vec<u32> = (0..30).map(|i| 260 + i * 7 % 30).collect();
    for (kv, tolerance) in KINDS.into_iter().zip([1e-5, 1e-2, 0.5]) {
        let (mut a, mut b) = (Engine::new(&model, &options(kv, 64)), Engine::new(&model, &options(kv, 64)));
        let mut lost = Session::new(&mut a, SeqId(0));
        lost.feed(&tokens, |_| true).unwrap();
        lost.remove(5..17).unwrap();
        lost.remove(3..3).unwrap();
        let kept = [&tokens[..5], &tokens[17..]].concat();
        assert_eq!(lost.tokens(), kept);
        let mut never = Session::new(&mut b, SeqId(0));
        never.feed(&kept, |_| true).unwrap();
        for token in [261, 270, 280] {
            let found = lost.feed(&[token], |_| true).unwrap().unwrap().to_vec();
            let want = never.feed(&[token], |_| true).unwrap().unwrap();
            let size = want.iter().fold(0f32, |m, x| m.max(x.abs()));
            let worst = found.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= tolerance * size, "{kv:?}: {worst} of {size}");
        }
        // The test sees a shift that is not made.
        lost.truncate(0);
        lost.feed(&tokens, |_| true).unwrap();
        let whole = lost.feed(&[261], |_| true).unwrap().unwrap().to_vec();
        never.truncate(kept.len());
        let want = never.feed(&[261], |_| true).unwrap().unwrap();
        assert!(whole.iter().zip(want).any(|(a, b)| (a - b).abs() > tolerance * 0.1), "{kv:?}");
    }
}

#[test]
fn a_restored_session_is_the_saved_one_to_the_bit() {
    let (_folder, path) = model(2);
    let gguf = Gguf::open(&path).unwrap();
    let model = Model::load(&gguf).unwrap();
    let tokens: Vec<u32> = (0..20).map(|i| 260 + i * 11 % 30).collect();
    for kv in KINDS {
        let mut a = Engine::new(&model, &options(kv, 32));
        let mut saved = Session::new(&mut a, SeqId(0));
        saved.feed(&tokens, |_| true).unwrap();
        let mut bytes = Vec::new();
        saved.save(&mut bytes).unwrap();
        let want = saved.feed(&[277], |_| true).unwrap().unwrap().to_vec();
        // A context of another length takes it, one that is too short or of another type does not.
        let mut b = Engine::new(&model, &options(kv, 100));
        let mut restored = Session::new(&mut b, SeqId(0));
        restored.feed(&[261, 262], |_| true).unwrap();
        restored.restore(&mut bytes.as_slice()).unwrap();
        assert_eq!(restored.tokens(), tokens);
        assert_eq!(restored.feed(&[277], |_| true).unwrap().unwrap(), want, "{kv:?}");
        for (kv, n_ctx) in KINDS.into_iter().filter(|k| *k != kv).map(|k| (k, 100)).chain([(kv, 19)]) {
            let mut c = Engine::new(&model, &options(kv, n_ctx));
            let mut other = Session::new(&mut c, SeqId(0));
            other.feed(&[261, 262], |_| true).unwrap();
            let error = other.restore(&mut bytes.as_slice()).unwrap_err();
            assert!(matches!(error, Error::StateDiffers(_)), "{error}");
            assert_eq!(other.tokens(), [261, 262], "it is as before");
        }
        // Every beginning of it is an error, and leaves a session that can be used.
        for end in (0..bytes.len()).step_by(bytes.len() / 40) {
            let mut d = Engine::new(&model, &options(kv, 32));
            let mut cut = Session::new(&mut d, SeqId(0));
            assert!(cut.restore(&mut &bytes[..end]).is_err(), "{end}");
            cut.truncate(0);
            cut.feed(&tokens, |_| true).unwrap();
            assert_eq!(cut.feed(&[277], |_| true).unwrap().unwrap(), want);
        }
    }
}

#[test]
fn a_fingerprint_tells_models_apart() {
    let (folder, path) = model(2);
    let print = |path: &PathBuf| Gguf::open(path).unwrap().fingerprint();
    let first = print(&path);
    assert_eq!(first, print(&path));
    let other = Tiny::new(Experts::None)
        .tensor("blk.0.attn_q.weight", DType::F32, &[64, 64])
        .write(&folder.path().join("weights"));
    let named =
        Tiny::new(Experts::None).set("general.name", Value::String("x".into())).write(&folder.path().join("key"));
    assert!(first != print(&other) && first != print(&named) && print(&other) != print(&named));
}
