//! Connection collision (RFC 4271 section 6.8, RFC 6286 section 2.3).

use std::net::Ipv4Addr;

/// Whether the connection that this speaker opened is the one to keep, of two with the same peer: the one opened by
/// the higher BGP identifier, or with equal identifiers by the higher AS.
pub(crate) fn keep_ours(ours: (Ipv4Addr, u32), theirs: (Ipv4Addr, u32)) -> bool {
    ours > theirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_keep_the_same_connection() {
        let id = |last| Ipv4Addr::new(10, 0, 0, last);
        for (a, b) in [((id(1), 1), (id(2), 1)), ((id(2), 1), (id(1), 1)), ((id(1), 1), (id(1), 2))] {
            assert_ne!(keep_ours(a, b), keep_ours(b, a));
        }
    }
}
