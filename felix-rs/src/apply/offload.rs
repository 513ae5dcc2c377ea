//! nftables' flow table (`nf_flow_table`): packets of established flows pass from interface to interface without the
//! forwarding path. It stands in a table of its own beside every backend.
//!
//! Its chain comes behind every filter of the forward hook, so a flow is taken up by a packet that all of them have
//! accepted; the first packet of a flow never is. An interface that goes takes its flows with it.

use std::fmt::Write as _;
use std::path::PathBuf;

use super::{ApplyError, programs};

/// Its family and name.
const TABLE: &str = "inet margay-flow";

/// Interfaces of one message (`NFT_NETDEVICE_MAX` is 256).
const DEVICES: usize = 200;

/// The flow table of a network namespace.
#[derive(Debug)]
pub struct FlowTable {
    nft: PathBuf,
}

impl FlowTable {
    /// Finds the program; writes nothing yet.
    ///
    /// # Errors
    /// `nft` is not installed.
    pub fn new() -> Result<Self, ApplyError> {
        Self::find(&programs::search_path())
    }

    pub(super) fn find(folders: &[PathBuf]) -> Result<Self, ApplyError> {
        Ok(Self { nft: programs::find(folders, "nft", "nftables")? })
    }

    /// Takes up flows between these interfaces and no others, in one transaction; without any, the table is gone. Flows
    /// that were taken up before go the ordinary way until their next packet.
    ///
    /// # Errors
    /// The kernel has no flow table, or one of the interfaces is gone: then nothing has changed.
    pub fn write(&self, devices: &[&str]) -> Result<(), ApplyError> {
        if devices.is_empty() && !self.is_there() {
            return Ok(());
        }
        programs::run(&self.nft, &["-f", "/dev/stdin"], &script(devices)).map(drop)
    }

    /// Whether the namespace has it.
    #[must_use]
    pub fn is_there(&self) -> bool {
        let tables = programs::run(&self.nft, &["list", "tables"], "").unwrap_or_default();
        tables.lines().any(|line| line.trim().strip_prefix("table ") == Some(TABLE))
    }

    /// In words.
    pub(super) fn name(&self) -> String {
        format!("nftables table {TABLE}")
    }
}

fn script(devices: &[&str]) -> String {
    let mut script = format!("add table {TABLE}\ndelete table {TABLE}\n");
    if devices.is_empty() {
        return script;
    }
    let names: Vec<String> = devices.iter().map(|name| format!("\"{name}\"")).collect();
    let _infallible = writeln!(script, "add table {TABLE}");
    for some in names.chunks(DEVICES) {
        let some = some.join(", ");
        let table = format!(
            "add flowtable {TABLE} established {{ hook ingress priority 0; devices = {{ {some} }}; }}"
        );
        let _infallible = writeln!(script, "{table}");
    }
    let all = names.join(", ");
    let _infallible = write!(
        script,
        "add chain {TABLE} forward {{ type filter hook forward priority 10; }}\n\
         add rule {TABLE} forward iifname {{ {all} }} oifname {{ {all} }} ct state established flow add @established\n"
    );
    script
}
