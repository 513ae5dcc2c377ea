//! `cargo xtask fuzz`: builds the fuzz targets with a nightly compiler and runs them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, cargo};

/// libFuzzer's instrumentation, as `cargo fuzz` passes it; AddressSanitizer finds nothing where there is no unsafe code.
const RUSTFLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing";
/// With an explicit target build scripts and macros are not instrumented.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// How long each target runs without `--seconds`.
const SECONDS: u64 = 60;
/// What a target may use, in MiB.
const MEMORY: u32 = 1024;

pub(crate) fn run(arguments: &[String]) -> Outcome {
    let options = Options::parse(arguments)?;
    let folder = cargo::root().join("fuzz");
    let all = targets(&folder)?;
    let chosen: Vec<&String> = match &options.target {
        None => all.iter().collect(),
        Some(name) => {
            let found = all.iter().find(|target| *target == name);
            vec![found.ok_or_else(|| format!("no fuzz target `{name}`; there are: {}", all.join(", ")))?]
        }
    };
    build(&folder)?;
    for target in chosen {
        fuzz(&folder, target, &options)?;
    }
    Ok(())
}

struct Options {
    target: Option<String>,
    seconds: u64,
    minimise: bool,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self { target: None, seconds: SECONDS, minimise: false };
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--seconds" => {
                    let value = arguments.next().and_then(|text| text.parse().ok()).filter(|n| *n > 0);
                    options.seconds = value.ok_or("--seconds needs a number above 0")?;
                }
                "--minimise" => options.minimise = true,
                name if !name.starts_with('-') && options.target.is_none() => {
                    options.target = Some(name.to_owned());
                }
                other => return Err(format!("fuzz: unexpected argument `{other}`")),
            }
        }
        Ok(options)
    }
}

/// Names of the targets: the files under `fuzz/targets`.
fn targets(folder: &Path) -> Result<Vec<String>, String> {
    let targets = folder.join("targets");
    let entries =
        std::fs::read_dir(&targets).map_err(|e| format!("cannot read {}: {e}", targets.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let rust = path.extension().is_some_and(|extension| extension == "rs");
            rust.then(|| path.file_stem()?.to_str().map(str::to_owned)).flatten()
        })
        .collect();
    names.sort();
    Ok(names)
}

fn build(folder: &Path) -> Outcome {
    // Through rustup, and not with the toolchain that the repository pins.
    let status = Command::new("rustup")
        .args(["run", "nightly", "cargo", "build", "--release", "--target", TARGET])
        .current_dir(folder)
        .env("RUSTFLAGS", RUSTFLAGS)
        .env("CARGO_TARGET_DIR", folder.join("target"))
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO")
        .status()
        .map_err(|error| format!("cannot run rustup: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err("the fuzz targets do not build; `rustup toolchain install nightly` and a C++ compiler are needed"
            .into())
    }
}

fn binary(folder: &Path, target: &str) -> PathBuf {
    folder.join("target").join(TARGET).join("release").join(target)
}

/// Runs one target on its committed corpus; what is new goes to a folder that is not committed, unless `--minimise`
/// merges it into the corpus.
fn fuzz(folder: &Path, target: &str, options: &Options) -> Outcome {
    let corpus = folder.join("corpus").join(target);
    let found = folder.join("found").join(target);
    for path in [&corpus, &found] {
        std::fs::create_dir_all(path)
            .map_err(|error| format!("cannot create {}: {error}", path.display()))?;
    }
    println!("fuzz: {target} for {} s", options.seconds);
    let artifacts = format!("-artifact_prefix={}/crash-{target}-", folder.display());
    let status = Command::new("nice")
        .args(["-n", "19"])
        .arg(binary(folder, target))
        .arg(&found)
        .arg(&corpus)
        .arg(format!("-max_total_time={}", options.seconds))
        .arg(format!("-rss_limit_mb={MEMORY}"))
        .args(["-timeout=10", "-print_final_stats=1", "-verbosity=0"])
        .arg(artifacts)
        .status()
        .map_err(|error| format!("cannot run {target}: {error}"))?;
    if !status.success() {
        return Err(format!("{target} found a fault: the input is in {}/crash-{target}-*", folder.display()));
    }
    if options.minimise { minimise(folder, target, &corpus, &found) } else { Ok(()) }
}

/// The smallest set of inputs, old and new, that reaches everything reached.
fn minimise(folder: &Path, target: &str, corpus: &Path, found: &Path) -> Outcome {
    let merged = folder.join("merged").join(target);
    let fail = |error: std::io::Error| format!("cannot minimise the corpus of {target}: {error}");
    if merged.exists() {
        std::fs::remove_dir_all(&merged).map_err(fail)?;
    }
    std::fs::create_dir_all(&merged).map_err(fail)?;
    let status = Command::new(binary(folder, target))
        // By edges, not by how often: a corpus that people can look through.
        .args(["-set_cover_merge=1", "-use_counters=0", "-verbosity=0", "-max_len=1024"])
        .args([merged.as_path(), corpus, found])
        .status()
        .map_err(fail)?;
    if !status.success() {
        return Err(format!("{target} cannot merge its corpus"));
    }
    std::fs::remove_dir_all(corpus).map_err(fail)?;
    std::fs::rename(&merged, corpus).map_err(fail)
}
