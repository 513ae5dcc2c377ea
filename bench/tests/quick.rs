//! The benchmark's short form, for correctness only: every route that every client receives is checked.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use std::process::Command;

#[test]
fn our_reflector_and_the_mirror_tell_every_client_exactly_what_it_should_know() {
    let program = env!("CARGO_BIN_EXE_margay-bench");
    let reflector = std::path::Path::new(program).with_file_name("margay-route-reflector");
    let ready = nix::unistd::geteuid().is_root() && reflector.exists();
    if !ready {
        assert!(std::env::var_os("TESTS_REQUIRE_ALL").is_none(), "needs root and {}", reflector.display());
        eprintln!("skipped: needs root and {}", reflector.display());
        return;
    }
    let output = Command::new(program).args(["rr", "--quick", "--only", "mirror,margay"]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // Four scenarios with two subjects each.
    assert_eq!(
        text.lines().filter(|line| line.contains(" mirror ") || line.contains(" margay ")).count(),
        8,
        "{text}"
    );
}
