//! OpenBGPD's portable edition, without a kernel's routes.

use std::fmt::Write;
use std::net::IpAddr;
use std::process::Command;

use anyhow::Result;
use ipnet::IpNet;
use margay_tests::cluster::wait;
use serde_json::Value;

use crate::foreign::{Ability, Daemon, Host, Plan, Role, Seen, announced, answers};
use crate::lab::{AS, BOTH, FOREIGN, PASSWORD, PATIENCE, Transport, address, id};

const BGPD: &str = "/usr/sbin/bgpd";
const BGPCTL: &str = "/usr/sbin/bgpctl";

pub(crate) struct Openbgpd;

fn bgpctl(host: &Host, words: &str) -> Command {
    let mut command = host.command(BGPCTL);
    command.arg("-s").arg(host.folder.join("sock")).args(words.split_whitespace());
    command
}

fn neighbor_of(host: &Host, neighbor: IpAddr) -> Result<Value> {
    let answer = host.ask(&mut bgpctl(host, &format!("-j show neighbor {neighbor}")))?;
    let mut answer: Value = serde_json::from_str(&answer).unwrap_or_default();
    Ok(answer["neighbors"][0].take())
}

/// A path in the answer to `show rib detail`.
fn seen(path: &Value) -> Seen {
    let list = |value: &Value| -> Vec<String> {
        let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|word| Some(word.as_str()?.to_owned())).collect()
    };
    let attribute = |name: &str| {
        let attributes = path["attributes"].as_array().map(Vec::as_slice).unwrap_or_default();
        attributes.iter().find_map(|attribute| attribute.get(name).cloned()).unwrap_or_default()
    };
    Seen {
        next_hop: path["exit_nexthop"].as_str().and_then(|value| value.parse().ok()),
        as_path: path["aspath"]
            .as_str()
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect(),
        local_pref: path["localpref"].as_u64().and_then(|value| value.try_into().ok()),
        originator: attribute("originator").as_str().and_then(|value| value.parse().ok()),
        clusters: list(&attribute("cluster_list")).iter().filter_map(|value| value.parse().ok()).collect(),
        communities: list(&path["communities"]).into_iter().collect(),
    }
}

impl Daemon for Openbgpd {
    fn name(&self) -> &'static str {
        "openbgpd"
    }

    fn programs(&self) -> &'static [&'static str] {
        &[BGPD, BGPCTL]
    }

    fn version(&self) -> [&'static str; 2] {
        [BGPD, "-V"]
    }

    fn cannot(&self) -> &'static [(Ability, &'static str)] {
        &[
            (Ability::SendAgain, "7.7 takes every family for not negotiated when it is asked"),
            (Ability::KeepKeys, "its listening socket has lost the key; it dials again after 120 s"),
            (
                Ability::TreatAsWithdraw,
                "7.7 resets for ORIGIN, and where it says `withdrawn` its parser resets after",
            ),
            (Ability::LinkLocal, "7.7 has no IPv6 next hops for IPv4"),
            (Ability::BeKept, "its graceful restart capability names no family: it only sends End-of-RIB"),
        ]
    }

    fn command(&self, host: &Host, plan: &Plan, _recover: bool) -> Result<Command> {
        let (asn, own) = (plan.asn(), plan.own());
        let mut text = format!(
            "AS {asn}\nrouter-id {}\nlisten on {own}\nfib-update no\nsocket \"{}\"\n",
            id(FOREIGN),
            host.folder.join("sock").display()
        );
        for prefix in BOTH.into_iter().flat_map(announced) {
            let next_hop = address(Transport::of(prefix), FOREIGN);
            writeln!(text, "network {prefix} set {{ nexthop {next_hop} community {AS}:{FOREIGN} }}")?;
        }
        for (_, neighbor) in plan.neighbors() {
            write!(
                text,
                "neighbor {neighbor} {{\n remote-as {AS}\n local-address {own}\n announce IPv4 unicast\n\
                 announce IPv6 unicast\n announce restart yes\n announce enhanced refresh yes\n\
                 announce add-path send all\n announce add-path recv yes\n"
            )?;
            if plan.passive() {
                text += " passive\n";
            }
            if plan.password {
                writeln!(text, " tcp md5sig password {PASSWORD}")?;
            }
            if plan.role == Role::Reflector {
                writeln!(text, " route-reflector {}", id(FOREIGN))?;
            }
            if plan.role == Role::Router {
                // To a direct neighbour it says the address of the other family it takes for its own, which is ::1.
                text += " multihop 2\n";
            }
            text += "}\n";
        }
        text += "allow from any\nallow to any\n";
        if plan.role == Role::Router {
            text += "match to any set nexthop no-modify\n";
        }
        let config = host.write("bgpd.conf", &text)?;
        // It refuses files that others may read, and locks itself into its user's home.
        std::fs::set_permissions(&config, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        std::fs::create_dir_all("/run/openbgpd")?;
        let mut command = host.command(BGPD);
        command.args(["-d", "-v", "-f"]).arg(config);
        Ok(command)
    }

    fn started(&self, host: &Host, _plan: &Plan) -> Result<()> {
        answers(host, || bgpctl(host, "-j show neighbor"), "remote_addr")?;
        // What comes in before is passed on without ORIGINATOR_ID.
        wait(PATIENCE, || {
            let log = std::fs::read_to_string(host.folder.join("log")).unwrap_or_default();
            Ok(log.contains("RDE soft reconfiguration done"))
        })
    }

    fn established(&self, host: &Host, _last: u8, neighbor: IpAddr) -> Result<bool> {
        Ok(neighbor_of(host, neighbor)?["state"] == "Established")
    }

    fn paths(&self, host: &Host, prefix: IpNet) -> Result<Vec<(bool, Seen)>> {
        let answer = host.ask(&mut bgpctl(host, &format!("-j show rib detail {prefix}")))?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let paths = answer["rib"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(paths.iter().map(|path| (path["best"] == true, seen(path))).collect())
    }

    fn invents_local_pref(&self) -> bool {
        true
    }

    fn stamps_on_receipt(&self) -> bool {
        true
    }

    fn announce(&self, host: &Host, _plan: &Plan, prefix: IpNet, up: bool) -> Result<()> {
        let next_hop = address(Transport::of(prefix), FOREIGN);
        let words = if up {
            format!("network add {prefix} nexthop {next_hop} community {AS}:{FOREIGN}")
        } else {
            format!("network delete {prefix}")
        };
        host.ask(&mut bgpctl(host, &words)).map(|_| ())
    }

    fn ask_again(&self, host: &Host, _last: u8, neighbor: IpAddr) -> Result<()> {
        host.ask(&mut bgpctl(host, &format!("neighbor {neighbor} refresh"))).map(|_| ())
    }

    fn retry(&self, host: &Host, neighbor: IpAddr) -> Result<()> {
        host.ask(&mut bgpctl(host, &format!("neighbor {neighbor} up"))).map(|_| ())
    }

    fn last_error(&self, host: &Host, _last: u8, neighbor: IpAddr) -> Result<String> {
        let log = std::fs::read_to_string(host.folder.join("log")).unwrap_or_default();
        let neighbor = neighbor.to_string();
        let mut lines = log.lines().rev();
        let said = lines.find(|line| line.contains(&neighbor) && line.contains("received notification"));
        Ok(said.unwrap_or_default().to_owned())
    }

    fn words(&self, code: u8, subcode: u8) -> String {
        let what = match (code, subcode) {
            (1, 1) => "Header error, synchronization error",
            (3, 1) => "error in UPDATE message, attribute list error",
            (3, 9) => "error in UPDATE message, optional attribute error",
            (3, 10) => "error in UPDATE message, network unacceptable",
            _ => "?",
        };
        format!("received notification: {what}")
    }
}
