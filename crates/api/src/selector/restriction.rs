use std::collections::{BTreeMap, BTreeSet};

use super::expr::Expr;

/// What a selector demands of one label of everything it matches. A necessary condition, not a sufficient one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restriction {
    /// The label must exist.
    pub must_be_present: bool,
    /// The label must not exist. Together with `must_be_present`: nothing can match.
    pub must_be_absent: bool,
    /// The value must be one of these; an empty set means nothing can match. `None`: any value.
    pub one_of: Option<BTreeSet<String>>,
}

impl Restriction {
    fn present(one_of: Option<BTreeSet<String>>) -> Self {
        Self { must_be_present: true, must_be_absent: false, one_of }
    }
}

pub(super) fn of(expr: &Expr) -> BTreeMap<String, Restriction> {
    let one = |label: &String, restriction| BTreeMap::from([(label.clone(), restriction)]);
    match expr {
        Expr::Eq(label, value) => one(label, Restriction::present(Some(BTreeSet::from([value.clone()])))),
        Expr::In(label, values) => one(label, Restriction::present(Some(values.clone()))),
        Expr::Has(label)
        | Expr::Contains(label, _)
        | Expr::StartsWith(label, _)
        | Expr::EndsWith(label, _) => one(label, Restriction::present(None)),
        // A label that is `not in` a set, or differs from a value, may also be absent; only `!has()` inverts exactly.
        Expr::Not(operand) => match operand.as_ref() {
            Expr::Has(label) => one(label, Restriction { must_be_absent: true, ..Restriction::default() }),
            Expr::NotIn(label, values) => one(label, Restriction::present(Some(values.clone()))),
            Expr::Ne(label, value) => one(label, Restriction::present(Some(BTreeSet::from([value.clone()])))),
            _ => BTreeMap::new(),
        },
        Expr::And(operands) => operands.iter().map(of).fold(BTreeMap::new(), both),
        Expr::Or(operands) => operands.iter().map(of).reduce(either).unwrap_or_default(),
        Expr::All | Expr::Global | Expr::Ne(..) | Expr::NotIn(..) => BTreeMap::new(),
    }
}

fn both(
    mut all: BTreeMap<String, Restriction>,
    more: BTreeMap<String, Restriction>,
) -> BTreeMap<String, Restriction> {
    for (label, new) in more {
        let known = all.entry(label).or_default();
        known.must_be_present |= new.must_be_present;
        known.must_be_absent |= new.must_be_absent;
        known.one_of = match (known.one_of.take(), new.one_of) {
            (Some(a), Some(b)) => Some(a.intersection(&b).cloned().collect()),
            (a, b) => a.or(b),
        };
    }
    all
}

fn either(
    left: BTreeMap<String, Restriction>,
    mut right: BTreeMap<String, Restriction>,
) -> BTreeMap<String, Restriction> {
    let mut common = BTreeMap::new();
    for (label, a) in left {
        let Some(b) = right.remove(&label) else { continue };
        let must_be_present = a.must_be_present && b.must_be_present;
        let one_of = match (a.one_of, b.one_of) {
            (Some(mut a), Some(b)) if must_be_present => {
                a.extend(b);
                Some(a)
            }
            _ => None,
        };
        let merged =
            Restriction { must_be_present, must_be_absent: a.must_be_absent && b.must_be_absent, one_of };
        if merged.must_be_present || merged.must_be_absent {
            common.insert(label, merged);
        }
    }
    common
}
