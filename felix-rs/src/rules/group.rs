//! Chains of a group: the ordered policies that endpoints share, tier by tier, then profiles.

use super::language::{Action, Match, Rule};
use super::marks::Marks;
use super::names;
use crate::model::{Direction, EndpointPolicy, PolicyId, ProfileId, TierDefault};

/// A decided packet leaves the chain after at most this many policies it need not have seen.
const RETURN_EVERY: usize = 8;

/// What is known of a policy that endpoints refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reference {
    /// Its chain exists.
    Enforced,
    /// Its chain exists and decides nothing: what it would have decided is counted.
    Staged,
    /// Not in the state.
    Missing,
}

/// How a chain of policies ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Drop at the end of a tier that denies, run profiles, drop what nobody accepted.
    Enforce,
    /// Drop at the end of a tier that denies; no profiles, what all tiers passed goes on undecided.
    Tiers,
    /// What no policy decided goes on undecided.
    Continue,
}

/// With the flow log on, what is dropped is told of first.
pub(super) fn with_flow_log(flow_log: bool, rules: Vec<Rule>) -> Vec<Rule> {
    if !flow_log {
        return rules;
    }
    let told = |rule: Rule| {
        let tell = (rule.action == Action::Drop).then(|| Rule::new(rule.matches.clone(), Action::LogFlow));
        tell.into_iter().chain([rule])
    };
    rules.into_iter().flat_map(told).collect()
}

/// Puts one action in the place of another.
pub(super) fn replace(rules: &mut [Rule], action: &Action, by: &Action) {
    for rule in rules.iter_mut().filter(|rule| rule.action == *action) {
        rule.action = by.clone();
    }
}

/// What is known of the policies and profiles that exist.
pub(super) trait Known {
    fn policy(&self, id: &PolicyId) -> Reference;
    fn profile(&self, id: &ProfileId) -> bool;
}

/// The body of a chain for all endpoints with this policy. On entry neither mark is set; the caller finds
/// the accept mark set on return if the packet is accepted.
pub(super) fn chain(
    marks: Marks,
    policy: &EndpointPolicy,
    direction: Direction,
    end: End,
    known: &impl Known,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    let accepted = || Rule::new([Match::Mark { bits: marks.accept, set: true }], Action::Return);
    let mut pass_may_be_set = false;
    for tier in &policy.tiers {
        let ids = match direction {
            Direction::Ingress => &tier.ingress,
            Direction::Egress => &tier.egress,
        };
        if ids.is_empty() {
            continue;
        }
        if pass_may_be_set {
            rules.push(Rule::new([], Action::ClearMark(marks.pass)));
        }
        let mut enforced = 0;
        for id in ids {
            let reference = known.policy(id);
            if enforced > 0 && enforced % RETURN_EVERY == 0 && reference != Reference::Staged {
                rules.push(accepted());
            }
            // The first one too, so that a policy that comes before it leaves its rule as it is.
            let matches = vec![Match::Mark { bits: marks.decided(), set: false }];
            rules.push(match reference {
                Reference::Missing => Rule::new(matches, Action::Drop)
                    .note(format!("{} is not known: fail closed", names::policy_text(id))),
                Reference::Enforced | Reference::Staged => {
                    Rule::new(matches, Action::Jump(names::policy(id, direction)))
                        .note(names::policy_text(id))
                }
            });
            enforced += usize::from(reference != Reference::Staged);
        }
        if enforced == 0 {
            continue;
        }
        rules.push(accepted());
        if tier.default == TierDefault::Deny && end != End::Continue {
            rules.push(
                Rule::new([Match::Mark { bits: marks.pass, set: false }], Action::Drop)
                    .note(format!("end of tier {}", tier.name)),
            );
        }
        pass_may_be_set = true;
    }
    if end == End::Enforce {
        profiles(marks, policy, direction, known, &mut rules);
    }
    rules.shrink_to_fit();
    rules
}

fn profiles(
    marks: Marks,
    policy: &EndpointPolicy,
    direction: Direction,
    known: &impl Known,
    rules: &mut Vec<Rule>,
) {
    for (number, id) in policy.profiles.iter().enumerate() {
        let undecided = Match::Mark { bits: marks.accept, set: false };
        let matches = if number == 0 { Vec::new() } else { vec![undecided] };
        rules.push(if known.profile(id) {
            Rule::new(matches, Action::Jump(names::profile(id, direction))).note(format!("Profile({})", id.0))
        } else {
            Rule::new(matches, Action::Drop).note(format!("Profile({}) is not known: fail closed", id.0))
        });
    }
    rules.push(
        Rule::new([Match::Mark { bits: marks.accept, set: false }], Action::Drop)
            .note("no policy or profile accepted"),
    );
}
