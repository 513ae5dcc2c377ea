//! Tiers.

use super::policy::check_order;
use crate::{
    Tier,
    effective::builtin_tier,
    path::{Problems, SPEC},
};

pub(crate) fn set_defaults(tier: &mut Tier) {
    let builtin = builtin_tier(&tier.metadata.name);
    let spec = &mut tier.spec;
    spec.default_action.get_or_insert(builtin.map_or_else(Default::default, |b| b.default_action));
    spec.order = spec.order.or_else(|| builtin.map(|b| b.order));
}

pub(crate) fn check(tier: &Tier, problems: &mut Problems) {
    let (spec, name) = (&tier.spec, &tier.metadata.name);
    check_order(spec.order, problems);
    if let Some(builtin) = builtin_tier(name) {
        let fine = spec.default_action.is_none_or(|action| action == builtin.default_action);
        problems.require(
            fine,
            &SPEC.field("defaultAction"),
            format!("the {name} tier must have default action {}", builtin.default_action),
        );
        let fine = spec.order.is_none_or(|order| order.total_cmp(&builtin.order).is_eq());
        problems.require(
            fine,
            &SPEC.field("order"),
            format!("the {name} tier must have order {}", builtin.order),
        );
    }
}
