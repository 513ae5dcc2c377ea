//! BGPFilters as the speaker's policies.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use margay_api::kinds::{
    BgpFilterRule, FilterAction, FilterOperation, MatchOperator, PeerType as ApiPeerType,
};
use margay_api::types::{Community, interface_matches};
use margay_api::{BgpFilter, IpPool};
use margay_bgp::policy::{
    Action, AnyCommunity, CidrMatch, CidrOperator, Filter, NextHopMatch, Operation, PeerType, Policy, Rule,
};

use super::Way;

/// Both directions of a session's filters.
pub(super) struct Compiled {
    pub(super) import: Policy,
    pub(super) export: Policy,
    pub(super) problems: Vec<String>,
}

/// What a node may announce when no filter says otherwise: what lies in a pool that is exported, the ranges another IPAM plugin
/// gives it addresses out of, and its own of the ranges of services. What other nodes announce of services is theirs to tell; a reflector tells it too (`reflects`).
pub(super) fn export_own<'a>(
    pools: impl IntoIterator<Item = &'a IpPool>,
    ranges: impl IntoIterator<Item = IpNet>,
    services: impl IntoIterator<Item = IpNet> + Clone,
    reflects: bool,
) -> Policy {
    let pools = pools.into_iter().map(|pool| {
        about(pool.spec.cidr, if pool.spec.disable_bgp_export { Action::Reject } else { Action::Accept })
    });
    // Behind the pools: one that holds them decides.
    let pools = pools.chain(ranges.into_iter().map(|range| about(range, Action::Accept)));
    let others = services.clone().into_iter().filter(|_| !reflects);
    let others = others.map(|range| Rule { learned: true, ..about(range, Action::Reject) });
    let services = others.chain(services.into_iter().map(|range| about(range, Action::Accept)));
    Policy { filters: services_first(services.collect(), pools.collect()), default: Action::Reject }
}

/// What a reflector tells nodes and other reflectors when no filter says otherwise: everything but what lies in a pool
/// that is not exported, which somebody's filter let out or which is its own.
pub(super) fn export_reflected<'a>(
    pools: impl IntoIterator<Item = &'a IpPool>,
    services: impl IntoIterator<Item = IpNet>,
) -> Policy {
    let kept = pools.into_iter().filter(|pool| pool.spec.disable_bgp_export);
    let kept: Vec<Rule> = kept.map(|pool| about(pool.spec.cidr, Action::Reject)).collect();
    if kept.is_empty() {
        return Policy::default();
    }
    let services = services.into_iter().map(|range| about(range, Action::Accept));
    Policy { filters: services_first(services.collect(), kept), default: Action::Accept }
}

/// Services before pools: addresses of load balancers may be a pool's.
fn services_first(services: Vec<Rule>, pools: Vec<Rule>) -> Vec<Filter> {
    let named = |name: &str, rules: Vec<Rule>| Filter { name: name.to_owned(), rules };
    let services = (!services.is_empty()).then(|| named("services", services));
    services.into_iter().chain([named("IP pools", pools)]).collect()
}

fn about(range: IpNet, action: Action) -> Rule {
    Rule { action, prefix: Some(inside(range)), ..Rule::default() }
}

/// The filters `names` in order, and behind them what the session had without them. A filter that doesn't exist
/// rejects everything in both directions: a typing error must not open a session.
pub(super) fn compile(
    names: &[String],
    known: &BTreeMap<String, BgpFilter>,
    ways: &BTreeSet<Way>,
    import: &Policy,
    export: &Policy,
) -> Compiled {
    let mut out = Compiled {
        import: Policy { filters: Vec::new(), default: import.default },
        export: Policy { filters: Vec::new(), default: export.default },
        problems: Vec::new(),
    };
    for name in names {
        if let Some(filter) = known.get(name) {
            let spec = &filter.spec;
            if ways.is_empty() && spec.rules().any(|rule| rule.interface.is_some()) {
                out.problems.push(format!(
                    "BGPFilter({name}) has rules with `interface`, which match no route here: a reflector sends no \
                     packets out of interfaces. Write them with `cidr`, `source` or `peerType`"
                ));
            }
            out.import.filters.push(both(name, &spec.import_v4, &spec.import_v6, ways));
            out.export.filters.push(both(name, &spec.export_v4, &spec.export_v6, ways));
        } else {
            out.problems.push(format!(
                "BGPFilter({name}) does not exist: until it does, nothing is exchanged on these sessions"
            ));
            let nothing = Rule { action: Action::Reject, ..Rule::default() };
            let filter = Filter { name: format!("{name} (missing)"), rules: vec![nothing] };
            out.import.filters.push(filter.clone());
            out.export.filters.push(filter);
        }
    }
    out.import.filters.extend(import.filters.iter().cloned());
    out.export.filters.extend(export.filters.iter().cloned());
    out
}

/// What the filters `names` let out expressly, or more where a rule says what it does not mean.
pub(super) fn let_out(names: &[String], known: &BTreeMap<String, BgpFilter>) -> BTreeSet<IpNet> {
    let inside = |rule: &BgpFilterRule| match rule.match_operator {
        Some(MatchOperator::NotEqual | MatchOperator::NotIn) => None,
        Some(MatchOperator::Equal | MatchOperator::In) | None => rule.cidr,
    };
    let of = |rules: &[BgpFilterRule], everything: IpNet| -> Vec<IpNet> {
        let accepting = rules.iter().filter(|rule| rule.action == FilterAction::Accept);
        accepting.map(|rule| inside(rule).unwrap_or(everything)).collect()
    };
    let specs = names.iter().filter_map(|name| known.get(name)).map(|filter| &filter.spec);
    specs
        .flat_map(|spec| {
            let v4 = of(&spec.export_v4, Ipv4Net::default().into());
            v4.into_iter().chain(of(&spec.export_v6, Ipv6Net::default().into()))
        })
        .collect()
}

fn both(name: &str, v4: &[BgpFilterRule], v6: &[BgpFilterRule], ways: &BTreeSet<Way>) -> Filter {
    let v4 = v4.iter().map(|rule| compile_rule(rule, ways, Ipv4Net::default().into(), 32));
    let v6 = v6.iter().map(|rule| compile_rule(rule, ways, Ipv6Net::default().into(), 128));
    Filter { name: name.to_owned(), rules: v4.chain(v6).collect() }
}

/// `everything` is the family's default route: a rule without a CIDR matches its own family only.
fn compile_rule(rule: &BgpFilterRule, ways: &BTreeSet<Way>, everything: IpNet, bits: u8) -> Rule {
    let prefix = rule.cidr.map_or_else(
        || inside(everything),
        |cidr| CidrMatch {
            cidr,
            operator: match rule.match_operator {
                Some(MatchOperator::NotEqual) => CidrOperator::NotEqual,
                Some(MatchOperator::In) => CidrOperator::In,
                Some(MatchOperator::NotIn) => CidrOperator::NotIn,
                Some(MatchOperator::Equal) | None => CidrOperator::Equal,
            },
            length: rule
                .prefix_length
                .as_ref()
                .map(|length| length.min.unwrap_or(cidr.prefix_len())..=length.max.unwrap_or(bits)),
        },
    );
    Rule {
        action: action(rule.action),
        prefix: Some(prefix),
        learned: rule.source.is_some(),
        next_hop: rule.interface.as_ref().map(|pattern| behind(pattern, ways)),
        peer_type: rule.peer_type.map(|kind| match kind {
            ApiPeerType::Ebgp => PeerType::External,
            ApiPeerType::Ibgp => PeerType::Internal,
        }),
        community: rule
            .communities
            .as_ref()
            .and_then(|list| list.values.first())
            .map(|value| community(*value)),
        as_path_prefix: rule.as_path_prefix.iter().map(|number| number.0).collect(),
        priority: rule.priority,
        operations: rule.operations.iter().map(operation).collect(),
    }
}

/// The next hops that this node reaches by an interface of a pattern. Of several routes to a network the best count.
fn behind(pattern: &str, ways: &BTreeSet<Way>) -> NextHopMatch {
    let mut networks: BTreeMap<IpNet, (u32, bool)> = BTreeMap::new();
    for way in ways {
        // In order of metric.
        let (metric, meant) = networks.entry(way.prefix).or_insert((way.metric, false));
        *meant |= *metric == way.metric && interface_matches(pattern, &way.dev);
    }
    NextHopMatch { networks: networks.into_iter().map(|(network, (_, meant))| (network, meant)).collect() }
}

fn operation(operation: &FilterOperation) -> Operation {
    match operation {
        FilterOperation::AddCommunity(add) => Operation::AddCommunity(community(add.value)),
        FilterOperation::PrependAsPath(path) => {
            Operation::PrependAsPath(path.prefix.iter().map(|number| number.0).collect())
        }
        FilterOperation::SetPriority(priority) => Operation::SetPriority(priority.value),
    }
}

fn action(action: FilterAction) -> Action {
    match action {
        FilterAction::Accept => Action::Accept,
        FilterAction::Reject => Action::Reject,
    }
}

fn inside(cidr: IpNet) -> CidrMatch {
    CidrMatch { cidr, operator: CidrOperator::In, length: None }
}

fn community(value: Community) -> AnyCommunity {
    match value {
        Community::Standard(high, low) => {
            AnyCommunity::Plain(margay_bgp::wire::Community(u32::from(high) << 16 | u32::from(low)))
        }
        Community::Large(global, local1, local2) => {
            AnyCommunity::Large(margay_bgp::wire::LargeCommunity { global, local1, local2 })
        }
    }
}
