//! BIRD 2, and 3.

use std::fmt::Write;
use std::net::IpAddr;
use std::process::Command;

use anyhow::Result;
use ipnet::IpNet;

use crate::foreign::{Ability, Daemon, Host, Plan, Role, Seen, announced, answers};
use crate::lab::{AS, BOTH, FOREIGN, PASSWORD, Transport, address, id};

const BIRD: &str = "/usr/sbin/bird";
const BIRDC: &str = "/usr/sbin/birdc";

pub(crate) struct Bird;

fn birdc(host: &Host, question: &str) -> Command {
    let mut command = host.command(BIRDC);
    command.arg("-s").arg(host.folder.join("bird.ctl")).arg(question);
    command
}

/// The protocol that announces a prefix.
fn name(prefix: IpNet) -> String {
    let letters = prefix.addr().to_string().replace(['.', ':'], "_");
    format!("static_{letters}")
}

/// The value behind a name in the answer to `show route ... all`.
fn value<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "))
}

/// What version 3 says of routes in the words of version 2.
fn in_older_words(answer: String) -> String {
    if !answer.starts_with("BIRD 3") {
        return answer;
    }
    let answer = answer.replace("\tpreference: ", "\tType: ");
    answer.replace("\tbgp_path", "\tBGP.as_path").replace("\tbgp_", "\tBGP.")
}

/// A path of BGP in the answer to `show route ... all`.
fn seen(answer: &str) -> Option<Seen> {
    let mut hops = value(answer, "BGP.next_hop")?.split_whitespace().filter_map(|word| word.parse().ok());
    let words = |name| value(answer, name).unwrap_or_default().split_whitespace();
    Some(Seen {
        // A link-local one is behind a global one that is unspecified.
        next_hop: hops.find(|hop: &IpAddr| !hop.is_unspecified()),
        as_path: words("BGP.as_path").filter_map(|word| word.parse().ok()).collect(),
        local_pref: words("BGP.local_pref").find_map(|word| word.parse().ok()),
        originator: words("BGP.originator_id").find_map(|word| word.parse().ok()),
        clusters: words("BGP.cluster_list").filter_map(|word| word.parse().ok()).collect(),
        communities: words("BGP.community")
            .map(|word| word.trim_matches(['(', ')']).replace(',', ":"))
            .collect(),
    })
}

impl Daemon for Bird {
    fn name(&self) -> &'static str {
        "bird"
    }

    fn programs(&self) -> &'static [&'static str] {
        &[BIRD, BIRDC]
    }

    fn version(&self) -> [&'static str; 2] {
        [BIRD, "--version"]
    }

    fn cannot(&self) -> &'static [(Ability, &'static str)] {
        &[]
    }

    fn command(&self, host: &Host, plan: &Plan, recover: bool) -> Result<Command> {
        let own = plan.own();
        let mut text = format!(
            "router id {};\nlog stderr all;\nprotocol device {{}}\nprotocol direct {{ ipv4; ipv6; }}\n",
            id(FOREIGN)
        );
        for prefix in BOTH.into_iter().flat_map(announced) {
            let channel = if prefix.addr().is_ipv4() { "ipv4" } else { "ipv6" };
            writeln!(
                text,
                "protocol static {} {{ {channel}; route {prefix} blackhole {{\n\
                 bgp_community.add(({AS}, {FOREIGN})); }}; }}",
                name(prefix)
            )?;
        }
        let (next_hop, more) = match plan.interface() {
            Some(_) => (Transport::Link, "extended next hop on;"),
            None => (Transport::V6, ""),
        };
        let channel = |name: &str, transport, more: &str| {
            format!(
                "{name} {{ import all; add paths on; {more} export filter {{\n if source = RTS_DEVICE then reject;\n\
                 if source = RTS_STATIC then bgp_next_hop = {}; accept; }}; }};\n",
                address(transport, FOREIGN)
            )
        };
        for (last, neighbor) in plan.neighbors() {
            let asn = plan.asn();
            write!(
                text,
                "protocol bgp p{last} {{\n local {own} as {asn};\n neighbor {neighbor} as {AS};\n strict bind yes;\n\
                 graceful restart on;\n connect delay time 1;\n connect retry time 1;\n error wait time 1,2;\n"
            )?;
            if let Some(interface) = plan.interface() {
                writeln!(text, "interface \"{interface}\";")?;
            }
            if plan.password {
                writeln!(text, "password \"{PASSWORD}\";")?;
            }
            if plan.passive() {
                text += "passive yes;\n";
            }
            if plan.role == Role::Reflector {
                text += "rr client;\n";
            }
            text += &channel("ipv4", Transport::V4, more);
            text += &channel("ipv6", next_hop, "");
            text += "}\n";
        }
        let config = host.write("bird.conf", &text)?;
        let mut command = host.command(BIRD);
        command.arg("-f").arg("-c").arg(config).arg("-s").arg(host.folder.join("bird.ctl"));
        if recover {
            command.arg("-R");
        }
        Ok(command)
    }

    fn started(&self, host: &Host, _plan: &Plan) -> Result<()> {
        answers(host, || birdc(host, "show status"), "Daemon is up")
    }

    fn established(&self, host: &Host, last: u8, _neighbor: IpAddr) -> Result<bool> {
        Ok(host.ask(&mut birdc(host, &format!("show protocols p{last}")))?.contains("Established"))
    }

    fn paths(&self, host: &Host, prefix: IpNet) -> Result<Vec<(bool, Seen)>> {
        let answer = in_older_words(host.ask(&mut birdc(host, &format!("show route {prefix} all")))?);
        // Each begins with what it does with packets; the best is the first.
        let paths = answer.split("\tType: ").skip(1);
        Ok(paths.filter_map(seen).enumerate().map(|(index, seen)| (index == 0, seen)).collect())
    }

    fn invents_local_pref(&self) -> bool {
        true
    }

    fn announce(&self, host: &Host, _plan: &Plan, prefix: IpNet, up: bool) -> Result<()> {
        let verb = if up { "enable" } else { "disable" };
        host.ask(&mut birdc(host, &format!("{verb} {}", name(prefix)))).map(|_| ())
    }

    fn ask_again(&self, host: &Host, last: u8, _neighbor: IpAddr) -> Result<()> {
        // The first is version 2's, the second version 3's.
        for words in ["reload in", "reload filters in"] {
            if host.ask(&mut birdc(host, &format!("{words} p{last}")))?.contains("reloading") {
                break;
            }
        }
        Ok(())
    }

    fn last_error(&self, host: &Host, last: u8, _neighbor: IpAddr) -> Result<String> {
        let answer = host.ask(&mut birdc(host, &format!("show protocols all p{last}")))?;
        Ok(value(&answer, "Last error").unwrap_or_default().trim().to_owned())
    }

    fn words(&self, code: u8, subcode: u8) -> String {
        let what = match (code, subcode) {
            (1, 1) => "Connection not synchronized",
            (3, 1) => "Malformed attribute list",
            (3, 9) => "Optional attribute error",
            (3, 10) => "Invalid network field",
            _ => "?",
        };
        format!("Received: {what}")
    }
}
