//! HTTP/2 frame by frame, since a proper client would send no improper request (RFC 9113 sections 4 to 6).

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::cases::Piece;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// The only stream.
const STREAM: u32 = 1;

/// A client that trusts one certificate and speaks HTTP/2 only.
pub(super) fn connector(trusted: CertificateDer<'static>) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A field that is never indexed, its name and value as they are (RFC 7541 section 6.2.3).
fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x10];
    for text in [name, value] {
        // Seven bits, then what is left in groups of seven (RFC 7541 section 5.1).
        if text.len() < 127 {
            bytes.push(text.len() as u8);
        } else {
            bytes.push(127);
            let mut rest = text.len() - 127;
            while rest >= 128 {
                bytes.push((rest % 128) as u8 | 128);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
        bytes.extend(text);
    }
    bytes
}

/// The bytes of a whole connection with one request.
pub(crate) fn request(pieces: &[Piece]) -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    let (mut fields, mut trailers, mut data, mut resets) = (Vec::new(), Vec::new(), Vec::new(), false);
    for piece in pieces {
        match piece {
            Piece::Field(name, value) => fields.extend(literal(name, value)),
            Piece::Trailer(name, value) => trailers.extend(literal(name, value)),
            Piece::Data(value) => data.push(value),
            Piece::Reset => resets = true,
        }
    }
    let ends = data.is_empty() && trailers.is_empty() && !resets;
    bytes.extend(frame(HEADERS, END_HEADERS | if ends { END_STREAM } else { 0 }, STREAM, &fields));
    for (index, value) in data.iter().enumerate() {
        let is_last = index + 1 == data.len() && trailers.is_empty() && !resets;
        bytes.extend(frame(DATA, if is_last { END_STREAM } else { 0 }, STREAM, value));
    }
    if !trailers.is_empty() {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, STREAM, &trailers));
    }
    if resets {
        bytes.extend(frame(RST_STREAM, 0, STREAM, &[0, 0, 0, 8]));
    }
    bytes
}

/// Sends a request. Gives the status and body of its answer; `None` if there is none.
pub(crate) async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    pieces: &[Piece],
    patience: Duration,
) -> Option<(u16, Vec<u8>)> {
    let _closed_early = stream.write_all(&request(pieces)).await.is_err() || stream.flush().await.is_err();
    answer(&mut stream, patience).await
}

/// Reads the answer to the one request that was sent.
pub(crate) async fn answer(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    patience: Duration,
) -> Option<(u16, Vec<u8>)> {
    let (mut status, mut body) = (None, Vec::new());
    loop {
        let mut head = [0; 9];
        let read = tokio::time::timeout(patience, stream.read_exact(&mut head)).await;
        if !matches!(read, Ok(Ok(_))) {
            return None;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        let _whole = stream.read_exact(&mut payload).await.ok()?;
        let (kind, flags) = (head[3], head[4]);
        match kind {
            HEADERS if status.is_none_or(|it| it < 200) => status = Some(status_of(&payload)),
            DATA => body.extend_from_slice(&payload),
            SETTINGS if flags & ACK == 0 => {
                let _closed = stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await.is_err();
            }
            RST_STREAM | GOAWAY => return status.map(|it| (it, body)),
            _ => {}
        }
        if matches!(kind, HEADERS | DATA) && flags & END_STREAM != 0 {
            return status.map(|it| (it, body));
        }
    }
}

/// The status that a block of fields begins with (RFC 7541 sections 5.2, 6 and appendices A and B).
fn status_of(mut block: &[u8]) -> u16 {
    const INDEXED: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // A change of the table's size may come first.
    while block[0] & 0xe0 == 0x20 {
        block = &block[1..];
    }
    if block[0] & 0x80 != 0 {
        return INDEXED[usize::from(block[0] & 0x7f) - 8];
    }
    let (length, text) = (usize::from(block[1] & 0x7f), &block[2..]);
    let text = &text[..length];
    if block[1] & 0x80 == 0 {
        return std::str::from_utf8(text).unwrap().parse().unwrap();
    }
    // The code of a digit: five bits for 0, 1 and 2, six for the others.
    let mut bits = text.iter().flat_map(|byte| (0..8).rev().map(move |at| u16::from(byte >> at & 1)));
    let mut status = 0;
    for _ in 0..3 {
        let five = (0..5).fold(0, |sum, _| sum * 2 + bits.next().unwrap());
        let digit = if five < 3 { five } else { five * 2 + bits.next().unwrap() - 0x19 + 3 };
        status = status * 10 + digit;
    }
    status
}
