//! GoBGP: routes are added over its API, and none reaches a kernel.

use std::fmt::Write;
use std::net::IpAddr;
use std::process::Command;

use anyhow::Result;
use ipnet::IpNet;
use serde_json::Value;

use crate::foreign::{Ability, Daemon, Host, Plan, Role, Seen, announced, answers};
use crate::lab::{AS, BOTH, FOREIGN, PASSWORD, Transport, address, id};

const GOBGPD: &str = "/usr/bin/gobgpd";
const GOBGP: &str = "/usr/bin/gobgp";

pub(crate) struct Gobgp;

fn gobgp(host: &Host, words: &str) -> Command {
    let mut command = host.command(GOBGP);
    command.args(words.split_whitespace());
    command
}

fn rib(host: &Host, verb: &str, prefix: IpNet) -> Result<()> {
    let family = if prefix.addr().is_ipv4() { "ipv4" } else { "ipv6" };
    let next_hop = address(Transport::of(prefix), FOREIGN);
    host.ask(&mut gobgp(
        host,
        &format!(
            "global rib -a {family} {verb} {prefix} origin igp nexthop {next_hop} community {AS}:{FOREIGN}"
        ),
    ))
    .map(|_| ())
}

/// The value of a path attribute (type codes of RFC 4271 and later).
fn attribute(path: &Value, code: u64) -> Option<&Value> {
    path["attrs"].as_array()?.iter().find(|attribute| attribute["type"] == code)
}

/// A path in the answer to `global rib`.
fn seen(path: &Value) -> Seen {
    let value = |code| attribute(path, code).map(|attribute| &attribute["value"]);
    let next_hop = attribute(path, 3).or_else(|| attribute(path, 14));
    let numbers = |list: &Value| -> Vec<u32> {
        let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().filter_map(|value| value.as_u64()?.try_into().ok()).collect()
    };
    let path_of = attribute(path, 2).map(|path| path["as_paths"][0]["asns"].clone()).unwrap_or_default();
    Seen {
        next_hop: next_hop.and_then(|attribute| attribute["nexthop"].as_str()?.parse().ok()),
        as_path: numbers(&path_of),
        local_pref: value(5).and_then(|value| value.as_u64()?.try_into().ok()),
        originator: value(9).and_then(|value| value.as_str()?.parse().ok()),
        clusters: value(10)
            .and_then(Value::as_array)
            .map(|list| list.iter().filter_map(|value| value.as_str()?.parse().ok()).collect())
            .unwrap_or_default(),
        communities: attribute(path, 8)
            .map(|attribute| numbers(&attribute["communities"]))
            .unwrap_or_default()
            .into_iter()
            .map(|value| format!("{}:{}", value >> 16, value & 0xffff))
            .collect(),
    }
}

impl Daemon for Gobgp {
    fn name(&self) -> &'static str {
        "gobgp"
    }

    fn programs(&self) -> &'static [&'static str] {
        &[GOBGPD, GOBGP]
    }

    fn version(&self) -> [&'static str; 2] {
        [GOBGPD, "--version"]
    }

    fn cannot(&self) -> &'static [(Ability, &'static str)] {
        &[
            (Ability::AskAgain, "it evaluates again what it has kept, and never asks"),
            (
                Ability::LinkLocal,
                "its unnumbered sessions take whatever neighbour the kernel knows on the interface",
            ),
        ]
    }

    fn command(&self, host: &Host, plan: &Plan, recover: bool) -> Result<Command> {
        let (asn, own) = (plan.asn(), plan.own());
        let mut text = format!(
            "[global.config]\nas = {asn}\nrouter-id = \"{}\"\nlocal-address-list = [\"{own}\"]\n",
            id(FOREIGN)
        );
        for (_, neighbor) in plan.neighbors() {
            write!(
                text,
                "[[neighbors]]\n[neighbors.config]\nneighbor-address = \"{neighbor}\"\npeer-as = {AS}\n"
            )?;
            if plan.password {
                writeln!(text, "auth-password = \"{PASSWORD}\"")?;
            }
            write!(
                text,
                "[neighbors.timers.config]\nconnect-retry = 5\nidle-hold-time-after-reset = 1\n\
                 [neighbors.transport.config]\nlocal-address = \"{own}\"\npassive-mode = {}\n\
                 [neighbors.error-handling.config]\ntreat-as-withdraw = true\n\
                 [neighbors.graceful-restart.config]\nenabled = true\nrestart-time = 60\n\
                 deferral-time = 5\nnotification-enabled = true\n",
                plan.passive()
            )?;
            if plan.role == Role::Reflector {
                write!(
                    text,
                    "[neighbors.route-reflector.config]\nroute-reflector-client = true\n\
                     route-reflector-cluster-id = \"{}\"\n",
                    id(FOREIGN)
                )?;
            }
            for family in ["ipv4-unicast", "ipv6-unicast"] {
                write!(
                    text,
                    "[[neighbors.afi-safis]]\n[neighbors.afi-safis.config]\nafi-safi-name = \"{family}\"\n\
                     [neighbors.afi-safis.mp-graceful-restart.config]\nenabled = true\n\
                     [neighbors.afi-safis.add-paths.config]\nsend-max = 8\nreceive = true\n"
                )?;
            }
        }
        let config = host.write("gobgpd.toml", &text)?;
        let mut command = host.command(GOBGPD);
        command.args(["-t", "toml", "-l", "debug", "--api-hosts", "127.0.0.1:50051", "-f"]).arg(config);
        if recover {
            command.arg("-r");
        }
        Ok(command)
    }

    fn started(&self, host: &Host, _plan: &Plan) -> Result<()> {
        answers(host, || gobgp(host, "global -j"), "asn")?;
        BOTH.into_iter().flat_map(announced).try_for_each(|prefix| rib(host, "add", prefix))
    }

    fn established(&self, host: &Host, _last: u8, neighbor: IpAddr) -> Result<bool> {
        let answer = host.ask(&mut gobgp(host, &format!("neighbor {neighbor} -j")))?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        // api/gobgp.proto, PeerState.SessionState.
        Ok(answer["state"]["session_state"] == 6)
    }

    fn paths(&self, host: &Host, prefix: IpNet) -> Result<Vec<(bool, Seen)>> {
        let family = if prefix.addr().is_ipv4() { "ipv4" } else { "ipv6" };
        let answer = host.ask(&mut gobgp(host, &format!("global rib {prefix} -a {family} -j")))?;
        let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
        let paths = answer[prefix.to_string()].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(paths.iter().map(|path| (path["best"] == true, seen(path))).collect())
    }

    fn announce(&self, host: &Host, _plan: &Plan, prefix: IpNet, up: bool) -> Result<()> {
        rib(host, if up { "add" } else { "del" }, prefix)
    }

    fn ask_again(&self, host: &Host, _last: u8, neighbor: IpAddr) -> Result<()> {
        host.ask(&mut gobgp(host, &format!("neighbor {neighbor} softresetin"))).map(|_| ())
    }

    fn last_error(&self, host: &Host, _last: u8, neighbor: IpAddr) -> Result<String> {
        let log = std::fs::read_to_string(host.folder.join("log")).unwrap_or_default();
        let neighbor = neighbor.to_string();
        let mut lines = log.lines().rev();
        let said = lines.find(|line| line.contains(&neighbor) && line.contains("received notification"));
        let said: Value = serde_json::from_str(said.unwrap_or_default()).unwrap_or_default();
        Ok(format!("code {} subcode {}", said["Code"], said["Subcode"]))
    }

    fn words(&self, code: u8, subcode: u8) -> String {
        format!("code {code} subcode {subcode}")
    }
}
