//! Text of the rules for a backend: pure, nothing is executed here.

pub mod hash;
pub mod iptables;
pub mod nftables;

#[cfg(test)]
mod tests;

/// A log prefix without what would end the quoted text, with room for ": " and a NUL in `size` bytes.
fn log_prefix(prefix: &str, size: usize) -> String {
    let mut prefix: String =
        prefix.chars().filter(|c| c.is_ascii_graphic() && !matches!(c, '"' | '\\')).collect();
    prefix.truncate(size - 2);
    prefix
}
