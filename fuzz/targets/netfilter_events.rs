//! What the kernel tells of connections (conntrack) and logged packets (NFLOG), and the packets inside.
#![no_main]

use felix_rs::apply::first_packet;
use felix_rs::verdict::Packet;
use libfuzzer_sys::fuzz_target;
use margay_netlink::flows::{Event, event};

fuzz_target!(|data: &[u8]| {
    let [kind, payload @ ..] = data else { return };
    // NFLOG's packets and conntrack's connections.
    let kind = if kind & 1 == 0 { 4 << 8 } else { 1 << 8 };
    match event(kind, payload) {
        Some(Event::Begun(flow)) => assert!(!first_packet(&flow).to_string().is_empty()),
        Some(Event::Logged(head)) => {
            assert!(head.len() <= payload.len());
            let _text = Packet::parse(head).map(|packet| packet.to_string());
        }
        None => {}
    }
    let _any = Packet::parse(payload);
});
