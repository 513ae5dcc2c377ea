//! The benchmarks' short forms, for correctness only: every route that every client receives is checked, and every change
//! of policy reaches packets.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test")]

use std::process::Command;

/// The benchmark, if this machine can run it with a daemon built beside it.
fn benchmark(daemon: &str) -> Option<Command> {
    let program = env!("CARGO_BIN_EXE_margay-bench");
    let daemon = std::path::Path::new(program).with_file_name(daemon);
    let ready = nix::unistd::geteuid().is_root() && daemon.exists();
    if !ready {
        assert!(std::env::var_os("TESTS_REQUIRE_ALL").is_none(), "needs root and {}", daemon.display());
        eprintln!("skipped: needs root and {}", daemon.display());
    }
    ready.then(|| Command::new(program))
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn our_reflector_and_the_mirror_tell_every_client_exactly_what_it_should_know() {
    let Some(mut command) = benchmark("margay-route-reflector") else { return };
    let text = output(command.args(["rr", "--quick", "--only", "mirror,margay"]));
    // Four scenarios with two subjects each.
    assert_eq!(
        text.lines().filter(|line| line.contains(" mirror ") || line.contains(" margay ")).count(),
        8,
        "{text}"
    );
}

#[test]
fn policy_reaches_packets_with_every_backend() {
    for backend in ["iptables-nft", "nftables"] {
        let Some(mut command) = benchmark("margay-agent") else { return };
        let text = output(command.args(["policy", "--quick", "--backend", backend]));
        assert_eq!(text.lines().filter(|line| line.contains("remote pod appears")).count(), 2, "{text}");
    }
}

#[test]
fn every_codec_finds_the_same_prefixes() {
    let text = output(Command::new(env!("CARGO_BIN_EXE_margay-bench")).args(["codec", "--quick"]));
    for codec in ["margay", "bgpkit-parser", "netgauze-bgp-pkt"] {
        assert_eq!(text.lines().filter(|line| line.contains(&format!(" {codec} "))).count(), 3, "{text}");
    }
}
