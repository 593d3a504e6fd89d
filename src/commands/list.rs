//! `ostro list`: the catalogue, and what of it is in the cache.

use serde_json::{Value, json};

use super::{
    print,
    resolve::{can_run, catalogue, registry_env},
};
use crate::registry::{self, Catalogue, Entry, Env, Status, human_bytes};

/// Show the models that can be named by an alias, and which of them are cached
#[derive(Debug, clap::Args)]
pub struct ListArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints the table, or the same as JSON.
pub fn run(args: &ListArgs) -> anyhow::Result<()> {
    let (catalogue, env) = (catalogue()?, registry_env()?);
    let text = if args.json {
        let models: Vec<Value> = catalogue.entries().iter().map(|e| as_json(e, &catalogue, &env)).collect();
        serde_json::to_string_pretty(&models)? + "\n"
    } else {
        table(&catalogue, &env)
    };
    print(text)
}

fn table(catalogue: &Catalogue, env: &Env) -> String {
    let mut rows = vec![["ALIAS", "MODEL", "QUANT", "SIZE", "LICENCE", "CACHED", "NOTE"].map(str::to_owned)];
    for e in catalogue.entries() {
        let star = if e.alias == catalogue.default_alias() { " *" } else { "" };
        let about = if e.approx { "~" } else { "" };
        rows.push([
            format!("{}{star}", e.alias),
            e.name.clone(),
            e.quant.clone(),
            e.size().map_or("?".to_owned(), |s| format!("{about}{}", human_bytes(s))),
            e.licence.clone(),
            match registry::status(env, e) {
                Status::Absent => "no".to_owned(),
                Status::Partial(bytes) => format!("part: {}", human_bytes(bytes)),
                Status::Cached(bytes) => human_bytes(bytes),
            },
            if can_run(e) { e.notes.clone() } else { format!("{} cannot be run yet", e.architecture) },
        ]);
    }
    let width: Vec<usize> =
        (0..rows[0].len()).map(|c| rows.iter().map(|r| r[c].chars().count()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&width).enumerate();
        let line: Vec<_> =
            cells.map(|(c, (cell, w))| if c == 3 { format!("{cell:>w$}") } else { format!("{cell:<w$}") }).collect();
        text += line.join("  ").trim_end();
        text.push('\n');
    }
    text + "* the default\n"
}

fn as_json(e: &Entry, catalogue: &Catalogue, env: &Env) -> Value {
    let status = registry::status(env, e);
    let (state, bytes) = match status {
        Status::Absent => ("no", 0),
        Status::Partial(bytes) => ("part", bytes),
        Status::Cached(bytes) => ("yes", bytes),
    };
    // By way of text: an f32 keeps its few digits there, and gets more as an f64.
    let sampling: Value =
        serde_json::to_string(&e.sampling).and_then(|text| serde_json::from_str(&text)).unwrap_or_default();
    json!({
        "alias": e.alias,
        "name": e.name,
        "default": e.alias == catalogue.default_alias(),
        "quant": e.quant,
        "licence": e.licence,
        "size": e.size(),
        "size_is_approximate": e.approx,
        "context": e.context,
        "sampling": sampling,
        "architecture": e.architecture,
        "can_run": can_run(e),
        "notes": e.notes,
        "files": e.files.iter().map(|f| json!({ "name": f.name, "size": f.size, "sha256": f.sha256 })).collect::<Vec<_>>(),
        "sources": e.sources.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "cached": state,
        "bytes_on_disk": bytes,
        "path": registry::cached(env, e),
    })
}
