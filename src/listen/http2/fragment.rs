//! Targets with a fragment, over HTTP/2.
//!
//! A target has none (RFC 9113 section 8.3.1), and over HTTP/1 a request with one is refused. The library that reads
//! HTTP/2 cuts it off and does not say so. So what it reads is looked at before, in each head no further than to the
//! end of `:path`.
//!
//! The table of fields that a connection has (RFC 7541 section 2.3.2) is not kept here a second time. A `:path` that
//! repeats an entry of it is not seen, so whoever has written a fragment into it is told to send no more requests.
//! What may come before that is matched, billed and forwarded without its fragment.

use std::collections::BTreeSet;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use pingora::protocols::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bytes before the first frame (RFC 9113 section 3.4).
const PREFACE: usize = 24;
/// The bytes of a frame before its payload (RFC 9113 section 4.1), and what of them is needed.
const FRAME_HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 0x04;
const PADDED: u8 = 0x08;
const PRIORITY: u8 = 0x20;
/// The bytes of a priority in a frame of fields.
const PRIORITY_LENGTH: usize = 5;

/// The longest head that is looked into, in bytes. The library refuses one of 64 KiB, once it is decoded.
const LONGEST: usize = 128 * 1024;
/// What is kept for the next frame, in bytes.
const KEPT: usize = 256;
/// Streams with a fragment that are remembered. The library may refuse a stream itself, and then nobody asks.
const MOST_STREAMS: usize = 128;

/// `:path`, as it is and in code, and its places in the static table (RFC 7541 appendix A).
const NAMES: [Text<'_>; 2] = [
    Text { is_in_code: false, bytes: b":path" },
    Text { is_in_code: true, bytes: &[0xb9, 0x58, 0xd3, 0x3f] },
];
const PATH_INDICES: [usize; 2] = [4, 5];

/// How many codes there are of each length, from one bit on (RFC 7541 appendix B). The code is canonical: those of
/// one length follow each other, and begin after those that are shorter.
const CODES: [u32; 30] =
    [0, 0, 0, 0, 10, 26, 32, 6, 0, 5, 3, 2, 6, 2, 3, 0, 0, 0, 3, 8, 13, 26, 29, 12, 4, 15, 19, 29, 0, 4];
/// The code of `#`, and its length in bits.
const HASH: (u32, usize) = (0xffa, 12);

/// Which requests of one connection have a fragment.
#[derive(Debug, Default)]
pub(super) struct Fragments(Mutex<Found>);

#[derive(Debug, Default)]
struct Found {
    streams: BTreeSet<u32>,
    is_in_table: bool,
}

impl Fragments {
    // Changes only; no await while it is held.
    fn found(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the target of the request on this stream has a fragment. They are asked for in their order.
    pub(super) fn take(&self, stream: u32) -> bool {
        let mut found = self.found();
        let has_one = found.streams.contains(&stream);
        found.streams.retain(|it| *it > stream);
        has_one
    }

    /// Whether the client can repeat a target with a fragment, and it would not be seen.
    pub(super) fn can_be_repeated(&self) -> bool {
        self.found().is_in_table
    }

    fn note(&self, stream: u32, Fragment { is_in_table }: Fragment) {
        let mut found = self.found();
        found.is_in_table |= is_in_table;
        let _is_new = found.streams.insert(stream);
        if found.streams.len() > MOST_STREAMS {
            let _oldest = found.streams.pop_first();
        }
    }
}

/// A connection whose heads are looked at as they are read.
#[derive(Debug)]
pub(super) struct Scanned {
    stream: Stream,
    frames: Frames,
    fragments: Arc<Fragments>,
}

impl Scanned {
    /// A connection from its preface on.
    pub(super) fn new(stream: Stream, fragments: Arc<Fragments>) -> Self {
        Self { stream, frames: Frames::default(), fragments }
    }
}

impl AsyncRead for Scanned {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, frames, fragments } = &mut *self;
        let before = buf.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buf))?;
        frames.see(buf.filled().get(before..).unwrap_or_default(), fragments);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scanned {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Where in the frames of a connection its bytes are.
#[derive(Debug)]
struct Frames {
    /// Bytes to pass over.
    skipped: usize,
    /// A frame, as far as it is read: of one without fields its head only.
    frame: Vec<u8>,
    /// How long that is to be.
    wanted: usize,
    /// The stream and the beginning of a head that another frame goes on with.
    head: Option<(u32, Vec<u8>)>,
}

impl Default for Frames {
    fn default() -> Self {
        Self { skipped: PREFACE, frame: Vec::new(), wanted: FRAME_HEAD, head: None }
    }
}

impl Frames {
    /// Notes which heads have a fragment that end in these bytes.
    fn see(&mut self, mut bytes: &[u8], fragments: &Fragments) {
        while !bytes.is_empty() {
            let skipped = self.skipped.min(bytes.len());
            let missing = self.wanted.saturating_sub(self.frame.len());
            let (_, rest) = bytes.split_at(skipped);
            let (part, rest) = rest.split_at(missing.min(rest.len()));
            self.skipped = self.skipped.saturating_sub(skipped);
            self.frame.extend_from_slice(part);
            bytes = rest;
            if self.frame.len() == self.wanted {
                self.go_on(fragments);
            }
        }
    }

    /// Goes on after what was wanted of a frame.
    fn go_on(&mut self, fragments: &Fragments) {
        let [high, middle, low, kind, flags, stream @ ..] = self.frame.as_slice() else { return };
        let length = usize::try_from(u32::from_be_bytes([0, *high, *middle, *low])).unwrap_or(usize::MAX);
        let (kind, flags) = (*kind, *flags);
        let Some((stream, payload)) = stream.split_first_chunk::<4>() else { return };
        let stream = u32::from_be_bytes(*stream) & (u32::MAX >> 1);
        let has_fields = [HEADERS, CONTINUATION].contains(&kind) && length <= LONGEST;
        if has_fields && payload.len() < length {
            self.wanted = FRAME_HEAD.saturating_add(length);
            return;
        }
        if has_fields {
            let is_whole = flags & END_HEADERS != 0;
            match (kind, self.head.take()) {
                (HEADERS, _) => {
                    let fields = unwrapped(payload, flags).unwrap_or_default();
                    if !is_whole {
                        self.head = Some((stream, fields.to_vec()));
                    } else if let Some(found) = fragment(fields) {
                        fragments.note(stream, found);
                    }
                }
                (_, Some((of, mut fields))) if of == stream => {
                    fields.extend_from_slice(payload);
                    if !is_whole {
                        self.head = Some((of, fields)).filter(|(_, it)| it.len() <= LONGEST);
                    } else if let Some(found) = fragment(&fields) {
                        fragments.note(stream, found);
                    }
                }
                _ => {}
            }
        } else {
            self.skipped = length;
        }
        self.frame.clear();
        self.frame.shrink_to(KEPT);
        self.wanted = FRAME_HEAD;
    }
}

/// The fields in a frame that may have padding and a priority around them (RFC 9113 section 6.2); `None` if it is
/// no such frame.
fn unwrapped(payload: &[u8], flags: u8) -> Option<&[u8]> {
    let (mut fields, mut padding) = (payload, 0);
    if flags & PADDED != 0 {
        let (length, rest) = fields.split_first()?;
        (fields, padding) = (rest, usize::from(*length));
    }
    if flags & PRIORITY != 0 {
        fields = fields.get(PRIORITY_LENGTH..)?;
    }
    fields.get(..fields.len().checked_sub(padding)?)
}

/// A fragment that was found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Fragment {
    /// Whether the target is written into the connection's table.
    is_in_table: bool,
}

/// The fragment in the `:path` of a head; `None` if it has none, or cannot be read.
fn fragment(fields: &[u8]) -> Option<Fragment> {
    let Target { is_in_table, text: Text { is_in_code, bytes } } = target(fields)?;
    let has_one = if is_in_code { codes(bytes).any(|it| it == HASH) } else { bytes.contains(&b'#') };
    has_one.then_some(Fragment { is_in_table })
}

/// A `:path` that is written out.
#[derive(Clone, Copy, Debug)]
struct Target<'f> {
    /// Whether it is written into the connection's table.
    is_in_table: bool,
    text: Text<'f>,
}

/// The `:path` that is written out in a head (RFC 7541 section 6).
fn target(mut fields: &[u8]) -> Option<Target<'_>> {
    loop {
        let first = *fields.first()?;
        if first & 0x80 != 0 {
            // A field as a table has it.
            let _index = integer(&mut fields, 0x7f)?;
        } else if first & 0xe0 == 0x20 {
            let _size_of_the_table = integer(&mut fields, 0x1f)?;
        } else {
            let is_in_table = first & 0xc0 == 0x40;
            let index = integer(&mut fields, if is_in_table { 0x3f } else { 0x0f })?;
            let is_path = match index {
                0 => NAMES.contains(&text(&mut fields)?),
                index => PATH_INDICES.contains(&index),
            };
            let text = text(&mut fields)?;
            if is_path {
                return Some(Target { is_in_table, text });
            }
        }
    }
}

/// An integer that begins in these bits of the first byte (RFC 7541 section 5.1).
fn integer(fields: &mut &[u8], prefix: u8) -> Option<usize> {
    let (first, mut rest) = fields.split_first()?;
    let mut value = usize::from(first & prefix);
    if value == usize::from(prefix) {
        // No length that is taken has more.
        for shift in [0, 7, 14, 21] {
            let (next, more) = rest.split_first()?;
            rest = more;
            value = value.checked_add(usize::from(next & 0x7f).checked_shl(shift)?)?;
            if next & 0x80 == 0 {
                *fields = rest;
                return Some(value);
            }
        }
        return None;
    }
    *fields = rest;
    Some(value)
}

/// A text in a head.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Text<'f> {
    is_in_code: bool,
    bytes: &'f [u8],
}

/// The text with which `fields` begin (RFC 7541 section 5.2).
fn text<'f>(fields: &mut &'f [u8]) -> Option<Text<'f>> {
    let is_in_code = *fields.first()? & 0x80 != 0;
    let length = integer(fields, 0x7f)?;
    let (bytes, rest) = fields.split_at_checked(length)?;
    *fields = rest;
    Some(Text { is_in_code, bytes })
}

/// The codes in a text, and the length of each in bits.
fn codes(text: &[u8]) -> impl Iterator<Item = (u32, usize)> {
    const BITS: [u8; 8] = [0x80, 0x40, 0x20, 0x10, 0x08, 0x04, 0x02, 0x01];
    let bits = text.iter().flat_map(|byte| BITS.map(|bit| byte & bit != 0));
    let (mut code, mut first, mut length) = (0_u32, 0_u32, 0_usize);
    bits.filter_map(move |bit| {
        (code, first) = ((code << 1) | u32::from(bit), first << 1);
        let count = CODES.get(length).copied().unwrap_or_default();
        length = length.saturating_add(1);
        if code.checked_sub(first).is_none_or(|it| it >= count) {
            first = first.saturating_add(count);
            return None;
        }
        let whole = (code, length);
        (code, first, length) = (0, 0, 0);
        Some(whole)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::io::AsyncReadExt;

    use super::*;

    const OUT: Fragment = Fragment { is_in_table: false };
    const IN: Fragment = Fragment { is_in_table: true };

    /// A text as it is, of less than 127 bytes.
    fn plain(text: &[u8]) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()][..], text].concat()
    }

    /// `/x#y` in code.
    const CODED: [u8; 5] = [0x84, 0x63, 0xcf, 0xfd, 0x7a];

    #[test]
    fn a_fragment_is_found_however_the_target_is_written() {
        let (with, without) = (plain(b"/x#y"), plain(b"/x?y"));
        let (name, coded_name) = (plain(b":path"), [0x84, 0xb9, 0x58, 0xd3, 0x3f]);
        for (head, found) in [
            // Never in a table, not in it, and in it; by the name's place in the static table, or by the name.
            ([&[0x14][..], &with[..]].concat(), OUT),
            ([&[0x05][..], &with[..]].concat(), OUT),
            ([&[0x44][..], &with[..]].concat(), IN),
            ([&[0x14][..], &CODED[..]].concat(), OUT),
            ([&[0x10][..], &name[..], &with].concat(), OUT),
            ([&[0x40][..], &coded_name[..], &CODED].concat(), IN),
            // After a new size of the table, and other fields of each kind.
            ([&[0x3f, 0xe1, 0x1f, 0x82, 0x87, 0x41, 0x01, b'a', 0x14][..], &with[..]].concat(), OUT),
            ([&[0xff, 0x00, 0x0f, 0x2f, 0x01, b'#', 0x14][..], &with[..]].concat(), OUT),
        ] {
            assert_eq!(fragment(&head), Some(found), "{head:02x?}");
            for length in 0..head.len() {
                assert_eq!(fragment(&head[..length]), None, "{length} of {head:02x?}");
            }
        }
        for head in [
            [&[0x14][..], &without[..], &[0x14], &with].concat(),
            [&[0x84, 0x14][..], &without[..]].concat(),
            [&[0x10][..], &plain(b"referer")[..], &with].concat(),
            [&[0x0f, 0x24][..], &with[..]].concat(),
            vec![0x82, 0x87, 0x84],
            vec![0x14, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00],
            Vec::new(),
        ] {
            assert_eq!(fragment(&head), None, "{head:02x?}");
        }
    }

    /// The heads of a client of HTTP/2 that asks for this path.
    async fn heads(path: &str) -> Vec<u8> {
        let (stream, mut asked) = tokio::io::duplex(1 << 16);
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        let request = http::Request::get(format!("http://a.test{path}")).body(()).unwrap();
        let (_answer, _) = client.send_request(request, true).unwrap();
        tokio::spawn(connection);
        let mut bytes = Vec::new();
        loop {
            asked.read_buf(&mut bytes).await.unwrap();
            let mut rest = bytes.get(PREFACE..).unwrap_or_default();
            while let [high, middle, low, kind, _, _, _, _, _, more @ ..] = rest {
                let length = u32::from_be_bytes([0, *high, *middle, *low]);
                let Some((payload, next)) = more.split_at_checked(length.try_into().unwrap()) else { break };
                if *kind == HEADERS {
                    return payload.to_vec();
                }
                rest = next;
            }
        }
    }

    /// The codes of these bytes, one after the other, and then ones (RFC 7541 section 5.2).
    fn coded(bytes: &[u8], codes: &BTreeMap<u8, (u32, usize)>) -> Vec<u8> {
        let mut bits = String::new();
        for (code, length) in bytes.iter().map(|it| codes[it]) {
            bits += &format!("{code:0length$b}");
        }
        let missing = bits.len().next_multiple_of(8).saturating_sub(bits.len());
        bits += &"1".repeat(missing);
        let byte = |bits: &[u8]| u8::from_str_radix(std::str::from_utf8(bits).unwrap(), 2).unwrap();
        bits.as_bytes().chunks(8).map(byte).collect()
    }

    /// Compared with the code of the library's own client.
    #[tokio::test]
    async fn a_fragment_is_found_in_code_beside_every_other_byte() {
        let of_one_byte = (b'!'..=b'~').map(char::from).filter(|it| *it != '#');
        let of_two_bytes = (0x80..0x800).filter_map(char::from_u32);
        let mut codes = BTreeMap::from([(b'#', HASH)]);
        for character in of_one_byte.chain(of_two_bytes.step_by(31)) {
            let path = format!("/{character}");
            if path.parse::<http::uri::PathAndQuery>().is_err() {
                continue;
            }
            let head = heads(&path).await;
            let Some(Target { text, .. }) = target(&head) else { continue };
            assert!(text.is_in_code, "{path:?}");
            let seen: Vec<_> = super::codes(text.bytes).collect();
            assert_eq!(seen.len(), path.len(), "{path:?}");
            codes.extend(path.bytes().zip(seen));
        }
        assert!(codes.len() > 150, "{}", codes.len());
        for &byte in codes.keys().filter(|it| **it != b'#') {
            let has_one = |text: &[u8]| super::codes(&coded(text, &codes)).any(|it| it == HASH);
            assert!(has_one(&[byte, byte, b'#', byte]) && !has_one(&[byte; 9]), "{byte:02x}");
        }
        // As many codes as bytes, and one that ends a text: they fill what can be coded.
        assert_eq!(CODES.iter().sum::<u32>(), 257);
        let filled = |(length, count): (usize, &u32)| u64::from(*count) << (29 - length);
        assert_eq!(CODES.iter().enumerate().map(filled).sum::<u64>(), 1 << 30);
    }

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream][..], payload].concat()
    }

    /// The streams with a fragment among these frames, however they arrive.
    fn found(frames: &[Vec<u8>]) -> Vec<u8> {
        let bytes = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frames.concat()].concat();
        let mut found = Vec::new();
        for step in 1..=bytes.len() {
            let (mut frames, fragments) = (Frames::default(), Fragments::default());
            bytes.chunks(step).for_each(|it| frames.see(it, &fragments));
            assert!(frames.frame.capacity() <= KEPT && frames.head.is_none());
            let streams: Vec<_> = (0..=9).filter(|it| fragments.take(u32::from(*it))).collect();
            assert!(step == 1 || found == streams, "{step}: {found:?} {streams:?}");
            found = streams;
        }
        found
    }

    #[test]
    fn heads_are_found_among_the_frames() {
        let path = |path: &[u8]| [&[0x82, 0x87, 0x14][..], &plain(path)[..]].concat();
        let (with, without) = (path(b"/x#"), path(b"/x"));
        let (start, end) = with.split_at(5);
        let padded = [&[3][..], &with[..], &[0x14, 0x01, b'#']].concat();
        let with_priority = [&[2, 0, 0, 0, 0, 9][..], &with[..], &[0, 0]].concat();
        let frames = [
            frame(4, 0, 0, &[]),
            frame(HEADERS, END_HEADERS, 1, &with),
            // A body is no head.
            frame(0, END_HEADERS, 1, &frame(HEADERS, END_HEADERS, 9, &with)),
            frame(HEADERS, END_HEADERS | 1, 3, &without),
            frame(HEADERS, 0, 5, start),
            frame(CONTINUATION, 0, 5, &[]),
            frame(CONTINUATION, END_HEADERS, 5, end),
            frame(HEADERS, END_HEADERS | PADDED, 6, &padded),
            frame(HEADERS, END_HEADERS | PADDED | PRIORITY, 7, &with_priority),
            frame(HEADERS, END_HEADERS | PADDED, 8, &[9, 1]),
            frame(HEADERS, END_HEADERS, 9, &[]),
        ];
        assert_eq!(found(&frames), [1, 5, 6, 7]);
        // What is put around a head is none of it.
        let padding = [&[5, 0x82, 0x14, 0x03][..], b"/x#"].concat();
        assert_eq!(found(&[frame(HEADERS, END_HEADERS | PADDED, 1, &padding)]), [0_u8; 0]);
    }

    #[test]
    fn a_head_without_an_end_is_not_kept() {
        let mut bytes = vec![0; PREFACE];
        let part = [&[0x00, 0x40, 0x00, CONTINUATION, 0, 0, 0, 0, 1][..], &[0x82; 0x4000][..]].concat();
        bytes.extend(frame(HEADERS, 0, 1, &[0x82]));
        let (mut frames, fragments) = (Frames::default(), Fragments::default());
        frames.see(&bytes, &fragments);
        for _ in 0..LONGEST / 0x4000 {
            assert!(frames.head.as_ref().is_some_and(|(_, it)| it.len() <= LONGEST));
            frames.see(&part, &fragments);
        }
        assert!(frames.head.is_none());
        // Nor is a frame that is longer than any may be.
        frames.see(&[0xff, 0, 0, HEADERS, END_HEADERS, 0, 0, 0, 3], &fragments);
        frames.see(&[0x82; 0x4000], &fragments);
        assert!(frames.frame.is_empty());
        for stream in 1..1000 {
            fragments.note(stream, OUT);
        }
        assert!(fragments.found().streams.len() == MOST_STREAMS && fragments.take(999));
        assert!(!fragments.can_be_repeated() && fragments.found().streams.is_empty());
        fragments.note(1001, IN);
        assert!(fragments.can_be_repeated());
    }
}
