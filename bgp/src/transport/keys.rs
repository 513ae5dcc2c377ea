//! The listeners and the keys that peers need on them.

use super::auth;
use crate::security::Password;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::Arc;
use tokio::net::TcpListener;

/// Sockets of one speaker that accept connections.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    sockets: Vec<Arc<TcpListener>>,
    /// What the sockets have.
    keys: BTreeMap<IpNet, Password>,
    /// Addresses whose key could not be set: nobody gets in from there.
    refused: BTreeSet<IpNet>,
}

impl Listeners {
    pub(super) fn new(sockets: Vec<TcpListener>) -> Self {
        Self { sockets: sockets.into_iter().map(Arc::new).collect(), ..Self::default() }
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = &Arc<TcpListener>> {
        self.sockets.iter()
    }

    /// Sets the key for connections from `from`. Established ones are not touched.
    pub(super) fn authenticate(&mut self, from: IpNet, password: Option<Password>) {
        let old = self.keys.remove(&from);
        let same_family = |listener: &&Arc<TcpListener>| {
            listener.local_addr().is_ok_and(|local| local.is_ipv4() == from.addr().is_ipv4())
        };
        let result: io::Result<()> = self.sockets.iter().filter(same_family).try_for_each(|listener| {
            auth::change(listener.as_fd(), auth::Kind::Listener, from, old.as_ref(), password.as_ref())
        });
        match result {
            Ok(()) => {
                self.refused.remove(&from);
                self.keys.extend(password.map(|password| (from, password)));
            }
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
