//! The CNI verbs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use margay_api::{Key, Kind};
use margay_cni::wiring::Wired;
use margay_control::cni::{AddReply, AddRequest, CheckReply, CheckRequest, CommitReply, CommitRequest};
use margay_daemon::server::Failure;
use margay_ipam::{
    AssignError, Attributes, Eligible, Family, PoolQuery, Purpose, RangeSet, Request as AddressRequest,
    eligible_pools,
};
use margay_netlink::{Netlink, Netns};
use tokio::sync::oneshot;

use super::claims::Wanted;
use super::{Answer, Node, Reserved, Waiting, reply};
use crate::addresses::{AddressError, handle_of, now};
use crate::annotations::{Asked, asked};
use crate::attachments::{Attached, interface_name};
use crate::policy;
use crate::writer::Write;
use crate::{attachments, policy::Input};

/// Longest wait for policy and route of a new endpoint.
const LIVE_TIME: Duration = Duration::from_secs(30);

/// CNI error code of ours: no address can be had.
pub(super) const NO_ADDRESS: u32 = 103;

/// CNI error code of ours: the commit does not fit what was reserved.
const NOT_RESERVED: u32 = 104;

/// How the attempt to give addresses ended.
enum Outcome {
    Done(Result<AddReply, Failure>),
    NeedsBlock(Wanted),
}

impl Node {
    /// Path of the network namespace of the pod with an address.
    pub(super) fn namespace_of(&self, address: IpAddr) -> Result<String, Failure> {
        let mut attached = self.addresses.attached().values();
        let pod = attached.find(|attached| attached.addresses.contains(&address));
        let netns = pod.map(|attached| attached.netns.clone()).filter(|netns| !netns.is_empty());
        netns.ok_or_else(|| {
            let message = format!("{address} is not of a pod of this node: verify where the source runs");
            Failure::bad_request(message)
        })
    }

    /// ADD, phase one.
    pub(super) async fn add(&mut self, request: Box<AddRequest>, answer: Answer<AddReply>) {
        if !self.in_sync {
            let message = "the datastore has not been read yet, so policy cannot be enforced: try again";
            return reply(answer, Err(Failure::try_later(message)));
        }
        // What is in the spool is older: some runtimes use a container's name again.
        self.replay_spool();
        let pod = self.unheard_pod(&request);
        let waiting = Waiting { request, answer, horizon: None };
        match pod {
            Some(key) => self.read_pod(key, waiting),
            None => self.give(waiting, None),
        }
    }

    /// Answers if it can be answered now; if it needs just the block that cannot be had, it fails with this problem.
    pub(super) fn give(&mut self, mut waiting: Waiting, problem: Option<(&Wanted, &str)>) {
        if waiting.answer.is_closed() {
            // Who asked has given up; its DEL may have come already, so nothing would ever be released.
            return;
        }
        let outcome = match (self.try_add(&waiting.request), problem) {
            (Outcome::Done(outcome), _) => outcome,
            (Outcome::NeedsBlock(wanted), Some((missing, problem))) if wanted == *missing => {
                Err(Failure::refused(NO_ADDRESS, problem))
            }
            (Outcome::NeedsBlock(wanted), _) => {
                self.waiting.push(waiting);
                return self.claim(wanted);
            }
        };
        // What it wants may be just what a pod that goes still has: a name, an address.
        if outcome.is_err() && waiting.horizon.is_none() {
            waiting.horizon = self.removal.horizon();
            if waiting.horizon.is_some() {
                return self.deferred.push(waiting);
            }
        }
        if let Err(Ok(_unheard)) = waiting.answer.send(outcome) {
            self.leave_or_warn(&handle_of(&waiting.request.attachment));
        }
    }

    /// Tries again what waited for a block; what needs just the one that cannot be had fails.
    pub(super) fn add_waiting(&mut self, problem: Option<(&Wanted, &str)>) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.give(waiting, problem);
        }
    }

    fn try_add(&mut self, request: &AddRequest) -> Outcome {
        let handle = handle_of(&request.attachment);
        if self.addresses.attached().contains_key(&handle) || self.leaving.contains_key(&handle) {
            let message = format!(
                "interface {} of container {} is attached already: run DEL first",
                request.attachment.ifname, request.attachment.container_id
            );
            return Outcome::Done(Err(Failure::refused(NOT_RESERVED, message)));
        }
        let (namespace, pod) = names(request);
        let namespace_labels = self.cluster.namespace_labels(&namespace);
        let node_labels = self.own_labels();
        let asked = match self.asked(&namespace, &pod) {
            Ok(asked) => asked,
            Err(message) => return Outcome::Done(Err(Failure::refused(NO_ADDRESS, message))),
        };
        if !request.assigned.is_empty() || !asked.unmanaged.is_empty() {
            return Outcome::Done(self.take_assigned(request, asked));
        }
        let pools = self.cluster.bgp.pools_in_force();
        let query = PoolQuery {
            node: &node_labels,
            purpose: Purpose::Workload { namespace: &namespace_labels },
            requested: if asked.pools.is_empty() { &request.pools } else { &asked.pools },
        };
        let eligible = match eligible_pools(&pools, &query) {
            Ok(eligible) => eligible,
            Err(error) => return Outcome::Done(Err(Failure::refused(NO_ADDRESS, error.to_string()))),
        };
        let families = families(&eligible);
        if families.is_empty() {
            let reasons: Vec<String> =
                eligible.excluded.iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
            let reasons = if reasons.is_empty() { "there is none".to_owned() } else { reasons.join("; ") };
            let message = format!(
                "no IPPool may give pod {namespace}/{pod} on node {} an address ({reasons}): \
                 apply an IPPool, or change what excludes it",
                self.config.node
            );
            return Outcome::Done(Err(Failure::refused(NO_ADDRESS, message)));
        }
        let cidrs = eligible.cidrs();
        let reserved = self.cluster.reserved();
        let wanted = AddressRequest {
            handle,
            attributes: Attributes {
                pod: Some(pod),
                namespace: Some(namespace),
                node: Some(self.config.node.clone()),
                interface: Some(request.attachment.ifname.clone()),
                kind: None,
            },
            families: &families,
            addresses: if asked.addresses.is_empty() { &request.requested_ips } else { &asked.addresses },
            pools: &cidrs,
            reserved: &RangeSet::new(&reserved),
            now: now(),
            cooldown: self.cooldown(),
        };
        match self.addresses.assign(&wanted) {
            Ok(addresses) => {
                let (labels, netns) = (request.labels.clone(), request.netns.clone());
                let mtu = self.router.tunnels().pod_mtu;
                let reserved = Reserved { labels, netns, mtu, assigned: None };
                self.reserved.insert(handle_of(&request.attachment), reserved);
                Outcome::Done(Ok(AddReply {
                    addresses: addresses.into_iter().map(Into::into).collect(),
                    host_ifname: interface_name(&handle_of(&request.attachment)),
                    mac: asked.mac.or_else(|| request.mac.clone()),
                    mtu,
                }))
            }
            Err(AddressError::Assign(AssignError::NeedBlock { family, pools })) => {
                Outcome::NeedsBlock(Wanted { family, pools, containing: None })
            }
            Err(AddressError::Assign(AssignError::NotOurs { address, .. })) => {
                let (family, containing) = (Family::of_addr(&address), Some(address));
                Outcome::NeedsBlock(Wanted { family, pools: cidrs, containing })
            }
            Err(error) => Outcome::Done(Err(Failure::refused(NO_ADDRESS, error.to_string()))),
        }
    }

    /// ADD, phase two: answers once route and policy are in the kernel.
    pub(super) async fn commit(&mut self, request: CommitRequest, answer: Answer<CommitReply>) {
        let begun = Instant::now();
        let handle = handle_of(&request.attachment);
        // What phase one said is not in the journal: a pod whose labels are not known would be policed by other rules.
        let held = self.reserved.remove(&handle).filter(|_| !self.leaving.contains_key(&handle));
        let held = held.and_then(|reserved| Some((self.held(&handle, &reserved)?, reserved)));
        let Some((held, Reserved { labels, netns, mtu, assigned })) = held else {
            let message = "nothing is reserved for this attachment: ADD must be asked for first";
            return reply(answer, Err(Failure::refused(NOT_RESERVED, message)));
        };
        let attached = Attached {
            netns,
            namespace: held.namespace,
            pod: held.pod,
            labels,
            addresses: held.addresses,
            interface: request.host_ifname,
            mac: request.mac,
            attachment: request.attachment,
            leaving: false,
            foreign: held.foreign,
        };
        if let Err(error) = self.addresses.attach(attached.clone()) {
            return reply(answer, Err(Failure::try_later(error.to_string())));
        }
        if assigned.is_some() {
            self.originate().await;
        }
        let now = self.router.tunnels().pod_mtu;
        if mtu != now && !attached.foreign && !set_mtu(&attached, now) {
            self.pod_mtu = None;
        }
        let endpoint = self.endpoint(&attached);
        if self.sources(&attached).is_err() {
            self.report_sources();
        }
        let (live, policy_live) = oneshot::channel();
        self.tell_engine(Input::SetLocal(Box::new(endpoint.clone()), Some(live))).await;
        let routes = self.add_routes(&attached);
        let generation = self.update_routes();
        let mut reached = self.forwarding.reached();
        self.writer.push(endpoint.key(), Write::Apply(Box::new(endpoint.into())));
        self.mirror_blocks(&attached.addresses);
        tokio::spawn(async move {
            let both = async {
                policy_live.await.map_err(|_gone| "the policy thread has ended".to_owned())??;
                let waited = reached.wait_for(|reached| reached.has(generation, &routes)).await;
                waited.map(|_| ()).map_err(|_gone| "the forwarding thread has ended".to_owned())
            };
            let outcome = match tokio::time::timeout(LIVE_TIME, both).await {
                Ok(Ok(())) => {
                    let live_after_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                    Ok(CommitReply { live_after_us })
                }
                Ok(Err(reason)) => {
                    Err(Failure::try_later(format!("the endpoint did not become live: {reason}")))
                }
                Err(_elapsed) => Err(Failure::try_later(format!(
                    "policy and route were not in the kernel after {LIVE_TIME:?}: see `margay status` on this node"
                ))),
            };
            reply(answer, outcome);
        });
    }

    /// Wants the routes to a pod, unless another plugin has made them; returns their destinations.
    pub(super) fn add_routes(&mut self, attached: &Attached) -> Vec<IpNet> {
        if attached.foreign {
            return Vec::new();
        }
        for address in &attached.addresses {
            self.router.add_pod(*address, &attached.interface);
        }
        attached.addresses.iter().copied().map(IpNet::from).collect()
    }

    /// CHECK.
    pub(super) async fn check(&self, request: &CheckRequest, answer: Answer<CheckReply>) {
        let attached = self.addresses.attached().get(&handle_of(&request.attachment));
        let Some(attached) = attached.filter(|attached| !attached.leaving).cloned() else {
            let message = format!(
                "container {} has no interface {} of this network on this node",
                request.attachment.container_id, request.attachment.ifname
            );
            return reply(answer, Err(Failure::not_found(message)));
        };
        let key = attachments::endpoint_key(&self.config.node, &attached);
        let engine = self.engine.clone();
        tokio::spawn(async move {
            let snapshot = policy::snapshot(&engine).await;
            let live = snapshot.is_some_and(|snapshot| snapshot.is_live(&key));
            let addresses = attached.addresses.into_iter().map(Into::into).collect();
            reply(answer, Ok(CheckReply { addresses, host_ifname: attached.interface, live }));
        });
    }

    /// What the annotations of a pod ask for.
    pub(super) fn asked(&self, namespace: &str, pod: &str) -> Result<Asked, String> {
        let none = BTreeMap::new();
        let of_pod = self.cluster.pods.get(&(namespace.to_owned(), pod.to_owned()));
        let of_namespace = self.cluster.namespaces.get(namespace);
        asked(
            of_pod.map_or(&none, |pod| &pod.metadata.annotations),
            of_namespace.map_or(&none, |namespace| &namespace.metadata.annotations),
        )
    }

    /// Pods that run get the MTU that new ones would get: what they send has to fit through the tunnels there are now.
    pub(super) fn follow_mtu(&mut self) {
        let mtu = self.router.tunnels().pod_mtu;
        let known = self.own_address().and_then(|address| self.forwarding.underlay().uplink(address));
        if !self.in_sync || known.is_none() || self.pod_mtu == Some(mtu) {
            return;
        }
        let pods = self.addresses.attached().values();
        let pods = pods.filter(|attached| !attached.foreign && !attached.leaving);
        let failed = pods.filter(|attached| !set_mtu(attached, mtu)).count();
        // What failed is tried again.
        self.pod_mtu = (failed == 0).then_some(mtu);
    }

    /// Labels of this node's Node object.
    pub(super) fn own_labels(&self) -> BTreeMap<String, String> {
        let node = self.cluster.bgp.nodes.get(&self.config.node);
        node.map(|node| node.metadata.labels.clone()).unwrap_or_default()
    }
}

/// Both ends of a pod's veth pair; false if one cannot be set.
fn set_mtu(attached: &Attached, mtu: u32) -> bool {
    let wired = Wired {
        host_ifname: &attached.interface,
        ifname: &attached.attachment.ifname,
        mac: attached.mac.parse().ok(),
    };
    // A namespace that cannot be reached from here keeps its own side as it is.
    let pod = Netns::open(&attached.netns).ok();
    let set = wired.set_mtu(pod.as_ref(), mtu);
    if let Err(error) = &set {
        tracing::warn!("MTU {mtu} for pod {}/{}: {error}", attached.namespace, attached.pod);
    }
    set.is_ok()
}

/// Names of all interfaces.
pub(super) fn interfaces() -> Result<BTreeSet<String>, margay_netlink::Error> {
    Ok(Netlink::open()?.links()?.into_iter().map(|link| link.name).collect())
}

/// Namespace and name of the pod; outside Kubernetes the container's id names it.
pub(super) fn names(request: &AddRequest) -> (String, String) {
    let namespace = request.pod_namespace.clone().unwrap_or_else(|| "default".to_owned());
    let pod = request.pod_name.clone().unwrap_or_else(|| request.attachment.container_id.clone());
    (namespace, pod)
}

/// Families of which a pool is open: a pod gets one address of each.
fn families(eligible: &Eligible<'_>) -> Vec<Family> {
    let has = |family| eligible.pools.iter().any(|pool| Family::of(&pool.spec.cidr) == family);
    [Family::V4, Family::V6].into_iter().filter(|family| has(*family)).collect()
}

impl policy::Snapshot {
    /// Whether the endpoint's policy is in the kernel.
    fn is_live(&self, key: &Key) -> bool {
        debug_assert_eq!(key.kind, Kind::WorkloadEndpoint, "endpoints of pods");
        let id = felix_rs::model::EndpointId::Workload {
            namespace: key.namespace.as_deref().unwrap_or_default().into(),
            name: key.name.as_str().into(),
        };
        self.live.contains(&id)
    }
}
