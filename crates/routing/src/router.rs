//! From input to the desired state, and the explanation of one destination.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use crate::context::Context;
use crate::decide::{Decision, decide};
use crate::desired::{Desired, NatOutgoing, Route, Target};
use crate::input::{Input, Uplink};
use crate::tunnels::{self, Mtus};

/// The input, read once; asked as often as needed.
#[derive(Debug, Clone)]
pub struct Router<'a> {
    context: Context<'a>,
    uplink: Option<&'a Uplink>,
}

/// How a packet to one address leaves this node, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RouteTrace {
    /// The address asked about.
    pub destination: IpAddr,
    /// The IPPool the address is in.
    pub pool: Option<String>,
    /// The block the address is in.
    pub block: Option<IpNet>,
    /// The node the block belongs to.
    pub owner: Option<String>,
    /// Our route that is used; absent: the node's other routes decide.
    pub route: Option<Route>,
    /// Every prefix that covers the address, the most specific first, with what was decided about it.
    pub considered: Vec<Decision>,
}

impl<'a> Router<'a> {
    /// Checks and indexes the input.
    pub fn new(input: &Input<'a>) -> Self {
        Self { context: Context::new(input), uplink: input.uplink }
    }

    /// The whole desired state.
    pub fn desired(&self) -> Desired {
        let cx = &self.context;
        let mut problems = cx.problems.clone();
        let mut routes = BTreeMap::new();
        for prefix in cx.prefixes() {
            let decision = decide(cx, prefix);
            for message in decision.problems() {
                problems.insert(crate::Problem { object: prefix.to_string(), message });
            }
            routes.extend(decision.route.map(|route| (prefix, route)));
        }
        let used = tunnels::used(cx);
        let mtus = Mtus::new(cx.settings, self.uplink, &used);
        let vxlan = tunnels::vxlan_devices(cx, &used, self.uplink, &mtus);
        let (fdb, neighbours) = tunnels::vxlan_entries(cx, &vxlan);
        let pools = |wanted: fn(&crate::context::Pool) -> bool| {
            cx.pools.iter().filter(|pool| wanted(pool)).map(|pool| pool.cidr).collect()
        };
        Desired {
            routes,
            ipip: tunnels::ipip_device(cx, &used, &mtus),
            vxlan,
            fdb,
            neighbours,
            nat_outgoing: NatOutgoing {
                masquerade: pools(|pool| pool.nat_outgoing && pool.for_pods),
                pools: pools(|pool| pool.for_pods),
            },
            pod_mtu: mtus.pod,
            problems,
        }
    }

    /// The route to one address and the reasons for it.
    pub fn explain(&self, destination: IpAddr) -> RouteTrace {
        let cx = &self.context;
        let host = IpNet::from(destination);
        let mut covering: Vec<IpNet> =
            cx.prefixes().into_iter().filter(|prefix| prefix.contains(&destination)).collect();
        covering.sort_by_key(|prefix| (u8::MAX - prefix.prefix_len(), *prefix));
        let considered: Vec<Decision> = covering.into_iter().map(|prefix| decide(cx, prefix)).collect();
        let block = cx.block_of(&host);
        RouteTrace {
            destination,
            pool: cx.pool_of(&host).map(|pool| pool.name.clone()),
            block: block.map(|(cidr, _)| *cidr),
            owner: block.and_then(|(_, owner)| owner.map(str::to_owned)),
            route: considered.iter().find_map(|decision| decision.route.clone()),
            considered,
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Link { dev } => write!(f, "{} dev {dev} scope link", self.prefix)?,
            Target::Blackhole => write!(f, "blackhole {}", self.prefix)?,
            Target::Via(hops) => {
                write!(f, "{}", self.prefix)?;
                for hop in hops {
                    if hops.len() > 1 {
                        f.write_str(" nexthop")?;
                    }
                    write!(f, " via {}", hop.gateway)?;
                    if let Some(dev) = &hop.dev {
                        write!(f, " dev {dev}")?;
                    }
                    if hop.onlink {
                        f.write_str(" onlink")?;
                    }
                }
            }
        }
        write!(f, " proto {}", self.protocol.number())
    }
}

impl fmt::Display for RouteTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.route {
            Some(route) => write!(f, "{route}")?,
            None => write!(f, "{}: no route of ours; the node's own routes decide", self.destination)?,
        }
        for decision in &self.considered {
            for reason in &decision.reasons {
                write!(f, "\n  {}: {reason}", decision.prefix)?;
            }
        }
        if self.considered.is_empty() {
            match &self.pool {
                Some(pool) => write!(f, "\n  IPPool({pool}) has the address, but no node claimed its block")?,
                None => f.write_str("\n  in no IPPool, block or BGP route")?,
            }
        }
        Ok(())
    }
}
