//! BGP-4 speaker: a core without IO, and a tokio transport around it.

pub mod wire;
