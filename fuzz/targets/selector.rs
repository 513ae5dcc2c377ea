//! Selectors, as labels are selected by.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| margay_fuzz::policy::selector(text));
