//! How long a TCP connection through a node takes to be made, and how many can be made.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Result;
use socket2::SockRef;

use super::node::{Node, sh};
use crate::scenario::quantile;

/// Connections of one round, of which the median counts.
const ROUND: usize = 400;

/// Makes connections from a node's client to its server.
#[derive(Debug)]
pub(super) struct Connects<'a> {
    node: &'a Node,
    listener: TcpListener,
    to: SocketAddr,
}

impl<'a> Connects<'a> {
    pub(super) fn new(node: &'a Node, port: u16) -> Result<Self> {
        let to = SocketAddr::from((node.address, port));
        let listener = node.server.run(|| TcpListener::bind(to))??;
        // A port that comes round again within the 10 s of a closed connection would be taken for a part of that: no policy
        // would look at it.
        sh(&node.netns, "sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_close=1")?;
        sh(&node.client, "sysctl -qw net.ipv4.ip_local_port_range='1024 65535'")?;
        let connects = Self { node, listener, to };
        // Neighbours, flow tables and caches are as in the middle of a day.
        connects.round()?;
        Ok(connects)
    }

    /// Median of a round, microseconds.
    pub(super) fn round(&self) -> Result<f64> {
        let times = self.node.client.run(|| (0..ROUND).map(|_| self.one()).collect::<Result<Vec<_>>>())??;
        Ok(quantile(&times, 0.5))
    }

    fn one(&self) -> Result<f64> {
        let begun = Instant::now();
        let client = TcpStream::connect_timeout(&self.to, Duration::from_secs(5))?;
        let time = begun.elapsed().as_secs_f64() * 1e6;
        let (server, _) = self.listener.accept()?;
        // Ended by a reset: nothing lingers.
        for end in [&client, &server] {
            SockRef::from(end).set_linger(Some(Duration::ZERO))?;
        }
        Ok(time)
    }
}

/// Latencies of several nodes, measured in turn: medians of each, microseconds, and the median of each round's ratio to
/// the first.
pub(super) fn compare(nodes: &[Connects<'_>], rounds: usize) -> Result<Vec<(f64, f64)>> {
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); nodes.len()];
    for _ in 0..rounds {
        for (node, times) in nodes.iter().zip(&mut times) {
            times.push(node.round()?);
        }
    }
    let base = times.first().cloned().unwrap_or_default();
    let figures = times.iter().map(|times| {
        let ratios: Vec<f64> = times.iter().zip(&base).map(|(time, base)| time / base).collect();
        let median = |values: &[f64]| quantile(values, 0.5);
        (median(times), median(&ratios))
    });
    Ok(figures.collect())
}
