//! What `iptables-save -c` says: our chains, their hashes and counters, and what Calico's Felix left.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| margay_fuzz::policy::iptables_save(text));
