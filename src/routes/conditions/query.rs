//! A condition on one parameter of the query.

use std::fmt;

use super::doubt::{Answer, Doubt};
use super::likeness::{Encoding, names_alike, values_alike};

/// The name and value that a parameter must have. Letter case counts in both.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct QueryCondition {
    name: String,
    value: String,
    /// The value as it is in a query that encodes all that may be encoded.
    encoded: String,
}

impl QueryCondition {
    /// `None` if the name or the value has a character that must be encoded, or that servers are known to
    /// read differently.
    pub(super) fn new(name: &str, value: &str) -> Option<Self> {
        let in_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
        let is_name = name.bytes().all(in_name) && name.bytes().any(|it| it.is_ascii_alphanumeric());
        let in_value = |byte: u8| in_name(byte) || matches!(byte, b'/' | b':' | b'@');
        if !is_name || value.is_empty() || !value.bytes().all(in_value) {
            return None;
        }
        let encoded = value.replace('/', "%2F").replace(':', "%3A").replace('@', "%40");
        Some(Self { name: name.to_owned(), value: value.to_owned(), encoded })
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What a query says of this condition, to every server.
    pub(super) fn answer(&self, query: &str) -> Answer {
        let mut found = None;
        for pair in query.split('&') {
            // Some servers separate parameters at a `;` too.
            for part in pair.split(';') {
                let (name, value) = part.split_once('=').unwrap_or((part, ""));
                if !names_alike(name.as_bytes(), &self.name, Encoding::Query) {
                    continue;
                }
                if name != self.name || pair.len() != part.len() {
                    return Answer::Unclear(Doubt::Name);
                }
                if found.replace(value).is_some() {
                    return Answer::Unclear(Doubt::Twice);
                }
            }
        }
        match found {
            None => Answer::No,
            Some("") => Answer::Unclear(Doubt::Empty),
            Some(value) if value == self.value || value == self.encoded => Answer::Yes,
            Some(value) if values_alike(value.as_bytes(), &self.value, Encoding::Query) => {
                Answer::Unclear(Doubt::Value)
            }
            Some(_) => Answer::No,
        }
    }
}

impl fmt::Display for QueryCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.name, self.value)
    }
}
