//! Reads the fields of a JSON object, remembering where the object stood.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Fault, X402_VERSION};
use crate::nano::hex_bytes;

/// The most characters of a wrong value that a message repeats.
const EXCERPT_CHARACTERS: usize = 80;

/// A JSON object and its path. A field that is null counts as missing: the official schemas write
/// absence either way.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    path: String,
    echoed: bool,
}

impl<'a> Fields<'a> {
    /// The fields of an envelope's outermost object.
    pub(super) const fn of(object: &'a Map<String, Value>) -> Self {
        Self { object, path: String::new(), echoed: false }
    }

    /// The fields of an envelope that may be any JSON; `path` is what messages call it, empty for
    /// the outermost.
    pub(super) fn of_value(value: &'a Value, path: &str) -> Result<Self, Fault> {
        let named = if path.is_empty() { "the envelope" } else { path };
        let object = value.as_object().ok_or_else(|| Fault::Type {
            path: named.to_owned(),
            expected: "an object",
            found: kind(value),
        })?;
        Ok(Self { object, path: path.to_owned(), echoed: false })
    }

    /// These fields as ones the client had only to send back: a missing one is told so.
    pub(super) fn echoed(mut self) -> Self {
        self.echoed = true;
        self
    }

    /// The path of `field` in the envelope.
    pub(super) fn path(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    pub(super) fn optional(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn required(&self, field: &str) -> Result<&'a Value, Fault> {
        self.optional(field).ok_or_else(|| self.missing(field))
    }

    pub(super) fn missing(&self, field: &str) -> Fault {
        let path = self.path(field);
        if self.echoed { Fault::NotEchoed { path } } else { Fault::Missing { path } }
    }

    pub(super) fn wrong(&self, field: &str, why: impl Display) -> Fault {
        Fault::Value { path: self.path(field), why: why.to_string() }
    }

    fn not(&self, field: &str, expected: &'static str, value: &Value) -> Fault {
        Fault::Type { path: self.path(field), expected, found: kind(value) }
    }

    pub(super) fn optional_text(&self, field: &str) -> Result<Option<&'a str>, Fault> {
        let text = |value: &'a Value| value.as_str().ok_or_else(|| self.not(field, "a string", value));
        self.optional(field).map(text).transpose()
    }

    pub(super) fn text(&self, field: &str) -> Result<&'a str, Fault> {
        self.optional_text(field)?.ok_or_else(|| self.missing(field))
    }

    /// A string that `T` reads. Amounts come this way too, so a JSON number is none.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, field: &str) -> Result<T, Fault> {
        self.text(field)?.parse().map_err(|error| self.wrong(field, error))
    }

    /// As [`Fields::parsed`], where the field may be missing or empty.
    pub(super) fn optional_parsed<T: FromStr<Err: Display>>(&self, field: &str) -> Result<Option<T>, Fault> {
        match self.optional_text(field)? {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|error| self.wrong(field, error)),
        }
    }

    pub(super) fn integer(&self, field: &str) -> Result<u64, Fault> {
        let value = self.required(field)?;
        value.as_u64().ok_or_else(|| match value {
            Value::Number(number) => self.wrong(field, format_args!("{number} is not a whole number from 0")),
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                self.not(field, "an integer", value)
            }
        })
    }

    pub(super) fn flag(&self, field: &str) -> Result<bool, Fault> {
        let value = self.required(field)?;
        value.as_bool().ok_or_else(|| self.not(field, "true or false", value))
    }

    /// 32 bytes in hexadecimal.
    pub(super) fn bytes32(&self, field: &str) -> Result<[u8; 32], Fault> {
        hex_bytes(self.text(field)?).map_err(|error| self.wrong(field, error))
    }

    pub(super) fn array(&self, field: &str) -> Result<&'a Vec<Value>, Fault> {
        let value = self.required(field)?;
        value.as_array().ok_or_else(|| self.not(field, "an array", value))
    }

    pub(super) fn optional_object(&self, field: &str) -> Result<Option<Self>, Fault> {
        let fields = |value| {
            let fields = Self::of_value(value, &self.path(field))?;
            Ok(if self.echoed { fields.echoed() } else { fields })
        };
        self.optional(field).map(fields).transpose()
    }

    pub(super) fn object(&self, field: &str) -> Result<Self, Fault> {
        self.optional_object(field)?.ok_or_else(|| self.missing(field))
    }

    /// The object itself as a `T` that reads JSON on its own.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        T::deserialize(self.object)
            .map_err(|error| Fault::Value { path: self.path.clone(), why: error.to_string() })
    }

    /// `extensions`, which may be missing and may hold anything.
    pub(super) fn extensions(&self) -> Result<Map<String, Value>, Fault> {
        Ok(self.optional_object("extensions")?.map(|fields| fields.object.clone()).unwrap_or_default())
    }

    /// Checks that the envelope is of the one version that is spoken.
    pub(super) fn version(&self) -> Result<(), Fault> {
        let version = self.required("x402Version")?;
        if version.as_u64() == Some(X402_VERSION) {
            Ok(())
        } else {
            Err(Fault::Version { found: excerpt(version) })
        }
    }
}

/// What a JSON value is, in words.
const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A value as a message repeats it: a string or number from its beginning, else its kind.
pub(super) fn excerpt(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{:?}", text.chars().take(EXCERPT_CHARACTERS).collect::<String>()),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
    }
}
