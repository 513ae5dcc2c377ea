//! Enforced states for the lab, as the calculation would hand them over.

use std::collections::BTreeSet;
use std::sync::Arc;

use felix_rs::model::{
    ActivePolicy, ActiveProfile, EndpointId, EndpointPolicy, EndpointTier, EnforcedState, LocalEndpoint,
    NodeSettings, PeerMatch, PolicyId, PolicyRule, PortRange, ProfileId, RuleAction, SetId, SetKind,
    SetMember, SharedPeer, TierDefault,
};

use crate::lab::{Lab, NODE_UPLINK, Pod};

pub(crate) const ALLOW_ALL: &str = "kns.open";

pub(crate) fn rule(action: RuleAction) -> PolicyRule {
    PolicyRule::any(action)
}

pub(crate) fn ports(ranges: &[u16]) -> SharedPeer {
    SharedPeer::from(PeerMatch {
        ports: ranges.iter().map(|port| PortRange { first: *port, last: *port }).collect(),
        ..PeerMatch::default()
    })
}

pub(crate) fn in_set(name: &str) -> SharedPeer {
    PeerMatch { sets: vec![SetId(name.into())], ..PeerMatch::default() }.into()
}

pub(crate) fn policy_id(name: &str) -> PolicyId {
    PolicyId { kind: "NetworkPolicy".into(), namespace: Some("default".into()), name: name.into() }
}

pub(crate) fn policy(name: &str, ingress: Vec<PolicyRule>, egress: Vec<PolicyRule>) -> ActivePolicy {
    let number =
        |rules: Vec<PolicyRule>| (0..).zip(rules).map(|(index, rule)| PolicyRule { index, ..rule }).collect();
    ActivePolicy {
        id: policy_id(name),
        tier: "default".into(),
        staged: false,
        ingress: number(ingress),
        egress: number(egress),
        do_not_track: false,
        pre_dnat: false,
        apply_on_forward: false,
        invalid: None,
    }
}

pub(crate) fn tier(name: &str, default: TierDefault, ingress: &[&str], egress: &[&str]) -> EndpointTier {
    let ids = |names: &[&str]| names.iter().map(|name| policy_id(name)).collect();
    EndpointTier { name: name.into(), default, ingress: ids(ingress), egress: ids(egress) }
}

pub(crate) fn endpoint_id(pod: &Pod) -> EndpointId {
    EndpointId::Workload { namespace: "default".into(), name: pod.name.into() }
}

pub(crate) fn endpoint(pod: &Pod, tiers: Vec<EndpointTier>) -> LocalEndpoint {
    LocalEndpoint {
        id: endpoint_id(pod),
        interface: pod.interface.as_str().into(),
        addresses: [pod.v4, pod.v6].into(),
        allowed_sources: [].into(),
        policy: Arc::new(EndpointPolicy { tiers, profiles: vec![ProfileId(ALLOW_ALL.into())] }),
        untracked: Arc::default(),
        pre_dnat: Arc::default(),
        forward: Arc::default(),
    }
}

/// Changes to a state under construction.
pub(crate) trait Build {
    fn with_endpoint(self, endpoint: LocalEndpoint) -> Self;
    fn with_policy(self, policy: ActivePolicy) -> Self;
    fn with_set(self, name: &str, pods: &[&Pod]) -> Self;
    fn with_members(self, name: &str, members: BTreeSet<SetMember>) -> Self;
    fn with_settings(self, change: impl FnOnce(&mut NodeSettings)) -> Self;
}

impl Build for EnforcedState {
    fn with_endpoint(mut self, endpoint: LocalEndpoint) -> Self {
        self.endpoints.insert(endpoint.id.clone(), Arc::new(endpoint));
        self
    }

    fn with_policy(mut self, policy: ActivePolicy) -> Self {
        self.policies.insert(policy.id.clone(), Arc::new(policy));
        self
    }

    fn with_set(self, name: &str, pods: &[&Pod]) -> Self {
        let members =
            pods.iter().flat_map(|pod| [pod.v4, pod.v6]).map(|ip| SetMember::Net(ip.into())).collect();
        self.with_members(name, members)
    }

    fn with_members(mut self, name: &str, members: BTreeSet<SetMember>) -> Self {
        let networks = members.iter().any(SetMember::is_network);
        self.sets.insert(SetId(name.into()), (if networks { SetKind::Net } else { SetKind::Host }, members));
        self
    }

    fn with_settings(mut self, change: impl FnOnce(&mut NodeSettings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }
}

/// All pods of the lab, each in the profile that allows everything.
pub(crate) fn open(lab: &Lab) -> EnforcedState {
    let mut state = EnforcedState::default().with_settings(|settings| {
        settings.node_addresses = [NODE_UPLINK].into();
        settings.pools = ["10.0.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()].into();
    });
    let id = ProfileId(ALLOW_ALL.into());
    let all = vec![rule(RuleAction::Allow)];
    let profile = ActiveProfile { id: id.clone(), ingress: all.clone(), egress: all };
    state.profiles.insert(id, Arc::new(profile));
    for pod in &lab.pods {
        state = state.with_endpoint(endpoint(pod, Vec::new()));
    }
    state
}
