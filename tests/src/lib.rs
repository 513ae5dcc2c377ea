//! The demo and the end-to-end tests: a cluster of real processes in a lab of network namespaces.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::exit,
    reason = "programs for a person at a terminal, not libraries"
)]

pub mod cluster;
pub mod demo;
pub mod foreign;
pub mod machine;
pub mod matrix;
pub mod pods;
pub mod report;
pub mod sandbox;
pub mod scenario;
