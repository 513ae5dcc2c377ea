//! What every benchmark can be asked for.

use std::path::PathBuf;

use anyhow::{Context, Result};
use serde_json::Value;

/// Flags of a benchmark with goals.
#[derive(Debug, clap::Args)]
pub(crate) struct Form {
    /// Small sizes: shows that everything is right, not how fast it is
    #[arg(long)]
    pub(crate) quick: bool,
    /// Fail when a goal is missed
    #[arg(long, conflicts_with = "quick")]
    pub(crate) check: bool,
    /// Write the figures to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Form {
    /// Writes the figures, if that is wanted.
    pub(crate) fn keep(&self, figures: &Value) -> Result<()> {
        let Some(path) = &self.json else { return Ok(()) };
        std::fs::write(path, serde_json::to_string_pretty(figures)?)
            .with_context(|| format!("writing {}", path.display()))
    }
}
