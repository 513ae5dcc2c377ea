//! Pods whose addresses another IPAM plugin gave (`ipam.type` of the conflist), or whose interface another plugin of the list
//! made: the first get wiring, routes and policy, the others policy alone.

use std::net::IpAddr;

use felix_rs::model::workload_prefixes;
use margay_api::kinds::FelixConfigurationSpec;
use margay_control::cni::{AddReply, AddRequest, PodCidrs};
use margay_daemon::server::Failure;
use margay_ipam::Handle;

use super::cni::{NO_ADDRESS, interface_name, names};
use super::{Node, Reserved};
use crate::addresses::handle_of;

/// CNI error code of ours: packets of the interface would pass no policy.
const NOT_POLICED: u32 = 105;

/// What an attachment has between the phases of its ADD.
#[derive(Debug, Clone)]
pub(super) struct Assigned {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) addresses: Vec<IpAddr>,
    /// The interface is another plugin's.
    pub(super) foreign: bool,
}

impl Node {
    /// Ranges of this node that Kubernetes, or who plays its part, has written to the Node object.
    pub(super) fn pod_cidrs(&self) -> PodCidrs {
        let own = self.cluster.bgp.nodes.get(&self.config.node);
        let cidrs = own.into_iter().flat_map(|node| &node.status.pod_cidrs);
        PodCidrs { cidrs: cidrs.filter_map(|cidr| cidr.parse().ok()).collect() }
    }

    /// Phase one of ADD for what others gave. It is kept in memory only: an agent that ends before phase two knows nothing of it,
    /// and the shim gives it back.
    pub(super) fn take_assigned(&mut self, request: &AddRequest) -> Result<AddReply, Failure> {
        let handle = handle_of(&request.attachment);
        if let Some(interface) = &request.interface {
            self.is_policed(interface)?;
        }
        for address in &request.assigned {
            self.is_free(*address)?;
        }
        let (namespace, pod) = names(request);
        let asked = self.asked(&namespace, &pod).map_err(|message| Failure::refused(NO_ADDRESS, message))?;
        let addresses = request.assigned.clone();
        let reply = AddReply {
            addresses: addresses.iter().copied().map(Into::into).collect(),
            host_ifname: request.interface.clone().unwrap_or_else(|| interface_name(&handle)),
            mac: asked.mac.or_else(|| request.mac.clone()),
            mtu: self.router.tunnels().pod_mtu,
        };
        let assigned = Assigned { namespace, pod, addresses, foreign: request.interface.is_some() };
        let (labels, netns) = (request.labels.clone(), request.netns.clone());
        self.reserved.insert(handle, Reserved { labels, netns, assigned: Some(assigned) });
        Ok(reply)
    }

    /// What is reserved for an attachment, by whomever.
    pub(super) fn held(&self, handle: &Handle, reserved: &Reserved) -> Option<Assigned> {
        reserved.assigned.clone().or_else(|| {
            let owned = self.addresses.allocator().owned(handle)?;
            Some(Assigned {
                namespace: owned.attributes.namespace.clone().unwrap_or_default(),
                pod: owned.attributes.pod.clone().unwrap_or_default(),
                addresses: owned.addresses.clone(),
                foreign: false,
            })
        })
    }

    /// The rules look at packets of the interface.
    fn is_policed(&self, interface: &str) -> Result<(), Failure> {
        let felix =
            FelixConfigurationSpec::of_node(&self.cluster.felix, &self.config.node, &self.own_labels());
        let prefixes = workload_prefixes(felix.interface_prefix.as_deref());
        if prefixes.iter().any(|prefix| interface.starts_with(&**prefix)) {
            return Ok(());
        }
        let message = format!(
            "policy is enforced for interfaces that begin with {}, and {interface} does not: add the other plugin's \
             prefix to interfacePrefix of the FelixConfiguration",
            prefixes.join(" or ")
        );
        Err(Failure::refused(NOT_POLICED, message))
    }

    /// Nobody of this node has the address, nor ever will from a block.
    fn is_free(&self, address: IpAddr) -> Result<(), Failure> {
        let refused = |message: String| Err(Failure::refused(NO_ADDRESS, message));
        if let Some(block) = self.addresses.allocator().blocks().find(|block| block.contains(&address)) {
            return refused(format!(
                "{address} was given by another plugin and is in block {block}, which the agent gives out: take its \
                 range out of the IPPools, or out of the conflist"
            ));
        }
        match self.addresses.attached().values().find(|attached| attached.addresses.contains(&address)) {
            Some(other) => refused(format!(
                "{address} was given by another plugin and is that of pod {}/{}: delete one of the two",
                other.namespace, other.pod
            )),
            None => Ok(()),
        }
    }
}
