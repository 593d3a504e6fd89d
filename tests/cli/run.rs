//! `ostro run` with a small model: what it says, where it says it, and how it ends.

use std::{
    fs,
    io::Read,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use ostro::gguf::Value;
use tempfile::TempDir;

use super::tiny::{CONTEXT, EOS, Experts, FIRST_TEXT, Tiny};
use super::{Done, answer, ostro, piped, words};

/// A folder with the model `m`.
fn folder() -> TempDir {
    with(&Tiny::new(Experts::None))
}

fn with(model: &Tiny) -> TempDir {
    let folder = TempDir::new().unwrap();
    model.write(&folder.path().join("m"));
    folder
}

/// Lines that must say the same as the first of them.
fn same(folder: &TempDir, lines: &[&str]) {
    let first = answer(folder, lines[0]);
    assert!(!first.is_empty(), "{}", lines[0]);
    let failed: Vec<_> = lines.iter().map(|line| (line, answer(folder, line))).filter(|(_, a)| *a != first).collect();
    assert!(failed.is_empty(), "{first:?}\n{failed:#?}");
}

#[test]
fn every_spelling_says_the_same() {
    same(
        &folder(),
        &[
            "run m -p hi -n 12 --temp 0",
            "run -m m -p hi -n 12 --temp 0",
            "run --model m --prompt hi --n-predict 12 --temperature 0",
            "run m -p hi --predict 12 --temp=0",
            "run m -p hi --n_predict 12 --temp -1",
            "run -n 12 --temp 0 -p hi m",
            "run m -p hi -n12 --temp 0",
            "run m -p hi -n 12 -s 3 --top-k 1",
            "run m -p hi -n 12 --seed 3 --top_k=1",
            "run m -p hi -n 12 --temp 0 -c 64",
            "run m -p hi -n 12 --temp 0 --ctx-size 64 --batch-size 8 --ubatch-size 4",
            "run m -p hi -n 12 --temp 0 -b 8 -ub 4 -t 1",
            "run m -p hi -n 12 --temp 0 -ub=64 --threads 2",
            "run m -p hi -n 12 --temp 0 -t -1",
            "run m -p hi -n 12 --temp 0 --no-mmap",
            "run m -p hi -n 12 --temp 0 -ctk f16 -ctv f16",
            "run m -p hi -n 12 --temp 0 --raw",
            "run m -p hi -n 12 --temp 0 --repeat-penalty 1 --repeat-last-n -1 --presence-penalty 0 --frequency-penalty 0",
        ],
    );
}

/// What changes a little what is computed must still say something of that length.
#[test]
fn other_caches_are_sane() {
    let folder = folder();
    for line in ["-ctk f32 -ctv f32", "-ctk q8_0", "-ctv q8_0", "-ctk q8_0 -ctv q8_0", "-ctk f32 -ctv q8_0"] {
        let text = answer(&folder, &format!("run m -p hi --no-display-prompt -n 12 --temp 0 {line}"));
        assert!(text.len() >= 12 && text.is_ascii(), "{line}: {text:?}");
    }
}

#[test]
fn mlock_says_the_same() {
    let folder = folder();
    let done = Done::from(ostro(folder.path(), words("run m -p hi -n 12 --temp 0 --mlock")).output().unwrap());
    assert_eq!(done.out, answer(&folder, "run m -p hi -n 12 --temp 0"));
    // Where the system allows no locking, that is told.
    assert!(done.err.is_empty() || done.err.starts_with("warning: m: cannot lock "), "{}", done.err);
}

#[test]
fn prompts_come_by_every_way() {
    let folder = folder();
    std::fs::write(folder.path().join("prompt.txt"), "two words\n").unwrap();
    let run = |args: &[&str]| {
        let mut all = vec!["run", "m", "-n", "8", "--temp", "0"];
        all.extend(args);
        ostro(folder.path(), all)
    };
    let done = |mut command: Command| Done::from(command.output().unwrap());
    let wanted = done(run(&["-p", "two words"]));
    assert!(wanted.code == Some(0) && wanted.out.starts_with("two words"), "{wanted:?}");
    assert_eq!(done(run(&["-f", "prompt.txt"])), wanted);
    assert_eq!(piped(run(&["-p", "-"]), b"two words\n"), wanted);
    assert_eq!(piped(run(&[]), b"two words"), wanted);

    // Escapes are those of -p, unless they are switched off; the last word counts.
    let lines = done(run(&["-p", r"two\nwords"]));
    assert!(lines.out.starts_with("two\nwords"), "{lines:?}");
    assert_eq!(done(run(&["-p", "two\nwords", "--no-escape"])), lines);
    assert_eq!(done(run(&["-e", "-p", r"two\nwords"])), lines);
    assert_eq!(done(run(&["--no-escape", "-e", "-p", r"two\nwords"])), lines);
    let plain = done(run(&["--no-escape", "-p", r"two\nwords"]));
    assert!(plain.out.starts_with(r"two\nwords"), "{plain:?}");
    assert_eq!(piped(run(&[]), br"two\nwords"), plain);
    // A prompt may look like a flag.
    assert!(done(run(&["-p", "--temp"])).out.starts_with("--temp"));
}

#[test]
fn seeds_repeat_and_differ() {
    let folder = folder();
    let say = |seed: &str| answer(&folder, &format!("run m -p hi -n 40 --temp 1.5 {seed}"));
    assert_eq!(say("-s 1"), say("--seed 1"));
    assert_ne!(say("-s 1"), say("-s 2"));
    assert_ne!(say("-s -1"), say(""), "no seed is a random one");
}

#[test]
fn the_prompt_is_shown_or_not() {
    let folder = folder();
    let shown = answer(&folder, "run m --raw -p hi -n 10 --temp 0");
    let hidden = answer(&folder, "run m --raw -p hi -n 10 --temp 0 --no-display-prompt");
    assert_eq!(shown, format!("hi{hidden}"));
    assert_eq!(answer(&folder, "run m --raw -p hi -n 0"), "hi");
    assert_eq!(answer(&folder, "run m --raw -p hi -n 0 --no-display-prompt"), "");
}

#[test]
fn stop_texts_stop_before_themselves() {
    let folder = folder();
    let base = "run m -p hi -n 30 --temp 0 --no-display-prompt";
    let text = answer(&folder, base);
    // From the middle of one token to the middle of another, in a text that may have repeated itself before.
    let stop = text[11..17].replace(' ', r"\x20");
    let before = &text[..text.find(&text[11..17]).unwrap()];
    assert_eq!(answer(&folder, &format!("{base} -r {stop}")), before);
    assert_eq!(answer(&folder, &format!("{base} --reverse-prompt nowhere,at,all --reverse-prompt {stop}")), before);
    assert_eq!(answer(&folder, &format!("{base} -r nowhere")), text);
    // One that only begins at the end is said after all.
    let end = text[text.len() - 2..].replace(' ', r"\x20");
    assert_eq!(answer(&folder, &format!("{base} -r {end}nowhere")), text);
}

#[test]
fn the_end_of_text_ends() {
    let folder = with(&Tiny::new(Experts::None).always(EOS));
    assert_eq!(answer(&folder, "run m -p hi"), "hi");
    let on = answer(&folder, "run m -p hi -n 20 --temp 0 --ignore-eos --no-display-prompt");
    assert!(on.len() >= 20 && on.is_ascii(), "{on:?}");
    // Without an end the context is.
    let done =
        Done::from(ostro(folder.path(), words("run m -p hi -n -2 --ignore-eos -c 20 --temp 0")).output().unwrap());
    let told = "stopped: the context of 20 tokens is full; give a larger --ctx-size, or --context-shift, to go on\n";
    assert!((done.code, done.err.as_str()) == (Some(0), told) && done.out.len() >= 20, "{done:?}");
}

#[test]
fn the_context_limits_and_is_told() {
    let folder = folder();
    let run = |args: &str| Done::from(ostro(folder.path(), words(&format!("run m {args}"))).output().unwrap());
    // BOS, a space before the text, two letters: four tokens of the ten; the last of seven needs no place.
    let done = run("-p hi -c 10 -n 7 --temp 0");
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    let done = run("-p hi -c 10 -n 8 --temp 0");
    let told = "stopped: the context of 10 tokens is full; give a larger --ctx-size, or --context-shift, to go on\n";
    assert_eq!((done.code, done.err.as_str()), (Some(0), told));
    // A prompt that fills it to the last place gets one token.
    let done = run("-p hi -c 4 -n 1 --temp 0");
    assert_eq!((done.code, done.err.as_str()), (Some(0), ""));
    let done = run(&format!("-p hi -c {} -n 1", CONTEXT + 1));
    assert_eq!(
        (done.code, done.err.as_str()),
        (
            Some(0),
            "warning: --ctx-size 4097: the model was trained for 4096 tokens; beyond them it may lose the thread\n"
        )
    );
}

/// A file may claim any context; its cache must not be reserved blindly.
#[test]
fn a_huge_context_is_cut_to_memory() {
    let folder = with(&Tiny::new(Experts::None).always(EOS).set("llama.context_length", Value::U32(u32::MAX)));
    let done = Done::from(ostro(folder.path(), words("run m -p hi")).output().unwrap());
    assert_eq!(done.code, Some(0), "{done:?}");
    // With a terabyte of memory there is nothing to be told.
    assert!(done.err.is_empty() || done.err.contains("does not fit in memory; --ctx-size sets it\n"), "{done:?}");
}

#[test]
fn statistics_are_a_line_on_standard_error() {
    let folder = folder();
    let run = |args: &str| {
        let done = Done::from(ostro(folder.path(), words(&format!("run m --stats {args}"))).output().unwrap());
        assert_eq!(done.code, Some(0), "{done:?}");
        done
    };
    // Numbers are not the same twice: only their places are compared.
    let places = |line: &str| {
        let number = |w: &str| w.trim_end_matches([',', ';']).parse::<f64>().is_ok_and(|n| n.is_finite() && n >= 0.0);
        let place = |w| if number(w) { w.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.') } else { w };
        line.split(' ').map(place).collect::<Vec<_>>().join(" ")
    };
    let done = run("-p hi -n 5 --temp 0");
    assert_eq!(
        places(&done.err),
        places(
            "prompt 0 tokens, 0 tokens/s; first token after 0 s; generated 0 tokens, 0 tokens/s; 0 MB a token, 0 GB/s\n"
        )
    );
    assert!(done.err.starts_with("prompt 4 tokens, ") && done.err.contains("; generated 5 tokens, "), "{}", done.err);
    assert_eq!(done.out, answer(&folder, "run m -p hi -n 5 --temp 0"));
    let one = run("-p hi -n 1");
    assert!(one.err.ends_with("; generated 1 tokens\n"), "{}", one.err);
    let none = run("-p hi -n 0");
    assert!(none.err.starts_with("prompt 4 tokens, ") && none.err.ends_with(" tokens/s\n"), "{}", none.err);
}

#[test]
fn verbose_tells_on_standard_error() {
    let folder = folder();
    let done = Done::from(ostro(folder.path(), words("run m -p hi -n 3 --temp 0 -v -t 2")).output().unwrap());
    assert_eq!(done.out, answer(&folder, "run m -p hi -n 3 --temp 0"));
    assert!(
        ["m: llama, 2 layers, width 64\n", "\n2 threads, ", "\nseed "].iter().all(|part| done.err.contains(part)),
        "{}",
        done.err
    );
}

#[test]
fn a_chat_template_is_used_and_bos_comes_once() {
    let template = "{{ bos_token }}{% for m in messages %}u {{ m['content'] }}{% endfor %}{% if add_generation_prompt %} a{% endif %}";
    let without = template.replace("{{ bos_token }}", "");
    let plain = Tiny::new(Experts::None);
    let chat = |template: &str| plain.clone().set("tokenizer.chat_template", Value::String(template.into()));
    let no_bos = Value::Bool(false);
    let rows = [
        ("written by the template", chat(template)),
        ("added to it", chat(&without)),
        ("written by the template alone", chat(template).set("tokenizer.ggml.add_bos_token", no_bos)),
    ];
    let plain = with(&plain);
    let base = "-n 10 --temp 0 --stats";
    let run = |folder: &TempDir, args: &str| {
        let mut words = words(base);
        words.splice(0..0, ["run", "m", "-p", args]);
        Done::from(ostro(folder.path(), words).output().unwrap())
    };
    let raw = run(&plain, "u hi a");
    let answer_alone = raw.out.strip_prefix("u hi a").unwrap();
    let ids = Done::from(ostro(plain.path(), ["tokenize", "m", "-p", "u hi a"]).output().unwrap()).out;
    let told = format!("prompt {} tokens, ", ids.split(' ').count());
    assert!(ids.starts_with("1 ") && raw.err.starts_with(&told), "{ids} {raw:?}");
    for (name, model) in rows {
        let folder = with(&model);
        let done = run(&folder, "hi");
        assert_eq!(done.out, answer_alone, "{name}");
        assert!(done.err.starts_with(&told), "{name}: {} {ids}", done.err);
    }
    // --raw leaves the template out.
    let folder = with(&chat(template));
    let line = "run m -p hi -n 10 --temp 0";
    assert_eq!(answer(&folder, &format!("{line} --raw")), answer(&plain, line));
}

/// Where an answer follows a control token, the space of the first word is the tokenizer's own, not the model's.
#[test]
fn an_answer_begins_without_the_tokenizers_space() {
    let the = FIRST_TEXT + 2;
    let template = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}";
    let model = Tiny::new(Experts::None).always(the);
    let folder = with(&model.clone().set("tokenizer.chat_template", Value::String(template.into())));
    assert_eq!(answer(&folder, "run m -p hi -n 3 --temp 0"), "the the the");
    assert_eq!(answer(&folder, "run m --raw -p hi -n 3 --temp 0"), "hi the the the");
}

/// Bytes that make no character become U+FFFD, and never half of one.
#[test]
fn half_characters_are_not_shown() {
    let folder = with(&Tiny::new(Experts::None).always(3 + 0xe2));
    let text = answer(&folder, "run m -p hi -n 4 --temp 0 --no-display-prompt");
    assert_eq!(text, "\u{fffd}".repeat(4));
}

/// What no check of the header can see: the file is named all the same.
#[test]
fn weights_that_are_no_numbers_are_told() {
    let mut model = Tiny::new(Experts::None);
    model.tensors.iter_mut().find(|t| t.0 == "output_norm.weight").unwrap().3.fill(0xff);
    let folder = with(&model);
    let done = Done::from(ostro(folder.path(), words("run m -p hi --temp 0")).output().unwrap());
    let told =
        "error: m: logits: token 0 has a logit that is not a number; the file is damaged or the model overflows\n";
    assert_eq!(done, Done { code: Some(1), out: "hi".into(), err: told.into() });
}

#[test]
fn a_closed_pipe_ends_quietly() {
    let folder = folder();
    for line in [
        "run m -p hi -n -2 --ignore-eos --temp 0",
        "run m -p hi -n -2 --ignore-eos --temp 0 --stats",
        "inspect --json m",
    ] {
        let mut child = ostro(folder.path(), words(line)).spawn().unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        let done = Done::from(child.wait_with_output().unwrap());
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{line}");
    }
    // Both closed, as by `2>&1 | head -c 1`.
    let mut child = ostro(folder.path(), words("run m -p hi -n 500 --temp 0 -v --stats")).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[cfg(unix)]
#[test]
fn interrupts_end_with_the_statistics() {
    let folder = folder();
    let line = "run m -p hi -n -2 --ignore-eos --temp 0 -c 2000000";
    let mut child = ostro(folder.path(), words(line)).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 8]).unwrap();
    let reader = thread::spawn(move || {
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        rest
    });
    thread::sleep(Duration::from_millis(50));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let done = Done::from(child.wait_with_output().unwrap());
    assert!(!reader.join().unwrap().is_empty());
    let last = done.err.lines().last().unwrap_or_default();
    assert!(
        done.code == Some(130) && last.starts_with("prompt 4 tokens, ") && last.contains("; generated "),
        "{done:?}"
    );
}

#[test]
fn grammars_and_schemas_are_obeyed_or_refused() {
    let folder = folder();
    fs::write(folder.path().join("g.gbnf"), "root ::= [a-c]{4} \"in\"? # letters\n").unwrap();
    fs::write(folder.path().join("s.json"), r#"{"enum": ["the", "in"]}"#).unwrap();
    let run = |args: &[&str]| {
        let mut all = vec!["run", "m", "-p", "hi", "--no-display-prompt", "-s", "5", "--temp", "2"];
        all.extend(args);
        Done::from(ostro(folder.path(), all).output().unwrap())
    };
    for grammar in [["--grammar", "root ::= [a-c]{4} \"in\"?"], ["--grammar", "g.gbnf"], ["--grammar-file", "g.gbnf"]] {
        let done = run(&grammar);
        let letters = done.out.strip_suffix("in").unwrap_or(&done.out);
        let right = letters.len() == 4 && letters.bytes().all(|b| (b'a'..=b'c').contains(&b));
        assert!(done.code == Some(0) && right, "{grammar:?}: {done:?}");
    }
    for schema in [["-j", r#"{"enum": ["the", "in"]}"#], ["--json-schema", "s.json"], ["-jf", "s.json"]] {
        let done = run(&schema);
        assert!(done.code == Some(0) && ["\"the\"", "\"in\""].contains(&done.out.as_str()), "{schema:?}: {done:?}");
    }
    let rows: &[(&[&str], &str)] = &[
        (&["--grammar", "root ::= \"a"], "error: --grammar: line 1: found the end, expected \" after the text"),
        (&["--grammar-file", "nowhere"], "error: nowhere: cannot be read"),
        (&["-j", "nope"], "error: --json-schema: found no JSON, expected a schema"),
        (&["-j", "{\"type\": 5}"], "error: --json-schema: "),
        (&["-j", "{}", "--grammar", "x"], "error: the argument '--json-schema <FILE|JSON>' cannot be used with"),
    ];
    for (args, want) in rows {
        let done = run(args);
        assert!(done.out.is_empty() && done.err.starts_with(want), "{args:?}: {done:?}");
    }
}
