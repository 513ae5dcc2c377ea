//! What protects a session below BGP: TCP-MD5 (RFC 2385), GTSM (RFC 5082), and how far packets may travel.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Longest key the kernel takes (`TCP_MD5SIG_MAXKEYLEN` of linux/tcp.h).
const MAX_PASSWORD: usize = 80;

/// Shared secret of TCP-MD5 (RFC 2385), 1 to 80 octets. Never shown: neither in debug output nor in recordings.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Arc<[u8]>);

/// A password that TCP-MD5 cannot use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a BGP password has 1 to {MAX_PASSWORD} octets (RFC 2385, TCP_MD5SIG_MAXKEYLEN), this one has {0}")]
pub struct PasswordError(pub usize);

impl Password {
    /// A key of these octets.
    ///
    /// # Errors
    /// It is empty or longer than 80 octets.
    pub fn new(octets: &[u8]) -> Result<Self, PasswordError> {
        if octets.is_empty() || octets.len() > MAX_PASSWORD {
            return Err(PasswordError(octets.len()));
        }
        Ok(Self(octets.into()))
    }

    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "only sockets need it"))]
    pub(crate) fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Options of a session's socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketOptions {
    /// Interface of a link-local peer: connections go out and come in on it only.
    #[serde(default)]
    pub interface: Option<String>,
    /// TCP-MD5 key. Absent from recordings.
    #[serde(skip)]
    pub password: Option<Password>,
    /// GTSM: what comes in must have travelled at most so many hops (1 is a direct neighbour, 0 counts as 1), and
    /// what goes out has TTL 255.
    pub ttl_security: Option<u8>,
    /// TTL of what goes out; `None` is the system's default. Without effect beside `ttl_security`.
    pub multihop: Option<u8>,
}

impl SocketOptions {
    /// TTL (hop limit) of what goes out, if not the system's.
    #[must_use]
    pub fn ttl(&self) -> Option<u8> {
        if self.ttl_security.is_some() { Some(u8::MAX) } else { self.multihop.map(|hops| hops.max(1)) }
    }

    /// Lowest TTL (hop limit) of what comes in.
    #[must_use]
    pub fn least_ttl(&self) -> Option<u8> {
        self.ttl_security.map(|hops| u8::MAX - (hops.max(1) - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_have_a_length_and_no_face() {
        assert_eq!(Password::new(b""), Err(PasswordError(0)));
        assert_eq!(Password::new(&[b'x'; 81]), Err(PasswordError(81)));
        let password = Password::new(b"secret").unwrap();
        let options = SocketOptions { password: Some(password), ..SocketOptions::default() };
        assert!(!format!("{options:?}").contains("secret"));
        assert!(!serde_json::to_string(&options).unwrap().contains("secret"));
    }

    #[test]
    fn hops_become_ttls() {
        let gtsm = |hops| SocketOptions { ttl_security: Some(hops), ..SocketOptions::default() };
        assert_eq!((gtsm(1).ttl(), gtsm(1).least_ttl()), (Some(255), Some(255)));
        assert_eq!(gtsm(3).least_ttl(), Some(253));
        assert_eq!(gtsm(0).least_ttl(), Some(255));
        let multihop = SocketOptions { multihop: Some(4), ..SocketOptions::default() };
        assert_eq!((multihop.ttl(), multihop.least_ttl()), (Some(4), None));
        assert_eq!(SocketOptions::default().ttl(), None);
    }
}
