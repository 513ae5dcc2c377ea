//! MAC addresses of tunnel devices.

use margay_api::types::MacAddr;
use sha2::{Digest, Sha256};

use crate::input::Family;

/// The VXLAN device's MAC address of a node: the same after every restart and on every machine that computes it, so
/// that peers' static neighbour entries stay right. Locally administered, unicast.
pub fn vtep_mac(node: &str, family: Family) -> MacAddr {
    let mut hash = Sha256::new();
    hash.update(node.as_bytes());
    if family == Family::V6 {
        hash.update(b"-v6");
    }
    let mut octets = [0x66, 0, 0, 0, 0, 0];
    for (octet, byte) in octets.iter_mut().skip(1).zip(hash.finalize()) {
        *octet = byte;
    }
    MacAddr(octets)
}

/// Usable as a station's address: unicast and not all zero.
pub(crate) fn is_station(mac: MacAddr) -> bool {
    mac.0[0] & 1 == 0 && mac.0 != [0; 6]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_addresses_are_stable_distinct_and_unicast() {
        let mac = vtep_mac("n1", Family::V4);
        assert_ne!(mac, vtep_mac("n1", Family::V6));
        assert_ne!(mac, vtep_mac("n2", Family::V4));
        assert!(is_station(mac));
        // Pinned: peers hold it in permanent neighbour entries over an upgrade.
        assert_eq!(mac.to_string(), "66:67:6b:8b:b8:4c");
    }
}
