//! The agent's routes of the control API.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use margay_control::cni::{
    AddReply, AddRequest, CheckReply, CheckRequest, CommitReply, CommitRequest, DelRequest, Failed,
    GcRequest, PodCidrs,
};
use margay_control::explain::{ExplainReply, ExplainRequest, ImpactReply, ImpactRequest};
use margay_control::flows::FlowLine;
use margay_control::status::{Endpoint, IpamStatus, Policy, ReleaseRequest, Released, Tunnel};
use margay_daemon::health::Health;
use margay_daemon::server::Failure;
use margay_datastore::Store;
use margay_routing::RouteTrace;
use tokio::sync::{mpsc, oneshot};

use crate::explain;
use crate::flow_log::Feed;
use crate::node::{Answer, Request};
use crate::policy::{self, Engine};

/// What the handlers work with.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    /// The node's task.
    pub(crate) node: mpsc::Sender<Request>,
    /// The policy thread.
    pub(crate) engine: Engine,
    /// For explanations, which look at the whole cluster; absent until it could be opened, and so long the node's
    /// task has not begun.
    pub(crate) store: Arc<OnceLock<Store>>,
    /// The flow log.
    pub(crate) feed: Feed,
    /// What each part says of itself.
    pub(crate) health: Health,
}

/// Components without which ADD fails. With the datastore away or sessions down it goes on: a node that is called not ready for
/// that loses pods which would have gone on as well.
const ADD_NEEDS: [&str; 2] = ["ipam", "policy"];

impl Api {
    fn store(&self) -> Result<&Store, Failure> {
        let message = "the datastore could not be opened yet (see `margay status`): try again";
        self.store.get().ok_or_else(|| Failure::try_later(message))
    }

    /// Asks the node's task.
    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, Failure> {
        self.store()?;
        let (answer, wait) = oneshot::channel();
        let gone = || Failure::try_later("the agent is stopping");
        self.node.send(request(answer)).await.map_err(|_closed| gone())?;
        wait.await.map_err(|_closed| gone())?
    }
}

/// All of them.
pub(crate) fn routes(api: Api) -> Router {
    Router::new()
        .route("/v1/cni/add", post(add))
        .route("/v1/cni/commit", post(commit))
        .route("/v1/cni/del", post(del))
        .route("/v1/cni/gc", post(gc))
        .route("/v1/cni/settle", post(settle))
        .route("/v1/cni/failed", post(failed))
        .route("/v1/cni/pod-cidrs", get(pod_cidrs))
        .route("/v1/cni/check", post(check))
        .route("/v1/cni/status", get(cni_status))
        .route("/v1/ipam", get(ipam))
        .route("/v1/ipam/release", post(release))
        .route("/v1/endpoints", get(endpoints))
        .route("/v1/tunnels", get(tunnels))
        .route("/v1/policy", get(policies))
        .route("/v1/policy/impact", post(impact))
        .route("/v1/explain", post(explain_flow))
        .route("/v1/flows", get(flows))
        .with_state(api)
}

async fn add(State(api): State<Api>, Json(request): Json<AddRequest>) -> Result<Json<AddReply>, Failure> {
    api.ask(|answer| Request::Add(Box::new(request), answer)).await.map(Json)
}

async fn commit(
    State(api): State<Api>,
    Json(request): Json<CommitRequest>,
) -> Result<Json<CommitReply>, Failure> {
    api.ask(|answer| Request::Commit(request, answer)).await.map(Json)
}

async fn del(State(api): State<Api>, Json(request): Json<DelRequest>) -> Result<Json<()>, Failure> {
    api.ask(|answer| Request::Del(request, answer)).await.map(Json)
}

async fn settle(State(api): State<Api>) -> Result<Json<()>, Failure> {
    api.ask(Request::Settle).await.map(Json)
}

/// The shim has no log of its own.
async fn failed(Json(what): Json<Failed>) -> Json<()> {
    let Failed { verb, container_id, ifname, code, message } = what;
    tracing::warn!(container_id, ifname, code, "CNI {verb} failed: {message}");
    Json(())
}

async fn pod_cidrs(State(api): State<Api>) -> Result<Json<PodCidrs>, Failure> {
    api.ask(Request::PodCidrs).await.map(Json)
}

async fn cni_status(State(api): State<Api>) -> Result<Json<()>, Failure> {
    api.health.missing(&ADD_NEEDS).map_or(Ok(Json(())), |why| Err(Failure::try_later(why)))
}

async fn gc(State(api): State<Api>, Json(request): Json<GcRequest>) -> Result<Json<()>, Failure> {
    api.ask(|answer| Request::Gc(request, answer)).await.map(Json)
}

async fn check(
    State(api): State<Api>,
    Json(request): Json<CheckRequest>,
) -> Result<Json<CheckReply>, Failure> {
    api.ask(|answer| Request::Check(request, answer)).await.map(Json)
}

async fn ipam(State(api): State<Api>) -> Result<Json<IpamStatus>, Failure> {
    api.ask(Request::Ipam).await.map(Json)
}

async fn release(
    State(api): State<Api>,
    Json(request): Json<ReleaseRequest>,
) -> Result<Json<Vec<Released>>, Failure> {
    api.ask(|answer| Request::Release(request, answer)).await.map(Json)
}

async fn endpoints(State(api): State<Api>) -> Result<Json<Vec<Endpoint>>, Failure> {
    api.ask(Request::Endpoints).await.map(Json)
}

async fn tunnels(State(api): State<Api>) -> Result<Json<Vec<Tunnel>>, Failure> {
    api.ask(Request::Tunnels).await.map(Json)
}

async fn policies(State(api): State<Api>) -> Result<Json<Vec<Policy>>, Failure> {
    api.ask(Request::Policies).await.map(Json)
}

async fn explain_flow(
    State(api): State<Api>,
    Json(request): Json<ExplainRequest>,
) -> Result<Json<ExplainReply>, Failure> {
    let verify = request.verify;
    let through = request.through.clone();
    let flow = explain::Flow::resolve(api.store()?, request).await?;
    let rewritten = through.as_ref().and_then(|through| through.rewritten);
    let trace = trace(&api, rewritten.map_or(flow.destination(), |to| to.ip())).await?;
    let counted = policy::snapshot(&api.engine).await;
    let ended = || Failure::try_later("the policy thread has ended");
    if let Some(through) = through {
        let here = counted.ok_or_else(ended)?;
        return flow.through(&through, &trace, &here).map(Json);
    }
    let mut reply = flow.explain(&trace, counted.as_deref());
    if verify {
        let namespace = api.ask(|answer| Request::Namespace(flow.source(), answer)).await?;
        let here = counted.ok_or_else(ended)?;
        reply.verified = Some(flow.verify(namespace, &here).await?);
    }
    Ok(Json(reply))
}

async fn impact(
    State(api): State<Api>,
    Json(request): Json<ImpactRequest>,
) -> Result<Json<ImpactReply>, Failure> {
    let here = policy::snapshot(&api.engine).await;
    let here = here.ok_or_else(|| Failure::try_later("the policy thread has ended"))?;
    explain::impact(api.store()?, request, &here, api.feed.dropped()).await.map(Json)
}

async fn flows(State(api): State<Api>) -> Result<Body, Failure> {
    let off = "the flow log is off: set flowLogsLocalReporter: Enabled in the FelixConfiguration";
    let flows = api.feed.listen().ok_or_else(|| Failure::try_later(off))?;
    Ok(margay_daemon::lines::body(flows, |missed| FlowLine::Lost {
        lost: format!("this reader was too slow for {missed}"),
    }))
}

async fn trace(api: &Api, destination: IpAddr) -> Result<RouteTrace, Failure> {
    api.ask(|answer| Request::Trace(destination, answer)).await
}
