//! WireGuard devices: keys, peers and the addresses each of them may have (`linux/wireguard.h`, over `linux/genetlink.h`).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_core::NLA_F_NESTED;

use crate::error::Result;
use crate::generic::{Generic, HEADER};
use crate::wire::{Request, array, attributes, push_attribute};

const CMD_GET_DEVICE: u8 = 0;
const CMD_SET_DEVICE: u8 = 1;

const DEVICE_IFNAME: u16 = 2;
const DEVICE_PRIVATE_KEY: u16 = 3;
const DEVICE_PUBLIC_KEY: u16 = 4;
const DEVICE_LISTEN_PORT: u16 = 6;
const DEVICE_FWMARK: u16 = 7;
const DEVICE_PEERS: u16 = 8;

const PEER_PUBLIC_KEY: u16 = 1;
const PEER_FLAGS: u16 = 3;
const PEER_ENDPOINT: u16 = 4;
const PEER_KEEPALIVE: u16 = 5;
const PEER_LAST_HANDSHAKE: u16 = 6;
const PEER_RX_BYTES: u16 = 7;
const PEER_TX_BYTES: u16 = 8;
const PEER_ALLOWED_IPS: u16 = 9;
const PEER_REMOVE: u32 = 1;
const PEER_REPLACE_ALLOWED_IPS: u32 = 2;

const ALLOWED_FAMILY: u16 = 1;
const ALLOWED_ADDRESS: u16 = 2;
const ALLOWED_PREFIX: u16 = 3;

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;

/// Allowed addresses in one piece of a peer: an attribute has room for 64 KiB, and 40 octets go for each.
const PIECE: usize = 512;
/// Octets of peers in one message.
const MESSAGE: usize = 32 * 1024;

/// A public key.
pub type PublicKey = [u8; 32];

/// A private key; it is never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    /// Any 32 octets, with the bits set that Curve25519 wants (RFC 7748 section 5).
    #[must_use]
    pub fn new(mut bytes: [u8; 32]) -> Self {
        bytes[0] &= 248;
        bytes[31] = (bytes[31] & 127) | 64;
        Self(bytes)
    }

    /// Its octets.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey")
    }
}

/// A device as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// Absent: none.
    pub private_key: Option<PrivateKey>,
    /// Follows from the private key.
    pub public_key: Option<PublicKey>,
    /// UDP port it listens on.
    pub port: u16,
    /// Mark of the packets it sends out.
    pub mark: u32,
    /// Peers by public key.
    pub peers: BTreeMap<PublicKey, Peer>,
}

/// A peer as the kernel has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Peer {
    /// Where its packets go.
    pub endpoint: Option<SocketAddr>,
    /// Seconds between packets that keep a path open; 0: none.
    pub keepalive: u16,
    /// What is sent to it, and taken from it.
    pub allowed: BTreeSet<IpNet>,
    /// When a key was last agreed on, since the epoch.
    pub last_handshake: Option<Duration>,
    /// Octets received.
    pub received: u64,
    /// Octets sent.
    pub sent: u64,
}

/// A change of a device's peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerChange {
    /// There is this peer. Addresses that another one has are taken from that one.
    Set {
        /// Its public key.
        key: PublicKey,
        /// Where its packets go.
        endpoint: SocketAddr,
        /// Seconds between packets that keep a path open; 0: none.
        keepalive: u16,
        /// What it may have besides what it has, or instead.
        allowed: BTreeSet<IpNet>,
        /// Instead.
        replace: bool,
    },
    /// There is none.
    Remove(PublicKey),
}

/// A handle for the devices of the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Wireguard(Generic);

impl Wireguard {
    /// Looks WireGuard up in the kernel.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] from a kernel without it.
    pub fn open() -> Result<Self> {
        Generic::open("wireguard", "WireGuard").map(Self)
    }

    fn request(&self, command: u8, name: &str) -> Request {
        let mut request = self.0.request(command);
        push_attribute(&mut request.body, DEVICE_IFNAME, &[name.as_bytes(), b"\0"].concat());
        request
    }

    /// Reads a device.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] when there is none.
    pub fn device(&mut self, name: &str) -> Result<Device> {
        let pieces = self.0.socket.dump(
            &self.request(CMD_GET_DEVICE, name),
            || format!("read WireGuard device {name}"),
            |_, payload, all| {
                all.push(payload.get(HEADER..).unwrap_or_default().to_vec());
                Ok(())
            },
        )?;
        let mut device = Device::default();
        pieces.iter().for_each(|piece| device.read(piece));
        Ok(device)
    }

    /// Gives a device its private key, port and mark; peers stay.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] when there is none; the kernel's refusal, for example of a port in use.
    pub fn set_device(&mut self, name: &str, private: &PrivateKey, port: u16, mark: u32) -> Result<()> {
        let mut request = self.request(CMD_SET_DEVICE, name);
        push_attribute(&mut request.body, DEVICE_PRIVATE_KEY, private.bytes());
        push_attribute(&mut request.body, DEVICE_LISTEN_PORT, &port.to_ne_bytes());
        push_attribute(&mut request.body, DEVICE_FWMARK, &mark.to_ne_bytes());
        self.0.socket.execute(&request, || format!("set up WireGuard device {name}"))
    }

    /// Changes peers, in this order.
    ///
    /// # Errors
    /// The kernel's first refusal; those before it have happened.
    pub fn change_peers(&mut self, name: &str, changes: &[PeerChange]) -> Result<()> {
        let mut pieces = changes.iter().flat_map(PeerChange::pieces).peekable();
        while pieces.peek().is_some() {
            let mut peers = Vec::new();
            while let Some(piece) = pieces.next_if(|piece| peers.len() + piece.len() <= MESSAGE) {
                push_attribute(&mut peers, NLA_F_NESTED, &piece);
            }
            let mut request = self.request(CMD_SET_DEVICE, name);
            push_attribute(&mut request.body, DEVICE_PEERS | NLA_F_NESTED, &peers);
            self.0.socket.execute(&request, || format!("change peers of WireGuard device {name}"))?;
        }
        Ok(())
    }
}

impl PeerChange {
    /// One message can't hold a peer with many addresses: the kernel takes them piece by piece.
    fn pieces(&self) -> Vec<Vec<u8>> {
        match self {
            Self::Remove(key) => {
                let mut piece = Vec::new();
                push_attribute(&mut piece, PEER_PUBLIC_KEY, key);
                push_attribute(&mut piece, PEER_FLAGS, &PEER_REMOVE.to_ne_bytes());
                vec![piece]
            }
            Self::Set { key, endpoint, keepalive, allowed, replace } => {
                let mut pieces = Vec::new();
                let mut rest: Vec<&IpNet> = allowed.iter().collect();
                while pieces.is_empty() || !rest.is_empty() {
                    let mut piece = Vec::new();
                    push_attribute(&mut piece, PEER_PUBLIC_KEY, key);
                    if pieces.is_empty() {
                        if *replace {
                            push_attribute(&mut piece, PEER_FLAGS, &PEER_REPLACE_ALLOWED_IPS.to_ne_bytes());
                        }
                        push_attribute(&mut piece, PEER_ENDPOINT, &socket_address(*endpoint));
                        push_attribute(&mut piece, PEER_KEEPALIVE, &keepalive.to_ne_bytes());
                    }
                    let mut list = Vec::new();
                    for net in rest.drain(..rest.len().min(PIECE)) {
                        push_attribute(&mut list, NLA_F_NESTED, &allowed_address(net));
                    }
                    push_attribute(&mut piece, PEER_ALLOWED_IPS | NLA_F_NESTED, &list);
                    pieces.push(piece);
                }
                pieces
            }
        }
    }
}

impl Device {
    /// Takes in one message of a dump; a peer with many addresses comes in several.
    fn read(&mut self, bytes: &[u8]) {
        for (kind, value) in attributes(bytes) {
            match kind {
                DEVICE_PRIVATE_KEY => self.private_key = array(value, 0).map(PrivateKey::new),
                DEVICE_PUBLIC_KEY => self.public_key = array(value, 0),
                DEVICE_LISTEN_PORT => self.port = array(value, 0).map_or(0, u16::from_ne_bytes),
                DEVICE_FWMARK => self.mark = array(value, 0).map_or(0, u32::from_ne_bytes),
                DEVICE_PEERS => attributes(value).for_each(|(_, peer)| self.read_peer(peer)),
                _ => {}
            }
        }
    }

    fn read_peer(&mut self, bytes: &[u8]) {
        let key = attributes(bytes).find(|(kind, _)| *kind == PEER_PUBLIC_KEY);
        let Some(key) = key.and_then(|(_, value)| array(value, 0)) else { return };
        let peer = self.peers.entry(key).or_default();
        let number = |value| array(value, 0).map_or(0, u64::from_ne_bytes);
        for (kind, value) in attributes(bytes) {
            match kind {
                PEER_ENDPOINT => peer.endpoint = read_socket_address(value),
                PEER_KEEPALIVE => peer.keepalive = array(value, 0).map_or(0, u16::from_ne_bytes),
                PEER_LAST_HANDSHAKE => {
                    // `struct __kernel_timespec`: seconds and nanoseconds, 8 octets each.
                    let seconds = number(value);
                    peer.last_handshake = (seconds > 0).then(|| Duration::from_secs(seconds));
                }
                PEER_RX_BYTES => peer.received = number(value),
                PEER_TX_BYTES => peer.sent = number(value),
                PEER_ALLOWED_IPS => {
                    peer.allowed.extend(attributes(value).filter_map(|(_, net)| read_allowed_address(net)));
                }
                _ => {}
            }
        }
    }
}

fn allowed_address(net: &IpNet) -> Vec<u8> {
    let mut bytes = Vec::new();
    match net.network() {
        IpAddr::V4(address) => {
            push_attribute(&mut bytes, ALLOWED_FAMILY, &AF_INET.to_ne_bytes());
            push_attribute(&mut bytes, ALLOWED_ADDRESS, &address.octets());
        }
        IpAddr::V6(address) => {
            push_attribute(&mut bytes, ALLOWED_FAMILY, &AF_INET6.to_ne_bytes());
            push_attribute(&mut bytes, ALLOWED_ADDRESS, &address.octets());
        }
    }
    push_attribute(&mut bytes, ALLOWED_PREFIX, &[net.prefix_len()]);
    bytes
}

fn read_allowed_address(bytes: &[u8]) -> Option<IpNet> {
    let find = |wanted| attributes(bytes).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    let address = find(ALLOWED_ADDRESS)?;
    let address = match address.len() {
        4 => IpAddr::from(array::<4>(address, 0)?),
        _ => IpAddr::from(array::<16>(address, 0)?),
    };
    IpNet::new(address, *find(ALLOWED_PREFIX)?.first()?).ok()
}

/// `struct sockaddr_in` or `struct sockaddr_in6`.
fn socket_address(address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    match address.ip() {
        IpAddr::V4(ip) => [&AF_INET.to_ne_bytes()[..], &port, &ip.octets(), &[0; 8]].concat(),
        IpAddr::V6(ip) => [&AF_INET6.to_ne_bytes()[..], &port, &[0; 4], &ip.octets(), &[0; 4]].concat(),
    }
}

fn read_socket_address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(array(bytes, 2)?);
    match u16::from_ne_bytes(array(bytes, 0)?) {
        AF_INET => Some((Ipv4Addr::from(array::<4>(bytes, 4)?), port).into()),
        AF_INET6 => Some((Ipv6Addr::from(array::<16>(bytes, 8)?), port).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_net() -> impl Strategy<Value = IpNet> {
        (any::<bool>(), any::<u128>(), 0..=128_u8).prop_map(|(v4, bits, prefix)| {
            let bytes = bits.to_be_bytes();
            let address = if v4 { IpAddr::from(array::<4>(&bytes, 0).unwrap()) } else { bytes.into() };
            IpNet::new(address, if v4 { prefix % 33 } else { prefix }).unwrap().trunc()
        })
    }

    proptest! {
        /// What is written to the kernel is what is read from it: its attributes are the same both ways.
        #[test]
        fn peers_are_read_as_they_are_written(
            allowed in proptest::collection::btree_set(any_net(), 0..1500),
            port: u16, keepalive: u16, v6: bool,
        ) {
            let ip: IpAddr = if v6 { "2001:db8::7".parse().unwrap() } else { "192.0.2.7".parse().unwrap() };
            let endpoint = SocketAddr::new(ip, port);
            let change =
                PeerChange::Set { key: [7; 32], endpoint, keepalive, allowed: allowed.clone(), replace: true };
            let mut device = Device::default();
            for piece in change.pieces() {
                prop_assert!(piece.len() <= MESSAGE);
                device.read_peer(&piece);
            }
            let peer = Peer { endpoint: Some(endpoint), keepalive, allowed, ..Peer::default() };
            prop_assert_eq!(device.peers, BTreeMap::from([([7; 32], peer)]));
        }

        #[test]
        fn any_answer_is_survived(bytes: Vec<u8>) {
            Device::default().read(&bytes);
        }
    }
}
