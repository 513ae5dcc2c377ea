//! Damaged messages on real streams, in both directions: what one side must do, and what the other sees of it.

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;
use margay_bgp::{PeerConfig, PeerKind, PeerState};
use margay_tests::cluster::wait;

use crate::foreign::{Ability, Daemon, Foreign, Plan, Role, passing, pause, same, theirs};
use crate::lab::{BOTH, Bench, FOREIGN, PASSWORD, PATIENCE, PROXY, Speaker, Transport, originated, ours};
use crate::proxy::{Damage, Proxy, Towards};

const TRANSITIVE: u8 = 0x40;
const OPTIONAL: u8 = 0xc0;

const ORIGIN: (&str, Damage) = ("ORIGIN 9", Damage::Attribute { flags: TRANSITIVE, code: 1, value: &[9] });

/// Damage that makes a route unusable and harms nothing else (RFC 7606 section 7).
const WITHDRAWS: [(&str, Damage); 5] = [
    ORIGIN,
    (
        "AS_PATH of an unknown segment",
        Damage::Attribute { flags: TRANSITIVE, code: 2, value: &[7, 1, 0, 0, 0, 9] },
    ),
    ("COMMUNITIES of 5 octets", Damage::Attribute { flags: OPTIONAL, code: 8, value: &[1, 2, 3, 4, 5] }),
    ("ORIGIN with the flags of another", Damage::Attribute { flags: OPTIONAL, code: 1, value: &[0] }),
    ("LOCAL_PREF of 2 octets", Damage::Attribute { flags: TRANSITIVE, code: 5, value: &[0, 100] }),
];

/// Damage that only makes the attribute unusable.
const DISCARDS: [(&str, Damage); 2] = [
    ("ATOMIC_AGGREGATE of 1 octet", Damage::Attribute { flags: TRANSITIVE, code: 6, value: &[1] }),
    ("AGGREGATOR of 5 octets", Damage::Attribute { flags: OPTIONAL, code: 7, value: &[0, 0, 0, 1, 1] }),
];

/// Damage after which nothing can be believed, and the code and subcode that say so.
const RESETS: [(&str, Damage, (u8, u8)); 2] = [
    ("a broken marker", Damage::Marker, (1, 1)),
    ("attributes that pass the message's end", Damage::Attributes, (3, 1)),
];

/// Damage of what says where a route leads: IPv4 in UPDATE's own fields, IPv6 in MP_REACH_NLRI.
struct Reach {
    withdraws: &'static [(&'static str, Damage)],
    /// Prefixes that no route leads to.
    unroutable: &'static [u8],
    resets: &'static [(&'static str, Damage, (u8, u8))],
}

const FOUR: Reach = Reach {
    withdraws: &[
        ("NEXT_HOP of 3 octets", Damage::NextHop(&[10, 78, 0])),
        ("NEXT_HOP of a group", Damage::NextHop(&[224, 0, 0, 5])),
    ],
    // 224.1.2.0/24 and 250.0.0.0/8.
    unroutable: &[24, 224, 1, 2, 8, 250],
    resets: &[("a prefix of 33 bits", Damage::Prefixes(&[33, 10, 50, 1, 0, 0]), (3, 10))],
};

const SIX: Reach = Reach {
    withdraws: &[(
        "a next hop of a group",
        Damage::NextHop(&[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]),
    )],
    // ff0e:1::/32 and fe80::/10.
    unroutable: &[32, 0xff, 0x0e, 0, 1, 10, 0xfe, 0x80],
    resets: &[
        ("a prefix of 129 bits", Damage::Prefixes(&[129, 0xfd]), (3, 9)),
        ("a next hop of 5 octets", Damage::NextHop(&[0xfd, 0x78, 0, 0, 0]), (3, 9)),
        ("MP_REACH_NLRI twice", Damage::Twice, (3, 1)),
    ],
};

/// The damaging cable between a daemon and us.
struct Scene {
    proxy: Proxy,
    us: Speaker,
    them: Foreign,
    transport: Transport,
}

impl Scene {
    fn start(daemon: &'static dyn Daemon, bench: &Bench, role: Role) -> Result<Self> {
        let transport = bench.transport;
        let proxy = Proxy::start(bench.us()?, transport, 1)?;
        let us = bench.speaker(1, false)?;
        us.originate()?;
        let kind = if role == Role::Router { PeerKind::External } else { PeerKind::InternalClient };
        us.set_peers(vec![bench.peer(1, PROXY, kind)])?;
        let plan = Plan { role, transport, neighbors: vec![PROXY], password: false };
        let them = Foreign::start(daemon, bench, plan)?;
        us.established(PROXY)?;
        let scene = Self { proxy, us, them, transport };
        scene.us.route(theirs(transport), "announced at first", |_| true)?;
        scene.us.route(scene.passing(), "announced at first", |_| true)?;
        Ok(scene)
    }

    /// What is damaged of theirs.
    fn passing(&self) -> IpNet {
        passing(self.transport)
    }

    /// Their announcements of [`passing`] are damaged.
    fn they_announce(&self, damage: &Damage) -> Result<()> {
        let passing = self.passing();
        self.proxy.withdrawal(Towards::Us, passing, || self.them.announce(passing, false))?;
        self.us.no_route(passing, "withdrawn by it")?;
        self.proxy.damage(Towards::Us, passing, damage.clone(), || self.them.announce(passing, true))
    }

    /// Our announcements are damaged.
    fn we_announce(&self, damage: &Damage) -> Result<()> {
        let damaged = ours(self.transport, 1);
        self.proxy.withdrawal(Towards::Them, damaged, || self.us.set_originated(Vec::new()))?;
        BOTH.iter().try_for_each(|family| self.them.no_route(ours(*family, 1), "withdrawn by us"))?;
        self.proxy.damage(Towards::Them, damaged, damage.clone(), || {
            self.us.set_originated(vec![originated(ours(self.transport, 1), 1)])
        })
    }

    /// The session comes back, with everything.
    fn recovered(&self) -> Result<()> {
        self.proxy.heal();
        wait(PATIENCE, || {
            self.them.retry(PROXY)?;
            Ok(self.us.peer(PROXY)?.state == PeerState::Established)
        })
        .context("the session does not come back")?;
        self.us.route(theirs(self.transport), "after a reset", |route| !route.stale)?;
        self.us.route(self.passing(), "after a reset", |route| !route.stale).map(|_| ())
    }

    fn sessions(&self) -> Result<u64> {
        Ok(self.us.peer(PROXY)?.established_count)
    }
}

/// The UPDATEs of our client are damaged: RFC 7606 on our side.
pub(crate) fn from_them(daemon: &'static dyn Daemon, bench: &Bench) -> Result<()> {
    let scene = Scene::start(daemon, bench, Role::Client)?;
    let reach = if bench.transport == Transport::V4 { FOUR } else { SIX };
    for (name, damage) in WITHDRAWS.iter().chain(reach.withdraws) {
        let before = scene.us.peer(PROXY)?.messages.treated_as_withdraw;
        scene.they_announce(damage).context(*name)?;
        scene.us.until(PROXY, name, |peer| peer.messages.treated_as_withdraw > before)?;
        scene.us.no_route(scene.passing(), name)?;
        ensure!(scene.them.is_established(PROXY)?, "{name}: the daemon's session is down");
    }
    for (name, damage) in &DISCARDS {
        scene.they_announce(damage).context(*name)?;
        scene.us.route(scene.passing(), name, |route| !route.filtered)?;
    }
    scene.they_announce(&Damage::Prefixes(reach.unroutable)).context("unroutable prefixes")?;
    scene.us.until(PROXY, "unroutable prefixes", |peer| peer.messages.unroutable >= 2)?;
    same("sessions made", &scene.sessions()?, &1)?;
    for (name, damage, (code, subcode)) in RESETS.iter().chain(reach.resets) {
        scene.they_announce(damage).context(*name)?;
        let words = daemon.words(*code, *subcode);
        let said = || {
            pause();
            Ok(scene.them.last_error(PROXY)?.contains(&words))
        };
        wait(PATIENCE, said).with_context(|| {
            format!("{name}: the daemon should say `{words}`, says {:?}", scene.them.last_error(PROXY))
        })?;
        scene.recovered().context(*name)?;
    }
    Ok(())
}

/// Our UPDATEs to a router are damaged: what the daemon does, and what we make of it.
pub(crate) fn from_us(daemon: &'static dyn Daemon, bench: &Bench) -> Result<()> {
    let scene = Scene::start(daemon, bench, Role::Router)?;
    let (damaged, whole) = (ours(bench.transport, 1), ours(bench.transport.other(), 1));
    let (name, damage) = &ORIGIN;
    if scene.them.can(Ability::TreatAsWithdraw) {
        scene.we_announce(damage).context(*name)?;
        scene.us.set_originated(BOTH.map(|family| originated(ours(family, 1), 1)).to_vec())?;
        wait(PATIENCE, || Ok(scene.them.route_now(whole)?.is_some())).context("the route behind it")?;
        ensure!(scene.them.route_now(damaged)?.is_none(), "{name}: the daemon uses the route");
        same("sessions made", &scene.sessions()?, &1)?;
    }
    let (name, damage, _) = &RESETS[1];
    scene.we_announce(damage).context(*name)?;
    let said = "the peer sent: UPDATE message error: malformed attribute list";
    scene.us.until(PROXY, said, |peer| peer.last_error.as_ref().is_some_and(|error| error == said))?;
    scene.recovered().context(*name)?;
    wait(PATIENCE, || Ok(scene.them.route_now(damaged)?.is_some())).context("our route after the reset")
}

/// A wrong key keeps the session down, whoever dials; the right one lets it come up.
pub(crate) fn key(daemon: &'static dyn Daemon, bench: &Bench) -> Result<()> {
    let us = bench.speaker(1, false)?;
    us.originate()?;
    let right = bench.peer(1, FOREIGN, PeerKind::Internal);
    let wrong = format!("not {PASSWORD}");
    let wrong = margay_bgp::Password::new(wrong.as_bytes())?;
    us.set_peers(vec![PeerConfig { password: Some(wrong), ..right.clone() }])?;
    let neighbors = vec![1];
    let plan = Plan { role: Role::Client, transport: bench.transport, neighbors, password: true };
    let them = Foreign::start(daemon, bench, plan)?;
    let dropped = || Ok(wrong_keys(bench.us()?)? + wrong_keys(bench.foreign()?)? > 0);
    wait(PATIENCE, dropped).context("no segment with a key that isn't the receiver's")?;
    ensure!(us.peer(FOREIGN)?.state != PeerState::Established, "with the wrong key");
    ensure!(us.peer(FOREIGN)?.established_count == 0, "with the wrong key");
    us.set_peers(vec![right])?;
    us.established(FOREIGN)?;
    us.route(theirs(bench.transport), "with the right key", |_| true)?;
    wait(PATIENCE, || Ok(them.route_now(ours(bench.transport, 1))?.is_some())).context("our route")
}

/// Segments dropped because of their MD5 signature, in a namespace.
fn wrong_keys(netns: &margay_netlink::Netns) -> Result<u64> {
    let text = netns.run(|| std::fs::read_to_string("/proc/thread-self/net/netstat"))??;
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = lines.next().zip(lines.next()).context("no counters of TCP")?;
    let pairs = names.split_whitespace().zip(values.split_whitespace());
    Ok(pairs
        .filter(|(name, _)| name.starts_with("TCPMD5"))
        .filter_map(|(_, value)| value.parse::<u64>().ok())
        .sum())
}
