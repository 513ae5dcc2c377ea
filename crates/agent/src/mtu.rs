//! `mtuIfacePattern` of FelixConfiguration: which interfaces the MTU of tunnels and pods is found from.

use margay_api::kinds::FelixConfigurationSpec;
use margay_control::status::Problem;
use margay_routing::Uplink;
use regex_automata::Input;
use regex_automata::dfa::{Automaton, dense};
use regex_automata::util::syntax;

use crate::fib::Underlay;

/// Most octets of memory for a pattern: names of interfaces need few.
const LARGEST: usize = 4 << 20;

/// A pattern, ready to be used.
#[derive(Debug, Default)]
pub(crate) struct Interfaces {
    text: Option<String>,
    matcher: Option<dense::DFA<Vec<u32>>>,
    reason: Option<String>,
}

impl Interfaces {
    /// Follows the setting.
    pub(crate) fn follow(&mut self, felix: &FelixConfigurationSpec) {
        if self.text == felix.mtu_iface_pattern {
            return;
        }
        let config = dense::Config::new().dfa_size_limit(Some(LARGEST)).determinize_size_limit(Some(LARGEST));
        let octets = syntax::Config::new().unicode(false).utf8(false);
        let built = felix.mtu_iface_pattern.as_ref().map(|text| {
            let built = dense::Builder::new().configure(config).syntax(octets).build(text);
            built.map_err(|error| error.to_string())
        });
        self.text.clone_from(&felix.mtu_iface_pattern);
        self.reason = built.as_ref().and_then(|built| built.as_ref().err()).cloned();
        self.matcher = built.and_then(Result::ok);
    }

    /// Why the pattern is not used.
    pub(crate) fn problem(&self) -> Option<Problem> {
        let (text, reason) = (self.text.as_ref()?, self.reason.as_ref()?);
        let message = format!(
            "mtuIfacePattern {text:?} is no regular expression that can be used: {reason}; the MTU is that of the \
             interface with the node's address"
        );
        Some(Problem { object: "FelixConfiguration".to_owned(), message })
    }

    /// The interface with the node's address; with a pattern, its MTU is the smallest of the interfaces whose names it matches, as
    /// packets may take any of them.
    pub(crate) fn uplink(&self, underlay: &Underlay, own: Uplink) -> Uplink {
        let Some(matcher) = &self.matcher else { return own };
        let matches =
            |name: &str| matcher.try_search_fwd(&Input::new(name)).is_ok_and(|found| found.is_some());
        let mtus = underlay.addresses.iter().filter(|(name, ..)| matches(name)).map(|(_, mtu, _)| *mtu);
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
