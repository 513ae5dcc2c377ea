//! What is taken up after a start: the journal's attachments, releases that wait in the spool, and what the datastore knows of pods that
//! the journal has lost.

use std::net::IpAddr;

use margay_api::convert::ORCHESTRATOR_KUBERNETES;
use margay_api::{Key, WorkloadEndpoint};
use margay_cni::spool::Spool;
use margay_control::cni::DelRequest;
use margay_ipam::Handle;

use super::Node;
use super::cni::interfaces;
use crate::addresses::handle_of;
use crate::attachments::{self, Attached, from_endpoint, interface_name};
use crate::policy::Input;
use crate::writer::Write;

impl Node {
    /// After a start: every endpoint of the journal whose interface is still there is one again; the others are gone.
    pub(super) async fn restore_endpoints(&mut self) {
        // Not knowing is no reason to release anything.
        let interfaces =
            interfaces().map_err(|error| tracing::warn!("looking for pods' interfaces: {error}")).ok();
        for attached in self.attached_by_age().into_iter().cloned().collect::<Vec<_>>() {
            let handle = handle_of(&attached.attachment);
            if interfaces.as_ref().is_none_or(|all| all.contains(&attached.interface)) {
                let endpoint = self.endpoint(&attached);
                self.tell_engine(Input::SetLocal(Box::new(endpoint), None)).await;
                self.add_routes(&attached);
                if attached.leaving {
                    self.leave_or_warn(&handle);
                }
            } else {
                tracing::info!(interface = attached.interface, "its interface is gone: releasing {handle}");
                self.addresses.release(&handle);
            }
        }
        // The agent ended between the two phases of an ADD, which the shim then undid, or was to. Who has an interface lives.
        let reserved = self.addresses.reserved().filter(|(handle, _)| {
            interfaces.as_ref().is_some_and(|all| !all.contains(&interface_name(handle)))
        });
        let reserved: Vec<Handle> = reserved.map(|(handle, _)| handle.clone()).collect();
        reserved.iter().for_each(|handle| self.leave_or_warn(handle));
        self.replay_spool();
    }

    /// Releases what the shim could not tell while the agent was down.
    pub(super) fn replay_spool(&mut self) {
        let folder = self.config.spool_dir.clone();
        let release = |request: &DelRequest| {
            let handle = handle_of(&request.attachment);
            tracing::info!("releasing {handle}, deleted while the agent was down");
            self.leave(&handle).is_ok()
        };
        match Spool::new(&folder).replay(release) {
            Ok(problems) => problems.iter().for_each(|problem| tracing::warn!("{problem}")),
            Err(error) => tracing::warn!("cannot read {}: {error}", folder.display()),
        }
    }

    /// A WorkloadEndpoint of this node that the journal may not know.
    pub(super) fn remember(&mut self, endpoint: &WorkloadEndpoint) {
        let spec = &endpoint.spec;
        let orchestrator = spec.orchestrator.as_deref().unwrap_or(ORCHESTRATOR_KUBERNETES);
        let is_known = |attached: &Attached| attached.interface == spec.interface_name;
        if spec.node == self.config.node
            && orchestrator == ORCHESTRATOR_KUBERNETES
            && !self.addresses.attached().values().any(is_known)
        {
            self.strangers.push(endpoint.clone());
        }
    }

    /// Pods whose interfaces are there and of which the journal says nothing: it was lost. Their endpoints say nearly all that it
    /// said, and blocks, which are taken up by now, whose those addresses are that no other plugin gave.
    pub(super) async fn restore_from_datastore(&mut self) {
        let strangers = std::mem::take(&mut self.strangers);
        if strangers.is_empty() {
            return;
        }
        let interfaces = match interfaces() {
            Ok(interfaces) => interfaces,
            Err(error) => return tracing::warn!("looking for pods' interfaces: {error}"),
        };
        for endpoint in strangers.iter().filter(|stranger| interfaces.contains(&stranger.spec.interface_name))
        {
            let Some(attached) = from_endpoint(endpoint) else { continue };
            let handle = handle_of(&attached.attachment);
            let owner = |address: &IpAddr| self.addresses.allocator().owner_of(*address);
            let mut owners = attached.addresses.iter().filter_map(owner);
            if owners.any(|owner| *owner != handle) {
                continue;
            }
            tracing::info!(interface = attached.interface, "taking up a pod that the journal does not know");
            if let Err(error) = self.addresses.attach(attached.clone()) {
                tracing::warn!("taking up pod {}/{}: {error}", attached.namespace, attached.pod);
                continue;
            }
            let endpoint = self.endpoint(&attached);
            self.tell_engine(Input::SetLocal(Box::new(endpoint), None)).await;
            self.add_routes(&attached);
        }
        // The datastore's copy of a block may have lagged behind.
        self.addresses.own_attached();
    }

    /// Somebody deleted the endpoint of a pod that lives.
    pub(super) fn put_back(&self, key: &Key) {
        let is_it = |attached: &&Attached| {
            !attached.leaving && attachments::endpoint_key(&self.config.node, attached) == *key
        };
        if self.in_sync
            && let Some(attached) = self.addresses.attached().values().find(is_it)
        {
            let endpoint = self.endpoint(attached);
            self.writer.push(key.clone(), Write::Apply(Box::new(endpoint.into())));
        }
    }

    /// Endpoints of this node in the datastore that nobody here knows are left-overs.
    pub(super) fn sweep_endpoints(&self) {
        let known: Vec<Key> = self
            .addresses
            .attached()
            .values()
            .map(|attached| attachments::endpoint_key(&self.config.node, attached))
            .collect();
        for key in self.cluster.own_endpoints.iter().filter(|key| !known.contains(key)) {
            self.writer.push(key.clone(), Write::Delete);
        }
        for attached in self.attached_by_age() {
            let endpoint = self.endpoint(attached);
            self.writer.push(endpoint.key(), Write::Apply(Box::new(endpoint.into())));
        }
    }
}
