//! What a selector demands of one label of everything it matches: where the index files it.

use std::collections::BTreeSet;
use std::sync::Arc;

use margay_api::selector::Selector;

/// A necessary condition for a match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Anchor {
    /// The label is there.
    Name(Arc<str>),
    /// The label has one of these values.
    Values(Arc<str>, BTreeSet<Arc<str>>),
}

/// All anchors a selector could be filed under.
pub(super) fn anchors(selector: &Selector) -> Vec<Anchor> {
    selector
        .restrictions()
        .into_iter()
        .filter(|(_, restriction)| restriction.must_be_present)
        .map(|(name, restriction)| match restriction.one_of {
            Some(values) => Anchor::Values(name.into(), values.into_iter().map(Into::into).collect()),
            None => Anchor::Name(name.into()),
        })
        .collect()
}
