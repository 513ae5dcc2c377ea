//! FRRouting's bgpd, with zebra where it does not do without: it forwards nothing here.

use std::fmt::Write;
use std::net::IpAddr;
use std::process::Command;

use anyhow::Result;
use ipnet::IpNet;
use serde_json::Value;

use crate::foreign::{Ability, Daemon, Host, Plan, Role, Seen, announced, answers};
use crate::lab::{AS, FOREIGN, INTERFACE, PASSWORD, Transport, address, id};

const BGPD: &str = "/usr/lib/frr/bgpd";
const ZEBRA: &str = "/usr/lib/frr/zebra";
const VTYSH: &str = "/usr/bin/vtysh";

pub(crate) struct Frr;

fn vtysh(host: &Host, lines: &[&str]) -> Command {
    let mut command = host.command(VTYSH);
    command.arg("--vty_socket").arg(&host.folder).args(["-d", "bgpd"]);
    lines.iter().for_each(|line| {
        command.args(["-c", line]);
    });
    command
}

fn neighbor_of(host: &Host, neighbor: IpAddr) -> Result<Value> {
    let answer = host.ask(&mut vtysh(host, &[&format!("show bgp neighbors {neighbor} json")]))?;
    let mut all: Value = serde_json::from_str(&answer).unwrap_or_default();
    Ok(all[neighbor.to_string()].take())
}

/// Version 8 takes every next hop for reachable as long as nobody tells it otherwise; later ones know none.
fn needs_zebra(host: &Host) -> Result<bool> {
    let said = host.command(BGPD).arg("--version").output()?.stdout;
    Ok(!String::from_utf8_lossy(&said).contains("version 8."))
}

/// A path in the answer to `show bgp ... json`.
fn seen(path: &Value) -> Seen {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let hops = path["nexthops"].as_array().map(Vec::as_slice).unwrap_or_default();
    let global = hops.iter().find(|hop| hop["scope"] != "link-local");
    let clusters = path["clusterList"]["list"].as_array().map(Vec::as_slice).unwrap_or_default();
    Seen {
        next_hop: global.or(hops.first()).and_then(|hop| hop["ip"].as_str()?.parse().ok()),
        as_path: text(&path["aspath"]["string"])
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect(),
        local_pref: path["locPrf"].as_u64().and_then(|value| value.try_into().ok()),
        originator: path["originatorId"].as_str().and_then(|value| value.parse().ok()),
        clusters: clusters.iter().filter_map(|value| value.as_str()?.parse().ok()).collect(),
        communities: text(&path["community"]["string"]).split_whitespace().map(str::to_owned).collect(),
    }
}

impl Daemon for Frr {
    fn name(&self) -> &'static str {
        "frr"
    }

    fn programs(&self) -> &'static [&'static str] {
        &[BGPD, ZEBRA, VTYSH]
    }

    fn version(&self) -> [&'static str; 2] {
        [BGPD, "--version"]
    }

    fn cannot(&self) -> &'static [(Ability, &'static str)] {
        &[]
    }

    fn command(&self, host: &Host, plan: &Plan, _recover: bool) -> Result<Command> {
        let (asn, own) = (plan.asn(), plan.own());
        let six = match plan.interface() {
            Some(_) => String::new(),
            None => format!("set ipv6 next-hop global {}", address(Transport::V6, FOREIGN)),
        };
        let mut text = format!(
            "ip prefix-list own permit 10.50.0.0/16 le 32\nipv6 prefix-list own permit fd00:50::/32 le 128\n\
             route-map four permit 10\n match ip address prefix-list own\n set ip next-hop {}\n\
             set community {AS}:{FOREIGN}\nroute-map four permit 20\n\
             route-map six permit 10\n match ipv6 address prefix-list own\n {}\n\
             set community {AS}:{FOREIGN}\nroute-map six permit 20\n\
             router bgp {asn}\n bgp router-id {}\n no bgp ebgp-requires-policy\n no bgp network import-check\n\
             no bgp default ipv4-unicast\n bgp graceful-restart\n bgp graceful-restart preserve-fw-state\n bgp graceful-restart select-defer-time 1\n\
             coalesce-time 0\n",
            address(Transport::V4, FOREIGN),
            six,
            id(FOREIGN)
        );
        for (_, neighbor) in plan.neighbors() {
            write!(
                text,
                " neighbor {neighbor} remote-as {AS}\n neighbor {neighbor} timers connect 1\n\
                 neighbor {neighbor} advertisement-interval 0\n neighbor {neighbor} disable-connected-check\n"
            )?;
            match plan.interface() {
                Some(interface) => write!(
                    text,
                    " neighbor {neighbor} interface {interface}\n\
                     neighbor {neighbor} capability extended-nexthop\n"
                )?,
                None => writeln!(text, " neighbor {neighbor} update-source {own}")?,
            }
            if plan.passive() {
                writeln!(text, " neighbor {neighbor} passive")?;
            }
            if plan.password {
                writeln!(text, " neighbor {neighbor} password {PASSWORD}")?;
            }
        }
        for (family, map, prefixes) in
            [("ipv4", "four", announced(Transport::V4)), ("ipv6", "six", announced(Transport::V6))]
        {
            writeln!(text, " address-family {family} unicast")?;
            for prefix in prefixes {
                writeln!(text, "  network {prefix}")?;
            }
            for (_, neighbor) in plan.neighbors() {
                write!(
                    text,
                    "  neighbor {neighbor} activate\n  neighbor {neighbor} route-map {map} out\n\
                     neighbor {neighbor} addpath-tx-all-paths\n"
                )?;
                if plan.role == Role::Reflector {
                    writeln!(text, "  neighbor {neighbor} route-reflector-client")?;
                }
            }
            text += " exit-address-family\n";
        }
        let config = host.write("bgpd.conf", &text)?;
        let mut command = host.command(BGPD);
        if plan.interface().is_some() || needs_zebra(host)? {
            // Bgpd counts on zebra from the first moment, and on a link-local address beside each IPv6 one; zebra on a
            // user and a folder of its own.
            let own = host.folder.join("zebra");
            let script = "#!/bin/sh\ninstall -d -o frr -g frr \"$1\"\ncd \"$1\"\nrm -f zserv.api\n\
                          ip address replace \"$2\" dev \"$3\" nodad\n\
                          \"$4\" -P 0 -z zserv.api --vty_socket . -i pid &\n\
                          until [ -S zserv.api ]; do sleep 0.05; done\nshift 4\nexec \"$@\"\n";
            let zebra = host.write("zebra.sh", script)?;
            let socket = own.join("zserv.api");
            command = host.command(zebra);
            command.arg(own).arg(format!("{}/64", address(Transport::Link, FOREIGN))).arg(INTERFACE);
            command.arg(ZEBRA).arg(BGPD).arg("-z").arg(socket);
        } else {
            command.arg("-Z");
        }
        command.args(["-n", "-S", "-P", "0", "-f"]).arg(config);
        command.arg("-i").arg(host.folder.join("bgpd.pid")).arg("--vty_socket").arg(&host.folder);
        command.args(["--log", "stdout"]);
        Ok(command)
    }

    fn started(&self, host: &Host, _plan: &Plan) -> Result<()> {
        answers(host, || vtysh(host, &["show bgp summary json"]), "routerId")
    }

    fn established(&self, host: &Host, _last: u8, neighbor: IpAddr) -> Result<bool> {
        Ok(neighbor_of(host, neighbor)?["bgpState"] == "Established")
    }

    fn paths(&self, host: &Host, prefix: IpNet) -> Result<Vec<(bool, Seen)>> {
        let family = if prefix.addr().is_ipv4() { "ipv4" } else { "ipv6" };
        let answer = host.ask(&mut vtysh(host, &[&format!("show bgp {family} unicast {prefix} json")]))?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let paths = answer["paths"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(paths.iter().map(|path| (path["bestpath"]["overall"] == true, seen(path))).collect())
    }

    fn announce(&self, host: &Host, plan: &Plan, prefix: IpNet, up: bool) -> Result<()> {
        let family = if prefix.addr().is_ipv4() { "ipv4" } else { "ipv6" };
        let router = format!("router bgp {}", plan.asn());
        let family = format!("address-family {family} unicast");
        let network = format!("{}network {prefix}", if up { "" } else { "no " });
        let lines = ["configure terminal", &router, &family, &network];
        host.ask(&mut vtysh(host, &lines)).map(|_| ())
    }

    fn ask_again(&self, host: &Host, _last: u8, neighbor: IpAddr) -> Result<()> {
        host.ask(&mut vtysh(host, &[&format!("clear bgp {neighbor} soft in")])).map(|_| ())
    }

    fn last_error(&self, host: &Host, _last: u8, neighbor: IpAddr) -> Result<String> {
        let status = neighbor_of(host, neighbor)?;
        let field = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
        Ok(format!("{} {}", field("lastErrorCodeSubcode"), field("lastResetDueTo")))
    }

    fn words(&self, code: u8, subcode: u8) -> String {
        format!("{code:02X}{subcode:02X} BGP Notification received")
    }
}
