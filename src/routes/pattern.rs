//! Patterns: the `match` of a route, and which of two patterns is more specific.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;

use super::request::{CanonicalSegment, CanonicalTarget, MAX_PATH, NotCanonical};
use crate::letter_case::fold;

/// The most segments of one pattern. It limits the depth of a look-up.
pub const MAX_SEGMENTS: usize = 64;

/// The most methods of one pattern, and the longest, in letters.
pub const MAX_METHODS: usize = 16;
const MAX_METHOD: usize = 32;

/// The `match` of a route: optional methods, then a path of literal segments and `{name}` segments
/// (each matches any one segment), with an optional `**` at the end (any number of segments, or none).
///
/// Literals are compared after decoding, so that no spelling of a path avoids its price.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pattern {
    text: String,
    /// In alphabetical order; none stands for every method.
    methods: Vec<String>,
    segments: Vec<Segment>,
    /// Ends in `**`.
    open: bool,
    /// Ends in `/`. It counts only if the route is case-sensitive.
    slash: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Segment {
    Literal {
        text: String,
        decoded: String,
        /// `decoded` in the form in which letter case does not count.
        folded: String,
    },
    Any,
}

/// One segment of a pattern, for documents that print it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part<'a> {
    /// A literal in its canonical spelling.
    Literal(&'a str),
    /// The name in `{name}`.
    Name(&'a str),
}

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => f.write_str(text),
            Self::Name(name) => write!(f, "{{{name}}}"),
        }
    }
}

/// Why a `match` is not a valid pattern.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PatternError {
    #[error("a pattern is an optional method and a path: `GET /v1/quote/{{symbol}}`, `GET,POST /v1/search`")]
    Form,
    #[error(
        "{0:?} is not a method: methods are written in upper case, of at most {MAX_METHOD} letters, with commas between them"
    )]
    Method(String),
    #[error("the method {0} is named twice")]
    MethodTwice(String),
    #[error("more than {MAX_METHODS} methods: leave them out to match every method")]
    TooManyMethods,
    #[error("HEAD is priced as GET: write `GET` or no method")]
    Head,
    #[error("the pattern's path is not canonical: {0}")]
    Path(#[from] NotCanonical),
    #[error("a pattern has no query")]
    Query,
    #[error("`**` is allowed only at the end of a pattern")]
    OpenInside,
    #[error("`*` is not a pattern: write `{{name}}` for one segment, `**` at the end for any number")]
    Star,
    #[error("{0:?}: `{{name}}` is a whole segment, with a name of letters, digits, `_` and `-`")]
    Placeholder(String),
    #[error("the name {{{0}}} occurs twice")]
    NameTwice(String),
    #[error("more than {MAX_SEGMENTS} segments")]
    TooDeep,
}

impl Pattern {
    /// Reads a `match`.
    ///
    /// # Errors
    /// [`PatternError`], if it does not have this form, or if no request can have its path.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let text = text.trim();
        let start = text.find('/').ok_or(PatternError::Form)?;
        let (named, path) = text.split_at_checked(start).unwrap_or_default();
        if !named.is_empty() && !named.ends_with(char::is_whitespace) {
            return Err(PatternError::Form);
        }
        let methods = parse_methods(named.trim_end())?;
        let text = match methods.as_slice() {
            [] | [_] => text.to_owned(),
            [..] => format!("{} {path}", methods.join(",")),
        };
        if path.len() > MAX_PATH {
            return Err(NotCanonical::PathTooLong.into());
        }
        if path.contains('?') {
            return Err(PatternError::Query);
        }
        let path = path.strip_prefix('/').ok_or(PatternError::Form)?;
        let (path, open) = match path.strip_suffix("**") {
            Some(before) if before.is_empty() || before.ends_with('/') => (before, true),
            Some(_) | None => (path, false),
        };
        if path == "/" {
            return Err(NotCanonical::EmptySegment.into());
        }
        let slash = !open && path.ends_with('/');
        let path = path.strip_suffix('/').unwrap_or(path);
        let mut names = BTreeSet::new();
        let mut segments = Vec::new();
        if !path.is_empty() {
            for segment in path.split('/') {
                segments.push(parse_segment(segment, &mut names)?);
            }
        }
        if segments.len() > MAX_SEGMENTS {
            return Err(PatternError::TooDeep);
        }
        Ok(Self { text, methods, segments, open, slash })
    }

    /// The pattern as it was written; several methods are in alphabetical order.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its methods in upper case and alphabetical order; none if it matches every method.
    #[must_use]
    pub fn methods(&self) -> &[String] {
        &self.methods
    }

    /// Its segments in order, and whether `**` follows them.
    #[must_use]
    pub fn template(&self) -> (Vec<Part<'_>>, bool) {
        let path = self.text.split_once('/').map_or("", |(_, path)| path);
        let written = path.split('/').map(|it| it.trim_start_matches('{').trim_end_matches('}'));
        let parts = self.segments.iter().zip(written).map(|(segment, written)| match segment {
            Segment::Literal { text, .. } => Part::Literal(text),
            Segment::Any => Part::Name(written),
        });
        (parts.collect(), self.open)
    }

    /// Whether it matches exactly one path.
    #[must_use]
    pub fn is_one_path(&self) -> bool {
        !self.open && self.segments.iter().all(|it| matches!(it, Segment::Literal { .. }))
    }

    /// A path that the pattern matches, with a query if it is not empty.
    pub(super) fn sample(&self, query: &str) -> Result<CanonicalTarget, NotCanonical> {
        let mut path = String::new();
        for segment in &self.segments {
            path.push('/');
            path.push_str(match segment {
                Segment::Literal { text, .. } => text,
                Segment::Any => "0",
            });
        }
        if self.slash || path.is_empty() {
            path.push('/');
        }
        if !query.is_empty() {
            path.push('?');
            path.push_str(query);
        }
        CanonicalTarget::parse(&path)
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    pub(super) const fn is_open(&self) -> bool {
        self.open
    }

    /// Whether it ends in `/`.
    #[must_use]
    pub const fn ends_in_slash(&self) -> bool {
        self.slash
    }

    /// Whether the pattern matches `method`. `HEAD` is priced as `GET`. Letter case does not count.
    #[must_use]
    pub fn admits_method(&self, method: &str) -> bool {
        let is = |own: &String| {
            own.eq_ignore_ascii_case(method) || (own == "GET" && method.eq_ignore_ascii_case("HEAD"))
        };
        self.methods.is_empty() || self.methods.iter().any(is)
    }

    /// Whether there is a method that both match.
    pub(super) fn shares_method_with(&self, other: &Self) -> bool {
        let either_names_none = self.methods.is_empty() || other.methods.is_empty();
        either_names_none || self.methods.iter().any(|it| other.methods.contains(it))
    }

    /// Whether `target` has the literals and the trailing slash exactly as written. The pattern must
    /// match the path of `target` without regard to letter case.
    pub(super) fn is_exactly(&self, target: &CanonicalTarget) -> bool {
        let mut path = target.decoded().trim_matches('/').split('/');
        let literal = self.segments.iter().all(|segment| match (segment, path.next()) {
            (Segment::Literal { decoded, .. }, Some(found)) => decoded == found,
            (Segment::Any, Some(_)) => true,
            (Segment::Literal { .. } | Segment::Any, None) => false,
        });
        let has_slash = target.decoded().len() > 1 && target.decoded().ends_with('/');
        literal && (self.open || has_slash == self.slash)
    }

    /// Whether it matches a request with this method and target, as of a route that is case-sensitive: its literals and
    /// the trailing slash are exactly as written.
    #[must_use]
    pub fn is_of(&self, method: &str, target: &CanonicalTarget) -> bool {
        let path = target.decoded().trim_matches('/');
        let depth = if path.is_empty() { 0 } else { path.split('/').count() };
        let is_as_deep = if self.open { depth >= self.segments.len() } else { depth == self.segments.len() };
        is_as_deep && self.admits_method(method) && self.is_exactly(target)
    }

    /// The kind of segment at a position; the more specific, the greater.
    fn rank(&self, position: usize) -> Rank {
        match self.segments.get(position) {
            Some(Segment::Literal { .. }) => Rank::Literal,
            Some(Segment::Any) => Rank::Any,
            None if self.open => Rank::Open,
            None => Rank::End,
        }
    }

    /// Compares two patterns that match one path: the greater one is more specific. From the left, a
    /// literal comes before `{name}`, before the end of the path, before `**`.
    #[must_use]
    pub fn compare_paths(&self, other: &Self) -> Ordering {
        self.first_difference(other)
            .map_or(Ordering::Equal, |position| self.rank(position).cmp(&other.rank(position)))
    }

    /// The first position, from 0, at which the two differ in rank.
    pub(super) fn first_difference(&self, other: &Self) -> Option<usize> {
        let longest = self.segments.len().max(other.segments.len());
        (0..=longest).find(|&position| self.rank(position) != other.rank(position))
    }

    /// The segment at a position, for messages.
    pub(super) fn shown(&self, position: usize) -> &str {
        match self.segments.get(position) {
            Some(Segment::Literal { text, .. }) => text,
            Some(Segment::Any) => "{name}",
            None if self.open => "**",
            None => "the end of the path",
        }
    }
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Rank {
    Open,
    End,
    Any,
    Literal,
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The methods before the path, in alphabetical order.
fn parse_methods(text: &str) -> Result<Vec<String>, PatternError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let mut methods = BTreeSet::new();
    for method in text.split(',').map(str::trim) {
        if !methods.insert(parse_method(method)?) {
            return Err(PatternError::MethodTwice(method.to_owned()));
        }
    }
    if methods.len() > MAX_METHODS {
        return Err(PatternError::TooManyMethods);
    }
    Ok(methods.into_iter().collect())
}

fn parse_method(text: &str) -> Result<String, PatternError> {
    if text == "HEAD" {
        return Err(PatternError::Head);
    }
    let is_letter = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
    if !text.is_empty() && text.len() <= MAX_METHOD && text.bytes().all(is_letter) {
        Ok(text.to_owned())
    } else {
        Err(PatternError::Method(text.chars().take(40).collect()))
    }
}

fn parse_segment(text: &str, names: &mut BTreeSet<String>) -> Result<Segment, PatternError> {
    if text.is_empty() {
        return Err(NotCanonical::EmptySegment.into());
    }
    if text == "**" {
        return Err(PatternError::OpenInside);
    }
    if text.contains('*') {
        return Err(PatternError::Star);
    }
    if text.contains(['{', '}']) {
        let refused = || PatternError::Placeholder(text.chars().take(40).collect());
        let name = text.strip_prefix('{').and_then(|it| it.strip_suffix('}')).ok_or_else(refused)?;
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if name.is_empty() || !name.bytes().all(is_name) {
            return Err(refused());
        }
        if !names.insert(name.to_owned()) {
            return Err(PatternError::NameTwice(name.to_owned()));
        }
        return Ok(Segment::Any);
    }
    let CanonicalSegment { text, decoded } = CanonicalSegment::parse(text)?;
    let folded = fold(&decoded);
    Ok(Segment::Literal { text, decoded, folded })
}
