//! Whom a policy or a rule speaks of, as one selector over effective labels.
//!
//! Calico rewrites selector text for this (`libcalico-go/lib/backend/syncersv1/updateprocessors/rules.go`); here
//! expressions are joined. Namespaces and service accounts are seen through the labels they lend: the prefixes
//! `pcns.` and `pcsa.`.

use margay_api::selector::{Expr, Selector};

use super::facts::{ACCOUNT_PREFIX, NAMESPACE, NAMESPACE_PREFIX, ORCHESTRATOR, SERVICE_ACCOUNT};

/// The selecting fields of a policy or of one side of a rule.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Who<'a> {
    /// Namespace of the policy.
    pub(super) namespace: Option<&'a str>,
    pub(super) selector: Option<&'a Selector>,
    /// Only whether it is given matters here: it makes the policy's namespace count.
    pub(super) not_selector: Option<&'a Selector>,
    pub(super) namespace_selector: Option<&'a Selector>,
    pub(super) account_selector: Option<&'a Selector>,
    pub(super) account_names: &'a [String],
}

impl Who<'_> {
    /// Endpoints a policy applies to.
    pub(super) fn target(self) -> Selector {
        self.scope(true).unwrap_or_else(Selector::all)
    }

    /// Endpoints and network sets one side of a rule means; `None`: the rule doesn't say. In a namespaced policy the
    /// namespace counts as soon as any selecting field is given, `notSelector` included.
    pub(super) fn peer(self) -> Option<Selector> {
        let given = self.selector.is_some()
            || self.not_selector.is_some()
            || self.namespace_selector.is_some()
            || self.account_selector.is_some()
            || !self.account_names.is_empty();
        self.scope(given)
    }

    fn scope(self, namespaced: bool) -> Option<Selector> {
        let mut parts = Vec::new();
        match (self.namespace_selector, self.namespace) {
            (Some(selector), _) => parts.push(over_namespaces(selector.expr())),
            (None, Some(namespace)) if namespaced => {
                parts.push(Expr::Eq(NAMESPACE.to_owned(), namespace.to_owned()));
            }
            (None, _) => {}
        }
        if let Some(selector) = self.account_selector {
            parts.push(selector.with_label_prefix(ACCOUNT_PREFIX).expr().clone());
        }
        if !self.account_names.is_empty() {
            parts.push(Expr::In(SERVICE_ACCOUNT.to_owned(), self.account_names.iter().cloned().collect()));
        }
        if let Some(selector) = self.selector {
            parts.push(selector.expr().clone());
        }
        let mut flat = Vec::new();
        flatten(parts, &mut flat);
        if flat.len() > 1 {
            flat.retain(|part| *part != Expr::All);
        }
        (!flat.is_empty()).then(|| Expr::And(flat).into())
    }
}

fn flatten(parts: Vec<Expr>, flat: &mut Vec<Expr>) {
    for part in parts {
        match part {
            Expr::And(inner) => flatten(inner, flat),
            other if flat.contains(&other) => {}
            other => flat.push(other),
        }
    }
}

/// A namespace selector over the labels namespaces lend; `all()` means every namespaced object and `global()` every
/// other.
fn over_namespaces(expr: &Expr) -> Expr {
    let namespaced = || Expr::Has(NAMESPACE.to_owned());
    match expr {
        Expr::All => namespaced(),
        Expr::Global => Expr::Not(Box::new(namespaced())),
        Expr::Not(operand) => match over_namespaces(operand) {
            Expr::Not(inner) => *inner,
            other => Expr::Not(Box::new(other)),
        },
        Expr::And(operands) => Expr::And(operands.iter().map(over_namespaces).collect()),
        Expr::Or(operands) => Expr::Or(operands.iter().map(over_namespaces).collect()),
        term => Selector::from(term.clone()).with_label_prefix(NAMESPACE_PREFIX).expr().clone(),
    }
}

/// The selector in a person's words; a function of the canonical expression only.
pub(super) fn words(selector: &Selector) -> String {
    let mut namespaces = Vec::new();
    let mut accounts = Vec::new();
    let mut labels = Vec::new();
    let mut place = String::new();
    let one = [selector.expr().clone()];
    let operands: &[Expr] = match selector.expr() {
        Expr::And(operands) => operands,
        _ => &one,
    };
    for operand in operands {
        match operand {
            Expr::All => {}
            Expr::Eq(name, value) if name == NAMESPACE => place = format!(" in namespace {value}"),
            Expr::Has(name) if name == NAMESPACE => place = " in any namespace".to_owned(),
            Expr::Not(inner) if matches!(&**inner, Expr::Has(name) if name == NAMESPACE) => {
                place = " outside of namespaces".to_owned();
            }
            Expr::Eq(name, value) if name == ORCHESTRATOR && value == "k8s" => {}
            other => {
                let text = other.to_string();
                if text.contains(NAMESPACE_PREFIX) {
                    namespaces.push(text.replace(NAMESPACE_PREFIX, ""));
                } else if text.contains(ACCOUNT_PREFIX) {
                    accounts.push(text.replace(ACCOUNT_PREFIX, ""));
                } else {
                    labels.push(text);
                }
            }
        }
    }
    let mut words = if labels.is_empty() { "all".to_owned() } else { labels.join(" && ") };
    words.push_str(&place);
    for (intro, parts) in [(" in namespaces with ", namespaces), (" of service accounts with ", accounts)] {
        if !parts.is_empty() {
            words.push_str(intro);
            words.push_str(&parts.join(" && "));
        }
    }
    words
}
