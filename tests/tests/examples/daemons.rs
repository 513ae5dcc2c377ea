//! Configurations are what the daemons read: tried with the daemons themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use crate::kubernetes::{Manifests, Workload};
use crate::manifests::manifests;
use crate::{Folder, program, read, repository};

/// Daemon and its example.
const DAEMONS: [(&str, &str); 2] =
    [("margay-agent", "agent.yaml"), ("margay-route-reflector", "route-reflector.yaml")];

/// Only what a test gives counts: no variable of ours from outside.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env_clear();
    command
}

/// What `--check-config` says: nothing when all is well.
fn check(program: &Path, file: &Path) -> Result<(), String> {
    let output =
        command(program).args(["--check-config", "--node=n1", "--config"]).arg(file).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// The example with every key of the top level in force, and the other datastore if asked for.
fn in_force(text: &str, etcd: bool) -> String {
    let mut lines = Vec::new();
    let mut section = false;
    let mut nested = false;
    for line in text.lines() {
        nested = (nested && !line.is_empty()) || ["# bmp:", "# mrtLog:", "# listenRanges:"].contains(&line);
        if nested {
            lines.push(line.strip_prefix("# ").unwrap_or(line).to_owned());
            continue;
        }
        let comment = line.strip_prefix("# ").unwrap_or_default();
        let key = comment.split_once(": ").map(|(key, _)| key).unwrap_or_default();
        let is_key = !key.is_empty() && key.chars().all(char::is_alphanumeric);
        if line == "datastore:" || line == "# datastore:" {
            section = true;
        } else if line.is_empty() || line.starts_with("# The other kind") {
            section = false;
        }
        let commented = line.starts_with('#');
        match (section, commented) {
            // A section that is not wanted, or one that is and has to lose its `# `.
            (true, commented) if commented != etcd => {}
            (true, true) => lines.push(line.strip_prefix("# ").unwrap_or("").to_owned()),
            (false, true) if is_key && key.starts_with(char::is_lowercase) => lines.push(comment.to_owned()),
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn the_examples_are_right_with_every_key_in_force() {
    let folder = Folder::new("keys");
    for (daemon, file) in DAEMONS {
        let Some(program) = program(daemon) else { return };
        let path = repository("examples/config").join(file);
        assert_eq!(check(&program, &path), Ok(()), "{file}");
        for etcd in [false, true] {
            let text = in_force(&read(&path), etcd);
            assert!(text.contains("\nipv6Address: ") && text.contains("\nmetricsListen: "), "{text}");
            assert!(text.contains("\n  - address: ") && text.contains("\n  maxMib: "), "{text}");
            assert_eq!(text.contains("\n  endpoints: "), etcd, "{text}");
            let path = folder.write(file, &text);
            assert_eq!(check(&program, &path), Ok(()), "{text}");
        }
    }
}

#[test]
fn a_range_that_is_there_twice_is_named_with_its_place() {
    let folder = Folder::new("twice");
    let Some(program) = program("margay-route-reflector") else { return };
    let text =
        "ipv4Address: 192.0.2.21/24\nlistenRanges:\n  - {prefix: 10.0.0.0/8}\n  - {prefix: 10.0.0.0/8}\n";
    let error = check(&program, &folder.write("twice.yaml", text)).unwrap_err();
    for named in ["twice.yaml", "10.0.0.0/8", "line 3"] {
        assert!(error.contains(named), "{named}: {error}");
    }
}

#[test]
fn the_examples_have_every_key() {
    let folder = Folder::new("all-keys");
    for (daemon, file) in DAEMONS {
        let Some(program) = program(daemon) else { return };
        let example = read(&repository("examples/config").join(file));
        for wrong in [
            "nonsense: 1\n",
            "datastore: {type: embedded, path: /x, nonsense: 1}\n",
            "datastore: {type: etcd, endpoints: ['http://192.0.2.1:2379'], nonsense: 1}\n",
            "listenRanges: [{prefix: 192.0.2.0/24, nonsense: 1}]\n",
        ] {
            let error = check(&program, &folder.write(file, wrong)).unwrap_err();
            // "unknown field `nonsense`, expected one of node, ipv4Address, …"
            let list = error.split("expected one of ").nth(1).and_then(|rest| rest.lines().next());
            let known: Vec<&str> = list.unwrap_or_default().split(", ").collect();
            assert!(known.len() >= 3, "{error}");
            for key in known {
                let mentioned = example
                    .lines()
                    .any(|line| line.trim_start_matches(['#', ' ']).starts_with(&format!("{key}:")));
                assert!(mentioned, "examples/config/{file} does not mention {key}");
            }
        }
    }
}

/// The words of a text that satisfy a condition.
fn words(text: &str, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
        .filter(|word| wanted(word))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_table_has_every_flag_and_variable() {
    let table = read(&repository("examples/config/README.md"));
    let table: Vec<&str> = table.lines().filter(|line| line.starts_with('|')).skip(2).collect();
    for (column, (daemon, _)) in DAEMONS.iter().enumerate() {
        let Some(program) = program(daemon) else { return };
        let help = command(&program).arg("--help").output().unwrap();
        let help = String::from_utf8(help.stdout).unwrap();
        let of_daemon =
            |line: &&&str| line.split('|').nth(4 + column).is_some_and(|cell| cell.trim() == "yes");
        let rows: String = table.iter().filter(of_daemon).map(|row| format!("{row}\n")).collect();
        let variable = |word: &str| word.starts_with("MARGAY_");
        assert_eq!(words(&rows, variable), words(&help, variable), "{daemon}");
        let general =
            ["--check-config", "--cleanup", "--dry-run", "--help", "--pods", "--upgrade", "--version"];
        let flag = |word: &str| word.starts_with("--") && word.len() > 4 && !general.contains(&word);
        assert_eq!(words(&rows, flag), words(&help, flag), "{daemon}");
    }
}

/// What Kubernetes would put into a container's environment.
pub(crate) fn environment(workload: &Workload) -> BTreeMap<String, String> {
    let mut known: BTreeMap<String, String> = BTreeMap::new();
    for variable in workload.spec.template.spec.containers[0].env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            // $(NAME) stands for a variable that was defined before.
            (Some(value), None) => known
                .iter()
                .fold(value.clone(), |value, (name, content)| value.replace(&format!("$({name})"), content)),
            (None, Some(source)) => match source.field_ref.field_path.as_str() {
                "spec.nodeName" => "worker-1".to_owned(),
                "status.hostIP" => "192.0.2.7".to_owned(),
                other => panic!("what would {other} be?"),
            },
            _ => panic!("{}: one of value and valueFrom", variable.name),
        };
        assert!(!value.contains("$("), "{}: {value}", variable.name);
        known.insert(variable.name.clone(), value);
    }
    known
}

/// Writes the files of a container's `/etc/margay` into `folder`, and returns its arguments for there.
pub(crate) fn arguments(manifests: &Manifests, workload: &Workload, folder: &Folder) -> Vec<String> {
    let pod = &workload.spec.template.spec;
    let container = &pod.containers[0];
    let mount = container.volume_mounts.iter().find(|mount| mount.mount_path == "/etc/margay").unwrap();
    let volume = pod.volumes.iter().find(|volume| volume.name == mount.name).unwrap();
    for map in volume.config_maps() {
        for (name, text) in &manifests.config_map(&map.name).data {
            folder.write(name, text);
        }
    }
    let here = folder.0.display().to_string();
    container.args.iter().map(|argument| argument.replace(&mount.mount_path, &here)).collect()
}

#[test]
fn the_config_maps_are_right_for_the_daemons_that_get_them() {
    let manifests = manifests();
    for (daemon, _) in DAEMONS {
        let Some(program) = program(daemon) else { return };
        let folder = Folder::new(daemon);
        let workload = manifests.workload(daemon);
        let arguments = arguments(&manifests, workload, &folder);
        let mut check = command(&program);
        check.arg("--check-config").args(&arguments).envs(environment(workload));
        let output = check.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        // The same with a mistake is noticed, so the file is really the one that is read.
        let file = arguments.iter().find_map(|argument| argument.strip_prefix("--config=")).unwrap();
        std::fs::write(file, "nonsense: 1\n").unwrap();
        assert!(!check.output().unwrap().status.success());
    }
}
