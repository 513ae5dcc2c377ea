//! BIRD and FRR as clients.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use crate::lab::{AS, Lab, PATIENCE, REFLECTOR, block, client, wait};

pub(crate) const BIRD: &str = "/usr/sbin/bird";
pub(crate) const BGPD: &str = "/usr/lib/frr/bgpd";

/// Ends what it runs.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn new(lab: &Lab, command: &mut Command) -> Self {
        Self(lab.spawn(command.stdin(Stdio::null())))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Client `number`, with its routes in the namespace's kernel.
pub(crate) struct Bird {
    _running: Running,
    folder: PathBuf,
}

impl Bird {
    pub(crate) fn start(lab: &Lab, number: u16) -> Self {
        let folder = lab.folder.join("bird");
        std::fs::create_dir_all(&folder).unwrap();
        let (own, route) = (client(number), block(number));
        let config = format!(
            "router id {own};\nlog \"{log}\" all;\nprotocol device {{}}\n\
             protocol static own {{ ipv4; route {route} blackhole; }}\n\
             protocol kernel {{ ipv4 {{ import none; export where proto = \"reflector\"; }}; }}\n\
             protocol bgp reflector {{\n local {own} as {AS};\n neighbor {REFLECTOR} as {AS};\n strict bind yes;\n multihop;\n\
             graceful restart on;\n connect delay time 1;\n connect retry time 1;\n error wait time 1,2;\n\
             ipv4 {{ import filter {{ gw = {REFLECTOR}; accept; }}; export where proto = \"own\"; }};\n}}\n",
            log = folder.join("log").display(),
        );
        std::fs::write(folder.join("conf"), config).unwrap();
        let mut command = Command::new(BIRD);
        command.arg("-f").arg("-c").arg(folder.join("conf")).arg("-s").arg(folder.join("ctl"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self { _running: Running::new(lab, &mut command), folder }
    }

    pub(crate) fn ask(&self, question: &str) -> String {
        let mut command = Command::new("birdc");
        command.arg("-s").arg(self.folder.join("ctl")).arg(question);
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    /// Since when the session is up, and every count of routes and updates: the lines that an undisturbed client shows
    /// unchanged.
    pub(crate) fn session(&self) -> Vec<String> {
        let answer = self.ask("show protocols all reflector");
        assert!(answer.contains("Established"), "{answer}");
        let wanted = ["reflector  ", "Routes:", "Import updates:", "Import withdraws:", "Export updates:"];
        let lines = answer.lines().map(str::trim);
        let lines = lines.filter(|line| wanted.iter().any(|start| line.starts_with(start)));
        // It shows the time with a jitter of a millisecond.
        let whole_seconds = |line: &str| match line.split_once('.') {
            Some((before, _)) => before.to_owned(),
            None => line.to_owned(),
        };
        lines.map(whole_seconds).collect()
    }

    pub(crate) fn routes(&self) -> usize {
        let answer = self.ask("show route protocol reflector count");
        answer.lines().find_map(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }
}

/// Client `number`, without a kernel.
pub(crate) struct Frr {
    _running: Running,
    folder: PathBuf,
}

impl Frr {
    pub(crate) fn start(lab: &Lab, number: u16) -> Self {
        let folder = lab.folder.join("frr");
        std::fs::create_dir_all(&folder).unwrap();
        let (own, route) = (client(number), block(number));
        let config = format!(
            "router bgp {AS}\n bgp router-id {own}\n no bgp network import-check\n \
             neighbor {REFLECTOR} remote-as {AS}\n neighbor {REFLECTOR} timers connect 1\n \
             neighbor {REFLECTOR} update-source {own}\n address-family ipv4 unicast\n  network {route}\n \
             exit-address-family\n"
        );
        std::fs::write(folder.join("conf"), config).unwrap();
        let mut command = Command::new(BGPD);
        command.arg("-f").arg(folder.join("conf")).arg("-i").arg(folder.join("pid"));
        command.args(["-l", &own.to_string(), "-Z", "-S", "-P", "0"]).arg("--vty_socket").arg(&folder);
        command.arg("--log").arg(format!("file:{}", folder.join("log").display()));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Self { _running: Running::new(lab, &mut command), folder }
    }

    fn ask(&self, question: &str) -> serde_json::Value {
        let mut command = Command::new("vtysh");
        command.arg("--vty_socket").arg(&self.folder).args(["-d", "bgpd", "-c", question]);
        serde_json::from_slice(&command.output().unwrap().stdout).unwrap_or_default()
    }

    /// As [`Bird::session`]: times established and dropped, messages of each kind but KEEPALIVE.
    pub(crate) fn session(&self) -> Vec<String> {
        let answer = self.ask("show bgp neighbors json");
        let peer = &answer[REFLECTOR.to_string()];
        assert_eq!(peer["bgpState"], "Established", "{answer}");
        let messages = &peer["messageStats"];
        let counts =
            ["opensRecv", "notificationsRecv", "notificationsSent", "updatesRecv", "routeRefreshRecv"];
        let counts = counts.iter().map(|key| format!("{key} {}", messages[key]));
        let drops =
            ["connectionsEstablished", "connectionsDropped"].iter().map(|key| format!("{key} {}", peer[key]));
        drops.chain(counts).collect()
    }

    pub(crate) fn routes(&self) -> usize {
        let answer = self.ask("show bgp ipv4 unicast json");
        answer["routes"].as_object().map_or(0, serde_json::Map::len)
    }
}

/// What the kernel of the clients' namespace is told about routes, as `ip monitor route` shows it.
pub(crate) struct Monitor {
    _running: Running,
    file: PathBuf,
}

impl Monitor {
    pub(crate) fn start(lab: &Lab) -> Self {
        let file = lab.folder.join("monitor");
        let out = std::fs::File::create(&file).unwrap();
        let mut command = Command::new("ip");
        command.args(["-4", "monitor", "route"]).stdout(out);
        let monitor = Self { _running: Running::new(lab, &mut command), file };
        // It listens when it shows what is done here.
        let probe = |verb| {
            let mut command = Command::new("ip");
            command.args(["route", verb, "blackhole", "192.0.2.0/24"]).stderr(Stdio::null());
            lab.spawn(&mut command).wait().unwrap();
        };
        wait("ip monitor", PATIENCE, || {
            probe("add");
            probe("del");
            monitor.lines().contains("192.0.2.0").then_some(())
        });
        monitor
    }

    fn lines(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap_or_default()
    }

    /// Changes of anything but these prefixes.
    pub(crate) fn changes(&self, but: &[String]) -> Vec<String> {
        let lines = self.lines();
        let known =
            |line: &&str| !line.contains("192.0.2.0") && !but.iter().any(|prefix| line.contains(prefix));
        lines.lines().filter(known).map(str::to_owned).collect()
    }
}
