//! Messages in one line, for logs and people.

use std::fmt::{self, Display, Formatter};

use super::{
    Capability, Decoded, Message, NlriVec, Open, PathAttributes, Reach, UnknownAttribute, Update,
    notification::Hex,
};

/// Prefixes shown of a list; the rest is counted.
const SHOWN: usize = 8;

/// Writes items with a separator between them.
fn join<T: Display>(f: &mut Formatter<'_>, items: &[T], separator: &str) -> fmt::Result {
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            f.write_str(separator)?;
        }
        item.fmt(f)?;
    }
    Ok(())
}

fn prefixes(f: &mut Formatter<'_>, list: &NlriVec) -> fmt::Result {
    let (shown, more) = list.split_at(list.len().min(SHOWN));
    join(f, shown, ", ")?;
    if more.is_empty() { Ok(()) } else { write!(f, " and {} more", more.len()) }
}

impl Display for PathAttributes {
    /// `origin igp, path 64512 65001, local-pref 100`: what is present, in the order of the attribute codes.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "origin {}", self.origin)?;
        if !self.as_path.is_empty() {
            write!(f, ", path {}", self.as_path)?;
        }
        if let Some(med) = self.med {
            write!(f, ", med {med}")?;
        }
        if let Some(preference) = self.local_pref {
            write!(f, ", local-pref {preference}")?;
        }
        if self.atomic_aggregate {
            f.write_str(", atomic-aggregate")?;
        }
        if let Some(aggregator) = &self.aggregator {
            write!(f, ", aggregator {aggregator}")?;
        }
        named_list(f, "communities", &self.communities)?;
        if let Some(originator) = self.originator_id {
            write!(f, ", originator {originator}")?;
        }
        named_list(f, "clusters", &self.cluster_list)?;
        named_list(f, "extended communities", &self.extended_communities)?;
        named_list(f, "large communities", &self.large_communities)?;
        self.unknown.iter().try_for_each(|attribute| write!(f, ", {attribute}"))
    }
}

fn named_list<T: Display>(f: &mut Formatter<'_>, name: &str, items: &[T]) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    write!(f, ", {name} ")?;
    join(f, items, " ")
}

impl Display for UnknownAttribute {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, Hex(&self.value))
    }
}

impl Display for Update {
    /// `UPDATE withdraw 10.1.0.0/24; announce 10.2.0.0/24 via 192.0.2.1; origin igp, local-pref 100`
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(family) = self.end_of_rib {
            return write!(f, "UPDATE end-of-rib {family}");
        }
        f.write_str("UPDATE")?;
        let mut separator = " ";
        if !self.withdrawn.is_empty() {
            f.write_str(" withdraw ")?;
            prefixes(f, &self.withdrawn)?;
            separator = "; ";
        }
        for Reach { next_hop, nlri } in self.mp_reach.iter().chain(&self.reach) {
            write!(f, "{separator}announce ")?;
            prefixes(f, nlri)?;
            write!(f, " via {next_hop}")?;
            separator = "; ";
        }
        if self.announces() { write!(f, "; {}", self.attributes) } else { Ok(()) }
    }
}

impl Display for Capability {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::MultiProtocol(family) => family.fmt(f),
            Self::RouteRefresh => f.write_str("route-refresh"),
            Self::ExtendedNextHop(entries) => {
                f.write_str("extended-next-hop")?;
                entries.iter().try_for_each(|(family, afi)| write!(f, " {family} via afi-{afi}"))
            }
            Self::ExtendedMessage => f.write_str("extended-message"),
            Self::GracefulRestart(restart) => {
                write!(f, "graceful-restart {} s", restart.time)?;
                if restart.restarted {
                    f.write_str(" restarted")?;
                }
                if restart.notification {
                    f.write_str(" notification")?;
                }
                let entry = |family, forwarding| (family, if forwarding { " forwarding" } else { "" });
                restart
                    .families
                    .iter()
                    .map(|it| entry(it.family, it.forwarding))
                    .try_for_each(|(family, forwarding)| write!(f, " {family}{forwarding}"))
            }
            Self::FourOctetAs(asn) => write!(f, "AS{asn}"),
            Self::AddPath(entries) => {
                f.write_str("add-path")?;
                entries.iter().try_for_each(|entry| {
                    let mode = match (entry.mode.receives(), entry.mode.sends()) {
                        (true, true) => "both",
                        (true, false) => "receive",
                        _ => "send",
                    };
                    write!(f, " {} {mode}", entry.family)
                })
            }
            Self::EnhancedRouteRefresh => f.write_str("enhanced-route-refresh"),
            Self::LongLivedGracefulRestart(entries) => {
                f.write_str("long-lived-graceful-restart")?;
                entries.iter().try_for_each(|entry| {
                    let forwarding = if entry.forwarding { " forwarding" } else { "" };
                    write!(f, " {} {} s{forwarding}", entry.family, entry.stale_time)
                })
            }
            Self::Fqdn { host, domain } if domain.is_empty() => write!(f, "name {host}"),
            Self::Fqdn { host, domain } => write!(f, "name {host}.{domain}"),
            Self::Unknown { code, value } => write!(f, "capability {code} {}", Hex(value)),
        }
    }
}

impl Display for Open {
    /// `OPEN AS64512 id 192.0.2.1 hold 90 s [ipv4-unicast, route-refresh]`
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "OPEN AS{} id {} hold {} s [", self.asn(), self.bgp_id, self.hold_time)?;
        join(f, &self.capabilities, ", ")?;
        f.write_str("]")
    }
}

impl Display for Message {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(open) => open.fmt(f),
            Self::Update(update) => update.fmt(f),
            Self::Notification(notification) => write!(f, "NOTIFICATION {notification}"),
            Self::Keepalive => f.write_str("KEEPALIVE"),
            Self::RouteRefresh(refresh) => refresh.fmt(f),
        }
    }
}

impl Display for Decoded {
    /// The message, then its faults in parentheses.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.message.fmt(f)?;
        if self.faults.is_empty() {
            return Ok(());
        }
        f.write_str(" (")?;
        join(f, &self.faults, "; ")?;
        f.write_str(")")
    }
}
