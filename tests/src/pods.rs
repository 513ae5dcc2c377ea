//! Pods: network namespaces attached by executing the real CNI plugin with the real protocol.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail, ensure};
use margay_lab::LabNode;
use margay_lab::probe::Responder;
use margay_netlink::Netns;
use serde_json::{Value, json};

/// Where other plugins are: containernetworking's, as Debian has them.
pub const CNI_PATH: &str = "/opt/cni/bin:/usr/lib/cni";

/// Ports on which pods answer, TCP and UDP.
pub const PORT: u16 = 8080;

/// An attached pod that answers probes.
#[derive(Debug)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Node it is on.
    pub node: String,
    /// Its address, as the plugin's result says.
    pub address: IpAddr,
    /// The network namespace that stands for its containers.
    pub netns: Netns,
    /// Answers probes.
    pub responder: Responder,
}

impl Pod {
    /// `namespace/name`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// What stands for the runtime's container id.
    #[must_use]
    pub fn container_id(&self) -> String {
        container_id(&self.namespace, &self.name)
    }
}

/// The container id used for a pod.
#[must_use]
pub fn container_id(namespace: &str, name: &str) -> String {
    format!("demo-{namespace}-{name}")
}

/// How the plugin is called on a node.
#[derive(Debug)]
pub struct Runtime<'a> {
    /// The plugin's file.
    pub plugin: PathBuf,
    /// The node.
    pub node: &'a LabNode,
    /// The agent's socket.
    pub socket: PathBuf,
    /// Where releases wait for an agent that is down.
    pub spool: PathBuf,
    /// The conflist of `examples/`.
    pub conflist: PathBuf,
}

impl Runtime<'_> {
    /// What a runtime writes to the plugin: its object of the list, with name and version put in.
    fn config(&self) -> Result<Value> {
        let text = std::fs::read_to_string(&self.conflist)
            .with_context(|| format!("reading {}", self.conflist.display()))?;
        let list: Value = serde_json::from_str(&text)?;
        let mut config = list["plugins"][0].clone();
        config["name"] = list["name"].clone();
        config["cniVersion"] = list["cniVersion"].clone();
        config["socket"] = json!(self.socket);
        config["spool_dir"] = json!(self.spool);
        Ok(config)
    }

    /// Executes one verb; `netns` is empty when the runtime has none any more.
    pub fn call(&self, verb: &str, id: &str, pod: Option<(&str, &str)>, netns: &str) -> Result<Output> {
        self.call_with(verb, id, "eth0", pod, netns, |_| {})
    }

    /// The same for any interface, with a configuration that is changed before.
    pub fn call_with(
        &self,
        verb: &str,
        id: &str,
        ifname: &str,
        pod: Option<(&str, &str)>,
        netns: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Output> {
        let mut config = self.config()?;
        change(&mut config);
        let mut command = Command::new(&self.plugin);
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", ifname)
            .env("CNI_PATH", CNI_PATH);
        if let Some((namespace, name)) = pod {
            let arguments = format!("IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}");
            command.env("CNI_ARGS", arguments);
        }
        let config = serde_json::to_vec(&config)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.node.netns().spawn(&mut command)?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(&config)?;
        }
        Ok(child.wait_with_output()?)
    }

    /// Attaches a new pod.
    pub fn add(&self, namespace: &str, name: &str) -> Result<Pod> {
        self.add_with(namespace, name, |_| {})
    }

    /// The same with a configuration that is changed before.
    pub fn add_with(&self, namespace: &str, name: &str, change: impl FnOnce(&mut Value)) -> Result<Pod> {
        let netns = Netns::new()?;
        let (id, names) = (container_id(namespace, name), Some((namespace, name)));
        let path = netns.path();
        let output = self.call_with("ADD", &id, "eth0", names, &path.to_string_lossy(), change)?;
        let answer: Value = serde_json::from_slice(&output.stdout).with_context(|| said(&output))?;
        ensure!(output.status.success(), "ADD of {namespace}/{name}: {answer}");
        let address = answer["ips"][0]["address"].as_str().unwrap_or_default();
        let Some(address) = address.split('/').next().and_then(|text| text.parse().ok()) else {
            bail!("ADD of {namespace}/{name} gave no address: {answer}");
        };
        let responder = Responder::start(&netns, &[PORT])?;
        let node = self.node.topology().name.clone();
        Ok(Pod { namespace: namespace.into(), name: name.into(), node, address, netns, responder })
    }

    /// Detaches a pod.
    pub fn delete(&self, pod: Pod) -> Result<()> {
        self.delete_with(pod, |_| {})
    }

    /// The same with a configuration that is changed before.
    pub fn delete_with(&self, pod: Pod, change: impl FnOnce(&mut Value)) -> Result<()> {
        let (id, path) = (pod.container_id(), pod.netns.path());
        let names = (pod.namespace.as_str(), pod.name.as_str());
        let output = self.call_with("DEL", &id, "eth0", Some(names), &path.to_string_lossy(), change)?;
        ensure!(output.status.success(), "DEL of {}: {}", pod.full_name(), said(&output));
        Ok(())
    }
}

/// Everything a program said.
#[must_use]
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
