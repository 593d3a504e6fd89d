//! `ostro quantize`: interrupted, killed, continued, on a full disk, and with what it must refuse.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ostro::gguf::{Gguf, Metadata, NewTensor, Value, Writer};
use ostro_kernels::DType;
use tempfile::TempDir;

use super::tiny::{Experts, Tiny};
use super::{Done, answer, ostro, words};

/// A model of `n` tensors of 4 MB of floats, which takes a while on one thread without vectors.
fn large(path: &Path, n: usize) {
    let mut metadata = Metadata::new(path);
    metadata.set("general.architecture", Value::String("llama".into()));
    metadata.set("llama.block_count", Value::U32(n as u32));
    metadata.set("llama.attention.head_count", Value::U32(4));
    let list: Vec<NewTensor> = (0..n)
        .map(|i| NewTensor { name: format!("blk.{i}.attn_v.weight"), dtype: DType::F32, dims: vec![1024, 1024] })
        .collect();
    let mut writer = Writer::create(path, &metadata, &list).unwrap();
    let mut random = 1u32;
    for _ in &list {
        let mut bytes = Vec::with_capacity(4 << 20);
        for _ in 0..1 << 20 {
            random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            bytes.extend((f32::from((random >> 16) as u16) / 65536.0 - 0.5).to_le_bytes());
        }
        writer.append(&bytes).unwrap();
    }
    writer.commit().unwrap();
}

fn slow(folder: &TempDir, line: &str) -> Command {
    let mut command = ostro(folder.path(), words(line));
    command.env("OSTRO_CPU", "scalar");
    command
}

/// How many tensors the journal of `out.gguf` has.
fn noted(folder: &TempDir) -> usize {
    let journal = fs::read_to_string(folder.path().join("out.gguf.part.journal")).unwrap_or_default();
    journal.lines().count().saturating_sub(1)
}

fn names(folder: &TempDir) -> Vec<String> {
    let all = fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<String> = all.map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_killed_run_goes_on_and_gives_the_same_file() {
    let folder = TempDir::new().unwrap();
    large(&folder.path().join("in.gguf"), 20);
    let line = "quantize in.gguf out.gguf Q4_K_M -t 1";
    assert_eq!(Done::from(slow(&folder, line).output().unwrap()).code, Some(0));
    let whole = fs::read(folder.path().join("out.gguf")).unwrap();
    fs::remove_file(folder.path().join("out.gguf")).unwrap();
    assert_eq!(names(&folder), ["in.gguf"]);

    // Killed at several places, each time going on; SIGINT once among them.
    let mut tensors = 0;
    for (i, signal) in ["KILL", "INT", "KILL"].into_iter().enumerate() {
        let resume = if i == 0 { "" } else { " --resume" };
        let mut child = slow(&folder, &format!("{line}{resume}")).spawn().unwrap();
        let start = Instant::now();
        while noted(&folder) <= tensors && start.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let killed = Command::new("kill").args([&format!("-{signal}"), &child.id().to_string()]).status().unwrap();
        assert!(killed.success(), "the run was over before it could be killed");
        let code = child.wait().unwrap().code();
        assert_eq!(code, if signal == "INT" { Some(130) } else { None }, "{signal}");
        tensors = noted(&folder);
        assert!((1..20).contains(&tensors), "{tensors} tensors when it was killed");
        assert_eq!(names(&folder), ["in.gguf", "out.gguf.part", "out.gguf.part.journal"]);
    }
    // A tensor that is damaged is made again, and so is all behind it.
    let part = folder.path().join("out.gguf.part");
    let mut bytes = fs::read(&part).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::write(&part, bytes).unwrap();

    let done = Done::from(slow(&folder, &format!("{line} --resume")).output().unwrap());
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert!(done.err.contains("made again: its bytes are not those that were written"), "{}", done.err);
    assert!(fs::read(folder.path().join("out.gguf")).unwrap() == whole, "another file");
    assert_eq!(names(&folder), ["in.gguf", "out.gguf"]);
}

#[test]
fn a_full_disk_leaves_no_file_and_can_be_mended() {
    let folder = TempDir::new().unwrap();
    large(&folder.path().join("in.gguf"), 8);
    let line = "quantize in.gguf out.gguf Q8_0";
    answer_ignoring_notes(&folder, line);
    let whole = fs::read(folder.path().join("out.gguf")).unwrap();
    fs::remove_file(folder.path().join("out.gguf")).unwrap();

    // No file may be larger than 4 MB: the nearest to a full disk that needs no rights.
    let shell = format!("trap '' XFSZ; ulimit -f 8192; exec {} {line}", env!("CARGO_BIN_EXE_ostro"));
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", &shell]).current_dir(folder.path());
    limited.stderr(std::process::Stdio::piped());
    let done = Done::from(limited.output().unwrap());
    assert_eq!(done.code, Some(1), "{}", done.err);
    assert!(done.err.lines().all(|l| !l.is_empty()) && done.err.contains("--resume goes on"), "{}", done.err);
    assert!(done.err.contains("out.gguf.part: cannot write the file"), "{}", done.err);
    assert!(!folder.path().join("out.gguf").exists());
    assert!(noted(&folder) >= 1);

    answer_ignoring_notes(&folder, &format!("{line} --resume"));
    assert!(fs::read(folder.path().join("out.gguf")).unwrap() == whole, "another file");
}

fn answer_ignoring_notes(folder: &TempDir, line: &str) -> Done {
    let done = Done::from(ostro(folder.path(), words(line)).output().unwrap());
    assert_eq!(done.code, Some(0), "{line}: {}", done.err);
    done
}

#[test]
fn splits_hold_the_same_tensors() {
    let folder = TempDir::new().unwrap();
    large(&folder.path().join("in.gguf"), 8);
    answer_ignoring_notes(&folder, "quantize in.gguf one.gguf Q8_0");
    answer_ignoring_notes(&folder, "quantize in.gguf set.gguf Q8_0 --split-max-size 3M");
    answer_ignoring_notes(&folder, "quantize set-00001-of-00004.gguf kept.gguf COPY --keep-split");
    answer_ignoring_notes(&folder, "quantize kept-00001-of-00004.gguf again.gguf COPY");
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    for i in 1..=4 {
        let name = |stem: &str| format!("{stem}-0000{i}-of-00004.gguf");
        assert_eq!(Gguf::open(&folder.path().join(name("set"))).is_ok(), i == 1, "only the first can be opened");
        assert!(read(&name("set")) == read(&name("kept")), "part {i}");
    }
    assert!(read("one.gguf") == read("again.gguf"));
    assert_eq!(names(&folder).len(), 11);
}

#[test]
fn old_experts_are_merged() {
    let folder = TempDir::new().unwrap();
    Tiny::new(Experts::Merged).write(&folder.path().join("new.gguf"));
    Tiny::new(Experts::Merged).legacy().write(&folder.path().join("old.gguf"));
    answer_ignoring_notes(&folder, "quantize new.gguf a.gguf Q8_0");
    let done = answer_ignoring_notes(&folder, "quantize old.gguf b.gguf Q8_0");
    assert!(done.err.contains("merged into 6 tensors"), "{}", done.err);
    let read = |name: &str| fs::read(folder.path().join(name)).unwrap();
    assert!(read("a.gguf") == read("b.gguf"));
}

#[test]
fn a_dry_run_tells_the_bytes_and_writes_nothing() {
    let folder = TempDir::new().unwrap();
    Tiny::new(Experts::None).write(&folder.path().join("in.gguf"));
    let told = answer_ignoring_notes(&folder, "quantize in.gguf out.gguf Q8_0 --dry-run").out;
    assert_eq!(names(&folder), ["in.gguf"]);
    answer_ignoring_notes(&folder, "quantize in.gguf out.gguf Q8_0");
    let bytes = fs::metadata(folder.path().join("out.gguf")).unwrap().len();
    assert!(told.contains(&format!("in all {bytes} bytes")), "{told}");
    assert!(told.contains("token_embd.weight"), "{told}");
}

#[test]
fn keys_can_be_overridden() {
    let folder = TempDir::new().unwrap();
    Tiny::new(Experts::None).write(&folder.path().join("in.gguf"));
    answer_ignoring_notes(
        &folder,
        "quantize in.gguf out.gguf Q8_0 --override-kv general.name=str:x --override-kv a.b=int:7",
    );
    let gguf = Gguf::open(&folder.path().join("out.gguf")).unwrap();
    assert_eq!(gguf.metadata().str("general.name").unwrap(), Some("x"));
    assert_eq!(gguf.metadata().u32("a.b").unwrap(), Some(7));
    // What it writes can be run.
    answer(&folder, "tokenize out.gguf -p hello");
}

#[test]
fn what_cannot_be_done_is_refused_in_one_line() {
    let folder = TempDir::new().unwrap();
    let model = Tiny::new(Experts::None);
    model.write(&folder.path().join("in.gguf"));
    answer_ignoring_notes(&folder, "quantize in.gguf q.gguf Q8_0");
    let mut broken = model.clone();
    let t = broken.tensors.iter_mut().find(|t| t.0 == "blk.1.attn_q.weight").unwrap();
    t.3[(3 * 64 + 5) * 4..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    broken.write(&folder.path().join("nan.gguf"));
    let rows = [
        ("quantize in.gguf out.gguf Q9", 1, "TYPE: found \"Q9\", expected one of F32, F16"),
        ("quantize in.gguf in.gguf Q8_0", 1, "in.gguf: found the name of the source, expected a new one"),
        ("quantize in.gguf no/out.gguf Q8_0", 1, "no/out.gguf: found no folder no, expected one"),
        ("quantize missing.gguf out.gguf Q8_0", 1, "missing.gguf: cannot open the file"),
        ("quantize q.gguf out.gguf Q4_0", 1, "Q8_0, quantized already, expected F32, F16 or BF16"),
        ("quantize in.gguf out.gguf Q8_0 --resume", 1, "--resume: found no such file"),
        ("quantize in.gguf out.gguf Q8_0 --tensor-type [=q8_0", 1, "--tensor-type [: expected a regular expression"),
        ("quantize in.gguf out.gguf Q8_0 --tensor-type attn_q=nvfp4", 1, "found the wish for NVFP4"),
        ("quantize in.gguf out.gguf Q8_0 --imatrix none.dat", 1, "none.dat: cannot open the file"),
        ("quantize nan.gguf out.gguf Q8_0", 1, "tensor blk.1.attn_q.weight, row 3, column 5: found NaN"),
        ("quantize nan.gguf out.gguf COPY", 1, "tensor blk.1.attn_q.weight, row 3, column 5: found NaN"),
        ("quantize nan.gguf out.gguf Q8_0 --allow-nonfinite", 0, ""),
        ("quantize in.gguf", 2, "IN"),
        ("quantize in.gguf out.gguf Q8_0 --split-max-size 3K", 2, "expected a number and M or G"),
        ("quantize in.gguf out.gguf Q8_0 --tensor-type a=b", 2, "expected a type of tensors"),
    ];
    let mut failed = Vec::new();
    for (line, code, err) in rows {
        let done = Done::from(ostro(folder.path(), words(line)).output().unwrap());
        // What is wrong is the last line, and whole; before it may stand what was begun, and a note.
        let last = done.err.lines().last().unwrap_or_default();
        let lines = done.err.lines().filter(|l| l.starts_with("error: ")).count();
        if done.code != Some(code) || !last.contains(err) || code != 0 && lines != 1 {
            failed.push(format!("ostro {line}: {done:?}"));
        }
        if code != 0 {
            assert!(!folder.path().join("out.gguf").exists(), "{line}");
        }
        for name in ["out.gguf", "out.gguf.part", "out.gguf.part.journal"] {
            let _ = fs::remove_file(folder.path().join(name));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
