//! The oracle: what a packet meets, straight from the objects, for every question from scratch. No index, no set, no
//! increment, nothing shared with the calculation but the parsed selectors.

use std::collections::BTreeMap;
use std::net::IpAddr;

use margay_api::kinds::{
    Action, ClusterEgressRule, ClusterIngressRule, ClusterPolicySubject, ClusterPolicyTier, EntityRule,
    PodPhase, PolicyType, Rule, TierAction,
};
use margay_api::selector::{LabelSelector, Selector};
use margay_api::types::Port;
use margay_api::{Key, Kind, Pod, Resource};

use crate::model::Direction;
use crate::verdict::{Packet, Verdict};

#[path = "naive_cluster.rs"]
mod cluster;

pub(super) type Objects = BTreeMap<Key, Resource>;

/// Something a selector can select.
#[derive(Debug)]
struct Thing {
    workload: Option<(String, String)>,
    namespace: Option<String>,
    labels: BTreeMap<String, String>,
    nets: Vec<ipnet::IpNet>,
    ports: Vec<(String, u8, u16)>,
    profiles: Vec<String>,
}

struct Policy<'a> {
    tier: String,
    order: f64,
    name: String,
    namespace: Option<&'a str>,
    selector: Option<&'a Selector>,
    namespace_selector: Option<&'a Selector>,
    subject: Option<&'a ClusterPolicySubject>,
    rules: Option<Rules<'a>>,
}

#[derive(Clone, Copy)]
enum Rules<'a> {
    Calico(&'a [Rule]),
    Ingress(&'a [ClusterIngressRule]),
    Egress(&'a [ClusterEgressRule]),
}

/// Both ends' verdicts, `None` where no workload has the address.
pub(super) fn verdicts(objects: &Objects, packet: &Packet) -> [Option<Verdict>; 2] {
    let things = things(objects);
    let at = |address: IpAddr, direction| {
        // As explain does: the first by namespace and name.
        let mut holders: Vec<&Thing> =
            things.iter().filter(|thing| thing.workload.is_some() && thing.profiles_of(address)).collect();
        holders.sort_by_key(|thing| thing.workload.clone());
        holders.first().map(|thing| verdict(objects, &things, thing, direction, packet))
    };
    [at(packet.source, Direction::Egress), at(packet.destination, Direction::Ingress)]
}

impl Thing {
    fn profiles_of(&self, address: IpAddr) -> bool {
        self.nets.iter().any(|net| net.addr() == address)
    }
}

fn get<'a>(objects: &'a Objects, kind: Kind, namespace: Option<&str>, name: &str) -> Option<&'a Resource> {
    objects.get(&Key { kind, namespace: namespace.map(ToOwned::to_owned), name: name.to_owned() })
}

/// Endpoints of finished pods are in the list (their policy is still enforced) with their addresses twice: once for
/// finding them, and not for sets.
fn things(objects: &Objects) -> Vec<Thing> {
    let mut things = Vec::new();
    for (key, resource) in objects {
        let namespace = key.namespace.as_deref();
        let own = resource.metadata().labels.clone();
        match resource {
            Resource::WorkloadEndpoint(endpoint) => {
                let spec = &endpoint.spec;
                let pod = spec.pod.as_deref().and_then(|pod| match get(objects, Kind::Pod, namespace, pod) {
                    Some(Resource::Pod(pod)) => Some(pod),
                    _ => None,
                });
                let endpoint_ports =
                    || spec.ports.iter().map(|p| (p.name.clone(), p.protocol.number(), p.port)).collect();
                things.push(Thing {
                    workload: Some((namespace.unwrap().to_owned(), key.name.clone())),
                    namespace: namespace.map(ToOwned::to_owned),
                    labels: labels(
                        objects,
                        pod.map_or(own, |pod| pod.metadata.labels.clone()),
                        namespace,
                        &spec.profiles,
                    ),
                    nets: spec.ip_networks.clone(),
                    ports: pod.map_or_else(endpoint_ports, pod_ports),
                    profiles: spec.profiles.clone(),
                });
            }
            Resource::Pod(pod) => {
                let spoken_for = objects.values().any(|other| {
                    matches!(other, Resource::WorkloadEndpoint(endpoint)
                        if endpoint.metadata.namespace == pod.metadata.namespace
                            && endpoint.spec.pod.as_deref() == Some(&key.name))
                });
                if spoken_for || finished(pod) || pod.status.pod_ip.is_none() {
                    continue;
                }
                let profiles = vec![format!("kns.{}", namespace.unwrap())];
                things.push(Thing {
                    workload: Some((namespace.unwrap().to_owned(), key.name.clone())),
                    namespace: namespace.map(ToOwned::to_owned),
                    labels: labels(objects, own, namespace, &profiles),
                    nets: pod.status.pod_ip.map(Into::into).into_iter().collect(),
                    ports: pod_ports(pod),
                    profiles,
                });
            }
            Resource::NetworkSet(set) => things.push(Thing {
                workload: None,
                namespace: namespace.map(ToOwned::to_owned),
                labels: labels(objects, own, namespace, &[]),
                nets: set.spec.nets.clone(),
                ports: Vec::new(),
                profiles: Vec::new(),
            }),
            Resource::GlobalNetworkSet(set) => things.push(Thing {
                workload: None,
                namespace: None,
                labels: own,
                nets: set.spec.nets.clone(),
                ports: Vec::new(),
                profiles: Vec::new(),
            }),
            _ => {}
        }
    }
    things
}

fn finished(pod: &Pod) -> bool {
    matches!(pod.status.phase, Some(PodPhase::Succeeded | PodPhase::Failed))
}

fn pod_ports(pod: &Pod) -> Vec<(String, u8, u16)> {
    let ports = pod.spec.containers.iter().flat_map(|container| &container.ports);
    ports.filter_map(|port| Some((port.name.clone()?, 6, port.container_port))).collect()
}

fn labels(
    objects: &Objects,
    own: BTreeMap<String, String>,
    namespace: Option<&str>,
    profiles: &[String],
) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for name in profiles.iter().rev() {
        if let Some(Resource::Profile(profile)) = get(objects, Kind::Profile, None, name) {
            all.extend(profile.spec.labels_to_apply.clone());
        }
    }
    all.extend(own);
    if let Some(namespace) = namespace {
        all.insert("projectcalico.org/namespace".to_owned(), namespace.to_owned());
    }
    all
}

/// `all()` and `global()` alone speak of being in a namespace; other selectors of its labels.
fn in_namespaces(objects: &Objects, selector: &Selector, namespace: Option<&str>) -> bool {
    match selector.to_string().as_str() {
        "all()" => namespace.is_some(),
        "global()" => namespace.is_none(),
        _ => {
            let object = namespace.and_then(|namespace| get(objects, Kind::Namespace, None, namespace));
            let mut labels = object.map(|object| object.metadata().labels.clone()).unwrap_or_default();
            if let Some(namespace) = namespace {
                labels.insert("projectcalico.org/name".to_owned(), namespace.to_owned());
            }
            selector.matches(&labels)
        }
    }
}

fn verdict(
    objects: &Objects,
    things: &[Thing],
    at: &Thing,
    direction: Direction,
    packet: &Packet,
) -> Verdict {
    let mut tiers: BTreeMap<String, (f64, TierAction)> = BTreeMap::from([
        ("default".to_owned(), (1e6, TierAction::Deny)),
        ("kube-admin".to_owned(), (1e3, TierAction::Pass)),
        ("kube-baseline".to_owned(), (1e7, TierAction::Pass)),
    ]);
    for resource in objects.values() {
        if let Resource::Tier(tier) = resource {
            let order = tier.spec.order.unwrap_or(f64::INFINITY);
            tiers.insert(tier.metadata.name.clone(), (order, tier.spec.default_action.unwrap_or_default()));
        }
    }
    let selecting: Vec<Policy<'_>> = policies(objects, direction)
        .into_iter()
        .filter(|policy| policy.rules.is_some() && applies(objects, policy, at))
        .collect();
    if selecting.iter().any(|policy| !tiers.contains_key(&policy.tier)) {
        return Verdict::Deny;
    }
    let mut order: Vec<(f64, String, TierAction)> =
        tiers.into_iter().map(|(name, (order, action))| (order, name, action)).collect();
    order.sort_by(|a, b| a.0.total_cmp(&b.0).then_with(|| a.1.cmp(&b.1)));
    'tiers: for (_, tier, action) in order {
        let mut here: Vec<&Policy<'_>> = selecting.iter().filter(|policy| policy.tier == tier).collect();
        here.sort_by(|a, b| a.order.total_cmp(&b.order).then_with(|| a.name.cmp(&b.name)));
        for policy in &here {
            let action = match policy.rules.unwrap() {
                Rules::Calico(rules) => run(objects, things, policy.namespace, rules, packet),
                Rules::Ingress(rules) => rules.iter().find_map(|rule| {
                    cluster::rule(objects, things, rule.action, (&rule.from, false), &rule.protocols, packet)
                }),
                Rules::Egress(rules) => rules.iter().find_map(|rule| {
                    cluster::rule(objects, things, rule.action, (&rule.to, true), &rule.protocols, packet)
                }),
            };
            match action {
                Some(Action::Allow) => return Verdict::Allow,
                Some(Action::Deny) => return Verdict::Deny,
                Some(Action::Pass) => continue 'tiers,
                _ => {}
            }
        }
        if !here.is_empty() && action == TierAction::Deny {
            return Verdict::Deny;
        }
    }
    for name in &at.profiles {
        if name.starts_with("kns.") {
            return Verdict::Allow;
        }
        let Some(Resource::Profile(profile)) = get(objects, Kind::Profile, None, name) else {
            return Verdict::Deny;
        };
        let rules = match direction {
            Direction::Ingress => &profile.spec.ingress,
            Direction::Egress => &profile.spec.egress,
        };
        match run(objects, things, None, rules, packet) {
            Some(Action::Allow) => return Verdict::Allow,
            Some(Action::Deny) => return Verdict::Deny,
            _ => {}
        }
    }
    Verdict::Deny
}

fn policies(objects: &Objects, direction: Direction) -> Vec<Policy<'_>> {
    let typed = |types: &[PolicyType], ingress: &'_ [Rule], egress: &'_ [Rule]| match (types, direction) {
        ([], Direction::Ingress) => egress.is_empty() || !ingress.is_empty(),
        ([], Direction::Egress) => !egress.is_empty(),
        (types, Direction::Ingress) => types.contains(&PolicyType::Ingress),
        (types, Direction::Egress) => types.contains(&PolicyType::Egress),
    };
    let mut policies = Vec::new();
    for (key, resource) in objects {
        if let Resource::ClusterNetworkPolicy(object) = resource {
            let s = &object.spec;
            let rules = match direction {
                Direction::Ingress => (!s.ingress.is_empty()).then_some(Rules::Ingress(&s.ingress)),
                Direction::Egress => (!s.egress.is_empty()).then_some(Rules::Egress(&s.egress)),
            };
            policies.push(Policy {
                tier: match s.tier {
                    ClusterPolicyTier::Admin => "kube-admin".to_owned(),
                    ClusterPolicyTier::Baseline => "kube-baseline".to_owned(),
                },
                order: s.priority.into(),
                name: format!("{}//ClusterNetworkPolicy", key.name),
                namespace: None,
                selector: None,
                namespace_selector: None,
                subject: Some(&s.subject),
                rules,
            });
            continue;
        }
        let (tier, order, selector, namespace_selector, types, ingress, egress) = match resource {
            Resource::NetworkPolicy(object) => {
                let s = &object.spec;
                (&s.tier, s.order, &s.selector, None, &s.types, &s.ingress, &s.egress)
            }
            Resource::GlobalNetworkPolicy(object) => {
                let s = &object.spec;
                let namespaces = s.namespace_selector.as_ref();
                (&s.tier, s.order, &s.selector, namespaces, &s.types, &s.ingress, &s.egress)
            }
            _ => continue,
        };
        let rules = match direction {
            Direction::Ingress => ingress,
            Direction::Egress => egress,
        };
        policies.push(Policy {
            tier: tier.clone().unwrap_or_else(|| "default".to_owned()),
            order: order.unwrap_or(f64::INFINITY),
            name: format!("{}/{}/{}", key.name, key.namespace.as_deref().unwrap_or(""), key.kind.kind()),
            namespace: key.namespace.as_deref(),
            selector: selector.as_ref(),
            namespace_selector,
            subject: None,
            rules: typed(types, ingress, egress).then_some(Rules::Calico(rules)),
        });
    }
    policies
}

fn applies(objects: &Objects, policy: &Policy<'_>, thing: &Thing) -> bool {
    let namespace = thing.namespace.as_deref();
    policy.namespace.is_none_or(|wanted| namespace == Some(wanted))
        && policy.namespace_selector.is_none_or(|selector| in_namespaces(objects, selector, namespace))
        && policy.selector.is_none_or(|selector| selector.matches(&thing.labels))
        && policy.subject.is_none_or(|subject| match subject {
            ClusterPolicySubject::Namespaces(namespaces) => {
                cluster::selects(objects, &LabelSelector::default(), namespaces, thing)
            }
            ClusterPolicySubject::Pods(pods) => {
                cluster::selects(objects, &pods.pod_selector, &pods.namespace_selector, thing)
            }
        })
}

fn run(
    objects: &Objects,
    things: &[Thing],
    namespace: Option<&str>,
    rules: &[Rule],
    packet: &Packet,
) -> Option<Action> {
    let matching = rules.iter().filter(|rule| {
        rule.protocol.is_none_or(|protocol| protocol.number() == packet.protocol)
            && rule.not_protocol.is_none_or(|protocol| protocol.number() != packet.protocol)
            && peer(objects, things, namespace, &rule.source, packet.source, packet.source_port)
            && service(objects, namespace, &rule.source, packet.source, None)
            && service(
                objects,
                namespace,
                &rule.destination,
                packet.destination,
                Some(packet.destination_port),
            )
            && peer(
                objects,
                things,
                namespace,
                &rule.destination,
                packet.destination,
                packet.destination_port,
            )
    });
    matching.map(|rule| rule.action).find(|action| *action != Action::Log)
}

/// A finished pod's address is nobody's.
fn holds(objects: &Objects, thing: &Thing, address: IpAddr) -> bool {
    let ended = thing.workload.as_ref().is_some_and(|(namespace, name)| {
        matches!(get(objects, Kind::Pod, Some(namespace), name), Some(Resource::Pod(pod)) if finished(pod))
    });
    !ended && thing.nets.iter().any(|net| net.contains(&address))
}

/// The address (and port) stands in a slice of the service.
fn service(
    objects: &Objects,
    policy_namespace: Option<&str>,
    entity: &EntityRule,
    address: IpAddr,
    port: Option<u16>,
) -> bool {
    let Some(wanted) = &entity.services else { return true };
    let namespace = wanted.namespace.as_deref().or(policy_namespace);
    objects.values().any(|resource| {
        let Resource::EndpointSlice(slice) = resource else { return false };
        slice.metadata.namespace.as_deref() == namespace
            && slice.metadata.labels["kubernetes.io/service-name"] == wanted.name
            && slice.spec.endpoints[0].addresses.contains(&address.to_string())
            && port.is_none_or(|port| slice.spec.ports.iter().any(|other| other.port == Some(port)))
    })
}

fn peer(
    objects: &Objects,
    things: &[Thing],
    policy_namespace: Option<&str>,
    entity: &EntityRule,
    address: IpAddr,
    port: u16,
) -> bool {
    // Outside of namespaces `notSelector` alone says nothing about whom the rule means.
    let given = entity.selector.is_some()
        || entity.namespace_selector.is_some()
        || (entity.not_selector.is_some() && policy_namespace.is_some());
    let selected = |thing: &Thing| {
        let namespace = thing.namespace.as_deref();
        let scope = match (&entity.namespace_selector, policy_namespace) {
            (Some(selector), _) => in_namespaces(objects, selector, namespace),
            (None, Some(wanted)) if given => namespace == Some(wanted),
            _ => true,
        };
        scope && entity.selector.as_ref().is_none_or(|selector| selector.matches(&thing.labels))
    };
    let holds = |thing: &Thing| holds(objects, thing, address);
    let port_matches = |wanted: &Port| match wanted {
        Port::Named(name) => things
            .iter()
            .any(|thing| selected(thing) && holds(thing) && thing.ports.contains(&(name.clone(), 6, port))),
        other => other.bounds().is_some_and(|(first, last)| (first..=last).contains(&port)),
    };
    (entity.nets.is_empty() || entity.nets.iter().any(|net| net.contains(&address)))
        && !entity.not_nets.iter().any(|net| net.contains(&address))
        && (!given || things.iter().any(|thing| selected(thing) && holds(thing)))
        && !entity.not_selector.as_ref().is_some_and(|selector| {
            things.iter().any(|thing| selector.matches(&thing.labels) && holds(thing))
        })
        && (entity.ports.is_empty() || entity.ports.iter().any(port_matches))
        && !entity.not_ports.iter().any(port_matches)
}
