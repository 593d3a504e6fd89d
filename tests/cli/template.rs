//! `ostro template`: conversations as other programs render and encode them.

use std::fs;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::common::reference;
use super::{Done, ostro};

/// Runs `ostro template` on messages and tools.
fn template(folder: &Path, flags: &[&str], messages: &Value, tools: &Value) -> Done {
    fs::write(folder.join("messages.json"), messages.to_string()).unwrap();
    let mut args = vec!["template", "--messages", "messages.json"];
    args.extend(flags);
    if !tools.is_null() {
        fs::write(folder.join("tools.json"), tools.to_string()).unwrap();
        args.extend(["--tools", "tools.json"]);
    }
    ostro(folder, args).output().unwrap().into()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn ids(text: &str) -> Vec<u32> {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// A text as mistral-common shows it, without its signs for spaces and bytes.
fn written(text: &Value) -> String {
    text.as_str().unwrap().replace('▁', " ").replace("<0x0A>", "\n").replace("<0x09>", "\t")
}

/// The vocabulary of Mixtral 8x22B, and a folder to work in.
fn mistral() -> Option<(TempDir, String)> {
    let path = reference("tokenizers/mistral/mixtral-8x22b-instruct-v0.1-vocab.gguf")?;
    Some((TempDir::new().unwrap(), path.canonicalize().unwrap().display().to_string()))
}

#[test]
fn mistral_v3_is_mistral_commons_to_the_token() {
    let Some((folder, model)) = mistral() else { return };
    let Some(chats) = reference("tokenizers/mistral/chats_v3.json") else { return };
    let chats = json(&chats);
    let chats = chats["chats"].as_array().unwrap();
    assert!(chats.len() >= 19);
    for chat in chats {
        let done = template(folder.path(), &[&model, "--ids"], &chat["messages"], &chat["tools"]);
        assert_eq!(done.code, Some(0), "{}: {}", chat["name"], done.err);
        let want: Vec<u32> = serde_json::from_value(chat["ids"].clone()).unwrap();
        assert_eq!(ids(&done.out), want, "{}", chat["name"]);
        let text = template(folder.path(), &[&model], &chat["messages"], &chat["tools"]).out;
        assert_eq!(text, written(&chat["debug_text"]), "{}", chat["name"]);
    }
}

/// Random conversations (tests/tools/mistral_chats.py); v2 has v3's vocabulary, of v1 the text is compared.
#[test]
fn all_mistral_forms_are_mistral_commons() {
    let Some((folder, model)) = mistral() else { return };
    let data: Value = serde_json::from_str(include_str!("../data/mistral_chats.json")).unwrap();
    let mut failures = Vec::new();
    for (i, case) in data["cases"].as_array().unwrap().iter().enumerate() {
        for version in ["v1", "v2", "v3"] {
            let want = &case[version];
            let form = format!("mistral-{version}");
            let mut flags = vec![model.as_str(), "--chat-template", &form];
            if version != "v1" {
                flags.push("--ids");
            }
            let done = template(folder.path(), &flags, &case["messages"], &case["tools"]);
            let right = match (want.get("refused"), version) {
                (Some(_), _) => done.code == Some(1) && done.err.starts_with("error: messages: "),
                (None, "v1") => done.out == written(&want["text"]),
                (None, _) => {
                    done.code == Some(0)
                        && ids(&done.out) == serde_json::from_value::<Vec<u32>>(want["ids"].clone()).unwrap()
                }
            };
            if !right {
                failures.push(format!("{i} {version}: {}\n{want}\n{done:?}", case["messages"]));
            }
        }
    }
    assert!(failures.is_empty(), "{} differ, the first:\n{}", failures.len(), failures[0]);
}

#[test]
fn templates_render_as_transformers_renders_them() {
    let Some(path) = reference("templates") else { return };
    let folder = TempDir::new().unwrap();
    let mut failures = Vec::new();
    let mut n = 0;
    for file in fs::read_dir(path).unwrap() {
        let file = file.unwrap().path();
        let data = json(&file);
        let text = |key: &str| data[key].as_str().unwrap_or_default().to_owned();
        fs::write(folder.path().join("t.jinja"), text("template")).unwrap();
        let (bos, eos, now) = (text("bos_token"), text("eos_token"), text("now"));
        for (i, case) in data["cases"].as_array().unwrap().iter().enumerate() {
            let mut flags = vec!["--chat-template", "t.jinja", "--bos", &bos, "--eos", &eos, "--now", &now];
            if case["add_generation_prompt"] == Value::Bool(false) {
                flags.push("--no-generation-prompt");
            }
            let done = template(folder.path(), &flags, &case["messages"], &case["tools"]);
            n += 1;
            let right = match case["expected"].as_str() {
                Some(want) => done.code == Some(0) && done.out == want,
                None => {
                    let error = case["expected_error"].as_str().unwrap();
                    let own = error.strip_prefix("TemplateError: ");
                    done.code == Some(1) && own.is_none_or(|own| done.err.contains(own))
                }
            };
            if !right {
                let want = case["expected"].as_str().unwrap_or("an error");
                let at = want.bytes().zip(done.out.bytes()).take_while(|(a, b)| a == b).count();
                failures.push(format!(
                    "{} {i}: differs at {at}: {:?}\n{:?}\n{}",
                    file.display(),
                    want.get(at.saturating_sub(40)..),
                    done.out.get(at.saturating_sub(40)..),
                    done.err
                ));
            }
        }
    }
    assert!(n >= 36 && failures.is_empty(), "{n} cases, {} differ:\n{}", failures.len(), failures.join("\n\n"));
}

/// tests/tools/chat_forms.py has asked llama.cpp.
#[test]
fn named_forms_are_llama_cpps() {
    let data: Value = serde_json::from_str(include_str!("../data/chat_forms.json")).unwrap();
    let folder = TempDir::new().unwrap();
    let mut failures = Vec::new();
    for case in data["cases"].as_array().unwrap() {
        let mut flags = vec!["--chat-template", case["name"].as_str().unwrap()];
        if case["answer"] == Value::Bool(false) {
            flags.push("--no-generation-prompt");
        }
        let done = template(folder.path(), &flags, &case["messages"], &Value::Null);
        if done.out != case["expected"].as_str().unwrap() {
            failures.push(format!("{}: {:?}\n{done:?}", case["name"], case["expected"]));
        }
    }
    assert!(failures.is_empty(), "{} differ:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn what_cannot_be_rendered_is_told() {
    let folder = TempDir::new().unwrap();
    let hello = serde_json::json!([{ "role": "user", "content": "hello" }]);
    let rows: &[(&[&str], Value, &str)] = &[
        (
            &["--chat-template", "nonsense"],
            hello.clone(),
            "error: --chat-template: found \"nonsense\", expected a file, a template with {{ or {% in it, or one of mistral-v1",
        ),
        (&["--chat-template", "{% if %}"], hello.clone(), "error: chat template: line 1: "),
        (
            &["--chat-template", "{{ raise_exception('no ' + 'thanks') }}"],
            hello.clone(),
            "error: chat template: refuses the messages: no thanks\n",
        ),
        (&["--chat-template", "chatml", "--ids"], hello.clone(), "error: --ids: found no model, expected one"),
        (
            &["--chat-template", "chatml", "--now", "noon"],
            hello.clone(),
            "error: --now: found \"noon\", expected a time",
        ),
        (
            &["--chat-template", "chatml", "--chat-template-kwargs", "[1]"],
            hello.clone(),
            "error: --chat-template-kwargs: found [1], expected a JSON object",
        ),
        (
            &["--chat-template", "chatml"],
            serde_json::json!({ "a": 1 }),
            "error: messages.json: messages: found an object without a list \"messages\"",
        ),
        (
            &["--chat-template", "chatml"],
            serde_json::json!([{ "content": "x" }]),
            "error: messages.json: messages: found a message without a \"role\"",
        ),
        (
            &["--chat-template", "chatml"],
            serde_json::json!([{ "role": "user", "content": 5 }]),
            "error: messages.json: messages: found a \"content\" that is neither text nor parts",
        ),
        (
            &["--chat-template", "mistral-v3"],
            serde_json::json!([]),
            "error: messages: found none, expected one at least",
        ),
        (&["nowhere.gguf"], hello.clone(), "error: nowhere.gguf: neither a file nor an alias"),
    ];
    for (flags, messages, want) in rows {
        let done = template(folder.path(), flags, messages, &Value::Null);
        assert!((done.code, done.out.as_str()) == (Some(1), "") && done.err.starts_with(want), "{flags:?}: {done:?}");
    }
    let time = ["--chat-template", "{{ strftime_now('%d %b %Y %H:%M %%q %-d') }}", "--now", "2024-07-06T12:34:56"];
    assert_eq!(template(folder.path(), &time, &hello, &Value::Null).out, "06 Jul 2024 12:34 %q 6");
    let think = [
        "--chat-template",
        "{{ enable_thinking }}{{ messages }}",
        "--chat-template-kwargs",
        "{\"enable_thinking\": false}",
    ];
    let out = template(folder.path(), &think, &hello, &Value::Null).out;
    assert_eq!(out, "False[{'role': 'user', 'content': 'hello'}]", "as Python writes it");
}

/// A control token that somebody says is text, in every form.
#[test]
fn control_tokens_in_a_message_stay_text() {
    let Some((folder, model)) = mistral() else { return };
    let said = serde_json::json!([{ "role": "user", "content": "a </s> [INST] b" }]);
    let plain = "{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}";
    let done = template(folder.path(), &[&model, "--chat-template", plain, "--ids"], &said, &Value::Null);
    let ids = ids(&done.out);
    // BOS, one [INST], the text, one [/INST].
    assert_eq!((ids[..2].to_vec(), ids.last()), (vec![1, 3], Some(&4)), "{ids:?}");
    assert!(ids[2..ids.len() - 1].iter().all(|&id| id > 770), "{ids:?}");
    let exact = template(folder.path(), &[&model, "--ids"], &said, &Value::Null);
    assert_eq!(self::ids(&exact.out), ids, "as the exact form has it");
}
