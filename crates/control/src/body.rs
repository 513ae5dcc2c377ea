//! The body of a reply as it comes: of known length, in chunks (RFC 9112 section 7.1), or until the end.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result};
use std::os::unix::net::UnixStream;

use serde::de::DeserializeOwned;

use crate::client::{Client, ClientError};

/// The longest head of a reply, and the longest line of chunked coding.
const MAX_HEAD: u64 = 64 << 10;

#[derive(Debug, Clone, Copy)]
enum Rest {
    /// So many octets.
    Length(u64),
    /// So many octets of this chunk, then others.
    Chunk(u64),
    /// Whatever comes.
    Unknown,
    End,
}

/// Reads a body; an end before the end is an error.
#[derive(Debug)]
pub(crate) struct Body {
    stream: BufReader<UnixStream>,
    rest: Rest,
}

fn early() -> Error {
    Error::new(ErrorKind::UnexpectedEof, "it ends within the body")
}

fn wrong(reason: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::InvalidData, reason.to_string())
}

impl Body {
    /// Reads the head; returns the status too.
    pub(crate) fn begin(stream: UnixStream) -> Result<(u16, Self)> {
        let mut stream = BufReader::new(stream);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let line = stream.by_ref().take(MAX_HEAD).read_until(b'\n', &mut head)?;
            if line == 0 || head.len() as u64 > MAX_HEAD {
                return Err(Error::new(ErrorKind::UnexpectedEof, "it ends within the header"));
            }
        }
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        response.parse(&head).map_err(wrong)?;
        let value = |name: &str| {
            let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            std::str::from_utf8(header.value).ok()
        };
        let rest = if value("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            Rest::Chunk(0)
        } else {
            value("content-length").and_then(|length| length.parse().ok()).map_or(Rest::Unknown, Rest::Length)
        };
        Ok((response.code.unwrap_or_default(), Self { stream, rest }))
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.stream.by_ref().take(MAX_HEAD).read_line(&mut line)?;
        if !line.ends_with('\n') {
            return Err(early());
        }
        Ok(line.trim().to_owned())
    }

    /// The length of the next chunk.
    fn next_chunk(&mut self) -> Result<Rest> {
        let line = self.line()?;
        let digits = line.split(';').next().unwrap_or_default();
        match u64::from_str_radix(digits, 16) {
            Ok(0) => Ok(Rest::End),
            Ok(length) => Ok(Rest::Chunk(length)),
            Err(_not_a_number) => Err(wrong("a chunk has no length")),
        }
    }
}

impl Read for Body {
    fn read(&mut self, to: &mut [u8]) -> Result<usize> {
        if matches!(self.rest, Rest::Chunk(0)) {
            self.rest = self.next_chunk()?;
        }
        let left = match self.rest {
            Rest::End | Rest::Length(0) => return Ok(0),
            Rest::Unknown => return self.stream.read(to),
            Rest::Length(left) | Rest::Chunk(left) => left,
        };
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(to.len());
        let count = self.stream.read(to.get_mut(..room).unwrap_or_default())?;
        if count == 0 && room > 0 {
            return Err(early());
        }
        let left = left - count as u64;
        self.rest = match self.rest {
            Rest::Chunk(_) => {
                if left == 0 {
                    self.line()?;
                }
                Rest::Chunk(left)
            }
            _ => Rest::Length(left),
        };
        Ok(count)
    }
}

/// Values that come one per line: in an array of any length (`[`, values with a comma before all but the first, `]`),
/// or one after the other without end. Blank lines say that the daemon is alive.
#[derive(Debug)]
pub struct Lines {
    client: Client,
    body: BufReader<Body>,
}

impl Lines {
    pub(crate) fn new(client: Client, body: Body) -> Self {
        Self { client, body: BufReader::new(body) }
    }

    /// The next value; none at the end.
    ///
    /// # Errors
    /// The daemon went away, or the value is not what is expected.
    pub fn next_value<T: DeserializeOwned>(&mut self) -> std::result::Result<Option<T>, ClientError> {
        loop {
            let mut line = String::new();
            if self.body.read_line(&mut line).map_err(|error| self.client.broken(error))? == 0 {
                return Ok(None);
            }
            let value = line.trim().trim_start_matches(',');
            if !matches!(value, "" | "[" | "]" | "[]") {
                return serde_json::from_str(value).map(Some).map_err(|error| self.client.malformed(&error));
            }
        }
    }
}
