//! Rules of Calico policies (`validator.go validateRule`, and the CRD's rules on Rule).

use super::{common, metadata};
use crate::{
    kinds::{Action, EntityRule, HttpMatch, IcmpMatch, IpVersion, PolicyType, Rule},
    path::{Path, Problems},
    types::{Port, Protocol},
};

const MAX_RULES: usize = 1024;
const MAX_NETS: usize = 256;
const MAX_PORTS: usize = 50;
const MAX_HTTP: usize = 20;
const MAX_HTTP_PATH: usize = 1024;
/// ICMP type 255 can't be matched: the kernel means "any" by it.
const MAX_ICMP_TYPE: u8 = 254;

/// Where a list of rules stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub(crate) direction: PolicyType,
    /// Rules of a namespaced policy may leave out a service's namespace.
    pub(crate) namespaced: bool,
}

pub(crate) fn check_list(rules: &[Rule], place: Place, path: &Path<'_>, problems: &mut Problems) {
    common::at_most(rules, MAX_RULES, path, problems);
    for (index, rule) in rules.iter().enumerate() {
        check(rule, place, &path.index(index), problems);
    }
}

fn check(rule: &Rule, place: Place, path: &Path<'_>, problems: &mut Problems) {
    check_protocol(rule, path, problems);
    for (field, icmp) in [("icmp", &rule.icmp), ("notICMP", &rule.not_icmp)] {
        let Some(icmp) = icmp else { continue };
        let at = path.field(field);
        check_icmp(*icmp, &at, problems);
        let fine = matches!(rule.protocol.map(Protocol::number), Some(1 | 58));
        problems.require(fine, &at, "needs protocol ICMP or ICMPv6");
    }
    check_families(rule, path, problems);
    for (name, entity, served) in [
        ("source", &rule.source, place.direction == PolicyType::Ingress),
        ("destination", &rule.destination, place.direction == PolicyType::Egress),
    ] {
        let at = path.field(name);
        check_entity(entity, &at, problems);
        check_ports(rule, entity, &at, problems);
        check_services(entity, served, place, &at, problems);
        let ports_free = entity.ports.is_empty() && entity.not_ports.is_empty();
        if name == "destination" && entity.services.is_some() {
            problems.require(ports_free, &at, "services brings its own ports: remove ports and notPorts");
        }
    }
    if let Some(http) = &rule.http {
        check_http(rule, http, place, &path.field("http"), problems);
    }
    if let Some(meta) = &rule.metadata {
        metadata::check_annotations(
            &meta.annotations,
            &path.field("metadata").field("annotations"),
            problems,
        );
    }
}

fn check_protocol(rule: &Rule, path: &Path<'_>, problems: &mut Problems) {
    let family = |protocol: Option<Protocol>| match protocol.map(Protocol::number) {
        Some(1) => Some(IpVersion::V4),
        Some(58) => Some(IpVersion::V6),
        _ => None,
    };
    for (name, protocol) in [("protocol", rule.protocol), ("notProtocol", rule.not_protocol)] {
        if let (Some(wanted), Some(given)) = (family(protocol), rule.ip_version) {
            let which = if wanted == IpVersion::V4 { "ICMP" } else { "ICMPv6" };
            problems.require(
                wanted == given,
                &path.field(name),
                format!("{which} exists only with ipVersion {}", wanted.number()),
            );
        }
    }
}

fn check_icmp(icmp: IcmpMatch, path: &Path<'_>, problems: &mut Problems) {
    let fine = icmp.r#type.is_none_or(|t| t <= MAX_ICMP_TYPE);
    problems.require(
        fine,
        &path.field("type"),
        format!("an ICMP type is a number from 0 to {MAX_ICMP_TYPE}"),
    );
    problems.require(
        icmp.code.is_none() || icmp.r#type.is_some(),
        &path.field("code"),
        "needs a type beside it",
    );
}

/// All networks of a rule belong to one family, which is the rule's.
fn check_families(rule: &Rule, path: &Path<'_>, problems: &mut Problems) {
    let mut family = rule.ip_version;
    for (end, entity) in [("source", &rule.source), ("destination", &rule.destination)] {
        for (list, nets) in [("nets", &entity.nets), ("notNets", &entity.not_nets)] {
            for (index, net) in nets.iter().enumerate() {
                let (end, own) = (path.field(end), IpVersion::of(net));
                let wanted = *family.get_or_insert(own);
                let why = if rule.ip_version.is_some() {
                    "ipVersion is "
                } else {
                    "the rule's other networks are IPv"
                };
                problems.require(
                    own == wanted,
                    &end.field(list).index(index),
                    format!("{net} is IPv{}, but {why}{}", own.number(), wanted.number()),
                );
            }
        }
    }
}

fn check_entity(entity: &EntityRule, path: &Path<'_>, problems: &mut Problems) {
    for (name, nets) in [("nets", &entity.nets), ("notNets", &entity.not_nets)] {
        common::at_most(nets, MAX_NETS, &path.field(name), problems);
        common::unique(nets, &path.field(name), problems);
    }
    for (index, net) in entity.not_nets.iter().enumerate() {
        let at = path.field("notNets");
        problems.require(
            net.prefix_len() > 0,
            &at.index(index),
            format!("{net} excludes everything: the rule could never match"),
        );
    }
    common::selector(entity.selector.as_ref(), &path.field("selector"), problems);
    common::selector(entity.not_selector.as_ref(), &path.field("notSelector"), problems);
    if let Some(selector) = &entity.namespace_selector {
        let at = path.field("namespaceSelector");
        common::selector_length(selector, &at, problems);
        let fine = selector.is_global() || !selector.mentions_global();
        problems.require(fine, &at, "global() must stand alone");
    }
    if let Some(accounts) = &entity.service_accounts {
        let at = path.field("serviceAccounts");
        common::selector(accounts.selector.as_ref(), &at.field("selector"), problems);
        for (index, name) in accounts.names.iter().enumerate() {
            problems.require(
                metadata::is_subdomain(name),
                &at.field("names").index(index),
                format!("{name:?} is not the name of a service account"),
            );
        }
    }
}

fn check_ports(rule: &Rule, entity: &EntityRule, path: &Path<'_>, problems: &mut Problems) {
    for (name, ports) in [("ports", &entity.ports), ("notPorts", &entity.not_ports)] {
        if ports.is_empty() {
            continue;
        }
        let at = path.field(name);
        common::at_most(ports, MAX_PORTS, &at, problems);
        match rule.protocol {
            Some(protocol) => problems.require(
                protocol.has_ports(),
                &at,
                format!("{protocol} has no ports: use protocol TCP, UDP or SCTP"),
            ),
            None => problems.require(
                ports.iter().all(|port| matches!(port, Port::Named(_))),
                &at,
                "port numbers need a protocol beside them: TCP, UDP or SCTP",
            ),
        }
    }
}

fn check_services(entity: &EntityRule, served: bool, place: Place, path: &Path<'_>, problems: &mut Problems) {
    let Some(services) = &entity.services else { return };
    let at = path.field("services");
    problems.require(
        served,
        &at,
        "allowed only in the source of an ingress rule or the destination of an egress rule",
    );
    problems.require(!services.name.is_empty(), &at.field("name"), "required, but missing");
    let namespace = services.namespace.as_deref().unwrap_or("");
    problems.require(
        place.namespaced || !namespace.is_empty(),
        &at.field("namespace"),
        "required in a policy without namespace",
    );
    let alone = entity.nets.is_empty()
        && entity.not_nets.is_empty()
        && entity.selector.is_none()
        && entity.not_selector.is_none()
        && entity.namespace_selector.is_none()
        && entity.service_accounts.is_none();
    problems.require(
        alone,
        &at,
        "can't be combined with nets, notNets, selector, notSelector, namespaceSelector or serviceAccounts",
    );
}

fn check_http(rule: &Rule, http: &HttpMatch, place: Place, path: &Path<'_>, problems: &mut Problems) {
    problems.require(place.direction == PolicyType::Ingress, path, "allowed only in ingress rules");
    problems.require(rule.action == Action::Allow, path, "allowed only in rules with action Allow");
    let tcp = rule.protocol.is_none_or(|protocol| protocol.number() == Protocol::Tcp.number());
    problems.require(tcp, path, "needs protocol TCP or none");
    common::at_most(&http.methods, MAX_HTTP, &path.field("methods"), problems);
    common::unique(&http.methods, &path.field("methods"), problems);
    let paths = path.field("paths");
    common::at_most(&http.paths, MAX_HTTP, &paths, problems);
    for (index, item) in http.paths.iter().enumerate() {
        let at = paths.index(index);
        problems.require(
            item.exact.is_some() != item.prefix.is_some(),
            &at,
            "exactly one of exact and prefix is needed",
        );
        let text = item.exact.as_ref().or(item.prefix.as_ref());
        let length = text.map_or(0, |text| text.chars().count());
        problems.require(
            length <= MAX_HTTP_PATH,
            &at,
            format!("at most {MAX_HTTP_PATH} characters are allowed"),
        );
        let fine = text.is_none_or(|text| !text.contains(['?', '#', ' ', '\t', '\n', '\r']));
        problems.require(fine, &at, "a path has no query, fragment or white space");
    }
}
