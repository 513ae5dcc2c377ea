//! The control socket: HTTP/JSON on a Unix socket, and the same health and metrics on TCP when asked for.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use margay_control::ErrorBody;

use crate::bgp::SpeakerSlot;
use crate::health::Health;

/// An error as the control API returns it.
#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    body: ErrorBody,
}

impl Failure {
    /// The request is wrong: its sender must change it.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::with(StatusCode::BAD_REQUEST, 7, message)
    }

    /// Nothing of that name.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::with(StatusCode::NOT_FOUND, 3, message)
    }

    /// Cannot be done now; trying again later may help (CNI error code 11).
    pub fn try_later(message: impl Into<String>) -> Self {
        Self::with(StatusCode::SERVICE_UNAVAILABLE, 11, message)
    }

    /// Cannot be done, with a CNI error code of our own (100 and above).
    pub fn refused(code: u32, message: impl Into<String>) -> Self {
        Self::with(StatusCode::CONFLICT, code, message)
    }

    /// What is wrong, in words.
    pub fn message(&self) -> &str {
        &self.body.message
    }

    fn with(status: StatusCode, code: u32, message: impl Into<String>) -> Self {
        Self { status, body: ErrorBody { code, message: message.into(), details: String::new() } }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self.body)).into_response()
    }
}

/// `/healthz`, `/readyz`, `/v1/status` and `/metrics`.
pub fn health_routes<F>(health: Health, metrics: impl Fn() -> F + Clone + Send + Sync + 'static) -> Router
where
    F: Future<Output = String> + Send + 'static,
{
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/v1/status", get(|State(health): State<Health>| async move { Json(health.status()) }))
        .with_state(health)
        .route("/metrics", get(metrics))
}

/// What [`health_routes`] needs for `/metrics`, for a daemon with nothing to add.
pub fn metrics_of(
    health: &Health,
    speaker: &SpeakerSlot,
    per_peer: bool,
) -> impl Fn() -> std::pin::Pin<Box<dyn Future<Output = String> + Send>> + Clone + Send + Sync + 'static {
    let (health, slot) = (health.clone(), speaker.clone());
    move || {
        let (health, speaker) = (health.clone(), slot.borrow().clone());
        Box::pin(async move { crate::metrics::text(&health, speaker, per_peer).await })
    }
}

async fn readyz(State(health): State<Health>) -> Response {
    let status = health.status();
    let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let lines: String = status
        .components
        .iter()
        .map(|part| format!("[{}] {}: {}\n", if part.ready { '+' } else { '-' }, part.name, part.message))
        .collect();
    (code, lines).into_response()
}

/// Listens on the Unix socket `path`, readable and writable by its owner only.
///
/// # Errors
/// The folder cannot be made or the socket not be bound.
pub(crate) fn bind_unix(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // Only one daemon of a kind runs on a node (see `instance`), so a socket that exists is a left-over.
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
