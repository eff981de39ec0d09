//! The `payment-identifier` extension: an id that the client chooses and that makes a retry idempotent.
//!
//! A 402 declares the extension; a client copies the declaration into its payload and adds `info.id`.
//! [`payment::payment_identifier`](crate::payment::payment_identifier) says what an id stands for.
//! Source: x402, `specs/extensions/payment_identifier.md`.

use serde_json::{Map, Value, json};

/// The key of the extension in `PaymentRequired` and in `PaymentPayload`.
pub const PAYMENT_IDENTIFIER: &str = "payment-identifier";

/// The shortest and the longest id, in characters.
pub const SHORTEST_IDENTIFIER: usize = 16;
pub const LONGEST_IDENTIFIER: usize = 128;

/// A valid id: 16 to 128 letters, digits, `_` and `-`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PaymentIdentifier(String);

/// Why the extension has no valid id.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadIdentifier {
    #[error("extensions.payment-identifier is not an object with `info`: {{\"info\": {{\"id\": …}}}}")]
    NoInfo,
    #[error("extensions.payment-identifier.info.id is not a string")]
    NotText,
    #[error(
        "extensions.payment-identifier.info.id has {0} characters: {SHORTEST_IDENTIFIER} to {LONGEST_IDENTIFIER} are allowed"
    )]
    Length(usize),
    #[error("extensions.payment-identifier.info.id holds {0:?}: only A-Z, a-z, 0-9, _ and - are allowed")]
    Character(char),
}

impl PaymentIdentifier {
    /// The id in the extensions of a payload. `None` if the extension is missing or is only a copy of
    /// the declaration: official clients copy it even if they do not know the extension.
    ///
    /// # Errors
    /// [`BadIdentifier`].
    pub fn read(extensions: &Map<String, Value>) -> Result<Option<Self>, BadIdentifier> {
        let Some(extension) = extensions.get(PAYMENT_IDENTIFIER).filter(|it| !it.is_null()) else {
            return Ok(None);
        };
        let info = extension.get("info").and_then(Value::as_object).ok_or(BadIdentifier::NoInfo)?;
        let Some(id) = info.get("id").filter(|it| !it.is_null()) else { return Ok(None) };
        Self::parse(id.as_str().ok_or(BadIdentifier::NotText)?).map(Some)
    }

    /// The id with this text.
    ///
    /// # Errors
    /// [`BadIdentifier::Length`], [`BadIdentifier::Character`].
    pub fn parse(text: &str) -> Result<Self, BadIdentifier> {
        let allowed = |it: char| it.is_ascii_alphanumeric() || it == '_' || it == '-';
        if let Some(character) = text.chars().find(|&it| !allowed(it)) {
            return Err(BadIdentifier::Character(character));
        }
        if !(SHORTEST_IDENTIFIER..=LONGEST_IDENTIFIER).contains(&text.len()) {
            return Err(BadIdentifier::Length(text.len()));
        }
        Ok(Self(text.to_owned()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The extension of a payload that has this id.
    #[must_use]
    pub fn extension(&self, required: bool) -> Value {
        let mut extension = declaration(required);
        if let Some(info) = extension.get_mut("info").and_then(Value::as_object_mut) {
            info.insert("id".to_owned(), self.0.as_str().into());
        }
        extension
    }
}

/// The declaration of the extension in a 402: whether an id is required, and the schema of `info`.
#[must_use]
pub fn declaration(required: bool) -> Value {
    json!({
        "info": { "required": required },
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "type": "object",
            "properties": {
                "required": { "type": "boolean" },
                "id": {
                    "type": "string",
                    "minLength": SHORTEST_IDENTIFIER,
                    "maxLength": LONGEST_IDENTIFIER,
                    "pattern": "^[a-zA-Z0-9_-]+$",
                },
            },
            "required": ["required"],
        },
    })
}
