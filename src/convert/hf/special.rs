//! Tokens with a role, and what is put around a text: what `SpecialVocab` of llama.cpp's gguf-py finds in a folder.
//!
//! The order of looking is kept, since it decides what a later file can still add: tokenizer.json's post-processor,
//! then tokenizer_config.json, then config.json.

use super::super::Error;
use super::json;
use super::tokenizer_json::{Added, TokenizerJson};
use crate::gguf::{Array, Value};
use crate::model::checkpoint::Config;
use serde_json::{Map, Value as Json};
use std::path::Path;

/// Keys of the tokenizer, in order.
pub(super) type KeyValues = Vec<(String, Value)>;

/// Where the roles are looked for.
pub(super) struct Place<'a> {
    pub dir: &'a Path,
    pub tokenizer: Option<&'a TokenizerJson>,
    /// tokenizer_config.json.
    pub tokenizer_config: Option<&'a Config>,
    /// config.json as it is, without defaults.
    pub config: &'a Config,
    /// Ids from here on are none; all are fine when `None`.
    pub n_vocab: Option<usize>,
}

#[derive(Default)]
struct Special {
    roles: Vec<&'static str>,
    ids: Vec<(&'static str, u32)>,
    adds: Vec<(&'static str, bool)>,
}

/// Finds ids, what is put around texts, and the chat template.
pub(super) fn read(place: &Place) -> Result<KeyValues, Error> {
    let mut special = Special { roles: vec!["bos", "eos", "unk", "sep", "pad", "cls", "mask"], ..Special::default() };
    let mut config = place.tokenizer_config.map(|c| c.map().clone()).unwrap_or_default();
    if let Some(steps) = place.tokenizer.and_then(|t| t.post_processor.as_ref()) {
        special.post_processor(steps, &mut config);
    }
    let mut template = Vec::new();
    if !config.is_empty() {
        template = chat_template(place.dir, &config)?;
        let added = place.tokenizer.map_or(&[][..], |t| &t.added_tokens);
        special.tokenizer_config(&config, added, place.n_vocab);
    }
    special.config(place.config, place.n_vocab);
    let mut keys = special.keys();
    keys.append(&mut template);
    if let Some(normalizer) = place.tokenizer.and_then(|t| t.normalizer.as_ref()) {
        normalizer_keys(normalizer, &mut keys);
    }
    Ok(keys)
}

/// The text of a token in tokenizer_config.json: itself, or the content of an object.
pub(super) fn content(token: Option<&Json>) -> Option<&str> {
    match token? {
        Json::String(text) => Some(text),
        other => other["content"].as_str(),
    }
}

fn is_set(value: Option<&Json>) -> bool {
    match value {
        None | Some(Json::Null) => false,
        Some(Json::String(text)) => !text.is_empty(),
        Some(Json::Object(map)) => !map.is_empty(),
        Some(_) => true,
    }
}

fn special_id(item: Option<&Json>) -> Option<&str> {
    item?["SpecialToken"]["id"].as_str().filter(|id| !id.is_empty())
}

impl Special {
    fn set_add(&mut self, role: &'static str, value: bool) {
        match self.adds.iter_mut().find(|(r, _)| *r == role) {
            Some((_, old)) => *old = value,
            None => self.adds.push((role, value)),
        }
    }

    fn default_add(&mut self, role: &'static str, value: bool) {
        if !self.adds.iter().any(|(r, _)| *r == role) {
            self.adds.push((role, value));
        }
    }

    fn set_id(&mut self, role: &'static str, id: Option<u32>, n_vocab: Option<usize>) {
        if let Some(id) = id
            && n_vocab.is_none_or(|n| (id as usize) < n)
            && !self.ids.iter().any(|(r, _)| *r == role)
        {
            self.ids.push((role, id));
        }
    }

    /// What tokenizer.json puts around a text. Changes `config` where that has other tokens, as the converter does.
    fn post_processor(&mut self, post: &Json, config: &mut Map<String, Json>) {
        for (missing, stand_in) in [("bos_token", "cls_token"), ("eos_token", "sep_token")] {
            if !config.is_empty() && !is_set(config.get(missing)) && is_set(config.get(stand_in)) {
                config.insert(missing.to_owned(), config[stand_in].clone());
            }
        }
        let steps = match post["processors"].as_array() {
            Some(steps) => steps.iter().collect(),
            None => vec![post],
        };
        for step in steps {
            match step["type"].as_str() {
                Some("ByteLevel") => {
                    self.default_add("bos", false);
                    self.default_add("eos", false);
                }
                Some("RobertaProcessing") => {
                    for role in ["bos", "eos", "sep"] {
                        self.set_add(role, true);
                    }
                }
                Some("TemplateProcessing") => self.template(step, config),
                _ => {}
            }
        }
    }

    fn template(&mut self, step: &Json, config: &mut Map<String, Json>) {
        let known = !config.is_empty();
        let list = |key: &str| step[key].as_array().map_or(&[][..], Vec::as_slice);
        let single = list("single");
        let mut first = None;
        let mut last = None;
        if single.len() > 1 {
            first = special_id(single.first());
            if let Some(first) = first {
                let is = |config: &Map<String, Json>, key: &str| config.get(key).is_some_and(|t| t == first);
                if known && !is(config, "bos_token") && !is(config, "cls_token") {
                    for key in ["bos_token", "cls_token"] {
                        if !is_set(config.get(key)) {
                            config.insert(key.to_owned(), first.into());
                        }
                    }
                }
                self.set_add("bos", !known || is(config, "bos_token") || is(config, "cls_token"));
            }
            last = special_id(single.last());
            if let Some(last) = last {
                if known && config.get("eos_token").is_none_or(|t| t != last) {
                    let eos = config.get("eos_token").cloned().unwrap_or(Json::Null);
                    for (role, key) in [("eot", "eot_token"), ("eom", "eom_token")] {
                        if !self.roles.contains(&role) {
                            self.roles.push(role);
                            config.insert(key.to_owned(), eos);
                            break;
                        }
                    }
                    config.insert("eos_token".to_owned(), last.into());
                }
                self.set_add("eos", true);
            }
        }
        self.pair(list("pair"), first, last, config);
    }

    /// Whether a separator stands between two texts.
    fn pair(&mut self, pair: &[Json], first: Option<&str>, last: Option<&str>, config: &mut Map<String, Json>) {
        let mut pair = pair;
        if first.is_some() && special_id(pair.first()) == first {
            pair = &pair[1..];
        }
        if last.is_some() && special_id(pair.last()) == last {
            pair = &pair[..pair.len().saturating_sub(1)];
        }
        let ends = |item: Option<&Json>, name: &str| item.is_some_and(|i| i["Sequence"]["id"] == name);
        if pair.len() < 3 || !ends(pair.first(), "A") || !ends(pair.last(), "B") {
            return;
        }
        let between = &pair[1..pair.len() - 1];
        let separates = |item: &Json, config: &Map<String, Json>| {
            special_id(Some(item)).is_some_and(|id| {
                ["sep_token", "eos_token"].iter().any(|key| config.get(*key).is_some_and(|token| token == id))
            })
        };
        let one = separates(&between[0], config) && last.is_none();
        let two = between.len() == 2 && separates(&between[1], config);
        self.set_add("sep", one || two);
        if (one || two) && !config.is_empty() && !is_set(config.get("sep_token")) {
            let eos = config.get("eos_token").cloned().unwrap_or(Json::Null);
            config.insert("sep_token".to_owned(), eos);
        }
    }

    fn tokenizer_config(&mut self, config: &Map<String, Json>, added: &[Added], n_vocab: Option<usize>) {
        for role in self.roles.clone() {
            if let Some(add) = config.get(&format!("add_{role}_token")).and_then(Json::as_bool) {
                self.default_add(role, add);
            }
            if let Some(text) = content(config.get(&format!("{role}_token"))) {
                let id = added.iter().find(|a| a.content == text).map(|a| a.id);
                self.set_id(role, id, n_vocab);
            }
        }
    }

    fn config(&mut self, config: &Config, n_vocab: Option<usize>) {
        let id = |map: &Map<String, Json>, key: &str| map.get(key).filter(|v| !v.is_null()).cloned();
        for role in self.roles.clone() {
            let key = format!("{role}_token_id");
            let text = config.map().get("text_config").and_then(Json::as_object);
            let found = id(config.map(), &key).or_else(|| id(text?, &key));
            self.set_id(role, found.and_then(|v| u32::try_from(v.as_u64()?).ok()), n_vocab);
        }
    }

    fn keys(self) -> KeyValues {
        let id_key = |role| match role {
            "bos" => Some("bos_token_id"),
            "eos" => Some("eos_token_id"),
            "unk" => Some("unknown_token_id"),
            "sep" => Some("seperator_token_id"),
            "pad" => Some("padding_token_id"),
            "mask" => Some("mask_token_id"),
            "eot" => Some("eot_token_id"),
            "eom" => Some("eom_token_id"),
            _ => None,
        };
        let ids = self.ids.iter().filter_map(|&(role, id)| Some((id_key(role)?.to_owned(), Value::U32(id))));
        let adds = self.adds.iter().filter(|(role, _)| matches!(*role, "bos" | "eos" | "sep"));
        let adds = adds.map(|&(role, add)| (format!("add_{role}_token"), Value::Bool(add)));
        ids.chain(adds).map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect()
    }
}

/// The template, or several with names, from tokenizer_config.json or the files that transformers writes today.
fn chat_template(dir: &Path, config: &Map<String, Json>) -> Result<KeyValues, Error> {
    let template = match config.get("chat_template") {
        Some(template) => template.clone(),
        None => template_files(dir)?,
    };
    let mut keys = Vec::new();
    let key = "tokenizer.chat_template".to_owned();
    match template {
        Json::String(text) => keys.push((key, Value::String(text))),
        Json::Array(choices) => {
            let (mut default, mut names) = (None, Vec::new());
            for choice in &choices {
                let (Some(name), Some(text)) = (choice["name"].as_str(), choice["template"].as_str()) else { continue };
                let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
                let name: String = name.chars().map(plain).collect();
                if name == "default" {
                    default = Some(text);
                } else if !name.is_empty() {
                    keys.push((format!("{key}.{name}"), Value::String(text.to_owned())));
                    names.push(name);
                }
            }
            if !names.is_empty() {
                keys.push(("tokenizer.chat_templates".to_owned(), Value::Array(Array::String(names))));
            }
            keys.extend(default.map(|text| (key, Value::String(text.to_owned()))));
        }
        _ => {}
    }
    Ok(keys)
}

fn template_files(dir: &Path) -> Result<Json, Error> {
    let lines = |text: String| text.replace("\r\n", "\n").replace('\r', "\n");
    if let Some(text) = json::text(&dir.join("chat_template.jinja"))? {
        let mut choices = vec![serde_json::json!({"name": "default", "template": lines(text.clone())})];
        let more = dir.join("additional_chat_templates");
        let mut paths: Vec<_> = match std::fs::read_dir(&more) {
            Ok(entries) => entries.filter_map(|e| Some(e.ok()?.path())).collect(),
            Err(_) => Vec::new(),
        };
        paths.sort();
        for path in paths.iter().filter(|p| p.extension().is_some_and(|e| e == "jinja")) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy();
            if let Some(text) = json::text(path)? {
                choices.push(serde_json::json!({"name": name, "template": lines(text)}));
            }
        }
        return Ok(if choices.len() == 1 { Json::String(lines(text)) } else { Json::Array(choices) });
    }
    let old = json::object(&dir.join("chat_template.json"))?;
    Ok(old.and_then(|c| c.get("chat_template").cloned()).unwrap_or(Json::Null))
}

fn normalizer_keys(normalizer: &Json, keys: &mut KeyValues) {
    let mut set = |key: &str, value: bool| {
        let key = format!("tokenizer.ggml.normalizer.{key}");
        keys.retain(|(k, _)| *k != key);
        keys.push((key, Value::Bool(value)));
    };
    match normalizer["type"].as_str() {
        Some("Lowercase") => set("lowercase", true),
        Some("StripAccents") => set("strip_accents", true),
        Some("Sequence") => {
            for step in normalizer["normalizers"].as_array().into_iter().flatten() {
                normalizer_keys(step, keys);
            }
        }
        _ => {}
    }
}
