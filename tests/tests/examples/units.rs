//! The systemd units, checked by systemd.

use std::process::Command;

use crate::{Folder, program, read, repository, skip};

const UNITS: [&str; 2] = ["margay-agent", "margay-route-reflector"];

#[test]
fn systemd_accepts_the_units() {
    let analyze = "/usr/bin/systemd-analyze";
    if !std::path::Path::new(analyze).exists() {
        return skip("no systemd-analyze: install the package systemd");
    }
    let folder = Folder::new("units");
    let mut verify = Command::new(analyze);
    verify.arg("verify");
    for name in UNITS {
        let Some(program) = program(name) else { return };
        let unit = read(&repository(&format!("examples/systemd/{name}.service")));
        let installed = format!("/usr/bin/{name}");
        let lines = if name == "margay-agent" { 2 } else { 3 };
        assert_eq!(unit.matches(&installed).count(), lines, "{name}: ExecStartPre, ExecStart, ExecReload");
        verify.arg(
            folder.write(&format!("{name}.service"), &unit.replace(&installed, &program.to_string_lossy())),
        );
    }
    let check = |verify: &mut Command| {
        let output = verify.output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (accepted, complaints) = check(&mut verify);
    assert!(accepted && !complaints.contains("margay"), "{complaints}");
    // It would have noticed.
    let wrong = read(&folder.0.join("margay-agent.service")).replace("Restart=", "Restrat=");
    folder.write("margay-agent.service", &wrong);
    let (_, complaints) = check(&mut verify);
    assert!(complaints.contains("Restrat"), "{complaints}");
}

#[test]
fn units_tell_systemd_when_they_are_ready_and_leave_the_network_alone() {
    for name in UNITS {
        let unit = read(&repository(&format!("examples/systemd/{name}.service")));
        // A reflector that takes an upgrade back says so when it is not the main process any more.
        let access = if name == "margay-agent" { "main" } else { "all" };
        for line in [
            "Type=notify",
            &format!("NotifyAccess={access}"),
            &format!("ExecStartPre=/usr/bin/{name} --check-config"),
            // The CNI shim's spool and socket outlive the daemon.
            "RuntimeDirectory=margay",
            "RuntimeDirectoryPreserve=yes",
            "StateDirectory=margay",
            "WantedBy=multi-user.target",
        ] {
            assert!(unit.lines().any(|l| l == line), "{name}: {line}");
        }
    }
}
