//! `endpoints`.

use margay_control::status::Endpoint;

use super::daemon;
use crate::config::GlobalArgs;
use crate::output::{OutputArgs, Report, comma, dynamic_table, render};

#[derive(Debug, clap::Args)]
pub(crate) struct EndpointsArgs {
    #[command(flatten)]
    output: OutputArgs,
}

impl EndpointsArgs {
    pub(crate) fn run(&self, global: &GlobalArgs) -> anyhow::Result<Report> {
        let endpoints: Vec<Endpoint> = daemon(global)?.get("/v1/endpoints")?;
        Ok(Report::text(render(self.output.output, &endpoints, |wide| show(&endpoints, wide))?))
    }
}

fn show(endpoints: &[Endpoint], wide: bool) -> String {
    if endpoints.is_empty() {
        return "No pods on this node.\n".to_owned();
    }
    let mut heads = vec!["NAMESPACE", "POD", "ADDRESSES", "INTERFACE", "LIVE", "POLICIES"];
    if wide {
        heads.push("ENDPOINT");
    }
    let row = |endpoint: &Endpoint| {
        let mut cells = vec![
            endpoint.namespace.clone(),
            endpoint.pod.clone(),
            comma(&endpoint.addresses),
            endpoint.interface.clone(),
            if endpoint.live { "yes" } else { "no" }.to_owned(),
            if wide { comma(&endpoint.policies) } else { endpoint.policies.len().to_string() },
        ];
        if wide {
            cells.push(endpoint.name.clone());
        }
        cells
    };
    dynamic_table(&heads, endpoints.iter().map(row).collect())
}
