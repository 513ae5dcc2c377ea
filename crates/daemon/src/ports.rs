//! Where a daemon can be reached besides BGP, and its claim to be the one of its kind: what a successor takes over as
//! it is, so that nobody who asks meanwhile is refused.

use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use axum::Router;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::Common;
use crate::instance::Instance;
use crate::server;

/// Longest wait for answers that are under way.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct Ports {
    instance: Instance,
    control: UnixListener,
    metrics: Option<TcpListener>,
}

impl Ports {
    /// Claims the node for `program` and opens what the configuration says.
    ///
    /// # Errors
    /// Another one runs, or an address or path cannot be used.
    pub fn open(program: &str, config: &Common) -> Result<Self> {
        let instance = Instance::claim(program).map_err(|error| anyhow!(error))?;
        let metrics = config
            .metrics_listen
            .map(|address| TcpListener::bind(address).with_context(|| format!("listening on {address}")));
        let control = server::bind_unix(&config.socket)
            .with_context(|| format!("listening on {}", config.socket.display()))?;
        Ok(Self { instance, control, metrics: metrics.transpose()? })
    }

    pub(crate) fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let metrics = self.metrics.as_ref().map(AsFd::as_fd);
        [self.instance.as_fd(), self.control.as_fd()].into_iter().chain(metrics).collect()
    }

    /// From what [`Self::fds`] gave.
    pub(crate) fn from_fds(fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let (instance, control) = (fds.next()?.into(), fds.next()?.into());
        Some(Self { instance, control, metrics: fds.next().map(Into::into) })
    }

    /// Serves `all` on the control socket, and `public` (health and metrics) on TCP if that is configured.
    ///
    /// # Errors
    /// The kernel refuses another descriptor.
    pub fn serve(&self, all: Router, public: Router) -> std::io::Result<Served> {
        let (stop, stopped) = watch::channel(());
        let signal = move || {
            let mut stopped = stopped.clone();
            // The sender goes when this is to end.
            async move { while stopped.changed().await.is_ok() {} }
        };
        let control = self.control.try_clone()?;
        control.set_nonblocking(true)?;
        let control = tokio::net::UnixListener::from_std(control)?;
        let control = axum::serve(control, all).with_graceful_shutdown(signal()).into_future();
        let mut tasks = vec![tokio::spawn(report("control socket", control))];
        if let Some(metrics) = &self.metrics {
            let metrics = metrics.try_clone()?;
            metrics.set_nonblocking(true)?;
            let metrics = tokio::net::TcpListener::from_std(metrics)?;
            let metrics = axum::serve(metrics, public).with_graceful_shutdown(signal()).into_future();
            tasks.push(tokio::spawn(report("metrics listener", metrics)));
        }
        Ok(Served { stop, tasks })
    }
}

async fn report(what: &str, serving: impl Future<Output = std::io::Result<()>>) {
    if let Err(error) = serving.await {
        tracing::error!("the {what} failed: {error}");
    }
}

/// Servers that run.
#[derive(Debug)]
#[must_use = "they stop when this is dropped"]
pub struct Served {
    stop: watch::Sender<()>,
    tasks: Vec<JoinHandle<()>>,
}

impl Served {
    /// Takes no more requests, and returns when those under way have been answered.
    pub async fn finish(self) {
        drop(self.stop);
        for task in self.tasks {
            if tokio::time::timeout(LAST_ANSWERS, task).await.is_err() {
                tracing::warn!("a request was not answered in time");
            }
        }
    }
}
