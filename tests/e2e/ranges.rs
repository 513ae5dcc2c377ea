//! Neighbours that no object names: BIRD out of listen ranges of a reflector's configuration.

use anyhow::{Context, Result, ensure};
use margay_control::bgp::Peer;
use margay_tests::cluster::{Cluster, Datastore, wait};

use crate::bird::{Bird, SOON};
use crate::labs::{Labs, PATIENCE, applied, said_on, sessions, wait_no_problem, wait_problem};

const LAB: &str = "tests/labs/reflectors.clab.yml";

const POOL: &str = "apiVersion: projectcalico.org/v3
kind: IPPool
metadata: {name: pods}
spec: {cidr: 10.65.0.0/16, blockSize: 24}
";

/// The machine of the neighbours, its address of an outside AS, and the one of ours.
const MACHINE: &str = "r1";
const RACK: &str = "172.30.1.1";
const HOST: &str = "172.30.1.5";

/// BIRD with one session, of its own address and AS.
fn bird(cluster: &Cluster, own: &str, number: u32, announced: &str, more: &str) -> Result<Bird> {
    let conf = format!(
        "router id {own};\nprotocol static {{ ipv4; route {announced} blackhole; }}\n\
         protocol bgp reflector {{\n  local {own} as {number};\n  neighbor 172.30.1.21 as 64512;\n  \
         strict bind yes; {SOON}\n  {more}\n  \
         ipv4 {{ import all; export where source = RTS_STATIC; next hop self; }};\n}}\n"
    );
    Bird::start(cluster, MACHINE, &format!("bird-{own}"), &conf)
}

/// The neighbour of that address, if the reflector has it.
fn neighbour(cluster: &Cluster, address: &str) -> Result<Option<Peer>> {
    Ok(sessions(cluster, "rr1")?.into_iter().find(|peer| peer.address.to_string() == address))
}

fn wait_up(cluster: &Cluster, address: &str, up: bool) -> Result<()> {
    let state = || -> Result<Option<String>> { Ok(neighbour(cluster, address)?.map(|peer| peer.state)) };
    wait(PATIENCE, || Ok((state()?.as_deref() == Some("Established")) == up)).with_context(|| {
        format!("{address} up: {up}; {:#?}\n{}", sessions(cluster, "rr1"), cluster.log("rr1"))
    })
}

fn wait_route(cluster: &Cluster, prefix: &str, by: &str) -> Result<()> {
    let way = || cluster.run_in("node1", "ip", &["route", "show", prefix]);
    wait(PATIENCE, || Ok(way()?.contains(&format!("via {by} "))))
        .with_context(|| format!("node1 reaches {prefix} by {by}: {:?}", way()))
}

pub(crate) fn neighbours_that_no_object_names(labs: &mut Labs) -> Result<()> {
    let mut cluster = labs.alone(LAB, Datastore::Embedded)?;
    applied(&cluster, POOL)?;
    cluster.run_in(MACHINE, "ip", &["address", "add", &format!("{HOST}/24"), "dev", "eth1"])?;

    let folder = cluster.folder("reflector");
    std::fs::create_dir_all(folder.join("secrets/racks"))?;
    std::fs::write(folder.join("secrets/racks/one"), "open sesame\n")?;
    let file = folder.join("route-reflector.yaml");
    // Replaced, not written over: whoever reads it sees one or the other.
    let configure = |text: &str| -> Result<()> {
        let new = folder.join("new");
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(new, &file)?)
    };
    let ranges = |number: u32| {
        format!(
            "listenRanges:\n  - prefix: 172.30.1.0/30\n    asNumber: {number}\n    \
             password: {{name: racks, key: one}}\n  - prefix: 172.30.1.4/30\n    maxPeers: 2000\n"
        )
    };
    configure(&ranges(65_020))?;
    let secrets = folder.join("secrets").display().to_string();
    let (config, secrets) = (format!("--config={}", file.display()), format!("--secrets-dir={secrets}"));
    cluster.start_with("rr1", &[&config, &secrets])?;
    cluster.wait_ready("rr1", PATIENCE)?;
    cluster.start("node1")?;
    cluster.wait_ready("node1", PATIENCE)?;

    // A host of the cluster's AS is a client; a router of another needs the password of its range.
    let stranger = bird(&cluster, RACK, 65_020, "10.94.0.0/24", "")?;
    let host = bird(&cluster, HOST, 64_512, "10.95.0.0/24", "")?;
    wait_up(&cluster, HOST, true)?;
    wait_route(&cluster, "10.95.0.0/24", HOST)?;
    ensure!(neighbour(&cluster, RACK)?.is_none(), "nobody gets in without the password");
    drop(stranger);
    let password = "password \"open sesame\";";
    let rack = bird(&cluster, RACK, 65_020, "10.94.0.0/24", password)?;
    wait_up(&cluster, RACK, true)?;
    wait_route(&cluster, "10.94.0.0/24", RACK)?;
    for bird in [&host, &rack] {
        bird.says(&cluster, "show route", &["10.65."])?;
    }
    for command in ["summary", "peers"] {
        let shown = said_on(&cluster, "rr1", &["bgp", command])?;
        for name in ["range 172.30.1.0/30", "range 172.30.1.4/30", "node1"] {
            ensure!(shown.contains(name), "margay bgp {command}: {shown}");
        }
    }

    // Another process takes over, with the same ranges.
    cluster.upgrade("rr1")?;
    // A change concerns those of the changed range; what cannot be read changes nothing.
    configure(&ranges(65_021))?;
    wait_up(&cluster, RACK, false).context("of another AS than its range")?;
    configure("listenRanges: [{prefix: 172.30.1.1/30}]\n")?;
    let said = wait_problem(&cluster, &["rr1"], "configuration")?;
    ensure!(said.contains("172.30.1.0/30"), "{said}");
    configure(&ranges(65_020))?;
    wait_no_problem(&cluster, &["rr1"], "configuration")?;
    wait_up(&cluster, RACK, true).context("of its range again")?;
    wait_route(&cluster, "10.94.0.0/24", RACK)?;
    for other in [HOST, "172.30.1.11"] {
        let peer = neighbour(&cluster, other)?.with_context(|| format!("{other} is gone"))?;
        ensure!(peer.established_count == 1, "not of the changed range: {peer:#?}");
    }

    // Who is gone and has no routes any more is forgotten.
    configure("")?;
    wait(PATIENCE, || Ok(neighbour(&cluster, HOST)?.is_none() && neighbour(&cluster, RACK)?.is_none()))
        .with_context(|| format!("{:#?}", sessions(&cluster, "rr1")))?;
    drop((rack, host));
    Ok(())
}
