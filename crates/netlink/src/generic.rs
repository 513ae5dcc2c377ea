//! Generic netlink: finding a family of messages by its name (`linux/genetlink.h`).

use crate::error::{Error, Result};
use crate::socket::Socket;
use crate::wire::{Request, array, attributes, push_attribute};

/// `GENL_ID_CTRL`: where families are looked up.
const CONTROL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// Length of `struct genlmsghdr`.
pub(crate) const HEADER: usize = 4;

/// Version of every family used here, and of the look-up.
const VERSION: u8 = 1;

/// A family of the kernel, and a socket to speak to it.
#[derive(Debug)]
pub(crate) struct Generic {
    pub(crate) socket: Socket,
    family: u16,
}

impl Generic {
    /// Looks a family up in the kernel, of the namespace of the calling thread. `called` is what people call it.
    ///
    /// # Errors
    /// [`Error::NotFound`] from a kernel without it.
    pub(crate) fn open(name: &str, called: &str) -> Result<Self> {
        let mut socket = Socket::open(netlink_sys::protocols::NETLINK_GENERIC)?;
        let what = || format!("look up {called} in the kernel");
        let mut body = header(CTRL_CMD_GETFAMILY);
        push_attribute(&mut body, CTRL_ATTR_FAMILY_NAME, &[name.as_bytes(), b"\0"].concat());
        let mut family = None;
        let request = Request { message_type: CONTROL, flags: 0, body };
        socket.query(&request, what, |_, payload| {
            let mut all = attributes(payload.get(HEADER..).unwrap_or_default());
            family = all.find_map(|(kind, value)| {
                (kind == CTRL_ATTR_FAMILY_ID).then(|| array(value, 0).map(u16::from_ne_bytes)).flatten()
            });
            Ok(())
        })?;
        let family =
            family.ok_or_else(|| Error::Decode { what: what(), reason: "no family id".to_owned() })?;
        Ok(Self { socket, family })
    }

    /// A request without attributes.
    pub(crate) fn request(&self, command: u8) -> Request {
        Request { message_type: self.family, flags: 0, body: header(command) }
    }
}

/// `struct genlmsghdr`.
fn header(command: u8) -> Vec<u8> {
    vec![command, VERSION, 0, 0]
}
