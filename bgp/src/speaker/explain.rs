//! Why a prefix is what it is: import policy rule by rule, the decision step by step, and the way out to each peer.

use super::Speaker;
use super::peer::Peer;
use crate::config::PeerKind;
use crate::egress::{EgressProfile, Suppressed, Told};
use crate::policy::{PeerType, RouteView};
use crate::rib::{Entry, Path, SourceId, Step, compare};
use crate::status::{AdvertisedTo, Explanation, Imported, RouteInfo, RouteSource};
use ipnet::IpNet;
use std::net::IpAddr;

/// LOCAL_PREF of a route that has none, as the decision takes it.
const DEFAULT_LOCAL_PREF: u32 = 100;

fn name(info: Option<&RouteInfo>) -> String {
    match info.map(|info| (info.source, info.path_id)) {
        Some((RouteSource::Peer(peer), Some(id))) => format!("path {id} from {peer}"),
        Some((RouteSource::Peer(peer), None)) => format!("the path from {peer}"),
        _ => "the path originated here".to_owned(),
    }
}

impl Speaker {
    /// Why a prefix is what it is.
    #[must_use]
    pub fn explain(&self, prefix: IpNet) -> Explanation {
        let prefix = prefix.trunc();
        let mut explanation = Explanation {
            prefix,
            paths: Vec::new(),
            steps: Vec::new(),
            imported: Vec::new(),
            advertised: Vec::new(),
        };
        let Some(entry) = self.rib.find(&prefix) else {
            explanation.steps.push(format!("no path to {prefix} is known"));
            return explanation;
        };
        explanation.paths = self.infos(entry);
        for index in 1..entry.paths.len() {
            self.explain_pair(entry, index, &mut explanation);
        }
        explanation.imported =
            entry.paths.iter().filter_map(|path| self.explain_import(prefix, path)).collect();
        if entry.best().is_none() {
            explanation.steps.push("no path is eligible".to_owned());
        }
        let peers = self.by_address.values().filter_map(|id| self.peers.get(id));
        explanation.advertised =
            peers.flat_map(|peer| self.explain_towards(peer, entry, &explanation.paths)).collect();
        explanation
    }

    /// The path at `index` against the one before it, down to the step that tells them apart.
    fn explain_pair(&self, entry: Entry<'_>, index: usize, explanation: &mut Explanation) {
        let (_, decisive) = compare(entry.paths, index - 1, index, &self.rib.attrs, &self.rib.sources);
        let (Some(better), Some(worse)) = (entry.paths.get(index - 1), entry.paths.get(index)) else {
            return;
        };
        let names = (name(explanation.paths.get(index - 1)), name(explanation.paths.get(index)));
        explanation.steps.push(format!("{} is preferred over {}: {}", names.0, names.1, decisive.text()));
        for step in Step::ORDER {
            let (ours, theirs) = (self.value(step, better), self.value(step, worse));
            if step == decisive {
                explanation.steps.push(format!("  {}: {ours} against {theirs}, which decides", step.text()));
                return;
            }
            explanation.steps.push(format!("  {}: {ours}, the same", step.text()));
        }
    }

    /// What a step of the decision looks at.
    fn value(&self, step: Step, path: &Path) -> String {
        let attributes = &self.rib.attrs.get(path.attrs).attributes;
        let source = self.rib.sources.get(&path.source);
        let yes = |it: bool| if it { "yes" } else { "no" }.to_owned();
        match step {
            Step::Eligible => yes(path.filtered.is_none()),
            Step::Reachable => yes(!path.unreachable),
            Step::Cost => match self.rib.attrs.cost(path.attrs) {
                Some(u32::MAX) => "unknown".to_owned(),
                Some(cost) => cost.to_string(),
                None => "unreachable".to_owned(),
            },
            Step::Local => yes(path.source == SourceId::LOCAL),
            Step::LongLived => yes(!path.is_last_resort(attributes)),
            Step::LocalPref => attributes.local_pref.unwrap_or(DEFAULT_LOCAL_PREF).to_string(),
            Step::AsPath => format!("length {}", attributes.as_path.length()),
            Step::Origin => attributes.origin.to_string(),
            Step::Med => {
                let neighbour = attributes.as_path.first();
                let neighbour = neighbour.map_or_else(|| "here".to_owned(), |asn| format!("AS {asn}"));
                format!("{} from {neighbour}", attributes.med.unwrap_or(0))
            }
            Step::External => match source.and_then(|source| source.kind) {
                Some(PeerKind::External) => "external".to_owned(),
                Some(_) => "internal".to_owned(),
                None => "originated here".to_owned(),
            },
            Step::Stale => yes(!path.stale),
            Step::RouterId => {
                let id = attributes.originator_id.or(source.map(|source| source.id));
                id.map_or_else(|| "unknown".to_owned(), |id| id.to_string())
            }
            Step::ClusterList => format!("length {}", attributes.cluster_list.len()),
            Step::PeerAddress => {
                let address = source.and_then(|source| source.address());
                address.map_or_else(|| "none".to_owned(), |address| address.to_string())
            }
            Step::PathId => path.path_id.to_string(),
        }
    }

    fn explain_import(&self, prefix: IpNet, path: &Path) -> Option<Imported> {
        let peer = self.peers.get(&path.source)?;
        let config = &peer.config;
        if config.import.is_transparent() {
            return None;
        }
        let peer_type =
            if config.kind == PeerKind::External { PeerType::External } else { PeerType::Internal };
        let route = self.rib.attrs.get(path.attrs);
        let (next_hop, attributes) = (route.next_hop.map(|next_hop| next_hop.address()), &route.attributes);
        let view = RouteView { prefix, next_hop, attributes, learned: true, peer_type };
        let trace = config.import.explain(&view);
        Some(Imported { peer: config.remote, trace, over_changed: path.filtered.is_none() })
    }

    /// One line, or one for each path that is eligible where the peer can be sent several.
    fn explain_towards(&self, peer: &Peer, entry: Entry<'_>, infos: &[RouteInfo]) -> Vec<AdvertisedTo> {
        let Some(leading) = entry.leading() else { return Vec::new() };
        let remote = peer.config.remote;
        let Some(profile) = self.profile(peer.id) else {
            let error = peer.last_error.as_ref().map(|(_, text)| format!(": {text}")).unwrap_or_default();
            let reason = format!("the session is {}{error}", peer.main.state);
            return vec![AdvertisedTo { peer: remote, sent: false, reason, trace: None }];
        };
        if !profile.sends_paths(&entry.prefix) {
            return vec![self.explain_path(remote, &profile, entry.prefix, leading)];
        }
        let group = self.egress.group_of_member(peer.id).zip(self.rib.find_id(&entry.prefix));
        let sent: Vec<_> = group.map(|((_, group), id)| group.sent(id, entry).collect()).unwrap_or_default();
        let eligible = entry.paths.iter().zip(infos).filter(|(path, _)| path.filtered.is_none());
        eligible
            .map(|(path, info)| {
                let mut towards = self.explain_path(remote, &profile, entry.prefix, path);
                let known = sent.iter().find(|(_, sent)| std::ptr::eq(*sent, path));
                let reason = match known {
                    Some((Some(path_id), _)) => format!("as path {path_id}, {}", towards.reason),
                    None if towards.sent => {
                        towards.sent = false;
                        format!("{} better paths are enough", profile.paths)
                    }
                    _ => towards.reason,
                };
                AdvertisedTo { reason: format!("{}: {reason}", name(Some(info))), ..towards }
            })
            .collect()
    }

    fn explain_path(
        &self,
        remote: IpAddr,
        profile: &EgressProfile,
        prefix: IpNet,
        path: &Path,
    ) -> AdvertisedTo {
        let outgoing = profile.outgoing(&self.rib, self.identity(), prefix, Told::of(path, &self.rib));
        let asked = !profile.export.is_transparent()
            && matches!(outgoing, Ok(_) | Err(Suppressed::Policy | Suppressed::NextHop));
        let trace = asked.then(|| profile.trace(&self.rib, prefix, path));
        let (sent, reason) = match outgoing {
            Ok(_) if self.is_withholding() => {
                (false, "not yet: advertising waits until the table is complete (RFC 4724)".to_owned())
            }
            Ok(outgoing) => (true, format!("next hop {}", outgoing.next_hop)),
            Err(suppressed) => (false, suppressed.text().to_owned()),
        };
        AdvertisedTo { peer: remote, sent, reason, trace }
    }
}
