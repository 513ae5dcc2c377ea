//! The same objects give the same result however they came, and that result is the oracle's.

mod dice;
mod kinds;

use std::collections::BTreeMap;

use std::net::IpAddr;

use dice::Dice;
use ipnet::IpNet;
use margay_api::kinds::{
    ClusterEgressRule, ClusterIngressRule, ClusterNetworkPolicySpec, ClusterPolicySubject, ClusterPolicyTier,
    Container, ContainerPort, EndpointPortSpec, EndpointSliceSpec, GlobalNetworkPolicySpec,
    GlobalNetworkSetSpec, HostEndpointSpec, LABEL_SERVICE_NAME, NamespaceSpec, NetworkPolicySpec,
    NetworkSetSpec, NodeAddress, NodeSpec, PodPhase, PodSpec, ProfileSpec, ServiceEndpoint,
    StagedGlobalNetworkPolicySpec, TierAction, TierSpec, WorkloadEndpointSpec, WorkloadPort,
};
use margay_api::types::Protocol;
use margay_api::{Key, Metadata, Object, Resource, Spec};
use proptest::prelude::*;

use super::naive::{Objects, verdicts};
use super::{Cluster, address};
use crate::calc::Scope;
use crate::verdict::{End, Packet, TCP, Verdict, explain};

/// Objects that the oracle judges: pods and their policies.
const JUDGED: usize = 26;
/// All of them: a host endpoint, and the other kinds.
const SLOTS: usize = JUDGED + 1 + kinds::SLOTS;

fn object<S: Spec>(namespace: Option<&str>, name: &str, dice: &mut Dice, spec: S) -> Object<S>
where
    Resource: From<Object<S>>,
{
    let mut metadata = Metadata::named(name);
    metadata.namespace = namespace.map(ToOwned::to_owned);
    for (label, values) in [("role", ["", "x", "y"]), ("env", ["", "dev", "prod"])] {
        let value = dice.pick(&values);
        if !value.is_empty() {
            metadata.labels.insert(label.to_owned(), value.to_owned());
        }
    }
    Object::new(metadata, spec)
}

fn order(dice: &mut Dice) -> Option<f64> {
    [None, Some(1.0), Some(2.0), Some(2.5)][dice.roll(4)]
}

fn tier(dice: &mut Dice) -> Option<String> {
    [None, Some("t1"), Some("t2"), Some("kube-admin")][dice.roll(4)].map(ToOwned::to_owned)
}

/// The object of a slot; the number decides what it says.
#[allow(clippy::too_many_lines, reason = "one arm per kind")]
fn resource(slot: usize, number: u64) -> Resource {
    let dice = &mut Dice(number);
    let home = if slot.is_multiple_of(2) { "a" } else { "b" };
    let namespace = Some(home);
    let name = format!("o{slot}");
    match slot {
        0..=4 => {
            let mut profiles = vec![format!("kns.{home}")];
            match dice.roll(4) {
                0 => profiles.push("extra".to_owned()),
                1 => profiles.insert(0, "extra".to_owned()),
                _ => {}
            }
            let spec = WorkloadEndpointSpec {
                node: dice.pick(&["n1", "n2"]).to_owned(),
                pod: Some(name.clone()),
                interface_name: format!("mgy{slot}"),
                ip_networks: vec![format!("10.0.0.{}/32", dice.roll(6)).parse().unwrap()],
                profiles,
                ports: vec![WorkloadPort {
                    name: "http".to_owned(),
                    protocol: Protocol::Tcp,
                    port: [80, 443][dice.roll(2)],
                    host_port: None,
                    host_ip: None,
                }],
                ..WorkloadEndpointSpec::default()
            };
            object(namespace, &name, dice, spec).into()
        }
        5..=7 => {
            // Two pods with an endpoint, one without.
            let (namespace, name) = [("a", "o0"), ("b", "o1"), ("b", "free")][slot - 5];
            let port = ContainerPort {
                name: Some("http".to_owned()),
                container_port: 80,
                ..ContainerPort::default()
            };
            let container = Container { ports: vec![port], ..Container::default() };
            let spec = PodSpec { containers: vec![container], ..PodSpec::default() };
            let mut pod = object(Some(namespace), name, dice, spec);
            pod.status.phase = Some([PodPhase::Running, PodPhase::Succeeded, PodPhase::Failed][dice.roll(3)]);
            pod.status.pod_ip = Some(address(&format!("10.0.0.{}", dice.roll(6))));
            pod.into()
        }
        8 => object(None, "a", dice, NamespaceSpec::default()).into(),
        9 => object(None, "b", dice, NamespaceSpec::default()).into(),
        10 => {
            let nets = vec![dice.pick(&["10.0.0.0/30", "192.0.2.0/24"]).parse().unwrap()];
            object(namespace, &name, dice, NetworkSetSpec { nets }).into()
        }
        11 => {
            let nets = vec![dice.pick(&["10.0.0.4/31", "192.0.2.7/32"]).parse().unwrap()];
            object(None, &name, dice, GlobalNetworkSetSpec { nets }).into()
        }
        12 | 13 => {
            let default_action = [None, Some(TierAction::Deny), Some(TierAction::Pass)][dice.roll(3)];
            let spec = TierSpec { order: order(dice), default_action };
            object(None, ["t1", "t2"][slot - 12], dice, spec).into()
        }
        14..=17 => {
            let spec = NetworkPolicySpec {
                tier: tier(dice),
                order: order(dice),
                selector: dice.selector(),
                types: dice.types(),
                ingress: dice.rules(),
                egress: dice.rules(),
                ..NetworkPolicySpec::default()
            };
            object(namespace, &name, dice, spec).into()
        }
        18..=19 => {
            let spec = GlobalNetworkPolicySpec {
                tier: tier(dice),
                order: order(dice),
                selector: dice.selector(),
                namespace_selector: dice.namespaces(),
                types: dice.types(),
                ingress: dice.rules(),
                egress: dice.rules(),
                ..GlobalNetworkPolicySpec::default()
            };
            object(None, &name, dice, spec).into()
        }
        20 => {
            let spec = StagedGlobalNetworkPolicySpec {
                tier: tier(dice),
                selector: dice.selector(),
                ingress: dice.rules(),
                egress: dice.rules(),
                ..StagedGlobalNetworkPolicySpec::default()
            };
            object(None, &name, dice, spec).into()
        }
        21 => {
            let mut spec =
                ProfileSpec { ingress: dice.rules(), egress: dice.rules(), ..ProfileSpec::default() };
            spec.labels_to_apply.insert("extra".to_owned(), "1".to_owned());
            object(None, "extra", dice, spec).into()
        }
        22 | 23 => {
            let spec = ClusterNetworkPolicySpec {
                tier: ClusterPolicyTier::ALL[dice.roll(2)],
                priority: [1, 2][dice.roll(2)],
                subject: match dice.roll(2) {
                    0 => ClusterPolicySubject::Namespaces(dice.label_selector()),
                    _ => ClusterPolicySubject::Pods(dice.pods()),
                },
                ingress: (0..dice.roll(3))
                    .map(|_| ClusterIngressRule {
                        name: String::new(),
                        action: dice.cluster_action(),
                        from: dice.cluster_peers(),
                        protocols: dice.cluster_protocols(),
                    })
                    .collect(),
                egress: (0..dice.roll(3))
                    .map(|_| ClusterEgressRule {
                        name: String::new(),
                        action: dice.cluster_action(),
                        to: dice.cluster_peers(),
                        protocols: dice.cluster_protocols(),
                    })
                    .collect(),
            };
            object(None, &name, dice, spec).into()
        }
        24 => {
            let addresses = (0..dice.roll(3)).map(|_| format!("10.0.0.{}", dice.roll(6))).collect();
            let spec = EndpointSliceSpec {
                address_type: "IPv4".to_owned(),
                endpoints: vec![ServiceEndpoint { addresses, ..Default::default() }],
                ports: [80, 443][..dice.roll(3)]
                    .iter()
                    .map(|port| EndpointPortSpec { port: Some(*port), protocol: None })
                    .collect(),
            };
            let mut slice = object(namespace, &name, dice, spec);
            let service = dice.pick(&["svc", "other"]).to_owned();
            slice.metadata.labels.insert(LABEL_SERVICE_NAME.to_owned(), service);
            slice.into()
        }
        25 => {
            let address: IpAddr = dice.pick(&["10.0.0.3", "10.0.0.4", "192.0.2.7"]).parse().unwrap();
            let spec = NodeSpec {
                addresses: vec![NodeAddress { address: IpNet::from(address), r#type: None }],
                ..NodeSpec::default()
            };
            object(None, &name, dice, spec).into()
        }
        26 => {
            let spec = HostEndpointSpec {
                node: dice.pick(&["n1", "n2"]).to_owned(),
                interface_name: Some("eth0".to_owned()),
                expected_ips: vec![address("192.0.2.1")],
                ..HostEndpointSpec::default()
            };
            object(None, &name, dice, spec).into()
        }
        _ => kinds::resource(slot - JUDGED - 1, &name, dice),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Put(usize, u64),
    Delete(usize),
    Unreadable(usize),
    Local(usize, u64),
    NoLocal(usize),
    Flush,
}

/// Mostly anything; often what was said before, so that objects are said twice and changes taken back.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![3 => any::<u64>(), 1 => (0..3_u64).prop_map(|few| few.wrapping_mul(0x9e37_79b9_7f4a_7c15))]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..SLOTS, number()).prop_map(|(slot, number)| Step::Put(slot, number)),
        3 => (0..SLOTS).prop_map(Step::Delete),
        1 => (0..SLOTS).prop_map(Step::Unreadable),
        1 => (0..5_usize, number()).prop_map(|(slot, number)| Step::Local(slot, number)),
        1 => (0..5_usize).prop_map(Step::NoLocal),
        2 => Just(Step::Flush),
    ]
}

fn key(slot: usize) -> Key {
    resource(slot, 0).key()
}

fn run(cluster: &mut Cluster, step: &Step) {
    match step {
        Step::Put(slot, number) => cluster.calculator.update(&key(*slot), Some(&resource(*slot, *number))),
        Step::Delete(slot) => cluster.calculator.update(&key(*slot), None),
        Step::Unreadable(slot) => cluster.calculator.update_unreadable(&key(*slot), "unreadable", None),
        Step::Local(slot, number) => {
            if let Resource::WorkloadEndpoint(endpoint) = resource(*slot, *number) {
                cluster.calculator.set_local_endpoint(&endpoint);
            }
        }
        Step::NoLocal(slot) => {
            let key = key(*slot);
            cluster.calculator.remove_local_endpoint(key.namespace.as_deref().unwrap(), &key.name);
        }
        Step::Flush => {
            cluster.flush();
            cluster.calculator.pack();
        }
    }
}

/// The last step of each slot: what the objects say in the end.
fn last_words(steps: &[Step]) -> Vec<Step> {
    let place = |step: &Step| match step {
        Step::Put(slot, _) | Step::Delete(slot) | Step::Unreadable(slot) => Some((0, *slot)),
        Step::Local(slot, _) | Step::NoLocal(slot) => Some((1, *slot)),
        Step::Flush => None,
    };
    let mut last = BTreeMap::new();
    for step in steps {
        if let Some(place) = place(step) {
            last.insert(place, step.clone());
        }
    }
    last.into_values().filter(|step| !matches!(step, Step::Delete(_) | Step::NoLocal(_))).collect()
}

fn fresh(scope: &Scope, steps: &[Step]) -> Cluster {
    let mut cluster = Cluster::new(scope.clone());
    steps.iter().for_each(|step| run(&mut cluster, step));
    cluster.flush();
    cluster
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn history_does_not_matter(steps in prop::collection::vec(step(), 1..120), all in any::<bool>()) {
        let scope = if all { Scope::All } else { Scope::Node("n1".to_owned()) };
        let mut grown = Cluster::new(scope.clone());
        steps.iter().for_each(|step| run(&mut grown, step));
        grown.flush();
        let last = last_words(&steps);
        let built = fresh(&scope, &last);
        prop_assert_eq!(&grown.state, &built.state);
        prop_assert_eq!(grown.calculator.problems(), built.calculator.problems());
        let reversed: Vec<Step> = last.into_iter().rev().flat_map(|step| [step, Step::Flush]).collect();
        prop_assert_eq!(&grown.state, &fresh(&scope, &reversed).state);
        // Saying it all again changes nothing.
        for step in &last_words(&steps) {
            run(&mut grown, step);
        }
        prop_assert!(grown.calculator.flush().is_empty());
    }

    #[test]
    fn a_cluster_without_objects_has_no_state(steps in prop::collection::vec(step(), 1..80)) {
        let mut cluster = Cluster::new(Scope::Node("n1".to_owned()));
        steps.iter().for_each(|step| run(&mut cluster, step));
        for slot in 0..SLOTS {
            run(&mut cluster, &Step::Delete(slot));
            if slot < 5 {
                run(&mut cluster, &Step::NoLocal(slot));
            }
        }
        cluster.flush();
        let mut empty = Cluster::new(Scope::Node("n1".to_owned()));
        empty.flush();
        prop_assert_eq!(cluster.state, empty.state);
    }

    #[test]
    fn verdicts_are_the_oracles(numbers in prop::collection::vec(prop::option::weighted(0.8, any::<u64>()), JUDGED)) {
        let mut cluster = Cluster::new(Scope::All);
        let mut objects = Objects::new();
        for (slot, number) in numbers.iter().enumerate() {
            if let Some(number) = number {
                let resource = resource(slot, *number);
                cluster.calculator.update(&resource.key(), Some(&resource));
                objects.insert(resource.key(), resource);
            }
        }
        cluster.flush();
        for from in 0..7 {
            for to in 0..7 {
                for port in [80, 443, 22] {
                    let host = |number: u8| if number == 6 { address("192.0.2.7") } else { address(&format!("10.0.0.{number}")) };
                    let packet = Packet::to_port(host(from), host(to), TCP, port);
                    let explanation = explain(&cluster.state, &packet);
                    let verdict = |end: &End| -> Option<Verdict> {
                        match end {
                            End::Endpoint(end) => Some(end.verdict),
                            End::Node | End::Unknown => None,
                        }
                    };
                    let ours = [verdict(&explanation.source), verdict(&explanation.destination)];
                    prop_assert_eq!(ours, verdicts(&objects, &packet), "{}", explanation);
                }
            }
        }
    }
}
