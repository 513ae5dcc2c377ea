//! An interface that another plugin of the list has made, and that is to get policy only.

use margay_netlink::{Link, Mac, Netlink, Netns};

use crate::error::{CniError, code};
use crate::plugin::kernel;

/// Host sides that this plugin makes begin so; any other is somebody else's.
const OWN_PREFIX: &str = "mgy";

/// The veth pair as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Name of the host side.
    pub(crate) host_ifname: String,
    /// MAC inside the container.
    pub(crate) mac: Mac,
}

/// Whether a host side of this name was made by another plugin.
pub(crate) fn is_foreign(host_ifname: &str) -> bool {
    !host_ifname.starts_with(OWN_PREFIX)
}

/// Looks at the container's interface, and whether all its packets pass the host's rules under a name of their own.
///
/// # Errors
/// Code 105 if they do not.
pub(crate) fn find(pod: &Netns, ifname: &str) -> Result<Found, CniError> {
    let refused = |message: String| CniError::new(code::NOT_POLICED, message);
    let is_veth = |link: &Link| link.kind.as_deref() == Some("veth");
    let mut inside = Netlink::open_in(pod).map_err(kernel)?;
    let near = inside.link(ifname).map_err(kernel)?;
    let near = near.ok_or_else(|| {
        refused(format!(
            "the plugins before this one left no interface {ifname}: put one that makes it there"
        ))
    })?;
    let mut host = Netlink::open().map_err(kernel)?;
    let peer = match near.peer.filter(|_| is_veth(&near)) {
        Some(index) => host.link_by_index(index).map_err(kernel)?,
        None => None,
    };
    // An index means something in its own namespace only: each must name the other.
    let far = peer.filter(|peer| is_veth(peer) && peer.peer == Some(near.index)).ok_or_else(|| {
        refused(format!(
            "{ifname} is no veth whose other end is on this host, so its packets pass no policy: use a plugin that \
             makes one, like ptp"
        ))
    })?;
    if let Some(master) = far.master {
        let bridge =
            host.link_by_index(master).map_err(kernel)?.map_or_else(|| master.to_string(), |m| m.name);
        return Err(refused(format!(
            "{} is a port of {bridge}, and packets between its ports pass no policy: use a plugin that routes, like ptp",
            far.name
        )));
    }
    Ok(Found { host_ifname: far.name, mac: near.mac.unwrap_or(Mac([0; 6])) })
}
