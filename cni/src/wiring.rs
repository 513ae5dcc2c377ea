//! The veth pair between host and container: make it, verify it, take it away.
//!
//! The container gets host addresses (/32, /128) and default routes through gateways that exist only as permanent
//! neighbour entries (169.254.1.1, and the link-local address of the host side's fixed MAC), so nothing depends on proxy
//! ARP, and nothing on the wire is ever asked. The host side gets a permanent entry for each container address.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsFd;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use margay_netlink::{
    Address, AddressOptions, Error, IgnoreMissing, Link, LinkChange, Mac, Netlink, Netns, Result, Route,
    RouteFilter, RouteTarget, VethEnd, sysctl,
};

/// The gateway every pod sees for IPv4, as in Calico.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// `RTPROT_BOOT`: what ip(8) uses; inside the container nobody owns routes by protocol.
const PROTOCOL_BOOT: u8 = 3;

/// Least metric of a default route behind that of another interface; IPv6 calls an unnamed one 1024.
const SECOND: u32 = 2048;

/// `LOOPBACK_IFINDEX` of `include/net/flow.h`: the kernel makes it first in every namespace.
const LOOPBACK: u32 = 1;

/// Group of host sides that are being removed: `mgy` in ASCII, where nobody else has anything.
const LEAVING: u32 = 0x006d_6779;

/// What to build.
#[derive(Debug, Clone)]
pub struct Wiring<'a> {
    /// Name of the host side.
    pub host_ifname: &'a str,
    /// Name inside the container.
    pub ifname: &'a str,
    /// MAC inside the container; the kernel invents one otherwise.
    pub mac: Option<Mac>,
    /// MTU of both ends, octets.
    pub mtu: u32,
    /// Addresses of the container, as /32 and /128.
    pub addresses: &'a [IpNet],
}

impl Wiring<'_> {
    fn ipv6(&self) -> bool {
        self.addresses.iter().any(|net| matches!(net, IpNet::V6(_)))
    }

    fn ipv4(&self) -> bool {
        self.addresses.iter().any(|net| matches!(net, IpNet::V4(_)))
    }

    /// Default routes and their gateways, for the families in use.
    pub fn routes(&self) -> Vec<(IpNet, IpAddr)> {
        let v4 = self.ipv4().then(|| (IpNet::V4(Ipv4Net::default()), IpAddr::V4(GATEWAY)));
        let v6 =
            self.ipv6().then(|| (IpNet::V6(Ipv6Net::default()), IpAddr::V6(Mac::HOST_SIDE.link_local())));
        v4.into_iter().chain(v6).collect()
    }

    /// Builds everything; the host side is in the calling thread's namespace. Returns the container's MAC. On failure
    /// what was made is removed again.
    ///
    /// A host-side interface of the same name is a leftover of an earlier container (the agent gives a name to one
    /// attachment at a time) and is replaced.
    ///
    /// # Errors
    /// [`Error::Exists`] when the container has an interface of that name; the kernel's refusal of any step.
    pub fn build(&self, pod: &Netns) -> Result<Mac> {
        let mut host = Netlink::open()?;
        let mut inside = Netlink::open_in(pod)?;
        self.make_pair(&mut host, &mut inside, pod)?;
        self.configure(&mut host, &mut inside, pod).inspect_err(|_| {
            // The first error is the one to report; the pair goes with its namespace if this fails too.
            let _ignored = host.delete_link_named(self.host_ifname);
        })
    }

    /// Every question to the kernel about a link waits for its one lock (RTNL), so what is in the way is looked for only once
    /// something is.
    fn make_pair(&self, host: &mut Netlink, inside: &mut Netlink, pod: &Netns) -> Result<()> {
        let near = VethEnd { name: self.host_ifname, mac: Some(Mac::HOST_SIDE), netns: None };
        let far = VethEnd { name: self.ifname, mac: self.mac, netns: Some(pod.as_fd()) };
        match host.add_veth(&near, &far, Some(self.mtu)) {
            Err(error) if error.is_exists() => {
                let is_leftover = inside.link(self.ifname)?.is_none()
                    && host.link(self.host_ifname)?.is_some_and(|old| is_veth(&old));
                if !is_leftover {
                    return Err(error);
                }
            }
            made => return made,
        }
        host.delete_link_named(self.host_ifname).ignore_missing()?;
        host.add_veth(&near, &far, Some(self.mtu))
    }

    fn configure(&self, host: &mut Netlink, inside: &mut Netlink, pod: &Netns) -> Result<Mac> {
        let link = inside.link(self.ifname)?;
        let Some((index, mac, peer)) = link.and_then(|link| Some((link.index, link.mac?, link.peer?))) else {
            return Err(Error::Invalid {
                what: format!("interface {}", self.ifname),
                reason: "vanished while it was configured".to_owned(),
            });
        };
        self.host_settings()?;
        host.set_up(peer, true)?;
        if self.ipv6() {
            pod.run(|| self.pod_settings())??;
        }
        self.configure_pod(inside, index)?;
        for net in self.addresses {
            host.set_neighbour(peer, net.addr(), mac)?;
        }
        Ok(mac)
    }

    /// Per-interface settings of the host side, before it is up.
    fn host_settings(&self) -> Result<()> {
        let set = |family: &str, key: &str, value: &str| {
            sysctl::write(&["net", family, "conf", self.host_ifname, key], value).map(|_| ())
        };
        if self.ipv4() {
            set("ipv4", "forwarding", "1")?;
            // Gratuitous help for a container that lost its neighbour entry isn't given: proxy ARP would answer for
            // every address this node can route to.
            set("ipv4", "proxy_arp", "0")?;
        }
        if self.ipv6() {
            set("ipv6", "disable_ipv6", "0")?;
            set("ipv6", "accept_dad", "0")?;
            set("ipv6", "accept_ra", "0")?;
            set("ipv6", "forwarding", "1")?;
        }
        Ok(())
    }

    /// The same inside, for IPv6; by a thread of the container's namespace.
    fn pod_settings(&self) -> Result<()> {
        for (key, value) in [("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0")] {
            sysctl::write(&["net", "ipv6", "conf", self.ifname, key], value)?;
        }
        // Runtimes often start a namespace with IPv6 switched off as a whole.
        sysctl::write(&["net", "ipv6", "conf", "lo", "disable_ipv6"], "0").map(|_| ())
    }

    fn configure_pod(&self, pod: &mut Netlink, index: u32) -> Result<()> {
        pod.set_up(LOOPBACK, true)?;
        pod.set_up(index, true)?;
        for net in self.addresses {
            pod.add_address(&Address { index, net: *net }, AddressOptions::default())?;
        }
        let known = pod.routes(RouteFilter::default())?;
        for (destination, gateway) in self.routes() {
            pod.set_neighbour(index, gateway, Mac::HOST_SIDE)?;
            let target = RouteTarget::Via { gateway, device: Some(index), onlink: true };
            // The default route is that of the container's first interface; the others' wait behind it, each at its place:
            // one of the same metric would be replaced.
            let taken =
                known.iter().filter(|route| route.destination == destination).map(|route| route.metric);
            let metric = taken.max().map_or(0, |last| SECOND.max(last.saturating_add(1)));
            pod.replace_route(&Route { metric, ..Route::new(destination, target, PROTOCOL_BOOT) })?;
        }
        Ok(())
    }

    /// Everything that differs from what [`build`](Self::build) makes, as sentences; empty when all is well. Additions by
    /// chained plugins are fine.
    ///
    /// # Errors
    /// When the kernel can't be asked.
    pub fn verify(&self, pod: &Netns) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        let mut netlink = Netlink::open_in(pod)?;
        let Some(inside) = netlink.link(self.ifname)? else {
            return Ok(vec![format!("the container has no interface {}", self.ifname)]);
        };
        if !inside.up {
            wrong.push(format!("{} is down in the container", self.ifname));
        }
        let present = netlink.addresses(Some(inside.index))?;
        for net in self.addresses {
            if !present.iter().any(|address| address.net == *net) {
                wrong.push(format!("{} has no address {net}", self.ifname));
            }
        }
        let filter = RouteFilter { device: Some(inside.index), ..RouteFilter::default() };
        let routes = netlink.routes(filter)?;
        let neighbours = netlink.neighbours(Some(inside.index))?;
        for (destination, via) in self.routes() {
            let there = |route: &Route| {
                route.destination == destination
                    && matches!(&route.target, RouteTarget::Via { gateway, .. } if *gateway == via)
            };
            if !routes.iter().any(there) {
                wrong.push(format!("the container has no route {destination} via {via}"));
            }
            if !neighbours.iter().any(|n| n.ip == via && n.permanent && n.mac == Some(Mac::HOST_SIDE)) {
                wrong.push(format!("the container has no permanent neighbour entry for {via}"));
            }
        }
        match Netlink::open()?.link(self.host_ifname)? {
            None => wrong.push(format!("the host has no interface {}", self.host_ifname)),
            Some(outside) if !outside.up => wrong.push(format!("{} is down on the host", self.host_ifname)),
            Some(outside) if inside.peer != Some(outside.index) => {
                wrong.push(format!(
                    "{} on the host is not the other end of {}",
                    self.host_ifname, self.ifname
                ));
            }
            Some(_) => {}
        }
        Ok(wrong)
    }
}

/// A pair that [`Wiring::build`] made.
#[derive(Debug, Clone, Copy)]
pub struct Wired<'a> {
    /// Name of the host side.
    pub host_ifname: &'a str,
    /// Name inside the container.
    pub ifname: &'a str,
    /// MAC inside the container: another interface of that name isn't touched.
    pub mac: Option<Mac>,
}

impl Wired<'_> {
    /// Changes the MTU of both ends, octets. The one that would receive what it is too small for is changed last; without
    /// the container's namespace the host side stays too.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn set_mtu(&self, pod: Option<&Netns>, mtu: u32) -> Result<()> {
        let Some(pod) = pod else { return Ok(()) };
        let (mut host, mut inside) = (Netlink::open()?, Netlink::open_in(pod)?);
        let near = host.link(self.host_ifname)?.filter(is_veth);
        let far = inside.link(self.ifname)?.filter(|link| is_veth(link) && link.mac == self.mac);
        let (Some(near), Some(far)) = (near, far) else { return Ok(()) };
        let change = LinkChange { mtu: Some(mtu), ..LinkChange::default() };
        if mtu < near.mtu {
            inside.change_link(far.index, &change)?;
            host.change_link(near.index, &change)
        } else {
            host.change_link(near.index, &change)?;
            inside.change_link(far.index, &change)
        }
    }
}

/// Removes the container's interface, if it is there and a veth whose host side is of our making (which goes with it): another
/// plugin's is not ours to remove.
///
/// # Errors
/// The kernel's refusal.
pub fn remove(pod: &Netns, ifname: &str) -> Result<()> {
    let mut netlink = Netlink::open_in(pod)?;
    let Some(link) = netlink.link(ifname)?.filter(is_veth) else { return Ok(()) };
    let Some(peer) = link.peer else { return Ok(()) };
    match Netlink::open()?.link_by_index(peer)? {
        Some(host) if is_host_side(&host) && host.peer == Some(link.index) => {
            netlink.delete_link(link.index).ignore_missing()
        }
        _ => Ok(()),
    }
}

/// Removes a host side by name, if it is there, a veth, and carries the host side's MAC.
///
/// # Errors
/// The kernel's refusal.
pub fn remove_host_side(host_ifname: &str) -> Result<()> {
    let mut netlink = Netlink::open()?;
    match host_side(&mut netlink, host_ifname)? {
        Some(index) => netlink.delete_link(index).ignore_missing(),
        None => Ok(()),
    }
}

/// The same for several, which the kernel takes away at once; what came of each.
pub fn remove_host_sides(host_ifnames: &[&str]) -> Vec<Result<()>> {
    if let [one] = host_ifnames {
        return vec![remove_host_side(one)];
    }
    // Only the first error of opening is told; whoever asks tries all of them again.
    let Ok(mut netlink) = Netlink::open() else {
        return host_ifnames.iter().map(|name| remove_host_side(name)).collect();
    };
    let change = LinkChange { group: Some(LEAVING), ..LinkChange::default() };
    let marked: Vec<Result<()>> = host_ifnames
        .iter()
        .map(|name| match host_side(&mut netlink, name)? {
            Some(index) => netlink.change_link(index, &change).ignore_missing(),
            None => Ok(()),
        })
        .collect();
    match netlink.delete_group(LEAVING).ignore_missing() {
        Ok(()) => marked,
        // Whatever is wrong with one of them must not keep the others.
        Err(_) => host_ifnames.iter().map(|name| remove_host_side(name)).collect(),
    }
}

fn is_host_side(link: &Link) -> bool {
    is_veth(link) && link.mac == Some(Mac::HOST_SIDE)
}

fn host_side(netlink: &mut Netlink, name: &str) -> Result<Option<u32>> {
    Ok(netlink.link(name)?.filter(is_host_side).map(|link| link.index))
}

fn is_veth(link: &Link) -> bool {
    link.kind.as_deref() == Some("veth")
}
