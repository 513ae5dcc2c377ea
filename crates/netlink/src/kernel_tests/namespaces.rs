use std::process::{Command, Stdio};

use super::namespaces;
use crate::{Error, Netlink, Netns, sysctl};

#[test]
fn a_new_namespace_has_only_loopback_and_its_own_settings() {
    let Some([one, two]) = namespaces() else { return };
    assert_ne!(one.id().unwrap(), two.id().unwrap());
    assert_ne!(one.id().unwrap(), Netns::current().unwrap().id().unwrap());
    let names: Vec<String> =
        Netlink::open_in(&one).unwrap().links().unwrap().into_iter().map(|link| link.name).collect();
    assert_eq!(names, ["lo"]);
    let setting = ["net", "ipv4", "conf", "all", "forwarding"];
    let before = sysctl::read(&setting).unwrap();
    let wrote = one.run(|| (sysctl::write(&setting, "1").unwrap(), sysctl::write(&setting, "1").unwrap()));
    assert_eq!(wrote.unwrap(), (true, false));
    assert_eq!(one.run(|| sysctl::read(&setting).unwrap()).unwrap(), "1");
    assert_eq!(sysctl::read(&setting).unwrap(), before);
}

#[test]
fn processes_start_inside_and_the_path_leads_there() {
    let Some([netns]) = namespaces() else { return };
    let inode = netns.id().unwrap().1;
    let mut command = Command::new("readlink");
    command.arg("/proc/self/ns/net").stdout(Stdio::piped());
    let output = netns.spawn(&mut command).unwrap().wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("net:[{inode}]"));
    assert_eq!(Netns::open(netns.path()).unwrap().id().unwrap(), netns.id().unwrap());
}

#[test]
fn wrong_paths_are_told_apart() {
    let missing = Netns::open("/run/netns/there-is-no-such-namespace").unwrap_err();
    assert!(missing.is_not_found(), "{missing}");
    let file = Netns::open("/proc/self/status").unwrap_err();
    assert!(matches!(file, Error::Invalid { .. }), "{file}");
}

#[test]
fn a_panic_inside_continues_outside() {
    let Some([netns]) = namespaces() else { return };
    let outcome = std::panic::catch_unwind(|| netns.run(|| panic!("inside")));
    assert_eq!(outcome.unwrap_err().downcast_ref::<&str>(), Some(&"inside"));
}
