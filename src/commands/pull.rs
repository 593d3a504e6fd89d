//! `ostro pull ALIAS`: fetches a model into the cache.

use super::{
    print,
    progress::Bars,
    resolve::{catalogue, entry, registry_env},
};
use crate::registry;

/// Fetch a model of the catalogue into the local cache
#[derive(Debug, clap::Args)]
pub struct PullArgs {
    /// Aliases as `ostro list` shows them; none: the default model
    pub aliases: Vec<String>,
}

/// Pulls each alias and prints the path of its (first) file.
pub fn run(args: &PullArgs) -> anyhow::Result<()> {
    let (catalogue, env) = (catalogue()?, registry_env()?);
    let default = [catalogue.default_alias().to_owned()];
    let aliases = if args.aliases.is_empty() { &default[..] } else { &args.aliases };
    // All are looked up before any is fetched: a typing mistake shall not show after an hour.
    let entries = aliases.iter().map(|a| entry(&catalogue, a)).collect::<anyhow::Result<Vec<_>>>()?;
    for entry in entries {
        let path = registry::pull(&env, entry, &Bars::new(&entry.alias))?;
        print(format!("{}\n", path.display()))?;
    }
    Ok(())
}
