//! The words of `margay explain`.

use std::fmt;

use margay_api::convert::RULE_NAME;

use super::explain::{End, Explanation, OwnNode};
use super::matching::{Mismatch, PeerMismatch};
use super::packet::protocol_name;
use super::trace::{
    Decision, EndpointVerdict, PolicyTrace, RuleResult, RuleTrace, RulesOutcome, TierOutcome, Verdict,
};
use crate::model::{Direction, EndpointId, PolicyId, RuleAction};

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allowed",
            Self::Deny => "denied",
        })
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload { namespace, name } => write!(f, "{namespace}/{name}"),
            Self::Host { name } => write!(f, "host endpoint {name}"),
        }
    }
}

impl fmt::Display for RuleAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Pass => "Pass",
            Self::Log => "Log",
        })
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule { tier, policy, rule, annotations } => {
                write!(f, "rule {rule} ")?;
                if let Some(name) = annotations.get(RULE_NAME) {
                    write!(f, "{name:?} ")?;
                }
                write!(f, "of {policy} (tier {tier})")
            }
            Self::Quarantined { tier, policy, reason } => {
                write!(f, "{policy} (tier {tier}) is quarantined and denies what it governs: {reason}")
            }
            Self::EndOfTier { tier, policies } => {
                write!(f, "end of tier {tier}: no rule matched in ")?;
                for (position, policy) in policies.iter().enumerate() {
                    if position > 0 {
                        f.write_str(", ")?;
                    }
                    write!(f, "{policy}")?;
                }
                Ok(())
            }
            Self::ProfileRule { profile, rule } => {
                write!(f, "rule {rule} of profile {} (no policy decided)", profile.0)
            }
            Self::NoProfileMatched => f.write_str("no policy and no profile matched"),
            Self::Failsafe => f.write_str("a failsafe port of the node"),
            Self::Tunnel => f.write_str(
                "pods send no tunnel packets (allowVXLANPacketsFromWorkloads, allowIPIPPacketsFromWorkloads)",
            ),
        }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::IpVersion { wanted } => write!(f, "the rule is for IPv{wanted}"),
            Self::Protocol { wanted } => write!(f, "the rule is for {}", protocol_name(*wanted)),
            Self::NotProtocol => f.write_str("the protocol is excluded by notProtocol"),
            Self::Icmp => f.write_str("ICMP type or code differs"),
            Self::NotIcmp => f.write_str("the ICMP type is excluded by notICMP"),
            Self::Source(part) => part.describe("source", f),
            Self::Destination(part) => part.describe("destination", f),
        }
    }
}

impl PeerMismatch {
    fn describe(&self, side: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nets => write!(f, "the {side} is in none of the rule's nets"),
            Self::NotNets { net } => write!(f, "the {side} is in {net}, excluded by notNets"),
            Self::Set { meaning, .. } => write!(f, "the {side} is not among: {meaning}"),
            Self::NotSet { meaning, .. } => write!(f, "the {side} is excluded, being among: {meaning}"),
            Self::Ports => write!(f, "the {side} port is none of the rule's ports"),
            Self::NotPorts => write!(f, "the {side} port is excluded by notPorts"),
            Self::Service { meaning, .. } => write!(f, "the {side} is not among: {meaning}"),
        }
    }
}

impl fmt::Display for RuleTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {} ({}): ", self.index, self.action)?;
        match &self.result {
            RuleResult::Matched => f.write_str("matches"),
            RuleResult::PassedOver(why) => write!(f, "passed over, {why}"),
        }
    }
}

fn outcome(outcome: RulesOutcome) -> &'static str {
    match outcome {
        RulesOutcome::Allow => "allows",
        RulesOutcome::Deny => "denies",
        RulesOutcome::Pass => "passes to the next tier",
        RulesOutcome::NoMatch => "no rule matches",
    }
}

fn policy(trace: &PolicyTrace, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let staged = if trace.staged { " [staged, not enforced]" } else { "" };
    writeln!(f, "      {}{staged}: {}", trace.policy, outcome(trace.outcome))?;
    if let Some(reason) = &trace.invalid {
        return writeln!(f, "        quarantined: {reason}");
    }
    trace.rules.iter().try_for_each(|rule| writeln!(f, "        {rule}"))
}

impl fmt::Display for EndpointVerdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} of {}: {}", self.direction, self.endpoint, self.verdict)?;
        writeln!(f, "    by {}", self.decision)?;
        for tier in &self.tiers {
            let end = match tier.outcome {
                TierOutcome::Allow => "allows",
                TierOutcome::Deny => "denies",
                TierOutcome::Pass => "passes on by a rule",
                TierOutcome::DefaultDeny => "undecided, denies by default",
                TierOutcome::DefaultPass => "undecided, passes on by default",
                TierOutcome::OnlyStaged => "only staged policies",
            };
            writeln!(f, "    tier {}: {end}", tier.name)?;
            tier.policies.iter().try_for_each(|trace| policy(trace, f))?;
        }
        for profile in &self.profiles {
            writeln!(f, "    profile {}: {}", profile.profile.0, outcome(profile.outcome))?;
            profile.rules.iter().try_for_each(|rule| writeln!(f, "        {rule}"))?;
        }
        Ok(())
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(verdict) => verdict.fmt(f),
            Self::Node => writeln!(f, "an address of a node without host endpoint: no policy"),
            Self::Unknown => writeln!(f, "no endpoint known here has this address: no policy was run"),
        }
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}", self.packet, self.verdict)?;
        if self.loopback {
            return writeln!(
                f,
                "  both ends are the same endpoint: the packet never leaves it, no policy applies"
            );
        }
        write!(f, "  from {}", self.source)?;
        write!(f, "  to   {}", self.destination)?;
        match self.own_node {
            None => Ok(()),
            Some(OwnNode::ToPod) => {
                writeln!(f, "  a node always reaches its own pods, whatever their policy says")
            }
            Some(OwnNode::FromPod(action)) => {
                writeln!(f, "  a pod's packets to its own node: {action:?} (defaultEndpointToHostAction)")
            }
        }
    }
}
