//! WireGuard devices: their key, their peers, and the way of packets between nodes into them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use margay_api::types::WireguardKey;
use margay_netlink::wireguard::{Device, PeerChange, PrivateKey, Wireguard};
use margay_netlink::{Error, IgnoreMissing as _, LinkChange, Netlink, Route, RouteTarget, UnmarkedRule};
use margay_routing::{Family, Protocol, Tunnels, WireguardDevice};
use nix::errno::Errno;

use super::kernel::Kernel;
use super::tunnels::only_addresses;

/// Table for packets to other nodes, where these are encrypted too.
pub(super) const NODES_TABLE: u32 = 181;

/// Why there is nothing to encrypt with.
const MISSING: &str = "this kernel has no WireGuard, which FelixConfiguration asks for: load its module wireguard, or set \
                       wireguardEnabled: false; nothing is encrypted until then";

/// See the module.
#[derive(Debug)]
pub(super) struct Encryption {
    /// Where private keys are kept.
    folder: PathBuf,
    handle: Option<Wireguard>,
    /// Public keys of the devices that are there.
    pub(super) keys: BTreeMap<Family, WireguardKey>,
}

impl Encryption {
    /// With private keys in `folder`.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, handle: None, keys: BTreeMap::new() }
    }

    /// Makes all devices as wanted, and the rules that lead to [`NODES_TABLE`].
    pub(super) fn ensure(&mut self, netlink: &mut Netlink, wanted: &Tunnels) -> Vec<String> {
        let mut errors = Vec::new();
        self.keys.retain(|family, _| wanted.wireguard.contains_key(family));
        for (family, device) in &wanted.wireguard {
            match self.ensure_device(netlink, *family, device) {
                Ok(key) => drop(self.keys.insert(*family, key)),
                Err(problem) => {
                    // A handle that was opened before the module was there, or lost.
                    self.handle = None;
                    errors.push(problem);
                }
            }
        }
        if let Err(error) = ensure_rules(netlink, wanted) {
            errors.push(error.to_string());
        }
        errors
    }

    /// The private key of a device that is there.
    fn key_in_use(&mut self, name: &str) -> Option<PrivateKey> {
        let handle = match &mut self.handle {
            Some(handle) => handle,
            none => none.insert(Wireguard::open().ok()?),
        };
        handle.device(name).ok()?.private_key
    }

    /// A device of ours under another name, by its key: the setting or somebody renamed it, maybe while no agent ran. As long as it
    /// is there, it has the port.
    fn remove_renamed(&mut self, netlink: &mut Netlink, private: &PrivateKey) -> Result<(), Error> {
        for link in netlink.links()?.iter().filter(|link| link.kind.as_deref() == Some("wireguard")) {
            if self.key_in_use(&link.name).as_ref() == Some(private) {
                tracing::info!(device = link.name, "removing the WireGuard device: it has another name now");
                netlink.delete_link(link.index).ignore_missing()?;
            }
        }
        Ok(())
    }

    fn ensure_device(
        &mut self,
        netlink: &mut Netlink,
        family: Family,
        wanted: &WireguardDevice,
    ) -> Result<WireguardKey, String> {
        // Where packets between nodes are encrypted too, others could not be told of a new key: they answer to the old one.
        let kept = wanted.nodes.as_ref().and_then(|_| self.key_in_use(&wanted.name));
        let private = private_key(&self.folder, family, kept)?;
        let explain = |error: Error| match error {
            Error::Kernel { errno: Errno::EOPNOTSUPP, .. } => MISSING.to_owned(),
            error => format!("WireGuard device {}: {error}", wanted.name),
        };
        if netlink.link(&wanted.name).map_err(explain)?.is_none() {
            self.remove_renamed(netlink, &private).map_err(explain)?;
            netlink.add_wireguard(&wanted.name, Some(wanted.mtu)).map_err(explain)?;
        }
        let mut bring_up = || -> Result<Option<[u8; 32]>, Error> {
            let handle = match &mut self.handle {
                Some(handle) => handle,
                none => none.insert(Wireguard::open()?),
            };
            let mut actual = handle.device(&wanted.name)?;
            if (actual.private_key, actual.port, actual.mark) != (Some(private), wanted.port, wanted.mark) {
                handle.set_device(&wanted.name, &private, wanted.port, wanted.mark)?;
                actual = handle.device(&wanted.name)?;
            }
            handle.change_peers(&wanted.name, &changes(wanted, &actual))?;
            if let Some(link) = netlink.link(&wanted.name)? {
                if link.mtu != wanted.mtu || !link.up {
                    let change =
                        LinkChange { mtu: Some(wanted.mtu), up: Some(true), ..LinkChange::default() };
                    netlink.change_link(link.index, &change)?;
                }
                only_addresses(netlink, link.index, wanted.address)?;
            }
            Ok(actual.public_key)
        };
        let public = bring_up().map_err(explain)?;
        public.map(WireguardKey).ok_or_else(|| format!("WireGuard device {} takes no key", wanted.name))
    }
}

/// What makes the device's peers those that are wanted. Addresses are only ever taken away from a peer by giving them to
/// another, or all at once: then a packet or two to that peer may be lost, for the kernel has no other way.
fn changes(wanted: &WireguardDevice, actual: &Device) -> Vec<PeerChange> {
    let unwanted = actual.peers.keys().filter(|key| !wanted.peers.contains_key(&WireguardKey(**key)));
    let mut changes: Vec<PeerChange> = unwanted.map(|key| PeerChange::Remove(*key)).collect();
    let owners: BTreeMap<&IpNet, &WireguardKey> =
        wanted.peers.iter().flat_map(|(key, peer)| peer.allowed.iter().map(move |net| (net, key))).collect();
    for (key, peer) in &wanted.peers {
        let before = actual.peers.get(&key.0);
        let none = BTreeSet::new();
        let has = before.map_or(&none, |before| &before.allowed);
        let replace = has.iter().any(|net| !owners.contains_key(net));
        let allowed: BTreeSet<IpNet> =
            if replace { peer.allowed.clone() } else { peer.allowed.difference(has).copied().collect() };
        let same = before.is_some_and(|before| {
            before.endpoint == Some(peer.endpoint) && before.keepalive == peer.keepalive
        });
        if !same || replace || !allowed.is_empty() {
            changes.push(PeerChange::Set {
                key: key.0,
                endpoint: peer.endpoint,
                keepalive: peer.keepalive,
                allowed,
                replace,
            });
        }
    }
    changes
}

/// Routes to other nodes through the devices.
pub(super) fn node_routes(wanted: &Tunnels, kernel: &Kernel) -> Vec<Route> {
    let mut routes = Vec::new();
    for device in wanted.wireguard.values() {
        let (Some(nodes), Some(index)) = (&device.nodes, kernel.usable(&device.name)) else { continue };
        routes.extend(device.peers.values().map(|peer| {
            let target = RouteTarget::Device { device: index };
            let route = Route::new(IpNet::from(peer.endpoint.ip()), target, Protocol::Cluster.number());
            Route { source: Some(nodes.source), table: NODES_TABLE, ..route }.normalised()
        }));
    }
    routes
}

fn ensure_rules(netlink: &mut Netlink, wanted: &Tunnels) -> Result<(), Error> {
    let rules = wanted.wireguard.iter().filter_map(|(family, device)| {
        let priority = device.nodes.as_ref()?.rule_priority;
        let protocol = Protocol::Cluster.number();
        Some(UnmarkedRule {
            v6: *family == Family::V6,
            mark: device.mark,
            table: NODES_TABLE,
            priority,
            protocol,
        })
    });
    let wanted: BTreeSet<UnmarkedRule> = rules.collect();
    let actual = own_rules(netlink)?;
    // Without any rule packets between nodes would leave plain.
    wanted.difference(&actual).try_for_each(|rule| netlink.add_unmarked_rule(rule))?;
    actual.difference(&wanted).try_for_each(|rule| netlink.delete_unmarked_rule(rule).ignore_missing())
}

/// The rules of ours in the kernel.
pub(crate) fn own_rules(netlink: &mut Netlink) -> Result<BTreeSet<UnmarkedRule>, Error> {
    Ok(netlink.unmarked_rules(Protocol::Cluster.number())?.into_iter().collect())
}

/// The private key of a device; when there is none, `kept` or a new one is written down: in Base64, as `wg` has it, for root's eyes
/// only.
fn private_key(folder: &Path, family: Family, kept: Option<PrivateKey>) -> Result<PrivateKey, String> {
    let path = folder.join(match family {
        Family::V4 => "wireguard.key",
        Family::V6 => "wireguard-v6.key",
    });
    let failed = |error: std::io::Error| format!("private key {}: {error}", path.display());
    match File::open(&path) {
        Ok(mut file) => {
            let mode = file.metadata().map_err(failed)?.permissions().mode();
            if mode & 0o077 != 0 {
                return Err(format!(
                    "private key {0}: others may read it: `chmod 600 {0}`, or remove it and restart the agent for a new one",
                    path.display()
                ));
            }
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(failed)?;
            let key: WireguardKey = text.trim().parse().map_err(|error| {
                format!(
                    "private key {}: {error}; remove it and restart the agent for a new one",
                    path.display()
                )
            })?;
            Ok(PrivateKey::new(key.0))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let key = match kept {
                Some(key) => key,
                None => new_key().map_err(failed)?,
            };
            let fresh = path.with_extension("new");
            let write = || -> std::io::Result<()> {
                let mut options = OpenOptions::new();
                let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
                writeln!(file, "{}", WireguardKey(*key.bytes()))?;
                file.sync_all()?;
                std::fs::rename(&fresh, &path)
            };
            write().map_err(failed)?;
            tracing::info!(path = %path.display(), kept = kept.is_some(), "wrote a WireGuard key");
            Ok(key)
        }
        Err(error) => Err(failed(error)),
    }
}

fn new_key() -> std::io::Result<PrivateKey> {
    let mut bytes = [0; 32];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(PrivateKey::new(bytes))
}

#[cfg(test)]
mod tests {
    use margay_netlink::wireguard::Peer;
    use margay_routing::WireguardPeer;
    use proptest::prelude::*;

    use super::*;

    /// Who has which of some addresses, as a kernel has it after the changes.
    fn applied(mut device: Device, changes: &[PeerChange]) -> Device {
        for change in changes {
            match change {
                PeerChange::Remove(key) => drop(device.peers.remove(key)),
                PeerChange::Set { key, endpoint, keepalive, allowed, replace } => {
                    device
                        .peers
                        .values_mut()
                        .for_each(|peer| peer.allowed.retain(|net| !allowed.contains(net)));
                    let peer = device.peers.entry(*key).or_default();
                    if *replace {
                        peer.allowed.clear();
                    }
                    peer.allowed.extend(allowed);
                    (peer.endpoint, peer.keepalive) = (Some(*endpoint), *keepalive);
                }
            }
        }
        device
    }

    fn any_device() -> impl Strategy<Value = WireguardDevice> {
        let owners = proptest::collection::btree_map(0..10_u8, 1..5_u8, 0..10);
        (owners, proptest::collection::btree_map(1..5_u8, 1..3_u16, 0..4)).prop_map(|(owners, ports)| {
            let peers = ports.into_iter().map(|(number, port)| {
                let allowed = owners.iter().filter(|(_, owner)| **owner == number);
                let allowed = allowed.map(|(net, _)| format!("10.65.{net}.0/24").parse().unwrap());
                let endpoint = std::net::SocketAddr::from(([192, 0, 2, number], port));
                let node = format!("n{number}");
                (
                    WireguardKey([number; 32]),
                    WireguardPeer { node, endpoint, keepalive: 0, allowed: allowed.collect() },
                )
            });
            WireguardDevice {
                name: "wireguard.mgy".to_owned(),
                port: 51820,
                address: None,
                mtu: 1440,
                mark: 0x10_0000,
                peers: peers.collect(),
                nodes: None,
            }
        })
    }

    proptest! {
        #[test]
        fn peers_become_what_is_wanted(before in any_device(), after in any_device()) {
            let first = applied(Device::default(), &changes(&before, &Device::default()));
            let second = applied(first.clone(), &changes(&after, &first));
            let wanted: BTreeMap<[u8; 32], Peer> = after.peers.iter().map(|(key, peer)| {
                let (endpoint, allowed) = (Some(peer.endpoint), peer.allowed.clone());
                (key.0, Peer { endpoint, keepalive: 0, allowed, ..Peer::default() })
            }).collect();
            prop_assert_eq!(&second.peers, &wanted);
            prop_assert_eq!(changes(&after, &second), vec![], "nothing is done twice");
        }
    }

    #[test]
    fn a_key_is_made_once_and_never_shown() {
        let folder = std::env::temp_dir().join(format!("margay-keys-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let key = private_key(&folder, Family::V4, None).unwrap();
        let path = folder.join("wireguard.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(private_key(&folder, Family::V4, None), Ok(key));
        assert_ne!(private_key(&folder, Family::V6, None), Ok(key));
        assert_eq!(format!("{key:?}"), "PrivateKey");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(private_key(&folder, Family::V4, None).unwrap_err().contains("chmod 600"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(private_key(&folder, Family::V4, Some(key)), Ok(key), "a lost one is in use");
        assert_eq!(private_key(&folder, Family::V4, None), Ok(key));
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
