//! Connections to BMP stations: dialled again and again, written to, never read from but to learn that they are gone.

use super::conn::IoEvent;
use crate::monitor::{MonitorConfig, StationConfig, StationId, StationInput};
use crate::time::Time;
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// First wait between two attempts, doubled up to the longest (RFC 7854 section 3.2 asks for 30 and 720 seconds, which
/// only hides a station that is back).
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The wait after a station was cut off: it is not well.
const CUT: Duration = Duration::from_secs(10);
/// For the last messages when the speaker ends.
const LAST: Duration = Duration::from_millis(500);
/// Longest attempt to connect.
const CONNECT: Duration = Duration::from_secs(10);

/// Who looks at a speaker.
#[derive(Debug, Clone, Default)]
pub struct Monitoring {
    /// Name of this router.
    pub name: String,
    /// What runs here.
    pub description: String,
    /// BMP stations.
    pub stations: Vec<(SocketAddr, StationConfig)>,
    /// Where MRT records of updates and session states go. What doesn't fit is dropped.
    pub records: Option<mpsc::Sender<Bytes>>,
}

impl Monitoring {
    /// Of a speaker whose time is `now`.
    pub(super) fn config(&self, now: Time) -> MonitorConfig {
        let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        MonitorConfig {
            stations: self.stations.iter().map(|(_, station)| station.clone()).collect(),
            record: self.records.is_some(),
            // A clock before 1970 is not worth more than 1970.
            epoch: clock.unwrap_or_default().saturating_sub(now.since(Time::ZERO)),
            name: self.name.clone(),
            description: self.description.clone(),
        }
    }
}

/// The speaker's side of a station.
#[derive(Debug)]
pub(super) struct Station {
    id: StationId,
    address: SocketAddr,
    io: mpsc::Sender<IoEvent>,
    task: Task,
    /// Bounded by the speaker, which counts what is not written. Closed while there is no connection.
    data: mpsc::UnboundedSender<Bytes>,
}

impl Station {
    pub(super) fn start(id: StationId, address: SocketAddr, io: mpsc::Sender<IoEvent>) -> Self {
        Self::start_after(Duration::ZERO, id, address, io)
    }

    fn start_after(wait: Duration, id: StationId, address: SocketAddr, io: mpsc::Sender<IoEvent>) -> Self {
        let (data, queue) = mpsc::unbounded_channel();
        let run = run(id, address, io.clone(), queue);
        let late = async move {
            tokio::time::sleep(wait).await;
            run.await;
        };
        let task = Task(tokio::spawn(late));
        Self { id, address, io, task, data }
    }

    pub(super) fn send(&self, data: Bytes) {
        // A connection that has just gone reports it.
        let _gone = self.data.send(data);
    }

    /// The speaker has ended: lets the rest go out, for a moment.
    pub(super) async fn finish(self) {
        let Self { data, mut task, .. } = self;
        drop(data);
        if tokio::time::timeout(LAST, &mut task.0).await.is_err() {
            tracing::debug!("BMP station does not take the last messages");
        }
    }

    /// Closes the connection without waiting, and begins anew.
    pub(super) fn cut(&mut self) {
        tracing::warn!(station = %self.address, "BMP station does not read: cut off, it gets everything again");
        *self = Self::start_after(CUT, self.id, self.address, self.io.clone());
    }
}

/// Ends with its owner.
#[derive(Debug)]
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn run(
    id: StationId,
    address: SocketAddr,
    io: mpsc::Sender<IoEvent>,
    mut queue: mpsc::UnboundedReceiver<Bytes>,
) {
    let mut wait = RETRY;
    loop {
        match tokio::time::timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                tracing::info!(station = %address, "BMP station connected");
                if io.send(IoEvent::Station(id, StationInput::Up)).await.is_err() {
                    return;
                }
                let Some(reason) = feed(id, stream, &io, &mut queue).await else { return };
                tracing::warn!(station = %address, %reason, "BMP station lost");
                if io.send(IoEvent::Station(id, StationInput::Down)).await.is_err() {
                    return;
                }
                wait = RETRY;
            }
            Ok(Err(error)) => tracing::debug!(station = %address, %error, "cannot connect to BMP station"),
            Err(_late) => tracing::debug!(station = %address, "BMP station does not answer"),
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
        // What was meant for the last connection; the speaker has been told that it is gone.
        while queue.try_recv().is_ok() {}
    }
}

/// Writes until the connection ends; says why, or nothing if the speaker has ended.
async fn feed(
    id: StationId,
    mut stream: TcpStream,
    io: &mpsc::Sender<IoEvent>,
    queue: &mut mpsc::UnboundedReceiver<Bytes>,
) -> Option<String> {
    let (mut reader, mut writer) = stream.split();
    let mut ignored = [0; 512];
    loop {
        tokio::select! {
            data = queue.recv() => {
                let data = data?;
                if let Err(error) = writer.write_all(&data).await {
                    return Some(error.to_string());
                }
                let written = StationInput::Written(data.len());
                // Nobody counts any more when the speaker ends, but the rest is to go out.
                let _ended = io.send(IoEvent::Station(id, written)).await;
            }
            read = reader.read(&mut ignored) => match read {
                Ok(0) => return Some("it closed the connection".to_owned()),
                Ok(_) => {}
                Err(error) => return Some(error.to_string()),
            },
        }
    }
}
