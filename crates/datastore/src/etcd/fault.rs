//! Sorts the client's errors by what they say about the request.

use std::io::ErrorKind;

use etcd_client::Error as ClientError;

use crate::error::Error;

/// gRPC status codes, by number as in the specification (statuscodes.md).
mod code {
    pub(super) const CANCELLED: i32 = 1;
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const RESOURCE_EXHAUSTED: i32 = 8;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const OUT_OF_RANGE: i32 = 11;
    pub(super) const UNIMPLEMENTED: i32 = 12;
    pub(super) const UNAVAILABLE: i32 = 14;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// What a failed request means.
pub(super) enum Fault {
    /// etcd answered; asking another endpoint gives the same.
    Answer(Error),
    /// It never reached etcd, or etcd refused to begin.
    NotSent(String),
    /// It may have been carried out.
    Lost(String),
}

impl From<&ClientError> for Fault {
    fn from(error: &ClientError) -> Self {
        let status = match error {
            ClientError::GRpcStatus(status) => status,
            ClientError::IoError(e) => return Self::NotSent(e.to_string()),
            ClientError::TransportError(e) => return Self::NotSent(deepest(e)),
            ClientError::InvalidArgs(_)
            | ClientError::InvalidUri(_)
            | ClientError::InvalidMetadataValue(_)
            | ClientError::EndpointError(_) => return Self::Answer(Error::Invalid(format!("etcd: {error}"))),
            _ => return Self::Lost(error.to_string()),
        };
        let message = status.message();
        let says = |text: &str| message.contains(text);
        match i32::from(status.code()) {
            code::OUT_OF_RANGE if says("compacted") => Self::Answer(Error::Compacted(message.to_owned())),
            code::OUT_OF_RANGE if says("future revision") => Self::Answer(Error::Invalid(message.to_owned())),
            code::PERMISSION_DENIED | code::UNAUTHENTICATED => {
                Self::Answer(Error::Denied(message.to_owned()))
            }
            code::INVALID_ARGUMENT | code::FAILED_PRECONDITION if says("auth") || says("user name") => {
                Self::Answer(Error::Denied(message.to_owned()))
            }
            code::INVALID_ARGUMENT => Self::Answer(Error::Invalid(message.to_owned())),
            code::UNIMPLEMENTED => {
                Self::Answer(Error::Invalid(format!("this endpoint doesn't speak etcd's v3 API: {message}")))
            }
            code::RESOURCE_EXHAUSTED if says("larger than max") => {
                Self::Answer(Error::Invalid(message.to_owned()))
            }
            code::RESOURCE_EXHAUSTED => Self::NotSent(message.to_owned()),
            code::UNAVAILABLE if says("no leader") || says("too many requests") => {
                Self::NotSent(message.to_owned())
            }
            code::UNAVAILABLE | code::CANCELLED if never_connected(status) => Self::NotSent(deepest(status)),
            _ => Self::Lost(format!("{message} ({})", status.code())),
        }
    }
}

/// Whether the connection itself could not be made.
///
/// The types that say so are the transport's own; their texts ("tcp connect error", "dns error") are stable enough, and a text
/// that isn't recognised makes the outcome "uncertain", which is the safe side.
fn never_connected(status: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(status);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>()
            && matches!(io.kind(), ErrorKind::ConnectionRefused | ErrorKind::InvalidData)
        {
            return true;
        }
        let text = error.to_string();
        if text.starts_with("tcp ")
            || text.starts_with("dns error")
            || text.contains("invalid peer certificate")
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// The cause at the bottom: "Connection refused (os error 111)" says more than "transport error".
fn deepest(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_error_without_status_is_never_taken_for_an_answer_of_etcd() {
        let lost = Fault::from(&ClientError::WatchError("channel closed".to_owned()));
        assert!(matches!(lost, Fault::Lost(reason) if reason.contains("channel closed")));
        let refused = std::io::Error::from(ErrorKind::ConnectionRefused);
        assert!(never_connected(&refused));
        assert!(matches!(Fault::from(&ClientError::IoError(refused)), Fault::NotSent(_)));
    }

    #[test]
    fn only_errors_of_connecting_count_as_never_connected() {
        for kind in
            [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::UnexpectedEof, ErrorKind::TimedOut]
        {
            assert!(!never_connected(&std::io::Error::from(kind)), "{kind}");
        }
        assert!(never_connected(&std::io::Error::other("tcp connect error")));
    }
}
