//! Bytes of the ipset protocol: attributes inside nfnetlink messages (`linux/netfilter/ipset/ip_set.h`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Entry, Family, IpsetError, SetInfo, SetType};
use ipnet::IpNet;

pub(super) const SUBSYS_IPSET: u16 = 6;
/// Protocol version spoken; understood by every kernel since 4.19.
const PROTOCOL: u8 = 7;

pub(super) const CMD_CREATE: u8 = 2;
pub(super) const CMD_DESTROY: u8 = 3;
pub(super) const CMD_SWAP: u8 = 6;
pub(super) const CMD_LIST: u8 = 7;
pub(super) const CMD_ADD: u8 = 9;
pub(super) const CMD_DEL: u8 = 10;
pub(super) const CMD_TYPE: u8 = 13;

const ATTR_PROTOCOL: u16 = 1;
const ATTR_SETNAME: u16 = 2;
const ATTR_TYPENAME: u16 = 3;
const ATTR_REVISION: u16 = 4;
const ATTR_FAMILY: u16 = 5;
const ATTR_FLAGS: u16 = 6;
const ATTR_DATA: u16 = 7;
const ATTR_ADT: u16 = 8;
const ATTR_LINENO: u16 = 9;

const CADT_IP: u16 = 1;
const CADT_CIDR: u16 = 3;
const CADT_PORT: u16 = 4;
const CADT_PROTO: u16 = 7;
const CREATE_MAXELEM: u16 = 19;
const CREATE_REFERENCES: u16 = 25;
const ADT_IFACE: u16 = 23;

const IPADDR_IPV4: u16 = 1;
const IPADDR_IPV6: u16 = 2;

const FLAG_LIST_HEADER: u32 = 1 << 2;

const NLA_F_NESTED: u16 = 1 << 15;
const NLA_F_NET_BYTEORDER: u16 = 1 << 14;
const NLA_TYPE_MASK: u16 = !(NLA_F_NESTED | NLA_F_NET_BYTEORDER);

pub(super) const NLMSG_HEADER: usize = 16;
const NFGENMSG: usize = 4;

pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_DUMP: u16 = 0x300;

pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;

/// One request under construction.
pub(super) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    pub(super) fn new(command: u8, flags: u16, sequence: u32, family: Family) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&((SUBSYS_IPSET << 8) | u16::from(command)).to_ne_bytes());
        bytes.extend_from_slice(&(NLM_F_REQUEST | flags).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&[family.number(), 0, 0, 0]);
        let mut request = Self { bytes };
        request.attr(ATTR_PROTOCOL, &[PROTOCOL]);
        request
    }

    fn attr(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }

    fn string(&mut self, kind: u16, value: &str) {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes);
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&0u16.to_ne_bytes());
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(start..start + 2) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
    }

    pub(super) fn name(&mut self, name: &str) {
        self.string(ATTR_SETNAME, name);
    }

    pub(super) fn second_name(&mut self, name: &str) {
        self.string(ATTR_TYPENAME, name);
    }

    pub(super) fn kind(&mut self, kind: SetType, family: Family) {
        self.string(ATTR_TYPENAME, kind.name());
        self.attr(ATTR_FAMILY, &[family.number()]);
    }

    pub(super) fn headers_only(&mut self) {
        self.attr(ATTR_FLAGS | NLA_F_NET_BYTEORDER, &FLAG_LIST_HEADER.to_be_bytes());
    }

    pub(super) fn create_data(&mut self, revision: u8, max_elements: u32) {
        self.attr(ATTR_REVISION, &[revision]);
        self.nest(ATTR_DATA, |data| {
            data.attr(CREATE_MAXELEM | NLA_F_NET_BYTEORDER, &max_elements.to_be_bytes());
        });
    }

    /// Members of one ADD or DEL. The line number (from 1) comes back in the error of a member that failed.
    pub(super) fn entries(&mut self, entries: &[Entry]) {
        self.attr(ATTR_LINENO | NLA_F_NET_BYTEORDER, &0u32.to_be_bytes());
        self.nest(ATTR_ADT, |list| {
            for (line, entry) in (1u32..).zip(entries) {
                list.nest(ATTR_DATA, |data| {
                    data.entry(entry);
                    data.attr(ATTR_LINENO | NLA_F_NET_BYTEORDER, &line.to_be_bytes());
                });
            }
        });
    }

    fn entry(&mut self, entry: &Entry) {
        match entry {
            Entry::Net(net) => {
                self.address(net.addr());
                self.attr(CADT_CIDR, &[net.prefix_len()]);
            }
            Entry::IpPort(address, protocol, port) => {
                self.address(*address);
                self.attr(CADT_PROTO, &[*protocol]);
                self.attr(CADT_PORT | NLA_F_NET_BYTEORDER, &port.to_be_bytes());
            }
            Entry::NetIface(net, interface) => {
                self.address(net.addr());
                self.attr(CADT_CIDR, &[net.prefix_len()]);
                self.string(ADT_IFACE, interface);
            }
        }
    }

    fn address(&mut self, address: IpAddr) {
        self.nest(CADT_IP, |ip| match address {
            IpAddr::V4(v4) => ip.attr(IPADDR_IPV4 | NLA_F_NET_BYTEORDER, &v4.octets()),
            IpAddr::V6(v6) => ip.attr(IPADDR_IPV6 | NLA_F_NET_BYTEORDER, &v6.octets()),
        });
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.get_mut(..4) {
            place.copy_from_slice(&length.to_ne_bytes());
        }
        self.bytes
    }
}

/// One message of the kernel's answer.
pub(super) struct Message<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    pub(super) payload: &'a [u8],
}

/// Splits a datagram into messages; a truncated tail ends the iteration.
pub(super) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?)).ok()?;
        let kind = u16::from_ne_bytes(array(bytes, 4)?);
        let sequence = u32::from_ne_bytes(array(bytes, 8)?);
        let payload = bytes.get(NLMSG_HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Message { kind, sequence, payload })
    })
}

/// `errno` of NLMSG_ERROR or NLMSG_DONE; 0 is an acknowledgement.
pub(super) fn error_code(payload: &[u8]) -> i32 {
    array(payload, 0).map_or(0, i32::from_ne_bytes).saturating_neg()
}

/// Line number inside the request quoted by an error, if the kernel put one there.
pub(super) fn error_line(payload: &[u8]) -> Option<usize> {
    let quoted = payload.get(4 + NLMSG_HEADER + NFGENMSG..)?;
    let line = attributes(quoted).find(|(kind, _)| *kind == ATTR_LINENO)?.1;
    usize::try_from(u32::from_be_bytes(array(line, 0)?)).ok()?.checked_sub(1)
}

/// Revision in the answer to TYPE.
pub(super) fn revision(payload: &[u8]) -> Option<u8> {
    let body = payload.get(NFGENMSG..)?;
    attributes(body).find(|(kind, _)| *kind == ATTR_REVISION)?.1.first().copied()
}

/// One message of a LIST dump: the set and the members this message carries. Only the first message of a set
/// has its type: `info` is what the messages before told.
pub(super) fn listed(payload: &[u8], info: &mut SetInfo) -> Result<Vec<Entry>, IpsetError> {
    let body = payload.get(NFGENMSG..).ok_or(IpsetError::Malformed { what: "list header" })?;
    let mut members: &[u8] = &[];
    for (kind, value) in attributes(body) {
        match kind {
            ATTR_SETNAME => info.name = text(value),
            ATTR_TYPENAME => info.kind = SetType::parse(&text(value)),
            ATTR_FAMILY if value.first() == Some(&Family::V6.number()) => info.family = Family::V6,
            ATTR_DATA => {
                for (kind, value) in attributes(value) {
                    match kind {
                        CREATE_MAXELEM => info.max_elements = be32(value),
                        CREATE_REFERENCES => info.references = be32(value),
                        _ => {}
                    }
                }
            }
            ATTR_ADT => members = value,
            _ => {}
        }
    }
    let Some(kind) = info.kind else { return Ok(Vec::new()) };
    attributes(members)
        .filter(|(attribute, _)| *attribute == ATTR_DATA)
        .map(|(_, data)| member(kind, info.family, data).ok_or(IpsetError::Malformed { what: "member" }))
        .collect()
}

fn member(kind: SetType, family: Family, data: &[u8]) -> Option<Entry> {
    let (mut address, mut cidr, mut protocol, mut port, mut interface) = (None, None, 0, 0, None);
    for (attribute, value) in attributes(data) {
        match attribute {
            CADT_IP => address = attributes(value).find_map(|(kind, ip)| ip_address(kind, ip)),
            CADT_CIDR => cidr = value.first().copied(),
            CADT_PROTO => protocol = value.first().copied()?,
            CADT_PORT => port = u16::from_be_bytes(array(value, 0)?),
            ADT_IFACE => interface = Some(text(value)),
            _ => {}
        }
    }
    let address = address?;
    let net = || IpNet::new(address, cidr.unwrap_or(family.bits())).ok();
    match kind {
        SetType::HashNet => net().map(Entry::Net),
        SetType::HashIpPort => Some(Entry::IpPort(address, protocol, port)),
        SetType::HashNetIface => Some(Entry::NetIface(net()?, interface?.into())),
    }
}

fn ip_address(kind: u16, value: &[u8]) -> Option<IpAddr> {
    match kind {
        IPADDR_IPV4 => Some(Ipv4Addr::from(array::<4>(value, 0)?).into()),
        IPADDR_IPV6 => Some(Ipv6Addr::from(array::<16>(value, 0)?).into()),
        _ => None,
    }
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(array(bytes, 0)?));
        let kind = u16::from_ne_bytes(array(bytes, 2)?) & NLA_TYPE_MASK;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn be32(bytes: &[u8]) -> u32 {
    array(bytes, 0).map_or(0, u32::from_be_bytes)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}
