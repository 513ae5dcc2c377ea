//! Kernel settings without which a node is no router. Others change them (`sysctl --system` at an upgrade), so they are looked
//! at again whenever everything is.

use margay_netlink::{Error, Netlink, RouteFilter, RouteTarget, sysctl};

use super::kernel::Kernel;

/// `RTPROT_RA` of `linux/rtnetlink.h`: routes the kernel has learned from router advertisements.
const ROUTER_ADVERTISEMENT: u8 = 9;

/// Has the kernel forward IPv4 and, where something is routed with it, IPv6.
///
/// # Errors
/// The kernel's.
pub(super) fn forward(netlink: &mut Netlink, kernel: &Kernel, ipv6: bool) -> Result<(), Error> {
    sysctl::write(&["net", "ipv4", "ip_forward"], "1")?;
    let all = ["net", "ipv6", "conf", "all", "forwarding"];
    // A kernel without IPv6 has nothing to forward.
    if ipv6 && sysctl::read(&all).is_ok_and(|now| now != "1") {
        keep_advertised_routes(netlink, kernel)?;
        sysctl::write(&all, "1")?;
    }
    Ok(())
}

/// A router takes no advice from routers: the kernel forgets their routes, the default route among them, when forwarding begins,
/// but where `accept_ra` is 2 (`Documentation/networking/ip-sysctl.rst`).
fn keep_advertised_routes(netlink: &mut Netlink, kernel: &Kernel) -> Result<(), Error> {
    let filter =
        RouteFilter { ipv4: Some(false), protocol: Some(ROUTER_ADVERTISEMENT), ..RouteFilter::default() };
    for route in netlink.routes(filter)? {
        let devices = match &route.target {
            RouteTarget::Device { device } | RouteTarget::Via { device: Some(device), .. } => vec![*device],
            RouteTarget::Multipath(paths) => paths.iter().map(|path| path.device).collect(),
            _ => Vec::new(),
        };
        for link in devices.into_iter().filter_map(|device| kernel.link(device)) {
            let setting = ["net", "ipv6", "conf", &link.name, "accept_ra"];
            if sysctl::read(&setting)? == "1" {
                sysctl::write(&setting, "2")?;
                tracing::info!("{}: accept_ra is 2 now: its routes stay when IPv6 is forwarded", link.name);
            }
        }
    }
    Ok(())
}

/// Has an interface take packets whose way back leads elsewhere, as it does beside a tunnel: strict reverse-path filtering
/// (`rp_filter` 1, the larger of the interface's and all's counts) drops them. Who may send what is what our own rules know.
///
/// # Errors
/// The kernel's.
pub(super) fn take_from_anywhere(name: &str) -> Result<(), Error> {
    let of = |which: &str| sysctl::read(&["net", "ipv4", "conf", which, "rp_filter"]);
    let setting = ["net", "ipv4", "conf", name, "rp_filter"];
    let strict = |value: &str| value == "1";
    let (all, own) = (of("all")?, of(name)?);
    if own != "2" && all != "2" && (strict(&all) || strict(&own)) {
        sysctl::write(&setting, "2")?;
        tracing::info!("{name}: rp_filter is 2 now: strict filtering drops what comes beside the tunnels");
    }
    Ok(())
}
