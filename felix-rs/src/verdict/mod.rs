//! The evaluator: what the enforced state does with a packet and which rule, policy and tier is responsible.
//!
//! It shares nothing with rules and render, so that it can be their oracle; `margay explain` is the same
//! code. Verdicts are about the first packet of a flow: replies follow by connection tracking.

mod evaluate;
mod explain;
mod flow;
mod impact;
mod lately;
mod matching;
mod node;
mod packet;
mod text;
mod trace;

pub use evaluate::evaluate;
pub use explain::{End, Explanation, OwnNode, explain};
pub use flow::{Affected, Judge};
pub use impact::{Impact, ImpactChange, impact};
pub use lately::{SeenChange, impact_on};
pub use matching::{Mismatch, PeerMismatch};
pub use node::{Passage, Passed, Place, Step, pass};
pub use packet::{ICMP, ICMPV6, IPIP, Packet, SCTP, TCP, UDP, UDPLITE, has_ports, protocol_name};
pub use trace::{
    Decision, EndpointVerdict, PolicyTrace, ProfileTrace, RuleAt, RuleResult, RuleTrace, RulesOutcome,
    TierOutcome, TierTrace, Turned, Verdict,
};

#[cfg(test)]
mod tests;
