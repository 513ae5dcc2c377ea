//! The kernel's way of a packet through its hooks (`net/netfilter`), whatever filters there.

use felix_rs::verdict::Passage;

use crate::{Outcome, Passing};

/// What the kernel keeps with a packet.
#[derive(Debug, Default)]
pub(crate) struct Skb {
    pub(crate) mark: u32,
    pub(crate) untracked: bool,
    /// Destination NAT has happened.
    pub(crate) rewritten: bool,
}

/// Rules at the kernel's hooks.
pub(crate) trait Filter {
    /// What a table does at a hook with a packet, if it has rules there.
    fn hook(&self, table: &str, hook: &str, passing: &Passing<'_>, skb: &mut Skb) -> Option<Outcome>;

    /// Whether a packet gets through a node that accepts by default.
    fn passes(&self, passage: &Passage) -> bool {
        let mut skb = Skb::default();
        let mut passing = Passing {
            packet: &passage.packet,
            incoming: passage.incoming.as_deref().unwrap_or_default(),
            outgoing: passage.outgoing.as_deref().unwrap_or_default(),
        };
        let mut outgoing = passage.outgoing.as_deref();
        let first = if passage.incoming.is_some() { "PREROUTING" } else { "OUTPUT" };
        if passage.incoming.is_some() {
            // Not routed yet.
            passing.outgoing = "";
        }
        if !["raw", "mangle"].iter().all(|table| self.accepts(table, first, &passing, &mut skb)) {
            return false;
        }
        if let Some((packet, way)) = passage.rewritten.as_ref().filter(|_| !skb.untracked) {
            skb.rewritten = true;
            passing.packet = packet;
            outgoing = way.as_deref();
        }
        if passage.incoming.is_none() {
            // A packet of the node's own keeps the interface it was made for until the hook is left.
            if !self.accepts("filter", first, &passing, &mut skb) {
                return false;
            }
            passing.outgoing = outgoing.unwrap_or_default();
        } else {
            passing.outgoing = outgoing.unwrap_or_default();
            let hook = if outgoing.is_some() { "FORWARD" } else { "INPUT" };
            if !self.accepts("filter", hook, &passing, &mut skb) {
                return false;
            }
        }
        passing.incoming = "";
        outgoing.is_none() || self.accepts("mangle", "POSTROUTING", &passing, &mut skb)
    }

    fn accepts(&self, table: &str, hook: &str, passing: &Passing<'_>, skb: &mut Skb) -> bool {
        !matches!(self.hook(table, hook, passing, skb), Some(Outcome::Decided(false)))
    }
}
