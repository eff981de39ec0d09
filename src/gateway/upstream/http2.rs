//! Whether a server speaks HTTP/2, found out before anything is sold or sent there.

use std::time::Duration;

use pingora::prelude::{Error, ErrorType, Result};
use tokio::io::{AsyncRead, AsyncWrite};

/// Why a server is not sold that is to be spoken to in HTTP/2.
pub(super) const NO_HTTP2: &str =
    "the server does not speak HTTP/2, as `protocol` says: it did not answer to its preface";

/// Begins a connection of HTTP/2 as a request does, and waits for the answer to a ping (RFC 9113 sections 3.4
/// and 6.7), `within` this time.
pub(super) async fn speaks_http2(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin,
    within: Duration,
) -> Result<()> {
    let spoken = async {
        // The connection ends with the last handle to it.
        let (_client, mut connection) = h2::client::handshake(stream).await?;
        let Some(mut pings) = connection.ping_pong() else { return Ok(false) };
        tokio::select! {
            biased;
            answered = pings.ping(h2::Ping::opaque()) => answered.map(|_pong| true),
            ended = &mut connection => ended.map(|()| false),
        }
    };
    match tokio::time::timeout(within, spoken).await {
        Ok(Ok(true)) => Ok(()),
        Ok(Ok(false)) => Error::e_explain(ErrorType::H2Error, NO_HTTP2),
        Ok(Err(error)) => Error::e_because(ErrorType::H2Error, NO_HTTP2, error),
        Err(_elapsed) => Error::e_explain(ErrorType::H2Error, NO_HTTP2),
    }
}

pub(super) fn no_http2() -> Result<()> {
    let why =
        "the server did not choose HTTP/2 in the handshake of TLS (ALPN): let it, or set `protocol: auto`";
    Error::e_explain(ErrorType::H2Downgrade, why).map_err(|it: Box<Error>| it.into_up())
}
