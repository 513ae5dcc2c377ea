//! What the kernel and its own programs take for the same, without an agent.

use std::fmt::Write as _;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use margay_netlink::Netns;

use super::live;
use super::node::{CLIENT, Node, Site, sh};

/// Programs that write rules, by the backends' names.
const PROGRAMS: [&str; 5] = [
    "iptables-nft-restore",
    "ip6tables-nft-restore",
    "iptables-legacy-restore",
    "ip6tables-legacy-restore",
    "nft",
];

fn time<T>(work: impl FnOnce() -> Result<T>) -> Result<f64> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// Connections are tracked, nothing is filtered.
pub(super) fn conntrack_alone(node: &Node) -> Result<()> {
    sh(&node.netns, "iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP").map(drop)
}

/// The least that policy can be: nobody sends from another's address, what is established passes, one set says who may
/// begin. No engine's rules can be faster than that.
pub(super) fn least(node: &Node, peers: u32, nftables: bool) -> Result<()> {
    let pods = [("mgy2", CLIENT), ("mgy3", node.address)];
    let others = (0..peers).map(|peer| Ipv4Addr::from(u32::from(Ipv4Addr::new(172, 16, 0, 0)) + 2 * peer));
    let clients = others.chain([CLIENT]).map(|address| address.to_string());
    let text = if nftables {
        let pods = pods.map(|(name, address)| format!("{address} . \"{name}\"")).join(", ");
        let clients = clients.collect::<Vec<_>>().join(", ");
        format!(
            "nft -f - <<'END'
table ip least {{
 set pods {{ type ipv4_addr . ifname; flags interval; elements = {{ {pods} }}; }}
 set clients {{ type ipv4_addr; flags interval; elements = {{ {clients} }}; }}
 chain raw {{ type filter hook prerouting priority -300; iifname \"mgy*\" ip saddr . iifname != @pods counter drop; }}
 chain forward {{ type filter hook forward priority 0; ct state established,related counter accept; ip saddr @clients counter accept; counter drop; }}
}}
END"
        )
    } else {
        let pods = pods.map(|(name, address)| format!("add pods {address},{name}\n")).concat();
        let clients: String = clients.map(|client| format!("add clients {client}\n")).collect();
        format!(
            "ipset restore <<'END'
create pods hash:net,iface
create clients hash:net
{pods}{clients}END
iptables -t raw -A PREROUTING -i mgy+ -m set ! --match-set pods src,src -j DROP
iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
iptables -A FORWARD -m set --match-set clients src -j ACCEPT
iptables -A FORWARD -j DROP"
        )
    };
    let file = std::env::temp_dir().join(format!("margay-bench-least-{}", std::process::id()));
    std::fs::write(&file, text)?;
    let done = sh(&node.netns, &format!(". {}", file.display()));
    std::fs::remove_file(file)?;
    done.map(drop)
}

/// One rule per peer: what a policy with ten thousand peers is without sets, the client last.
pub(super) fn naive(node: &Node, peers: u32) -> Result<()> {
    let mut text = "*filter\n:FORWARD DROP\n".to_owned();
    writeln!(text, "-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")?;
    for peer in 0..peers {
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 1, 0, 0)) + peer);
        writeln!(text, "-A FORWARD -s {source}/32 -p tcp -j ACCEPT")?;
    }
    text.push_str("-A FORWARD -p tcp -j ACCEPT\nCOMMIT\n");
    let file = std::env::temp_dir().join(format!("margay-bench-naive-{}", std::process::id()));
    std::fs::write(&file, text)?;
    let restored = sh(&node.netns, &format!("iptables-restore < {}", file.display()));
    std::fs::remove_file(file)?;
    restored?;
    let rules: u32 = sh(&node.netns, "iptables -S FORWARD | wc -l")?.trim().parse()?;
    ensure!(rules > peers, "{rules} naive rules, {peers} wanted");
    Ok(())
}

/// Milliseconds of executing `ipset add` once.
pub(super) fn ipset_add(netns: &Netns, times: usize) -> Result<Vec<f64>> {
    sh(netns, "ipset create floor hash:net")?;
    let figures = (0..times).map(|time_of| {
        time(|| {
            let member = format!("10.9.{}.{}", time_of / 256, time_of % 256);
            let mut command = Command::new("ipset");
            let status = netns.spawn(command.args(["add", "floor", &member]))?.wait()?;
            ensure!(status.success(), "ipset add: {status}");
            Ok(())
        })
    });
    let figures = figures.collect();
    sh(netns, "ipset destroy floor")?;
    figures
}

/// Milliseconds of the bare programs for what the agent writes when a policy comes: the agent's own texts, recorded once
/// and given to the same programs again and again, with nobody calculating or comparing.
pub(super) fn policy(site: &mut Site, apps: u32, times: usize) -> Result<Vec<f64>> {
    site.kill();
    let folder = site.folder().join("record");
    std::fs::create_dir_all(&folder)?;
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in PROGRAMS {
        let real = std::env::split_paths(&path).map(|part| part.join(program)).find(|file| file.is_file());
        let real = real.with_context(|| format!("no {program}"))?;
        recorder(&folder, program, &real)?;
    }
    let all = std::env::join_paths([folder.clone()].into_iter().chain(std::env::split_paths(&path)))?;
    site.start_with_path(all)?;
    site.wait_ready()?;
    wait_swept(&site.node.netns)?;
    std::fs::write(folder.join("on"), "")?;
    live::policy(site, apps, 1)?;
    wait_swept(&site.node.netns)?;
    site.kill();
    let inputs = inputs(&folder)?;
    // Sets stay when the rules that need them are gone: they are written over netlink, never by a program.
    for input in inputs.iter().filter(|input| !input.program.ends_with("nft")) {
        sh(
            &site.node.netns,
            &format!("ipset restore -exist < {}", input.file.with_extension("sets").display()),
        )?;
    }
    // IPv4 comes first; what is swept behind is not needed to enforce the policy.
    let at = inputs.iter().position(|input| input.adds_policy).context("the agent wrote nothing")?;
    let mut figures = Vec::new();
    for _ in 0..times {
        for (number, input) in inputs.iter().enumerate() {
            let taken = time(|| input.run(&site.node.netns))?;
            figures.extend((number == at).then_some(taken));
        }
    }
    Ok(figures)
}

/// The new policy as the comments of its rules name it.
const NEW_POLICY: &str = "GlobalNetworkPolicy(new-";

/// Waits until the agent has removed what is left of new policies.
fn wait_swept(netns: &Netns) -> Result<()> {
    let begun = Instant::now();
    // The program fails when a set goes while it reads: then it is not over yet.
    let look = format!("(iptables-nft-save && iptables-legacy-save) 2>&1 || echo '{NEW_POLICY}'");
    while sh(netns, &look)?.contains(NEW_POLICY) {
        ensure!(begun.elapsed() < super::node::PATIENCE, "rules of a policy that is gone stay in the kernel");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    Ok(())
}

/// What a program was given.
struct Input {
    file: PathBuf,
    program: String,
    arguments: Vec<String>,
    adds_policy: bool,
}

impl Input {
    fn run(&self, netns: &Netns) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments).stdin(File::open(&self.file)?);
        let status = netns.spawn(&mut command)?.wait()?;
        ensure!(status.success(), "{} < {}: {status}", self.program, self.file.display());
        Ok(())
    }
}

/// In the order of their times.
fn inputs(folder: &Path) -> Result<Vec<Input>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "in"));
    files.sort();
    let read = |file: PathBuf| {
        let words = std::fs::read_to_string(file.with_extension("words"))?;
        let mut words = words.split_whitespace().map(str::to_owned);
        let adds_policy = std::fs::read_to_string(&file)?.contains(NEW_POLICY);
        Ok(Input {
            program: words.next().context("no program")?,
            arguments: words.collect(),
            adds_policy,
            file,
        })
    };
    files.into_iter().map(read).collect()
}

/// A program that keeps what it is given, once it is told to, and hands it on.
fn recorder(folder: &Path, program: &str, real: &Path) -> Result<()> {
    let (at, real) = (folder.display(), real.display());
    let script = format!(
        "#!/bin/sh
[ -e {at}/on ] || exec {real} \"$@\"
case \"$*\" in *list*|*-V*|*--version*) exec {real} \"$@\";; esac
number={at}/$(date +%s%N)
cat > $number.in
echo \"{real} $*\" > $number.words
ipset save > $number.sets
exec {real} \"$@\" < $number.in
"
    );
    let path = folder.join(program);
    std::fs::write(&path, script)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Milliseconds to restore all rules and sets of a node in another namespace: no agent can start faster.
pub(super) fn restore_all(from: &Netns) -> Result<f64> {
    let folder = std::env::temp_dir().join(format!("margay-bench-dump-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let folder = super::node::Folder(folder);
    let at = folder.0.display();
    sh(
        from,
        &format!(
            "ipset save > {at}/sets; iptables-save > {at}/4; ip6tables-save > {at}/6; nft list ruleset > {at}/nft"
        ),
    )?;
    let to = Netns::new()?;
    let is_nft = std::fs::read_to_string(folder.0.join("4"))?.lines().count() < 50;
    let programs = if is_nft {
        format!("nft -f {at}/nft")
    } else {
        format!("ipset restore < {at}/sets; iptables-restore < {at}/4; ip6tables-restore < {at}/6")
    };
    time(|| sh(&to, &programs))
}
