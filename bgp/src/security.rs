//! What protects a session below BGP: TCP-MD5 (RFC 2385), TCP-AO (RFC 5925), GTSM (RFC 5082), and how far packets may
//! travel.

use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Longest key the kernel takes (`TCP_MD5SIG_MAXKEYLEN`, `TCP_AO_MAXKEYLEN` of linux/tcp.h).
const MAX_PASSWORD: usize = 80;
/// First line of a secret that holds keys of TCP-AO.
const AO: &[u8] = b"tcp-ao";

/// Shared secret of a session: a TCP-MD5 password of 1 to 80 octets (RFC 2385), or keys of TCP-AO (RFC 5925). Never
/// shown: neither in debug output nor in recordings.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Secret);

#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    Md5(Arc<[u8]>),
    /// At least one; the first is the one to send with.
    Ao(Arc<[AoKey]>),
}

/// A Master Key Tuple of TCP-AO (RFC 5925 section 3.1) with one id for both directions.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct AoKey {
    pub(crate) id: u8,
    pub(crate) algorithm: AoAlgorithm,
    pub(crate) octets: Box<[u8]>,
}

/// Algorithms of RFC 5926, and HMAC-SHA-256 as routers have it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum AoAlgorithm {
    HmacSha1,
    Aes128Cmac,
    HmacSha256,
}

#[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "only sockets need it"))]
impl AoAlgorithm {
    /// As the kernel's crypto calls it.
    pub(crate) fn kernel_name(self) -> &'static str {
        match self {
            Self::HmacSha1 => "hmac(sha1)",
            Self::Aes128Cmac => "cmac(aes128)",
            Self::HmacSha256 => "hmac(sha256)",
        }
    }

    /// Octets of the code in each segment.
    pub(crate) fn mac_len(self) -> u8 {
        match self {
            Self::HmacSha1 | Self::Aes128Cmac => 12,
            Self::HmacSha256 => 16,
        }
    }
}

/// A secret that cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    /// Too short or too long.
    #[error(
        "a BGP password has 1 to {MAX_PASSWORD} octets (RFC 2385, TCP_MD5SIG_MAXKEYLEN), this one has {0}"
    )]
    Length(usize),
    /// A line behind `tcp-ao`.
    #[error(
        "line {0} is no TCP-AO key: write `<id from 0 to 255> <hmac-sha-1-96, aes-128-cmac-96 or \
         hmac-sha-256-128> <key of 1 to {MAX_PASSWORD} octets>`"
    )]
    AoLine(usize),
    /// An id for two keys.
    #[error("two TCP-AO keys have the id {0}: each needs its own")]
    AoTwice(u8),
    /// Nothing behind `tcp-ao`.
    #[error("no TCP-AO key follows the line `tcp-ao`")]
    AoNone,
}

impl Password {
    /// A TCP-MD5 key of these octets.
    ///
    /// # Errors
    /// It is empty or longer than 80 octets.
    pub fn new(octets: &[u8]) -> Result<Self, PasswordError> {
        if octets.is_empty() || octets.len() > MAX_PASSWORD {
            return Err(PasswordError::Length(octets.len()));
        }
        Ok(Self(Secret::Md5(octets.into())))
    }

    /// A secret as a file holds it: a password and at most one line end; or a line `tcp-ao` and then lines of id,
    /// algorithm and key, separated by one space. All keys are accepted, the first is sent with. They are changed
    /// without touching the session by adding a key on both sides, moving it to the front, and removing the other.
    ///
    /// # Errors
    /// What is wrong, and in which line.
    pub fn parse(file: &[u8]) -> Result<Self, PasswordError> {
        let mut lines =
            file.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
        if lines.next() == Some(AO) {
            return Self::parse_ao(lines);
        }
        let line = file.strip_suffix(b"\n").unwrap_or(file);
        Self::new(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn parse_ao<'a>(lines: impl Iterator<Item = &'a [u8]>) -> Result<Self, PasswordError> {
        let mut keys: Vec<AoKey> = Vec::new();
        for (number, line) in (2..).zip(lines).filter(|(_, line)| !line.is_empty()) {
            let key = AoKey::parse(line).ok_or(PasswordError::AoLine(number))?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(PasswordError::AoTwice(key.id));
            }
            keys.push(key);
        }
        if keys.is_empty() { Err(PasswordError::AoNone) } else { Ok(Self(Secret::Ao(keys.into()))) }
    }

    #[cfg_attr(not(feature = "tokio"), expect(dead_code, reason = "only sockets need it"))]
    pub(crate) fn secret(&self) -> &Secret {
        &self.0
    }

    /// The file that [`Self::parse`] makes this of.
    pub(crate) fn to_file(&self) -> Vec<u8> {
        match &self.0 {
            Secret::Md5(octets) => [octets, &b"\n"[..]].concat(),
            Secret::Ao(keys) => {
                let mut file = AO.to_vec();
                for key in keys.iter() {
                    let algorithm = match key.algorithm {
                        AoAlgorithm::HmacSha1 => "hmac-sha-1-96",
                        AoAlgorithm::Aes128Cmac => "aes-128-cmac-96",
                        AoAlgorithm::HmacSha256 => "hmac-sha-256-128",
                    };
                    file.extend_from_slice(format!("\n{} {algorithm} ", key.id).as_bytes());
                    file.extend_from_slice(&key.octets);
                }
                file
            }
        }
    }

    /// Whether a session can go on from the old secret to this one: keys of TCP-AO of which one stays.
    pub(crate) fn follows(&self, old: &Self) -> bool {
        match (&self.0, &old.0) {
            (Secret::Ao(new), Secret::Ao(old)) => new.iter().any(|key| old.contains(key)),
            _ => false,
        }
    }
}

impl AoKey {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut words = line.splitn(3, |octet| *octet == b' ');
        let id = std::str::from_utf8(words.next()?).ok()?.parse().ok()?;
        let algorithm = match words.next()? {
            b"hmac-sha-1-96" => AoAlgorithm::HmacSha1,
            b"aes-128-cmac-96" => AoAlgorithm::Aes128Cmac,
            b"hmac-sha-256-128" => AoAlgorithm::HmacSha256,
            _ => return None,
        };
        let octets = words.next().filter(|octets| (1..=MAX_PASSWORD).contains(&octets.len()))?;
        Some(Self { id, algorithm, octets: octets.into() })
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
    /// TCP-MD5 or TCP-AO keys. Absent from recordings.
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
        assert_eq!(Password::new(b""), Err(PasswordError::Length(0)));
        assert_eq!(Password::new(&[b'x'; 81]), Err(PasswordError::Length(81)));
        let password = Password::new(b"secret").unwrap();
        let options = SocketOptions { password: Some(password), ..SocketOptions::default() };
        assert!(!format!("{options:?}").contains("secret"));
        assert!(!serde_json::to_string(&options).unwrap().contains("secret"));
    }

    #[test]
    fn a_file_holds_a_password_or_keys() {
        let parse = |text: &str| Password::parse(text.as_bytes());
        assert_eq!(parse("open sesame\r\n"), Password::new(b"open sesame"));
        assert_eq!(parse("\n"), Err(PasswordError::Length(0)));
        let keys = parse("tcp-ao\n1 hmac-sha-1-96 open sesame\n\n7 aes-128-cmac-96 x\n").unwrap();
        let Secret::Ao(keys) = keys.secret() else { panic!("keys") };
        let told: Vec<_> = keys.iter().map(|key| (key.id, &*key.octets)).collect();
        assert_eq!(told, [(1, &b"open sesame"[..]), (7, b"x")]);
        for (text, error) in [
            ("tcp-ao\n", PasswordError::AoNone),
            ("tcp-ao\n1 hmac-sha-1-96 x\n1 hmac-sha-1-96 y", PasswordError::AoTwice(1)),
            ("tcp-ao\n256 hmac-sha-1-96 x", PasswordError::AoLine(2)),
            ("tcp-ao\n1 md5 x", PasswordError::AoLine(2)),
            ("tcp-ao\n1 hmac-sha-1-96 x\n2 hmac-sha-1-96 ", PasswordError::AoLine(3)),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_session_goes_on_while_one_key_stays() {
        let parse = |text: &str| Password::parse(text.as_bytes()).unwrap();
        let one = parse("tcp-ao\n1 hmac-sha-1-96 x");
        let both = parse("tcp-ao\n2 hmac-sha-1-96 y\n1 hmac-sha-1-96 x");
        let two = parse("tcp-ao\n2 hmac-sha-1-96 y");
        assert!(both.follows(&one) && two.follows(&both));
        assert!(!two.follows(&one) && !parse("x").follows(&parse("y")) && !one.follows(&parse("x")));
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
