//! What the task of a service is asked to do, apart from what ends it or holds it up.

use super::handle::Command;
use super::pages;
use super::service::BgpService;
use crate::io::Input;

impl BgpService {
    pub(super) fn command(&mut self, command: Command) {
        // Whoever asked may have gone meanwhile; that is no error.
        macro_rules! answer {
            ($answer:expr, $value:expr) => {{
                let _gone = $answer.send($value);
            }};
        }
        match command {
            Command::SetPeers(peers, answer) => {
                self.input(Input::SetPeers(peers));
                answer!(answer, ());
            }
            Command::SetPeer(peer, answer) => {
                self.input(Input::SetPeer(peer));
                answer!(answer, ());
            }
            Command::RemovePeer(remote, answer) => {
                self.input(Input::RemovePeer(remote));
                answer!(answer, ());
            }
            Command::ReleasePeer(remote, answer) => {
                self.input(Input::ReleasePeer(remote));
                answer!(answer, ());
            }
            Command::Replacement(leaving, gone, answer) => {
                answer!(answer, self.speaker.replacement(&leaving, &gone));
            }
            Command::IsCovered(others, answer) => {
                answer!(answer, self.speaker.is_covered_by(&others));
            }
            Command::SetRanges(ranges, answer) => {
                self.input(Input::SetRanges(ranges));
                answer!(answer, ());
            }
            Command::SetOriginated(routes, answer) => {
                self.input(Input::SetOriginated(routes));
                answer!(answer, ());
            }
            Command::SetNextHops(states) => self.input(Input::SetNextHops(states)),
            Command::PruneStale(remote, answer) => {
                self.input(Input::PruneStale(remote));
                answer!(answer, ());
            }
            Command::Drain(draining, answer) => {
                self.input(Input::Drain(draining));
                answer!(answer, ());
            }
            // Ages are counted from the speaker's own time, which is that of its last input.
            Command::Peers(answer) => {
                self.input(Input::Tick);
                answer!(answer, self.speaker.peers());
            }
            Command::Routes(query, answer) => {
                self.input(Input::Tick);
                answer!(answer, self.speaker.routes(&query));
            }
            Command::Prefixes(query, from, answer) => {
                answer!(answer, self.speaker.prefixes(&query, from, pages::LIST));
            }
            Command::Paths(query, prefixes, answer) => {
                let paths = |prefix| self.speaker.paths(prefix, &query);
                answer!(answer, prefixes.iter().flat_map(paths).collect());
            }
            Command::Dump(cursor, answer) => answer!(answer, self.speaker.dump_page(cursor, pages::DUMP)),
            Command::Totals(answer) => {
                self.input(Input::Tick);
                answer!(answer, self.speaker.totals());
            }
            Command::Watch(answer) => {
                let receiver = self.changes.watch();
                self.input(Input::Watch(true));
                answer!(answer, receiver);
            }
            Command::Explain(prefix, answer) => answer!(answer, self.speaker.explain(prefix)),
            Command::Advertised(remote, answer) => answer!(answer, self.speaker.advertised(remote)),
            Command::Pending(answer) => answer!(answer, self.speaker.pending()),
            // Handled by the caller: they end the task or hold it up.
            Command::Stop(_, answer) | Command::Thaw(_, answer) => answer!(answer, ()),
            Command::Freeze(_) => {}
        }
    }
}
