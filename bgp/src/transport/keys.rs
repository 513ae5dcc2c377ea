//! The listeners and the keys that peers need on them.

use super::protect;
use crate::security::Password;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Sockets of one speaker that accept connections.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    sockets: Vec<Arc<TcpListener>>,
    /// Addresses whose key could not be set: nobody gets in from there.
    refused: BTreeSet<IpNet>,
}

impl Listeners {
    pub(super) fn new(sockets: Vec<TcpListener>) -> Self {
        Self { sockets: sockets.into_iter().map(Arc::new).collect(), refused: BTreeSet::new() }
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = &Arc<TcpListener>> {
        self.sockets.iter()
    }

    /// Sets the key for connections from `from`. Established ones are not touched.
    pub(super) fn authenticate(&mut self, from: IpNet, password: Option<&Password>) {
        let same_family = |listener: &&Arc<TcpListener>| {
            listener.local_addr().is_ok_and(|local| local.is_ipv4() == from.addr().is_ipv4())
        };
        let result: io::Result<()> = self
            .sockets
            .iter()
            .filter(same_family)
            .try_for_each(|listener| protect::set_key(&**listener, from, password));
        match result {
            Ok(()) => drop(self.refused.remove(&from)),
            Err(error) => {
                tracing::error!(%from, %error, "cannot set the BGP password: connections from there are refused");
                self.refused.insert(from);
            }
        }
    }

    /// Whether connections from an address may come in.
    pub(super) fn admits(&self, remote: IpAddr) -> bool {
        !self.refused.iter().any(|net| net.contains(&remote))
    }
}
