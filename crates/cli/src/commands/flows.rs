//! `flows`.

use anyhow::bail;
use margay_control::flows::{Action, Flow, FlowLine, Peer};

use super::daemon;
use crate::config::GlobalArgs;
use crate::output::{Format, OutputArgs, Report, print_now};

/// The log as it comes, until this command is stopped or the agent ends it.
#[derive(Debug, clap::Args)]
pub(crate) struct FlowsArgs {
    /// Only flows that were denied
    #[arg(long)]
    denied: bool,
    /// Only flows from or to this pod
    #[arg(long, value_name = "NS/POD")]
    pod: Option<String>,
    /// Leave after so many flows
    #[arg(long, value_name = "N")]
    count: Option<usize>,
    #[command(flatten)]
    output: OutputArgs,
}

impl FlowsArgs {
    pub(crate) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let mut lines = daemon(global)?.lines("/v1/flows")?;
        let mut left = self.count.unwrap_or(usize::MAX);
        while left > 0 {
            let Some(line) = lines.next_value::<FlowLine>()? else {
                bail!(
                    "the agent has ended the flow log: it was switched off (flowLogsLocalReporter), or the agent stops"
                );
            };
            match &line {
                FlowLine::Flow(flow) if !self.wants(flow) => continue,
                FlowLine::Flow(_) => left -= 1,
                FlowLine::Lost { .. } => {}
            }
            if !print_now(&self.text(&line)?)? {
                break;
            }
        }
        Ok(Report::default())
    }

    fn wants(&self, flow: &Flow) -> bool {
        let is_pod = |pod: &String| {
            flow.source.pod.as_ref() == Some(pod) || flow.destination.pod.as_ref() == Some(pod)
        };
        (!self.denied || flow.action == Action::Deny) && self.pod.as_ref().is_none_or(is_pod)
    }

    fn text(&self, line: &FlowLine) -> anyhow::Result<String> {
        Ok(match (self.output.output, line) {
            (Format::Json | Format::Yaml, line) => serde_json::to_string(line)? + "\n",
            (_, FlowLine::Lost { lost }) => format!("# flows are missing: {lost}\n"),
            (_, FlowLine::Flow(flow)) => people(flow),
        })
    }
}

fn people(flow: &Flow) -> String {
    let action = match flow.action {
        Action::Allow => "allow",
        Action::Deny => "deny ",
    };
    let (from, to) = (peer(&flow.source), peer(&flow.destination));
    let ends = [("egress", &flow.egress), ("ingress", &flow.ingress)];
    let ends: Vec<String> =
        ends.into_iter().filter_map(|(end, by)| Some(format!("{end}: {}", by.as_ref()?))).collect();
    format!("{} {action} {} {from} -> {to}  {}\n", flow.time, flow.protocol, ends.join("; "))
}

fn peer(peer: &Peer) -> String {
    let address = match (peer.address, peer.port) {
        (address, None) => address.to_string(),
        (address, Some(port)) => std::net::SocketAddr::new(address, port).to_string(),
    };
    match &peer.pod {
        Some(pod) => format!("{pod} ({address})"),
        None => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_both_ends_and_what_decided() {
        let peer = |address: &str, port, pod: Option<&str>| Peer {
            address: address.parse().unwrap(),
            port,
            pod: pod.map(str::to_owned),
        };
        let flow = Flow {
            time: "2026-01-02T03:04:05Z".into(),
            action: Action::Deny,
            protocol: "tcp".into(),
            source: peer("fd00::1", Some(4000), None),
            destination: peer("10.0.0.2", Some(80), Some("shop/web")),
            egress: None,
            ingress: Some("end of tier default".into()),
        };
        assert_eq!(
            people(&flow),
            "2026-01-02T03:04:05Z deny  tcp [fd00::1]:4000 -> shop/web (10.0.0.2:80)  ingress: end of tier default\n"
        );
        let json = serde_json::to_string(&FlowLine::Flow(flow.clone())).unwrap();
        assert_eq!(serde_json::from_str::<FlowLine>(&json).unwrap(), FlowLine::Flow(flow));
    }
}
