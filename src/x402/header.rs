//! Base64 JSON, the form every x402 header has.

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD as STANDARD_ALPHABET, URL_SAFE as URL_SAFE_ALPHABET};
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use serde_json::{Map, Value};

use super::MAX_HEADER_BYTES;

/// Why a header cannot be read at all: answered 400, since nothing in it can be judged. What the
/// header held is not repeated; it may be a credential.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unreadable {
    #[error("the header is {0} bytes long, at most {MAX_HEADER_BYTES} are read")]
    TooLong(usize),
    #[error("the header is empty")]
    Empty,
    #[error("the header is not base64 (standard or URL-safe, padded or not): {0}")]
    Base64(String),
    #[error("the header is base64, but not of JSON: {0}")]
    Json(String),
    #[error("the header is base64 JSON, but {0} and not an object")]
    NotAnObject(&'static str),
}

/// `json` as a header's value: standard base64 with padding, which every client reads; the official
/// ones refuse the URL-safe alphabet.
#[must_use]
pub fn encode_header(json: &Value) -> String {
    STANDARD.encode(json.to_string())
}

/// The JSON object in a header's value. Either alphabet is read, padded or not, with optional
/// white space (RFC 9110, section 5.6.3) around it.
///
/// # Errors
/// [`Unreadable`]. Longer than [`MAX_HEADER_BYTES`] is refused before anything is decoded, and
/// JSON nested deeper than 128 levels as JSON that cannot be read.
pub fn decode_header(value: impl AsRef<[u8]>) -> Result<Map<String, Value>, Unreadable> {
    let value = value.as_ref();
    if value.len() > MAX_HEADER_BYTES {
        return Err(Unreadable::TooLong(value.len()));
    }
    let value = trim(value);
    if value.is_empty() {
        return Err(Unreadable::Empty);
    }
    let url_safe = value.iter().any(|byte| matches!(byte, b'-' | b'_'));
    let engine = if url_safe { &URL_SAFE_ANY } else { &STANDARD_ANY };
    let json = engine.decode(value).map_err(|error| Unreadable::Base64(error.to_string()))?;
    match serde_json::from_slice(&json).map_err(|error| Unreadable::Json(error.to_string()))? {
        Value::Object(object) => Ok(object),
        Value::Null => Err(Unreadable::NotAnObject("null")),
        Value::Bool(_) => Err(Unreadable::NotAnObject("a boolean")),
        Value::Number(_) => Err(Unreadable::NotAnObject("a number")),
        Value::String(_) => Err(Unreadable::NotAnObject("a string")),
        Value::Array(_) => Err(Unreadable::NotAnObject("an array")),
    }
}

const fn any_padding(alphabet: &Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config)
}

const STANDARD_ANY: GeneralPurpose = any_padding(&STANDARD_ALPHABET);
const URL_SAFE_ANY: GeneralPurpose = any_padding(&URL_SAFE_ALPHABET);

/// Without the spaces and tabs around it; other white space is none in a header.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
