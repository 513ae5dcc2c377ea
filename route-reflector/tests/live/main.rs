//! The reflector's program in a namespace of its own, with clients in another: upgrades in place, and attacks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test program: helpers fail the test"
)]

mod attack;
mod foreign;
mod lab;
mod ours;
mod upgrade;
