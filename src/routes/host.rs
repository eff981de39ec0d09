//! The host that a route is for, and the host that a request names.

use std::cmp::Reverse;
use std::fmt;

/// The longest name of a host, in bytes (RFC 1035, section 2.3.4).
pub const MAX_HOST: usize = 253;

/// The `host` of a route: one name, or `*.example.com` for every name below `example.com`, at any depth.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HostPattern {
    /// In lower case, without the `*.`.
    name: String,
    /// Whether it is for the names below `name`.
    below: bool,
}

/// Why a text is not the host of a route.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HostFault {
    #[error("a host has no port here: a route is for every port")]
    Port,
    #[error("`*` stands only at the beginning, for all names below: `*.example.com`")]
    Star,
    #[error("the name of a host has letters, digits, `-` and `_` between dots, at most {MAX_HOST} bytes")]
    Name,
}

/// How close a host pattern is; the closest first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum HostRank {
    One,
    /// All names below a name of so many labels.
    Below(Reverse<usize>),
    Every,
}

impl HostPattern {
    /// Reads the `host` of a route. Letter case does not count.
    ///
    /// # Errors
    /// [`HostFault`], also for a name that is not ASCII: it is written as its `xn--` form.
    pub fn parse(text: &str) -> Result<Self, HostFault> {
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        if name.contains('*') {
            return Err(HostFault::Star);
        }
        if name.contains(':') {
            return Err(HostFault::Port);
        }
        if is_name(name.as_bytes()) {
            Ok(Self { name: name.to_ascii_lowercase(), below })
        } else {
            Err(HostFault::Name)
        }
    }

    /// The name, if the route is for one host only.
    #[must_use]
    pub fn one(&self) -> Option<&str> {
        if self.below { None } else { Some(&self.name) }
    }

    /// The name without `*.`.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn rank(&self) -> HostRank {
        if self.below { HostRank::Below(Reverse(self.name.split('.').count())) } else { HostRank::One }
    }

    /// Whether no host is both.
    pub(super) fn excludes(&self, other: &Self) -> bool {
        match (self.below, other.below) {
            (false, false) => self.name != other.name,
            (true, false) => !is_below(&other.name, &self.name),
            (false, true) => !is_below(&self.name, &other.name),
            (true, true) => {
                let same = self.name == other.name;
                !same && !is_below(&self.name, &other.name) && !is_below(&other.name, &self.name)
            }
        }
    }

    /// Whether it is for the host of this name, which is in lower case.
    #[must_use]
    pub fn admits(&self, name: &str) -> bool {
        if self.below { is_below(name, &self.name) } else { self.name == name }
    }

    /// A host that it matches.
    pub(super) fn sample(&self) -> RequestHost {
        let name = if self.below { format!("host.{}", self.name) } else { self.name.clone() };
        RequestHost { name: Some(name) }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

/// The host that a request is for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RequestHost {
    /// In lower case and without the port; `None` if servers may read it in two ways.
    name: Option<String>,
}

/// What a host pattern says of a request's host.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum HostAnswer {
    Yes,
    No,
    Missing,
    /// It could be read in two ways.
    Odd,
}

impl RequestHost {
    /// The host in the text of a `Host` header or an authority, with or without a port. `None` if there
    /// is none.
    #[must_use]
    pub fn read(authority: &str) -> Option<Self> {
        if authority.is_empty() {
            return None;
        }
        let literal = authority.starts_with('[');
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port),
            Some(_) | None => (authority, ""),
        };
        // A literal address of IPv6 is never the name in a pattern.
        let is_one = (literal || is_name(host.as_bytes())) && port.bytes().all(|it| it.is_ascii_digit());
        Some(Self { name: is_one.then(|| host.to_ascii_lowercase()) })
    }

    /// The name in lower case, without the port; `None` if it could be read in two ways.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }
}

/// What `pattern` says of the host of a request.
pub(super) fn answer(pattern: &HostPattern, host: Option<&RequestHost>) -> HostAnswer {
    match host.map(|it| it.name()) {
        None => HostAnswer::Missing,
        Some(None) => HostAnswer::Odd,
        Some(Some(name)) if pattern.admits(name) => HostAnswer::Yes,
        Some(Some(_)) => HostAnswer::No,
    }
}

/// The last `labels` labels of a name that has more.
pub(super) fn last_labels(name: &str, labels: usize) -> Option<&str> {
    let (at, _) = name.rmatch_indices('.').nth(labels.checked_sub(1)?)?;
    name.get(at..)?.strip_prefix('.')
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|it| it.ends_with('.'))
}

fn is_name(text: &[u8]) -> bool {
    let in_label = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    text.len() <= MAX_HOST
        && text.split(|byte| *byte == b'.').all(|label| !label.is_empty() && label.iter().all(in_label))
}
