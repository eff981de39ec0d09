//! Canonical paths: the same spelling of a path is matched and forwarded.
//!
//! A client could avoid a price if gateway and upstream read one path differently. So a path that
//! servers are known to read differently is refused, and every other path is written in one way.

use std::borrow::Cow;
use std::fmt;

use crate::letter_case::fold;

/// The longest path of a request as received, in bytes. A longer one is refused before it is read.
pub const MAX_PATH: usize = 4096;
/// The longest query of a request, in bytes.
pub const MAX_QUERY: usize = 16 * 1024;

/// A request target in its canonical spelling.
///
/// The path starts with `/` and has no empty or dot segment; it may end in a slash. Unreserved
/// characters are not encoded; what is encoded is in upper-case hexadecimal. The query is unchanged.
#[derive(Clone, Eq, PartialEq)]
pub struct CanonicalTarget {
    /// The path, and `?query` if there is one.
    text: String,
    path_length: usize,
    /// The decoded path; `None` if it is the path. An encoded slash is refused, so it has the same segments as the
    /// path.
    decoded: Option<String>,
    /// The decoded path in the form in which letter case does not count; `None` if it is the decoded path.
    folded: Option<String>,
}

/// Why a request target has no canonical form. All are answered with 400
/// ([protocol guide](crate::guide::protocol), "What must not get past").
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotCanonical {
    #[error("a path starts with `/`")]
    NoLeadingSlash,
    /// `OPTIONS *` asks about the server and not about a resource that could have a price.
    #[error("`*` names the whole server, not a resource")]
    Asterisk,
    #[error("the path is longer than {MAX_PATH} bytes")]
    PathTooLong,
    #[error("the query is longer than {MAX_QUERY} bytes")]
    QueryTooLong,
    #[error("`//`: an empty path segment")]
    EmptySegment,
    #[error("`.` or `..` as a path segment")]
    DotSegment,
    #[error("an encoded slash (`%2F`) in the path")]
    EncodedSlash,
    #[error("a backslash in the path")]
    Backslash,
    #[error("a path parameter (`;`)")]
    Parameter,
    #[error("a fragment (`#`), which is not allowed in a request")]
    Fragment,
    #[error("a NUL or another control character")]
    Control,
    #[error("a space: write `%20`")]
    Space,
    #[error("an encoded space at the start or the end of a path segment")]
    SpaceAtEnd,
    #[error("`%` without two hexadecimal digits after it: write `%25`")]
    BadPercent,
    #[error("encoded twice: `%25` followed by two hexadecimal digits")]
    EncodedTwice,
    #[error("a character that is not ASCII: encode its UTF-8 bytes with `%`")]
    NotAscii,
    #[error("encoded bytes that are not UTF-8")]
    NotUtf8,
}

impl CanonicalTarget {
    /// Reads a request target in origin form: a path and an optional `?query`.
    ///
    /// # Errors
    /// [`NotCanonical`], for a target that servers read differently
    /// ([protocol guide](crate::guide::protocol), "What must not get past").
    pub fn parse(target: &str) -> Result<Self, NotCanonical> {
        if target == "*" {
            return Err(NotCanonical::Asterisk);
        }
        let mark = memchr::memchr(b'?', target.as_bytes()).and_then(|at| target.split_at_checked(at));
        let (path, query) = mark.map_or((target, None), |(path, query)| (path, query.strip_prefix('?')));
        if path.len() > MAX_PATH {
            return Err(NotCanonical::PathTooLong);
        }
        if let Some(query) = query {
            check_query(query)?;
        }
        if is_plain(path) {
            let folded = path.bytes().any(|it| it.is_ascii_uppercase()).then(|| fold(path));
            return Ok(Self { text: target.to_owned(), path_length: path.len(), decoded: None, folded });
        }
        let (mut text, decoded) = spell(path)?;
        let decoded = Some(decoded).filter(|it| *it != text);
        let folded = Some(fold(decoded.as_ref().unwrap_or(&text)));
        let folded = folded.filter(|it| it != decoded.as_ref().unwrap_or(&text));
        let path_length = text.len();
        if let Some(query) = query {
            text.push('?');
            text.push_str(query);
        }
        Ok(Self { text, path_length, decoded, folded })
    }

    /// The path and the query, as they are forwarded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(..self.path_length).unwrap_or(&self.text)
    }

    /// The text after the `?`, unchanged.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.text.get(self.path_length..)?.strip_prefix('?')
    }

    /// The decoded path in its original letter case.
    pub(super) fn decoded(&self) -> &str {
        self.decoded.as_deref().unwrap_or_else(|| self.path())
    }

    /// The decoded path in the form in which letter case does not count.
    pub(super) fn folded(&self) -> &str {
        self.folded.as_deref().unwrap_or_else(|| self.decoded())
    }
}

/// Whether a path is canonical as it stands, as most are: [`spell`] would give it back.
fn is_plain(path: &str) -> bool {
    let mut before = 0;
    path.starts_with('/')
        && path.bytes().all(|byte| {
            let begins = std::mem::replace(&mut before, byte) == b'/';
            match byte {
                // An empty segment, or one of dots.
                b'/' | b'.' => !begins,
                _ => is_unreserved(byte) || is_delimiter(byte),
            }
        })
}

/// A path in its canonical spelling, and decoded.
fn spell(path: &str) -> Result<(String, String), NotCanonical> {
    let segments = path.strip_prefix('/').ok_or(NotCanonical::NoLeadingSlash)?;
    let (mut text, mut decoded) = (String::with_capacity(path.len()), String::with_capacity(path.len()));
    let mut rest = Some(segments);
    while let Some(here) = rest {
        let (segment, after) = match here.split_once('/') {
            Some((segment, after)) => (segment, Some(after)),
            None => (here, None),
        };
        text.push('/');
        decoded.push('/');
        // Only the last segment may be empty: that is a trailing slash.
        if segment.is_empty() && after.is_some() {
            return Err(NotCanonical::EmptySegment);
        }
        let segment = CanonicalSegment::parse(segment)?;
        text.push_str(&segment.text);
        decoded.push_str(&segment.decoded);
        rest = after;
    }
    Ok((text, decoded))
}

impl fmt::Display for CanonicalTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for CanonicalTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CanonicalTarget({:?})", self.text)
    }
}

/// The parts of a request target in absolute form.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AbsoluteTarget<'a> {
    /// Whether the scheme is `https`.
    pub secure: bool,
    /// The text between `//` and the path. The caller must compare it with `Host`.
    pub authority: &'a str,
    /// The rest in origin form, for [`CanonicalTarget::parse`]; `/` if it is empty.
    pub target: Cow<'a, str>,
}

impl<'a> AbsoluteTarget<'a> {
    /// Splits `http(s)://authority/path?query`; `None` if the target has another form.
    #[must_use]
    pub fn split(target: &'a str) -> Option<Self> {
        if target.starts_with('/') {
            return None;
        }
        let (scheme, rest) = target.split_once("://")?;
        let secure = scheme.eq_ignore_ascii_case("https");
        if !secure && !scheme.eq_ignore_ascii_case("http") {
            return None;
        }
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at_checked(end)?;
        let target = if target.is_empty() {
            Cow::Borrowed("/")
        } else if target.starts_with('?') {
            Cow::Owned(format!("/{target}"))
        } else {
            Cow::Borrowed(target)
        };
        Some(Self { secure, authority, target })
    }
}

/// One path segment of a request or a pattern.
pub(super) struct CanonicalSegment {
    /// The text as it is forwarded.
    pub(super) text: String,
    /// The decoded text.
    pub(super) decoded: String,
}

impl CanonicalSegment {
    /// Reads the text between two slashes.
    pub(super) fn parse(raw: &str) -> Result<Self, NotCanonical> {
        let mut text = String::with_capacity(raw.len());
        let mut decoded = Vec::with_capacity(raw.len());
        let mut bytes = raw.bytes();
        while let Some(first) = bytes.next() {
            let (byte, encoded) = if first == b'%' {
                (hex_pair(bytes.next(), bytes.next()).ok_or(NotCanonical::BadPercent)?, true)
            } else {
                (first, false)
            };
            admit(byte, encoded)?;
            decoded.push(byte);
            if is_unreserved(byte) || (!encoded && is_delimiter(byte)) {
                text.push(char::from(byte));
            } else {
                text.push('%');
                text.extend([byte >> 4, byte & 15].map(hex_digit));
            }
        }
        let decoded = String::from_utf8(decoded).map_err(|_| NotCanonical::NotUtf8)?;
        if decoded == "." || decoded == ".." {
            return Err(NotCanonical::DotSegment);
        }
        // Checked after decoding: `%25%32%66` would be forwarded as `%252f`.
        let twice = |it: &[u8]| matches!(it, [b'%', a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit());
        if decoded.as_bytes().windows(3).any(twice) {
            return Err(NotCanonical::EncodedTwice);
        }
        if decoded.chars().any(char::is_control) {
            return Err(NotCanonical::Control);
        }
        // Some file systems and frameworks remove such a space, which makes another path.
        if decoded.trim().len() != decoded.len() {
            return Err(NotCanonical::SpaceAtEnd);
        }
        Ok(Self { text, decoded })
    }
}

/// Refuses the bytes that a path must not contain, encoded or not.
fn admit(byte: u8, encoded: bool) -> Result<(), NotCanonical> {
    match byte {
        b'/' if encoded => Err(NotCanonical::EncodedSlash),
        b'\\' => Err(NotCanonical::Backslash),
        b';' => Err(NotCanonical::Parameter),
        0..=0x1f | 0x7f => Err(NotCanonical::Control),
        b'#' if !encoded => Err(NotCanonical::Fragment),
        b' ' if !encoded => Err(NotCanonical::Space),
        0x80.. if !encoded => Err(NotCanonical::NotAscii),
        _ => Ok(()),
    }
}

fn check_query(query: &str) -> Result<(), NotCanonical> {
    if query.len() > MAX_QUERY {
        return Err(NotCanonical::QueryTooLong);
    }
    query.bytes().try_for_each(|byte| match byte {
        0..=0x1f | 0x7f => Err(NotCanonical::Control),
        b'#' => Err(NotCanonical::Fragment),
        b' ' => Err(NotCanonical::Space),
        0x80.. => Err(NotCanonical::NotAscii),
        _ => Ok(()),
    })
}

/// RFC 3986, section 2.3: these characters mean the same encoded and not encoded.
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// The other characters that RFC 3986 allows in a segment without encoding.
const fn is_delimiter(byte: u8) -> bool {
    matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@')
}

/// An upper-case digit for a number below 16.
fn hex_digit(value: u8) -> char {
    char::from_digit(u32::from(value), 16).unwrap_or('0').to_ascii_uppercase()
}

fn hex_pair(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|it| u8::try_from(it).ok());
    digit(high?)?.checked_mul(16)?.checked_add(digit(low?)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_short_way_reads_a_path_as_the_long_way(path in "/?[/aZ9.%2fF~;: @-]{0,8}", query in "(\\?[a?/]{0,3})?") {
            let long = spell(&path);
            if is_plain(&path) {
                prop_assert_eq!(long.clone(), Ok((path.clone(), path.clone())));
            }
            let parsed = CanonicalTarget::parse(&format!("{path}{query}"));
            prop_assert_eq!(parsed.clone().err(), long.clone().err());
            if let (Ok(parsed), Ok((text, decoded))) = (parsed, long) {
                prop_assert_eq!(parsed.as_str(), format!("{text}{query}"));
                prop_assert_eq!((parsed.path(), parsed.decoded()), (&*text, &*decoded));
                prop_assert_eq!(parsed.folded(), fold(&decoded));
                prop_assert_eq!(parsed.query(), query.strip_prefix('?'));
            }
        }
    }
}
