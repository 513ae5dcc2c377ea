//! The WorkloadEndpoints of this node's pods: what their Pod objects and the FelixConfiguration make of them.

use std::collections::BTreeMap;
use std::time::Duration;

use ipnet::IpNet;
use margay_api::kinds::{FelixConfigurationSpec, WorkloadSourceSpoofing};
use margay_api::{Key, Kind, Pod, WorkloadEndpoint};
use margay_control::cni::AddRequest;
use margay_control::status::Problem;
use margay_daemon::server::Failure;
use margay_datastore::{SyncEvent, Versioned};

use super::{Internal, Node, Waiting, reply};
use crate::annotations::sources;
use crate::attachments::{self, Attached};
use crate::policy::Input;
use crate::writer::Write;

/// Longest wait for the datastore's answer about a pod.
const POD_TIME: Duration = Duration::from_secs(5);

impl Node {
    pub(super) fn endpoint(&self, attached: &Attached) -> WorkloadEndpoint {
        let sources = self.sources(attached).unwrap_or_default();
        attachments::endpoint(&self.config.node, attached, self.pod_of(attached), sources)
    }

    fn pod_of(&self, attached: &Attached) -> Option<&Pod> {
        self.cluster.pods.get(&(attached.namespace.clone(), attached.pod.clone()))
    }

    /// Every attachment, those that end first: the next sandbox of a pod has the same endpoint, and comes behind.
    pub(super) fn attached_by_age(&self) -> Vec<&Attached> {
        let mut all: Vec<&Attached> = self.addresses.attached().values().collect();
        all.sort_by_key(|attached| !attached.leaving);
        all
    }

    /// What a pod may send from besides its own addresses.
    ///
    /// # Errors
    /// It asks for what it cannot have: then for nothing.
    pub(super) fn sources(&self, attached: &Attached) -> Result<Vec<IpNet>, String> {
        let none = BTreeMap::new();
        let annotations = self.pod_of(attached).map_or(&none, |pod| &pod.metadata.annotations);
        sources(annotations, self.may_spoof)
    }

    /// The Pod object of an ADD that nobody has told of yet, in a cluster that has such objects: the runtime may hear of a pod sooner. So it
    /// does of the next one of the same name.
    pub(super) fn unheard_pod(&self, request: &AddRequest) -> Option<Key> {
        let pod = (request.pod_namespace.clone()?, request.pod_name.clone()?);
        let unheard = self.cluster.has_pods && !self.cluster.knows_pod(&pod, request.pod_uid.as_deref());
        unheard.then(|| Key::namespaced(Kind::Pod, pod.0, pod.1))
    }

    /// Asks the datastore for it: its labels say which policy is the pod's, its annotations which addresses.
    pub(super) fn read_pod(&self, key: Key, waiting: Waiting) {
        let (store, done) = (self.store.clone(), self.internal.0.clone());
        tokio::spawn(async move {
            let found = match tokio::time::timeout(POD_TIME, store.get(&key)).await {
                Ok(found) => found.map_err(|error| error.to_string()),
                Err(_elapsed) => Err(format!("no answer within {POD_TIME:?}")),
            };
            let _stopping = done.send(Internal::Pod(Box::new(waiting), found)).await;
        });
    }

    /// The datastore's answer: without an object there is nothing to be known of the pod.
    pub(super) async fn on_pod(&mut self, waiting: Waiting, found: Result<Option<Versioned>, String>) {
        match found {
            Ok(found) => {
                // What was told meanwhile is newer.
                if let Some(found) = found.filter(|_| self.unheard_pod(&waiting.request).is_some()) {
                    let unreadable =
                        found.resource.as_ref().err().map(|unreadable| unreadable.reason.clone());
                    self.take_object(SyncEvent::Put(found)).await;
                    if let Some(reason) = unreadable {
                        let message = format!(
                            "its Pod object, which says what policy is to be enforced, is invalid: {reason}"
                        );
                        return reply(waiting.answer, Err(Failure::try_later(message)));
                    }
                }
                self.give(waiting, None);
            }
            Err(error) => {
                let message = format!(
                    "its Pod object, which says what policy is to be enforced, cannot be read: {error}"
                );
                reply(waiting.answer, Err(Failure::try_later(message)));
            }
        }
    }

    /// A Pod object changed: its labels, ports and annotations are the endpoint's.
    pub(super) async fn pod_changed(&mut self, pod: &Pod) {
        let is_of_pod = |attached: &&Attached| {
            Some(&attached.namespace) == pod.metadata.namespace.as_ref() && attached.pod == pod.metadata.name
        };
        let of_pod: Vec<Attached> = self.attached_by_age().into_iter().filter(is_of_pod).cloned().collect();
        if !of_pod.is_empty() {
            self.endpoints_changed(&of_pod).await;
        }
    }

    /// The FelixConfiguration may say otherwise of pods that ask for others' addresses (`workloadSourceSpoofing`).
    pub(super) async fn follow_spoofing(&mut self) {
        let felix =
            FelixConfigurationSpec::of_node(&self.cluster.felix, &self.config.node, &self.own_labels());
        let may_spoof = felix.workload_source_spoofing == Some(WorkloadSourceSpoofing::Any);
        if may_spoof != self.may_spoof {
            self.may_spoof = may_spoof;
            let all: Vec<Attached> = self.attached_by_age().into_iter().cloned().collect();
            self.endpoints_changed(&all).await;
        }
    }

    async fn endpoints_changed(&mut self, changed: &[Attached]) {
        for attached in changed {
            let endpoint = self.endpoint(attached);
            self.tell_engine(Input::SetLocal(Box::new(endpoint.clone()), None)).await;
            self.writer.push(endpoint.key(), Write::Apply(Box::new(endpoint.into())));
        }
        self.report_sources();
    }

    /// Names the pods that ask for what they cannot have.
    pub(super) fn report_sources(&self) {
        let refused = self.addresses.attached().values().filter_map(|attached| {
            let object = format!("Pod({}/{})", attached.namespace, attached.pod);
            self.sources(attached).err().map(|message| Problem { object, message })
        });
        self.health.set_problems("sources", refused.collect());
    }
}
