//! The endpoints of a cluster and the connections to them.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use tokio::sync::Mutex;

use crate::config::EtcdConfig;
use crate::error::{Error, Result};

/// Time between HTTP/2 pings on a connection with requests or watches; etcd allows one in 5 s.
const PING_EVERY: Duration = Duration::from_secs(10);
/// A peer that doesn't answer a ping for so long is gone.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Endpoints {
    config: EtcdConfig,
    list: Vec<Endpoint>,
    preferred: AtomicUsize,
}

struct Endpoint {
    name: String,
    client: Mutex<Option<Client>>,
}

impl fmt::Debug for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoints").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Endpoints {
    pub(super) fn new(config: &EtcdConfig) -> Result<Self> {
        let invalid = |text: String| Err(Error::Invalid(format!("datastore: {text}")));
        if config.endpoints.is_empty() {
            return invalid("etcd needs at least one endpoint, such as https://10.0.0.1:2379".to_owned());
        }
        let secure = config.endpoints.iter().filter(|e| e.starts_with("https://")).count();
        for endpoint in &config.endpoints {
            if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
                return invalid(format!("endpoint {endpoint:?} doesn't begin with http:// or https://"));
            }
        }
        if secure != 0 && secure != config.endpoints.len() {
            return invalid("endpoints are partly http and partly https; use one of them".to_owned());
        }
        if (secure != 0) != config.ca_file.is_some() {
            return invalid("https endpoints and caFile go together".to_owned());
        }
        if config.cert_file.is_some() != config.key_file.is_some() {
            return invalid("certFile and keyFile go together".to_owned());
        }
        if config.username.is_some() != config.password.is_some() {
            return invalid("username and password go together".to_owned());
        }
        // Unreadable files are the configuration's fault, so they are found now and not at the first request.
        options(config, Duration::ZERO)?;
        let list = config
            .endpoints
            .iter()
            .map(|name| Endpoint { name: name.clone(), client: Mutex::new(None) })
            .collect();
        Ok(Self { config: config.clone(), list, preferred: AtomicUsize::new(0) })
    }

    /// All endpoints, in the order in which to try them.
    pub(super) fn order(&self) -> Vec<usize> {
        let first = self.preferred.load(Ordering::Relaxed);
        (0..self.list.len()).map(|i| (first + i) % self.list.len()).collect()
    }

    pub(super) fn prefer(&self, index: usize) {
        self.preferred.store(index, Ordering::Relaxed);
    }

    pub(super) fn name(&self, index: usize) -> &str {
        &self.list[index].name
    }

    /// The client of one endpoint. With a user this logs in, so it may fail like any request.
    pub(super) async fn client(&self, index: usize, limit: Duration) -> Result<Client, etcd_client::Error> {
        let endpoint = &self.list[index];
        let mut slot = endpoint.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        // Less than the caller's limit: a peer that swallows packets shall count as "not sent".
        let options = options(&self.config, limit * 3 / 4)
            .map_err(|e| etcd_client::Error::IoError(std::io::Error::other(e.to_string())))?;
        let client = Client::connect([&endpoint.name], Some(options)).await?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// [`Self::forget`] for each.
    pub(super) async fn forget_all(&self) {
        for index in 0..self.list.len() {
            self.forget(index).await;
        }
    }

    /// The next request to this endpoint connects anew: certificates are read again, the user logs in again.
    pub(super) async fn forget(&self, index: usize) {
        *self.list[index].client.lock().await = None;
    }
}

fn options(config: &EtcdConfig, connect: Duration) -> Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(connect)
        .with_keep_alive(PING_EVERY, PING_TIMEOUT)
        .with_keep_alive_while_idle(false)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let (Some(user), Some(password)) = (&config.username, &config.password) {
        options = options.with_user(user, password);
    }
    if let Some(ca) = &config.ca_file {
        let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca)?));
        if let (Some(cert), Some(key)) = (&config.cert_file, &config.key_file) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        options = options.with_tls(tls);
    }
    Ok(options)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::Invalid(format!("datastore: can't read {}: {e}", path.display())))
}
