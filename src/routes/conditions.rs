//! Conditions of a route beside its method and path: the host, parameters of the query, headers.
//!
//! A condition holds or fails only if every server would say so. If one server could read the request as
//! meeting it and another could not, the request is [`Unclear`] and is answered 400: whoever sends it must
//! not choose the cheaper reading for the gateway and the other one for the upstream
//! ([protocol guide](crate::guide::protocol), "What must not get past").

mod doubt;
mod header;
mod likeness;
mod query;

use std::fmt;

use http::HeaderMap;

use super::head::RequestHead;
use super::host::{self, HostAnswer, HostPattern, HostRank};
use super::own_headers::{is_of_the_connection, is_own_header};
use doubt::Answer;

pub use doubt::Doubt;
pub use header::HeaderCondition;
pub use query::QueryCondition;

/// The most conditions of one route on its query, and on its headers.
pub const MAX_CONDITIONS: usize = 8;
/// The longest name in a condition, in bytes.
pub const MAX_CONDITION_NAME: usize = 64;
/// The longest value in a condition, in bytes.
pub const MAX_CONDITION_VALUE: usize = 128;

/// What must be true of a request, beside its method and path, for a route to match it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Conditions {
    host: Option<HostPattern>,
    /// By name.
    query: Vec<QueryCondition>,
    /// By name.
    headers: Vec<HeaderCondition>,
}

/// Why a name and a value are no condition.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ConditionFault {
    #[error("a name has at most {MAX_CONDITION_NAME} bytes, and a value at most {MAX_CONDITION_VALUE}")]
    TooLong,
    #[error(
        "a parameter's name has letters, digits, `-`, `.` and `_`, and its value, which is not empty, also `/`, `:` and `@`: servers read other characters in more than one way"
    )]
    Query,
    #[error(
        "a header's name has letters, digits and `-`, and its value, which is not empty, also `._/:@+*`: servers read other characters in more than one way"
    )]
    Header,
    #[error("the gateway removes or sets this header itself, or it is not passed on")]
    OwnHeader,
    #[error("a secret is no condition: prices are published")]
    Secret,
}

/// Why it is not clear whether a request meets a condition. The names are those of the price table.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unclear<'t> {
    #[error("the price depends on the host, and the request names none: send `Host`")]
    NoHost,
    #[error("the price depends on the host, and `Host` is no plain name: send it without a dot at its end")]
    OddHost,
    #[error("the price depends on the query parameter `{name}`: {doubt}")]
    Query { name: &'t str, doubt: Doubt },
    #[error("the price depends on the header `{name}`: {doubt}")]
    Header { name: &'t str, doubt: Doubt },
}

/// Whether a request meets the conditions of a route, whichever server reads it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Met<'t> {
    Yes,
    No,
    Unclear(Unclear<'t>),
}

impl QueryCondition {
    /// That the parameter `name` of the query is `value`.
    ///
    /// # Errors
    /// [`ConditionFault`], also for a text that servers are known to read in more than one way.
    pub fn read(name: &str, value: &str) -> Result<Self, ConditionFault> {
        check_length(name, value)?;
        Self::new(name, value).ok_or(ConditionFault::Query)
    }
}

impl HeaderCondition {
    /// That the header `name` is `value`.
    ///
    /// # Errors
    /// [`ConditionFault`], also for a header that does not reach the upstream as the client sent it.
    pub fn read(name: &str, value: &str) -> Result<Self, ConditionFault> {
        check_length(name, value)?;
        let plain = name.to_ascii_lowercase().replace('_', "-");
        if ["authorization", "cookie", "proxy-authorization"].contains(&plain.as_str()) {
            return Err(ConditionFault::Secret);
        }
        if is_own_header(&plain) || is_of_the_connection(&plain) {
            return Err(ConditionFault::OwnHeader);
        }
        Self::new(name, value).ok_or(ConditionFault::Header)
    }
}

const fn check_length(name: &str, value: &str) -> Result<(), ConditionFault> {
    let fits = name.len() <= MAX_CONDITION_NAME && value.len() <= MAX_CONDITION_VALUE;
    if fits { Ok(()) } else { Err(ConditionFault::TooLong) }
}

impl Conditions {
    /// These conditions together. `None` if there are more than [`MAX_CONDITIONS`] of a kind, or two names
    /// of a kind that differ only in letter case or punctuation.
    #[must_use]
    pub fn new(
        host: Option<HostPattern>,
        mut query: Vec<QueryCondition>,
        mut headers: Vec<HeaderCondition>,
    ) -> Option<Self> {
        query.sort_by(|one, other| one.name().cmp(other.name()));
        headers.sort_by(|one, other| one.name().as_str().cmp(other.name().as_str()));
        let names: Vec<_> = query.iter().map(QueryCondition::name).collect();
        let header_names: Vec<_> = headers.iter().map(|it| it.name().as_str()).collect();
        let is_good = are_few_and_different(&names) && are_few_and_different(&header_names);
        is_good.then_some(Self { host, query, headers })
    }

    #[must_use]
    pub const fn host(&self) -> Option<&HostPattern> {
        self.host.as_ref()
    }

    /// By name.
    #[must_use]
    pub fn query(&self) -> &[QueryCondition] {
        &self.query
    }

    /// By name.
    #[must_use]
    pub fn headers(&self) -> &[HeaderCondition] {
        &self.headers
    }

    /// Whether every request meets them.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.host.is_none() && self.query.is_empty() && self.headers.is_empty()
    }

    /// Whether a request meets them. One that fails decides, even if another is unclear.
    #[must_use]
    pub fn met_by(&self, request: &RequestHead<'_>) -> Met<'_> {
        all_of(self.each(request))
    }

    /// Whether a request meets them whose headers are not known yet: unclear if they decide.
    pub(super) fn met_ahead(&self, request: &RequestHead<'_>) -> Met<'_> {
        let ahead = RequestHead { headers: None, ..*request };
        let before_headers = usize::from(self.host.is_some()).saturating_add(self.query.len());
        let known = self.each(&ahead).take(before_headers);
        let header =
            self.headers.first().map(|it| Unclear::Header { name: it.name().as_str(), doubt: Doubt::Later });
        all_of(known.chain(header.map(Met::Unclear)))
    }

    /// What a request does not meet or leaves unclear, in words.
    #[must_use]
    pub fn unmet_by(&self, request: &RequestHead<'_>) -> Vec<String> {
        let told = self.words().zip(self.each(request)).filter_map(|(condition, met)| match met {
            Met::Yes => None,
            Met::No => Some(format!("needs {condition}")),
            Met::Unclear(why) => Some(why.to_string()),
        });
        told.collect()
    }

    /// Whether no request meets both.
    pub(super) fn exclude(&self, other: &Self) -> bool {
        let hosts = self.host.as_ref().zip(other.host.as_ref()).is_some_and(|(a, b)| a.excludes(b));
        let query = self
            .query
            .iter()
            .any(|one| other.query.iter().any(|it| it.name() == one.name() && it.value() != one.value()));
        let headers = self
            .headers
            .iter()
            .any(|one| other.headers.iter().any(|it| it.name() == one.name() && it.value() != one.value()));
        hosts || query || headers
    }

    pub(super) fn host_rank(&self) -> HostRank {
        self.host.as_ref().map_or(HostRank::Every, HostPattern::rank)
    }

    /// Each condition's answer: the host's, then by name the parameters' and the headers'.
    fn each<'t>(&'t self, request: &RequestHead<'_>) -> impl Iterator<Item = Met<'t>> {
        let query = request.target.query().unwrap_or_default();
        let (asked, headers) = (request.host, request.headers);
        let host = self.host.iter().map(move |it| match host::answer(it, asked) {
            HostAnswer::Yes => Met::Yes,
            HostAnswer::No => Met::No,
            HostAnswer::Missing => Met::Unclear(Unclear::NoHost),
            HostAnswer::Odd => Met::Unclear(Unclear::OddHost),
        });
        let query = self.query.iter().map(move |it| match it.answer(query) {
            Answer::Yes => Met::Yes,
            Answer::No => Met::No,
            Answer::Unclear(doubt) => Met::Unclear(Unclear::Query { name: it.name(), doubt }),
        });
        let headers = self.headers.iter().map(move |it| match headers.map(|all| it.answer(all)) {
            Some(Answer::Yes) => Met::Yes,
            Some(Answer::No) | None => Met::No,
            Some(Answer::Unclear(doubt)) => Met::Unclear(Unclear::Header { name: it.name().as_str(), doubt }),
        });
        host.chain(query).chain(headers)
    }

    /// Each condition in words, in the order of [`Conditions::each`].
    fn words(&self) -> impl Iterator<Item = String> {
        let host = self.host.iter().map(|it| format!("host {it}"));
        let query = self.query.iter().map(|it| format!("query {it}"));
        let headers = self.headers.iter().map(|it| format!("header {it}"));
        host.chain(query).chain(headers)
    }

    /// A request's query and headers that meet them.
    pub(super) fn sample(&self) -> (String, HeaderMap) {
        let pairs: Vec<_> = self.query.iter().map(ToString::to_string).collect();
        let value = |it: &HeaderCondition| http::HeaderValue::from_str(it.value()).ok();
        let headers = self.headers.iter().filter_map(|it| Some((it.name().clone(), value(it)?))).collect();
        (pairs.join("&"), headers)
    }
}

/// In words, with commas: `host img.example.com, query size=large`. Empty if there are none.
impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words().collect::<Vec<_>>().join(", "))
    }
}

/// All answers as one.
fn all_of<'t>(answers: impl Iterator<Item = Met<'t>>) -> Met<'t> {
    let mut met = Met::Yes;
    for one in answers {
        match one {
            Met::No => return Met::No,
            Met::Unclear(_) => met = one,
            Met::Yes => {}
        }
    }
    met
}

/// Whether a request that has one of the names cannot be taken for one that has another. They are sorted.
fn are_few_and_different(names: &[&str]) -> bool {
    let alike = |(index, one): (usize, &&str)| {
        names.iter().skip(index.saturating_add(1)).any(|other| likeness::same_letters(one, other))
    };
    names.len() <= MAX_CONDITIONS && !names.iter().enumerate().any(alike)
}
