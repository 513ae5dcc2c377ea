//! `cargo xtask lint`: what a change must satisfy before it is looked at.

use crate::{Outcome, cargo, layers, packages};

pub(crate) fn run() -> Outcome {
    packages::ensure(&[packages::BUILD])?;
    layers::check()?;
    cargo::run(&["fmt", "--all", "--check"], &[])?;
    cargo::run(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    // The pure core of the speaker must build without its transport.
    cargo::run(&["check", "--package=margay-bgp", "--no-default-features"], &[])?;
    cargo::run(&["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])
}
