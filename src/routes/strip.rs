//! A prefix of a route's paths that its upstream does not see.

use std::borrow::Cow;

use super::pattern::{Part, Pattern};
use super::request::{CanonicalTarget, NotCanonical};

/// A prefix of whole segments. A request to `/llm/v1/chat` on a route that strips `/llm` is forwarded as
/// `/v1/chat`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Strip {
    text: String,
    segments: usize,
}

/// Why a prefix cannot be stripped.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum StripFault {
    #[error("the prefix is not canonical: {0}")]
    Path(#[from] NotCanonical),
    #[error("a prefix has no query")]
    Query,
    #[error("there is nothing to strip")]
    Nothing,
    #[error("it is not the beginning of the route's `match`, in whole segments without `{{name}}`")]
    NotThere,
}

impl Strip {
    /// Reads a prefix that all paths of `pattern` begin with.
    ///
    /// # Errors
    /// [`StripFault`], if some path of the pattern does not begin with it.
    pub fn new(text: &str, pattern: &Pattern) -> Result<Self, StripFault> {
        let target = CanonicalTarget::parse(text)?;
        if target.query().is_some() {
            return Err(StripFault::Query);
        }
        let text = target.path().trim_end_matches('/');
        let wanted: Vec<_> = text.split('/').skip(1).collect();
        if wanted.is_empty() {
            return Err(StripFault::Nothing);
        }
        let (parts, _) = pattern.template();
        let is_there = wanted.len() <= parts.len()
            && wanted.iter().zip(&parts).all(|(wanted, part)| *part == Part::Literal(wanted));
        if is_there {
            Ok(Self { text: text.to_owned(), segments: wanted.len() })
        } else {
            Err(StripFault::NotThere)
        }
    }

    /// The prefix, without a slash at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What is forwarded of a target that the route matches: it is canonical and begins with `/`.
    #[must_use]
    pub fn rest_of<'t>(&self, target: &'t CanonicalTarget) -> Cow<'t, str> {
        // Encoded slashes are refused, so these are the segments that were matched. Their letter case may
        // be another than the prefix's.
        let cut = target.path().match_indices('/').nth(self.segments);
        match (cut, target.query()) {
            (Some((at, _)), _) => Cow::Borrowed(target.as_str().get(at..).unwrap_or("/")),
            (None, None) => Cow::Borrowed("/"),
            (None, Some(query)) => Cow::Owned(format!("/?{query}")),
        }
    }
}
