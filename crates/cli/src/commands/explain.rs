//! `explain`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use margay_control::explain::{End, ExplainReply, ExplainRequest, Party, Through, Verified};

use super::daemon;
use crate::config::GlobalArgs;
use crate::files::{FileArgs, place_of};
use crate::output::{OutputArgs, Report, render};

#[derive(Debug, clap::Args)]
pub(crate) struct ExplainArgs {
    /// Source
    #[arg(long, value_name = "NS/POD|node:NAME|IP", value_parser = party)]
    from: Party,
    /// Destination
    #[arg(long, value_name = "NS/POD|node:NAME|IP", value_parser = party)]
    to: Party,
    /// Protocol and destination port: tcp/80, udp/53, sctp/9, icmp, or a protocol number
    #[arg(long, value_name = "PROTOCOL/PORT", default_value = "tcp/80", value_parser = port)]
    port: Flow,
    /// Send the packet from the source, a pod of this node, and compare (tcp, udp, sctp, icmp); exit with 1 when the kernel differs
    #[arg(long)]
    verify: bool,
    /// Follow the packet through this node, which it enters by this interface: host endpoints' policies too (doNotTrack, preDNAT,
    /// applyOnForward); not needed for what this node and its pods send
    #[arg(long, value_name = "INTERFACE", conflicts_with = "verify")]
    in_interface: Option<String>,
    /// The same, and it leaves by this one; not needed where a route of Margay's leads
    #[arg(long, value_name = "INTERFACE", conflicts_with = "verify")]
    out_interface: Option<String>,
    /// The same, and destination NAT (a service proxy's) makes its destination this
    #[arg(long, value_name = "IP:PORT", conflicts_with = "verify")]
    dnat_to: Option<SocketAddr>,
    /// Exit with 1 when the flow is denied
    #[arg(long)]
    exit_code: bool,
    /// Files or folders that policies come from: says in which line the rule that decided begins; may be repeated
    #[arg(short, long = "filename", value_name = "FILE|FOLDER|-")]
    filename: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

/// IP protocol number and port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    protocol: u8,
    port: Option<u16>,
}

fn party(text: &str) -> Result<Party, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Party::Address(address));
    }
    if let Some(node) = text.strip_prefix("node:").filter(|name| !name.is_empty()) {
        return Ok(Party::Node(node.to_owned()));
    }
    let named = |part: &str| !part.is_empty() && !part.contains('/');
    match text.split_once('/') {
        Some((namespace, name)) if named(namespace) && named(name) => {
            Ok(Party::Pod { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        None if named(text) => Ok(Party::Pod { namespace: "default".to_owned(), name: text.to_owned() }),
        _ => Err("use namespace/pod, node:name or an IP address".to_owned()),
    }
}

fn port(text: &str) -> Result<Flow, String> {
    let (protocol, port) = match text.split_once(['/', ':']) {
        Some((protocol, port)) => (protocol, Some(port)),
        // A bare number is a port, as in `--port 80`.
        None if text.parse::<u16>().is_ok() => ("tcp", Some(text)),
        None => (text, None),
    };
    let number = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => 6,
        "udp" => 17,
        "sctp" => 132,
        "udplite" => 136,
        "icmp" => 1,
        "icmpv6" => 58,
        other => other.parse::<u8>().map_err(|_not_a_number| {
            format!("{protocol:?} is no protocol: use tcp, udp, sctp, icmp, icmpv6 or a number")
        })?,
    };
    let has_ports = matches!(number, 6 | 17 | 132 | 136);
    let port = match port {
        None if has_ports => return Err(format!("which port? use {protocol}/80")),
        None => None,
        Some(port) => {
            let port = port
                .parse::<u16>()
                .map_err(|_not_a_number| format!("{port:?} is no port: use 0 to 65535"))?;
            Some(port)
        }
    };
    Ok(Flow { protocol: number, port })
}

impl ExplainArgs {
    pub(crate) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let through = Through {
            incoming: self.in_interface.clone(),
            outgoing: self.out_interface.clone(),
            rewritten: self.dnat_to,
        };
        let request = ExplainRequest {
            from: self.from.clone(),
            to: self.to.clone(),
            protocol: self.port.protocol,
            port: self.port.port,
            verify: self.verify,
            through: Some(through).filter(|through| *through != Through::default()),
        };
        let reply: ExplainReply = daemon(global)?.post("/v1/explain", &request)?;
        let files = FileArgs { filename: self.filename.clone(), recursive: false };
        let texts = if self.filename.is_empty() { Vec::new() } else { files.texts()? };
        let text = render(self.output.output, &reply, |wide| show(&reply, &texts, wide))?;
        let differs = reply.verified.is_some_and(|verified| verified.expected != verified.passed);
        Ok(Report { text, failed: differs || self.exit_code && !reply.allowed, ..Report::default() })
    }
}

fn verdict(allowed: bool) -> &'static str {
    if allowed { "ALLOWED" } else { "DENIED" }
}

/// The verdict first; every step of the evaluation with `-o wide`.
fn show(reply: &ExplainReply, texts: &[(String, String)], wide: bool) -> String {
    let mut text = format!("{}: {}\n", verdict(reply.allowed), reply.summary);
    for end in &reply.ends {
        text.push_str(&show_end(end, texts, wide));
    }
    if let Some(route) = &reply.route {
        text.push_str("\nroute: ");
        text.push_str(&route.replace('\n', "\n  "));
        text.push('\n');
    }
    if let Some(Verified { expected, passed }) = reply.verified {
        let (same, kernel) = (if expected == passed { "as" } else { "NOT as" }, verdict(passed));
        text.push_str(&format!(
            "\nverified: this node's kernel {kernel} the packet, {same} its policies say\n"
        ));
    }
    text
}

fn show_end(end: &End, texts: &[(String, String)], wide: bool) -> String {
    let place = end.place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default();
    let mut text = format!(
        "\n{} of {}{place}: {}\n  by {}\n",
        end.direction,
        end.endpoint,
        verdict(end.allowed),
        end.decided_by
    );
    if let Some(rule) = &end.rule {
        let place = place_of(rule, texts).map(|place| format!("{place}, ")).unwrap_or_default();
        text.push_str(&format!("  {place}{}", rule.field));
        let yaml = end.source.as_ref().and_then(|source| serde_saphyr::to_string(source).ok());
        text.push_str(if yaml.is_some() { ":\n" } else { "\n" });
        yaml.iter().flat_map(|yaml| yaml.lines()).for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    if let Some(packets) = end.packets {
        text.push_str(&format!("  that rule has counted {packets} packets\n"));
    }
    if wide {
        end.steps.iter().for_each(|step| text.push_str(&format!("  - {step}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_as_people_write_them() {
        let flow = |protocol, port| Ok(Flow { protocol, port });
        assert_eq!(port("tcp/80"), flow(6, Some(80)));
        assert_eq!(port("UDP:53"), flow(17, Some(53)));
        assert_eq!(port("8080"), flow(6, Some(8080)));
        assert_eq!(port("icmp"), flow(1, None));
        assert_eq!(port("132/9"), flow(132, Some(9)));
        for bad in ["tcp", "tcp/x", "tcp/70000", "quic/443", ""] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ends_of_a_flow() {
        assert_eq!(party("10.0.0.1"), Ok(Party::Address("10.0.0.1".parse().unwrap())));
        let pod =
            |namespace: &str, name: &str| Ok(Party::Pod { namespace: namespace.into(), name: name.into() });
        assert_eq!(party("shop/web-0"), pod("shop", "web-0"));
        assert_eq!(party("web-0"), pod("default", "web-0"));
        assert_eq!(party("node:n1"), Ok(Party::Node("n1".into())));
        for bad in ["", "/", "a/", "/b", "a/b/c"] {
            assert!(party(bad).is_err(), "{bad}");
        }
    }
}
