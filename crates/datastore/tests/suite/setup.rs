//! Backends to test on, and waiting.

use std::fs;
use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use libtest_mimic::{Completion, Failed, Trial};
use margay_datastore::raw::Datastore;
use margay_datastore::{Backend, StoreConfig};

/// Longer than anything takes on a busy machine; a test that hangs fails with this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A folder that is gone with the value.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("margay-store-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

/// A child that is killed with the value.
pub(crate) struct Guarded(pub(crate) Child);

impl Guarded {
    pub(crate) fn kill(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What speaks etcd's protocol.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Program {
    Etcd,
    Kine,
}

/// A real etcd with one member, or kine.
pub(crate) struct EtcdServer {
    program: Program,
    pub(crate) folder: Folder,
    pub(crate) endpoint: String,
    pub(crate) peer: String,
    extra: Vec<String>,
    child: Option<Guarded>,
}

impl EtcdServer {
    /// Reserves ports, starts nothing.
    pub(crate) fn stopped() -> Self {
        let ports: Vec<TcpListener> = (0..2).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let address = |i: usize| ports[i].local_addr().unwrap();
        let (endpoint, peer) = (format!("http://{}", address(0)), format!("http://{}", address(1)));
        Self { program: Program::Etcd, folder: Folder::new(), endpoint, peer, extra: Vec::new(), child: None }
    }

    /// kine on a SQLite file of its own, reserved but not started.
    pub(crate) fn kine() -> Self {
        Self { program: Program::Kine, ..Self::stopped() }
    }

    pub(crate) fn started() -> Self {
        Self::come_up(Self::stopped)
    }

    /// Starts what `reserve` makes.
    pub(crate) fn come_up(reserve: fn() -> Self) -> Self {
        // Somebody may take the ports between the reservation and the start.
        for _ in 0..5 {
            let mut server = reserve();
            if server.start() {
                return server;
            }
        }
        panic!("etcd doesn't start");
    }

    /// More arguments; `https` when they make it serve TLS.
    pub(crate) fn with(mut self, extra: &[&str], https: bool) -> Self {
        self.extra = extra.iter().map(|a| (*a).to_owned()).collect();
        if https {
            self.endpoint = self.endpoint.replace("http://", "https://");
        }
        self
    }

    /// Whether it came up.
    pub(crate) fn start(&mut self) -> bool {
        let log = fs::File::create(self.folder.path().join("etcd.log")).unwrap();
        // Should this process be killed, the server goes too.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        let (endpoint, peer) = (&self.endpoint, &self.peer);
        match self.program {
            Program::Etcd => command
                .args(["etcd", "--name", "test", "--data-dir"])
                .arg(self.folder.path().join("data"))
                .args(["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint])
                .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
                .args(["--initial-cluster", &format!("test={peer}")]),
            Program::Kine => command
                .args(["kine", "--metrics-bind-address", "0", "--listen-address"])
                .args([&endpoint.replace("http", "tcp"), "--endpoint"])
                .arg(format!("sqlite://{}", self.folder.path().join("kine.db").display()))
                .current_dir(self.folder.path()),
        };
        let child = command
            .args(&self.extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("setpriv (util-linux)");
        let mut child = Guarded(child);
        let address = self.endpoint.split_once("//").unwrap().1.to_owned();
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if child.0.try_wait().unwrap().is_some() {
                eprintln!("etcd ended: {}", fs::read_to_string(self.folder.path().join("etcd.log")).unwrap());
                return false;
            }
            if std::net::TcpStream::connect(&address).is_ok() {
                self.child = Some(child);
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }

    /// SIGKILL.
    pub(crate) fn stop(&mut self) {
        self.child = None;
    }

    pub(crate) fn config(&self) -> StoreConfig {
        StoreConfig::etcd([self.endpoint.clone()])
    }
}

/// What a test of both backends runs on.
pub(crate) enum Site {
    Embedded(Folder),
    Etcd(EtcdServer),
}

impl Site {
    pub(crate) fn config(&self) -> StoreConfig {
        match self {
            Self::Embedded(folder) => StoreConfig::embedded(folder.path().join("store.db")),
            Self::Etcd(server) => server.config(),
        }
    }

    /// A new handle: its own connections, as another process would have.
    pub(crate) async fn open(&self) -> Backend {
        let backend = Backend::connect(&self.config()).await.unwrap();
        // A started etcd takes a moment to elect itself.
        eventually("the datastore answers", || async { backend.revision().await.ok() }).await;
        backend
    }
}

/// Polls until there is a value.
pub(crate) async fn eventually<T, F, Fut>(what: &str, mut probe: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE / 2;
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Runs a test to its end or to the end of patience.
pub(crate) fn block_on(test: impl Future<Output = ()>) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await });
    runtime.shutdown_background();
    result.map_err(|_elapsed| Failed::from(format!("hangs: not done after {PATIENCE:?}")))
}

/// A trial that needs nothing but this machine.
pub(crate) fn trial<F>(name: &str, test: fn() -> F) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    Trial::test(name.to_owned(), move || block_on(test()))
}

/// A trial that needs etcd; ignored with the reason where there is none, unless everything is required.
pub(crate) fn etcd_trial<F>(name: &str, test: impl Fn() -> F + Send + Sync + 'static) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    etcd_trial_with(&[], name, test)
}

/// The same for a trial that needs more programs.
pub(crate) fn etcd_trial_with<F>(
    programs: &[&'static str],
    name: &str,
    test: impl Fn() -> F + Send + Sync + 'static,
) -> Trial
where
    F: Future<Output = ()> + 'static,
{
    let required = std::env::var("TESTS_REQUIRE_ALL").is_ok_and(|v| v == "1");
    let missing = ["etcd", "setpriv"].iter().chain(programs).copied().find(|program| !installed(program));
    Trial::ignorable_test(name.to_owned(), move || {
        if let Some(program) = missing {
            let reason =
                format!("no program {program:?} on this machine (Debian: etcd-server, util-linux, openssl)");
            return if required { Err(reason.into()) } else { Ok(Completion::ignored_with(reason)) };
        }
        block_on(test()).map(|()| Completion::Completed)
    })
}

/// A trial that needs kine, which no distribution packages: there is none of them without the program.
pub(crate) fn kine_trial<F>(name: &str, test: fn(Site) -> F) -> Option<Trial>
where
    F: Future<Output = ()> + 'static,
{
    let present = installed("kine") && installed("setpriv");
    present.then(|| {
        Trial::test(name.to_owned(), move || {
            block_on(test(Site::Etcd(EtcdServer::come_up(EtcdServer::kine))))
        })
    })
}

pub(crate) fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
