//! `margay-cni`: executed by the container runtime, once per pod and verb; and by an init container, to install itself.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use margay_cni::config::peek_version;
use margay_cni::error::{CniError, code};
use margay_cni::install::{InstallError, install, uninstall};

/// A configuration is a few kilobytes; a runtime that sends more than this is broken.
const MAX_STDIN: u64 = 16 << 20;

fn main() -> ExitCode {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect::<margay_cni::environment::Environment>();
    if environment.get("CNI_COMMAND").is_none_or(String::is_empty) {
        let mut arguments = std::env::args_os().skip(1);
        let verb = arguments.next().unwrap_or_default();
        let arguments: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
        if verb == "install" {
            return said("installed", install("/proc/self/exe".as_ref(), &arguments));
        }
        if verb == "uninstall" {
            return said("removed", uninstall(&arguments));
        }
        let about = format!(
            "margay-cni {}: CNI plugin of Margay, for specification versions 0.1.0 to 1.1.0.\n\
             Executed by a container runtime with CNI_COMMAND set; see examples/cni/10-margay.conflist.\n\
             To put it there: {}\n",
            env!("CARGO_PKG_VERSION"),
            margay_cni::install::USAGE
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
            margay_cni::report(&environment, &stdin, &error);
            let text = error.to_json(peek_version(&stdin));
            let _sent = written(std::io::stdout().write_all(text.as_bytes()));
            ExitCode::FAILURE
        }
    }
}

fn said(done: &str, outcome: Result<Vec<PathBuf>, InstallError>) -> ExitCode {
    match outcome {
        Ok(paths) => {
            let lines: String = paths.iter().map(|path| format!("{done} {}\n", path.display())).collect();
            written(std::io::stdout().write_all(lines.as_bytes()))
        }
        Err(error) => {
            let _sent = written(std::io::stderr().write_all(format!("margay-cni: {error}\n").as_bytes()));
            ExitCode::FAILURE
        }
    }
}

fn written(outcome: std::io::Result<()>) -> ExitCode {
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
