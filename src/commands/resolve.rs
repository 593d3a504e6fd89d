//! From what the user typed for a model to a file: a path, an alias, or nothing for the default alias.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

use super::progress::Bars;
use crate::model::architectures;
use crate::registry::{self, Catalogue, Entry, Env};

/// A model that is on this machine.
#[derive(Debug)]
pub struct Model {
    /// The GGUF file, or the first part of a split set.
    pub path: PathBuf,
    /// Its catalogue entry, with recommended context and sampling, if it was named by an alias.
    pub entry: Option<Entry>,
}

/// Finds the model, fetching it first if it is an alias that is not in the cache.
pub fn model(spec: Option<&str>) -> anyhow::Result<Model> {
    if let Some(path) = spec.map(Path::new).filter(|p| p.is_file()) {
        return Ok(Model { path: path.to_owned(), entry: None });
    }
    let catalogue = catalogue()?;
    let alias = spec.unwrap_or(catalogue.default_alias());
    let Some(entry) = catalogue.get(alias) else { return Err(unknown(alias, &catalogue)) };
    let env = registry_env()?;
    let path = match registry::cached(&env, entry) {
        Some(path) => path,
        None if !can_run(entry) => bail!(
            "{alias}: found architecture {}, expected one of {}; it needs a newer ostro (`ostro pull {alias}` fetches the file all the same)",
            entry.architecture,
            architectures().collect::<Vec<_>>().join(", ")
        ),
        None => registry::pull(&env, entry, &Bars::new(&entry.alias))?,
    };
    Ok(Model { path, entry: Some(entry.clone()) })
}

/// Whether a model of the catalogue is of an architecture that can be run, as far as the catalogue says.
pub(super) fn can_run(entry: &Entry) -> bool {
    entry.architecture.is_empty() || architectures().any(|name| name == entry.architecture)
}

/// The path alone.
pub fn model_path(spec: Option<&str>) -> anyhow::Result<PathBuf> {
    Ok(model(spec)?.path)
}

/// The catalogue with the user's own file, which OSTRO_MODELS or the configuration folder names.
pub fn catalogue() -> anyhow::Result<Catalogue> {
    let own = match var("OSTRO_MODELS") {
        Some(path) => Some(PathBuf::from(path)),
        None => var("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(env::home_dir()?.join(".config")))
            .map(|dir| dir.join("ostro").join("models.toml"))
            .filter(|path| path.exists()),
    };
    Ok(Catalogue::load(own.as_deref())?)
}

/// Folders and settings from the environment.
pub fn registry_env() -> anyhow::Result<Env> {
    let home = env::home_dir().filter(|h| !h.as_os_str().is_empty());
    let cache = var("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".cache")));
    let ostro = var("OSTRO_HOME").map(PathBuf::from).or_else(|| Some(cache.as_ref()?.join("ostro")));
    let hf_home = var("HF_HOME").map(PathBuf::from).or_else(|| Some(cache.as_ref()?.join("huggingface")));
    let none = "no home folder: set OSTRO_HOME to the folder that shall hold the models";
    let ostro = ostro.context(none)?;
    Ok(Env {
        hf_home: hf_home.unwrap_or_else(|| ostro.join("huggingface")),
        hf_endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
        hf_token: text("HF_TOKEN"),
        python: PathBuf::from("python3"),
        ca_file: var("SSL_CERT_FILE").map(PathBuf::from),
        cache: ostro,
    })
}

/// The error for a word that is neither a file nor an alias.
pub(super) fn unknown(word: &str, catalogue: &Catalogue) -> anyhow::Error {
    let near = match catalogue.suggest(word).as_slice() {
        [] => String::new(),
        near => format!(" (did you mean {}?)", near.join(" or ")),
    };
    let what = match Path::new(word) {
        p if p.is_dir() => "a folder, not a GGUF file, and no alias of the catalogue",
        _ => "neither a file nor an alias of the catalogue",
    };
    anyhow::anyhow!("{word}: {what}{near}: `ostro list` shows the aliases")
}

/// The entry of an alias that a command was given.
pub(super) fn entry<'a>(catalogue: &'a Catalogue, alias: &str) -> anyhow::Result<&'a Entry> {
    let Some(entry) = catalogue.get(alias) else { bail!(unknown(alias, catalogue)) };
    Ok(entry)
}

/// A variable that is set to something.
fn var(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|v| !v.is_empty())
}

fn text(name: &str) -> Option<String> {
    var(name)?.into_string().ok()
}
