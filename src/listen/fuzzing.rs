//! What the fuzz targets in `tests/fuzz` call of this module's private functions.

use std::io;
use std::net::SocketAddr;

use futures_util::FutureExt;

use super::head::Place;
use super::proxy_protocol;

/// How many bytes at the beginning of `text` the watch over heads takes for a head; `None` if it has no end.
#[must_use]
pub fn head_length(text: &[u8]) -> Option<usize> {
    let mut place = Place::default();
    for (index, byte) in text.iter().enumerate() {
        match place.after(*byte) {
            Some(next) => place = next,
            None => return Some(index.saturating_add(1)),
        }
    }
    None
}

/// Reads a header of the PROXY protocol that came from `peer`. Gives the client, and what comes after the
/// header.
///
/// # Errors
/// `bytes` end too early, or do not begin with such a header.
pub fn proxied(mut bytes: &[u8], peer: SocketAddr) -> io::Result<(SocketAddr, &[u8])> {
    let client = proxy_protocol::read(&mut bytes).now_or_never().unwrap_or(Ok(None))?;
    Ok((client.unwrap_or(peer), bytes))
}
