//! The verdict of one endpoint on one packet.

use super::matching::mismatch;
use super::packet::{IPIP, Packet, UDP};
use super::trace::{
    Decision, EndpointVerdict, PolicyTrace, ProfileTrace, RuleResult, RuleTrace, RulesOutcome, TierOutcome,
    TierTrace, Verdict,
};
use crate::model::{
    Direction, EndpointId, EndpointPolicy, EndpointTier, EnforcedState, FailsafePort, LocalEndpoint,
    PolicyId, PolicyRule, ProfileId, RuleAction, TierDefault,
};

/// Runs a packet through the policy of one endpoint, as the first packet of a flow that connection
/// tracking does not know: towards it ([`Direction::Ingress`]) or from it. Host endpoints: their normal policies,
/// after the failsafe ports.
#[must_use]
pub fn evaluate(
    state: &EnforcedState,
    endpoint: &LocalEndpoint,
    direction: Direction,
    packet: &Packet,
) -> EndpointVerdict {
    let mut run =
        Run { state, direction, packet, undecided_ends: true, tiers: Vec::new(), profiles: Vec::new() };
    let is_host = matches!(endpoint.id, EndpointId::Host { .. });
    let (verdict, decision) = if is_host && is_failsafe(state, direction, packet) {
        (Verdict::Allow, Decision::Failsafe)
    } else if !is_host && direction == Direction::Egress && is_forbidden_tunnel(state, packet) {
        (Verdict::Deny, Decision::Tunnel)
    } else {
        let policy = &endpoint.policy;
        run.tiers(&policy.tiers).unwrap_or_else(|| run.profiles(&policy.profiles))
    };
    run.verdict(endpoint, verdict, decision)
}

/// Runs a packet through policies of a host endpoint that need not decide: `None` if none does. Where `undecided_ends`, the
/// end of a tier whose default is to deny decides, too.
pub(super) fn evaluate_tiers(
    state: &EnforcedState,
    endpoint: &LocalEndpoint,
    policy: &EndpointPolicy,
    undecided_ends: bool,
    direction: Direction,
    packet: &Packet,
) -> Option<EndpointVerdict> {
    let mut run = Run { state, direction, packet, undecided_ends, tiers: Vec::new(), profiles: Vec::new() };
    let (verdict, decision) = run.tiers(&policy.tiers)?;
    Some(run.verdict(endpoint, verdict, decision))
}

fn is_forbidden_tunnel(state: &EnforcedState, packet: &Packet) -> bool {
    let settings = &state.settings;
    match packet.protocol {
        IPIP => !settings.pods_send_ipip,
        UDP => !settings.pods_send_vxlan && packet.destination_port == settings.vxlan_port_or_default(),
        _ => false,
    }
}

pub(super) fn is_failsafe(state: &EnforcedState, direction: Direction, packet: &Packet) -> bool {
    let (ports, peer) = match direction {
        Direction::Ingress => (&state.settings.failsafe_inbound, packet.source),
        Direction::Egress => (&state.settings.failsafe_outbound, packet.destination),
    };
    ports.iter().any(|FailsafePort { protocol, port, net }| {
        *protocol == packet.protocol
            && *port == packet.destination_port
            && net.as_ref().is_none_or(|net| net.contains(&peer))
    })
}

struct Run<'a> {
    state: &'a EnforcedState,
    direction: Direction,
    packet: &'a Packet,
    /// The default action of a tier counts.
    undecided_ends: bool,
    tiers: Vec<TierTrace>,
    profiles: Vec<ProfileTrace>,
}

impl Run<'_> {
    fn verdict(self, endpoint: &LocalEndpoint, verdict: Verdict, decision: Decision) -> EndpointVerdict {
        let Self { direction, tiers, profiles, .. } = self;
        EndpointVerdict { endpoint: endpoint.id.clone(), direction, verdict, decision, tiers, profiles }
    }

    fn tiers(&mut self, tiers: &[EndpointTier]) -> Option<(Verdict, Decision)> {
        tiers.iter().find_map(|tier| self.tier(tier))
    }

    fn profiles(&mut self, profiles: &[ProfileId]) -> (Verdict, Decision) {
        for id in profiles {
            let Some(profile) = self.state.profiles.get(id) else { continue };
            let rules = match self.direction {
                Direction::Ingress => &profile.ingress,
                Direction::Egress => &profile.egress,
            };
            let (rules, outcome) = self.rules(rules);
            let decided_by = rules.last().map_or(0, |rule| rule.index);
            self.profiles.push(ProfileTrace { profile: id.clone(), rules, outcome });
            let verdict = match outcome {
                RulesOutcome::Allow => Verdict::Allow,
                RulesOutcome::Deny => Verdict::Deny,
                RulesOutcome::Pass | RulesOutcome::NoMatch => continue,
            };
            return (verdict, Decision::ProfileRule { profile: id.clone(), rule: decided_by });
        }
        (Verdict::Deny, Decision::NoProfileMatched)
    }

    /// `None`: the next tier.
    fn tier(&mut self, tier: &EndpointTier) -> Option<(Verdict, Decision)> {
        let policies = match self.direction {
            Direction::Ingress => &tier.ingress,
            Direction::Egress => &tier.egress,
        };
        if policies.is_empty() {
            return None;
        }
        let mut traces = Vec::new();
        let mut enforced: Vec<PolicyId> = Vec::new();
        let mut end = None;
        for id in policies {
            let Some(policy) = self.state.policies.get(id) else { continue };
            let rules = match self.direction {
                Direction::Ingress => &policy.ingress,
                Direction::Egress => &policy.egress,
            };
            let (rules, outcome) = self.rules(rules);
            let index = rules.last().map_or(0, |rule| rule.index);
            let annotations = policy_annotations(&policy.ingress, &policy.egress, self.direction, index);
            traces.push(PolicyTrace {
                policy: id.clone(),
                staged: policy.staged,
                invalid: policy.invalid.clone(),
                rules,
                outcome,
            });
            if policy.staged {
                continue;
            }
            enforced.push(id.clone());
            let decision = || match &policy.invalid {
                Some(reason) => Decision::Quarantined {
                    tier: tier.name.clone(),
                    policy: id.clone(),
                    reason: reason.clone(),
                },
                None => Decision::Rule {
                    tier: tier.name.clone(),
                    policy: id.clone(),
                    rule: index,
                    annotations: annotations.clone(),
                },
            };
            end = match outcome {
                RulesOutcome::NoMatch => continue,
                RulesOutcome::Allow => Some((TierOutcome::Allow, Some((Verdict::Allow, decision())))),
                RulesOutcome::Deny => Some((TierOutcome::Deny, Some((Verdict::Deny, decision())))),
                RulesOutcome::Pass => Some((TierOutcome::Pass, None)),
            };
            break;
        }
        let (outcome, decided) = end.unwrap_or_else(|| match tier.default {
            _ if enforced.is_empty() => (TierOutcome::OnlyStaged, None),
            TierDefault::Deny if self.undecided_ends => {
                let decision = Decision::EndOfTier { tier: tier.name.clone(), policies: enforced };
                (TierOutcome::DefaultDeny, Some((Verdict::Deny, decision)))
            }
            TierDefault::Deny | TierDefault::Pass => (TierOutcome::DefaultPass, None),
        });
        self.tiers.push(TierTrace { name: tier.name.clone(), policies: traces, outcome });
        decided
    }

    fn rules(&self, rules: &[PolicyRule]) -> (Vec<RuleTrace>, RulesOutcome) {
        let mut traces = Vec::new();
        for rule in rules {
            let result =
                mismatch(self.state, rule, self.packet).map_or(RuleResult::Matched, RuleResult::PassedOver);
            let matched = result == RuleResult::Matched;
            traces.push(RuleTrace { index: rule.index, action: rule.action, result });
            if matched {
                match rule.action {
                    RuleAction::Allow => return (traces, RulesOutcome::Allow),
                    RuleAction::Deny => return (traces, RulesOutcome::Deny),
                    RuleAction::Pass => return (traces, RulesOutcome::Pass),
                    RuleAction::Log => {}
                }
            }
        }
        (traces, RulesOutcome::NoMatch)
    }
}

fn policy_annotations(
    ingress: &[PolicyRule],
    egress: &[PolicyRule],
    direction: Direction,
    index: u32,
) -> std::collections::BTreeMap<String, String> {
    let rules = match direction {
        Direction::Ingress => ingress,
        Direction::Egress => egress,
    };
    rules.iter().find(|rule| rule.index == index).map(|rule| rule.annotations.clone()).unwrap_or_default()
}
