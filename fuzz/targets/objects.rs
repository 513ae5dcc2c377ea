//! YAML of every kind, on to the rules that are made of it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| margay_fuzz::policy::objects(text));
