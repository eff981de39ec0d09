//! What a request of the admin API is told: the parameters of an operation, from its path, query, body and
//! headers, and how each is read.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::UNIX_EPOCH;

use serde_json::Value;

use super::operations::{Kind, Operation, Parameter, Sent};
use super::problem::Problem;
use crate::nano::UnixSeconds;

/// The parameters that a request has.
#[derive(Debug, Default)]
pub(super) struct Arguments(BTreeMap<&'static str, String>);

impl Arguments {
    /// Reads the parameters of `operation`. `header` gives the text of a header.
    ///
    /// # Errors
    /// [`Problem`] for a parameter that is unknown, there twice, missing, too long, or of another type.
    pub(super) fn read(
        operation: Operation,
        path: Vec<(&'static str, &str)>,
        query: Option<&str>,
        body: &[u8],
        header: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Problem> {
        let parameters = operation.spec().parameters;
        let mut found = Self::default();
        for (name, value) in path {
            found.put(known(parameters, Sent::Path, name)?, value.to_owned())?;
        }
        for (name, value) in url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            found.put(known(parameters, Sent::Query, &name)?, value.into_owned())?;
        }
        for (name, value) in members(body)? {
            let parameter = known(parameters, Sent::Body, &name)?;
            let text = match value {
                Value::Null => continue,
                Value::String(text) => text,
                Value::Number(number) => number.to_string(),
                Value::Bool(flag) => flag.to_string(),
                Value::Array(_) | Value::Object(_) => {
                    return Err(Problem::bad(format!("`{name}` is a list or an object: write one value")));
                }
            };
            found.put(parameter, text)?;
        }
        for parameter in parameters.iter().filter(|it| it.sent == Sent::Header) {
            if let Some(value) = header(parameter.name) {
                found.put(parameter, value)?;
            }
        }
        match parameters.iter().find(|it| it.required && !found.0.contains_key(it.name)) {
            Some(it) => Err(Problem::bad(format!("`{}` is missing: {}", it.name, it.about))),
            None => Ok(found),
        }
    }

    fn put(&mut self, parameter: &Parameter, text: String) -> Result<(), Problem> {
        let name = parameter.name;
        check(parameter, &text)?;
        match self.0.insert(name, text) {
            Some(_) => Err(Problem::bad(format!("`{name}` is there twice: write it once"))),
            None => Ok(()),
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// # Errors
    /// [`Problem`] for a text that is no such value.
    pub(super) fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, Problem>
    where
        T::Err: std::fmt::Display,
    {
        let parsed = self.text(name).map(str::parse);
        parsed.transpose().map_err(|error| Problem::bad(format!("`{name}`: {error}")))
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.text(name) == Some("true")
    }

    /// An instant.
    ///
    /// # Errors
    /// [`Problem`] for a text that is none.
    pub(super) fn time(&self, name: &str, now: UnixSeconds) -> Result<Option<UnixSeconds>, Problem> {
        let read = |text| {
            instant(text, now).ok_or_else(|| {
                Problem::bad(format!(
                    "`{name}` is no time: write `24h`, `2026-01-31` or `2026-01-31T12:00:00Z` (UTC)"
                ))
            })
        };
        self.text(name).map(read).transpose()
    }
}

/// The members of a body; none of an empty one.
fn members(body: &[u8]) -> Result<serde_json::Map<String, Value>, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(serde_json::Map::new());
    }
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Err(Problem::bad("the body is no JSON object: write `{\"name\": value}`")),
        Err(error) => Err(Problem::bad(format!("the body is no JSON: {error}"))),
    }
}

fn known(parameters: &'static [Parameter], sent: Sent, name: &str) -> Result<&'static Parameter, Problem> {
    parameters.iter().find(|it| it.sent == sent && it.name == name).ok_or_else(|| {
        let known: Vec<_> = parameters.iter().filter(|it| it.sent == sent).map(|it| it.name).collect();
        let place = if sent == Sent::Query { "query" } else { "body" };
        let name: String = name.chars().take(40).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        Problem::bad(format!("unknown parameter {name:?} in the {place}; known there: {known}"))
    })
}

/// What can be said of a text without knowing what it is for.
fn check(parameter: &Parameter, text: &str) -> Result<(), Problem> {
    let name = parameter.name;
    let (fits, wanted) = match parameter.kind {
        Kind::Text(most) => {
            let fits = (1..=most).contains(&text.len()) && !text.chars().any(char::is_control);
            (fits, format!("one line of 1 to {most} bytes"))
        }
        Kind::Hex(digits) => {
            let fits = text.len() == digits && text.bytes().all(|it| it.is_ascii_hexdigit());
            (fits, format!("{digits} hexadecimal digits"))
        }
        Kind::Count(most) => {
            let fits = text.parse::<u64>().is_ok_and(|it| (1..=most).contains(&it));
            (fits, format!("a whole number from 1 to {most}"))
        }
        Kind::Flag => (["true", "false"].contains(&text), "`true` or `false`".to_owned()),
        Kind::Word(words) => (words.contains(&text), format!("one of: {}", words.join(", "))),
        // Whoever reads it says what is wrong.
        Kind::Account | Kind::Time | Kind::Duration => (text.len() <= 100, "a shorter text".to_owned()),
    };
    if fits { Ok(()) } else { Err(Problem::bad(format!("`{name}`: write {wanted}"))) }
}

/// An instant: a date, a time, or a duration before `now`. `None` if it is neither.
#[must_use]
pub fn instant(text: &str, now: UnixSeconds) -> Option<UnixSeconds> {
    const DATE: usize = "2026-01-31".len();
    if let Ok(ago) = humantime::parse_duration(text) {
        return Some(UnixSeconds(now.0.saturating_sub(ago.as_secs())));
    }
    let whole = if text.len() == DATE { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let at = humantime::parse_rfc3339_weak(&whole).ok()?;
    at.duration_since(UNIX_EPOCH).ok().map(|it| UnixSeconds(it.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(operation: Operation, query: &str, body: &str) -> Result<Arguments, Problem> {
        Arguments::read(operation, Vec::new(), Some(query), body.as_bytes(), |_| None)
    }

    #[test]
    fn parameters_are_read_or_refused_by_name() {
        let found = read(Operation::ListPayments, "route=a%20b&limit=1000&state=granted", "").unwrap();
        assert_eq!((found.text("route"), found.parsed::<usize>("limit").unwrap()), (Some("a b"), Some(1000)));
        for query in ["limit=0", "limit=1001", "limit=x", "state=paid", "rout=a", "limit=1&limit=2", "route="]
        {
            assert!(read(Operation::ListPayments, query, "").is_err(), "{query}");
        }
        let given =
            read(Operation::GrantCapability, "dry_run=true", r#"{"route":"a","uses":5,"by":null}"#).unwrap();
        assert!(given.flag("dry_run") && given.text("by").is_none());
        assert_eq!(given.text("uses"), Some("5"));
        for body in
            ["{}", "[]", "{", r#"{"route":["a"]}"#, r#"{"route":"a","uses":0}"#, r#"{"route":"a\nb"}"#]
        {
            assert!(read(Operation::GrantCapability, "", body).is_err(), "{body}");
        }
    }

    #[test]
    fn an_instant_is_a_date_a_time_or_so_long_ago() {
        let now = UnixSeconds(1_800_000_000);
        assert_eq!(instant("1970-01-02", now), Some(UnixSeconds(86_400)));
        assert_eq!(instant("1970-01-01T00:00:07Z", now), Some(UnixSeconds(7)));
        assert_eq!(instant("1h", now), Some(UnixSeconds(1_799_996_400)));
        assert_eq!(instant("yesterday", now), None);
    }
}
