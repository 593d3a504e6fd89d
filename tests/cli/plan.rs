//! `ostro plan`: a table or JSON from the header alone.

use serde_json::Value;
use tempfile::TempDir;

use super::tiny::{Experts, Tiny};
use super::{Done, answer, ostro, words};

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    Tiny::new(Experts::Merged).write(&folder.path().join("tiny.gguf"));
    folder
}

fn json(folder: &TempDir, flags: &str) -> Value {
    serde_json::from_str(&answer(folder, &format!("plan tiny.gguf --json --ram 8GiB {flags}"))).unwrap()
}

#[test]
fn a_plan_as_a_table() {
    let folder = folder();
    let text = answer(&folder, "plan tiny.gguf --vram 24GiB --ram 64GiB -c 512");
    for part in [
        "a card as given, 24.00 GiB free; memory 64.0 GiB",
        "feed-forward",
        "head",
        "margin",
        "tokens a second",
        "longest context",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let text = answer(&folder, "plan tiny.gguf --vram 0 --ram 1KiB -ngl all");
    assert!(text.contains("no card") && text.contains("note: memory lacks") && text.contains("try: "), "{text}");
}

#[test]
fn a_plan_as_json() {
    let folder = folder();
    let all = json(&folder, "--vram 24GiB");
    assert_eq!(all["plan"]["placement"]["head"], "gpu");
    let sum = |lane: &str| all["plan"][lane]["weights"].as_u64().unwrap();
    let embedding = all["tensor_bytes"].as_u64().unwrap() - sum("gpu");
    assert_eq!(sum("cpu"), embedding, "all but the embedding is on the card");
    let experts = json(&folder, "--vram 24GiB -ngl all -cmoe");
    let layers = experts["plan"]["placement"]["layers"].as_array().unwrap();
    assert!(layers.iter().all(|l| l["mixer"] == "gpu" && l["ffn"] == "cpu"), "{layers:?}");
    assert_eq!(json(&folder, "--vram 24GiB -ngl 0")["plan"]["gpu"]["weights"], 0);
    let cache = |flags: &str| json(&folder, &format!("--vram 24GiB {flags}"))["plan"]["gpu"]["kv"].as_u64().unwrap();
    assert!(cache("-ctk f32") > cache("") && cache("-c 100") < cache("-c 200"));
    assert_eq!(cache("-nkvo"), 0);
}

#[test]
fn a_file_that_is_none() {
    let folder = folder();
    std::fs::write(folder.path().join("bad.gguf"), b"GGUF").unwrap();
    for (line, said) in [("plan none.gguf", "none.gguf"), ("plan bad.gguf", "bad.gguf")] {
        let done = Done::from(ostro(folder.path(), words(line)).output().unwrap());
        assert!(done.code == Some(1) && done.out.is_empty() && done.err.contains(said), "{line}: {done:?}");
    }
}

#[test]
fn flags_that_are_wrong() {
    let folder = folder();
    let rows = [
        ("--vram much", "--vram"),
        ("--vram=-1GiB", "--vram"),
        ("--ram 64XiB", "expected a size, as in 24GiB or 500MB"),
        ("--pcie 0", "expected a number of GB/s above 0"),
        ("--disk fast", "--disk"),
        ("-ngl some", "expected a number, all or auto"),
        ("-ncmoe x", "--n-cpu-moe"),
        ("-ot exps", "expected REGEX=DEVICE"),
        ("-ot exps=CUDA7", "expected CPU or CUDA0"),
        ("-ot (=CPU", "regular expression"),
        ("-ctk q3_k", "--cache-type-k"),
    ];
    for (flags, said) in rows {
        let done = Done::from(ostro(folder.path(), words(&format!("plan tiny.gguf {flags}"))).output().unwrap());
        assert!(done.code != Some(0) && done.out.is_empty() && done.err.contains(said), "{flags}: {done:?}");
    }
}

#[test]
fn what_is_assumed_and_what_would_fit() {
    let folder = folder();
    let text = answer(&folder, "plan tiny.gguf --vram 24GiB --ram 8GiB --pcie 12 --disk 5");
    for part in ["memory 70 GB/s assumed", "card 1008 GB/s assumed", "bus 12 GB/s,", "disk 5 GB/s)", "card weights: "] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    let all = json(&folder, "--vram 24GiB --pcie 12");
    assert_eq!(all["assumed"], serde_json::json!(["ram_bandwidth", "vram_bandwidth", "disk"]));
    assert_eq!(all["advice"], serde_json::json!([]));
    let roles = |lane: &str| -> u64 {
        all["plan"][lane]["roles"].as_object().unwrap().values().map(|bytes| bytes.as_u64().unwrap()).sum()
    };
    assert_eq!(roles("cpu") + roles("gpu"), all["tensor_bytes"].as_u64().unwrap());
    let none = json(&folder, "--vram 0");
    assert!(none["plan"]["largest_context"]["card"].is_null(), "{none}");
}
