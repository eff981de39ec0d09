//! Reads the cases of `tests/upstreams/*.txt`.

use std::fmt;
use std::path::Path;

use super::Reached;

/// One request, and what must hold.
#[derive(Debug)]
pub(super) struct Case {
    file: &'static str,
    line: usize,
    section: String,
    text: String,
    pub(super) protocol: Protocol,
    pub(super) hold: Hold,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// What must hold.
#[derive(Debug)]
pub(super) enum Hold {
    /// The gateway answers so, and forwards nothing.
    Status(u16),
    /// 4xx, 5xx or no answer, and nothing is forwarded.
    Refused,
    /// Nothing but this is forwarded, once.
    Forwarded {
        meant: Reached,
        /// Whether it must be.
        is_sure: bool,
        /// Whether it has to arrive with its whole body.
        is_whole: bool,
    },
}

/// A piece of an HTTP/2 request.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Field(Vec<u8>, Vec<u8>),
    Data(Vec<u8>),
    Trailer(Vec<u8>, Vec<u8>),
    Reset,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.text.chars().take(150).collect();
        write!(f, "{}:{} (RFC {}) {shown}", self.file, self.line, self.section)
    }
}

/// A request that is hidden in others and must never be taken for one.
const HIDDEN: &str = "GET /paid HTTP/1.1\r\nHost: gateway.test\r\n\r\n";

/// Every case, those over TCP first.
pub(super) fn all() -> Vec<Case> {
    let files = [("http1.txt", Protocol::Http1), ("http2.txt", Protocol::Http2)];
    let mut cases = Vec::new();
    for (file, protocol) in files {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upstreams").join(file);
        let text = std::fs::read_to_string(&path).unwrap();
        for (index, row) in text.lines().enumerate() {
            if row.is_empty() || row.starts_with('#') {
                continue;
            }
            let mut fields = row.splitn(3, " | ");
            let mut next =
                || fields.next().unwrap_or_else(|| panic!("{file}:{}: a field is missing", index + 1));
            let (section, hold, text) = (next().to_owned(), next().to_owned(), next().to_owned());
            let known = ["9110-", "9112-", "9113-"].iter().any(|it| section.starts_with(it));
            assert!(known, "{file}:{}: not a section: {section}", index + 1);
            cases.push(Case { file, line: index + 1, section, text, protocol, hold: hold_of(&hold) });
        }
    }
    cases
}

fn hold_of(text: &str) -> Hold {
    if text == "refused" {
        return Hold::Refused;
    }
    if let Ok(status) = text.parse() {
        return Hold::Status(status);
    }
    let (is_sure, is_whole, text) = if let Some(text) = text.strip_prefix("cut ") {
        (false, false, text)
    } else if let Some(text) = text.strip_prefix("any ") {
        (false, true, text)
    } else {
        (true, true, text)
    };
    let (route, text) = match text.strip_prefix("paid ") {
        Some(text) => (Some("cheap".to_owned()), text),
        None => (None, text),
    };
    let mut words = text.splitn(3, ' ');
    let mut next = || words.next().unwrap_or_default();
    let (method, path, body) = (next(), next(), next());
    let meant = Reached {
        method: method.to_owned(),
        path: path.to_owned(),
        route,
        body: Some(expanded(&unescaped(body), "")),
    };
    Hold::Forwarded { meant, is_sure, is_whole }
}

impl Case {
    /// The bytes to send over TCP.
    pub(super) fn bytes(&self, token: &str) -> Vec<u8> {
        expanded(&unescaped(&self.text), token)
    }

    /// The pieces to send over HTTP/2.
    pub(super) fn frames(&self, token: &str) -> Vec<Piece> {
        self.text
            .split(' ')
            .filter(|it| !it.is_empty())
            .map(|word| {
                if word == "RESET" {
                    return Piece::Reset;
                }
                // A pseudo-header begins with a colon, and no name has `=` in it.
                let (name, value) = word.split_once('=').unwrap_or_else(|| panic!("{self}: {word}"));
                let value = expanded(&unescaped(value), token);
                match name {
                    "DATA" => Piece::Data(value),
                    "TRAILERS" => {
                        let at = value.iter().position(|it| *it == b':').unwrap();
                        Piece::Trailer(value[..at].to_vec(), value[at + 1..].to_vec())
                    }
                    name => Piece::Field(unescaped(name), value),
                }
            })
            .collect()
    }
}

/// `\r`, `\n`, `\t`, `\\` and `\xNN` as the bytes that they stand for.
fn unescaped(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next() {
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'\\') => b'\\',
            Some(b'x') => {
                let digits = [rest.next().unwrap(), rest.next().unwrap()];
                u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
            }
            other => panic!("unknown escape {other:?} in {text}"),
        });
    }
    bytes
}

/// Replaces `{H}` and its like, and `{a*3}` by `aaa`.
fn expanded(bytes: &[u8], token: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some((&first, after)) = rest.split_first() {
        let inner =
            after.iter().position(|it| *it == b'}').filter(|_| first == b'{').map(|end| &after[..end]);
        match inner.and_then(|it| replacement(it, token).map(|made| (it.len(), made))) {
            Some((length, made)) => {
                out.extend(made);
                rest = &after[length + 1..];
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

fn replacement(name: &[u8], token: &str) -> Option<Vec<u8>> {
    Some(match name {
        b"H" => b"Host: gateway.test\r\n".to_vec(),
        b"S" => HIDDEN.as_bytes().to_vec(),
        b"L" => HIDDEN.len().to_string().into_bytes(),
        b"X" => format!("{:x}", HIDDEN.len()).into_bytes(),
        b"P" => format!("PAYMENT-CAPABILITY: {token}\r\n").into_bytes(),
        b"T" => token.as_bytes().to_vec(),
        other => {
            let at = other.iter().rposition(|it| *it == b'*')?;
            let times: usize = std::str::from_utf8(&other[at + 1..]).ok()?.parse().ok()?;
            other[..at].repeat(times)
        }
    })
}
