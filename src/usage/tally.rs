//! Makes counts of the values that an answer reports.

use serde_json::{Map, Value};

use super::no_rate::{MAX_COUNT, MAX_MODEL};
use super::rates::Counts;
use super::scan::{Role, Scanner, Taken};
use super::strict;
use crate::nano::Raw;

/// How usage is reported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Format {
    OpenAi,
    Anthropic,
    Json,
}

/// What an answer has reported so far.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Tally {
    format: Format,
    /// The model that the answer names.
    model: Option<String>,
    reported: Option<Reported>,
    /// Whether the last report could not be read, or contradicted itself.
    is_faulty: bool,
    /// Whether an event has said that the answer failed.
    has_failed: bool,
}

/// Counts as they are reported, which is not how they are charged.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Reported {
    input: Option<u64>,
    cached: Option<u64>,
    cache_write: Option<u64>,
    output: Option<u64>,
    tokens: Option<u64>,
    amount: Option<Raw>,
}

/// What a report says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Report {
    Nothing,
    Counts(Counts),
    Amount(Raw),
    /// It cannot be what was used.
    Faulty,
}

/// A value that is not what it should be.
#[derive(Debug)]
struct Faulty;

impl Tally {
    pub(super) const fn new(format: Format) -> Self {
        Self { format, model: None, reported: None, is_faulty: false, has_failed: false }
    }

    /// The model that the answer names.
    pub(super) fn model(&self) -> Option<&str> {
        self.model.as_deref()
    }

    /// Whether an event has said that the answer failed.
    pub(super) const fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// The same, with nothing reported.
    pub(super) const fn again(&self) -> Self {
        Self::new(self.format)
    }

    /// The answer is not what it should be: nothing of what it reports is believed.
    pub(super) const fn spoil(&mut self) {
        self.is_faulty = true;
    }

    pub(super) fn report(&self) -> Report {
        match &self.reported {
            _ if self.is_faulty => Report::Faulty,
            None => Report::Nothing,
            Some(Reported { amount: Some(amount), .. }) => Report::Amount(*amount),
            Some(reported) => reported.counts(self.format).map_or(Report::Faulty, Report::Counts),
        }
    }

    /// Adds what one JSON text says: the answer, or one of its events or lines.
    pub(super) fn read(&mut self, json: &Scanner) {
        let read = match self.format {
            Format::OpenAi => self.openai(json),
            Format::Anthropic => self.anthropic(json),
            Format::Json => self.by_pointer(json),
        };
        if read.is_err() {
            self.is_faulty = true;
        }
    }

    /// Some servers report in each event what was used so far: the last report counts.
    fn openai(&mut self, json: &Scanner) -> Result<(), Faulty> {
        // An event of the responses API is about a response.
        let kind = word(json.taken(Role::Type)).unwrap_or_default();
        let is_within = kind.starts_with("response.");
        let has_error = !matches!(json.taken(Role::Error), Taken::Nothing | Taken::Value(b"null"));
        self.has_failed |= has_error || kind == "response.failed" || kind == "error";
        let (model, usage) =
            if is_within { (Role::ModelWithin, Role::UsageWithin) } else { (Role::Model, Role::Usage) };
        self.name(json.taken(model));
        let Some(usage) = object(json.taken(usage))? else { return Ok(()) };
        let either = |one: &str, other: &str| -> Result<Option<u64>, Faulty> {
            Ok(count(&usage, one)?.or(count(&usage, other)?))
        };
        let details = |key: &str| usage.get(key).and_then(Value::as_object);
        let details = details("prompt_tokens_details").or_else(|| details("input_tokens_details"));
        let cached = details.map(|it| count(it, "cached_tokens")).transpose()?.flatten();
        let input = either("prompt_tokens", "input_tokens")?;
        let output = either("completion_tokens", "output_tokens")?;
        if input.is_none() && output.is_none() {
            return Err(Faulty);
        }
        self.reported = Some(Reported { input, cached, output, ..Reported::default() });
        self.is_faulty = false;
        Ok(())
    }

    /// `message_start` reports the input, and each `message_delta` all output so far, and may correct the rest.
    fn anthropic(&mut self, json: &Scanner) -> Result<(), Faulty> {
        let is_start = word(json.taken(Role::Type)).is_some_and(|it| it == "message_start");
        let (model, usage) =
            if is_start { (Role::ModelWithin, Role::UsageWithin) } else { (Role::Model, Role::Usage) };
        self.name(json.taken(model));
        let Some(usage) = object(json.taken(usage))? else { return Ok(()) };
        let mut reported = self.reported.unwrap_or_default();
        reported.input = count(&usage, "input_tokens")?.or(reported.input);
        reported.cached = count(&usage, "cache_read_input_tokens")?.or(reported.cached);
        reported.cache_write = count(&usage, "cache_creation_input_tokens")?.or(reported.cache_write);
        reported.output = count(&usage, "output_tokens")?.or(reported.output);
        if reported == Reported::default() {
            return Err(Faulty);
        }
        self.reported = Some(reported);
        Ok(())
    }

    fn by_pointer(&mut self, json: &Scanner) -> Result<(), Faulty> {
        self.name(json.taken(Role::Model));
        let mut reported = self.reported.unwrap_or_default();
        let mut is_new = false;
        for (role, kept) in [
            (Role::Input, &mut reported.input),
            (Role::Cached, &mut reported.cached),
            (Role::Output, &mut reported.output),
            (Role::Tokens, &mut reported.tokens),
        ] {
            if let Some(value) = value(json.taken(role))? {
                *kept = Some(number(&value)?);
                is_new = true;
            }
        }
        if let Some(cost) = amount_at(json.taken(Role::Cost))? {
            reported.amount = Some(cost);
            is_new = true;
        }
        if is_new {
            self.reported = Some(reported);
        }
        Ok(())
    }

    fn name(&mut self, taken: Taken<'_>) {
        if let (Taken::Value([b'"', written @ .., b'"']), Some(model)) = (taken, &self.model)
            && written == model.as_bytes()
        {
            // Each event of a stream names it.
            return;
        }
        if let Some(model) = word(taken).filter(|it| (1..=MAX_MODEL).contains(&it.len())) {
            self.model = Some(model);
        }
    }
}

impl Reported {
    /// The counts as they are charged; `None` if they contradict each other.
    fn counts(&self, format: Format) -> Option<Counts> {
        let input = self.input.unwrap_or_default();
        let cached = self.cached.unwrap_or_default();
        let input = match format {
            // The cached tokens are beside the others.
            Format::Anthropic => input,
            // They are among them.
            Format::OpenAi | Format::Json => input.checked_sub(cached)?,
        };
        Some(Counts {
            input,
            cached,
            cache_write: self.cache_write.unwrap_or_default(),
            output: self.output.unwrap_or_default(),
            tokens: self.tokens.unwrap_or_default(),
            bytes: 0,
        })
    }
}

/// Reads an amount as `Faregate-Cost` says it: `12 raw`, `0.001 XNO`.
pub(super) fn amount(text: &[u8]) -> Option<Raw> {
    Raw::with_unit(std::str::from_utf8(text).ok()?).ok()
}

/// An amount in JSON: text with a unit, or a whole number of raw, of any length.
fn amount_at(taken: Taken<'_>) -> Result<Option<Raw>, Faulty> {
    let written = match taken {
        Taken::Nothing | Taken::Value(b"null") => return Ok(None),
        Taken::Doubtful => return Err(Faulty),
        Taken::Value(written) => written,
    };
    let plain = std::str::from_utf8(written).map_err(|_| Faulty)?;
    if let Ok(raw) = plain.parse() {
        return Ok(Some(raw));
    }
    let text = word(taken).ok_or(Faulty)?;
    let amount = text.parse().ok().or_else(|| Raw::with_unit(&text).ok());
    amount.map(Some).ok_or(Faulty)
}

/// The value; `None` if it is null or not there.
fn value(taken: Taken<'_>) -> Result<Option<Value>, Faulty> {
    match taken {
        Taken::Nothing | Taken::Value(b"null") => Ok(None),
        Taken::Value(written) => strict::read(written).map(Some).map_err(|_| Faulty),
        Taken::Doubtful => Err(Faulty),
    }
}

fn object(taken: Taken<'_>) -> Result<Option<Map<String, Value>>, Faulty> {
    match value(taken)? {
        None => Ok(None),
        Some(Value::Object(object)) => Ok(Some(object)),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => {
            Err(Faulty)
        }
    }
}

/// A text; `None` if it is none.
fn word(taken: Taken<'_>) -> Option<String> {
    match value(taken) {
        Ok(Some(Value::String(text))) => Some(text),
        Ok(_) | Err(Faulty) => None,
    }
}

/// A count of the object; `None` if it is null or not there.
fn count(object: &Map<String, Value>, key: &str) -> Result<Option<u64>, Faulty> {
    match object.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => number(value).map(Some),
    }
}

fn number(value: &Value) -> Result<u64, Faulty> {
    value.as_u64().filter(|it| *it <= MAX_COUNT).ok_or(Faulty)
}
