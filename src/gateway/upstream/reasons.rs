//! Why a server could not be reached, did not answer or is not healthy, in words for the log.

use pingora::prelude::{Error, ErrorType};

/// Why a server was not reached or is not healthy, for people: what it answered, or what the network or TLS
/// says.
pub(super) fn in_words(error: &Error) -> String {
    if let ErrorType::CustomCode(_, status) = error.etype() {
        return format!("it answers {status}");
    }
    if *error.etype() == ErrorType::ConnectTimedout {
        return "no connection in time".to_owned();
    }
    let root = error.root_cause();
    if let Some(cause) = root.downcast_ref::<std::io::Error>() {
        return cause.to_string();
    }
    // Pingora keeps its own address of a failed connection as the last cause, before what went wrong.
    if let Some(cause) = std::error::Error::source(root) {
        return cause.to_string();
    }
    let innermost = root.downcast_ref::<Error>().unwrap_or(error);
    innermost.context.as_ref().map_or_else(|| innermost.to_string(), |it| it.as_str().to_owned())
}

/// What the network said about a failed request; `None` if that may repeat what was sent.
pub(in crate::gateway) fn cause(error: &Error) -> Option<String> {
    let connecting = [
        ErrorType::ConnectTimedout,
        ErrorType::ConnectRefused,
        ErrorType::ConnectNoRoute,
        ErrorType::ConnectError,
        ErrorType::TLSHandshakeFailure,
        ErrorType::TLSHandshakeTimedout,
        ErrorType::InvalidCert,
        ErrorType::H2Downgrade,
    ];
    if connecting.contains(error.etype()) {
        return Some(error.to_string());
    }
    error.root_cause().downcast_ref::<std::io::Error>().map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// The host and the path that a client asks for are the client's own business.
    #[test]
    fn a_cause_repeats_nothing_of_a_request() {
        let refused = Error::explain(ErrorType::ConnectRefused, "10.0.0.1:80");
        assert!(cause(&refused).is_some_and(|it| it.contains("10.0.0.1:80")));
        let reset = io::Error::other("reset by the other side");
        let broken = Error::because(ErrorType::ReadError, "/secret", reset);
        assert_eq!(cause(&broken).as_deref(), Some("reset by the other side"));
        assert_eq!(cause(&Error::explain(ErrorType::InvalidHTTPHeader, "/secret")), None);
    }
}
