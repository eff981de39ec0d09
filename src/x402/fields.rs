//! Reads the fields of a JSON object and knows the path of each, for error messages.

use std::fmt::Display;
use std::str::FromStr;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{FieldFault, X402_VERSION};
use crate::nano::hex_bytes;

/// How many characters of a wrong value a message repeats.
const EXCERPT_CHARACTERS: usize = 80;

/// A JSON object and its path. A field that is null counts as missing, since the official schemas
/// allow both for an absent field.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    object: &'a Map<String, Value>,
    path: String,
    echoed: bool,
}

impl<'a> Fields<'a> {
    /// The fields of the outermost object.
    pub(super) const fn of(object: &'a Map<String, Value>) -> Self {
        Self { object, path: String::new(), echoed: false }
    }

    /// The fields of `value`, if it is an object. Messages call it `path`, which is empty for the
    /// outermost object.
    pub(super) fn of_value(value: &'a Value, path: &str) -> Result<Self, FieldFault> {
        let named = if path.is_empty() { "the body" } else { path };
        let object = value.as_object().ok_or_else(|| FieldFault::Type {
            path: named.to_owned(),
            expected: "an object",
            found: kind(value),
        })?;
        Ok(Self { object, path: path.to_owned(), echoed: false })
    }

    /// The same fields, marked as ones that the client only had to send back: the message for a missing
    /// field says so.
    pub(super) fn echoed(mut self) -> Self {
        self.echoed = true;
        self
    }

    /// The full path of `field`.
    pub(super) fn path(&self, field: &str) -> String {
        if self.path.is_empty() { field.to_owned() } else { format!("{}.{field}", self.path) }
    }

    pub(super) fn optional(&self, field: &str) -> Option<&'a Value> {
        self.object.get(field).filter(|value| !value.is_null())
    }

    pub(super) fn required(&self, field: &str) -> Result<&'a Value, FieldFault> {
        self.optional(field).ok_or_else(|| self.missing(field))
    }

    pub(super) fn missing(&self, field: &str) -> FieldFault {
        let path = self.path(field);
        if self.echoed { FieldFault::NotEchoed { path } } else { FieldFault::Missing { path } }
    }

    pub(super) fn wrong(&self, field: &str, why: impl Display) -> FieldFault {
        FieldFault::Value { path: self.path(field), why: why.to_string() }
    }

    fn not(&self, field: &str, expected: &'static str, value: &Value) -> FieldFault {
        FieldFault::Type { path: self.path(field), expected, found: kind(value) }
    }

    pub(super) fn optional_text(&self, field: &str) -> Result<Option<&'a str>, FieldFault> {
        let text = |value: &'a Value| value.as_str().ok_or_else(|| self.not(field, "a string", value));
        self.optional(field).map(text).transpose()
    }

    pub(super) fn text(&self, field: &str) -> Result<&'a str, FieldFault> {
        self.optional_text(field)?.ok_or_else(|| self.missing(field))
    }

    /// A string, parsed as `T`. Amounts are read in this way, so a JSON number is refused.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, field: &str) -> Result<T, FieldFault> {
        self.text(field)?.parse().map_err(|error| self.wrong(field, error))
    }

    /// Like [`Fields::parsed`], but `None` if the field is missing or empty.
    pub(super) fn optional_parsed<T: FromStr<Err: Display>>(
        &self,
        field: &str,
    ) -> Result<Option<T>, FieldFault> {
        match self.optional_text(field)? {
            None | Some("") => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|error| self.wrong(field, error)),
        }
    }

    pub(super) fn integer(&self, field: &str) -> Result<u64, FieldFault> {
        let value = self.required(field)?;
        value.as_u64().ok_or_else(|| match value {
            Value::Number(number) => self.wrong(field, format_args!("{number} is not a whole number from 0")),
            Value::Null | Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_) => {
                self.not(field, "an integer", value)
            }
        })
    }

    pub(super) fn flag(&self, field: &str) -> Result<bool, FieldFault> {
        let value = self.required(field)?;
        value.as_bool().ok_or_else(|| self.not(field, "true or false", value))
    }

    /// 32 bytes in hexadecimal.
    pub(super) fn bytes32(&self, field: &str) -> Result<[u8; 32], FieldFault> {
        hex_bytes(self.text(field)?).map_err(|error| self.wrong(field, error))
    }

    pub(super) fn array(&self, field: &str) -> Result<&'a Vec<Value>, FieldFault> {
        let value = self.required(field)?;
        value.as_array().ok_or_else(|| self.not(field, "an array", value))
    }

    pub(super) fn optional_object(&self, field: &str) -> Result<Option<Self>, FieldFault> {
        let fields = |value| {
            let fields = Self::of_value(value, &self.path(field))?;
            Ok(if self.echoed { fields.echoed() } else { fields })
        };
        self.optional(field).map(fields).transpose()
    }

    pub(super) fn object(&self, field: &str) -> Result<Self, FieldFault> {
        self.optional_object(field)?.ok_or_else(|| self.missing(field))
    }

    /// The object itself, deserialised as `T`.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, FieldFault> {
        T::deserialize(self.object)
            .map_err(|error| FieldFault::Value { path: self.path.clone(), why: error.to_string() })
    }

    /// The field `extensions`; empty if it is missing.
    pub(super) fn extensions(&self) -> Result<Map<String, Value>, FieldFault> {
        Ok(self.optional_object("extensions")?.map(|fields| fields.object.clone()).unwrap_or_default())
    }

    /// Checks that `x402Version` is the supported one.
    pub(super) fn version(&self) -> Result<(), FieldFault> {
        let version = self.required("x402Version")?;
        if version.as_u64() == Some(X402_VERSION) {
            Ok(())
        } else {
            Err(FieldFault::Version { found: excerpt(version) })
        }
    }
}

/// The kind of a JSON value, in words.
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

/// A value as a message repeats it: the beginning of a string, a number, or else its kind.
pub(super) fn excerpt(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{:?}", text.chars().take(EXCERPT_CHARACTERS).collect::<String>()),
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => kind(value).to_owned(),
    }
}
