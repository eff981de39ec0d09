//! Base64 of JSON, the form of every x402 header.

use base64::Engine;
use base64::alphabet::{Alphabet, STANDARD as STANDARD_ALPHABET, URL_SAFE as URL_SAFE_ALPHABET};
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde_json::{Map, Value};

use super::MAX_HEADER_BYTES;

/// Why a header cannot be read. It is answered with 400. The message does not repeat the header, since
/// it may be a credential.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum UnreadableHeader {
    #[error("the header is {0} bytes long, at most {MAX_HEADER_BYTES} are read")]
    TooLong(usize),
    #[error("the header is empty")]
    Empty,
    #[error("the header is not base64 (standard or URL-safe, padded or not): {0}")]
    Base64(String),
    #[error("the header is base64, but its content is not JSON: {0}")]
    Json(String),
    #[error("the header is base64 of {0}, expected a JSON object")]
    NotAnObject(&'static str),
}

/// `json` as the value of a header: standard base64 with padding, which every client reads. The
/// official clients refuse the URL-safe alphabet.
#[must_use]
pub fn encode_header(json: &Value) -> String {
    encode_text(&json.to_string())
}

/// As [`encode_header`], for a `json` that is text already.
#[must_use]
pub fn encode_text(json: &str) -> String {
    base64_simd::STANDARD.encode_to_string(json)
}

/// Writes a text as a string of JSON, as it is written everywhere else.
pub(crate) fn push_text(json: &mut String, text: &str) {
    let is_plain = |it: u8| it >= b' ' && it != b'"' && it != b'\\';
    if text.bytes().all(is_plain) {
        json.push('"');
        json.push_str(text);
        json.push('"');
    } else {
        json.push_str(&Value::from(text).to_string());
    }
}

/// The JSON object in the value of a header. Both base64 alphabets are read, with or without padding
/// and with optional white space (RFC 9110, section 5.6.3) around the value.
///
/// # Errors
/// [`UnreadableHeader`]. A value longer than [`MAX_HEADER_BYTES`] is refused before it is decoded.
/// JSON that is nested deeper than 128 levels is refused as not readable.
pub fn decode_header(value: impl AsRef<[u8]>) -> Result<Map<String, Value>, UnreadableHeader> {
    let value = value.as_ref();
    if value.len() > MAX_HEADER_BYTES {
        return Err(UnreadableHeader::TooLong(value.len()));
    }
    let value = trim(value);
    if value.is_empty() {
        return Err(UnreadableHeader::Empty);
    }
    let url_safe = value.iter().any(|byte| matches!(byte, b'-' | b'_'));
    let engine = if url_safe { &URL_SAFE_ANY } else { &STANDARD_ANY };
    let json = engine.decode(value).map_err(|error| UnreadableHeader::Base64(error.to_string()))?;
    match serde_json::from_slice(&json).map_err(|error| UnreadableHeader::Json(error.to_string()))? {
        Value::Object(object) => Ok(object),
        Value::Null => Err(UnreadableHeader::NotAnObject("null")),
        Value::Bool(_) => Err(UnreadableHeader::NotAnObject("a boolean")),
        Value::Number(_) => Err(UnreadableHeader::NotAnObject("a number")),
        Value::String(_) => Err(UnreadableHeader::NotAnObject("a string")),
        Value::Array(_) => Err(UnreadableHeader::NotAnObject("an array")),
    }
}

const fn any_padding(alphabet: &Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config)
}

const STANDARD_ANY: GeneralPurpose = any_padding(&STANDARD_ALPHABET);
const URL_SAFE_ANY: GeneralPurpose = any_padding(&URL_SAFE_ALPHABET);

/// `value` without the spaces and tabs around it. A header has no other white space.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_written_as_json_reads_it() {
        for text in ["", "plain", "a\"b", "a\\b", "a\nb", "\u{1f}", "\u{7f} ", "ä\u{2028}"] {
            let mut json = "x".to_owned();
            push_text(&mut json, text);
            let written = json.strip_prefix('x').unwrap();
            assert_eq!(serde_json::from_str::<String>(written).unwrap(), text, "{written}");
        }
    }

    /// With serde_json's feature `raw_value`, or `arbitrary_precision`, a key that any client may write makes a text within
    /// the JSON be read in its place, by this program alone. No dependency may turn them on.
    #[test]
    fn json_means_to_this_program_what_it_means_to_others() {
        for (key, text) in [("RawValue", "{\\\"a\\\":1}"), ("Number", "1")] {
            let key = format!("$serde_json::private::{key}");
            let header = STANDARD_ANY.encode(format!("{{\"b\":{{\"{key}\":\"{text}\"}}}}"));
            let read = decode_header(header).unwrap();
            assert!(read["b"].get(&key).is_some_and(Value::is_string), "{read:?}");
        }
    }
}
