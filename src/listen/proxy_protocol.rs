//! The PROXY protocol, versions 1 and 2: the header in which a proxy says who its client is.

use std::io;
use std::net::SocketAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest header of version 1, with its line end.
const LONGEST_LINE: usize = 107;
/// The beginning of version 2, up to the length of what follows.
const FIXED: usize = 16;
/// The beginning of version 2, if the proxy speaks for nobody.
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20";
/// The longest header of version 2 that is read: addresses, and what load balancers add to them.
const LONGEST: usize = 4096;

/// Reads the header from `tcp`, and nothing after it. Gives the client; `None` if the proxy speaks for nobody, as in a
/// health check.
///
/// # Errors
/// The connection ended, or what came is no such header.
pub(super) async fn read(tcp: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![tcp.read_u8().await?];
    if header == b"P" {
        while !header.ends_with(b"\r\n") && header.len() < LONGEST_LINE {
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
    // The rest says nothing then, not even the kind of the addresses (section 2.2).
    if header.starts_with(LOCAL) {
        return Ok(None);
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let parsed = ProxyHeader::parse(&header, config);
    let (parsed, _) =
        parsed.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
    Ok(parsed.proxied_address().map(|it| it.source))
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    /// Who is the client by a header, and how much is left of what came; `None` if it is refused.
    fn read_all(mut bytes: &[u8]) -> Option<(SocketAddr, usize)> {
        let peer = "10.0.0.1:9".parse().unwrap();
        let client = read(&mut bytes).now_or_never().unwrap().ok()?;
        Some((client.unwrap_or(peer), bytes.len()))
    }

    fn version_2(command: u8, kind: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n", &[command, kind][..], &length, rest, b"GET"].concat()
    }

    /// Before, such a health check was refused if it named addresses that are not there, or a kind of them
    /// that is not known.
    #[test]
    fn of_a_proxy_that_speaks_for_itself_only_the_length_is_read() {
        let itself = Some(("10.0.0.1:9".parse().unwrap(), 3));
        for kind in [0x00, 0x11, 0x10, 0x43] {
            assert_eq!(read_all(&version_2(0x20, kind, &[])), itself, "{kind:x}");
            assert_eq!(read_all(&version_2(0x20, kind, &[1; 12])), itself, "{kind:x}");
        }
        let client = Some(("1.1.1.1:257".parse().unwrap(), 3));
        assert_eq!(read_all(&version_2(0x21, 0x11, &[1; 12])), client);
    }

    /// Half of a kind is none of the combinations that section 2.2 lists.
    #[test]
    fn for_a_client_the_kind_of_its_addresses_must_be_known() {
        for kind in [0x01, 0x02, 0x10, 0x20, 0x30, 0x13, 0x41] {
            assert_eq!(read_all(&version_2(0x21, kind, &[1; 216])), None, "{kind:x}");
        }
        for command in [0x22, 0x11, 0x31] {
            assert_eq!(read_all(&version_2(command, 0x11, &[1; 12])), None, "{command:x}");
        }
    }

    /// Section 2.1: after `UNKNOWN`, whatever comes before CR LF is ignored.
    #[test]
    fn a_line_of_version_1_ends_with_cr_and_lf() {
        assert_eq!(read_all(b"PROXY UNKNOWN a\nb\r\nGET"), Some(("10.0.0.1:9".parse().unwrap(), 3)));
        assert_eq!(read_all(b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), None);
        assert_eq!(read_all(&[b"PROXY UNKNOWN".as_slice(), &[b'a'; 200]].concat()), None);
    }
}
