//! models.toml: which models there are, and where their files come from.
//!
//! Only what is needed to fetch a model and to greet it well. What a model is (layers, heads,
//! vocabulary) stands in its GGUF file and is never repeated here.

use std::{collections::HashSet, path::Path};

use serde::{Deserialize, Serialize};

use super::Error;

const BUILT_IN: &str = include_str!("../../models.toml");

/// The known models, in the order of models.toml.
#[derive(Debug, Clone)]
pub struct Catalogue {
    default: String,
    entries: Vec<Entry>,
}

/// One model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What the user types, and the folder in the cache.
    pub alias: String,
    /// The model's full name.
    pub name: String,
    /// The file's `general.architecture`; empty where it is not known.
    #[serde(default)]
    pub architecture: String,
    /// Under which terms its weights may be used.
    pub licence: String,
    /// The quantization of the files, for the table.
    #[serde(default)]
    pub quant: String,
    /// Recommended context in tokens.
    pub context: Option<u32>,
    /// Recommended sampling.
    #[serde(default)]
    pub sampling: Sampling,
    /// A remark for whoever chooses.
    #[serde(default)]
    pub notes: String,
    /// Total bytes, where the bytes of single files are not known.
    size: Option<u64>,
    /// Whether `size` is not exact.
    #[serde(default)]
    pub approx: bool,
    /// The files, first part first.
    #[serde(rename = "file")]
    pub files: Vec<FileSpec>,
    /// Where to get them, best first.
    #[serde(rename = "source")]
    pub sources: Vec<Source>,
}

/// One file of a model.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// Its name in the cache.
    pub name: String,
    /// Exact length in bytes.
    pub size: Option<u64>,
    /// Lower-case hexadecimal sha256.
    pub sha256: Option<String>,
}

/// Recommended sampling; `None` is Ostro's default.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Temperature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temp: Option<f32>,
    /// Keep the k likeliest tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    /// Keep the likeliest tokens up to this sum.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    /// Drop tokens below this share of the likeliest one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    /// Divide the logits of recent tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeat_penalty: Option<f32>,
}

/// Where the files of a model can be had.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Source {
    /// A repository on the Hugging Face Hub.
    Hf {
        /// owner/name.
        repo: String,
        /// Branch, tag or commit.
        #[serde(default = "main_branch")]
        revision: String,
        /// Path of each file in the repository; empty: the names of the files.
        #[serde(default)]
        paths: Vec<String>,
    },
    /// Python wheels, fetched by pip from wherever it is configured to look.
    Pip {
        /// `name==version`, in the order of the parts they hold.
        packages: Vec<String>,
    },
    /// Plain downloads.
    Url {
        /// One a file.
        urls: Vec<String>,
    },
}

fn main_branch() -> String {
    "main".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    default: Option<String>,
    #[serde(rename = "model", default)]
    models: Vec<Entry>,
}

impl Catalogue {
    /// The catalogue that Ostro was built with, and on top of it the user's own file if there is one.
    pub fn load(user: Option<&Path>) -> Result<Self, Error> {
        let own = match user {
            None => None,
            Some(path) => match std::fs::read_to_string(path) {
                Ok(text) => Some((path.display().to_string(), text)),
                Err(e) => {
                    let reason = format!("cannot be read: {e}");
                    return Err(Error::Catalogue { file: path.display().to_string(), reason });
                }
            },
        };
        Self::parse(BUILT_IN, own.as_ref().map(|(file, text)| (file.as_str(), text.as_str())))
    }

    /// The same from texts: the base, then (file name, text) that adds to it and overrides it.
    pub fn parse(base: &str, user: Option<(&str, &str)>) -> Result<Self, Error> {
        const BASE: &str = "models.toml (built in)";
        let document = read(BASE, base)?;
        let missing = |file: &str, reason: String| Error::Catalogue { file: file.to_owned(), reason };
        let default = document.default.ok_or_else(|| missing(BASE, "no default alias".to_owned()))?;
        let mut all = Self { default, entries: document.models };
        let mut file = BASE;
        if let Some((name, text)) = user {
            file = name;
            let own = read(name, text)?;
            for entry in own.models {
                match all.entries.iter_mut().find(|e| e.alias == entry.alias) {
                    Some(old) => *old = entry,
                    None => all.entries.push(entry),
                }
            }
            all.default = own.default.unwrap_or(all.default);
        }
        if all.get(&all.default).is_none() {
            return Err(missing(file, format!("default = {:?} names no model", all.default)));
        }
        Ok(all)
    }

    /// What is run when no model is named.
    pub fn default_alias(&self) -> &str {
        &self.default
    }

    /// The entry of an alias; upper and lower case are the same.
    pub fn get(&self, alias: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.alias.eq_ignore_ascii_case(alias))
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Up to three aliases that a mistyped one may have meant, nearest first.
    pub fn suggest(&self, typed: &str) -> Vec<&str> {
        let typed = typed.to_lowercase();
        let mut near: Vec<_> = self
            .entries
            .iter()
            .filter_map(|e| {
                let contains = typed.len() >= 3 && (e.alias.contains(&typed) || typed.contains(&e.alias));
                let distance = if contains { 1 } else { edit_distance(&typed, &e.alias) };
                (distance <= 1 + e.alias.len() / 4).then_some((distance, e.alias.as_str()))
            })
            .collect();
        near.sort();
        near.into_iter().take(3).map(|(_, alias)| alias).collect()
    }
}

impl Entry {
    /// Total bytes of its files, if known; exact unless `approx`.
    pub fn size(&self) -> Option<u64> {
        self.files.iter().map(|f| f.size).sum::<Option<u64>>().or(self.size)
    }

    fn check(&self) -> Result<(), String> {
        is_alias(&self.alias)
            .then_some(())
            .ok_or("alias: expected lower-case letters, digits, '.', '-' and '_', a letter or digit first")?;
        if self.files.is_empty() || self.sources.is_empty() {
            return Err(format!("{} files, {} sources: expected some", self.files.len(), self.sources.len()));
        }
        if self.size().is_none() {
            return Err("no size: give it for each file, or for the model with approx = true".to_owned());
        }
        let mut names = HashSet::new();
        for file in &self.files {
            file.check().map_err(|e| format!("file {:?}: {e}", file.name))?;
            if !names.insert(&file.name) {
                return Err(format!("file {:?} stands there twice", file.name));
            }
        }
        let hashed = self.files.iter().all(|f| f.sha256.is_some());
        for source in &self.sources {
            source.check(self.files.len()).map_err(|e| format!("source {source}: {e}"))?;
            if !hashed && !matches!(source, Source::Hf { .. }) {
                return Err(format!("source {source}: each file needs its sha256, only the Hub states one"));
            }
        }
        if !hashed && self.sources.len() > 1 {
            return Err("several sources: each file needs its sha256, so that all give the same bytes".to_owned());
        }
        Ok(())
    }
}

impl FileSpec {
    fn check(&self) -> Result<(), String> {
        let plain = !self.name.starts_with('.') && !self.name.contains(['/', '\\', ':', '\0']);
        if !plain || !self.name.ends_with(".gguf") {
            return Err("expected a plain name that ends in .gguf".to_owned());
        }
        if self.size == Some(0) {
            return Err("size 0".to_owned());
        }
        match &self.sha256 {
            Some(hash) if !is_sha256(hash) => {
                Err(format!("sha256 {hash:?}: expected 64 lower-case hexadecimal digits"))
            }
            _ => Ok(()),
        }
    }
}

impl Source {
    fn check(&self, n_files: usize) -> Result<(), String> {
        match self {
            Self::Hf { repo, revision, paths } => {
                let part =
                    |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
                if repo.split('/').count() != 2 || !repo.split('/').all(part) {
                    return Err("repo: expected owner/name".to_owned());
                }
                if revision.is_empty() || !revision.split('/').all(part) {
                    return Err(format!("revision {revision:?}: expected a branch, tag or commit"));
                }
                if !paths.is_empty() && paths.len() != n_files {
                    return Err(format!("{} paths, expected one a file ({n_files})", paths.len()));
                }
                if paths.iter().any(|p| p.split('/').any(|s| s.is_empty() || s == "." || s == "..")) {
                    return Err("paths: expected paths from the top of the repository".to_owned());
                }
            }
            Self::Pip { packages } => {
                let ok = |p: &String| {
                    let word = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.+!".contains(&b));
                    let parts = p.split_once("==");
                    parts.is_some_and(|(n, v)| {
                        !v.is_empty() && n.starts_with(|c: char| c.is_ascii_alphanumeric()) && word(n) && word(v)
                    })
                };
                match packages.iter().find(|p| !ok(p)) {
                    Some(bad) => return Err(format!("package {bad:?}: expected name==version")),
                    None if packages.is_empty() => return Err("no packages".to_owned()),
                    None => {}
                }
            }
            Self::Url { urls } => {
                if urls.len() != n_files {
                    return Err(format!("{} urls, expected one a file ({n_files})", urls.len()));
                }
                // Plain http too: the sha256 guards the content, and a mirror at home has no certificate.
                if let Some(bad) = urls.iter().find(|u| !u.starts_with("https://") && !u.starts_with("http://")) {
                    return Err(format!("url {bad:?}: expected https://"));
                }
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Hf { repo, .. } => write!(f, "hf {repo}"),
            Self::Pip { packages } => match packages.as_slice() {
                [one] => write!(f, "pip {one}"),
                many => write!(f, "pip {} and {} more", many.first().map_or("", |p| p), many.len().saturating_sub(1)),
            },
            Self::Url { urls } => write!(f, "url {}", urls.first().map_or("", |u| u)),
        }
    }
}

fn read(file: &str, text: &str) -> Result<Document, Error> {
    let fail = |reason: String| Error::Catalogue { file: file.to_owned(), reason };
    let document: Document = toml::from_str(text).map_err(|e| {
        let line = e
            .span()
            .map_or(String::new(), |s| format!("line {}: ", text[..s.start.min(text.len())].lines().count().max(1)));
        fail(format!("{line}{}", e.message().replace('\n', ", ")))
    })?;
    let mut seen = HashSet::new();
    for entry in &document.models {
        entry.check().map_err(|e| fail(format!("model {:?}: {e}", entry.alias)))?;
        if !seen.insert(&entry.alias) {
            return Err(fail(format!("model {:?} stands there twice", entry.alias)));
        }
    }
    Ok(document)
}

/// Whether a word can be an alias: it becomes the name of a folder.
pub(super) fn is_alias(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-_".contains(&b))
}

pub(super) fn is_sha256(s: &str) -> bool {
    s.len() == 64 && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Levenshtein distance, one row at a time.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != *cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}
