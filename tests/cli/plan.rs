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
