use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Expr, Selector};
use crate::{
    path::{Path, Problems},
    types::string_enum::string_enum,
};

/// A Kubernetes label selector; everything in it must hold, an empty one selects everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels with exact values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<LabelRequirement>,
}

/// One of `matchExpressions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelRequirement {
    /// Label name.
    pub key: String,
    /// Relation between the label and `values`.
    pub operator: LabelOperator,
    /// Empty for `Exists` and `DoesNotExist`, otherwise not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

string_enum! { exact
    /// Operators of [`LabelRequirement`].
    pub enum LabelOperator {
        /// The label's value is one of the values.
        In = "In",
        /// The label is absent or has another value.
        NotIn = "NotIn",
        /// The label is there.
        Exists = "Exists",
        /// The label is absent.
        DoesNotExist = "DoesNotExist",
    }
}

impl LabelSelector {
    /// The same in Calico's language; terms in the order of Calico's conversion (labels by name, then expressions).
    #[must_use]
    pub fn to_selector(&self) -> Selector {
        Expr::And(self.terms()).into()
    }

    pub(crate) fn terms(&self) -> Vec<Expr> {
        let labels = self.match_labels.iter().map(|(name, value)| Expr::Eq(name.clone(), value.clone()));
        let expressions = self.match_expressions.iter().map(|requirement| {
            let key = requirement.key.clone();
            let values: BTreeSet<String> = requirement.values.iter().cloned().collect();
            match requirement.operator {
                LabelOperator::In => Expr::In(key, values),
                LabelOperator::NotIn => Expr::NotIn(key, values),
                LabelOperator::Exists => Expr::Has(key),
                LabelOperator::DoesNotExist => Expr::Not(Box::new(Expr::Has(key))),
            }
        });
        labels.chain(expressions).collect()
    }

    pub(crate) fn check(&self, path: &Path<'_>, problems: &mut Problems) {
        let (labels, expressions) = (path.field("matchLabels"), path.field("matchExpressions"));
        for (name, value) in &self.match_labels {
            let at = labels.key(name);
            crate::validate::metadata::check_label_name(name, &at, problems);
            crate::validate::metadata::check_label_value(value, &at, problems);
        }
        for (index, requirement) in self.match_expressions.iter().enumerate() {
            let at = expressions.index(index);
            crate::validate::metadata::check_label_name(&requirement.key, &at.field("key"), problems);
            let wants_values = matches!(requirement.operator, LabelOperator::In | LabelOperator::NotIn);
            let values = at.field("values");
            if wants_values {
                problems.require(
                    !requirement.values.is_empty(),
                    &values,
                    "In and NotIn need at least one value",
                );
            } else {
                problems.require(
                    requirement.values.is_empty(),
                    &values,
                    "Exists and DoesNotExist take no values",
                );
            }
            for (i, value) in requirement.values.iter().enumerate() {
                crate::validate::metadata::check_label_value(value, &values.index(i), problems);
            }
        }
    }
}
