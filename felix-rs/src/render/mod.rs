//! Text of the rules for a backend: pure, nothing is executed here.

pub mod iptables;

#[cfg(test)]
mod tests;
