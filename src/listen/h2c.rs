//! HTTP/2 without TLS. There is no handshake in which it could be chosen, so a client that knows of it
//! begins with the preface (RFC 9113 section 3.4), and whoever begins otherwise speaks HTTP/1.

use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};

use super::socket::Socket;

const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The pause between two looks at a preface that is not whole yet. It comes in one piece, but for a client
/// that means harm.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Whether the connection begins with the preface. Nothing is read.
///
/// # Errors
/// What came `within` this time may become a preface.
pub(super) async fn begins(socket: &Socket, within: Duration) -> Result<bool, Elapsed> {
    let look = async {
        let mut first = [0; PREFACE.len()];
        loop {
            let seen = socket.peek(&mut first).await.ok()?;
            let seen = first.get(..seen).filter(|it| !it.is_empty() && PREFACE.starts_with(it))?;
            if seen.len() == PREFACE.len() {
                return Some(());
            }
            sleep(LOOK_EVERY).await;
        }
    };
    timeout(within, look).await.map(|it| it.is_some())
}
