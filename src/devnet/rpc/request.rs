//! The fields of a request, read like the reference node does: every scalar is text.

use serde_json::{Map, Value};

use super::{RpcError, lenient_hex};
use crate::nano::{Account, BlockHash, Raw, Threshold};

/// Hexadecimal digits of a hash and of a nonce.
pub(super) const HASH_DIGITS: usize = 64;
pub(super) const WORK_DIGITS: usize = 16;

pub(super) struct RpcRequest(Map<String, Value>);

impl RpcRequest {
    pub(super) fn parse(body: &[u8]) -> Result<Self, RpcError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) | Err(_) => Err(RpcError::UnparsableJson),
        }
    }

    pub(super) fn field(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// The field as text; empty for an object or a list, `None` if there is no such field.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        self.field(name).map(text)
    }

    /// A field that the reference node requires.
    pub(super) fn required(&self, name: &str) -> Result<String, RpcError> {
        self.text(name).ok_or(RpcError::UnparsableJson)
    }

    /// A boolean, or the text `"true"`, `"1"`, `"false"` or `"0"`; anything else is `default`.
    pub(super) fn flag(&self, name: &str, default: bool) -> bool {
        match self.text(name).as_deref() {
            Some("true" | "1") => true,
            Some("false" | "0") => false,
            Some(_) | None => default,
        }
    }

    pub(super) fn account(&self) -> Result<Account, RpcError> {
        account(&self.required("account")?)
    }

    pub(super) fn hash(&self) -> Result<BlockHash, RpcError> {
        lenient_hex(&self.required("hash")?, HASH_DIGITS).ok_or(RpcError::InvalidBlockHash)
    }

    /// The members of a list, as text.
    pub(super) fn list(&self, name: &str) -> Result<Vec<String>, RpcError> {
        match self.field(name).ok_or(RpcError::UnparsableJson)? {
            Value::Array(items) => Ok(items.iter().map(text).collect()),
            Value::Object(fields) => Ok(fields.values().map(text).collect()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(Vec::new()),
        }
    }

    pub(super) fn count(&self) -> Result<Option<u64>, RpcError> {
        let count = |text: String| text.parse().map_err(|_| RpcError::InvalidCount);
        self.text("count").map(count).transpose()
    }

    pub(super) fn offset(&self) -> Result<u64, RpcError> {
        self.text("offset").map_or(Ok(0), |text| text.parse().map_err(|_| RpcError::InvalidOffset))
    }

    pub(super) fn threshold(&self) -> Result<Raw, RpcError> {
        let threshold = |text: String| text.parse().map_err(|_| RpcError::BadThreshold);
        self.text("threshold").map_or(Ok(Raw::ZERO), threshold)
    }

    pub(super) fn difficulty(&self) -> Result<Option<Threshold>, RpcError> {
        let difficulty = |text: String| lenient_hex(&text, WORK_DIGITS).ok_or(RpcError::BadDifficulty);
        self.text("difficulty").map(difficulty).transpose()
    }

    /// The answer, with a notice if the request wrote `nano-` for `nano_`.
    pub(super) fn with_account_format_notice(&self, mut answer: Value) -> Value {
        let old = self.text("account").is_some_and(|text| underscored(&text) != text);
        if old && let Value::Object(fields) = &mut answer {
            fields.insert("deprecated_account_format".to_owned(), Value::from("1"));
        }
        answer
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        Value::Null => "null".to_owned(),
        Value::Array(_) | Value::Object(_) => String::new(),
    }
}

/// An account, also in the old spelling with `-` ([nodes guide](crate::guide::nodes)).
pub(super) fn account(text: &str) -> Result<Account, RpcError> {
    underscored(text).parse().map_err(|_| RpcError::BadAccount)
}

fn underscored(text: &str) -> String {
    for prefix in ["nano", "xrb"] {
        if let Some(body) = text.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('-')) {
            return format!("{prefix}_{body}");
        }
    }
    text.to_owned()
}
