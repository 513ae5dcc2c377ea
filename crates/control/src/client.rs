//! A blocking HTTP/1.1 client over a Unix socket: one request per connection.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::body::{Body, Lines};

/// The largest reply that is read, octets.
const MAX_REPLY: u64 = 256 << 20;

/// Body of every failed request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// CNI error code (`11` try again later, `100` and above ours) where it matters, else 0.
    #[serde(default)]
    pub code: u32,
    /// What is wrong and what to do.
    pub message: String,
    /// Details for the log.
    #[serde(default)]
    pub details: String,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens: the daemon is not running, or the path is wrong.
    #[error("cannot reach the daemon at {path}: {source} (is it running? `systemctl status margay-agent`)")]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The connection broke or timed out.
    #[error("talking to the daemon at {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The daemon refused.
    #[error("{}", .body.message)]
    Refused {
        /// HTTP status.
        status: u16,
        /// What the daemon says.
        body: ErrorBody,
    },
    /// The answer could not be understood: versions of client and daemon differ.
    #[error("the answer of the daemon at {path} cannot be read ({reason}): are both of the same version?")]
    Malformed {
        /// The socket.
        path: PathBuf,
        /// Where reading failed.
        reason: String,
    },
}

/// Client of one daemon.
#[derive(Debug, Clone)]
pub struct Client {
    path: PathBuf,
    timeout: Duration,
}

impl Client {
    /// A client for the daemon that listens at `path`; a request takes at most 60 seconds.
    pub fn new(path: impl AsRef<Path>) -> Self {
        Self { path: path.as_ref().to_path_buf(), timeout: Duration::from_secs(60) }
    }

    /// The same with another bound for each read and write.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// `GET path` with a JSON reply.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let body = self.request("GET", path, &[])?;
        self.decode(&body)
    }

    /// `GET path` with a text reply (`/metrics`, `/readyz`).
    pub fn get_text(&self, path: &str) -> Result<String, ClientError> {
        let body = self.request("GET", path, &[])?;
        String::from_utf8(body).map_err(|error| self.malformed(&error))
    }

    /// `POST path` with a JSON body and a JSON reply.
    pub fn post<B: Serialize, T: DeserializeOwned>(&self, path: &str, body: &B) -> Result<T, ClientError> {
        let json = serde_json::to_vec(body).map_err(|error| self.malformed(&error))?;
        let reply = self.request("POST", path, &json)?;
        self.decode(&reply)
    }

    /// `GET path` with a reply of any length, one JSON value per line (see [`crate`]).
    ///
    /// # Errors
    /// The daemon is away or refuses.
    pub fn lines(&self, path: &str) -> Result<Lines, ClientError> {
        Ok(Lines::new(self.clone(), self.open("GET", path, &[])?))
    }

    /// `GET path` with a reply of any length, copied to `to`; returns its octets.
    ///
    /// # Errors
    /// The daemon is away or refuses, the reply ends early, or `to` fails.
    pub fn download(&self, path: &str, to: &mut impl Write) -> Result<u64, ClientError> {
        let mut body = self.open("GET", path, &[])?;
        std::io::copy(&mut body, to).map_err(|error| self.broken(error))
    }

    fn request(&self, method: &str, path: &str, body: &[u8]) -> Result<Vec<u8>, ClientError> {
        let mut reply = Vec::new();
        let body = self.open(method, path, body)?;
        body.take(MAX_REPLY).read_to_end(&mut reply).map_err(|error| self.broken(error))?;
        Ok(reply)
    }

    /// Sends a request and reads the head of the reply.
    fn open(&self, method: &str, path: &str, body: &[u8]) -> Result<Body, ClientError> {
        let mut stream = UnixStream::connect(&self.path)
            .map_err(|source| ClientError::Unreachable { path: self.path.clone(), source })?;
        let io = |source| ClientError::Io { path: self.path.clone(), source };
        stream.set_read_timeout(Some(self.timeout)).map_err(io)?;
        stream.set_write_timeout(Some(self.timeout)).map_err(io)?;
        let mut message = format!(
            "{method} {path} HTTP/1.1\r\nHost: margay\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        message.extend_from_slice(body);
        stream.write_all(&message).map_err(io)?;
        let (status, mut body) = Body::begin(stream).map_err(|error| self.broken(error))?;
        if status < 400 {
            return Ok(body);
        }
        let mut text = Vec::new();
        body.by_ref().take(MAX_REPLY).read_to_end(&mut text).map_err(|error| self.broken(error))?;
        let body = serde_json::from_slice(&text).unwrap_or_else(|_| ErrorBody {
            code: 0,
            message: format!("HTTP status {status}: {}", String::from_utf8_lossy(&text).trim()),
            details: String::new(),
        });
        Err(ClientError::Refused { status, body })
    }

    /// What went wrong while a reply was read.
    pub(crate) fn broken(&self, error: std::io::Error) -> ClientError {
        match error.kind() {
            std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData => self.malformed(&error),
            _ => ClientError::Io { path: self.path.clone(), source: error },
        }
    }

    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.malformed(&error))
    }

    pub(crate) fn malformed(&self, reason: &dyn std::fmt::Display) -> ClientError {
        ClientError::Malformed { path: self.path.clone(), reason: reason.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Serves one connection with a fixed answer and returns what the client sent.
    fn serve(name: &str, answer: &'static str) -> (PathBuf, std::thread::JoinHandle<String>) {
        let path = std::env::temp_dir().join(format!("margay-control-{}-{name}.sock", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let served = path.clone();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            std::fs::remove_file(served).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            // To its end: a socket closed with octets unread resets the connection, and the answer with it.
            let mut request = String::new();
            stream.read_to_string(&mut request).unwrap();
            request
        });
        (path, thread)
    }

    #[test]
    fn reads_a_json_reply() {
        let (path, thread) = serve("ok", "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n[1,2,3]");
        let reply: Vec<u32> = Client::new(&path).post("/v1/x", &"body").unwrap();
        assert_eq!(reply, [1, 2, 3]);
        let request = thread.join().unwrap();
        assert!(request.starts_with("POST /v1/x HTTP/1.1\r\n"), "{request}");
        assert!(request.ends_with("\r\n\r\n\"body\""), "{request}");
    }

    #[test]
    fn a_refusal_carries_code_and_message() {
        let answer = "HTTP/1.1 503 No\r\nContent-Length: 32\r\n\r\n{\"code\":11,\"message\":\"not yet\"}";
        let (path, thread) = serve("no", "HTTP/1.1 503 No\r\n\r\n{\"code\":11,\"message\":\"not yet\"}");
        let error = Client::new(&path).get::<()>("/v1/x").unwrap_err();
        thread.join().unwrap();
        assert!(matches!(&error, ClientError::Refused { status: 503, body } if body.code == 11), "{error:?}");
        let (path, thread) = serve("short", answer);
        let error = Client::new(&path).get::<()>("/v1/x").unwrap_err();
        thread.join().unwrap();
        assert!(matches!(error, ClientError::Malformed { .. }), "{error:?}");
    }

    #[test]
    fn nobody_listening_is_said_so() {
        let error = Client::new("/nonexistent/agent.sock").get::<()>("/").unwrap_err();
        assert!(error.to_string().contains("is it running?"), "{error}");
    }
}
