//! Upgrade in place: the program is started once more as a child, from its path, where another release may be by now.
//! The child prepares itself; then it is given the sockets and what the speaker knows, and when it has understood, its
//! parent ends. Until that word nothing is lost: whatever goes wrong in the child, the parent goes on.

mod channel;
mod program;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use margay_bgp::transport::{Frozen, Sockets};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::ports::Ports;
use crate::server::Failure;
use crate::speaker::{Speaker, SpeakerError};
use channel::{Channel, Counts, Word};

/// The flag that makes a process a successor; its parent is at standard input.
pub const TAKE_OVER: &str = "--take-over";

/// For reading its configuration, the datastore and the cluster.
const PREPARE: Duration = Duration::from_secs(20);
/// For each word when the sessions wait.
const CONFIRM: Duration = Duration::from_secs(10);

/// Why the program was not replaced. Unless it says otherwise, it goes on as before.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// The first process of a container is the container.
    #[error(
        "it is the first process of its container: replace the container; clients keep its routes meanwhile"
    )]
    Container,
    /// Its path.
    #[error("cannot start {}: {source}", .program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The successor has ended or hangs. Its log says more.
    #[error("the new program did not {step}: {source}; see its log")]
    Successor {
        /// Do what.
        step: &'static str,
        /// What was heard instead.
        source: io::Error,
    },
    /// The successor does not want.
    #[error("the new program refuses: {0}")]
    Refused(String),
    /// There is nothing to hand over.
    #[error("{0}")]
    Speaker(#[from] SpeakerError),
    /// The predecessor.
    #[error("the running program did not hand over: {0}")]
    Predecessor(io::Error),
    /// The successor was lost in the one moment in which neither has the sessions.
    #[error("the new program was lost when it had begun: restarting; clients keep their routes")]
    Lost,
}

/// A child that waits for the state.
#[derive(Debug)]
pub struct Successor {
    /// Ended together with this, unless it has begun.
    child: Option<Child>,
    channel: Channel,
}

impl Drop for Successor {
    fn drop(&mut self) {
        self.end();
    }
}

/// Where this program was started from: there its next release will be.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Finds out where this program was started from; once its file has been replaced the kernel no longer says.
pub(crate) fn remember_program() {
    PROGRAM.get_or_init(program::of_process);
}

/// This program as it was started.
fn program() -> (PathBuf, Vec<OsString>) {
    let words = std::env::args_os().skip(1).filter(|word| word != TAKE_OVER);
    (PROGRAM.get().cloned().unwrap_or_default(), words.collect())
}

impl Successor {
    /// Starts the program and waits until it is prepared. Blocks.
    ///
    /// # Errors
    /// It cannot be started, has ended, or is not prepared in 20 s.
    pub fn prepare() -> Result<Self, UpgradeError> {
        if std::process::id() == 1 {
            return Err(UpgradeError::Container);
        }
        let (program, arguments) = program();
        let start = |program: &PathBuf| {
            let (ours, theirs) = UnixStream::pair()?;
            let stdin = Stdio::from(OwnedFd::from(theirs));
            let child = Command::new(program).args(arguments).arg(TAKE_OVER).stdin(stdin).spawn()?;
            Ok(Self { child: Some(child), channel: Channel::new(ours) })
        };
        let mut successor = start(&program).map_err(|source| UpgradeError::Start { program, source })?;
        let prepared = successor.channel.patience(Some(PREPARE)).and_then(|()| successor.channel.hear());
        match prepared {
            Ok(Word::Prepared) => Ok(successor),
            Ok(Word::Refused(reason)) => Err(UpgradeError::Refused(reason)),
            other => Err(unexpected("get prepared", other)),
        }
    }

    /// Hands everything over. When this is done, the process must end without touching its sockets.
    ///
    /// # Errors
    /// The successor did not take over; this process goes on, except with [`UpgradeError::Lost`].
    pub async fn install(mut self, speaker: &mut Speaker, ports: &Ports) -> Result<(), UpgradeError> {
        let frozen = speaker.freeze().await?;
        let own = ports.fds().into_iter().map(|fd| fd.try_clone_to_owned()).collect::<io::Result<Vec<_>>>();
        let outcome = match own {
            Err(error) => Err(UpgradeError::Predecessor(error)),
            Ok(own) => tokio::task::block_in_place(|| self.convince(&frozen, &own)),
        };
        match outcome {
            Ok(()) => {
                let pid = self.child.take().map(|child| child.id());
                tracing::info!(pid, "another process has taken over");
                Ok(())
            }
            Err(UpgradeError::Lost) => Err(UpgradeError::Lost),
            Err(error) => {
                // Nobody else may touch the sockets when we do again.
                drop(self);
                speaker.thaw(frozen).await?;
                Err(error)
            }
        }
    }

    fn end(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only if it has ended.
            let _ended = child.kill();
            let _reaped = child.wait();
        }
    }

    fn convince(&mut self, frozen: &Frozen, own: &[OwnedFd]) -> Result<(), UpgradeError> {
        let failed = |step| move |source| UpgradeError::Successor { step, source };
        let Sockets { listeners, connections, bfd } = &frozen.sockets;
        let counts = Counts {
            ports: own.len(),
            listeners: listeners.len(),
            connections: connections.len(),
            bfd: bfd.len(),
        };
        let sockets = own.iter().chain(listeners).chain(connections).chain(bfd);
        let sockets: Vec<_> = sockets.map(AsFd::as_fd).collect();
        self.channel.patience(Some(CONFIRM)).map_err(UpgradeError::Predecessor)?;
        self.channel.say(&Word::State(counts)).map_err(failed("take the state"))?;
        self.channel.say(&frozen.state).map_err(failed("take the state"))?;
        self.channel.say(&frozen.bfd).map_err(failed("take the state"))?;
        self.channel.give(&sockets).map_err(failed("take the sockets"))?;
        match self.channel.hear() {
            Ok(Word::Ready) => {}
            Ok(Word::Refused(reason)) => return Err(UpgradeError::Refused(reason)),
            other => return Err(unexpected("understand the state", other)),
        }
        // From now on systemd follows the successor.
        if let Some(child) = &self.child {
            crate::health::main_process(child.id());
        }
        let begun = self.channel.say(&Word::Go).and_then(|()| self.channel.hear());
        if matches!(begun, Ok(Word::Running)) {
            return Ok(());
        }
        crate::health::main_process(std::process::id());
        // Has it begun after all?
        self.end();
        match self.channel.hear() {
            Ok(Word::Running) => Err(UpgradeError::Lost),
            _ => Err(unexpected("begin", begun)),
        }
    }
}

fn unexpected(step: &'static str, heard: io::Result<Word>) -> UpgradeError {
    let source = match heard {
        Ok(word) => io::Error::other(format!("it said {word:?}")),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => io::Error::other("it has ended"),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => io::Error::other("it took too long"),
        Err(error) => error,
    };
    UpgradeError::Successor { step, source }
}

/// The process whose place this one takes.
#[derive(Debug)]
pub struct Predecessor(Channel);

/// What it left.
#[derive(Debug)]
pub struct Estate {
    /// Its control socket and the like.
    pub ports: Ports,
    /// Its speaker.
    pub frozen: Frozen,
}

impl Predecessor {
    /// The one that started this process.
    ///
    /// # Errors
    /// Standard input is not what [`Successor::prepare`] makes of it.
    pub fn of_process() -> Result<Self, UpgradeError> {
        let stdin = io::stdin().as_fd().try_clone_to_owned().map_err(UpgradeError::Predecessor)?;
        Ok(Self(Channel::new(UnixStream::from(stdin))))
    }

    /// Says that this process is prepared, and waits for everything. Blocks.
    ///
    /// # Errors
    /// The predecessor has ended or has changed its mind.
    pub fn inherit(&mut self) -> Result<Estate, UpgradeError> {
        let inherit = || -> io::Result<Estate> {
            self.0.say(&Word::Prepared)?;
            let Word::State(counts) = self.0.hear()? else { return Err(io::Error::other("no state came")) };
            let (state, sessions) = (self.0.hear()?, self.0.hear()?);
            let Counts { ports, listeners, connections, bfd } = counts;
            let mut fds = self.0.take(ports + listeners + connections + bfd)?.into_iter();
            let ports = Ports::from_fds(fds.by_ref().take(ports).collect());
            let ports = ports.ok_or_else(|| io::Error::other("its control socket is missing"))?;
            let listeners = fds.by_ref().take(listeners).collect();
            let connections = fds.by_ref().take(connections).collect();
            let sockets = Sockets { listeners, connections, bfd: fds.collect() };
            Ok(Estate { ports, frozen: Frozen { state, bfd: sessions, sockets } })
        };
        tokio::task::block_in_place(inherit).map_err(UpgradeError::Predecessor)
    }

    /// Says that this process can begin, and returns when it may. Blocks.
    pub fn begin(mut self) {
        let begin = || {
            self.0.say(&Word::Ready)?;
            self.0.hear::<Word>()?;
            self.0.say(&Word::Running)
        };
        if let Err(error) = tokio::task::block_in_place(begin) {
            // It had given everything away: nobody else has it.
            tracing::warn!(%error, "the program before this one is gone");
        }
    }

    /// Says why this process does not begin.
    pub fn refuse(mut self, reason: &str) {
        if let Err(error) = self.0.say(&Word::Refused(reason.to_owned())) {
            tracing::debug!(%error, "nobody hears why this program refuses");
        }
    }
}

/// Asks the daemon at a control socket to let its program be started anew, as this flag's users do.
///
/// # Errors
/// It does not run, or was not replaced.
pub fn ask(socket: &std::path::Path) -> Result<(), margay_control::client::ClientError> {
    margay_control::Client::new(socket).post("/v1/upgrade", &serde_json::json!({}))
}

/// Requests to replace the program: with the successor that is prepared, and where to say how it went.
pub type Requests = mpsc::Receiver<(Successor, oneshot::Sender<Result<(), UpgradeError>>)>;

/// `/v1/upgrade`, and what it asks for.
pub fn routes() -> (Router, Requests) {
    // One after the other.
    let (requests, asked) = mpsc::channel(1);
    let one = Arc::new(Mutex::new(requests));
    (Router::new().route("/v1/upgrade", post(upgrade)).with_state(one), asked)
}

type Asking = Arc<Mutex<mpsc::Sender<(Successor, oneshot::Sender<Result<(), UpgradeError>>)>>>;

async fn upgrade(State(one): State<Asking>) -> Result<Json<()>, Failure> {
    let Ok(requests) = one.try_lock() else {
        return Err(Failure::try_later("an upgrade is under way"));
    };
    tracing::info!("starting the program anew, to take over");
    let prepared = tokio::task::spawn_blocking(Successor::prepare).await;
    let prepared = prepared.map_err(|error| Failure::try_later(error.to_string()))?;
    let (answer, outcome) = oneshot::channel();
    let successor = prepared.map_err(|error| refused(&error))?;
    // Without a taker the answer is dropped.
    let _stopping = requests.send((successor, answer)).await;
    match outcome.await {
        Ok(Ok(())) => Ok(Json(())),
        Ok(Err(error)) => Err(refused(&error)),
        Err(_) => Err(Failure::try_later("the daemon is stopping")),
    }
}

fn refused(error: &UpgradeError) -> Failure {
    tracing::error!("not upgraded: {error}");
    Failure::try_later(format!("not upgraded: {error}"))
}
