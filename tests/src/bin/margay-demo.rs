//! `cargo xtask demo`: the whole network on one machine.
fn main() {}
