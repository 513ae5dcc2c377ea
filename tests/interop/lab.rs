//! Two namespaces and a cable: our speakers in one, somebody else's in the other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use ipnet::IpNet;
use margay_bgp::transport::{BgpHandle, BgpService, ServiceConfig, StopMode};
use margay_bgp::{
    Explanation, GracefulRestart, Originated, Password, PeerConfig, PeerKind, PeerState, PeerStatus,
    RouteInfo, RouteQuery, SpeakerConfig, Timers,
};
use margay_lab::{Lab, Topology};
use margay_netlink::Netns;
use margay_tests::cluster::wait;
use tokio::runtime::{Handle, Runtime};

/// AS of the cluster.
pub(crate) const AS: u32 = 64512;
/// AS of an external router.
pub(crate) const ROUTER_AS: u32 = 65_001;
/// Last part of the foreign speaker's addresses.
pub(crate) const FOREIGN: u8 = 9;
/// Last part of the proxy's addresses.
pub(crate) const PROXY: u8 = 8;
/// Key of every session that has one.
pub(crate) const PASSWORD: &str = "open-sesame";
/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The lab's two namespaces. Without link-local addresses by the system: our speakers share an interface, so that each
/// would take those of the others for its own.
fn topology(transport: Transport) -> String {
    let commands = |name: &str, speakers: &[u8]| {
        let mut text = format!(
            "    {name}:\n      exec:\n        - ip link set {INTERFACE} addrgenmode none\n        \
             - ip address flush dev {INTERFACE} scope link\n"
        );
        let families = [Transport::V4, if transport == Transport::Link { transport } else { Transport::V6 }];
        for (family, last) in
            families.iter().flat_map(|family| speakers.iter().map(move |last| (family, last)))
        {
            let address = address(*family, *last);
            let length = if address.is_ipv4() { "24" } else { "64 nodad" };
            text += &format!("        - ip address add {address}/{length} dev {INTERFACE}\n");
        }
        text
    };
    let ours: &[u8] = if transport == Transport::Link { &[1] } else { &[1, 2, 3, PROXY] };
    format!(
        "name: interop\ntopology:\n  defaults: {{kind: linux}}\n  nodes:\n{}{}  links:\n    \
         - endpoints: [\"us:{INTERFACE}\", \"foreign:{INTERFACE}\"]\n",
        commands("us", ours),
        commands("foreign", &[FOREIGN])
    )
}

/// The interface on either side.
pub(crate) const INTERFACE: &str = "eth1";

/// What carries the sessions. Each carries both address families.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    V4,
    V6,
    /// IPv6 between link-local addresses, on a link that has no others of IPv6.
    Link,
}

/// Both address families.
pub(crate) const BOTH: [Transport; 2] = [Transport::V4, Transport::V6];

impl Transport {
    /// The family of a prefix.
    pub(crate) fn of(prefix: IpNet) -> Self {
        if prefix.addr().is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(crate) fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 | Self::Link => Self::V4,
        }
    }
}

/// Address of a speaker, which is also its next hop of that family.
pub(crate) fn address(transport: Transport, last: u8) -> IpAddr {
    match transport {
        Transport::V4 => Ipv4Addr::new(10, 78, 0, last).into(),
        Transport::V6 => Ipv6Addr::new(0xfd78, 0, 0, 0, 0, 0, 0, last.into()).into(),
        Transport::Link => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last.into()).into(),
    }
}

/// Identifier of a speaker.
pub(crate) fn id(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, 0, last)
}

/// A prefix of our speaker `last`.
pub(crate) fn ours(transport: Transport, last: u8) -> IpNet {
    let (address, length) = match transport {
        Transport::V4 => (Ipv4Addr::new(10, 1, last, 0).into(), 24),
        Transport::V6 | Transport::Link => (Ipv6Addr::new(0xfd00, 1, last.into(), 0, 0, 0, 0, 0).into(), 64),
    };
    IpNet::new_assert(address, length)
}

/// A prefix as our speaker `last` announces it: by way of itself, with its community.
pub(crate) fn originated(prefix: IpNet, last: u8) -> Originated {
    let next_hop = address(Transport::of(prefix), last);
    let communities = vec![margay_bgp::wire::Community(AS << 16 | u32::from(last))];
    Originated { communities, ..Originated::new(prefix, Some(next_hop)) }
}

/// A lab of one case: gone with it.
pub(crate) struct Bench {
    lab: Lab,
    /// Files of this case.
    pub(crate) folder: PathBuf,
    pub(crate) transport: Transport,
    runtime: Runtime,
}

impl Bench {
    /// Builds the lab; `folder` takes its files.
    pub(crate) fn build(transport: Transport, folder: &Path) -> Result<Self> {
        let topology = Topology::parse("interop", &topology(transport), &std::env::vars().collect())?;
        let lab = Lab::build(&topology, &mut |_| {})?;
        std::fs::create_dir_all(folder)?;
        let folder = folder.to_owned();
        let netns = lab.node("us")?.netns().try_clone()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .on_thread_start(move || {
                // A socket in the wrong namespace reaches nobody, so that the case fails.
                let _entered = netns.enter();
            })
            .enable_all()
            .build()?;
        Ok(Self { lab, folder, transport, runtime })
    }

    /// Where our speakers are.
    pub(crate) fn us(&self) -> Result<&Netns> {
        Ok(self.lab.node("us")?.netns())
    }

    /// Where the other one is.
    pub(crate) fn foreign(&self) -> Result<&Netns> {
        Ok(self.lab.node("foreign")?.netns())
    }

    /// Starts our speaker `last`.
    pub(crate) fn speaker(&self, last: u8, restarting: bool) -> Result<Speaker> {
        let speaker = SpeakerConfig { restarting, ..SpeakerConfig::new(id(last), AS) };
        let listen = match self.transport {
            Transport::Link => Ipv6Addr::UNSPECIFIED.into(),
            transport => address(transport, last),
        };
        let listen = vec![SocketAddr::new(listen, margay_bgp::BGP_PORT)];
        let service = self.runtime.spawn(async move { BgpService::spawn(ServiceConfig { speaker, listen }) });
        let (handle, mut events) = self.runtime.block_on(service)??;
        self.runtime.spawn(async move { while events.recv().await.is_some() {} });
        Ok(Speaker { runtime: self.runtime.handle().clone(), transport: self.transport, last, handle })
    }

    /// The settings of a session between our speaker `last` and `remote`.
    pub(crate) fn peer(&self, last: u8, remote: u8, kind: PeerKind) -> PeerConfig {
        let (short, shorter) = (Duration::from_millis(300), Duration::from_millis(100));
        let link = self.transport == Transport::Link;
        PeerConfig {
            // The system knows the right one of a link.
            local: (!link).then(|| address(self.transport, last)),
            interface: link.then(|| INTERFACE.to_owned()),
            extended_next_hop: link,
            local_other: Some(address(self.transport.other(), last)),
            timers: Timers {
                connect_retry: shorter,
                connect_retry_max: short,
                error_wait: short,
                error_wait_max: short,
                ..Timers::default()
            },
            graceful_restart: GracefulRestart { long_lived: None, ..GracefulRestart::default() },
            password: (remote == FOREIGN).then(|| Password::new(PASSWORD.as_bytes()).ok()).flatten(),
            policy_required: false,
            add_path_receive: remote == FOREIGN,
            ..PeerConfig::new(
                address(self.transport, remote),
                if kind == PeerKind::External { ROUTER_AS } else { AS },
                kind,
            )
        }
    }
}

/// One of our speakers.
pub(crate) struct Speaker {
    runtime: Handle,
    transport: Transport,
    last: u8,
    handle: BgpHandle,
}

impl Speaker {
    pub(crate) fn set_peers(&self, peers: Vec<PeerConfig>) -> Result<()> {
        Ok(self.runtime.block_on(self.handle.set_peers(peers))?)
    }

    /// Originates its prefix of both families, with a community.
    pub(crate) fn originate(&self) -> Result<()> {
        self.set_originated(BOTH.map(|family| originated(ours(family, self.last), self.last)).to_vec())
    }

    pub(crate) fn set_originated(&self, routes: Vec<Originated>) -> Result<()> {
        Ok(self.runtime.block_on(self.handle.set_originated(routes))?)
    }

    /// Asks its peers to prefer others (RFC 8326), or no longer.
    pub(crate) fn drain(&self, draining: bool) -> Result<()> {
        Ok(self.runtime.block_on(self.handle.drain(draining))?)
    }

    /// Ends it so that its peers keep its routes.
    pub(crate) fn stop(self) -> Result<()> {
        Ok(self.runtime.block_on(self.handle.stop(StopMode::Restart))?)
    }

    /// The address of its session with `last`.
    pub(crate) fn remote(&self, last: u8) -> IpAddr {
        address(self.transport, last)
    }

    /// Why a prefix is what it is.
    pub(crate) fn explain(&self, prefix: IpNet) -> Result<Explanation> {
        Ok(self.runtime.block_on(self.handle.explain(prefix))?)
    }

    pub(crate) fn peer(&self, last: u8) -> Result<PeerStatus> {
        let remote = self.remote(last);
        let peers = self.runtime.block_on(self.handle.peers())?;
        peers.into_iter().find(|peer| peer.remote == remote).context("a peer that is not configured")
    }

    pub(crate) fn established(&self, last: u8) -> Result<()> {
        self.until(last, "established", |peer| peer.state == PeerState::Established)
    }

    /// Waits until a peer is as wanted.
    pub(crate) fn until(&self, last: u8, what: &str, check: impl Fn(&PeerStatus) -> bool) -> Result<()> {
        wait(PATIENCE, || Ok(check(&self.peer(last)?)))
            .with_context(|| format!("{what}: {:#?}", self.peer(last)))
    }

    /// Every path to a prefix.
    pub(crate) fn paths(&self, prefix: IpNet) -> Result<Vec<RouteInfo>> {
        let query = RouteQuery { prefix: Some(prefix), ..RouteQuery::default() };
        Ok(self.runtime.block_on(self.handle.routes(query))?)
    }

    /// Waits for the best route to a prefix to be as wanted.
    pub(crate) fn route(
        &self,
        prefix: IpNet,
        what: &str,
        check: impl Fn(&RouteInfo) -> bool,
    ) -> Result<RouteInfo> {
        let mut found = None;
        wait(PATIENCE, || {
            found = self.paths(prefix)?.into_iter().find(|path| path.best && check(path));
            Ok(found.is_some())
        })
        .with_context(|| format!("{what}: {prefix} at speaker {}: {:#?}", self.last, self.paths(prefix)))?;
        found.context("no route")
    }

    /// Waits until there is no route to a prefix.
    pub(crate) fn no_route(&self, prefix: IpNet, what: &str) -> Result<()> {
        wait(PATIENCE, || Ok(self.paths(prefix)?.iter().all(|path| path.filtered)))
            .with_context(|| format!("{what}: {prefix} at speaker {}: {:#?}", self.last, self.paths(prefix)))
    }
}
