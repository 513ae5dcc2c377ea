//! The Kubernetes manifests agree with the API, with each other, and with the other examples.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::kubernetes::{Container, Labels, Manifests, Workload};
use crate::{documents, read, repository};

/// What `cargo xtask dist --image` calls the image.
const IMAGE: &str = concat!("registry.example/margay:", env!("CARGO_PKG_VERSION"));

const NAMESPACE: &str = "margay-system";

pub(crate) fn manifests() -> Manifests {
    let mut manifests = Manifests::default();
    let mut paths: Vec<_> = std::fs::read_dir(repository("examples/kubernetes"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
        .collect();
    paths.sort();
    for path in paths {
        for document in documents(&path) {
            manifests.add(document).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
    }
    manifests
}

/// Whether every pair of `selector` is among `labels`.
fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[test]
fn unknown_fields_and_kinds_are_noticed() {
    let path = repository("examples/kubernetes/20-agent.yaml");
    let document = documents(&path).remove(0);
    let mut misspelt = document.clone();
    let spec = misspelt.pointer_mut("/spec/template/spec").unwrap().as_object_mut().unwrap();
    let value = spec.remove("hostNetwork").unwrap();
    spec.insert("hostNetwrok".to_owned(), value);
    let error = Manifests::default().add(misspelt).unwrap_err();
    assert!(error.contains("hostNetwrok"), "{error}");
    let mut kind = document;
    kind["apiVersion"] = "extensions/v1beta1".into();
    assert!(Manifests::default().add(kind).is_err());
}

#[test]
fn everything_is_in_the_one_namespace() {
    let manifests = manifests();
    let [namespace] = manifests.namespaces.as_slice() else { panic!("{:?}", manifests.namespaces) };
    assert_eq!(namespace.metadata.name, NAMESPACE);
    let accounts = manifests.accounts.iter().map(|object| &object.metadata);
    let maps = manifests.config_maps.iter().map(|object| &object.metadata);
    let workloads = manifests.workloads.iter().map(|object| &object.metadata);
    let budgets = manifests.budgets.iter().map(|object| &object.metadata);
    let mut count = 0;
    for metadata in accounts.chain(maps).chain(workloads).chain(budgets) {
        assert_eq!(metadata.namespace.as_deref(), Some(NAMESPACE), "{}", metadata.name);
        count += 1;
    }
    assert!(count >= 8, "{count}");
}

#[test]
fn workloads_select_their_own_pods() {
    let manifests = manifests();
    assert_eq!(manifests.workloads.len(), 2);
    for Workload { metadata, spec, kind, .. } in &manifests.workloads {
        let labels = &spec.template.metadata.labels;
        assert!(selects(&spec.selector.match_labels, labels), "{}", metadata.name);
        let others = manifests.workloads.iter().filter(|other| other.metadata.name != metadata.name);
        for other in others {
            assert!(!selects(&spec.selector.match_labels, &other.spec.template.metadata.labels));
        }
        let strategy = if kind == "DaemonSet" { &spec.update_strategy } else { &spec.strategy };
        let strategy = strategy.as_ref().unwrap();
        assert_eq!(strategy.kind, "RollingUpdate");
        let known = ["maxSurge", "maxUnavailable"];
        assert!(strategy.rolling_update.keys().all(|key| known.contains(&key.as_str())));
        // Two of the host's network and port cannot run beside each other.
        let surge = strategy.rolling_update.get("maxSurge").cloned();
        assert_eq!(surge.unwrap_or(if kind == "DaemonSet" { 0 } else { 1 }.into()), 0);
    }
    for budget in &manifests.budgets {
        let of =
            |w: &&Workload| selects(&budget.spec.selector.match_labels, &w.spec.template.metadata.labels);
        let workload = manifests.workloads.iter().find(of).expect("a budget for nobody");
        assert!(budget.spec.min_available < workload.spec.replicas.unwrap());
    }
}

#[test]
fn everything_a_pod_refers_to_exists() {
    let manifests = manifests();
    let readme = read(&repository("examples/kubernetes/README.md"));
    for Workload { metadata, spec, .. } in &manifests.workloads {
        let pod = &spec.template.spec;
        let who = &metadata.name;
        assert!(manifests.accounts.iter().any(|a| a.metadata.name == pod.service_account_name), "{who}");
        let mounted: BTreeSet<_> =
            pod.all_containers().flat_map(|c| &c.volume_mounts).map(|mount| mount.name.as_str()).collect();
        let volumes: BTreeSet<_> = pod.volumes.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(mounted, volumes, "{who}: mounts and volumes");
        for volume in &pod.volumes {
            let sources = [
                volume.projected.is_some(),
                volume.config_map.is_some(),
                volume.host_path.is_some(),
                volume.empty_dir.is_some(),
            ];
            assert_eq!(sources.iter().filter(|is| **is).count(), 1, "{who}: volume {}", volume.name);
            for map in volume.config_maps() {
                assert!(!manifests.config_map(&map.name).data.is_empty());
            }
            for secret in volume.secrets() {
                // Keys are nothing for an example: README.md says how the Secret is made.
                assert!(
                    readme.contains(&format!("create secret generic {}", secret.name)),
                    "{}",
                    secret.name
                );
                for item in secret.items.iter().flatten() {
                    assert!(readme.contains(&format!("--from-file={}", item.key)), "{}", item.key);
                }
            }
            if let Some(path) = &volume.host_path {
                assert!(["DirectoryOrCreate", "FileOrCreate"].contains(&path.kind.as_str()), "{}", path.kind);
                assert!(Path::new(&path.path).is_absolute());
            }
        }
    }
}

#[test]
fn containers_run_the_image_of_this_version_with_what_they_need() {
    let manifests = manifests();
    for workload in &manifests.workloads {
        for container in workload.spec.template.spec.all_containers() {
            let Container { name, image, command, security_context: security, .. } = container;
            assert_eq!(image, IMAGE, "{name}: `cargo xtask dist --image` makes another");
            let [program] = command.as_slice() else { panic!("{name}: {command:?}") };
            let programs = ["margay-agent", "margay-route-reflector", "margay-cni"];
            assert!(programs.iter().any(|p| *program == format!("/usr/bin/{p}")), "{name}: {program}");
            assert_eq!(security.capabilities.drop, ["ALL"]);
            assert!(security.read_only_root_filesystem && !security.allow_privilege_escalation);
            assert_eq!(security.seccomp_profile.kind, "RuntimeDefault");
        }
    }
}

#[test]
fn capabilities_are_the_same_under_systemd() {
    let manifests = manifests();
    for name in ["margay-agent", "margay-route-reflector"] {
        let unit = read(&repository(&format!("examples/systemd/{name}.service")));
        let line = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
        let under_systemd: BTreeSet<_> = line.split_whitespace().map(str::to_owned).collect();
        let container = &manifests.workload(name).spec.template.spec.containers[0];
        let added = container.security_context.capabilities.add.iter().flatten();
        let in_kubernetes: BTreeSet<_> = added.map(|capability| format!("CAP_{capability}")).collect();
        assert_eq!(under_systemd, in_kubernetes, "{name}");
    }
}

#[test]
fn agent_and_reflector_never_meet() {
    let manifests = manifests();
    let agent = &manifests.workload("margay-agent").spec.template.spec;
    let reflector = manifests.workload("margay-route-reflector");
    let pod = &reflector.spec.template.spec;
    assert!(agent.host_network && pod.host_network);
    let affinity = agent.affinity.node_affinity.as_ref().unwrap();
    let terms = &affinity.required_during_scheduling_ignored_during_execution.node_selector_terms;
    let [term] = terms.as_slice() else { panic!("terms are alternatives: {terms:?}") };
    let avoided = term.match_expressions.iter().find(|r| r.operator == "DoesNotExist").unwrap();
    assert!(pod.node_selector.contains_key(&avoided.key));
    let anti = pod.affinity.pod_anti_affinity.as_ref().unwrap();
    let [apart] = anti.required_during_scheduling_ignored_during_execution.as_slice() else { panic!() };
    assert_eq!(apart.topology_key, "kubernetes.io/hostname");
    assert_eq!(apart.label_selector.match_labels, reflector.spec.selector.match_labels);
    // And the scheduler's own guard, should somebody change the above.
    for spec in [agent, pod] {
        let port = &spec.containers[0].ports.as_ref().unwrap()[0];
        assert_eq!((port.container_port, port.host_port, port.protocol.as_str()), (179, 179, "TCP"));
    }
}

#[test]
fn the_conflist_is_the_example_and_its_paths_are_the_hosts() {
    let manifests = manifests();
    let conflist = &manifests.config_map("margay-cni").data["10-margay.conflist"];
    let example = read(&repository("examples/cni/10-margay.conflist"));
    assert_eq!(conflist, &example);
    let list: Value = serde_json::from_str(conflist).unwrap();
    let plugin = &list["plugins"][0];
    let pod = &manifests.workload("margay-agent").spec.template.spec;
    let agent = &pod.containers[0];
    for key in ["socket", "spool_dir"] {
        let path = Path::new(plugin[key].as_str().unwrap());
        let mount = agent.volume_mounts.iter().find(|mount| path.starts_with(&mount.mount_path));
        let mount = mount.unwrap_or_else(|| panic!("{key}: {} is not shared with the host", path.display()));
        let volume = pod.volumes.iter().find(|volume| volume.name == mount.name).unwrap();
        // The shim runs on the host: a path means the same to both.
        assert_eq!(volume.host_path.as_ref().unwrap().path, mount.mount_path);
    }
    let install = &pod.init_containers.as_ref().unwrap()[0];
    assert_eq!(install.args[0], "install");
    let config = &manifests.config_map("margay-agent").data["agent.yaml"];
    let value = |key: &str| config.lines().find_map(|line| line.strip_prefix(key)).unwrap().trim();
    let (conf_dir, conflist) = (value("cniConfDir:"), value("cniConflist:"));
    for (container, path, folder) in
        [(install, install.args[1].as_str(), "/opt/cni/bin"), (agent, conf_dir, "/etc/cni/net.d")]
    {
        let mount = container.volume_mounts.iter().find(|m| m.mount_path == path).unwrap();
        let volume = pod.volumes.iter().find(|volume| volume.name == mount.name).unwrap();
        assert_eq!(volume.host_path.as_ref().unwrap().path, folder);
    }
    let conflist = Path::new(conflist);
    let mount =
        agent.volume_mounts.iter().find(|m| conflist.parent() == Some(Path::new(&m.mount_path))).unwrap();
    assert_eq!((mount.name.as_str(), conflist.ends_with("10-margay.conflist")), ("conflist", true));
}
