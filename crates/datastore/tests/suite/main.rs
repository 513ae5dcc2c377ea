//! One suite for all backends: every test of `both` runs on the embedded store and on a real etcd.
//!
//! etcd is started from the machine's `etcd` on loopback ports of its own, in a folder of its own. Without that program its tests are
//! reported as ignored, or as failed when `TESTS_REQUIRE_ALL=1`.

#![allow(
    clippy::print_stderr,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this whole program is a test"
)]

mod both;
mod crash;
mod embedded;
mod etcd;
mod objects;
mod processes;
mod setup;

use libtest_mimic::{Arguments, Trial};

fn main() {
    if let Some(role) = std::env::var_os(processes::ROLE) {
        processes::run(&role.to_string_lossy());
        return;
    }
    let args = Arguments::from_args();
    let mut trials: Vec<Trial> = Vec::new();
    trials.extend(both::trials());
    trials.extend(objects::trials());
    trials.extend(embedded::trials());
    trials.extend(processes::trials());
    trials.extend(crash::trials());
    trials.extend(etcd::trials());
    libtest_mimic::run(&args, trials).exit();
}
