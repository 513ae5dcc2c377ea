//! The handle through which agents and reflectors drive a running speaker.

use super::changes::Change;
use super::handover::Frozen;
use super::pages::RoutePages;
use crate::config::{Originated, PeerConfig, PeerRange};
use crate::io::StopMode;
use crate::monitor::{DumpCursor, DumpPage};
use crate::status::{
    Explanation, NextHopState, PeerStatus, PrefixPage, Replacement, RouteInfo, RouteQuery, Totals,
};
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot};

/// The speaker's task has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the BGP speaker has stopped")]
pub struct ServiceStopped;

/// A request to the speaker's task.
#[derive(Debug)]
pub(crate) enum Command {
    SetPeers(Vec<Arc<PeerConfig>>, oneshot::Sender<()>),
    SetPeer(Arc<PeerConfig>, oneshot::Sender<()>),
    RemovePeer(IpAddr, oneshot::Sender<()>),
    ReleasePeer(IpAddr, oneshot::Sender<()>),
    Replacement(BTreeSet<IpAddr>, BTreeSet<IpAddr>, oneshot::Sender<Replacement>),
    IsCovered(BTreeSet<IpAddr>, oneshot::Sender<bool>),
    SetRanges(Vec<PeerRange>, oneshot::Sender<()>),
    SetOriginated(Vec<Originated>, oneshot::Sender<()>),
    SetNextHops(Vec<NextHopState>),
    PruneStale(IpAddr, oneshot::Sender<()>),
    Peers(oneshot::Sender<Vec<PeerStatus>>),
    Routes(RouteQuery, oneshot::Sender<Vec<RouteInfo>>),
    Prefixes(RouteQuery, u32, oneshot::Sender<PrefixPage>),
    Paths(RouteQuery, Vec<IpNet>, oneshot::Sender<Vec<RouteInfo>>),
    Dump(Option<DumpCursor>, oneshot::Sender<DumpPage>),
    Totals(oneshot::Sender<Totals>),
    Watch(oneshot::Sender<broadcast::Receiver<Arc<Change>>>),
    Explain(IpNet, oneshot::Sender<Explanation>),
    Advertised(IpAddr, oneshot::Sender<Vec<RouteInfo>>),
    Pending(oneshot::Sender<Vec<IpAddr>>),
    Drain(bool, oneshot::Sender<()>),
    Freeze(oneshot::Sender<std::io::Result<Frozen>>),
    Thaw(Box<Frozen>, oneshot::Sender<()>),
    Stop(StopMode, oneshot::Sender<()>),
}

/// Drives a running speaker. Cheap to clone; every call is answered once the speaker has acted on it.
#[derive(Debug, Clone)]
pub struct BgpHandle {
    pub(crate) commands: mpsc::Sender<Command>,
}

impl BgpHandle {
    pub(super) async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<T, ServiceStopped> {
        let (answer, wait) = oneshot::channel();
        self.commands.send(command(answer)).await.map_err(|_closed| ServiceStopped)?;
        wait.await.map_err(|_closed| ServiceStopped)
    }

    /// The whole desired list of peers. A peer whose configuration is the same isn't touched; one that only differs in
    /// policy, limits or description keeps its session.
    pub async fn set_peers<P: Into<Arc<PeerConfig>>>(&self, peers: Vec<P>) -> Result<(), ServiceStopped> {
        let peers = peers.into_iter().map(Into::into).collect();
        self.ask(|answer| Command::SetPeers(peers, answer)).await
    }

    /// Adds or changes one peer.
    pub async fn set_peer(&self, peer: impl Into<Arc<PeerConfig>>) -> Result<(), ServiceStopped> {
        let peer = peer.into();
        self.ask(|answer| Command::SetPeer(peer, answer)).await
    }

    /// Removes one peer and its routes.
    pub async fn remove_peer(&self, remote: IpAddr) -> Result<(), ServiceStopped> {
        self.ask(|answer| Command::RemovePeer(remote, answer)).await
    }

    /// Removes one peer whose place others have taken; it may keep our routes until they have for it, too.
    pub async fn release_peer(&self, remote: IpAddr) -> Result<(), ServiceStopped> {
        self.ask(|answer| Command::ReleasePeer(remote, answer)).await
    }

    /// How far other peers have taken the place of those `leaving`. A route by way of a next hop in `gone` is missed by
    /// nobody.
    pub async fn replacement(
        &self,
        leaving: BTreeSet<IpAddr>,
        gone: BTreeSet<IpAddr>,
    ) -> Result<Replacement, ServiceStopped> {
        self.ask(|answer| Command::Replacement(leaving, gone, answer)).await
    }

    /// Whether one of `others` has told of every prefix that our clients announce.
    pub async fn is_covered_by(&self, others: BTreeSet<IpAddr>) -> Result<bool, ServiceStopped> {
        self.ask(|answer| Command::IsCovered(others, answer)).await
    }

    /// The whole desired list of ranges that peers may come from without being configured.
    pub async fn set_ranges(&self, ranges: Vec<PeerRange>) -> Result<(), ServiceStopped> {
        self.ask(|answer| Command::SetRanges(ranges, answer)).await
    }

    /// The whole desired list of originated routes. End-of-RIB is withheld until the first call.
    pub async fn set_originated(&self, routes: Vec<Originated>) -> Result<(), ServiceStopped> {
        self.ask(|answer| Command::SetOriginated(routes, answer)).await
    }

    /// How far next hops are that [`crate::Event::NextHops`] named. Does not wait until that is taken in: the speaker may have a
    /// table to read, of which the first routes are told by then.
    pub async fn set_next_hops(&self, states: Vec<NextHopState>) -> Result<(), ServiceStopped> {
        self.commands.send(Command::SetNextHops(states)).await.map_err(|_closed| ServiceStopped)
    }

    /// Drops the stale routes of a peer that is known to be gone, before their timers expire.
    pub async fn prune_stale(&self, remote: IpAddr) -> Result<(), ServiceStopped> {
        self.ask(|answer| Command::PruneStale(remote, answer)).await
    }

    /// Every configured peer, by address.
    pub async fn peers(&self) -> Result<Vec<PeerStatus>, ServiceStopped> {
        self.ask(Command::Peers).await
    }

    /// Routes, by prefix, best path first.
    pub async fn routes(&self, query: RouteQuery) -> Result<Vec<RouteInfo>, ServiceStopped> {
        self.ask(|answer| Command::Routes(query, answer)).await
    }

    /// The same in parts, for tables of any size: the speaker does its other work in between.
    #[must_use]
    pub fn route_pages(&self, query: RouteQuery) -> RoutePages {
        RoutePages::new(self.clone(), query)
    }

    /// The table as MRT records (RFC 6396), in parts; the first without cursor.
    pub async fn dump(&self, cursor: Option<DumpCursor>) -> Result<DumpPage, ServiceStopped> {
        self.ask(|answer| Command::Dump(cursor, answer)).await
    }

    /// Sizes of the tables.
    pub async fn totals(&self) -> Result<Totals, ServiceStopped> {
        self.ask(Command::Totals).await
    }

    /// What changes from now on. A watcher that is slow loses the oldest changes and is told how many.
    pub async fn watch(&self) -> Result<broadcast::Receiver<Arc<Change>>, ServiceStopped> {
        self.ask(Command::Watch).await
    }

    /// Why a prefix is what it is.
    pub async fn explain(&self, prefix: IpNet) -> Result<Explanation, ServiceStopped> {
        self.ask(|answer| Command::Explain(prefix, answer)).await
    }

    /// What is sent to a peer, as it is sent.
    pub async fn advertised(&self, remote: IpAddr) -> Result<Vec<RouteInfo>, ServiceStopped> {
        self.ask(|answer| Command::Advertised(remote, answer)).await
    }

    /// Addresses of connections that wait to be configured.
    pub async fn pending(&self) -> Result<Vec<IpAddr>, ServiceStopped> {
        self.ask(Command::Pending).await
    }

    /// Begins or ends draining (RFC 8326): peers are told to prefer others.
    pub async fn drain(&self, draining: bool) -> Result<(), ServiceStopped> {
        self.ask(|answer| Command::Drain(draining, answer)).await
    }

    /// Ends the speaker; returns when its connections are closed.
    pub async fn stop(&self, mode: StopMode) -> Result<(), ServiceStopped> {
        self.ask(|answer| Command::Stop(mode, answer)).await
    }
}
