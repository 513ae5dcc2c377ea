//! Why a policy decided as it did.

use super::{Action, Policy, RouteView};
use serde::{Deserialize, Serialize};

/// One rule that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Filter the rule belongs to.
    pub filter: String,
    /// Its place, from 1.
    pub rule: usize,
    /// Condition that did not hold; `None` if the rule matched and decided.
    pub mismatch: Option<String>,
}

/// The rules looked at, in order, and the result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// In order; the last one decided if it has no mismatch, else the default did.
    pub steps: Vec<Step>,
    /// Result.
    pub action: Action,
}

impl Trace {
    /// The result in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let verb = match self.action {
            Action::Accept => "accepted",
            Action::Reject => "rejected",
        };
        match self.steps.last() {
            Some(step) if step.mismatch.is_none() => {
                format!("{verb} by rule {} of filter {}", step.rule, step.filter)
            }
            Some(_) => format!("{verb} by default: no rule matches"),
            None => format!("{verb}: no filters"),
        }
    }
}

impl Policy {
    /// Evaluates like [`Policy::apply`], recording every step.
    #[must_use]
    pub fn explain(&self, route: &RouteView<'_>) -> Trace {
        let mut steps = Vec::new();
        for filter in &self.filters {
            for (index, rule) in filter.rules.iter().enumerate() {
                let mismatch = rule.mismatch(route);
                steps.push(Step {
                    filter: filter.name.clone(),
                    rule: index + 1,
                    mismatch: mismatch.map(str::to_owned),
                });
                if mismatch.is_none() {
                    return Trace { steps, action: rule.action };
                }
            }
        }
        Trace { steps, action: self.default }
    }
}
