//! How a reflector leaves: it says so, and waits for another to serve.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use margay_bgp::transport::ServiceStopped;
use margay_bgp::{PeerState, PeerStatus};
use tokio::time::Instant;

use super::Speaker;

/// How often it looks whether another serves.
const TURN: Duration = Duration::from_millis(100);

/// A peer that takes nothing for so long is not waited for.
const DEAF: Duration = Duration::from_secs(1);

impl Speaker {
    /// Tells all peers to prefer others (RFC 8326), then waits, at most for `limit`, until one of `others` (reflectors
    /// beside this one) is up and has told everything that our clients announce: then they lose nothing with us.
    /// Returns at once when there are no others. True if another serves.
    pub async fn drain(&mut self, others: &BTreeSet<IpAddr>, limit: Duration) -> bool {
        let Some(running) = &mut self.running else { return false };
        if others.is_empty() || running.handle.drain(true).await.is_err() {
            return false;
        }
        let deadline = Instant::now() + limit;
        let mut hearers = Hearers::default();
        loop {
            let asked = async {
                let peers = running.handle.peers().await?;
                Ok::<_, ServiceStopped>(
                    hearers.have_been_told(Instant::now(), peers.iter().filter_map(lag))
                        && running.handle.is_covered_by(others.clone()).await?,
                )
            };
            match asked.await {
                Ok(true) => return true,
                Ok(false) => {}
                Err(_) => return false,
            }
            let turn = (Instant::now() + TURN).min(deadline);
            // What is reported meanwhile concerns nobody any more, but must not pile up.
            while let Ok(Some(event)) = tokio::time::timeout_at(turn, running.events.recv()).await {
                running.note(&event);
            }
            if turn == deadline {
                return false;
            }
        }
    }
}

/// What a peer that is up has not taken yet.
fn lag(peer: &PeerStatus) -> Option<(IpAddr, u64)> {
    (peer.state == PeerState::Established && peer.lag_bytes > 0).then_some((peer.remote, peer.lag_bytes))
}

/// The peers that lag: by how much at the last look, and since when that has not become less.
#[derive(Debug, Default)]
struct Hearers(BTreeMap<IpAddr, (u64, Instant)>);

impl Hearers {
    /// Whether nobody lags but those who take nothing.
    fn have_been_told(&mut self, now: Instant, lagging: impl Iterator<Item = (IpAddr, u64)>) -> bool {
        let before = std::mem::take(&mut self.0);
        for (remote, lag) in lagging {
            let still = before.get(&remote).filter(|(last, _)| lag >= *last);
            self.0.insert(remote, (lag, still.map_or(now, |(_, since)| *since)));
        }
        self.0.values().all(|(_, since)| now.duration_since(*since) >= DEAF)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn who_reads_slowly_is_waited_for_and_who_does_not_read_is_not() {
        let peer = |last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
        let (slow, deaf) = (peer(1), peer(2));
        let begin = Instant::now();
        let mut hearers = Hearers::default();
        let mut told = |tenths: u32, lagging: &[(IpAddr, u64)]| {
            hearers.have_been_told(begin + TURN * tenths, lagging.iter().copied())
        };
        assert!(!told(0, &[(slow, 100), (deaf, 50)]));
        for tenths in 1..50 {
            assert!(!told(tenths, &[(slow, u64::from(100 - tenths)), (deaf, 60)]), "{tenths}");
        }
        // It has been longer than a second without a word, and has all now.
        assert!(told(50, &[(deaf, 60)]));
        assert!(!told(51, &[(slow, 10), (deaf, 60)]));
        assert!(told(61, &[(slow, 10), (deaf, 60)]));
        assert!(told(62, &[]));
    }

    /// What is told while it leaves comes on top of what a peer had not read before.
    #[test]
    fn who_is_told_more_meanwhile_is_waited_for_as_long_as_it_reads() {
        let peer = IpAddr::from(Ipv4Addr::new(10, 0, 0, 1));
        let begin = Instant::now();
        let mut hearers = Hearers::default();
        let mut told = |tenths: u32, lag: u64| {
            hearers.have_been_told(begin + TURN * tenths, std::iter::once((peer, lag)))
        };
        assert!(!told(0, 10));
        for tenths in 1..50 {
            assert!(!told(tenths, 1000 - u64::from(tenths)), "{tenths}");
        }
        assert!(!told(58, 951) && told(59, 951), "a second after it took something last");
    }
}
