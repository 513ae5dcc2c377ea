//! Bidirectional forwarding detection (RFC 5880) for BGP's peers, single hop (RFC 5881) and multihop (RFC 5883): finds
//! within a second that a peer is gone, where BGP's hold timer takes 90.
//!
//! Asynchronous mode; demand mode only if the peer asks for it. No echo function, no authentication. Pure, as the speaker
//! is: [`Bfd`] takes packets and time and gives packets and changes. What follows for BGP is the speaker's
//! ([`crate::Input::Bfd`]).

mod config;
mod endpoint;
mod packet;
mod session;
mod status;
#[cfg(test)]
mod tests;

pub use config::{MULTIHOP_PORT, SINGLE_HOP_PORT, SessionConfig};
pub use endpoint::{Bfd, Handover, Input, Output};
pub use packet::{Diagnostic, PACKET_LEN, Packet, PacketError, State};
pub use status::SessionStatus;
