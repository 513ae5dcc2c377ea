//! What a kubelet would see of the daemons.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use margay_netlink::{Netlink, Netns};

use crate::daemons::{arguments, command, environment};
use crate::kubernetes::Probe;
use crate::manifests::manifests;
use crate::{Folder, program, skip};

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Status code and body of a probe's answer, absent while nobody listens.
fn ask(probe: &Probe) -> Option<(u16, String)> {
    let get = &probe.http_get;
    let mut stream = TcpStream::connect((get.host.as_str(), get.port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {} HTTP/1.1\r\nHost: kubelet\r\nConnection: close\r\n\r\n", get.path).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let code = answer.split(' ').nth(1)?.parse().ok()?;
    Some((code, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

#[test]
fn a_daemon_that_waits_for_its_datastore_is_alive_and_not_ready() {
    if !nix::unistd::geteuid().is_root() {
        return skip("network namespaces need root");
    }
    let manifests = manifests();
    for daemon in ["margay-agent", "margay-route-reflector"] {
        let Some(program) = program(daemon) else { return };
        let folder = Folder::new(&format!("probes-{daemon}"));
        let workload = manifests.workload(daemon);
        let container = &workload.spec.template.spec.containers[0];
        let mut command = command(&program);
        command.args(arguments(&manifests, workload, &folder)).envs(environment(workload));
        command.env("MARGAY_SOCKET", folder.0.join("socket"));
        if daemon == "margay-agent" {
            command.env("MARGAY_STATE_DIR", &folder.0).env("MARGAY_SPOOL_DIR", &folder.0);
        }
        // The etcd of the manifest is an address of RFC 5737: nobody is there.
        let netns = Netns::new().unwrap();
        let log = std::fs::File::create(folder.0.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let up = netns.run(|| {
            let mut netlink = Netlink::open()?;
            let lo = netlink.link_index("lo")?;
            netlink.set_up(lo, true)
        });
        up.unwrap().unwrap();
        let _running = Running(netns.spawn(&mut command).unwrap());
        let deadline = Instant::now() + Duration::from_secs(20);
        let (liveness, readiness) =
            (container.liveness_probe.as_ref().unwrap(), container.readiness_probe.as_ref().unwrap());
        let alive = loop {
            if let Some((code, _)) = netns.run(|| ask(liveness)).unwrap() {
                break code;
            }
            let log = || std::fs::read_to_string(folder.0.join("log")).unwrap();
            assert!(Instant::now() < deadline, "{daemon} does not answer; its log:\n{}", log());
            std::thread::sleep(Duration::from_millis(20));
        };
        assert_eq!(alive, 200, "{daemon}");
        let (ready, why) = netns.run(|| ask(readiness)).unwrap().unwrap();
        assert_eq!(ready, 503, "{daemon}: {why}");
        assert!(why.contains("datastore"), "{why}");
    }
}
