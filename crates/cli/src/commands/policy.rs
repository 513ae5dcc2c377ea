//! `policy`, and `policy impact`.

use margay_control::explain::{ImpactChange, ImpactReply, ImpactRequest, SeenChange, Turned};
use margay_control::status::Policy;

use super::daemon;
use crate::config::GlobalArgs;
use crate::files::{FileArgs, place_of};
use crate::output::{OutputArgs, Report, render, table};

/// Names of a group that are shown unless `-o wide` asks for all.
const SHOWN: usize = 3;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: Option<PolicyCommand>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, clap::Subcommand)]
enum PolicyCommand {
    /// What applying files would change for the flows of all endpoints; applies nothing
    Impact(ImpactArgs),
}

#[derive(Debug, clap::Args)]
struct ImpactArgs {
    #[command(flatten)]
    files: FileArgs,
    #[command(flatten)]
    output: OutputArgs,
}

impl ImpactArgs {
    fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let mut report = Report::default();
        let texts = self.files.texts()?;
        let objects = match self.files.resources(&texts)? {
            Ok(objects) => objects,
            Err(errors) => {
                errors.iter().for_each(|error| report.error(error));
                return Ok(report);
            }
        };
        let objects = objects.iter().map(|object| object.resource.to_json()).collect();
        let reply: ImpactReply = daemon(global)?.post("/v1/policy/impact", &ImpactRequest { objects })?;
        report.text = render(self.output.output, &reply, |wide| {
            show_impact(&reply.changes, &texts, wide) + &show_seen(&reply, &texts)
        })?;
        reply.problems.iter().for_each(|problem| report.warn(problem));
        if reply.truncated {
            report.warn("too many groups of endpoints: changes may be missing");
        }
        Ok(report)
    }
}

fn verdict(allowed: bool) -> &'static str {
    if allowed { "allowed" } else { "denied" }
}

/// `allowed -> denied by ...`, with the line of the file the rule is in.
fn show_turned(turned: &Turned, texts: &[(String, String)]) -> String {
    let [before, after] = [turned.allowed_before, turned.allowed_after].map(verdict);
    let place = turned.rule.as_ref().and_then(|rule| place_of(rule, texts));
    let place = place.map(|place| format!(" ({place})")).unwrap_or_default();
    format!("{before} -> {after} by {}{place}\n", turned.by)
}

/// What would become of flows that the node has seen lately.
fn show_seen(reply: &ImpactReply, texts: &[(String, String)]) -> String {
    let line = |change: &SeenChange| {
        let SeenChange { from, to, flow, count, turned } = change;
        format!("  {from} -> {to} {flow}, {count} times: {}", show_turned(turned, texts))
    };
    let changed: usize = reply.lately.iter().map(|change| change.count).sum();
    let lines: String = reply.lately.iter().map(line).collect();
    format!("{changed} of {} flows seen lately on this node would have another verdict\n{lines}", reply.seen)
}

/// One line per change: `shop/a -> shop/b tcp/80: allowed -> denied by ...`.
fn show_impact(changes: &[ImpactChange], texts: &[(String, String)], wide: bool) -> String {
    let names = |names: &[String]| {
        let shown = if wide { names.len() } else { SHOWN };
        let more = names.len().saturating_sub(shown);
        let text = names.iter().take(shown).cloned().collect::<Vec<_>>().join(", ");
        if more > 0 { format!("{text} and {more} more") } else { text }
    };
    let line = |change: &ImpactChange| {
        format!(
            "{} -> {} {}: {}",
            names(&change.from),
            names(&change.to),
            change.flows.join(" "),
            show_turned(&change.turned, texts)
        )
    };
    if changes.is_empty() {
        return "no flow would have another verdict\n".to_owned();
    }
    changes.iter().map(line).collect()
}

impl PolicyArgs {
    pub(crate) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        if let Some(PolicyCommand::Impact(args)) = &self.command {
            return args.run(global);
        }
        let policies: Vec<Policy> = daemon(global)?.get("/v1/policy")?;
        let mut report = Report::text(render(self.output.output, &policies, |_| show(&policies))?);
        for policy in &policies {
            if let Some(reason) = &policy.invalid {
                report.warn(format!("{} can't be read and denies: {reason}", policy.name));
            }
        }
        Ok(report)
    }
}

fn show(policies: &[Policy]) -> String {
    let state = |policy: &Policy| match (&policy.invalid, policy.staged) {
        (Some(_), _) => "invalid",
        (None, true) => "staged",
        (None, false) => "enforced",
    };
    let rows = policies.iter().map(|policy| {
        [
            policy.tier.clone(),
            policy.name.clone(),
            state(policy).to_owned(),
            policy.endpoints.to_string(),
            policy.ingress_rules.to_string(),
            policy.egress_rules.to_string(),
            policy.packets.to_string(),
        ]
    });
    let heads = ["TIER", "POLICY", "STATE", "ENDPOINTS", "INGRESS RULES", "EGRESS RULES", "PACKETS"];
    table(heads, rows.collect(), "policies on this node")
}
