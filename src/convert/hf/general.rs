//! The keys under `general.`: what the model is called, who made it and from what, and how to sample from it.
//!
//! As `Metadata` of llama.cpp's gguf-py finds it: the card at the head of README.md first, then the name that config.json
//! gives, then that of the folder.

use super::super::{Error, SourceTensor};
use super::json;
use super::naming::{Parts, parts, size_label, title};
use crate::gguf::{Array, Value};
use crate::model::checkpoint::{Config, Keys};
use std::path::Path;
use yaml_rust2::{Yaml, YamlLoader};

/// Writes all of them but for `general.architecture` and what depends on the type of the tensors.
///
/// # Errors
/// When a file cannot be read.
pub(super) fn write(
    dir: &Path,
    config: &Config,
    tensors: &[SourceTensor],
    keys: &mut Keys,
    notes: &mut Vec<String>,
) -> Result<(), Error> {
    let sizes = Sizes::of(tensors);
    keys.set("general.type", text("model"));
    // Not all models have a valid one.
    if let Ok(Some(sampling)) = json::object(&dir.join("generation_config.json")) {
        sampling_keys(&sampling, keys);
    }
    let card = card(dir, notes)?;
    let field = |names: &[&str]| names.iter().find_map(|name| string(&card[*name]));
    let named = named(dir, config, sizes.total);
    let guess =
        |own: Option<String>, part: fn(&Parts) -> &Option<String>| own.or(named.iter().find_map(|p| part(p).clone()));
    let titled = |own: Option<String>, part: fn(&Parts) -> &Option<String>| {
        own.or(named.iter().find_map(|p| part(p).as_deref().map(title)))
    };

    let name = titled(field(&["name", "model_name"]), |p| &p.name).unwrap_or_default();
    set(keys, "name", Some(name));
    set(keys, "author", field(&["author", "model_author", "model_creator"]));
    set(keys, "version", guess(field(&["version", "model_version"]), |p| &p.version));
    set(keys, "organization", titled(field(&["organization", "model_organization"]), |p| &p.organization));
    set(keys, "finetune", guess(field(&["finetune", "model_finetune"]), |p| &p.finetune));
    set(keys, "basename", guess(field(&["basename", "model_basename", "model_type"]), |p| &p.basename));
    set(keys, "description", field(&["description", "model_description"]));
    let size = guess(field(&["size_label", "model_size_label"]), |p| &p.size_label);
    set(keys, "size_label", size.or_else(|| sizes.label()));
    let license = strings(&card["license"]);
    set(keys, "license", (!license.is_empty()).then(|| license.join(",")));
    set(keys, "license.name", field(&["license_name"]));
    set(keys, "license.link", field(&["license_link"]));
    for what in ["url", "doi", "uuid", "repo_url"] {
        set(keys, &format!("source.{what}"), field(&[what, &format!("model_{what}")]));
    }
    sources(&card, &["base_model", "base_models", "base_model_sources"], "base_model", sizes.total, keys);
    sources(&card, &["datasets", "dataset", "dataset_sources"], "dataset", sizes.total, keys);
    for (key, names) in [("tags", ["tags", "pipeline_tag"]), ("languages", ["languages", "language"])] {
        let list: Vec<String> = names.iter().flat_map(|name| strings(&card[*name])).collect();
        if !list.is_empty() {
            keys.set(&format!("general.{key}"), Value::Array(Array::String(list)));
        }
    }
    Ok(())
}

fn text(value: &str) -> Value {
    Value::String(value.to_owned())
}

fn set(keys: &mut Keys, key: &str, value: Option<String>) {
    if let Some(value) = value {
        keys.set(&format!("general.{key}"), Value::String(value));
    }
}

/// What the maker recommends for sampling, with the type that each key has.
fn sampling_keys(config: &Config, keys: &mut Keys) {
    let integer = |name: &str| Some(Value::I32(i32::try_from(config.get(name)?.as_i64()?).ok()?));
    let number = |name: &str| Some(Value::F32(config.get(name)?.as_f64()? as f32));
    let all = [
        ("sequence", config.get("sequence").and_then(|v| v.as_str()).map(text)),
        ("top_k", integer("top_k")),
        ("top_p", number("top_p")),
        ("min_p", number("min_p")),
        ("xtc_probability", number("xtc_probability")),
        ("xtc_threshold", number("xtc_threshold")),
        ("temp", number("temperature")),
        ("penalty_last_n", integer("penalty_last_n")),
        ("penalty_repeat", number("penalty_repeat").or_else(|| number("repetition_penalty"))),
        ("mirostat", integer("mirostat")),
        ("mirostat_tau", number("mirostat_tau")),
        ("mirostat_eta", number("mirostat_eta")),
    ];
    for (key, value) in all {
        if let Some(value) = value {
            keys.set(&format!("general.sampling.{key}"), value);
        }
    }
}

/// The names that the model has in config.json and as a folder, taken apart.
fn named(dir: &Path, config: &Config, parameters: u64) -> Vec<Parts> {
    let mut ids = Vec::new();
    // With more slashes it is a path on the maker's machine.
    let path = config.get("_name_or_path").and_then(|v| v.as_str());
    ids.extend(path.filter(|id| id.matches('/').count() <= 1 && !id.is_empty()).map(str::to_owned));
    let folder = std::path::absolute(dir).unwrap_or_else(|_| dir.to_path_buf());
    ids.push(folder.file_name().unwrap_or_default().to_string_lossy().into_owned());
    ids.iter().map(|id| parts(id, parameters)).collect()
}

/// The card at the head of README.md: YAML between two lines of `---`.
fn card(dir: &Path, notes: &mut Vec<String>) -> Result<Yaml, Error> {
    let Some(readme) = json::text(&dir.join("README.md"))? else { return Ok(Yaml::BadValue) };
    let mut lines = readme.lines();
    if lines.next() != Some("---") {
        return Ok(Yaml::BadValue);
    }
    let yaml: String = lines.take_while(|line| *line != "---").flat_map(|line| [line, "\n"]).collect();
    match YamlLoader::load_from_str(&yaml.replace('\t', "  ")) {
        Ok(mut documents) if !documents.is_empty() => Ok(documents.swap_remove(0)),
        Ok(_) => Ok(Yaml::BadValue),
        Err(e) => {
            notes.push(format!("README.md: its head is not read: {e}"));
            Ok(Yaml::BadValue)
        }
    }
}

fn string(yaml: &Yaml) -> Option<String> {
    match yaml {
        Yaml::String(text) | Yaml::Real(text) => Some(text.clone()),
        Yaml::Integer(n) => Some(n.to_string()),
        Yaml::Boolean(b) => Some(b.to_string()),
        _ => None,
    }
}

fn strings(yaml: &Yaml) -> Vec<String> {
    match yaml {
        Yaml::Array(list) => list.iter().filter_map(string).collect(),
        one => string(one).into_iter().collect(),
    }
}

/// What the model was made from: names on the Hub, addresses, or objects.
fn sources(card: &Yaml, names: &[&str], key: &str, parameters: u64, keys: &mut Keys) {
    let Some(value) = names.iter().map(|name| &card[*name]).find(|value| !value.is_badvalue()) else { return };
    let list = match value {
        Yaml::Array(list) => list.clone(),
        Yaml::String(_) => vec![value.clone()],
        _ => Vec::new(),
    };
    keys.set(&format!("general.{key}.count"), Value::U32(list.len() as u32));
    for (i, source) in list.iter().enumerate() {
        let fields = match source {
            Yaml::String(id) => source_fields(id, parameters),
            other => ["name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url"]
                .iter()
                .filter_map(|&field| Some((field, string(&other[field])?)))
                .collect(),
        };
        for (field, value) in fields {
            set(keys, &format!("{key}.{i}.{field}"), Some(value));
        }
    }
}

fn source_fields(id: &str, parameters: u64) -> Vec<(&'static str, String)> {
    let hub = "https://huggingface.co/";
    let address = ["http://", "https://", "ssh://"].iter().any(|start| id.starts_with(start));
    let on_hub = if address {
        let id = id.strip_prefix(hub).or_else(|| id.strip_prefix("http://huggingface.co/"));
        id.filter(|id| id.matches('/').count() == 1 && !id.starts_with('/') && !id.ends_with('/'))
    } else {
        Some(id)
    };
    let p = on_hub.map(|id| parts(id, parameters)).unwrap_or_default();
    let link = match (&p.organization, &p.name) {
        _ if address => Some(id.to_owned()),
        (Some(organization), Some(name)) => Some(format!("{hub}{organization}/{name}")),
        _ => None,
    };
    let fields = [
        ("name", p.name.as_deref().map(title)),
        ("version", p.version),
        ("organization", p.organization.as_deref().map(title)),
        ("repo_url", link),
    ];
    fields.into_iter().filter_map(|(field, value)| Some((field, value?))).collect()
}

/// Parameters of the model, as the converter counts them.
struct Sizes {
    total: u64,
    shared: u64,
    of_expert: u64,
    experts: u64,
}

impl Sizes {
    fn of(tensors: &[SourceTensor]) -> Sizes {
        let mut sizes = Sizes { total: 0, shared: 0, of_expert: 0, experts: 0 };
        let mut merged = 0;
        for t in tensors {
            let n = t.elements();
            sizes.total += n;
            match t.dims.get(2) {
                Some(&experts) if t.name.contains("_exps.") => {
                    sizes.of_expert += n / experts;
                    sizes.experts += experts;
                    merged += 1;
                }
                _ => sizes.shared += n,
            }
        }
        sizes.experts = sizes.experts.checked_div(merged).unwrap_or(0);
        sizes
    }

    fn label(&self) -> Option<String> {
        (self.total > 0).then(|| size_label(self.total, self.shared, self.of_expert, self.experts))
    }
}
