//! Stations that come: everything in pages, as fast as each reads; then reports, and the last word.

use super::routes::{Batch, ToldEntry};
use super::{ALL_VIEWS, Feed};
use crate::family::Family;
use crate::monitor::bmp::{self, Statistic, View};
use crate::monitor::station::Progress;
use crate::monitor::{StationId, StationInput};
use crate::rib::{EntryId, Rib, SourceId};
use crate::time::Time;
use bytes::BytesMut;

/// Octets in flight up to which a dump goes on.
const WINDOW: usize = 256 << 10;
/// Entries looked at before it is asked again whether the station can take more.
const PAGE: u32 = 512;

impl Feed {
    pub(crate) fn station(&mut self, now: Time, id: StationId, input: StationInput) {
        let Some(station) = self.stations.get_mut(id) else { return };
        match input {
            StationInput::Up => {
                station.progress = Progress::Peers(SourceId::LOCAL);
                station.pending = 0;
                let interval = station.config.statistics;
                station.statistics_at = (!interval.is_zero()).then(|| now + interval);
                let loc_rib = station.wants(View::LocRib);
                let mut out = BytesMut::new();
                bmp::initiation(&self.config.name, &self.config.description, &mut out);
                if loc_rib {
                    self.encode_loc_rib_up(now, &mut out);
                }
                self.push(id, &out.freeze());
            }
            StationInput::Written(bytes) => station.pending = station.pending.saturating_sub(bytes),
            StationInput::Down => {
                station.progress = Progress::Down;
                station.statistics_at = None;
                station.pending = 0;
            }
        }
    }

    /// Goes on with the dumps of stations that can take more, and reports what is due.
    pub(crate) fn pump(&mut self, now: Time, rib: &Rib, treated: impl Fn(SourceId) -> u64) {
        for id in 0..self.stations.len() {
            while let Some(station) = self.stations.get(id)
                && station.pending < WINDOW
                && !matches!(station.progress, Progress::Down | Progress::Live)
            {
                self.dump(id, rib, now);
            }
            let due = self.stations.get(id).and_then(|station| station.statistics_at);
            if due.is_some_and(|at| at <= now) {
                self.report(id, rib, now, &treated);
            }
        }
    }

    /// One page of a dump.
    fn dump(&mut self, id: StationId, rib: &Rib, now: Time) {
        let Some(station) = self.stations.get(id) else { return };
        let mut out = BytesMut::new();
        let next = match station.progress {
            Progress::Down | Progress::Live => return,
            Progress::Peers(_) if !Self::follows_peers(station) => Progress::Entries(0),
            Progress::Peers(next) => match self.peers.range(next..).next().map(|(peer, _)| *peer) {
                Some(peer) => {
                    self.encode_peer_up(peer, &mut out);
                    Progress::Peers(SourceId(peer.0.saturating_add(1)))
                }
                None => Progress::Entries(0),
            },
            Progress::Entries(next) => {
                let end = next.saturating_add(PAGE).min(u32::try_from(self.told.len()).unwrap_or(u32::MAX));
                let mut batches: [Batch; 3] = Default::default();
                for index in next..end {
                    let (Some(told), Some(entry)) =
                        (self.told.get(index as usize), rib.entry(EntryId(index)))
                    else {
                        continue;
                    };
                    self.compare(entry.prefix, &ToldEntry::default(), told, &mut batches);
                }
                self.send(id, &batches, rib, self.wall(now));
                if end > next { Progress::Entries(end) } else { Progress::Live }
            }
        };
        if next == Progress::Live {
            self.encode_all_complete(id, &mut out);
        }
        self.push(id, &out.freeze());
        // Cut off meanwhile, it stays so.
        if let Some(station) = self.stations.get_mut(id).filter(|s| s.progress != Progress::Down) {
            station.progress = next;
        }
    }

    /// End-of-RIB of every peer whose own has come, and of Loc-RIB.
    fn encode_all_complete(&self, id: StationId, out: &mut BytesMut) {
        let Some(station) = self.stations.get(id) else { return };
        for view in ALL_VIEWS.into_iter().filter(|view| station.wants(*view)) {
            if view == View::LocRib {
                for family in Family::ALL {
                    self.encode_end_of_rib(view, SourceId::LOCAL, family, out);
                }
                continue;
            }
            for (peer, monitored) in &self.peers {
                for family in Family::ALL.into_iter().filter(|f| monitored.complete.has((*f).into())) {
                    self.encode_end_of_rib(view, *peer, family, out);
                }
            }
        }
    }

    fn report(&mut self, id: StationId, rib: &Rib, now: Time, treated: &impl Fn(SourceId) -> u64) {
        let Some(station) = self.stations.get_mut(id) else { return };
        station.statistics_at = Some(now + station.config.statistics);
        if station.progress != Progress::Live {
            return;
        }
        let (peers, loc_rib) = (Self::follows_peers(station), station.wants(View::LocRib));
        let mut out = BytesMut::new();
        let wall = self.wall(now);
        for peer in self.peers.keys().filter(|_| peers) {
            let Some(header) = self.header(View::PrePolicy, *peer, wall) else { continue };
            let held = Family::ALL.map(|family| u64::from(rib.counts(*peer, family).received));
            let treated = u32::try_from(treated(*peer)).unwrap_or(u32::MAX);
            let statistics = [
                Statistic::AdjIn(held.iter().sum()),
                Statistic::AdjInFamily(1, 1, held[0]),
                Statistic::AdjInFamily(2, 1, held[1]),
                Statistic::TreatedAsWithdraw(treated),
            ];
            bmp::statistics(&header, &statistics, &mut out);
        }
        if loc_rib && let Some(header) = self.header(View::LocRib, SourceId::LOCAL, wall) {
            let mut best = [0; 2];
            for (_, entry) in rib.iter().filter(|(_, entry)| entry.best().is_some()) {
                best[Family::of(&entry.prefix).index()] += 1;
            }
            let statistics = [
                Statistic::LocRib(best.iter().sum()),
                Statistic::LocRibFamily(1, 1, best[0]),
                Statistic::LocRibFamily(2, 1, best[1]),
            ];
            bmp::statistics(&header, &statistics, &mut out);
        }
        self.push(id, &out.freeze());
    }

    /// The speaker stops: the last word to each station.
    pub(crate) fn terminate(&mut self) {
        let mut out = BytesMut::new();
        bmp::termination(&mut out);
        self.tell(out, |station| station.progress != Progress::Down);
    }
}
