//! `ostro rm ALIAS`: removes a model from the cache.

use super::{resolve::registry_env, tell};
use crate::registry::{self, human_bytes};

/// Remove a model from the local cache
#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// Aliases as `ostro list` shows them
    #[arg(required = true)]
    pub aliases: Vec<String>,
}

/// Removes each alias, whether or not the catalogue still knows it, and says what that freed.
pub fn run(args: &RmArgs) -> anyhow::Result<()> {
    let env = registry_env()?;
    for alias in &args.aliases {
        let alias = alias.to_lowercase();
        let freed = registry::remove(&env.cache, &alias)?;
        tell(format_args!("{alias}: removed, {} freed", human_bytes(freed)));
    }
    Ok(())
}
