//! Many clients of our own: the speaker that agents have, without the agents.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use ipnet::IpNet;
use margay_bgp::transport::{BgpHandle, BgpService, ServiceConfig};
use margay_bgp::{Event, Originated, PeerConfig, PeerKind, PeerState, RouteQuery, SpeakerConfig};
use tokio::runtime::Runtime;

use crate::lab::{AS, Lab, PATIENCE, REFLECTOR, block, client, wait};

/// See the module.
pub(crate) struct Ours {
    runtime: Runtime,
    handles: BTreeMap<u16, BgpHandle>,
    /// Prefixes that any of them was told something about, with how often.
    told: Arc<Mutex<BTreeMap<IpNet, usize>>>,
}

impl Ours {
    pub(crate) fn start(lab: &Lab, numbers: std::ops::Range<u16>) -> Self {
        let clients = lab.clients.try_clone().unwrap();
        // Every thread that opens a socket must be in the namespace.
        let enter = move || clients.enter().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start(enter)
            .enable_all()
            .build()
            .unwrap();
        let told: Arc<Mutex<BTreeMap<IpNet, usize>>> = Arc::default();
        let mut ours = Self { runtime, handles: BTreeMap::new(), told };
        for number in numbers {
            let told = Arc::clone(&ours.told);
            let spawn = async move {
                let speaker = SpeakerConfig::new(client(number), AS);
                let (handle, mut events) =
                    BgpService::spawn(ServiceConfig { speaker, listen: Vec::new() }).unwrap();
                tokio::spawn(async move {
                    while let Some(event) = events.recv().await {
                        let Event::RouteChanges(changes) = event else { continue };
                        let mut told = told.lock().unwrap();
                        changes.iter().for_each(|change| *told.entry(change.prefix).or_default() += 1);
                    }
                });
                let local = Some(IpAddr::V4(client(number)));
                let peer = PeerConfig::new(REFLECTOR.into(), AS, PeerKind::Internal);
                handle.set_originated(vec![own(number, 0)]).await.unwrap();
                handle.set_peers(vec![PeerConfig { local, ..peer }]).await.unwrap();
                handle
            };
            let handle = ours.runtime.block_on(ours.runtime.spawn(spawn)).unwrap();
            ours.handles.insert(number, handle);
        }
        ours
    }

    /// Changes a client's route.
    pub(crate) fn announce(&self, number: u16, med: u32) {
        let handle = self.handles[&number].clone();
        self.runtime.block_on(handle.set_originated(vec![own(number, med)])).unwrap();
    }

    /// MULTI_EXIT_DISC of a prefix as a client has it.
    pub(crate) fn med(&self, at: u16, of: u16) -> Option<u32> {
        let query = RouteQuery { prefix: Some(block(of).into()), best: true, ..RouteQuery::default() };
        let routes = self.runtime.block_on(self.handles[&at].routes(query)).unwrap();
        routes.first().and_then(|route| route.med)
    }

    /// Whether every client has a route to so many prefixes, its own included.
    pub(crate) fn settle(&self, routes: usize) {
        for (number, handle) in &self.handles {
            wait(&format!("{routes} routes at client {number}"), PATIENCE, || {
                let query = RouteQuery { best: true, ..RouteQuery::default() };
                let known = self.runtime.block_on(handle.routes(query)).unwrap();
                (known.len() == routes).then_some(())
            });
        }
    }

    /// Sessions that are up and were never down.
    pub(crate) fn undisturbed(&self) -> usize {
        let peers = self.handles.values().flat_map(|handle| self.runtime.block_on(handle.peers()).unwrap());
        peers.filter(|peer| peer.state == PeerState::Established && peer.established_count == 1).count()
    }

    pub(crate) fn up(&self) -> usize {
        let peers = self.handles.values().flat_map(|handle| self.runtime.block_on(handle.peers()).unwrap());
        peers.filter(|peer| peer.state == PeerState::Established).count()
    }

    /// Forgets what was told.
    pub(crate) fn forget(&self) {
        self.told.lock().unwrap().clear();
    }

    /// Prefixes that any client was told something about since.
    pub(crate) fn told(&self) -> Vec<IpNet> {
        self.told.lock().unwrap().keys().copied().collect()
    }
}

fn own(number: u16, med: u32) -> Originated {
    Originated { med: Some(med), ..Originated::new(block(number).into(), Some(client(number).into())) }
}
