//! Who may depend on whom (ARCHITECTURE.md), read from the manifests.

use crate::{Outcome, cargo};

/// Each package with the workspace packages it may name under `[dependencies]`.
const ALLOWED: &[(&str, &[&str])] = &[
    ("xtask", &[]),
    ("bgp", &[]),
    ("crates/api", &[]),
    ("crates/control", &[]),
    ("crates/netlink", &[]),
    ("crates/datastore", &["margay-api"]),
    ("crates/ipam", &["margay-api"]),
    ("crates/routing", &["margay-api"]),
    ("felix-rs", &["margay-api", "margay-netlink"]),
    ("cni", &["margay-control", "margay-netlink"]),
    ("crates/lab", &["margay-netlink"]),
    ("route-reflector", &["margay-api", "margay-bgp", "margay-control", "margay-daemon", "margay-datastore"]),
    (
        "crates/agent",
        &[
            "felix-rs",
            "margay-api",
            "margay-bgp",
            "margay-cni",
            "margay-control",
            "margay-daemon",
            "margay-datastore",
            "margay-ipam",
            "margay-netlink",
            "margay-routing",
        ],
    ),
    ("crates/cli", &["margay-api", "margay-control", "margay-datastore", "margay-ipam"]),
    ("crates/daemon", &["margay-api", "margay-bgp", "margay-control", "margay-datastore"]),
    (
        "bench",
        &["felix-rs", "margay-api", "margay-bgp", "margay-control", "margay-datastore", "margay-netlink"],
    ),
    ("tests", &["margay-api", "margay-control", "margay-lab", "margay-netlink"]),
];

/// Packages that stay free of an async runtime: pure cores, and the shim that is executed once per pod.
const WITHOUT_TOKIO: &[&str] =
    &["crates/api", "crates/control", "crates/ipam", "crates/routing", "felix-rs", "cni"];

pub(crate) fn check() -> Outcome {
    let mut wrong = Vec::new();
    for (folder, allowed) in ALLOWED {
        let path = cargo::root().join(folder).join("Cargo.toml");
        let manifest =
            std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        for name in dependencies(&manifest) {
            if (name.starts_with("margay-") || name == "felix-rs") && !allowed.contains(&name) {
                wrong.push(format!("{folder} must not depend on {name} (see ARCHITECTURE.md)"));
            }
            if name == "tokio" && WITHOUT_TOKIO.contains(folder) {
                wrong.push(format!("{folder} must stay free of tokio (see ARCHITECTURE.md)"));
            }
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// Names under `[dependencies]` of a manifest.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split([' ', '=', '.']).next())
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_repository_keeps_its_layers() {
        assert_eq!(super::check(), Ok(()));
    }

    #[test]
    fn only_the_dependencies_section_counts() {
        let manifest = "[package]\nname = \"x\"\n\n[dependencies]\na = { workspace = true }\nb.workspace = true\n\n[dev-dependencies]\nc = \"1\"\n";
        assert_eq!(super::dependencies(manifest).collect::<Vec<_>>(), ["a", "b"]);
    }
}
