//! The vocabulary of Mistral's own layout: `tokenizer.model`, or `tokenizer.model.v3` and its like, whose ending says
//! how a conversation is written.
//!
//! llama.cpp's converter writes the name of such a layout where others have a template. Only its own programs know these
//! names, so here it is a template, which puts the system's message where mistral-common does.

use super::super::Error;
use super::json;
use super::pieces::{Pieces, Roles};
use super::special::KeyValues;
use crate::gguf::Value;
use std::path::Path;

/// What the folder has.
pub(super) struct Native {
    pub pieces: Pieces,
    pub roles: Roles,
    pub template: KeyValues,
}

const FILE: &str = "tokenizer.model";

/// Reads the newest of the files.
///
/// # Errors
/// When there is none, or it cannot be used.
pub(super) fn read(dir: &Path, n_vocab: usize, notes: &mut Vec<String>) -> Result<Native, Error> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, "list the folder", e))? {
        let name = entry.map_err(|e| Error::io(dir, "list the folder", e))?.file_name();
        names.extend(name.to_str().filter(|n| n.starts_with(FILE)).map(str::to_owned));
    }
    names.sort();
    let Some(name) = names.pop() else {
        let tekken = dir.join("tekken.json").exists();
        let found = if tekken { "tekken.json" } else { "nothing" };
        let next = "take the checkpoint with config.json and tokenizer.json in place of this layout";
        return Err(Error::bad(dir, "the vocabulary", found, "tokenizer.model, with or without .v3", next));
    };
    let path = dir.join(&name);
    let (mut pieces, mut roles) =
        Pieces::read(&path)?.ok_or_else(|| Error::bad(&path, "the file", "nothing", "a SentencePiece model", ""))?;
    if pieces.tokens.len() > n_vocab {
        let found = format!("{} tokens", pieces.tokens.len());
        let expected = format!("at most {n_vocab}, the rows of the embedding");
        return Err(Error::bad(
            &path,
            "the vocabulary",
            found,
            expected,
            "take the tokenizer that belongs to the model",
        ));
    }
    pieces.resize(n_vocab, notes);
    roles.pad = roles.pad.or(roles.eos);
    let version = name.strip_prefix(FILE).and_then(|v| v.strip_prefix(".v")).unwrap_or("1");
    let version = version.split('m').next().unwrap_or(version);
    let template = match json::text(&dir.join("chat_template.jinja"))? {
        Some(text) => Some(text.replace("\r\n", "\n")),
        None => template(version),
    };
    if template.is_none() {
        notes.push(format!("{name}: no chat template is known for version {version}; none is written"));
    }
    let template = template.map(|t| ("tokenizer.chat_template".to_owned(), Value::String(t)));
    Ok(Native { pieces, roles, template: template.into_iter().collect() })
}

/// How a conversation is written. The system's message goes before the first question in version 1, before the last one
/// in 2 and 3, and has marks of its own in 7.
fn template(version: &str) -> Option<String> {
    let (asks, system, user, answer) = match version {
        "1" => (
            "ns.at < 0",
            HELD,
            "{{ '[INST] ' + s + m['content'] + ' [/INST]' }}",
            "{{ ' ' + m['content'] + eos_token }}",
        ),
        "2" | "3" => {
            ("true", HELD, "{{ '[INST] ' + s + m['content'] + '[/INST]' }}", "{{ ' ' + m['content'] + eos_token }}")
        }
        "7" => (
            "true",
            "{{ '[SYSTEM_PROMPT] ' + m['content'] + '[/SYSTEM_PROMPT]' }}",
            "{{ '[INST] ' + m['content'] + '[/INST]' }}",
            "{{ ' ' + m['content'] + eos_token }}",
        ),
        _ => return None,
    };
    let parts = [("ASKS", asks), ("SYSTEM", system), ("USER", user), ("ANSWER", answer)];
    Some(parts.iter().fold(CONVERSATION.to_owned(), |text, (name, part)| text.replace(&format!("<{name}>"), part)))
}

/// The system's message waits for a question.
const HELD: &str = "{% set ns.system = m['content'] + '\\n\\n' %}";

const CONVERSATION: &str = "\
    {{ bos_token }}{% set ns = namespace(system='', at=-1) %}\
    {% for m in messages %}\
    {% if m['role'] == 'user' and <ASKS> %}{% set ns.at = loop.index0 %}{% endif %}\
    {% endfor %}\
    {% for m in messages %}\
    {% if m['role'] == 'system' %}<SYSTEM>\
    {% elif m['role'] == 'user' %}{% set s = ns.system if loop.index0 == ns.at else '' %}<USER>\
    {% elif m['role'] == 'assistant' %}<ANSWER>\
    {% else %}{{ raise_exception('only system, user and assistant have a place') }}{% endif %}\
    {% endfor %}";
