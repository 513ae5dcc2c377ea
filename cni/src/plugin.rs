//! The verbs: what the shim does with an environment and a configuration.

use std::net::IpAddr;
use std::time::Duration;

use margay_control::cni::{
    AddReply, AddRequest, Attachment, CheckReply, CheckRequest, CommitReply, CommitRequest, DelRequest,
    Failed, GcRequest, PodCidrs,
};
use margay_control::{Client, ClientError};
use margay_netlink::{Mac, Netns};
use serde_json::Value;

use crate::chained;
use crate::config::{Config, Dns, peek_socket};
use crate::delegate::Delegate;
use crate::environment::{Environment, Target, Verb};
use crate::error::{CniError, code};
use crate::result::{CniResult, Interface, IpConfig, RouteConfig};
use crate::spool::Spool;
use crate::version::{Version, version_answer};
use crate::wiring::{self, Wiring};

/// Performs the verb of `environment` with the configuration in `stdin` and returns what to print on standard output.
///
/// # Errors
/// The error to print, with the specification's code.
pub fn run(environment: &Environment, stdin: &[u8]) -> Result<String, CniError> {
    let verb = Verb::parse(environment.get("CNI_COMMAND").map_or("", String::as_str))?;
    if verb == Verb::Version {
        return Ok(version_answer());
    }
    let config = Config::parse(verb, stdin)?;
    let needed = match verb {
        Verb::Check => Version::V0_4_0,
        Verb::Gc | Verb::Status => Version::V1_1_0,
        Verb::Add | Verb::Del | Verb::Version => Version::V0_1_0,
    };
    if config.version < needed {
        return Err(CniError::new(
            code::INCOMPATIBLE_VERSION,
            format!("cniVersion {} has no such verb: it came with {needed}", config.version),
        ));
    }
    let client = Client::new(&config.socket).with_timeout(config.timeout);
    let plugin = Plugin { environment, client, config };
    match verb {
        Verb::Add => plugin.add(&Target::read(verb, environment)?).map(|result| result.to_string()),
        Verb::Del => plugin.del(&Target::read(verb, environment)?).map(|()| String::new()),
        Verb::Check => plugin.check(&Target::read(verb, environment)?).map(|()| String::new()),
        Verb::Gc => plugin.gc().map(|()| String::new()),
        Verb::Status => plugin.status().map(|()| String::new()),
        Verb::Version => Ok(version_answer()),
    }
}

/// How long the agent's log may keep a runtime waiting.
const REPORT_TIME: Duration = Duration::from_secs(1);

/// Tells the agent, for its log, that a verb failed. An agent that cannot be told is what most errors are about. STATUS is asked
/// again and again, and its errors are the agent's own.
pub fn report(environment: &Environment, stdin: &[u8], error: &CniError) {
    let get = |name: &str| environment.get(name).cloned().unwrap_or_default();
    let failed = Failed {
        verb: get("CNI_COMMAND"),
        container_id: get("CNI_CONTAINERID"),
        ifname: get("CNI_IFNAME"),
        code: error.code,
        message: error.to_string(),
    };
    if failed.verb != "STATUS" {
        let client = Client::new(peek_socket(stdin)).with_timeout(REPORT_TIME);
        let _told = client.post::<_, Value>("/v1/cni/failed", &failed);
    }
}

struct Plugin<'a> {
    environment: &'a Environment,
    config: Config,
    client: Client,
}

impl Plugin<'_> {
    fn add(&self, target: &Target) -> Result<Value, CniError> {
        let netns_path = target.netns.as_deref().unwrap_or_default();
        let netns = open_netns(target, netns_path)?;
        if let Some(previous) = &self.config.previous {
            return self.join(target, netns_path, &netns, previous);
        }
        // Before anything is reserved: a second ADD must neither take nor release the first one's address.
        let mut inside = margay_netlink::Netlink::open_in(&netns).map_err(kernel)?;
        let mut is_taken = || Ok(inside.link(&target.ifname).map_err(kernel)?.is_some());
        if is_taken()? {
            // DEL is answered before the kernel has taken the interface away. Without the agent nothing is under way.
            self.settle();
            if is_taken()? {
                return Err(interface_exists(target, netns_path));
            }
        }
        let request = self.request(target, netns_path);
        let Some(ipam) = &self.config.ipam else {
            let reply = self.reserve(&request)?;
            return self.attach(target, &netns, &request, &reply, &self.config.dns);
        };
        let ipam = self.with_pod_cidrs(ipam)?;
        let given = ipam.add(self.environment)?;
        let assigned = given.ips.iter().map(|ip| ip.address.addr()).collect();
        let request = AddRequest { assigned, ..request };
        let dns = if self.config.dns.is_empty() { &given.dns } else { &self.config.dns };
        let outcome =
            self.reserve(&request).and_then(|reply| self.attach(target, &netns, &request, &reply, dns));
        outcome.map_err(|mut error| {
            if let Err(left) = ipam.tell("DEL", self.environment) {
                error.details = format!("{}; and giving the addresses back failed: {left}", error.details);
            }
            error
        })
    }

    /// ADD behind another plugin of the list, which has made the interface: it gets policy, and stays as it is.
    fn join(
        &self,
        target: &Target,
        netns_path: &str,
        netns: &Netns,
        previous: &CniResult,
    ) -> Result<Value, CniError> {
        let found = chained::find(netns, &target.ifname)?;
        let assigned: Vec<IpAddr> = previous.ips_of(&target.ifname).map(|ip| ip.address.addr()).collect();
        if assigned.is_empty() {
            let message =
                format!("prevResult names no address of {}: policy needs to know it", target.ifname);
            return Err(CniError::new(code::INVALID_CONFIG, message));
        }
        let interface = Some(found.host_ifname.clone());
        let request = AddRequest { assigned, interface, ..self.request(target, netns_path) };
        self.reserve(&request)?;
        self.commit(&request.attachment, &found.host_ifname, found.mac)
            .map_err(|error| self.undone(&request.attachment, error))?;
        Ok(self.config.previous_json.clone())
    }

    fn request(&self, target: &Target, netns_path: &str) -> AddRequest {
        let ips = if self.config.ips.is_empty() { &target.args.ips } else { &self.config.ips };
        AddRequest {
            attachment: self.attachment(target),
            netns: netns_path.to_owned(),
            pod_namespace: target.args.pod_namespace.clone(),
            pod_name: target.args.pod_name.clone(),
            pod_uid: target.args.pod_uid.clone(),
            labels: self.config.labels.clone(),
            requested_ips: ips.clone(),
            mac: self.config.mac.clone().or_else(|| target.args.mac.clone()),
            pools: self.config.pools.clone(),
            assigned: Vec::new(),
            may_bypass_ipam: self.config.may_bypass_ipam,
            interface: None,
        }
    }

    fn reserve(&self, request: &AddRequest) -> Result<AddReply, CniError> {
        match self.client.post("/v1/cni/add", request) {
            Ok(reply) => Ok(reply),
            Err(error @ (ClientError::Unreachable { .. } | ClientError::Refused { .. })) => {
                Err(self.agent_error(error))
            }
            // The request may have arrived and only its answer been lost.
            Err(error) => Err(self.undone(&request.attachment, self.agent_error(error))),
        }
    }

    /// Waits for interfaces whose DEL was answered to be gone; without the agent nothing is under way.
    fn settle(&self) {
        let _settled = self.client.post::<_, Value>("/v1/cni/settle", &());
    }

    /// The IPAM plugin's configuration for an ADD.
    fn with_pod_cidrs(&self, ipam: &Delegate) -> Result<Delegate, CniError> {
        if !ipam.wants_pod_cidrs() {
            return Ok(ipam.clone());
        }
        let known: PodCidrs =
            self.client.get("/v1/cni/pod-cidrs").map_err(|error| self.agent_error(error))?;
        ipam.with_pod_cidrs(&known.cidrs)
    }

    /// Everything after the reservation, which is taken back if it fails.
    fn attach(
        &self,
        target: &Target,
        netns: &Netns,
        request: &AddRequest,
        reply: &AddReply,
        dns: &Dns,
    ) -> Result<Value, CniError> {
        self.wire(target, netns, request, reply, dns).map_err(|error| self.undone(&request.attachment, error))
    }

    fn wire(
        &self,
        target: &Target,
        netns: &Netns,
        request: &AddRequest,
        reply: &AddReply,
        dns: &Dns,
    ) -> Result<Value, CniError> {
        let mac: Option<Mac> = match reply.mac.as_deref().map(str::parse).transpose() {
            Ok(mac) => mac,
            Err(error) => {
                return Err(
                    CniError::new(code::KERNEL, "the agent's answer has a bad MAC").with_details(error)
                );
            }
        };
        let wiring = Wiring {
            host_ifname: &reply.host_ifname,
            ifname: &target.ifname,
            mac,
            mtu: reply.mtu,
            addresses: &reply.addresses,
        };
        let mac = wiring.build(netns).map_err(|error| match error {
            error if error.is_exists() => interface_exists(target, &request.netns).with_details(error),
            error => kernel(error),
        })?;
        match self.commit(&request.attachment, &reply.host_ifname, mac) {
            Ok(()) => Ok(self.result(&wiring, mac, &request.netns, dns)),
            Err(mut error) => {
                if let Err(left) = wiring::remove(netns, &target.ifname) {
                    error.details =
                        format!("{}; and removing the interface again failed: {left}", error.details);
                }
                Err(error)
            }
        }
    }

    fn commit(&self, attachment: &Attachment, host_ifname: &str, mac: Mac) -> Result<(), CniError> {
        let commit = CommitRequest {
            attachment: attachment.clone(),
            host_ifname: host_ifname.to_owned(),
            mac: mac.to_string(),
        };
        let live = self.client.post::<_, CommitReply>("/v1/cni/commit", &commit);
        live.map(|_| ()).map_err(|error| self.agent_error(error))
    }

    fn result(&self, wiring: &Wiring<'_>, mac: Mac, netns_path: &str, dns: &Dns) -> Value {
        let routes: Vec<RouteConfig> = wiring
            .routes()
            .into_iter()
            .map(|(destination, gateway)| RouteConfig { destination, gateway: Some(gateway) })
            .collect();
        let gateway_of = |ip: IpAddr| {
            routes
                .iter()
                .find(|r| r.destination.addr().is_ipv4() == ip.is_ipv4())
                .and_then(|route| route.gateway)
        };
        let interface = |name: &str, mac: Mac, sandbox: &str| Interface {
            name: name.to_owned(),
            mac: mac.to_string(),
            mtu: Some(wiring.mtu),
            sandbox: sandbox.to_owned(),
        };
        CniResult {
            interfaces: vec![
                interface(wiring.host_ifname, Mac::HOST_SIDE, ""),
                interface(wiring.ifname, mac, netns_path),
            ],
            ips: wiring
                .addresses
                .iter()
                .map(|net| IpConfig { address: *net, gateway: gateway_of(net.addr()), interface: Some(1) })
                .collect(),
            routes,
            dns: dns.clone(),
        }
        .to_json(self.config.version)
    }

    /// DEL succeeds whatever is missing. The agent does it all, and most of it after its answer. Without the agent it fails
    /// only if the kernel refuses to remove what is there, or the release cannot be recorded: then the runtime has to
    /// come back, or an address would leak.
    fn del(&self, target: &Target) -> Result<(), CniError> {
        let request = DelRequest { attachment: self.attachment(target) };
        match self.tell(&request) {
            Ok(()) if self.config.ipam.is_some() => self.settle(),
            Ok(()) => {}
            Err(error) => self.del_alone(target, &request, &error)?,
        }
        match &self.config.ipam {
            // Whoever gets the addresses next must not meet the interface.
            Some(ipam) => ipam.with_any_cidr().tell("DEL", self.environment),
            None => Ok(()),
        }
    }

    /// DEL without the agent, whose error this is.
    fn del_alone(&self, target: &Target, request: &DelRequest, error: &ClientError) -> Result<(), CniError> {
        let netns = target.netns.as_deref().and_then(|path| open_netns(target, path).ok());
        let removed = match (&netns, self.host_side()) {
            // Whoever made it removes it.
            (_, Some(host_ifname)) if chained::is_foreign(host_ifname) => Ok(()),
            (Some(netns), _) => wiring::remove(netns, &target.ifname),
            (None, Some(host_ifname)) => wiring::remove_host_side(host_ifname),
            // The namespace is gone, and the veth with it; the agent knows the name in case it isn't.
            (None, None) => Ok(()),
        };
        // An interface that is still there may still be in use: its address must not be given to anyone else.
        removed.map_err(kernel)?;
        self.record(request, error)
    }

    /// The host side as the result of ADD named it.
    fn host_side(&self) -> Option<&str> {
        let interfaces = &self.config.previous.as_ref()?.interfaces;
        interfaces
            .iter()
            .find(|interface| interface.sandbox.is_empty())
            .map(|interface| interface.name.as_str())
    }

    fn check(&self, target: &Target) -> Result<(), CniError> {
        let Some(previous) = &self.config.previous else {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                "CHECK needs prevResult: give the result of ADD",
            ));
        };
        let netns = open_netns(target, target.netns.as_deref().unwrap_or_default())?;
        let request = CheckRequest { attachment: self.attachment(target) };
        let held: CheckReply =
            self.client.post("/v1/cni/check", &request).map_err(|e| self.agent_error(e))?;
        let wiring = Wiring {
            host_ifname: &held.host_ifname,
            ifname: &target.ifname,
            mac: None,
            mtu: 0,
            addresses: &held.addresses,
        };
        // Another plugin's wiring is its own to verify.
        let foreign = chained::is_foreign(&held.host_ifname);
        let mut wrong = if foreign { Vec::new() } else { wiring.verify(&netns).map_err(kernel)? };
        if !held.live {
            wrong.push("route or policy of the container are not in the kernel yet".to_owned());
        }
        // Only what ADD reported for this interface; other plugins of the chain check their own.
        for ip in previous.ips_of(&target.ifname) {
            if !held.addresses.iter().any(|held| held.addr() == ip.address.addr()) {
                wrong.push(format!("the agent doesn't hold {} for this container", ip.address));
            }
        }
        if let Some(ipam) = &self.config.ipam {
            self.with_pod_cidrs(ipam)?.tell("CHECK", self.environment)?;
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let message =
            format!("container {} is not wired as ADD left it: remove and add it again", target.container_id);
        Err(CniError::new(code::CHECK_FAILED, message).with_details(wrong.join("; ")))
    }

    fn gc(&self) -> Result<(), CniError> {
        let Some(valid) = &self.config.valid_attachments else {
            let message = "GC needs cni.dev/valid-attachments: without it everything would be released";
            return Err(CniError::new(code::INVALID_CONFIG, message));
        };
        let network = &self.config.network;
        let attachment = |(container_id, ifname): &(String, String)| Attachment {
            container_id: container_id.clone(),
            ifname: ifname.clone(),
            network: network.clone(),
        };
        let request = GcRequest { network: network.clone(), valid: valid.iter().map(attachment).collect() };
        let ours = self.client.post::<_, Value>("/v1/cni/gc", &request).map_err(|e| self.agent_error(e));
        // As much as can be is collected, whatever of it cannot: so the specification wants it.
        let theirs = match &self.config.ipam {
            Some(ipam) => {
                self.settle();
                ipam.with_any_cidr().ask("GC", self.environment)
            }
            None => Ok(()),
        };
        ours.map(|_| ()).and(theirs)
    }

    fn status(&self) -> Result<(), CniError> {
        self.client.get::<Value>("/v1/cni/status").map_err(|error| {
            let message = "the network is not ready: ADD would fail (systemctl status margay-agent)";
            CniError::new(code::NOT_AVAILABLE, message).with_details(error)
        })?;
        match &self.config.ipam {
            Some(ipam) => self.with_pod_cidrs(ipam)?.ask("STATUS", self.environment),
            None => Ok(()),
        }
    }

    fn attachment(&self, target: &Target) -> Attachment {
        Attachment {
            container_id: target.container_id.clone(),
            ifname: target.ifname.clone(),
            network: self.config.network.clone(),
        }
    }

    fn tell(&self, request: &DelRequest) -> Result<(), ClientError> {
        self.client.post::<_, Value>("/v1/cni/del", request).map(|_| ())
    }

    /// Leaves a release for an agent that could not be told.
    fn record(&self, request: &DelRequest, error: &ClientError) -> Result<(), CniError> {
        Spool::new(&self.config.spool_dir).put(request).map_err(|spool| {
            let dir = self.config.spool_dir.display();
            CniError::new(
                code::TRY_AGAIN_LATER,
                format!(
                    "the release reached neither the agent nor {dir}: start the agent or make {dir} writable"
                ),
            )
            .with_details(format!("{error}; {spool}"))
        })
    }

    /// Gives back what was reserved for an ADD that failed.
    fn undone(&self, attachment: &Attachment, mut error: CniError) -> CniError {
        let request = DelRequest { attachment: attachment.clone() };
        if let Err(left) = self.tell(&request).or_else(|error| self.record(&request, &error)) {
            error.details = format!("{}; and the release failed: {left}", error.details);
        }
        error
    }

    fn agent_error(&self, error: ClientError) -> CniError {
        let socket = self.config.socket.display();
        match error {
            ClientError::Unreachable { .. } => CniError::new(
                code::TRY_AGAIN_LATER,
                format!("margay-agent is not running: start it (systemctl start margay-agent); it listens on {socket}"),
            )
            .with_details(error),
            ClientError::Refused { body, .. } if body.code != 0 => {
                CniError { code: body.code, message: body.message, details: body.details }
            }
            error => {
                let message = format!("margay-agent at {socket} failed: see its log (journalctl -u margay-agent)");
                CniError::new(code::TRY_AGAIN_LATER, message).with_details(error)
            }
        }
    }
}

/// Opens `CNI_NETNS`, which must not be the plugin's own namespace unless the runtime insists.
fn open_netns(target: &Target, path: &str) -> Result<Netns, CniError> {
    let invalid = |message: String| CniError::new(code::INVALID_NETNS, message);
    // Entering is what tells a network namespace from one of another kind.
    let opened = Netns::open(path).and_then(|netns| {
        netns.run(|| ())?;
        Ok((netns.id()?, Netns::current()?.id()?, netns))
    });
    let (id, own, netns) = opened.map_err(|error| {
        invalid(format!("CNI_NETNS {path} is no network namespace: is the container gone?"))
            .with_details(error)
    })?;
    if id == own && !target.netns_override {
        return Err(invalid(format!(
            "CNI_NETNS {path} is the host's own namespace: a container needs its own (or set CNI_NETNS_OVERRIDE=1)"
        )));
    }
    Ok(netns)
}

fn interface_exists(target: &Target, netns: &str) -> CniError {
    CniError::new(
        code::INTERFACE_EXISTS,
        format!(
            "interface {} exists in {netns}: run DEL for container {} first",
            target.ifname, target.container_id
        ),
    )
}

pub(crate) fn kernel(error: margay_netlink::Error) -> CniError {
    CniError::new(code::KERNEL, "the kernel refused to wire the container").with_details(error)
}
