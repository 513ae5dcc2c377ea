//! One node's sessions, each from the two Nodes it joins and the objects that concern all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use margay_api::kinds::ReversePeering;
use margay_api::{BgpPeer, Key, Node};
use margay_bgp::policy::Policy;
use margay_bgp::{PeerConfig, PeerKind};
use margay_control::status::Problem;

use super::assign::Reflectors;
use super::cluster::{self, Workload};
use super::selecting::Selecting;
use super::settings::Settings;
use super::{
    Cluster, Peer, Way, addresses, as_of, cluster_id, concerns, families, filters, matches, node_addresses,
    pod_cidrs, problem, service_ranges,
};

/// What comes of two nodes, or of a BGPPeer that names a router.
#[derive(Debug)]
pub(super) enum Outcome {
    /// No session is wanted.
    None,
    /// One is, but must not be used: its password is missing.
    Unusable,
    /// This one, by way of this gateway (`reachableBy`).
    Session(Peer, Option<IpAddr>),
}

/// A BGPPeer that has to do with this node.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule<'a> {
    pub(super) name: &'a str,
    pub(super) peer: &'a BgpPeer,
    /// Where it is written.
    pub(super) origin: Origin,
    /// It is for this node.
    pub(super) here: bool,
    /// It is for nodes that peer with this one, and makes the reverse sessions too.
    pub(super) reverse: bool,
}

/// Where a [`Rule`] is written.
#[derive(Debug, Clone, Copy)]
pub(super) enum Origin {
    /// A BGPPeer.
    Object,
    /// A listen range of the configuration: a BGPPeer for whoever is in it.
    Range,
}

impl Rule<'_> {
    /// What people know it by.
    pub(super) fn object(&self) -> String {
        match self.origin {
            Origin::Object => format!("BGPPeer({})", self.name),
            Origin::Range => format!("listenRanges({})", self.name),
        }
    }

    /// Of two BGPPeers for a session the one that says more precisely for whom it is counts, then the first by name.
    /// Both ends come to the same.
    fn precedence(&self) -> (u8, &str) {
        let spec = &self.peer.spec;
        (if spec.node.is_some() { 0 } else { 1 + u8::from(spec.node_selector.is_none()) }, self.name)
    }
}

/// Sessions with others than nodes, by address, with the BGPPeers they are from.
type Sought<'a> = BTreeMap<IpAddr, (Rule<'a>, Outcome)>;

/// Import and export of a session.
pub(super) type Policies = (Arc<Policy>, Arc<Policy>);

pub(super) struct Builder<'a> {
    name: &'a str,
    pub(super) cluster: &'a Cluster,
    reflectors: &'a Reflectors,
    selecting: &'a Selecting,
    pub(super) me: &'a Node,
    pub(super) forwards: bool,
    pub(super) settings: Settings<'a>,
    /// BGPPeers in the order in which they count.
    rules: Vec<Rule<'a>>,
    import_all: Arc<Policy>,
    pub(super) export_own: Arc<Policy>,
    /// What a reflector tells nodes and other reflectors.
    export_reflected: Arc<Policy>,
    /// BGPFilters compiled, by BGPPeer and by whether for a router, and what is wrong with them.
    pub(super) compiled: BTreeMap<(&'a str, bool), (Policies, Vec<String>)>,
    pub(super) problems: Vec<Problem>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(
        name: &'a str,
        me: &'a Node,
        cluster: &'a Cluster,
        (reflectors, selecting): (&'a Reflectors, &'a Selecting),
        forwards: bool,
    ) -> Self {
        let settings = Settings::of(name, cluster);
        let mut problems = Vec::new();
        let mut rules = Vec::new();
        for (peer_name, peer) in &cluster.peers {
            let (spec, here) = (&peer.spec, concerns(peer, name, me));
            let reverse = spec.reverse_peering.unwrap_or_default() == ReversePeering::Auto
                && spec.peer_selector.as_ref().is_some_and(|selector| matches(selector, me));
            if here || reverse {
                rules.push(Rule { name: peer_name, peer, origin: Origin::Object, here, reverse });
            }
            let addresses = [true, false].map(|v4| settings.workload_peering(v4));
            let wanted = here && forwards && spec.local_workload_selector.is_some();
            if wanted && addresses == [None, None] {
                let message = "there is no address for workloads to peer with: set localWorkloadPeeringIPV4 or \
                               localWorkloadPeeringIPV6 of BGPConfiguration";
                problems.push(problem(format!("BGPPeer({peer_name})"), message));
            }
        }
        rules.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        Self {
            name,
            cluster,
            reflectors,
            selecting,
            me,
            forwards,
            settings,
            rules,
            import_all: Arc::default(),
            export_own: Arc::new(filters::export_own(
                cluster.pools_in_force(),
                pod_cidrs(me),
                service_ranges(cluster),
                cluster_id(me).is_some(),
            )),
            export_reflected: Arc::new(filters::export_reflected(
                cluster.pools_in_force(),
                service_ranges(cluster),
            )),
            compiled: BTreeMap::new(),
            problems,
        }
    }

    /// Addresses that BGPPeers for this node name, and the sessions with those that are no node's.
    pub(super) fn routers(&mut self) -> Vec<Outcome> {
        let nodes: BTreeMap<IpAddr, &str> = if self.rules.iter().any(|rule| rule.peer.spec.peer_ip.is_some())
        {
            let all = self.cluster.nodes.iter();
            all.flat_map(|(name, node)| node_addresses(node).map(move |address| (address, name.as_str())))
                .collect()
        } else {
            BTreeMap::new()
        };
        let mut out = Sought::new();
        for rule in self.rules.clone() {
            let Some(address) = rule.peer.spec.peer_ip.as_ref().filter(|_| rule.here) else { continue };
            let remote = address.ip;
            if nodes.contains_key(&remote) {
                continue;
            }
            let outcome = self.with_router(rule, address);
            self.note(&mut out, remote, rule, outcome);
        }
        out.into_values().map(|(_, outcome)| outcome).collect()
    }

    /// The sessions with workloads of this node that BGPPeers select.
    pub(super) fn workloads(&mut self) -> Vec<Outcome> {
        let mut out = Sought::new();
        for rule in self.rules.clone().into_iter().filter(|rule| rule.here) {
            for (key, workload) in self.selected(rule) {
                for remote in &workload.addresses {
                    let Some(local) = self.settings.workload_peering(remote.is_ipv4()) else { continue };
                    let outcome = self.with_workload(rule, &key.name, *remote, local);
                    if workload.alone {
                        let message = "what its workloads announce is routed to them, but policy lets through what is \
                                       theirs alone: their own addresses, and allowSpoofedSourcePrefixes of their \
                                       WorkloadEndpoints, which some lack";
                        self.report(problem(rule.object(), message));
                    }
                    self.note(&mut out, *remote, rule, outcome);
                }
            }
        }
        out.into_values().map(|(_, outcome)| outcome).collect()
    }

    /// The workloads of this node that a BGPPeer for it selects.
    fn selected(&self, rule: Rule<'a>) -> impl Iterator<Item = (&'a Key, &'a Workload)> + use<'a> {
        let selector = rule.peer.spec.local_workload_selector.as_ref().filter(|_| rule.here);
        selector.into_iter().flat_map(|selector| {
            self.cluster.workloads.iter().filter(|(_, workload)| selector.matches(&workload.labels))
        })
    }

    /// The ways to next hops: the kernel's, and those to the workloads that BGP is spoken with and by gateways to peers
    /// (`reachableBy`), which are routes of our own.
    pub(super) fn ways(&self) -> BTreeSet<Way> {
        let workloads = self.rules.iter().flat_map(|rule| self.selected(*rule)).map(|(_, workload)| workload);
        let ways = workloads.flat_map(|workload| {
            workload.addresses.iter().map(|address| Way {
                prefix: (*address).into(),
                metric: 0,
                dev: workload.interface.clone(),
            })
        });
        let gateways = self.gateways().into_iter().flat_map(|(peer, gateway)| {
            let to_peer = move |way: &Way| Way { prefix: peer.into(), metric: 0, dev: way.dev.clone() };
            cluster::best_ways(&self.cluster.ways, gateway).map(to_peer).collect::<Vec<_>>()
        });
        self.cluster.ways.iter().cloned().chain(ways).chain(gateways).collect()
    }

    /// Peers that are reached by way of a gateway. Of several BGPPeers for one the first counts.
    fn gateways(&self) -> BTreeMap<IpAddr, IpAddr> {
        let mut first = BTreeMap::new();
        for rule in self.rules.iter().filter(|rule| rule.here) {
            if let Some(peer) = &rule.peer.spec.peer_ip {
                first.entry(peer.ip).or_insert(rule.peer.spec.reachable_by);
            }
        }
        first.into_iter().filter_map(|(peer, gateway)| Some((peer, gateway?))).collect()
    }

    /// The addresses that workloads peer with, if any may.
    pub(super) fn workload_peering(&self) -> BTreeSet<IpAddr> {
        let wanted = |rule: &Rule<'_>| rule.here && rule.peer.spec.local_workload_selector.is_some();
        let families = [true, false].into_iter().filter(|_| self.rules.iter().any(wanted));
        families.filter_map(|v4| self.settings.workload_peering(v4)).collect()
    }

    /// Of two sessions with one address the first counts.
    fn note(&mut self, out: &mut Sought<'a>, remote: IpAddr, rule: Rule<'a>, outcome: Outcome) {
        match out.get(&remote) {
            Some((winner, first)) => {
                let (winner, differs) = (*winner, differ(first, &outcome));
                self.report_conflict(winner, rule, differs);
            }
            None => drop(out.insert(remote, (rule, outcome))),
        }
    }

    /// The session with another node.
    pub(super) fn with_node(&mut self, name: &str, there: &Node) -> Outcome {
        if name == self.name {
            return Outcome::None;
        }
        self.in_ranges(there);
        let Some((_, remote)) = addresses(self.me, there) else { return Outcome::None };
        if node_addresses(self.me).any(|own| own == remote) {
            let message = format!(
                "its address {remote} is that of {}, which does not peer with itself: delete it if the machine has \
                 another name now",
                self.name
            );
            self.report(problem(format!("Node({name})"), message));
            return Outcome::None;
        }
        let selected = self.rules.iter().copied().filter(|rule| rule.selects(name, there));
        let mut selected: Vec<Rule<'a>> = selected.collect();
        if selected.is_empty() {
            return if self.automatic(name, there) { self.session(name, there, None) } else { Outcome::None };
        }
        let winner = selected.remove(0);
        let outcome = self.session(name, there, Some(winner));
        for loser in selected {
            let other = self.session(name, there, Some(loser));
            self.report_conflict(winner, loser, differ(&outcome, &other));
        }
        outcome
    }

    /// Whether two nodes that no BGPPeer joins peer all the same.
    fn automatic(&self, name: &str, there: &Node) -> bool {
        let (mine, theirs) = (cluster_id(self.me).is_some(), cluster_id(there).is_some());
        if !mine && !theirs {
            // Calico's mesh: every pair of nodes while there is no reflector.
            let mesh = self.settings.mesh().and_then(|conf| conf.node_to_node_mesh_enabled).unwrap_or(true);
            return mesh && self.reflectors.is_empty();
        }
        if self.decided(self.name, self.me) || self.decided(name, there) {
            return false;
        }
        // A reflector takes whom it is not assigned too: nodes come before they leave another, and leave when
        // another serves them.
        mine || self.reflectors.serves(name, self.name)
    }

    /// Whether BGPPeers say whom a node peers with inside the cluster. A reflector that some are told to peer with goes
    /// on to serve the others, and so does one that is told to peer with other reflectors.
    fn decided(&self, name: &str, node: &Node) -> bool {
        let reflector = cluster_id(node).is_some();
        self.cluster.peers.iter().any(|(peer_name, peer)| {
            peer.spec.peer_selector.as_ref().is_some_and(|selector| {
                let auto = peer.spec.reverse_peering.unwrap_or_default() == ReversePeering::Auto;
                concerns(peer, name, node) && (!reflector || self.selecting.contains(peer_name))
                    || auto && !reflector && matches(selector, node)
            })
        })
    }

    fn session(&mut self, name: &str, there: &Node, rule: Option<Rule<'a>>) -> Outcome {
        let Some((local, remote)) = addresses(self.me, there) else { return Outcome::None };
        let (mut own_as, mut their_as) = (as_of(self.me, self.cluster), as_of(there, self.cluster));
        // `localASNumber` is that of the nodes the BGPPeer is for; the selected ones see it as the peer's.
        let mut local_as = None;
        if let Some((rule, number)) = rule.and_then(|rule| Some((rule, rule.peer.spec.local_as_number?))) {
            if rule.here {
                own_as = number.0;
                local_as = Some(number.0);
            }
            if concerns(rule.peer, name, there) {
                their_as = number.0;
            }
        }
        let (own_id, their_id) = (cluster_id(self.me), cluster_id(there));
        let kind = match own_id {
            _ if own_as != their_as => PeerKind::External,
            // Reflectors of one cluster do not serve each other (RFC 4456 section 7).
            Some(_) if their_id.is_none() || their_id != own_id && rule.is_some() => PeerKind::InternalClient,
            _ => PeerKind::Internal,
        };
        let mut config = PeerConfig::new(remote, their_as, kind);
        config.local = Some(local);
        config.local_other = node_addresses(self.me).find(|own| own.is_ipv4() != remote.is_ipv4());
        config.local_as = local_as;
        let named = rule.filter(|rule| rule.here).and_then(|rule| rule.peer.spec.peer_ip.as_ref()?.port);
        config.port = named.unwrap_or_else(|| Settings::of(name, self.cluster).listen_port());
        name.clone_into(&mut config.description);
        // One side dials, so that there are no collisions: nodes dial reflectors, else the lower address does.
        config.passive = match (own_id.is_some(), their_id.is_some()) {
            (true, false) => true,
            (false, true) => false,
            _ => local > remote,
        };
        config.families = families(self.me, there);
        if own_id.is_some() {
            if their_id.is_none() {
                self.restrict(&mut config, name, there);
                self.authorise(&mut config, name, there, rule);
                config.expected = rule.is_some() || self.reflectors.serves(self.name, name);
            }
            config.import = Arc::clone(&self.import_all);
            config.export = Arc::clone(&self.export_reflected);
        } else {
            config.export = Arc::clone(&self.export_own);
        }
        let usable = match rule {
            Some(rule) => self.adjust(&mut config, rule, false),
            None => self.adjust_mesh(&mut config),
        };
        if !usable {
            return Outcome::Unusable;
        }
        let peer =
            Peer { config: Arc::new(config), node: Some(name.to_owned()), reflector: their_id.is_some() };
        Outcome::Session(peer, rule.and_then(|rule| rule.peer.spec.reachable_by))
    }

    fn report_conflict(&mut self, winner: Rule<'a>, loser: Rule<'a>, differs: bool) {
        if differs {
            let message = format!(
                "a session that BGPPeer({}) is for too follows that one, which names its nodes more precisely or is \
                 first by name: what this one says otherwise has no effect there",
                winner.name
            );
            self.report(problem(loser.object(), message));
        }
    }

    pub(super) fn report(&mut self, problem: Problem) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }
}

impl Rule<'_> {
    /// Whether it joins this node to that one.
    fn selects(&self, name: &str, there: &Node) -> bool {
        let spec = &self.peer.spec;
        let forward = self.here
            && match (&spec.peer_ip, &spec.peer_selector) {
                (Some(address), _) => node_addresses(there).any(|own| own == address.ip),
                (None, Some(selector)) => matches(selector, there),
                (None, None) => false,
            };
        forward || self.reverse && concerns(self.peer, name, there)
    }
}

/// Whether two BGPPeers make different things of a session, apart from the name it shows.
fn differ(one: &Outcome, other: &Outcome) -> bool {
    match (one, other) {
        (Outcome::Session(one, gateway), Outcome::Session(other, other_gateway)) => {
            let description = one.config.description.clone();
            let other = PeerConfig { description, ..PeerConfig::clone(&other.config) };
            *one.config != other || gateway != other_gateway
        }
        (Outcome::None, Outcome::None) | (Outcome::Unusable, Outcome::Unusable) => false,
        _ => true,
    }
}
