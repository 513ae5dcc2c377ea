//! What the control API shows.

use std::collections::BTreeMap;

use felix_rs::model::{EndpointId, LocalEndpoint, PolicyId};
use felix_rs::rules::Owner;
use margay_control::status::{Endpoint, IpamAddress, IpamBlock, IpamStatus, Policy};
use margay_daemon::server::Failure;

use super::{Answer, Node, reply};
use crate::addresses::now;
use crate::attachments;
use crate::policy::{self, Snapshot};

impl Node {
    /// Blocks and addresses of this node.
    pub(super) fn ipam_status(&self) -> IpamStatus {
        let pools = self.cluster.bgp.pools_in_force();
        let pool_of = |cidr: &ipnet::IpNet| {
            let pool = pools.iter().find(|pool| pool.spec.cidr.contains(cidr));
            pool.map_or_else(|| "(deleted)".to_owned(), |pool| pool.metadata.name.clone())
        };
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let allocator = self.addresses.allocator();
        IpamStatus {
            node: self.config.node.clone(),
            blocks: allocator
                .usage(now(), self.cooldown())
                .into_iter()
                .map(|usage| IpamBlock {
                    cidr: usage.cidr,
                    pool: pool_of(&usage.cidr),
                    used: count(usage.used),
                    cooling: count(usage.cooling),
                    total: count(usage.total),
                })
                .collect(),
            addresses: allocator
                .owners()
                .flat_map(|(handle, owned)| {
                    let attributes = &owned.attributes;
                    let pod = attributes.namespace.as_ref().zip(attributes.pod.as_ref());
                    owned.addresses.iter().map(move |address| IpamAddress {
                        address: *address,
                        handle: handle.to_string(),
                        pod: pod.map(|(namespace, pod)| format!("{namespace}/{pod}")),
                    })
                })
                .collect(),
        }
    }

    /// Local endpoints with their policies.
    pub(super) fn endpoints(&self, answer: Answer<Vec<Endpoint>>) {
        let attached: Vec<_> = self.addresses.attached().values().cloned().collect();
        let node = self.config.node.clone();
        let engine = self.engine.clone();
        tokio::spawn(async move {
            let Some(snapshot) = policy::snapshot(&engine).await else {
                return reply(
                    answer,
                    Err(Failure::try_later("the policy thread has ended: restart the agent")),
                );
            };
            let list = attached.into_iter().map(|attached| {
                let key = attachments::endpoint_key(&node, &attached);
                let id = EndpointId::Workload {
                    namespace: attached.namespace.as_str().into(),
                    name: key.name.as_str().into(),
                };
                let enforced = snapshot.state.endpoints.get(&id);
                Endpoint {
                    namespace: attached.namespace,
                    pod: attached.pod,
                    name: key.name,
                    interface: attached.interface,
                    addresses: attached.addresses,
                    live: snapshot.live.contains(&id),
                    policies: enforced.map(|endpoint| policies_of(endpoint)).unwrap_or_default(),
                }
            });
            reply(answer, Ok(list.collect()));
        });
    }

    /// Policies in force on this node.
    pub(super) fn policies(&self, answer: Answer<Vec<Policy>>) {
        let engine = self.engine.clone();
        tokio::spawn(async move {
            match policy::snapshot(&engine).await {
                Some(snapshot) => reply(answer, Ok(policy_list(&snapshot))),
                None => {
                    reply(answer, Err(Failure::try_later("the policy thread has ended: restart the agent")))
                }
            }
        });
    }
}

fn policies_of(endpoint: &LocalEndpoint) -> Vec<String> {
    let mut names = Vec::new();
    for tier in &endpoint.policy.tiers {
        for id in tier.ingress.iter().chain(&tier.egress) {
            let name = format!("{}/{id}", tier.name);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

fn policy_list(snapshot: &Snapshot) -> Vec<Policy> {
    let mut endpoints: BTreeMap<&PolicyId, u64> = BTreeMap::new();
    for endpoint in snapshot.state.endpoints.values() {
        let mut ids: Vec<&PolicyId> =
            endpoint.policy.tiers.iter().flat_map(|tier| tier.ingress.iter().chain(&tier.egress)).collect();
        ids.sort();
        ids.dedup();
        for id in ids {
            *endpoints.entry(id).or_default() += 1;
        }
    }
    let packets = |wanted: &PolicyId| {
        let of_policy = snapshot
            .packets
            .iter()
            .filter(|(origin, _)| matches!(&origin.owner, Owner::Policy(id) if id == wanted));
        of_policy.map(|(_, packets)| *packets).sum()
    };
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    snapshot
        .state
        .policies
        .values()
        .map(|policy| Policy {
            tier: policy.tier.as_ref().to_owned(),
            name: policy.id.to_string(),
            staged: policy.staged,
            endpoints: endpoints.get(&policy.id).copied().unwrap_or_default(),
            ingress_rules: count(policy.ingress.len()),
            egress_rules: count(policy.egress.len()),
            packets: packets(&policy.id),
            invalid: policy.invalid.clone(),
        })
        .collect()
}
