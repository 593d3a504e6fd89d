//! `ostro chat` through a pipe: a turn a line, answers on standard output alone.

use std::fs;

use ostro::gguf::Value;
use tempfile::TempDir;

use super::tiny::{Experts, Tiny};
use super::{Done, ostro, piped, words};

/// `u:hello</s>a:`, one mark after each message.
const TEMPLATE: &str =
    "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}a:{% endif %}";

/// A folder with the model `m`, which has a chat template.
pub fn talker() -> TempDir {
    let folder = TempDir::new().unwrap();
    let model = Tiny::new(Experts::None).set("tokenizer.chat_template", Value::String(TEMPLATE.into()));
    model.write(&folder.path().join("m"));
    folder
}

/// Says lines.
fn chat(folder: &TempDir, flags: &str, lines: &[&str]) -> Done {
    piped(ostro(folder.path(), words(&format!("chat m --temp 0 {flags}"))), lines.join("\n").as_bytes())
}

fn fine(folder: &TempDir, flags: &str, lines: &[&str]) -> (String, String) {
    let done = chat(folder, flags, lines);
    assert_eq!(done.code, Some(0), "{flags} {lines:?}: {}", done.err);
    (done.out, done.err)
}

#[test]
fn each_line_is_a_turn_and_the_end_of_input_ends() {
    let folder = talker();
    let (out, err) = fine(&folder, "-n 8", &["hello", "", "again", ""]);
    let lines: Vec<_> = out.lines().collect();
    assert_eq!((lines.len(), err.as_str()), (2, ""), "{out:?}");
    assert!(lines.iter().all(|l| l.len() >= 8 && l.is_ascii()), "{out:?}");
    assert_eq!(fine(&folder, "-n 8", &[]), (String::new(), String::new()));
    // -p says the first line; one turn is one turn.
    assert_eq!(fine(&folder, "-n 8 -p hello", &["again"]).0, out);
    assert_eq!(fine(&folder, "-n 8 -p hello -st", &["again"]).0.lines().collect::<Vec<_>>(), lines[..1]);
}

#[test]
fn a_turn_knows_those_before_it() {
    let folder = talker();
    let second = |first: &str| fine(&folder, "-n 8", &[first, "and now"]).0.lines().nth(1).map(str::to_owned);
    assert_ne!(second("one"), second("two"));
    // Nothing is left of what is forgotten or taken back.
    let alone = fine(&folder, "-n 8", &["and now"]).0;
    for forget in ["/clear", "/reset", "/undo"] {
        let out = fine(&folder, "-n 8", &["one", forget, "and now"]).0;
        assert_eq!(out.lines().nth(1), alone.lines().next(), "{forget}");
    }
}

#[test]
fn answers_are_given_again_and_messages_changed() {
    let folder = talker();
    let out = fine(&folder, "-n 8", &["one", "/regen", "/edit two", "/retry"]).0;
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines[0], lines[1], "temperature 0 says the same again");
    assert_eq!(lines[2], fine(&folder, "-n 8", &["two"]).0.trim_end(), "as if nothing else had been said");
    assert_eq!(lines[3], lines[2]);
}

#[test]
fn only_what_is_new_is_computed() {
    let folder = talker();
    let (_, err) = fine(&folder, "-n 8 --stats", &["a first message", "a second one"]);
    // The second prompt: what was held, then </s>, the message, </s> and the beginning of the answer.
    let kept: Vec<_> = err.lines().map(|l| l.split(',').next().unwrap_or_default()).collect();
    assert_eq!(kept.len(), 2, "{err}");
    assert!(kept[0].starts_with("prompt ") && !kept[0].contains("kept"), "{err}");
    let counts: Vec<usize> = kept[1].split(' ').filter_map(|w| w.parse().ok()).collect();
    let first: usize = kept[0].split(' ').find_map(|w| w.parse().ok()).unwrap();
    assert_eq!(counts[1], first + 7, "all of the first turn but its last token, which was never fed: {err}");
}

#[test]
fn the_system_prompt_is_set_and_shown() {
    let folder = talker();
    let flags = fine(&folder, "-n 8 -sys brief", &["hello"]).0;
    assert_ne!(flags, fine(&folder, "-n 8", &["hello"]).0);
    for set in ["/system brief", "/set system brief", "/set system \"brief\""] {
        assert_eq!(fine(&folder, "-n 8", &[set, "hello"]).0, flags, "{set}");
    }
    fs::write(folder.path().join("s.txt"), "brief\n").unwrap();
    assert_eq!(fine(&folder, "-n 8 -sysf s.txt", &["hello"]).0, flags);
    let (out, err) = fine(&folder, "-n 8 -sys brief", &["/show system", "/system none", "/clear", "hello"]);
    assert!(err.starts_with("brief\n"), "{err}");
    assert_eq!(out, fine(&folder, "-n 8", &["hello"]).0);
}

#[test]
fn parameters_are_set_in_both_vocabularies() {
    let folder = talker();
    let flags = words("chat m -n 8 --temp 5 -s 3 --top-k 0 --top-p 1 --min-p 0");
    let want = piped(ostro(folder.path(), flags), b"hello").out;
    assert_ne!(want, fine(&folder, "-n 8", &["hello"]).0);
    let llama = ["/set temp 5", "/set top-k 0", "/set top_p 1", "/set --min-p 0", "/set n-predict 8", "hello"];
    let ollama =
        ["temperature 5", "top_k 0", "top_p 1", "min_p 0", "num_predict 8"].map(|p| format!("/set parameter {p}"));
    let ollama: Vec<&str> = ollama.iter().map(String::as_str).chain(["hello"]).collect();
    assert_eq!(fine(&folder, "-n 3 -s 3", &llama).0, want);
    assert_eq!(fine(&folder, "-n 3 -s 3", &ollama).0, want);
    // A context of another size is made and what was said is computed again.
    let (out, err) = fine(&folder, "-n 8 --stats", &["hello", "/set num_ctx 64", "again", "/show info"]);
    assert_eq!(out, fine(&folder, "-n 8", &["hello", "again"]).0);
    assert!(err.contains("context: 64 of") && !err.contains("kept"), "{err}");
}

#[test]
fn what_cannot_be_done_is_said_and_the_talk_goes_on() {
    let folder = talker();
    let rows = [
        ("/nonsense", "error: /nonsense: found no such command; /help lists them, and a space before it makes it text"),
        ("/regen", "error: /regen: found no answer to give again; say something first"),
        ("/undo", "error: /undo: found nothing that you said"),
        ("/edit", "error: /edit: found no text, expected the new message"),
        ("/read", "error: /read: found no name, expected one of a text file"),
        ("/read nowhere", "error: nowhere: cannot be read"),
        ("/load nowhere", "error: nowhere: found no such file, expected one that /save wrote"),
        ("/save", "error: /save: found no name, expected one of a file; with --session it may be left out"),
        ("/copy", "error: /copy: found no answer yet"),
        ("/show nonsense", "error: /show: found \"nonsense\", expected info, parameters, system"),
        ("/set", "error: /set: found no key, expected one such as temp"),
        ("/set temp warm", "error: /set"),
        ("/set nonsense 1", "error: /set"),
        ("/set num_ctx many", "error: /set num-ctx: found \"many\", expected a number of tokens"),
        ("/set format", "error: /set format: found nothing, expected json"),
    ];
    for (line, error) in rows {
        let done = chat(&folder, "-n 4", &[line, "hello"]);
        assert!(done.err.starts_with(error), "{line}: {}", done.err);
        assert_eq!((done.out.lines().count(), done.code), (1, Some(1)), "{line}: {done:?}");
    }
}

#[test]
fn a_full_context_is_told_or_makes_room() {
    let folder = talker();
    let lines: Vec<String> = (0..8).map(|i| format!("message {i} of several")).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let done = chat(&folder, "-n 12 -c 96", &lines);
    assert_eq!(done.code, Some(1));
    assert!(done.err.contains("expected at most the context's 96"), "{}", done.err);
    let (out, err) = fine(&folder, "-n 12 -c 96 --context-shift -sys system --stats", &lines);
    assert_eq!(out.lines().count(), 8, "{out}\n{err}");
    assert!(err.contains("note: the context was full: the oldest turn was dropped"), "{err}");
    // In the middle of an answer too, as long as there is a turn to be dropped.
    let (out, err) = fine(&folder, "-n 60 -c 96 --context-shift", &["a", "b"]);
    assert_eq!(out.lines().map(str::len).filter(|&n| n >= 60).count(), 2, "{out}\n{err}");
    assert!(err.contains("dropped"), "{err}");
}

#[test]
fn a_session_goes_on_where_it_ended() {
    let folder = talker();
    let whole = fine(&folder, "-n 8", &["one", "two"]).0;
    let first = fine(&folder, "-n 8 --session s", &["one"]).0;
    let (second, err) = fine(&folder, "-n 8 --session s --stats", &["two"]);
    assert_eq!(first + &second, whole);
    assert!(err.contains("kept"), "{err}");
    // `run` takes it up as well, and the file can be loaded by name.
    fine(&folder, "-n 8 --session t", &["one"]);
    let done = Done::from(ostro(folder.path(), words("run m --temp 0 -n 8 --session t -p two")).output().unwrap());
    assert_eq!(done.out.trim_end(), second.trim_end(), "{done:?}");
    fine(&folder, "-n 8", &["one", "/save u", "/save u.json"]);
    for file in ["u", "u.json"] {
        assert_eq!(fine(&folder, "-n 8", &[&format!("/load {file}"), "two"]).0, second, "{file}");
    }
    // Another cache type: the conversation is there and computed again.
    let (_, err) = fine(&folder, "-n 8 --session u -ctk q8_0", &["/show messages"]);
    assert!(err.contains("the conversation is computed again") && err.contains("user: one"), "{err}");
}

#[test]
fn a_session_that_is_not_right_is_refused_and_kept() {
    let folder = talker();
    let path = folder.path().join("s");
    fine(&folder, "-n 8 --session s", &["one"]);
    let whole = fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    let at = whole.len() - 20;
    flipped[at] ^= 1;
    let mut newer = whole.clone();
    newer[8] += 1;
    let rows: &[(&str, Vec<u8>, &str)] = &[
        ("cut", whole[..whole.len() / 2].to_vec(), "damaged"),
        ("cut in the header", whole[..30].to_vec(), "damaged"),
        ("empty", Vec::new(), "damaged"),
        ("flipped", flipped, "checksum"),
        ("newer", newer, "version 2"),
        ("other", b"something else entirely".to_vec(), "another kind of file"),
    ];
    for (name, bytes, says) in rows {
        fs::write(&path, bytes).unwrap();
        let done = chat(&folder, "-n 8 --session s", &["two"]);
        assert_eq!((done.code, done.out.as_str()), (Some(1), ""), "{name}");
        assert!(done.err.starts_with("error: s: ") && done.err.contains(says), "{name}: {}", done.err);
        assert_eq!(&fs::read(&path).unwrap(), bytes, "{name}: the file is as it was");
    }
    // A model with other weights.
    fs::write(&path, &whole).unwrap();
    Tiny::new(Experts::None)
        .set("tokenizer.chat_template", Value::String(TEMPLATE.into()))
        .tensor("blk.0.attn_q.weight", ostro_kernels::DType::F32, &[64, 64])
        .write(&folder.path().join("m"));
    let done = chat(&folder, "-n 8 --session s", &["two"]);
    assert!(done.code == Some(1) && done.err.contains("found a session of the model"), "{done:?}");
}

#[test]
fn guesses_change_nothing_but_the_time() {
    let folder = talker();
    let plain = fine(&folder, "-n 120", &["abcabcabcabc", "again"]).0;
    let (guessed, err) = fine(&folder, "-n 120 --spec ngram --stats", &["abcabcabcabc", "again"]);
    assert_eq!(guessed, plain);
    assert!(err.contains("guesses right"), "{err}");
    let (guessed, err) = fine(&folder, "-n 120 -md m --stats", &["abcabcabcabc", "again"]);
    assert_eq!(guessed, plain);
    assert!(err.contains("guesses right"), "{err}");
}

#[test]
fn a_message_that_cannot_fit_costs_no_earlier_one() {
    let folder = talker();
    let long = "x".repeat(200);
    let done = chat(&folder, "-n 4 -c 64 --context-shift", &["one", "two", &long, "/show messages"]);
    assert!(done.code == Some(1) && done.err.contains("expected at most the context's 64"), "{done:?}");
    for said in ["user: one", "user: two"] {
        assert!(done.err.contains(said), "{said} in {}", done.err);
    }
}

#[test]
fn what_is_loaded_is_what_was_saved() {
    let folder = talker();
    fine(&folder, "-n 4 -sys first", &["hello", "/save s"]);
    // The flag is for the session of the command line, not for one that is asked for later.
    let (_, err) = fine(&folder, "-n 4 -sys second", &["/load s", "/show system"]);
    assert!(err.ends_with("first\n"), "{err}");
    let (_, err) = fine(&folder, "-n 4 -sys second --session s", &["/show system"]);
    assert!(err.ends_with("second\n"), "{err}");
}

#[test]
fn a_format_outlives_a_new_context() {
    let folder = talker();
    let lines = ["/set format {\"enum\": [\"the\"]}", "/set num_ctx 128", "hello", "/set noformat", "hello"];
    let (out, _) = fine(&folder, "-n 9", &lines);
    let said: Vec<_> = out.lines().collect();
    assert!(said[0] == "\"the\"" && said[1] != said[0], "{out}");
}
