//! Debian packages the chores need: installed when root, named when not.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::Outcome;

/// A package, the file that shows it is there, and what it is for.
pub(crate) struct Package {
    name: &'static str,
    file: &'static str,
    why: &'static str,
}

const fn package(name: &'static str, file: &'static str, why: &'static str) -> Package {
    Package { name, file, why }
}

/// What building the workspace needs.
pub(crate) const BUILD: &[Package] = &[
    package("gcc", "/usr/bin/cc", "compiles SQLite and ring"),
    package("libc6-dev", "/usr/include/stdlib.h", "headers for the same"),
    package("protobuf-compiler", "/usr/bin/protoc", "compiles etcd's API"),
    package("libprotobuf-dev", "/usr/include/google/protobuf/descriptor.proto", "types etcd's API imports"),
];

/// What the network itself needs at run time, and the lab around it.
pub(crate) const NETWORK: &[Package] = &[
    package("iproute2", "/usr/sbin/ip|/sbin/ip|/usr/bin/ip", "sets up the lab's addresses and shows routes"),
    package("iptables", "/usr/sbin/iptables-restore|/sbin/iptables-restore", "writes the policy rules"),
    package("ipset", "/usr/sbin/ipset|/sbin/ipset", "shows the address sets of the policy"),
    package("nftables", "/usr/sbin/nft|/sbin/nft", "the policy's other backend"),
];

/// The other datastore.
pub(crate) const ETCD: &[Package] = &[package("etcd-server", "/usr/bin/etcd", "the datastore etcd")];

/// Peers the tests run against.
pub(crate) const PEERS: &[Package] = &[
    package("bird2", "/usr/sbin/bird", "a BGP peer that is not ours"),
    package("frr", "/usr/lib/frr/bgpd", "another"),
    package("tshark", "/usr/bin/tshark", "reads what BMP stations are told"),
    package("bgpdump", "/usr/bin/bgpdump", "reads MRT dumps"),
    package("gobgpd", "/usr/bin/gobgpd", "another"),
    package("openbgpd", "/usr/sbin/bgpd", "another"),
    package("exabgp", "/usr/sbin/exabgp", "says what a test wants said"),
    package("etcd-client", "/usr/bin/etcdctl", "writes what no API would take"),
    package("openssl", "/usr/bin/openssl", "makes certificates for the tests of etcd's TLS"),
];

/// Container runtimes that execute the CNI plugin, and what they need.
pub(crate) const RUNTIMES: &[Package] = &[
    package("podman", "/usr/bin/podman", "a runtime"),
    package("containerd", "/usr/bin/containerd", "another"),
    package("crun", "/usr/bin/crun", "starts their containers"),
    package("conmon", "/usr/bin/conmon", "watches over podman's"),
    package("busybox-static", "/bin/busybox", "is what runs in them"),
    package("containernetworking-plugins", "/usr/lib/cni/portmap", "the plugins chained behind ours"),
];

/// The virtual machine of tests that need another kernel.
pub(crate) const MACHINE: &[Package] = &[
    package("qemu-system-x86", "/usr/bin/qemu-system-x86_64", "emulates a machine"),
    package("busybox-static", "/bin/busybox", "starts its system"),
    package("binutils", "/usr/bin/strip", "makes programs fit into it"),
];

/// What else looks at the examples, and at what the policy lets through.
pub(crate) const TOOLS: &[Package] = &[
    package("systemd", "/usr/bin/systemd-analyze", "checks the systemd units"),
    package("iputils-ping", "/usr/bin/ping|/bin/ping", "asks hosts whether policy lets it through"),
];

fn is_missing(package: &Package) -> bool {
    !package.file.split('|').any(|file| Path::new(file).exists())
}

/// Installs what is missing of `wanted`, or fails with the one command that would.
pub(crate) fn ensure(wanted: &[&[Package]]) -> Outcome {
    let missing: Vec<&Package> =
        wanted.iter().copied().flatten().filter(|package| is_missing(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = missing.iter().map(|package| package.name).collect();
    for package in &missing {
        println!("missing: {} ({})", package.name, package.why);
    }
    let by_hand = format!("apt-get update && apt-get install -y --no-install-recommends {}", names.join(" "));
    if !is_root() || !Path::new("/usr/bin/apt-get").exists() {
        return Err(format!("please install the missing packages, as root:\n\n    {by_hand}"));
    }
    println!("installing: {}", names.join(" "));
    apt_get(&["update", "-qq"])?;
    let mut arguments = vec!["install", "-y", "-qq", "--no-install-recommends"];
    arguments.extend(&names);
    apt_get(&arguments)?;
    match missing.iter().find(|package| is_missing(package)) {
        Some(package) => Err(format!("{} was installed, but {} is not there", package.name, package.file)),
        None => Ok(()),
    }
}

fn apt_get(arguments: &[&str]) -> Outcome {
    let output = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot run apt-get: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`apt-get {}` failed:\n{}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
}

/// Whether we may install packages and make network namespaces without a user namespace.
pub(crate) fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        status
            .lines()
            .find_map(|line| line.strip_prefix("Uid:"))
            .and_then(|ids| ids.split_whitespace().nth(1))
            .is_some_and(|effective| effective == "0")
    })
}
