//! The PROXY protocol, versions 1 and 2: the header in which a proxy says who its client is.

use std::io;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest header of version 1, with its line end.
const LONGEST_LINE: usize = 107;
/// The beginning of version 2, up to the length of what follows.
const FIXED: usize = 16;
/// The longest header of version 2 that is read: addresses, and what load balancers add to them.
const LONGEST: usize = 4096;

/// Reads the header from `tcp`, and nothing after it. Gives the client; `peer` itself if the proxy speaks
/// for nobody, as in a health check.
///
/// # Errors
/// The connection ended, or what came is no such header.
pub(super) async fn read(tcp: &mut (impl AsyncRead + Unpin), peer: SocketAddr) -> io::Result<SocketAddr> {
    let mut header = vec![tcp.read_u8().await?];
    if header == b"P" {
        while !header.ends_with(b"\n") && header.len() < LONGEST_LINE {
            header.push(tcp.read_u8().await?);
        }
    } else {
        header.resize(FIXED, 0);
        let _read = tcp.read_exact(header.get_mut(1..).unwrap_or_default()).await?;
        let length = header.last_chunk().map_or(0, |it| usize::from(u16::from_be_bytes(*it)));
        if !header.starts_with(b"\r\n") || length > LONGEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        header.resize(FIXED.saturating_add(length), 0);
        let _read = tcp.read_exact(header.get_mut(FIXED..).unwrap_or_default()).await?;
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let parsed = ProxyHeader::parse(&header, config);
    let (parsed, _) =
        parsed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    Ok(parsed.proxied_address().map_or(peer, |it| it.source))
}
