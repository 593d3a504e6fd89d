//! `ostro bench`: which tests it makes, what it says of them in every format, and how it ends.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
    thread,
};

use ostro::gguf::Value;
use serde_json::Value as Json;
use tempfile::TempDir;

use super::tiny::{Experts, Tiny};
use super::{Done, answer, ostro, words};

/// A folder with the models `m` and `moe`.
fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    Tiny::new(Experts::None).write(&folder.path().join("m"));
    Tiny::new(Experts::Merged).write(&folder.path().join("moe"));
    folder
}

fn rows(folder: &TempDir, line: &str) -> Vec<Json> {
    serde_json::from_str(&answer(folder, &format!("bench {line} -o json"))).unwrap()
}

fn number(row: &Json, field: &str) -> f64 {
    row[field].as_f64().unwrap_or_else(|| panic!("{field} is no number: {row}"))
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs())
}

/// The tests of a row, as `prompt/generated@depth`.
fn tests(rows: &[Json]) -> String {
    let one = |r: &Json| {
        format!("{} {}/{}@{}", r["model_filename"].as_str().unwrap(), r["n_prompt"], r["n_gen"], r["n_depth"])
    };
    rows.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[test]
fn json_has_the_fields_and_they_agree() {
    let folder = folder();
    let rows = rows(&folder, "m -p 8 -n 3 -r 3 -t 2 -b 6 -ub 4 -ctk q8_0");
    assert_eq!(tests(&rows), "m 8/0@0, m 0/3@0");
    for row in &rows {
        let texts = [
            ("backends", "CPU"),
            ("gpu_info", ""),
            ("model_type", "llama 0.10M F32"),
            ("type_k", "q8_0"),
            ("type_v", "f16"),
            ("cpu_isa", ostro_kernels::Cpu::detect().name()),
        ];
        let numbers = [("n_threads", 2), ("n_batch", 6), ("n_ubatch", 4), ("n_gpu_layers", 0)];
        texts.iter().for_each(|(field, want)| assert_eq!(row[*field], *want, "{field}"));
        numbers.iter().for_each(|(field, want)| assert_eq!(row[*field], *want, "{field}"));
        assert!(row["use_mmap"] == true && row["cpu_info"].is_string() && row["build_version"].is_string(), "{row}");
        let time = row["test_time"].as_str().unwrap();
        assert!(time.len() == 20 && time.ends_with('Z') && &time[10..11] == "T" && time > "2025", "{time}");

        // Both lists have a sample a repetition; the rest follows from them.
        let samples = |field: &str| -> Vec<f64> { serde_json::from_value(row[field].clone()).unwrap() };
        let (ns, ts) = (samples("samples_ns"), samples("samples_ts"));
        let tokens = number(row, "n_prompt") + number(row, "n_gen");
        assert_eq!((ns.len(), ts.len()), (3, 3));
        assert!(ns.iter().zip(&ts).all(|(ns, ts)| close(tokens * 1e9 / ns, *ts)), "{row}");
        let mean = |x: &[f64]| x.iter().sum::<f64>() / 3.0;
        let deviation = |x: &[f64]| (x.iter().map(|v| (v - mean(x)).powi(2)).sum::<f64>() / 2.0).sqrt();
        assert!(close(number(row, "avg_ts"), mean(&ts)) && close(number(row, "stddev_ts"), deviation(&ts)), "{row}");
        assert!(
            (number(row, "avg_ns") - mean(&ns)).abs() <= 0.5
                && (number(row, "stddev_ns") - deviation(&ns)).abs() <= 0.5
        );
        let share = number(row, "gop_s") / number(row, "limit_int8_gop_s");
        assert!(close(number(row, "share_int8"), share) && share > 0.0, "{row}");
    }
    // What bytes are read for many tokens at once says nothing.
    assert!(rows[0]["gb_s"].is_null() && rows[0]["share_read"].is_null(), "{}", rows[0]);
    assert!(close(number(&rows[1], "share_read"), number(&rows[1], "gb_s") / number(&rows[1], "limit_read_gb_s")));
}

/// Bytes and multiplications against the shapes of the tiny model with experts.
#[test]
fn bytes_and_operations_are_those_of_the_shapes() {
    let folder = folder();
    let (attention, out, head) = (64 * 64 + 2 * 64 * 32, 64 * 64, 64 * 294);
    let ffn = 64 * 4 + 2 * 3 * 64 * 96;
    let inspected: Json = serde_json::from_str(&answer(&folder, "inspect --json moe")).unwrap();
    let layer = attention + out + ffn;
    // In the last layer what follows attention is made for the last token of each batch alone.
    let all = |n: u64| n * (2 * layer + head);
    let prompt = |n: u64, batches: u64| n * (layer + attention) + batches * (out + ffn + head);
    let rows = rows(&folder, "moe -p 8 -n 3 -pg 5,2 -d 7 -b 3 -r 1 -t 1");
    let wanted = [prompt(8, 3), all(3), prompt(5, 2) + all(2)];
    assert_eq!(rows.len(), wanted.len());
    for (row, macs) in rows.iter().zip(wanted) {
        let tokens = number(row, "n_prompt") + number(row, "n_gen");
        let found = number(row, "gop_s") / number(row, "avg_ts") * tokens * 1e9 / 2.0;
        assert!(close(found, macs as f64), "{found}, expected {macs}: {row}");
    }
    // Behind seven positions the three see 8, 9 and 10, of 256 bytes each.
    let bytes = number(&inspected["model"], "bytes_read_per_token") + 9.0 * 256.0;
    assert!(close(number(&rows[1], "gb_s") * 1e9, number(&rows[1], "avg_ts") * bytes), "{}", rows[1]);
    assert_eq!(rows[0]["model_size"], inspected["bytes"]);
    assert_eq!(rows[0]["model_n_params"], inspected["model"]["parameters"]);
}

#[test]
fn sweeps_come_in_order() {
    let folder = folder();
    let found = answer(&folder, "bench m -m moe,m --n-prompt 2 -pg=1,1 --n_gen 0 -r 1 -t 1 -o jsonl --no-warmup");
    let found: Vec<Json> = found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(tests(&found), "m 2/0@0, m 1/1@0, moe 2/0@0, moe 1/1@0, m 2/0@0, m 1/1@0");
}

#[test]
fn csv_is_a_heading_and_rows() {
    let folder = folder();
    let text = answer(&folder, "bench m -p 2 -n 2 -r 2 -t 1 -o csv");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    let names: Vec<_> = lines[0].split(',').collect();
    assert!(["model_filename", "n_prompt", "avg_ts", "share_int8"].iter().all(|n| names.contains(n)), "{text}");
    assert!(!text.contains("samples"), "lists are left out");
    let at = |name: &str| names.iter().position(|n| *n == name).unwrap();
    for (line, prompt, read) in [(lines[1], "2", false), (lines[2], "0", true)] {
        let cells: Vec<_> = line.strip_prefix('"').unwrap().strip_suffix('"').unwrap().split("\",\"").collect();
        assert_eq!((cells.len(), cells[at("n_prompt")], cells[at("model_filename")]), (names.len(), prompt, "m"));
        assert_eq!(cells[at("gb_s")].parse::<f64>().is_ok(), read, "{line}");
    }
}

#[test]
fn the_table_is_aligned_and_names_what_is_not_usual() {
    let folder = folder();
    let cells = |line: &str| line.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect::<Vec<_>>();
    let text = answer(&folder, "bench m -p 3 -n 0 -pg 2,1 -d 5 -r 2 -t 1 -ub 2");
    let lines: Vec<_> = text.lines().collect();
    let names = [
        "model", "size", "params", "backend", "threads", "n_ubatch", "test", "t/s", "GB/s", "of read", "GOP/s",
        "of int8",
    ];
    assert_eq!(cells(lines[0]), names);
    assert!(lines[1].chars().all(|c| "|-: ".contains(c)), "{text}");
    let (first, second) = (cells(lines[2]), cells(lines[3]));
    assert_eq!(
        (&first[..7], &second[6]),
        (
            &["llama 0.10M F32", "0.38 MiB", "0.10 M", "CPU", "1", "2", "pp3 @ d5"].map(String::from)[..],
            &"pp2+tg1 @ d5".to_owned()
        )
    );
    let (mean, deviation) = first[7].split_once(" ± ").unwrap();
    assert!(mean.parse::<f64>().unwrap() > 0.0 && deviation.parse::<f64>().unwrap() >= 0.0, "{text}");
    assert!(first[8] == "-" && first[9] == "-" && first[11].ends_with('%'), "{text}");
    assert!(lines[..4].iter().all(|l| l.chars().count() == lines[0].chars().count()), "{text}");
    assert!(lines[4].is_empty() && lines[5].starts_with("limits of this machine: ") && lines.len() == 6, "{text}");
    assert!(lines[5].ends_with(&format!("({}, 1 thread)", ostro_kernels::Cpu::detect().name())), "{text}");
}

#[test]
fn kernels_are_measured_without_a_model() {
    let folder = folder();
    let list = rows(&folder, "--kernels --types q4_0 --isa scalar -t 1");
    assert_eq!(list.len(), 1);
    let row = &list[0];
    for beside in ["ggml_gb_s", "ggml_gop_s"] {
        assert!(row[beside].as_f64().map_or(!cfg!(feature = "ggml"), |speed| speed > 0.0), "{row}");
    }
    assert_eq!((row["type"].as_str(), row["cpu_isa"].as_str()), (Some("Q4_0"), Some("scalar")));
    for (speed, limit, share) in
        [("gb_s", "limit_read_gb_s", "share_read"), ("gop_s", "limit_int8_gop_s", "share_int8")]
    {
        assert!(
            number(row, speed) > 0.0 && close(number(row, share), number(row, speed) / number(row, limit)),
            "{row}"
        );
    }
}

#[test]
fn a_long_context_is_told_once() {
    let folder = TempDir::new().unwrap();
    Tiny::new(Experts::None).set("llama.context_length", Value::U32(8)).write(&folder.path().join("m"));
    let line = "bench m -p 9,10 -n 0 -r 1 -t 1 -o jsonl";
    let done = Done::from(ostro(folder.path(), words(line)).output().unwrap());
    let told =
        "warning: m: a test has 10 tokens, the model was trained for 8; beyond them only its speed means something\n";
    assert_eq!((done.code, done.err.as_str(), done.out.lines().count()), (Some(0), told, 2));
}

#[test]
fn progress_is_told_on_standard_error() {
    let folder = folder();
    let line = "bench m -p 2 -n 0 -d 3 -r 2 -t 1 -o jsonl --progress";
    let done = Done::from(ostro(folder.path(), words(line)).output().unwrap());
    let told =
        ["warm-up", "filling the cache", "run 1/2", "run 2/2"].map(|what| format!("test 1/1, pp2 @ d3: {what}\n"));
    assert_eq!((done.code, done.err), (Some(0), told.concat()));
    let line = format!("{line} --no-warmup");
    let done = Done::from(ostro(folder.path(), words(&line)).output().unwrap());
    assert_eq!((done.code, done.err), (Some(0), told[1..].concat()));
}

/// Code 2 for what clap refuses, 1 for the rest; one line, and nothing on standard output.
#[test]
fn bad_flags_are_told() {
    let folder = folder();
    let numbers = "such as 1,2,4 or 1-4 or 1-9+2 or 1-8*2";
    let counts = format!("expected numbers from 0 to 2147483647, {numbers}");
    let sizes = format!("expected numbers from 1 to 2147483647, {numbers}");
    let rows: &[(&str, i32, &str)] = &[
        ("", 2, "<MODEL>"),
        ("m -p x", 2, &format!("invalid value 'x' for '--n-prompt <N>': {counts}")),
        ("m -p -1", 2, &format!("invalid value '-1' for '--n-prompt <N>': {counts}")),
        ("m -n 4-1", 2, &format!("invalid value '4-1' for '--n-gen <N>': {counts}")),
        ("m -d 0-4*2", 2, "'--n-depth <N>': expected a range that grows, 0-4*2 stays at 0"),
        ("m -p 1-5000", 2, "'--n-prompt <N>': expected at most 1000 values"),
        ("m -pg 5", 2, "'--prompt-gen <PP,TG>': expected two counts of tokens, such as 512,128"),
        ("m -b 0", 2, &format!("'--batch-size <N>': {sizes}")),
        ("m -ub 0", 2, &format!("'--ubatch-size <N>': {sizes}")),
        ("m -t 0", 2, "'--threads <N>': expected numbers from 1 to 1024"),
        ("m -r 0", 2, "'--repetitions <N>'"),
        ("m -ctk q4_0", 2, "'--cache-type-k <TYPE>': expected f32, f16 or q8_0"),
        ("m -o sql", 2, "'--output <FORMAT>'"),
        ("m -ngl some", 2, "'--gpu-layers <N>': expected a number, all or auto"),
        ("m -mmp 0", 2, "'--mmap'"),
        ("m --types Q4_0", 2, "'[MODEL]...' cannot be used with '--types <TYPE>'"),
        ("--kernels m", 2, "'--kernels'"),
        ("--kernels -p 5", 2, "'--kernels'"),
        ("--kernels --types Q8_K", 2, "'--types <TYPE>': expected some of F32, F16, Q4_0, "),
        ("--kernels --isa sse2", 2, "'--isa <SET>': expected some of scalar"),
        ("m -p 0 -n 0", 1, "error: tests: found none, expected at least one; give -p, -n or -pg a number above 0\n"),
        ("m -p 1-999 -d 1-999", 1, "error: sweep: found more than 100000 tests, expected fewer; give shorter lists\n"),
        ("m nope", 1, "error: nope: neither a file nor an alias of the catalogue: `ostro list` shows the aliases\n"),
        (
            "m -p 2147483647 -d 2147483647 -n 0 -ctk f32 -ctv f32",
            1,
            "error: m: pp2147483647 @ d2147483647: found a context of 4294967294 tokens, expected a cache that fits in memory, at 512 bytes a token; give fewer\n",
        ),
    ];
    let mut failed = Vec::new();
    for (line, code, part) in rows {
        let done = Done::from(ostro(folder.path(), words(&format!("bench {line}"))).output().unwrap());
        let whole = *code == 2 || done.err == *part;
        if done.code != Some(*code)
            || !done.out.is_empty()
            || !done.err.contains(part)
            || !whole
            || done.err.lines().count() != 1
        {
            failed.push(format!("ostro bench {line}\n  expected code {code} and {part}\n     found {done:?}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let folder = folder();
    let mut child = ostro(folder.path(), words("bench m -p 2-1000 -n 0 -r 1 -t 1 -o jsonl")).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
    let done = Done::from(child.wait_with_output().unwrap());
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
}

#[cfg(unix)]
#[test]
fn interrupts_leave_what_was_measured() {
    let folder = folder();
    let line = "bench m -p 4 -n 4 -r 100000 -t 1 -o json --progress";
    let mut child = ostro(folder.path(), words(line)).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("run 10/") {
        seen.clear();
        assert_ne!(told.read_line(&mut seen).unwrap(), 0, "it ended early");
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let rest = thread::spawn(move || told.lines().last().unwrap().unwrap());
    let done = Done::from(child.wait_with_output().unwrap());
    let rows: Vec<Json> = serde_json::from_str(&done.out).unwrap();
    let samples = rows[0]["samples_ts"].as_array().unwrap().len();
    assert_eq!((done.code, rows.len()), (Some(130), 1));
    assert!((9..100_000).contains(&samples), "{samples}");
    assert_eq!(rest.join().unwrap(), format!("interrupted: pp4 was timed {samples} times of 100000"));
}
