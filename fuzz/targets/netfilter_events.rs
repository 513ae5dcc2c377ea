//! What the kernel tells of connections (conntrack) and logged packets (NFLOG), and the packets inside.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| margay_fuzz::policy::netfilter_events(data));
