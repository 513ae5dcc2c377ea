//! Pods whose addresses another IPAM plugin gave (`ipam.type` of the conflist) or an annotation names (`ipAddrsNoIpam`), or whose
//! interface another plugin of the list made: the first get wiring, routes and policy, the others policy alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use felix_rs::model::workload_prefixes;
use ipnet::IpNet;
use margay_api::kinds::FelixConfigurationSpec;
use margay_control::cni::{AddReply, AddRequest, PodCidrs};
use margay_daemon::server::Failure;
use margay_ipam::Handle;

use super::cni::{NO_ADDRESS, names};
use super::{Node, Reserved};
use crate::addresses::handle_of;
use crate::annotations::Asked;
use crate::attachments::interface_name;

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

    /// What of this node's pods is in no block: the ranges of [`Self::pod_cidrs`] that another IPAM plugin gives addresses out of, which
    /// are the node's like a block, and addresses beside all of these.
    pub(super) fn beside_blocks(&self) -> (BTreeSet<IpNet>, BTreeSet<IpNet>) {
        let pods = self.addresses.attached().values().filter(|attached| !attached.foreign);
        let in_block =
            |address: &IpAddr| self.addresses.allocator().blocks().any(|own| own.contains(address));
        let addresses = pods.flat_map(|attached| attached.addresses.iter().copied());
        let addresses: Vec<IpAddr> = addresses.filter(|address| !in_block(address)).collect();
        if addresses.is_empty() {
            return Default::default();
        }
        let overlaps = |a: &IpNet, b: &IpNet| a.contains(b) || b.contains(a);
        let is_free =
            |range: &IpNet| !self.cluster.blocks.values().any(|(block, _)| overlaps(&block.spec.cidr, range));
        let ranges = self.pod_cidrs().cidrs.into_iter().map(|range| range.trunc());
        let ranges: BTreeSet<IpNet> = ranges
            .filter(|range| addresses.iter().any(|address| range.contains(address)) && is_free(range))
            .collect();
        let single = addresses.iter().filter(|address| !ranges.iter().any(|range| range.contains(*address)));
        let single = single.map(|address| IpNet::from(*address)).collect();
        (ranges, single)
    }

    /// Phase one of ADD for what others gave. It is kept in memory only: an agent that ends before phase two knows nothing of it,
    /// and the shim gives it back.
    pub(super) fn take_assigned(&mut self, request: &AddRequest, asked: Asked) -> Result<AddReply, Failure> {
        let handle = handle_of(&request.attachment);
        let addresses = if asked.unmanaged.is_empty() {
            request.assigned.clone()
        } else {
            may_bypass_ipam(request).map_err(|message| Failure::refused(NO_ADDRESS, message))?;
            asked.unmanaged
        };
        if let Some(interface) = &request.interface {
            self.is_policed(interface)?;
        }
        for address in &addresses {
            self.is_free(*address)?;
        }
        let (namespace, pod) = names(request);
        let mtu = self.router.tunnels().pod_mtu;
        let reply = AddReply {
            addresses: addresses.iter().copied().map(Into::into).collect(),
            host_ifname: request.interface.clone().unwrap_or_else(|| interface_name(&handle)),
            mac: asked.mac.or_else(|| request.mac.clone()),
            mtu,
        };
        let assigned = Assigned { namespace, pod, addresses, foreign: request.interface.is_some() };
        let (labels, netns) = (request.labels.clone(), request.netns.clone());
        self.reserved.insert(handle, Reserved { labels, netns, mtu, assigned: Some(assigned) });
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
                "{address} was not given by the agent and is in block {block}, out of which the agent gives addresses: take its \
                 range out of the IPPools, or have another address given"
            ));
        }
        match self.addresses.attached().values().find(|attached| attached.addresses.contains(&address)) {
            Some(other) => refused(format!(
                "{address} was not given by the agent and is that of pod {}/{}: delete one of the two",
                other.namespace, other.pod
            )),
            None => Ok(()),
        }
    }
}

/// The annotation can be heeded.
fn may_bypass_ipam(request: &AddRequest) -> Result<(), String> {
    let name = crate::annotations::UNMANAGED;
    if !request.assigned.is_empty() {
        return Err(format!(
            "annotation {name} is not for networks whose conflist names another IPAM plugin"
        ));
    }
    if !request.may_bypass_ipam {
        return Err(format!(
            "annotation {name} is not allowed here: set feature_control.ip_addrs_no_ipam of the conflist, where whoever may write \
             Pods may choose any address"
        ));
    }
    Ok(())
}
