//! Cuts established flows that a change of policy denies, by making connection tracking forget them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use margay_netlink::conntrack::{Conntrack, Detail, Flow};
use margay_netlink::{Netlink, Result};

use super::Loose;
use crate::model::{Delta, EnforcedState};
use crate::verdict::{Affected, Judge, Packet};

/// Cuts flows in one network namespace. It blocks, so it wants a thread of its own.
#[derive(Debug)]
pub struct Cutter {
    state: EnforcedState,
    affected: Affected,
    conntrack: Conntrack,
    netlink: Netlink,
    loose: Loose,
}

impl Cutter {
    /// For the namespace of the calling thread; `loose` as it was left.
    ///
    /// # Errors
    /// The kernel has no netfilter netlink.
    pub fn new(loose: Loose) -> Result<Self> {
        let (conntrack, netlink) = (Conntrack::open()?, Netlink::open()?);
        Ok(Self { state: EnforcedState::default(), affected: Affected::default(), conntrack, netlink, loose })
    }

    /// The kernel enforces this state now; what it was before is not known.
    pub fn replace(&mut self, state: EnforcedState) {
        self.state = state;
        self.affected = Affected::everything();
    }

    /// The kernel enforces this change now.
    pub fn change(&mut self, delta: &Delta) {
        self.state.apply(delta);
        self.affected.add(delta);
    }

    /// Nothing has changed since all affected flows were looked at.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.affected.is_empty()
    }

    /// Gives back what [`Self::cut`] has changed; to be called once the ends of what was cut have given up.
    ///
    /// # Errors
    /// The kernel's; what was changed stays so.
    pub fn relax(&mut self) -> Result<()> {
        self.loose.give_back()
    }

    /// [`Self::relax`] has something to give back.
    #[must_use]
    pub const fn is_tight(&self) -> bool {
        self.loose.is_held()
    }

    /// Looks at all tracked connections once, and cuts the affected ones that policy denies; how many.
    ///
    /// From the first time on conntrack takes up no TCP connection in its middle (`nf_conntrack_tcp_loose`): the server's
    /// next segment would begin the forgotten one anew, in the other direction, which policy may allow. The setting
    /// exists only once rules have made the kernel track connections.
    ///
    /// # Errors
    /// The kernel's; what was affected stays so.
    pub fn cut(&mut self) -> Result<usize> {
        if self.is_idle() {
            return Ok(0);
        }
        self.loose.hold()?;
        let own: BTreeSet<IpAddr> =
            self.netlink.addresses(None)?.iter().map(|address| address.net.addr()).collect();
        let judge = Judge::new(&self.state, &self.affected, &own);
        let mut count = 0;
        for is_ipv6 in [false, true] {
            count += self.conntrack.forget(is_ipv6, |flow| judge.denies(&first_packet(flow)))?;
        }
        self.affected = Affected::default();
        Ok(count)
    }
}

/// A connection's first packet as policy saw it: from who really sent it to who really answers.
#[must_use]
pub fn first_packet(flow: &Flow) -> Packet {
    let (source_port, destination_port, icmp) = match (flow.original.detail, flow.reply.detail) {
        (Detail::Ports { source: client, .. }, Detail::Ports { source: server, .. }) => {
            (client, server, None)
        }
        (Detail::Icmp { kind, code, .. }, _) => (0, 0, Some((kind, code))),
        _ => (0, 0, None),
    };
    Packet {
        source: flow.original.source,
        destination: flow.reply.source,
        protocol: flow.original.protocol,
        source_port,
        destination_port,
        icmp,
    }
}
