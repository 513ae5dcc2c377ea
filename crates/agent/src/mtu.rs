//! `mtuIfacePattern` of FelixConfiguration: which interfaces the MTU of tunnels and pods is found from.

use margay_api::kinds::FelixConfigurationSpec;
use margay_control::status::Problem;
use margay_routing::Uplink;

use crate::fib::Underlay;
use crate::pattern::Pattern;

/// They are found by their names.
#[derive(Debug, Default)]
pub(crate) struct Interfaces(Pattern);

impl Interfaces {
    /// Follows the setting.
    pub(crate) fn follow(&mut self, felix: &FelixConfigurationSpec) {
        self.0.follow(felix.mtu_iface_pattern.as_ref());
    }

    /// Why the pattern is not used.
    pub(crate) fn problem(&self) -> Option<Problem> {
        let reason = self.0.problem()?;
        let message =
            format!("mtuIfacePattern {reason}; the MTU is that of the interface with the node's address");
        Some(Problem { object: "FelixConfiguration".to_owned(), message })
    }

    /// The interface with the node's address; with a pattern, its MTU is the smallest of the interfaces whose names it matches, as
    /// packets may take any of them.
    pub(crate) fn uplink(&self, underlay: &Underlay, own: Uplink) -> Uplink {
        let mtus =
            underlay.addresses.iter().filter(|(name, ..)| self.0.matches(name)).map(|(_, mtu, _)| *mtu);
        Uplink { mtu: mtus.min().unwrap_or(own.mtu), ..own }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mtu(pattern: Option<&str>) -> (u32, bool) {
        let mut interfaces = Interfaces::default();
        let pattern = pattern.map(str::to_owned);
        interfaces.follow(&FelixConfigurationSpec { mtu_iface_pattern: pattern, ..Default::default() });
        let links =
            [("lo", 65536, "127.0.0.1/8"), ("eth0", 9000, "192.0.2.7/24"), ("eth1", 1400, "198.51.100.7/24")];
        let addresses = links.map(|(name, mtu, net)| (name.to_owned(), mtu, net.parse().unwrap()));
        let underlay = Underlay { addresses: addresses.to_vec(), ..Underlay::default() };
        let own = underlay.uplink("192.0.2.7".parse().unwrap()).unwrap();
        (interfaces.uplink(&underlay, own).mtu, interfaces.problem().is_some())
    }

    #[test]
    fn the_smallest_interface_that_matches_decides() {
        assert_eq!(mtu(None), (9000, false));
        // Felix's default.
        assert_eq!(mtu(Some("^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)")), (1400, false));
        assert_eq!(mtu(Some("^eth0$")), (9000, false));
        assert_eq!(mtu(Some("^bond")), (9000, false), "nothing matches");
        assert_eq!(mtu(Some("(")), (9000, true));
        assert_eq!(mtu(Some("(a{1000}){1000}")), (9000, true), "too large");
    }
}
