//! What the targets do with their input. `bgp/tests/corpus.rs` and `felix-rs/tests/corpus.rs` do it with every input that was kept.

pub mod bfd;
pub mod codec;
pub mod policy;
pub mod session;
