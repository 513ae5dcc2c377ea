//! ExaBGP: says what it is told to say, and reports what it hears; it has no table and decides nothing.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::process::Command;

use anyhow::Result;
use ipnet::IpNet;
use serde_json::Value;

use crate::foreign::{Ability, Daemon, Host, Plan, Seen, announced};
use crate::lab::{AS, BOTH, FOREIGN, PASSWORD, Transport, address, id};

const EXABGP: &str = "/usr/sbin/exabgp";

pub(crate) struct Exabgp;

/// What it has reported, oldest first.
fn heard(host: &Host) -> Vec<Value> {
    let text = std::fs::read_to_string(host.folder.join("heard")).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn tell(host: &Host, line: &str) -> Result<()> {
    let mut file = std::fs::File::options().create(true).append(true).open(host.folder.join("tell"))?;
    Ok(writeln!(file, "{line}")?)
}

fn family(prefix: IpNet) -> &'static str {
    if prefix.addr().is_ipv4() { "ipv4 unicast" } else { "ipv6 unicast" }
}

/// A route as its configuration and its commands have it.
fn route(prefix: IpNet) -> String {
    format!("route {prefix} next-hop {} community [{AS}:{FOREIGN}]", address(Transport::of(prefix), FOREIGN))
}

/// The path identifiers that come with a prefix, null for none. An entry is an object, or plain text where nothing else
/// is known of it.
fn identifiers(entries: &Value, prefix: IpNet) -> Vec<Value> {
    let prefix = prefix.to_string();
    let entries = entries.as_array().map(Vec::as_slice).unwrap_or_default().iter();
    let named = entries.filter(|entry| entry["nlri"] == *prefix || **entry == *prefix);
    named.map(|entry| entry["path-information"].clone()).collect()
}

/// What an UPDATE says about paths to a prefix, by identifier: withdrawn, or a route.
fn changes(update: &Value, prefix: IpNet) -> Vec<(Value, Option<Seen>)> {
    let withdrawn = identifiers(&update["withdraw"][family(prefix)], prefix);
    let announced = update["announce"][family(prefix)].as_object().into_iter().flatten();
    let announced = announced.flat_map(|(next_hop, entries)| {
        let seen = seen(&update["attribute"], next_hop);
        identifiers(entries, prefix).into_iter().map(move |id| (id, Some(seen.clone())))
    });
    withdrawn.into_iter().map(|id| (id, None)).chain(announced).collect()
}

fn seen(attribute: &Value, next_hop: &str) -> Seen {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    // A list in version 4, segments by number in version 5.
    let path = attribute["as-path"].get("0").map_or(&attribute["as-path"], |segment| &segment["value"]);
    let number = |value: &Value| value.as_u64().and_then(|value| value.try_into().ok());
    let pairs = |pair: &Value| Some(format!("{}:{}", pair[0].as_u64()?, pair[1].as_u64()?));
    Seen {
        next_hop: next_hop.parse().ok(),
        as_path: list(path).iter().filter_map(number).collect(),
        local_pref: number(&attribute["local-preference"]),
        originator: attribute["originator-id"].as_str().and_then(|value| value.parse().ok()),
        clusters: list(&attribute["cluster-list"])
            .iter()
            .filter_map(|value| value.as_str()?.parse().ok())
            .collect(),
        communities: list(&attribute["community"]).iter().filter_map(pairs).collect(),
    }
}

impl Daemon for Exabgp {
    fn name(&self) -> &'static str {
        "exabgp"
    }

    fn programs(&self) -> &'static [&'static str] {
        &[EXABGP]
    }

    fn version(&self) -> [&'static str; 2] {
        // Versions 4 and 5 are asked differently.
        ["/usr/bin/python3", "-cfrom exabgp.version import version; print(version)"]
    }

    fn cannot(&self) -> &'static [(Ability, &'static str)] {
        &[
            (Ability::PassOn, "it has no table: every route it sends is configured"),
            (Ability::SendAgain, "4.2 sends BoRR as if it were an UPDATE, and crashes the session"),
            (Ability::TreatAsWithdraw, "it judges no values, and resets for lengths"),
            (Ability::LinkLocal, "it takes no address with a zone"),
            (Ability::KeepOurs, "it has no table to keep a route in"),
        ]
    }

    fn command(&self, host: &Host, plan: &Plan, _recover: bool) -> Result<Command> {
        let own = plan.own();
        let script = "#!/bin/sh\ncd \"$(dirname \"$0\")\"\n: >> tell\n: > heard\ntail -n +1 -f tell &\nexec cat >> heard\n";
        let script = host.write("api.sh", script)?;
        std::fs::write(host.folder.join("tell"), "")?;
        let mut text = format!("process api {{\n run {};\n encoder json;\n}}\n", script.display());
        for (_, neighbor) in plan.neighbors() {
            write!(
                text,
                "neighbor {neighbor} {{\n router-id {};\n local-address {own};\n local-as {};\n peer-as {AS};\n\
                 hold-time 90;\n capability {{\n  graceful-restart 60;\n  route-refresh enable;\n\
                 add-path send/receive;\n }}\n family {{\n  ipv4 unicast;\n  ipv6 unicast;\n }}\n\
                 api {{\n  processes [ api ];\n  neighbor-changes;\n  receive {{\n   parsed;\n   update;\n\
                 notification;\n  }}\n }}\n",
                id(FOREIGN),
                plan.asn()
            )?;
            if plan.passive() {
                text += " passive true;\n listen 179;\n";
            }
            if plan.password {
                writeln!(text, " md5-password '{PASSWORD}';")?;
            }
            text += " static {\n";
            for prefix in BOTH.into_iter().flat_map(announced) {
                writeln!(text, "  {};", route(prefix))?;
            }
            text += " }\n}\n";
        }
        let config = host.write("exabgp.conf", &text)?;
        let mut command = host.command(EXABGP);
        command.arg(config).env("exabgp.daemon.user", "root").env("exabgp.daemon.drop", "false");
        command
            .env("exabgp.api.cli", "false")
            .env("exabgp.log.level", "DEBUG")
            .env("exabgp.log.network", "true");
        Ok(command)
    }

    fn established(&self, host: &Host, _last: u8, neighbor: IpAddr) -> Result<bool> {
        let neighbor = neighbor.to_string();
        let heard = heard(host);
        let last = heard
            .iter()
            .rev()
            .find(|line| line["type"] == "state" && line["neighbor"]["address"]["peer"] == *neighbor);
        Ok(last.is_some_and(|line| line["neighbor"]["state"] == "up"))
    }

    fn paths(&self, host: &Host, prefix: IpNet) -> Result<Vec<(bool, Seen)>> {
        // What each neighbour has said last of each path, in the order of saying.
        let mut said: Vec<(Value, Value, Seen)> = Vec::new();
        for line in heard(host) {
            let neighbor = &line["neighbor"];
            let peer = &neighbor["address"]["peer"];
            if line["type"] == "state" && neighbor["state"] == "down" {
                said.retain(|(of, _, _)| of != peer);
            } else if line["type"] == "update" {
                for (id, change) in changes(&neighbor["message"]["update"], prefix) {
                    said.retain(|(of, known, _)| (of, known) != (peer, &id));
                    said.extend(change.map(|seen| (peer.clone(), id, seen)));
                }
            }
        }
        let last = said.len();
        Ok(said.into_iter().zip(1..).map(|((_, _, seen), number)| (number == last, seen)).collect())
    }

    fn announce(&self, host: &Host, _plan: &Plan, prefix: IpNet, up: bool) -> Result<()> {
        tell(host, &format!("{} {}", if up { "announce" } else { "withdraw" }, route(prefix)))
    }

    fn ask_again(&self, host: &Host, _last: u8, _neighbor: IpAddr) -> Result<()> {
        tell(host, "announce route-refresh ipv4 unicast")
    }

    fn last_error(&self, host: &Host, _last: u8, neighbor: IpAddr) -> Result<String> {
        let neighbor = neighbor.to_string();
        let heard = heard(host);
        let last = heard
            .iter()
            .rev()
            .find(|line| line["type"] == "notification" && line["neighbor"]["address"]["peer"] == *neighbor);
        let said = last.map(|line| &line["neighbor"]["notification"]);
        Ok(said.map(|said| format!("code {} subcode {}", said["code"], said["subcode"])).unwrap_or_default())
    }

    fn words(&self, code: u8, subcode: u8) -> String {
        format!("code {code} subcode {subcode}")
    }
}
