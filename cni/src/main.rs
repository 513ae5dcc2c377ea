//! `margay-cni`: executed by the container runtime, once per pod and verb.

use std::io::{Read, Write};
use std::process::ExitCode;

use margay_cni::config::peek_version;
use margay_cni::error::{CniError, code};

/// A configuration is a few kilobytes; a runtime that sends more than this is broken.
const MAX_STDIN: u64 = 16 << 20;

fn main() -> ExitCode {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect::<margay_cni::environment::Environment>();
    if environment.get("CNI_COMMAND").is_none_or(String::is_empty) {
        let about = format!(
            "margay-cni {}: CNI plugin of Margay, for specification versions 0.1.0 to 1.1.0.\n\
             Executed by a container runtime with CNI_COMMAND set; see examples/cni/10-margay.conflist.\n",
            env!("CARGO_PKG_VERSION")
        );
        return written(std::io::stderr().write_all(about.as_bytes()));
    }
    let mut stdin = Vec::new();
    let outcome = match std::io::stdin().take(MAX_STDIN).read_to_end(&mut stdin) {
        Ok(_) => margay_cni::run(&environment, &stdin),
        Err(error) => Err(CniError::new(code::IO, "standard input cannot be read").with_details(error)),
    };
    match outcome {
        Ok(text) => written(std::io::stdout().write_all(text.as_bytes())),
        Err(error) => {
            let text = error.to_json(peek_version(&stdin));
            let _sent = written(std::io::stdout().write_all(text.as_bytes()));
            ExitCode::FAILURE
        }
    }
}

fn written(outcome: std::io::Result<()>) -> ExitCode {
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
