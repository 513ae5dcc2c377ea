//! Logging: text or JSON on standard error, levels per module.

use std::str::FromStr;

use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people and journald.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// What is logged. A word alone would pass for the name of a module, all else would be silent.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, String> {
    let is_level = |word: &str| !word.is_empty() && LevelFilter::from_str(word).is_ok();
    if let Some(word) = text.split(',').find(|part| !part.contains(['=', '[']) && !is_level(part)) {
        let words = "write off, error, warn, info, debug or trace, and directives as info,margay_bgp=debug";
        return Err(format!("log level `{text}`: `{word}` is none: {words}"));
    }
    EnvFilter::try_new(text).map_err(|error| format!("log level `{text}`: {error}"))
}

/// Starts logging. `filter` is a level (`info`) or directives (`info,margay_bgp=debug`).
///
/// # Errors
/// The filter cannot be parsed.
pub fn init(format: Format, filter: &str) -> Result<(), String> {
    let filter = self::filter(filter)?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let outcome = match format {
        Format::Text => builder.with_ansi(false).try_init(),
        Format::Json => builder.json().try_init(),
    };
    outcome.map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for right in ["info", "OFF", "info,margay_bgp=debug", "warn,hyper=off", "margay_bgp[peer]=trace"] {
            assert!(super::filter(right).is_ok(), "{right}");
        }
        for wrong in ["loud", "info,margay_bgp", "margay_bgp=loud", ""] {
            assert!(super::filter(wrong).is_err(), "{wrong}");
        }
    }
}
