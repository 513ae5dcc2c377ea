//! `policy`.

use margay_control::status::Policy;

use super::daemon;
use crate::config::GlobalArgs;
use crate::output::{OutputArgs, Report, render, table};

#[derive(Debug, clap::Args)]
pub(crate) struct PolicyArgs {
    #[command(flatten)]
    output: OutputArgs,
}

impl PolicyArgs {
    pub(crate) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
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
