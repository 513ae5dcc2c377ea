//! Elements of nftables sets and maps, added and deleted over netlink: all in one transaction, without executing `nft`,
//! which reads the whole set first (`linux/netfilter/nf_tables.h`). Sets are made elsewhere.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use netlink_packet_core::{NLA_F_NESTED, NLM_F_CREATE};

use crate::error::Result;
use crate::socket::Socket;
use crate::wire::{Request, push_attribute};

const SUBSYSTEM: u8 = 10;
const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
const MSG_NEWSETELEM: u16 = 12;
const MSG_DELSETELEM: u16 = 14;

const LIST_TABLE: u16 = 1;
const LIST_SET: u16 = 2;
const LIST_ELEMENTS: u16 = 3;
const LIST_ELEM: u16 = 1;
const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_FLAGS: u16 = 3;
const ELEM_KEY_END: u16 = 10;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;

/// `NFT_SET_ELEM_INTERVAL_END`.
const INTERVAL_END: u32 = 1;
/// `NFT_GOTO`.
const GOTO: i32 = -4;
/// `IFNAMSIZ`.
const NAME_SIZE: usize = 16;
/// Elements of one message: its list is limited to 64 KiB.
const CHUNK: usize = 256;

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// Of a set of addresses; with intervals if it is no single address. So with the others.
    Net(IpNet),
    /// Of a set of address, protocol and port.
    IpPort(IpAddr, u8, u16),
    /// Of a set of address and interface.
    NetIface(IpNet, Arc<str>),
    /// Of a map from the same to a chain that is gone to.
    NetIfaceGoto(IpNet, Arc<str>, String),
}

/// What to do with elements of one set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Name of the set or map.
    pub set: String,
    /// Whether it has the flag `interval`: each element is told by its ends.
    pub intervals: bool,
    /// To delete; each has to be there.
    pub deleted: Vec<Element>,
    /// To add.
    pub added: Vec<Element>,
}

/// A connection to nf_tables in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct NftSets(Socket);

impl NftSets {
    /// Connects.
    ///
    /// # Errors
    /// The kernel has no netfilter netlink.
    pub fn open() -> Result<Self> {
        Socket::open(netlink_sys::protocols::NETLINK_NETFILTER).map(Self)
    }

    /// Changes sets of a table in one transaction.
    ///
    /// # Errors
    /// A table, set or chain is missing, an element to delete too, or one to add overlaps another.
    pub fn change(&mut self, is_ipv6: bool, table: &str, changes: &[Change]) -> Result<()> {
        let mut requests = Vec::new();
        let mut names = Vec::new();
        for change in changes {
            for (message, flags, verb, elements) in [
                (MSG_DELSETELEM, 0, "delete from", &change.deleted),
                (MSG_NEWSETELEM, NLM_F_CREATE, "add to", &change.added),
            ] {
                for some in elements.chunks(CHUNK) {
                    requests.push(request(message, flags, is_ipv6, table, change, some));
                    names.push((verb, &change.set));
                }
            }
        }
        if requests.is_empty() {
            return Ok(());
        }
        self.0.transaction(SUBSYSTEM, &requests, |number| {
            names
                .get(number)
                .map_or_else(|| "change sets".to_owned(), |(verb, set)| format!("{verb} set {set}"))
        })
    }
}

fn request(
    message: u16,
    flags: u16,
    is_ipv6: bool,
    table: &str,
    change: &Change,
    elements: &[Element],
) -> Request {
    let mut body = vec![if is_ipv6 { NFPROTO_IPV6 } else { NFPROTO_IPV4 }, 0, 0, 0];
    push_text(&mut body, LIST_TABLE, table);
    push_text(&mut body, LIST_SET, &change.set);
    let mut list = Vec::new();
    for element in elements {
        push_element(&mut list, element, change.intervals);
    }
    push_attribute(&mut body, LIST_ELEMENTS | NLA_F_NESTED, &list);
    Request { message_type: (u16::from(SUBSYSTEM) << 8) | message, flags, body }
}

fn push_text(buffer: &mut Vec<u8>, kind: u16, text: &str) {
    push_attribute(buffer, kind, &[text.as_bytes(), &[0]].concat());
}

fn push_nested(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    push_attribute(buffer, kind | NLA_F_NESTED, value);
}

fn push_value(buffer: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let mut data = Vec::new();
    push_attribute(&mut data, DATA_VALUE, value);
    push_nested(buffer, kind, &data);
}

fn push_element(list: &mut Vec<u8>, element: &Element, intervals: bool) {
    let mut body = Vec::new();
    match element {
        // A tree of ends: the first address of the network, and the first behind it.
        Element::Net(net) => {
            push_value(&mut body, ELEM_KEY, &octets(net.network()));
            push_nested(list, LIST_ELEM, &body);
            let Some(behind) = behind(net).filter(|_| intervals) else { return };
            body.clear();
            push_attribute(&mut body, ELEM_FLAGS, &INTERVAL_END.to_be_bytes());
            push_value(&mut body, ELEM_KEY, &behind);
        }
        Element::IpPort(address, protocol, port) => {
            let port = port.to_be_bytes();
            let key = [&octets(*address)[..], &[*protocol, 0, 0, 0], &port, &[0, 0]].concat();
            push_value(&mut body, ELEM_KEY, &key);
        }
        Element::NetIface(net, interface) => push_range(&mut body, net, interface, intervals),
        Element::NetIfaceGoto(net, interface, chain) => {
            push_range(&mut body, net, interface, intervals);
            let mut verdict = Vec::new();
            push_attribute(&mut verdict, VERDICT_CODE, &GOTO.to_be_bytes());
            push_text(&mut verdict, VERDICT_CHAIN, chain);
            let mut data = Vec::new();
            push_nested(&mut data, DATA_VERDICT, &verdict);
            push_nested(&mut body, ELEM_DATA, &data);
        }
    }
    push_nested(list, LIST_ELEM, &body);
}

/// Key of an address behind an interface, or first and last key of a network.
fn push_range(body: &mut Vec<u8>, net: &IpNet, interface: &str, intervals: bool) {
    let mut name = [0; NAME_SIZE];
    for (place, byte) in name.iter_mut().zip(interface.bytes().take(NAME_SIZE - 1)) {
        *place = byte;
    }
    push_value(body, ELEM_KEY, &[&octets(net.network())[..], &name].concat());
    if intervals {
        push_value(body, ELEM_KEY_END, &[&octets(net.broadcast())[..], &name].concat());
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The first address behind a network; none behind the last.
fn behind(net: &IpNet) -> Option<Vec<u8>> {
    match net.broadcast() {
        IpAddr::V4(v4) => v4.to_bits().checked_add(1).map(|next| next.to_be_bytes().to_vec()),
        IpAddr::V6(v6) => v6.to_bits().checked_add(1).map(|next| next.to_be_bytes().to_vec()),
    }
}
