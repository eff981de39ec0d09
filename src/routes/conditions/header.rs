//! A condition on one header of the request.

use std::fmt;

use http::header::{CONNECTION, HeaderMap, HeaderName};

use super::doubt::{Answer, Doubt};
use super::likeness::{Encoding, names_alike, values_alike};

/// The name and value that a header must have. Letter case counts in the value.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HeaderCondition {
    name: HeaderName,
    value: String,
}

impl HeaderCondition {
    /// `None` if this is no header's name, or the value has a character that servers are known to read
    /// differently.
    pub(super) fn new(name: &str, value: &str) -> Option<Self> {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        let in_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let is_name = name.as_str().bytes().all(in_name) && name.as_str() != "-";
        let in_value = |byte: u8| byte.is_ascii_alphanumeric() || b"-._/:@+*".contains(&byte);
        let is_value = !value.is_empty() && value.bytes().all(in_value);
        (is_name && is_value).then(|| Self { name, value: value.to_owned() })
    }

    /// In lower case.
    #[must_use]
    pub fn name(&self) -> &HeaderName {
        &self.name
    }

    #[must_use]
    pub fn value(&self) -> &str {
        &self.value
    }

    /// What the headers say of this condition, to every server.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Answer {
        let name = self.name.as_str();
        let is_other =
            |it: &HeaderName| *it != self.name && names_alike(it.as_str().as_bytes(), name, Encoding::Header);
        if headers.keys().any(is_other) {
            return Answer::Unclear(Doubt::Name);
        }
        let mut values = headers.get_all(&self.name).iter().map(|it| it.as_bytes().trim_ascii());
        let (first, second) = (values.next(), values.next());
        let answer = match (first, second) {
            (None, _) => return Answer::No,
            (Some(_), Some(_)) => Answer::Unclear(Doubt::Twice),
            (Some([]), None) => Answer::Unclear(Doubt::Empty),
            (Some(value), None) if value == self.value.as_bytes() => Answer::Yes,
            (Some(value), None) if values_alike(value, &self.value, Encoding::Header) => {
                Answer::Unclear(Doubt::Value)
            }
            (Some(_), None) => Answer::No,
        };
        let nominated = headers.get_all(CONNECTION).iter().any(|it| {
            it.as_bytes()
                .split(|byte| *byte == b',')
                .any(|item| item.trim_ascii().eq_ignore_ascii_case(name.as_bytes()))
        });
        if nominated { Answer::Unclear(Doubt::Nominated) } else { answer }
    }
}

impl fmt::Display for HeaderCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value)
    }
}
