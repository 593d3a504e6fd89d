//! A card beside the CPU, on whatever driver the machine has: a card's own, or the emulated one of `kernels/emulator`.
#![cfg(feature = "cuda")]

mod common;

use ostro::engine::{Engine, EngineOptions, KvTypes, Model, Offload, SeqId, Session};
use ostro::gguf::Gguf;
use ostro::placement::{Context, Lane, Lanes, Placement, Sizes};
use ostro_kernels::cuda::{Gpu, NoGpu};
use ostro_kernels::{Cpu, KvType};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard};

/// The card, for one test at a time: they count its memory.
fn gpu() -> Option<(Rc<Gpu>, MutexGuard<'static, ()>)> {
    static ONE: Mutex<()> = Mutex::new(());
    let turn = ONE.lock().unwrap_or_else(|failed| failed.into_inner());
    match Gpu::open() {
        Ok(gpu) => Some((Rc::new(gpu), turn)),
        Err(why @ NoGpu::NoDriver) if std::env::var_os("OSTRO_REQUIRE_GPU").is_none() => {
            eprintln!("SKIPPED: {why}: nothing was offloaded; kernels/emulator has a driver without a card");
            None
        }
        Err(why) => panic!("{why}"),
    }
}

fn options(kv: KvType) -> EngineOptions {
    EngineOptions { n_ctx: 96, n_ubatch: 32, n_seqs: 1, threads: 2, kv: KvTypes { k: kv, v: kv }, cpu: Cpu::detect() }
}

/// The models of the references, of every architecture that they have.
fn files() -> Vec<PathBuf> {
    let Some(root) = common::reference("models") else { return Vec::new() };
    let both = ["mixtral", "llama31", "gemma3"].into_iter().flat_map(|m| [(m, "Q4_K_M"), (m, "Q8_0")]);
    let one = ["qwen2", "qwen3moe", "command-r", "phi3", "deepseek2"].into_iter().map(|m| (m, "Q4_K_M"));
    let names = both.chain(one).chain([("command-r-plus", "Q4_0")]);
    names.map(|(model, kind)| root.join(format!("{model}/gguf/{model}-{kind}.gguf"))).collect()
}

/// Ways to share a model.
fn placements(n: usize) -> Vec<(&'static str, Placement)> {
    let lanes = |mixer, ffn| Lanes { mixer, ffn };
    let (cpu, gpu) = (Lane::Cpu, Lane::Gpu);
    let alternate = (0..n).map(|i| if i % 2 == 0 { lanes(gpu, cpu) } else { lanes(cpu, gpu) }).collect();
    vec![
        ("none", Placement::all(cpu, n)),
        ("all", Placement::all(gpu, n)),
        ("attention", Placement { layers: vec![lanes(gpu, cpu); n], head: gpu }),
        ("feed-forward", Placement { layers: vec![lanes(cpu, gpu); n], head: cpu }),
        ("alternating", Placement { layers: alternate, head: cpu }),
    ]
}

/// Feeds a prompt in two batches, then the tokens of `path` one by one, or, without one, what is most likely each time: the
/// logits of every step, and the tokens.
fn run(engine: &mut Engine<'_>, path: Option<&[u32]>) -> (Vec<Vec<f32>>, Vec<u32>) {
    let vocab = engine.model().spec.n_vocab as u32;
    let prompt: Vec<u32> = (0..41).map(|i| (i * 37 + 5) % vocab.min(250)).collect();
    let mut session = Session::new(engine, SeqId(0));
    let (mut all, mut tokens) = (Vec::new(), Vec::new());
    let mut next = prompt;
    for step in 0..9 {
        let logits = session.feed(&next, |_| true).unwrap().unwrap();
        all.push(logits.to_vec());
        let best = (0..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
        tokens.push(best as u32);
        next = vec![path.map_or(best as u32, |path| path[step])];
    }
    (all, tokens)
}

/// The steps at which another token is the most likely, where that is no close call: nearer than three times what a logit of this
/// step differs by on average. (Keys that are stored in eight bits round to another one when they differ in their last.)
fn disagreements(got: &[Vec<f32>], want: &[Vec<f32>]) -> Vec<usize> {
    let best = |l: &[f32]| (0..l.len()).fold(0, |best, i| if l[i] > l[best] { i } else { best });
    let differs = |step: &usize| {
        let (got, want) = (&got[*step], &want[*step]);
        let size = (want.iter().map(|l| l * l).sum::<f32>() / want.len() as f32).sqrt();
        want[best(want)] - want[best(got)] > 3.0 * (nmse(got, want) as f32).sqrt() * size
    };
    (0..want.len()).filter(differs).collect()
}

/// What the logits may differ by.
const NMSE: f64 = 1e-3;

fn nmse(got: &[f32], want: &[f32]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = got.iter().zip(want).map(|(&g, &w)| square(f64::from(g) - f64::from(w))).sum();
    let power: f64 = want.iter().map(|&w| square(f64::from(w))).sum();
    error / power
}

/// Does something with each of the models.
fn each_model(mut work: impl FnMut(&str, &Model<'_>)) {
    for path in files() {
        let gguf = Gguf::open(&path).unwrap();
        work(&path.display().to_string(), &Model::load(&gguf).unwrap());
    }
}

/// An engine that shares a model so with the card, which has room for all of it.
fn offloaded<'m>(
    model: &'m Model<'m>,
    gpu: &Rc<Gpu>,
    options: &EngineOptions,
    placement: Placement,
    stream_from: usize,
) -> Engine<'m> {
    let (mut progress, mut note) = (|_| {}, |note| panic!("{note}"));
    let stream_from = Some(stream_from);
    let offload = Offload { gpu: gpu.clone(), placement, stream_from, progress: &mut progress, note: &mut note };
    Engine::offloaded(model, options, offload).unwrap()
}

/// All of a model on the card.
fn all_on_card<'m>(model: &'m Model<'m>, gpu: &Rc<Gpu>, options: &EngineOptions) -> Engine<'m> {
    offloaded(model, gpu, options, Placement::all(Lane::Gpu, model.spec.layers.len()), usize::MAX)
}

/// What is planned for a card covers what it takes.
#[test]
fn a_card_takes_no_more_than_is_planned() {
    let Some((gpu, _turn)) = gpu() else { return };
    each_model(|name, model| {
        let options = options(KvType::F16);
        let context = Context { n_ctx: options.n_ctx, n_ubatch: options.n_ubatch, k: options.kv.k, v: options.kv.v };
        let sizes = Sizes::new(&model.spec, &model.manifest, &model.account.by_binding, &context);
        let halves: u64 = sizes.layers.iter().map(|(mixer, ffn)| mixer.bytes() + ffn.bytes()).sum();
        let planned = halves + sizes.head.bytes() + sizes.buffers;
        let before = gpu.free_memory().unwrap();
        let engine = all_on_card(model, &gpu, &options);
        let taken = before - gpu.free_memory().unwrap();
        assert!(halves <= taken && taken <= planned, "{name}: {taken} bytes, {planned} planned");
        drop(engine);
        assert_eq!(gpu.free_memory().unwrap(), before, "{name}: all is given back");
    });
}

/// Guesses are checked in batches: their logits must be those of single steps, bit for bit, with a card too, and where batches
/// would go through it for experts that are in memory.
#[test]
fn an_exact_batch_has_the_bits_of_single_steps() {
    let Some((gpu, _turn)) = gpu() else { return };
    each_model(|name, model| {
        for (split, placement) in placements(model.spec.layers.len()) {
            if !["all", "attention"].contains(&split) {
                continue;
            }
            let mut engine = offloaded(model, &gpu, &options(KvType::F16), placement, 2);
            let mut session = Session::new(&mut engine, SeqId(0));
            let tokens: Vec<u32> = (0..11).map(|i| (i * 31 + 7) % 200).collect();
            session.feed(&tokens[..4], |_| true).unwrap();
            let batch = session.feed_exact(&tokens[4..]).unwrap().to_vec();
            session.truncate(4);
            let mut single = Vec::new();
            for token in &tokens[4..] {
                single.extend_from_slice(session.feed(&[*token], |_| true).unwrap().unwrap());
            }
            assert!(batch.iter().zip(&single).all(|(a, b)| a.to_bits() == b.to_bits()), "{name}, {split}");
        }
    });
}

/// A cache on a card that loses tokens from its middle, is saved, and goes on with the CPU.
#[test]
fn a_cache_moves_and_changes_hands() {
    let Some((gpu, _turn)) = gpu() else { return };
    each_model(|name, model| {
        for kv in [KvType::F32, KvType::F16, KvType::Q8_0] {
            let options = options(kv);
            let (mut cpu, mut card) = (Engine::new(model, &options), all_on_card(model, &gpu, &options));
            let tokens: Vec<u32> = (0..40).map(|i| (i * 31 + 7) % 200).collect();
            let go = |engine: &mut Engine<'_>| {
                let mut session = Session::new(engine, SeqId(0));
                session.feed(&tokens, |_| true).unwrap();
                session.remove(5..17).unwrap();
                let mut saved = Vec::new();
                session.save(&mut saved).unwrap();
                (session.feed(&[9], |_| true).unwrap().unwrap().to_vec(), saved)
            };
            let ((want, _), (got, saved)) = (go(&mut cpu), go(&mut card));
            let error = nmse(&got, &want);
            assert!(error <= NMSE, "{name} {kv:?}: NMSE {error:.1e}");
            for engine in [&mut cpu, &mut card] {
                let mut session = Session::new(engine, SeqId(0));
                session.restore(&mut saved.as_slice()).unwrap();
                assert_eq!(session.tokens().len(), 28);
                let after = session.feed(&[9], |_| true).unwrap().unwrap().to_vec();
                let error = nmse(&after, &got);
                assert!(error <= NMSE, "{name} {kv:?}, restored: NMSE {error:.1e}");
            }
        }
    });
}

#[test]
fn every_split_gives_the_logits_of_the_cpu() {
    let Some((gpu, _turn)) = gpu() else { return };
    let (mut wrong, mut streamed) = (Vec::new(), 0);
    each_model(|name, model| {
        for kv in [KvType::F16, KvType::Q8_0] {
            let options = options(kv);
            let (want, tokens) = run(&mut Engine::new(model, &options), None);
            for (split, placement) in placements(model.spec.layers.len()) {
                // A deep one takes its time on a card that is none.
                if model.spec.layers.len() > 16 && (kv != KvType::F16 || !["all", "alternating"].contains(&split)) {
                    continue;
                }
                for stream_from in [usize::MAX, 2] {
                    let mut engine = offloaded(model, &gpu, &options, placement.clone(), stream_from);
                    if stream_from < usize::MAX && engine.streams_from().is_none() {
                        continue; // it has no experts to stream, and would do the same again
                    }
                    streamed += usize::from(engine.streams_from() == Some(2));
                    let (got, _) = run(&mut engine, Some(&tokens));
                    let error = nmse(&got.concat(), &want.concat());
                    let other = disagreements(&got, &want);
                    let right = error <= NMSE && other.is_empty(); // a NaN is not
                    if !right {
                        let what = format!("streamed from {stream_from}: NMSE {error:.1e}, steps {other:?}");
                        wrong.push(format!("{name} {kv:?} {split}, {what}"));
                    }
                }
            }
        }
    });
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
    assert!(streamed > 0 || files().is_empty(), "no split streamed experts");
}
