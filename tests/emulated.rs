//! The program itself on the emulated driver of `kernels/emulator`: cards large and small, old drivers, lost drivers.
//!
//! OSTRO_EMULATED_DRIVER names the folder that has it as `libcuda.so.1`; OSTRO_BINARY another program than the one built with the
//! tests, such as a release.
#![cfg(feature = "cuda")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

/// What a run gave.
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Where the emulated driver is.
fn driver() -> Option<PathBuf> {
    match std::env::var_os("OSTRO_EMULATED_DRIVER").map(PathBuf::from) {
        Some(folder) => {
            assert!(folder.join("libcuda.so.1").exists(), "{}: no libcuda.so.1 in it", folder.display());
            Some(folder)
        }
        None => {
            common::skipped(
                "OSTRO_EMULATED_DRIVER is not set: the program was not run on an emulated card (see tests/README.md)",
            );
            None
        }
    }
}

/// Runs the program on a card that settings describe.
fn ostro(args: &[&str], settings: &[(&str, &str)]) -> Option<Run> {
    let driver = driver()?;
    let binary = std::env::var("OSTRO_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_ostro").to_owned());
    let mut command = Command::new(binary);
    command.args(args).env("LD_LIBRARY_PATH", driver).env("OSTRO_EMULATOR_THREADS", "2");
    for (name, value) in settings {
        command.env(format!("OSTRO_EMULATOR_{name}"), value);
    }
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Some(Run { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) })
}

fn model(name: &str) -> Option<String> {
    common::reference(&format!("models/{name}.gguf")).map(|path| path.display().to_string())
}

const MIXTRAL: &str = "mixtral/gguf/mixtral-Q4_K_M";

/// The arguments of a short answer, and what more is given.
fn answer<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut args =
        vec!["run", model, "--raw", "-p", "hello there, the", "-n", "8", "--temp", "0", "-c", "64", "--ignore-eos"];
    args.extend(more);
    args
}

/// What the CPU alone says.
fn on_cpu(model: &str) -> Option<String> {
    let run = ostro(&answer(model, &["-ngl", "0"]), &[])?;
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(!run.out.is_empty());
    Some(run.out)
}

#[test]
fn every_flag_gives_the_same_text_without_a_race() {
    let Some(model) = model(MIXTRAL) else { return };
    let Some(want) = on_cpu(&model) else { return };
    let rows: [&[&str]; 9] = [
        &[],
        &["-ngl", "all"],
        &["-ngl", "2"],
        &["-ngl", "99", "-cmoe"],
        &["-ngl", "99", "-ncmoe", "1"],
        &["-ngl", "99", "-ot", r"blk\.0\.ffn_.*_exps=CPU"],
        &["-ngl", "99", "-nkvo"],
        &["-cmoe", "--offload-min-batch", "2"],
        &["-cmoe", "--offload-min-batch", "0", "-ctk", "q8_0"],
    ];
    for flags in rows {
        let run = ostro(&answer(&model, flags), &[("CHECK", "init,race")]).unwrap();
        assert_eq!(run.code, Some(0), "{flags:?}: {}", run.err);
        assert!(!run.err.contains("emulator:"), "{flags:?}: {}", run.err);
        if !flags.contains(&"-ctk") {
            assert_eq!(run.out, want, "{flags:?}");
        }
    }
}

/// The reference models and their types: the large families in both, the others in one.
const MODELS: [(&str, &[&str]); 7] = [
    ("mixtral", &["Q4_K_M", "Q8_0"]),
    ("llama31", &["Q4_K_M", "Q8_0"]),
    ("gemma3", &["Q4_K_M", "Q8_0"]),
    ("qwen2", &["Q4_K_M"]),
    ("qwen3moe", &["Q4_K_M"]),
    ("command-r", &["Q4_K_M"]),
    ("deepseek2", &["Q4_K_M"]),
];

#[test]
fn every_model_gives_the_same_text_without_a_race() {
    for (name, kinds) in MODELS {
        for kind in kinds {
            let Some(model) = model(&format!("{name}/gguf/{name}-{kind}")) else { return };
            let Some(want) = on_cpu(&model) else { return };
            for flags in [&["-ngl", "all"][..], &["-ngl", "2"], &["-ngl", "all", "-ot", "ffn_=CPU"]] {
                let run = ostro(&answer(&model, flags), &[("CHECK", "init,race")]).unwrap();
                assert_eq!(run.code, Some(0), "{name} {kind} {flags:?}: {}", run.err);
                assert!(!run.err.contains("emulator:"), "{name} {kind} {flags:?}: {}", run.err);
                assert_eq!(run.out, want, "{name} {kind} {flags:?}");
            }
        }
    }
}

/// The logits of every position, as `ostro logits` writes them.
fn logits(model: &str, flags: &[&str], folder: &Path) -> Option<Vec<f32>> {
    let out = folder.join("logits.npy");
    let ids = "1,17,29,3,101,5,77,9,250,11,45,13,200,15,99,2,31,8,64,120";
    let mut args = vec!["logits", model, "--tokens", ids, "-ub", "7", "-o", out.to_str().unwrap()];
    args.extend(flags);
    let run = ostro(&args, &[])?;
    assert_eq!(run.code, Some(0), "{flags:?}: {}", run.err);
    Some(npyz::NpyFile::new(std::fs::File::open(&out).unwrap()).unwrap().into_vec().unwrap())
}

/// Every split of a model between the lanes gives the CPU's logits, at every position.
#[test]
fn every_split_gives_the_logits_of_the_cpu() {
    let folder = tempfile::TempDir::new().unwrap();
    for (name, kinds) in MODELS {
        for kind in kinds {
            let Some(model) = model(&format!("{name}/gguf/{name}-{kind}")) else { return };
            let Some(want) = logits(&model, &["-ngl", "0"], folder.path()) else { return };
            let rows: [&[&str]; 6] = [
                &["-ngl", "all"],
                &["-ngl", "1"],
                &["-ngl", "2"],
                &["-ngl", "all", "-ot", "ffn_=CPU", "--offload-min-batch", "0"],
                &["-ngl", "all", "-ot", "ffn_=CPU", "--offload-min-batch", "5"],
                &["-ngl", "all", "-nkvo"],
            ];
            for flags in rows {
                let got = logits(&model, flags, folder.path()).unwrap();
                let (mut error, mut power) = (0.0, 0.0);
                for (&g, &w) in got.iter().zip(&want) {
                    error += (f64::from(g) - f64::from(w)).powi(2);
                    power += f64::from(w).powi(2);
                }
                assert!(got.len() == want.len() && error <= 1e-3 * power, "{name} {kind} {flags:?}: {}", error / power);
            }
        }
    }
}

#[test]
fn small_cards_take_what_fits() {
    let Some(model) = model(MIXTRAL) else { return };
    let Some(want) = on_cpu(&model) else { return };
    for (memory, flags, said) in [
        ("24336", &["-v"][..], "on the card"),
        ("8192", &["-v"], "on the card"),
        ("1024", &["-v"], "no room"),
        // Memory ends while it loads: for all of it, for attention, for the last layer.
        ("4", &["-ngl", "all", "--fit-target", "0"], "the head: the CPU computes it"),
        ("6", &["-ngl", "all", "--fit-target", "0"], "no room for attention"),
        ("8", &["-ngl", "all", "--fit-target", "0"], "no room for the feed-forward part"),
    ] {
        let run = ostro(&answer(&model, flags), &[("MEMORY", memory)]).unwrap();
        assert_eq!(run.code, Some(0), "{memory} MiB: {}", run.err);
        assert!(run.err.contains(said), "{memory} MiB: {}", run.err);
        assert_eq!(run.out, want, "{memory} MiB");
    }
}

#[test]
fn without_a_card_that_serves_the_cpu_does_it_and_one_line_says_why() {
    let Some(model) = model(MIXTRAL) else { return };
    let Some(want) = on_cpu(&model) else { return };
    for (setting, said) in [
        (("DEVICES", "0"), "finds no card"),
        (("DRIVER", "11080"), "for CUDA 11.8, expected 12.0 or newer"),
        (("CAPABILITY", "6.1"), "compute capability 6.1, expected 7.5 or newer"),
        // A kernel that does nothing.
        (("SKIP", "rope"), "wrong results"),
    ] {
        let run = ostro(&answer(&model, &["-ngl", "all"]), &[setting]).unwrap();
        assert_eq!(run.code, Some(0), "{setting:?}: {}", run.err);
        assert_eq!(run.err.lines().filter(|l| l.contains(said)).count(), 1, "{setting:?}: {}", run.err);
        assert_eq!(run.out, want, "{setting:?}");
    }
}

#[test]
fn a_first_start_tells_what_it_waits_for() {
    let Some(model) = model(MIXTRAL) else { return };
    let Some(run) = ostro(&answer(&model, &["-ngl", "all"]), &[("COMPILE_MS", "2000")]) else { return };
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert_eq!(run.err.lines().filter(|l| l.contains("compiles the kernels")).count(), 1, "{}", run.err);
    assert_eq!(run.out, on_cpu(&model).unwrap());
}

#[test]
fn a_driver_that_is_lost_ends_the_run_with_an_error() {
    let Some(model) = model(MIXTRAL) else { return };
    // Beyond the quick check at start, within the answer.
    let Some(run) = ostro(&answer(&model, &["-ngl", "all"]), &[("LOSE_AFTER", "200")]) else { return };
    assert_eq!(run.code, Some(1), "{}", run.err);
    let error = run.err.lines().find(|l| l.starts_with("error: ")).unwrap_or_else(|| panic!("{}", run.err));
    assert!(error.contains("CUDA: ") && run.err.contains("-ngl 0"), "{}", run.err);
}

#[test]
fn the_selftest_tells_right_from_wrong() {
    let Some(run) = ostro(&["cuda-selftest", "--quick"], &[("CHECK", "init,race")]) else { return };
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(run.out.starts_with("Emulated card, compute capability 8.9, driver for CUDA 12.4"), "{}", run.out);
    assert!(run.out.contains("checks passed"), "{}", run.out);
    let run = ostro(&["cuda-selftest", "--quick"], &[("SKIP", "combine")]).unwrap();
    assert_eq!(run.code, Some(1), "{}", run.err);
    assert!(run.out.contains("WRONG") && run.err.contains("are wrong"), "{} {}", run.out, run.err);
    let run = ostro(&["cuda-selftest"], &[("DEVICES", "0")]).unwrap();
    assert_eq!(run.code, Some(1), "{}", run.err);
}

/// The kernels of a model on the card: what a token costs, counted. Bounds rather than numbers, since they are few.
#[test]
fn a_token_costs_few_copies_and_waits() {
    let Some(model) = model(MIXTRAL) else { return };
    let folder = std::env::temp_dir().join(format!("ostro-emulated-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let stats = |flags: &[&str], n: &str| -> serde_json::Value {
        let path = folder.join("stats.json");
        let mut args = answer(&model, flags);
        let at = args.iter().position(|a| *a == "-n").unwrap();
        args[at + 1] = n;
        let run = ostro(&args, &[("STATS", path.to_str().unwrap())]).unwrap();
        assert_eq!(run.code, Some(0), "{}", run.err);
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap()
    };
    if driver().is_none() {
        return;
    }
    // All on the card: between 4 and 8 tokens nothing but tokens differs.
    for (flags, layers_crossed) in
        [(&["-ngl", "all"][..], 0), (&["-ngl", "all", "-cmoe", "--offload-min-batch", "0"], 1)]
    {
        let (few, many) = (stats(flags, "4"), stats(flags, "8"));
        let a_token = |name: &str| (many[name].as_f64().unwrap() - few[name].as_f64().unwrap()) / 4.0;
        let launches = |s: &serde_json::Value| -> f64 {
            s["kernels"].as_object().unwrap().values().map(|k| k["launches"].as_f64().unwrap()).sum()
        };
        let launched = (launches(&many) - launches(&few)) / 4.0;
        let (to, from, waits) = (a_token("to_card"), a_token("from_card"), a_token("waits"));
        eprintln!("{flags:?}: {to} bytes to the card, {from} from it, {waits} waits, {launched} kernels a token");
        let inspect = ostro(&["inspect", &model, "--json"], &[]).unwrap();
        let layers =
            serde_json::from_str::<serde_json::Value>(&inspect.out).unwrap()["model"]["layers"].as_f64().unwrap_or(8.0);
        // A wait where the residual comes back, and one for the logits.
        assert!(waits <= 1.0 + layers_crossed as f64 * layers, "{flags:?}: {waits} waits of {layers} layers");
        assert!(launched <= 25.0 * layers + 5.0, "{flags:?}: {launched} kernels");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}
