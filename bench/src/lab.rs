//! Two namespaces and a veth pair: the process under test in one, every client in the other.

use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::Command;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net};
use margay_netlink::{Address, AddressOptions, Netlink, Netns, Route, RouteTarget, VethEnd, sysctl};

use crate::plan::{GATEWAY, REFLECTOR, clients_net};

/// Connections that may wait to be accepted, and SYNs.
const BACKLOG: &str = "16384";

/// See the module.
#[derive(Debug)]
pub(crate) struct Lab {
    /// Where the process under test runs.
    pub(crate) reflector: Netns,
    /// Where the clients are.
    pub(crate) clients: Netns,
}

fn up(netlink: &mut Netlink, name: &str, addresses: &[Ipv4Net]) -> Result<u32> {
    let index = netlink.link_index(name)?;
    netlink.set_up(index, true)?;
    for net in addresses {
        netlink.replace_address(&Address { index, net: IpNet::V4(*net) }, AddressOptions::default())?;
    }
    Ok(index)
}

impl Lab {
    pub(crate) fn new() -> Result<Self> {
        let lab = Self { reflector: Netns::new()?, clients: Netns::new()? };
        let mut here = Netlink::open_in(&lab.reflector)?;
        let mut there = Netlink::open_in(&lab.clients)?;
        let near = VethEnd { name: "rr0", ..VethEnd::default() };
        let far = VethEnd { name: "clients0", mac: None, netns: Some(lab.clients.as_fd()) };
        here.add_veth(&near, &far, None)?;
        up(&mut here, "lo", &[])?;
        let link = |address: Ipv4Addr| Ipv4Net::new_assert(address, 30);
        up(&mut here, "rr0", &[link(REFLECTOR)])?;
        // A net on the loopback device is local as a whole: every address of it is a client's.
        let first = clients_net().hosts().next().context("no clients")?;
        up(&mut there, "lo", &[Ipv4Net::new_assert(first, clients_net().prefix_len())])?;
        up(&mut there, "clients0", &[link(GATEWAY)])?;
        let target = RouteTarget::Via { gateway: GATEWAY.into(), device: None, onlink: false };
        here.add_route(&Route::new(clients_net().into(), target, 4))?;
        for namespace in [&lab.reflector, &lab.clients] {
            namespace.run(|| {
                sysctl::write(&["net", "core", "somaxconn"], BACKLOG)?;
                sysctl::write(&["net", "ipv4", "tcp_max_syn_backlog"], BACKLOG)
            })??;
        }
        Ok(lab)
    }

    /// Whether somebody listens for BGP in the namespace of this process.
    pub(crate) fn listens(process: u32) -> bool {
        let listening = |table: String| {
            // Columns: number, local address:port, remote, state; 00B3 is port 179, 0A is LISTEN.
            table.lines().any(|line| {
                let mut columns = line.split_whitespace().skip(1);
                let local = columns.next().is_some_and(|local| local.ends_with(":00B3"));
                local && columns.nth(1) == Some("0A")
            })
        };
        std::fs::read_to_string(format!("/proc/{process}/net/tcp")).is_ok_and(listening)
    }

    /// Starts a process under test.
    pub(crate) fn start(&self, command: &mut Command) -> Result<std::process::Child> {
        Ok(self.reflector.spawn(command)?)
    }
}
