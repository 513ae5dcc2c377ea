//! The enforced state and its differences.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

use super::{
    ActivePolicy, ActiveProfile, EndpointId, LocalEndpoint, NodeSettings, PolicyId, ProfileId, SetId,
    SetKind, SetMember,
};

/// Change of one set between two flushes of the calculation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum SetChange {
    /// A set that is new or of another kind now, with all its members.
    Create {
        /// Kind of its members.
        kind: SetKind,
        /// All members.
        members: BTreeSet<SetMember>,
    },
    /// Members that came and went.
    Update {
        /// Members to add.
        added: BTreeSet<SetMember>,
        /// Members to delete.
        removed: BTreeSet<SetMember>,
    },
    /// No rule refers to it any more.
    Delete,
}

/// Difference of the enforced state between two flushes; applying all deltas in order to an empty state
/// gives the enforced state. `None` means gone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Delta {
    /// Changed sets.
    pub sets: BTreeMap<SetId, SetChange>,
    /// Meaning in a person's words of every set that is new here; explain and comments use it. The text is a
    /// function of the id: it never changes while the set lives.
    pub set_names: BTreeMap<SetId, Arc<str>>,
    /// Changed policies.
    pub policies: BTreeMap<PolicyId, Option<Arc<ActivePolicy>>>,
    /// Changed profiles.
    pub profiles: BTreeMap<ProfileId, Option<Arc<ActiveProfile>>>,
    /// Changed endpoints.
    pub endpoints: BTreeMap<EndpointId, Option<Arc<LocalEndpoint>>>,
    /// New settings, if they changed.
    pub settings: Option<Arc<NodeSettings>>,
}

/// The enforced state as a whole: sum of all deltas.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EnforcedState {
    /// All sets with kind and members.
    pub sets: BTreeMap<SetId, (SetKind, BTreeSet<SetMember>)>,
    /// Meaning of each set in a person's words.
    pub set_names: BTreeMap<SetId, Arc<str>>,
    /// Active policies.
    pub policies: BTreeMap<PolicyId, Arc<ActivePolicy>>,
    /// Active profiles.
    pub profiles: BTreeMap<ProfileId, Arc<ActiveProfile>>,
    /// Local endpoints.
    pub endpoints: BTreeMap<EndpointId, Arc<LocalEndpoint>>,
    /// Settings of the node.
    pub settings: Arc<NodeSettings>,
}

impl Delta {
    /// Nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self == &Self::default()
    }
}

impl EnforcedState {
    /// Applies one delta.
    pub fn apply(&mut self, delta: &Delta) {
        for (id, change) in &delta.sets {
            match change {
                SetChange::Create { kind, members } => {
                    self.sets.insert(id.clone(), (*kind, members.clone()));
                }
                SetChange::Update { added, removed } => {
                    if let Some((_, members)) = self.sets.get_mut(id) {
                        members.extend(added);
                        for member in removed {
                            members.remove(member);
                        }
                    }
                }
                SetChange::Delete => {
                    self.sets.remove(id);
                    self.set_names.remove(id);
                }
            }
        }
        self.set_names.extend(delta.set_names.iter().map(|(id, name)| (id.clone(), Arc::clone(name))));
        merge(&mut self.policies, &delta.policies);
        merge(&mut self.profiles, &delta.profiles);
        merge(&mut self.endpoints, &delta.endpoints);
        if let Some(settings) = &delta.settings {
            self.settings = Arc::clone(settings);
        }
    }
}

fn merge<K: Ord + Clone, V>(map: &mut BTreeMap<K, Arc<V>>, changes: &BTreeMap<K, Option<Arc<V>>>) {
    for (key, change) in changes {
        match change {
            Some(value) => {
                map.insert(key.clone(), Arc::clone(value));
            }
            None => {
                map.remove(key);
            }
        }
    }
}
