//! Which pools a request may use.

use std::collections::BTreeMap;

use ipnet::IpNet;
use margay_api::IpPool;
use margay_api::kinds::{AllowedUse, AssignmentMode};

use crate::range::Family;

/// What an address is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose<'a> {
    /// A pod, of a namespace with these labels.
    Workload {
        /// Labels of the Namespace.
        namespace: &'a BTreeMap<String, String>,
    },
    /// A tunnel device of the node.
    Tunnel,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub struct PoolQuery<'a> {
    /// Labels of the Node.
    pub node: &'a BTreeMap<String, String>,
    /// What for.
    pub purpose: Purpose<'a>,
    /// Names or CIDRs of pools asked for, in order of preference; empty: whichever is open.
    pub requested: &'a [String],
}

/// A pool was asked for that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// No such pool.
    #[error("IPPool {name:?} does not exist; there are: {}", if .known.is_empty() { "none".to_owned() } else { .known.join(", ") })]
    Unknown {
        /// What was asked for.
        name: String,
        /// Names there are.
        known: Vec<String>,
    },
    /// It exists and is closed for this request.
    #[error("IPPool {name} can't be used: {reason}")]
    Closed {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
}

/// Pools open for a request, and why the others aren't.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Eligible<'a> {
    /// Open, the preferred one first: as requested, else by name.
    pub pools: Vec<&'a IpPool>,
    /// Name of each closed pool and the reason.
    pub excluded: Vec<(String, String)>,
}

impl Eligible<'_> {
    /// CIDRs of the open pools, in order.
    pub fn cidrs(&self) -> Vec<IpNet> {
        self.pools.iter().map(|pool| pool.spec.cidr.trunc()).collect()
    }
}

/// The pools that may be used. The order of `pools` doesn't matter.
///
/// # Errors
/// When a pool asked for does not exist or is closed; nothing else is used in its place.
pub fn eligible_pools<'a>(pools: &[&'a IpPool], query: &PoolQuery<'_>) -> Result<Eligible<'a>, PoolError> {
    let by_name: BTreeMap<&str, &IpPool> = pools.iter().map(|p| (p.metadata.name.as_str(), *p)).collect();
    if query.requested.is_empty() {
        let mut eligible = Eligible::default();
        for (name, pool) in by_name {
            match closed(pool, query, false) {
                None => eligible.pools.push(pool),
                Some(reason) => eligible.excluded.push((name.to_owned(), reason)),
            }
        }
        return Ok(eligible);
    }
    let mut eligible = Eligible::default();
    for wanted in query.requested {
        let cidr: Option<IpNet> = wanted.parse().ok();
        let pool = by_name
            .get(wanted.as_str())
            .copied()
            .or_else(|| by_name.values().copied().find(|pool| Some(pool.spec.cidr.trunc()) == cidr));
        let Some(pool) = pool else {
            let known = by_name.keys().map(|&name| name.to_owned()).collect();
            return Err(PoolError::Unknown { name: wanted.clone(), known });
        };
        if let Some(reason) = closed(pool, query, true) {
            return Err(PoolError::Closed { name: pool.metadata.name.clone(), reason });
        }
        if !eligible.pools.iter().any(|have| have.metadata.name == pool.metadata.name) {
            eligible.pools.push(pool);
        }
    }
    Ok(eligible)
}

/// Why the pool can't be used; absent when it can.
fn closed(pool: &IpPool, query: &PoolQuery<'_>, by_name: bool) -> Option<String> {
    let spec = &pool.spec;
    if spec.disabled {
        return Some("it is disabled".to_owned());
    }
    let (wanted, what) = match query.purpose {
        Purpose::Workload { .. } => (AllowedUse::Workload, "Workload"),
        Purpose::Tunnel => (AllowedUse::Tunnel, "Tunnel"),
    };
    if !spec.allows(wanted) {
        return Some(format!("its allowedUses lack {what}"));
    }
    if spec.assignment_mode == Some(AssignmentMode::Manual) && !by_name {
        return Some("its assignmentMode is Manual: it must be asked for by name".to_owned());
    }
    if let Some(selector) = spec.node_selector.as_ref().filter(|s| !s.matches(query.node)) {
        return Some(format!("its nodeSelector {:?} does not select this node", selector.source()));
    }
    if let Purpose::Workload { namespace } = query.purpose
        && let Some(selector) = spec.namespace_selector.as_ref().filter(|s| !s.matches(namespace))
    {
        return Some(format!("its namespaceSelector {:?} does not select the namespace", selector.source()));
    }
    let family = Family::of(&spec.cidr);
    let len = spec.block_size();
    if len < spec.cidr.prefix_len() || len > family.bits() {
        return Some(format!("it is smaller than one block of /{len}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use margay_api::Metadata;
    use margay_api::kinds::IpPoolSpec;
    use margay_api::selector::Selector;

    use super::*;

    fn pool(name: &str, cidr: &str, change: impl FnOnce(&mut IpPoolSpec)) -> IpPool {
        let json = serde_json::json!({ "cidr": cidr });
        let mut spec: IpPoolSpec = serde_json::from_value(json).unwrap();
        change(&mut spec);
        IpPool::new(Metadata::named(name), spec)
    }

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn every_exclusion_and_its_reason() {
        let selector = |text: &str| Some(Selector::parse(text).unwrap());
        let pools = [
            pool("z-open", "10.1.0.0/16", |_| {}),
            pool("a-open", "10.2.0.0/16", |p| p.node_selector = selector("rack == 'r1'")),
            pool("disabled", "10.3.0.0/16", |p| p.disabled = true),
            pool("lb", "10.4.0.0/16", |p| p.allowed_uses = vec![AllowedUse::LoadBalancer]),
            pool("manual", "10.5.0.0/16", |p| p.assignment_mode = Some(AssignmentMode::Manual)),
            pool("rack2", "10.6.0.0/16", |p| p.node_selector = selector("rack == 'r2'")),
            pool("prod", "10.7.0.0/16", |p| p.namespace_selector = selector("env == 'prod'")),
            pool("tiny", "10.8.0.0/28", |p| p.block_size = Some(24)),
        ];
        let refs: Vec<&IpPool> = pools.iter().collect();
        let (node, dev, prod) = (labels(&[("rack", "r1")]), labels(&[]), labels(&[("env", "prod")]));
        let ask = |namespace, requested: &[&str]| {
            let requested: Vec<String> = requested.iter().map(|r| (*r).to_owned()).collect();
            let query =
                PoolQuery { node: &node, purpose: Purpose::Workload { namespace }, requested: &requested };
            eligible_pools(&refs, &query).map(|e| {
                let names: Vec<String> = e.pools.iter().map(|p| p.metadata.name.clone()).collect();
                (names, e.excluded)
            })
        };
        let (names, excluded) = ask(&dev, &[]).unwrap();
        assert_eq!(names, ["a-open", "z-open"]);
        let text = format!("{excluded:?}");
        for reason in
            ["disabled", "allowedUses lack Workload", "Manual", "r2", "env", "smaller than one block of /24"]
        {
            assert!(text.contains(reason), "{reason} in {text}");
        }
        assert_eq!(ask(&prod, &[]).unwrap().0, ["a-open", "prod", "z-open"]);
        assert_eq!(ask(&dev, &["manual", "10.1.0.0/16", "z-open"]).unwrap().0, ["manual", "z-open"]);
        assert!(matches!(ask(&dev, &["nope"]), Err(PoolError::Unknown { .. })));
        let closed = ask(&dev, &["prod"]).unwrap_err().to_string();
        assert!(closed.contains("IPPool prod can't be used: its namespaceSelector"), "{closed}");
        let query = PoolQuery { node: &node, purpose: Purpose::Tunnel, requested: &[] };
        let tunnel = eligible_pools(&refs, &query).unwrap();
        assert_eq!(tunnel.pools.len(), 3, "a namespaceSelector says nothing about tunnels");
    }
}
