//! BFD packets: the codec, and a session that gets one after the other as time passes.

use margay_bgp::Time;
use margay_bgp::bfd::{Bfd, Input, Output, Packet, SessionConfig, State};
use std::net::IpAddr;
use std::time::Duration;

/// One input: what is received, 26 octets at a time.
pub fn packet(data: &[u8]) {
    if let Ok(packet) = Packet::decode(data) {
        let again = Packet::decode(&packet.encode()).expect("our own packet is valid");
        assert_eq!(again, Packet { authenticated: false, ..packet });
    }
    let peer = IpAddr::from([192, 0, 2, 1]);
    let mut bfd = Bfd::new(1);
    let mut now = Time::ZERO;
    bfd.handle(now, Input::Set(peer, Some(SessionConfig::default())));
    let mut own = [0; 4];
    for piece in data.chunks(26) {
        let [flags, wait, payload @ ..] = piece else { break };
        now = now + Duration::from_millis(u64::from(*wait) * 8);
        let mut payload = payload.to_vec();
        // A discriminator cannot be guessed.
        if flags & 1 != 0
            && let Some(place) = payload.get_mut(8..12)
        {
            place.copy_from_slice(&own);
        }
        bfd.handle(now, Input::Received { from: peer, multihop: flags & 2 != 0, payload: &payload });
        while let Some(output) = bfd.poll_output() {
            let Output::Send { packet, .. } = output else { continue };
            let sent = Packet::decode(&packet).expect("what we send is valid");
            assert!(!(sent.poll && sent.last), "RFC 5880 section 6.8.7");
            assert!(!sent.demand && sent.state != State::AdminDown);
            own.copy_from_slice(&packet[4..8]);
        }
        assert!(bfd.next_deadline().is_none_or(|at| at > now), "nothing due is left undone");
    }
}
