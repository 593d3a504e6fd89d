//! After the first steps the forward pass does not allocate: not for a token, not for a batch, however the context grows.

mod common;
#[path = "cli/tiny.rs"]
mod tiny;

use ostro::engine::{BatchToken, Engine, EngineOptions, KvTypes, Model, SeqId};
use ostro::gguf::Gguf;
use ostro_kernels::{Cpu, KvType};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn check(path: &Path) {
    let gguf = Gguf::open(path).unwrap();
    let model = Model::load(&gguf).unwrap();
    for cpu in Cpu::all() {
        for kv in [KvType::F16, KvType::Q8_0] {
            let kv = KvTypes { k: kv, v: kv };
            let options = EngineOptions { n_ctx: 700, n_ubatch: 32, n_seqs: 1, threads: 3, kv, cpu };
            let mut engine = Engine::new(&model, &options);
            let batch: Vec<BatchToken> = (0..700)
                .map(|pos| BatchToken { token: (pos % 100) as u32, seq: SeqId(0), pos, logits: pos % 32 == 31 })
                .collect();
            engine.forward(&batch[..32]).unwrap();
            engine.forward(&[BatchToken { logits: true, ..batch[32] }]).unwrap();
            // What the threads themselves allocate when they begin is not the steps'.
            std::thread::sleep(Duration::from_millis(50));
            let before = ALLOCATIONS.load(Relaxed);
            for pos in (33..660).step_by(33) {
                engine.forward(&[BatchToken { logits: true, ..batch[pos] }]).unwrap();
                engine.forward(&batch[pos + 1..pos + 33]).unwrap();
            }
            let made = ALLOCATIONS.load(Relaxed) - before;
            assert_eq!(made, 0, "{}: {}, {kv:?}", path.display(), cpu.name());
        }
    }
}

#[test]
fn steps_do_not_allocate() {
    let folder = tempfile::tempdir().unwrap();
    for (name, experts) in [("dense.gguf", tiny::Experts::None), ("moe.gguf", tiny::Experts::Merged)] {
        check(&tiny::Tiny::new(experts).write(&folder.path().join(name)));
    }
    for (model, kind) in [
        ("mixtral", "Q4_K_M"),
        ("mixtral", "Q4_0"),
        ("gemma3", "Q8_0"),
        ("command-r", "Q8_0"),
        ("deepseek2", "Q8_0"),
        ("deepseek2", "F32"),
    ] {
        if let Some(path) = common::reference(&format!("models/{model}/gguf/{model}-{kind}.gguf")) {
            check(&path);
        }
    }
}
