//! Text of the rules for a backend: pure, nothing is executed here.

pub mod hash;
pub mod iptables;
pub mod nftables;

#[cfg(test)]
mod tests;

use crate::model::PortRange;

/// Ports as both write them, but for what stands between the first and the last.
fn port_range(range: &PortRange, between: char) -> String {
    if range.first == range.last {
        range.first.to_string()
    } else {
        format!("{}{between}{}", range.first, range.last)
    }
}

/// A log prefix without what would end the quoted text, with room for ": " and a NUL in `size` bytes.
fn log_prefix(prefix: &str, size: usize) -> String {
    let mut prefix: String =
        prefix.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
    prefix.truncate(size - 2);
    prefix
}
