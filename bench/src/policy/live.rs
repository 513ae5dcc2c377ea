//! From a change in the datastore to the packets that feel it.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use margay_api::{Key, Kind};
use tokio::runtime::Runtime;

use super::cluster::{Size, new_policy};
use super::node::Site;

/// Port that every policy lets clients send to.
const PORT: u16 = 80;
/// Pause between probes, so that they leave the machine to the agent.
const PAUSE: Duration = Duration::from_micros(300);
/// A packet that has not arrived so long after it was sent was dropped: veth pairs deliver at once.
const FLIGHT: Duration = Duration::from_millis(5);
/// Longest wait for a change.
const PATIENCE: Duration = Duration::from_secs(30);

/// Packets from a remote address to the server.
struct Packets<'a> {
    site: &'a Site,
    server: UdpSocket,
}

impl<'a> Packets<'a> {
    fn new(site: &'a Site) -> Result<Self> {
        let server = site.node.server.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
        server.set_nonblocking(true)?;
        Ok(Self { site, server })
    }

    /// Sends a packet of a flow that nobody has seen before; its port.
    fn send(&self, from: Ipv4Addr) -> Result<u16> {
        let client = self.site.node.outside.run(|| UdpSocket::bind((from, 0)))??;
        client.send_to(b"?", (self.site.node.address, PORT))?;
        Ok(client.local_addr()?.port())
    }

    /// Milliseconds until packets are let through or not: when the first one was sent that the change met.
    fn until(&self, from: Ipv4Addr, passing: bool) -> Result<f64> {
        let begun = Instant::now();
        let mut flying: VecDeque<(u16, Duration)> = VecDeque::new();
        loop {
            let sent = begun.elapsed();
            flying.push_back((self.send(from)?, sent));
            std::thread::sleep(PAUSE);
            // What arrives late of earlier flows is of no port that is waited for.
            while let Ok((_, peer)) = self.server.recv_from(&mut [0; 8]) {
                let Some(at) = flying.iter().position(|(port, _)| *port == peer.port()) else { continue };
                let arrived = flying.drain(..=at).next_back();
                if let Some((_, sent)) = arrived.filter(|_| passing) {
                    return Ok(sent.as_secs_f64() * 1e3);
                }
            }
            if let Some((_, sent)) = flying.front().filter(|_| !passing)
                && begun.elapsed() > *sent + FLIGHT
            {
                return Ok(sent.as_secs_f64() * 1e3);
            }
            ensure!(sent < PATIENCE, "no change after {PATIENCE:?}");
        }
    }
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// What a change in the datastore took, milliseconds.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// The write itself.
    pub(super) write: Vec<f64>,
    /// From then until packets feel it.
    pub(super) felt: Vec<f64>,
}

impl Times {
    fn add(&mut self, write: Duration, felt: f64) {
        self.write.push(write.as_secs_f64() * 1e3);
        self.felt.push(felt);
    }
}

/// A remote pod appears, until its packets are let in.
pub(super) fn remote_pod(site: &Site, times: usize) -> Result<Times> {
    let (runtime, packets) = (runtime()?, Packets::new(site)?);
    let mut figures = Times::default();
    for time in 0..times {
        let number = site.size.remote + u32::try_from(time)?;
        let address = Size::address(number);
        let begun = Instant::now();
        runtime.block_on(site.store.create(site.size.remote(number)))?;
        let written = begun.elapsed();
        figures.add(written, packets.until(address, true)?);
    }
    Ok(figures)
}

/// A policy that selects the endpoints of so many applications, until it is enforced.
pub(super) fn policy(site: &Site, apps: u32, times: usize) -> Result<Times> {
    let (runtime, packets) = (runtime()?, Packets::new(site)?);
    let from = Size::address(0);
    let mut figures = Times::default();
    for time in 0..times {
        // Never the same one: what the last one left in the kernel is of no use.
        let name = format!("new-{time}");
        let key = Key::cluster(Kind::GlobalNetworkPolicy, name.as_str());
        packets.until(from, true)?;
        let others = site.enforced();
        let begun = Instant::now();
        runtime.block_on(site.store.create(new_policy(&name, apps)?))?;
        let written = begun.elapsed();
        figures.add(written, packets.until(from, false)?);
        runtime.block_on(site.store.delete(&key, None))?;
        packets.until(from, true)?;
        // Packets feel a change a while before the program that writes it has ended: the next one is not to wait for that.
        let begun = Instant::now();
        while site.enforced() != others {
            ensure!(begun.elapsed() < PATIENCE, "the agent does not say that {name} is gone");
            std::thread::sleep(PAUSE);
        }
    }
    Ok(figures)
}
