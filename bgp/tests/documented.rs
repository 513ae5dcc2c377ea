//! `RFC.md` names tests: they are there.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Names of the functions in the Rust files of a folder.
fn functions(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            functions(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let test = |part: &&str| part.starts_with("test]") || part.starts_with("tokio::test");
            let names = text.split("#[").filter(test).filter_map(|part| part.split("fn ").nth(1));
            let name =
                |rest: &str| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned);
            found.extend(names.filter_map(name));
        }
    }
}

#[test]
fn every_test_that_is_named_is_there() {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = BTreeSet::new();
    functions(&package.join("src"), &mut found);
    functions(&package.join("tests"), &mut found);
    let text = fs::read_to_string(package.join("RFC.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let named: Vec<&str> = rows
        .filter_map(|row| row.trim_end_matches('|').rsplit('|').next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    assert!(named.len() > 50, "{named:?}");
    let missing: Vec<&&str> = named.iter().filter(|name| !found.contains(**name)).collect();
    assert!(missing.is_empty(), "RFC.md names tests that are not there: {missing:?}");
}
