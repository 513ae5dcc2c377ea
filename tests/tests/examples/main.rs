//! Everything under `examples/` is what it says: read strictly, and tried with the real programs.

#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test program: helpers fail the test, and it says what it skips"
)]

mod daemons;
mod kubernetes;
mod manifests;
mod objects;
mod probes;
mod units;

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A path in the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every file below a folder with one of these endings.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, endings));
        } else if path.extension().is_some_and(|ending| endings.iter().any(|e| *e == ending)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The documents of a YAML file; a key that stands twice is an error.
fn documents(path: &Path) -> Vec<Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(&read(path))
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// One of our programs, if it is built. Without it the test is skipped, or fails where nothing may be skipped.
fn program(name: &str) -> Option<PathBuf> {
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().and_then(Path::parent).unwrap();
    let path = folder.join(name);
    if path.exists() {
        return Some(path);
    }
    skip(&format!("{} is not built: run `cargo build --workspace --bins`", path.display()));
    None
}

/// Says that a test can't run here.
fn skip(reason: &str) {
    assert!(std::env::var_os("TESTS_REQUIRE_ALL").is_none(), "{reason}");
    eprintln!("skipped: {reason}");
}

/// A folder that is gone at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("margay-examples-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Best effort: the test's own outcome matters more.
        let _left = std::fs::remove_dir_all(&self.0);
    }
}
