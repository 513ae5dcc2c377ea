//! What the targets of BGP and BFD do with their input. `bgp/tests/corpus.rs` does it with every input that was kept.

pub mod bfd;
pub mod codec;
pub mod session;
