//! What a device leaves to the hardware (`linux/ethtool_netlink.h`, Linux 5.6 and newer).

use netlink_packet_core::NLA_F_NESTED;

use crate::error::Result;
use crate::generic::{Generic, HEADER};
use crate::wire::{Request, attributes, push_attribute};

const MSG_FEATURES_GET: u8 = 11;
const MSG_FEATURES_SET: u8 = 12;

const FEATURES_HEADER: u16 = 1;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;

const HEADER_DEV_NAME: u16 = 2;
const HEADER_FLAGS: u16 = 3;
/// `ETHTOOL_FLAG_OMIT_REPLY`: an acknowledgement is enough.
const OMIT_REPLY: u32 = 2;

const BITSET_BITS: u16 = 3;
const BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

/// Transmit checksums of whatever protocol, as `ethtool -k` calls them.
const TX_CHECKSUM: &str = "tx-checksum-ip-generic";

/// A handle for the devices of the namespace of the thread that opened it.
#[derive(Debug)]
pub struct Ethtool(Generic);

impl Ethtool {
    /// Looks ethtool's messages up in the kernel.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] from a kernel without them.
    pub fn open() -> Result<Self> {
        Generic::open("ethtool", "ethtool's messages").map(Self)
    }

    fn request(&self, command: u8, device: &str, flags: u32) -> Request {
        let mut header = Vec::new();
        push_attribute(&mut header, HEADER_DEV_NAME, &[device.as_bytes(), b"\0"].concat());
        push_attribute(&mut header, HEADER_FLAGS, &flags.to_ne_bytes());
        let mut request = self.0.request(command);
        push_attribute(&mut request.body, FEATURES_HEADER | NLA_F_NESTED, &header);
        request
    }

    /// Whether checksums of packets that the device sends are left to what is below it.
    ///
    /// # Errors
    /// [`crate::Error::NotFound`] when there is no such device.
    pub fn offloads_checksums(&mut self, device: &str) -> Result<bool> {
        let request = self.request(MSG_FEATURES_GET, device, 0);
        let mut found = false;
        self.0.socket.query(
            &request,
            || format!("read the offloads of {device}"),
            |_, payload| {
                found |= is_active(payload.get(HEADER..).unwrap_or_default(), TX_CHECKSUM);
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Leaves them to what is below it, or has the kernel compute them first.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn offload_checksums(&mut self, device: &str, on: bool) -> Result<()> {
        let mut bit = Vec::new();
        push_attribute(&mut bit, BIT_NAME, &[TX_CHECKSUM.as_bytes(), b"\0"].concat());
        if on {
            push_attribute(&mut bit, BIT_VALUE, &[]);
        }
        let mut bits = Vec::new();
        push_attribute(&mut bits, BITS_BIT | NLA_F_NESTED, &bit);
        let mut wanted = Vec::new();
        push_attribute(&mut wanted, BITSET_BITS | NLA_F_NESTED, &bits);
        let mut request = self.request(MSG_FEATURES_SET, device, OMIT_REPLY);
        push_attribute(&mut request.body, FEATURES_WANTED | NLA_F_NESTED, &wanted);
        self.0.socket.execute(&request, || format!("change the offloads of {device}"))
    }
}

/// A list of bits without mask has those that are set.
fn is_active(bytes: &[u8], name: &str) -> bool {
    let bits = inside(bytes, FEATURES_ACTIVE).flat_map(|set| inside(set, BITSET_BITS));
    let names = bits.flat_map(|list| inside(list, BITS_BIT)).flat_map(|bit| inside(bit, BIT_NAME));
    names.into_iter().any(|found| found.strip_suffix(b"\0") == Some(name.as_bytes()))
}

fn inside(bytes: &[u8], wanted: u16) -> impl Iterator<Item = &[u8]> {
    attributes(bytes).filter(move |(kind, _)| *kind == wanted).map(|(_, value)| value)
}
