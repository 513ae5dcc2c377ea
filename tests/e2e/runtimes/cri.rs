//! The few calls of the Container Runtime Interface (`runtime.v1`, kubernetes/cri-api) that a kubelet makes for a pod's
//! network: the messages with the fields used here, and a client.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use prost::Message;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, Message)]
struct PodSandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct PortMapping {
    #[prost(int32, tag = "2")]
    container_port: i32,
    #[prost(int32, tag = "3")]
    host_port: i32,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<PodSandboxMetadata>,
    #[prost(string, tag = "2")]
    hostname: String,
    #[prost(message, repeated, tag = "5")]
    port_mappings: Vec<PortMapping>,
    #[prost(map = "string, string", tag = "7")]
    annotations: HashMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
struct RunPodSandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<PodSandboxConfig>,
}

/// What asks for one sandbox, and what answers with one.
#[derive(Clone, PartialEq, Message)]
struct PodSandboxId {
    #[prost(string, tag = "1")]
    pod_sandbox_id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxNetworkStatus {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatus {
    #[prost(message, optional, tag = "5")]
    network: Option<PodSandboxNetworkStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PodSandboxStatusResponse {
    #[prost(message, optional, tag = "1")]
    status: Option<PodSandboxStatus>,
}

/// A pod to run.
pub(super) struct Pod<'a> {
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    /// Host port and container port.
    pub(super) port: (u16, u16),
    pub(super) annotations: &'a [(&'a str, &'a str)],
}

/// A client of the runtime that listens on a Unix socket.
pub(super) struct Client {
    runtime: tokio::runtime::Runtime,
    channel: Channel,
}

impl Client {
    pub(super) fn new(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display()))?.timeout(PATIENCE);
        let channel = runtime.block_on(endpoint.connect()).context("connecting to the CRI")?;
        Ok(Self { runtime, channel })
    }

    fn call<Q, A>(&self, method: &'static str, request: Q) -> Result<A>
    where
        Q: Message + Send + Sync + 'static,
        A: Message + Default + Send + Sync + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"))?;
        let mut client = Grpc::new(self.channel.clone());
        let answer = self.runtime.block_on(async {
            client.ready().await?;
            let codec = ProstCodec::<Q, A>::default();
            client.unary(tonic::Request::new(request), path, codec).await.map_err(anyhow::Error::from)
        });
        Ok(answer.with_context(|| format!("CRI {method}"))?.into_inner())
    }

    /// Makes a pod's sandbox, network included; its id.
    pub(super) fn run(&self, pod: &Pod<'_>) -> Result<String> {
        let (host, container) = pod.port;
        let config = PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: pod.name.to_owned(),
                uid: format!("uid-{}", pod.name),
                namespace: pod.namespace.to_owned(),
            }),
            hostname: pod.name.to_owned(),
            port_mappings: vec![PortMapping { container_port: container.into(), host_port: host.into() }],
            annotations: pod.annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        };
        let answer: PodSandboxId =
            self.call("RunPodSandbox", RunPodSandboxRequest { config: Some(config) })?;
        Ok(answer.pod_sandbox_id)
    }

    /// The address the runtime would tell the API server.
    pub(super) fn address(&self, id: &str) -> Result<IpAddr> {
        let answer: PodSandboxStatusResponse = self.call("PodSandboxStatus", sandbox(id))?;
        let network = answer.status.and_then(|status| status.network).context("no network status")?;
        network.ip.parse().with_context(|| format!("address {:?}", network.ip))
    }

    /// Stops it and takes its network away.
    pub(super) fn stop(&self, id: &str) -> Result<()> {
        self.call::<_, Empty>("StopPodSandbox", sandbox(id)).map(|_| ())
    }

    /// Forgets it.
    pub(super) fn remove(&self, id: &str) -> Result<()> {
        self.call::<_, Empty>("RemovePodSandbox", sandbox(id)).map(|_| ())
    }
}

fn sandbox(id: &str) -> PodSandboxId {
    PodSandboxId { pod_sandbox_id: id.to_owned() }
}
