//! Notice of changes to links, addresses and routes, for a tokio program.
//!
//! Notifications only say *that* something changed; who cares reads it back. So the queue holds at most
//! [`CAPACITY`] of them: what doesn't fit, and what the kernel itself had to drop, becomes one [`Event::Resync`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::link::{self, Link};
use crate::route::{self, Route};

/// Notifications kept for a slow reader.
pub const CAPACITY: usize = 1024;

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// An interface appeared or changed.
    LinkSet(Link),
    /// An interface is gone: index and name.
    LinkGone(u32, String),
    /// The addresses of the interface with this index changed.
    Addresses(u32),
    /// A route was made or replaced.
    RouteSet(Route),
    /// A route is gone.
    RouteGone(Route),
    /// Changes were missed: read everything back.
    Resync,
}

/// A subscription to changes in the namespace it was opened in.
#[derive(Debug)]
pub struct Monitor {
    events: mpsc::Receiver<Event>,
    overflowed: Arc<AtomicBool>,
}

impl Monitor {
    /// Subscribes, in the calling thread's namespace. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// When no netlink socket can be opened.
    pub fn open() -> Result<Self> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
        ];
        let (connection, handle, mut messages) =
            new_multicast_connection(&groups).map_err(|e| Error::io("subscribe to network changes", e))?;
        let (sender, events) = mpsc::channel(CAPACITY);
        let overflowed = Arc::new(AtomicBool::new(false));
        tokio::spawn(connection);
        let overflow = Arc::clone(&overflowed);
        // Drains the connection without ever waiting for the reader, so that its own, unlimited queue stays empty.
        tokio::spawn(async move {
            // The connection ends with its last handle.
            let _handle = handle;
            while let Ok((message, _)) = messages.recv().await {
                let Some(event) = read(message.payload) else { continue };
                match sender.try_send(event) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => overflow.store(true, Ordering::Release),
                    Err(mpsc::error::TrySendError::Closed(_)) => break,
                }
            }
        });
        Ok(Self { events, overflowed })
    }

    /// The next change; `None` when the subscription ended (the runtime is stopping).
    pub async fn next(&mut self) -> Option<Event> {
        if self.overflowed.swap(false, Ordering::AcqRel) {
            return Some(Event::Resync);
        }
        self.events.recv().await
    }
}

fn read(payload: NetlinkPayload<RouteNetlinkMessage>) -> Option<Event> {
    let message = match payload {
        NetlinkPayload::InnerMessage(message) => message,
        NetlinkPayload::Overrun(_) => return Some(Event::Resync),
        _ => return None,
    };
    match message {
        RouteNetlinkMessage::NewLink(message) => Some(Event::LinkSet(link::read(&message))),
        RouteNetlinkMessage::DelLink(message) => {
            let gone = link::read(&message);
            Some(Event::LinkGone(gone.index, gone.name))
        }
        RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => {
            Some(Event::Addresses(message.header.index))
        }
        RouteNetlinkMessage::NewRoute(message) => route::read(&message).map(Event::RouteSet),
        RouteNetlinkMessage::DelRoute(message) => route::read(&message).map(Event::RouteGone),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Netlink, Netns, RouteTarget, TABLE_MAIN};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    async fn next(monitor: &mut Monitor) -> Event {
        tokio::time::timeout(Duration::from_secs(5), monitor.next()).await.unwrap().unwrap()
    }

    #[test]
    fn changes_are_seen_and_a_flood_ends_in_a_resync() {
        let netns = match Netns::new() {
            Err(error) if error.is_not_permitted() && std::env::var_os("TESTS_REQUIRE_ALL").is_none() => {
                eprintln!("skipped: {error}");
                return;
            }
            made => made.unwrap(),
        };
        let watch = async {
            let mut monitor = Monitor::open().unwrap();
            let mut kernel = Netlink::open().unwrap();
            kernel.add_bridge("sw1").unwrap();
            loop {
                if let Event::LinkSet(link) = next(&mut monitor).await
                    && link.name == "sw1"
                {
                    break;
                }
            }
            let route = |n: u32| Route {
                destination: ipnet::Ipv4Net::from(std::net::Ipv4Addr::from(0x0a00_0000 + n)).into(),
                target: RouteTarget::Blackhole,
                protocol: 181,
                metric: 0,
                source: None,
                table: TABLE_MAIN,
            };
            kernel.add_route(&route(0)).unwrap();
            while next(&mut monitor).await != Event::RouteSet(route(0)) {}
            kernel.delete_route(&route(0)).unwrap();
            while next(&mut monitor).await != Event::RouteGone(route(0)) {}
            let many: Vec<_> = (0..20_000).map(|n| crate::RouteChange::Add(route(n))).collect();
            assert!(kernel.apply_routes(&many).iter().all(Result::is_ok));
            while next(&mut monitor).await != Event::Resync {}
        };
        netns.run(|| runtime().block_on(watch)).unwrap();
    }
}
