//! The control API of `margay-agent` and `margay-route-reflector`: HTTP/1.1 with JSON bodies on a Unix socket.
//!
//! The types are shared by the daemons, the CNI shim, the CLI and the tests; [`Client`] is the one blocking
//! client all of them use (no tokio: the shim is executed once per pod).
//!
//! | method and path | body | reply | served by |
//! |---|---|---|---|
//! | `POST /v1/cni/add` | [`cni::AddRequest`] | [`cni::AddReply`] | agent |
//! | `POST /v1/cni/commit` | [`cni::CommitRequest`] | [`cni::CommitReply`] | agent |
//! | `POST /v1/cni/del` | [`cni::DelRequest`] | `{}` | agent |
//! | `POST /v1/cni/settle` | | `{}` once the interfaces are gone that are being removed now | agent |
//! | `POST /v1/cni/gc` | [`cni::GcRequest`] | `{}` | agent |
//! | `GET /v1/cni/status` | | `{}` if ADD would work | agent |
//! | `POST /v1/cni/check` | [`cni::CheckRequest`] | [`cni::CheckReply`] | agent |
//! | `GET /v1/status` | | [`status::DaemonStatus`] | both |
//! | `GET /v1/bgp/peers?address=A` | | `[`[`bgp::Peer`]`]` | both |
//! | `GET /v1/bgp/routes?prefix=P` and more, see below | | `[`[`bgp::Route`]`]`, one per line | both |
//! | `GET /v1/bgp/explain?prefix=P` | | [`bgp::Explanation`] | both |
//! | `GET /v1/bgp/watch` | | [`bgp::Change`] per line, without end | both |
//! | `GET /v1/bgp/dump` | | the table as MRT (RFC 6396, TABLE_DUMP_V2) | both |
//! | `GET /v1/ipam` | | [`status::IpamStatus`] | agent |
//! | `POST /v1/ipam/release` | [`status::ReleaseRequest`] | `[`[`status::Released`]`]` | agent |
//! | `GET /v1/endpoints` | | `[`[`status::Endpoint`]`]` | agent |
//! | `GET /v1/policy` | | `[`[`status::Policy`]`]` | agent |
//! | `POST /v1/explain` | [`explain::ExplainRequest`] | [`explain::ExplainReply`] | agent |
//! | `POST /v1/policy/impact` | [`explain::ImpactRequest`] | [`explain::ImpactReply`] | agent |
//! | `GET /v1/flows` | | [`flows::FlowLine`] per line, without end | agent |
//! | `GET /healthz`, `/readyz`, `/metrics` | | text | both |
//!
//! Routes: `prefix` is a prefix with all inside it, or an address (its longest match); `exact=true` only the prefix itself;
//! `family=ipv4|ipv6`, `peer=A` (learned from), `advertised=A` (as sent to), `best=true`, `filtered=true`, `limit=N`.
//!
//! Any failure is a status of 400 or more with an [`ErrorBody`].

pub mod bgp;
mod body;
pub mod client;
pub mod cni;
pub mod explain;
pub mod flows;
pub mod status;

pub use body::Lines;
pub use client::{Client, ClientError, ErrorBody};

/// Where the agent listens unless told otherwise.
pub const AGENT_SOCKET: &str = "/run/margay/agent.sock";

/// Where the route reflector listens unless told otherwise.
pub const REFLECTOR_SOCKET: &str = "/run/margay/route-reflector.sock";

/// Where the CNI shim leaves releases while the agent is down, unless told otherwise.
pub const SPOOL_DIR: &str = "/var/lib/margay/cni/spool";
