//! Reads a JSON-RPC body, and refuses it if another parser could see a different call in it.
//!
//! The gateway prices a call and the upstream executes it, with different parsers for the same bytes. A
//! body is refused if parsers are known to disagree on it: a key that occurs twice or in another letter
//! case, text that is not Unicode, a byte order mark, deep nesting, numbers out of range.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::letter_case::fold;

/// The most messages of one batch.
pub const MAX_BATCH: usize = 100;
/// How deep values may be nested.
pub const MAX_DEPTH: usize = 64;
/// The longest name of a method or a tool, in bytes.
const MAX_NAME: usize = 128;

/// The method that calls a tool.
pub(super) const TOOLS_CALL: &str = "tools/call";
/// The prefix of the names of notifications.
pub(super) const NOTIFICATIONS: &str = "notifications/";

/// The keys that determine the kind of a message.
const MESSAGE_KEYS: [&str; 6] = ["jsonrpc", "id", "method", "params", "result", "error"];
/// The key of `params` that determines the price.
const PARAMS_KEYS: [&str; 1] = ["name"];
/// How many characters of a client's text an error message repeats.
const SHOWN: usize = 40;

/// Why no price can be given for a body.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CallFault {
    #[error("the body is not UTF-8")]
    NotUtf8,
    #[error("the body is not JSON that every parser reads in the same way: {0}")]
    Json(String),
    #[error(
        "a message is an object with `jsonrpc`: \"2.0\" and a `method`, or an answer with `id` and one of \
         `result` and `error`"
    )]
    NotAMessage,
    #[error("a batch holds 1 to {MAX_BATCH} messages")]
    Batch,
    #[error("the key {0:?} could be read as `{1}`: write it exactly like that, or leave it out")]
    Key(String, &'static str),
    #[error("`id` is a string or a number; a notification has none")]
    Id,
    #[error("`params` is an object")]
    Params,
    #[error("`tools/call` names its tool in `params.name`, a string")]
    NoTool,
    #[error("{0:?} is not a name: 1 to {MAX_NAME} printable ASCII characters without a space")]
    Name(String),
    #[error("{given:?} is not offered here; is {listed:?} meant? Letter case counts")]
    Spelling { given: String, listed: String },
    #[error("{0} is not offered here")]
    NotOffered(String),
    #[error("Mcp-Method or Mcp-Name does not agree with the body")]
    Claimed,
    #[error("the price of the batch is over 2^128 - 1 raw")]
    Sum,
    #[error(
        "nothing is paid inside a batch: send the calls one by one, or what pays for all of them in a header"
    )]
    EnclosedInBatch,
}

impl CallFault {
    /// Whether the body can be read but calls something that is not sold.
    #[must_use]
    pub const fn is_not_offered(&self) -> bool {
        matches!(self, Self::NotOffered(_) | Self::Spelling { .. })
    }
}

/// The part of a message that determines its price.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Call {
    /// An answer of the client to a request of the server.
    Answer,
    Tool {
        name: String,
    },
    /// Any method except the one that calls a tool.
    Method {
        name: String,
        /// It has no `id`, so it has no answer.
        is_notification: bool,
    },
}

impl Call {
    pub(super) fn not_offered(&self) -> CallFault {
        CallFault::NotOffered(match self {
            Self::Answer => "an answer".to_owned(),
            Self::Tool { name } => format!("the tool {name:?}"),
            Self::Method { name, .. } => format!("the method {name:?}"),
        })
    }
}

/// The calls of a body, in order.
pub(super) fn calls(body: &[u8]) -> Result<Vec<Call>, CallFault> {
    let text = std::str::from_utf8(body).map_err(|_| CallFault::NotUtf8)?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let value = Strict { depth: 0 }.deserialize(&mut reader);
    let value = value.and_then(|value| reader.end().map(|()| value));
    match value.map_err(|error| CallFault::Json(error.to_string()))? {
        Json::List(messages) if messages.is_empty() || messages.len() > MAX_BATCH => Err(CallFault::Batch),
        Json::List(messages) => messages.iter().map(call).collect(),
        one @ (Json::Object(_) | Json::Text(_) | Json::Number | Json::Other) => Ok(vec![call(&one)?]),
    }
}

fn call(message: &Json) -> Result<Call, CallFault> {
    let Json::Object(message) = message else { return Err(CallFault::NotAMessage) };
    unambiguous(message, &MESSAGE_KEYS)?;
    let field = |name| get(message, name);
    let version = matches!(field("jsonrpc"), Some(Json::Text(version)) if version == "2.0");
    let has_id = match field("id") {
        None => false,
        Some(Json::Text(_) | Json::Number) => true,
        Some(Json::List(_) | Json::Object(_) | Json::Other) => return Err(CallFault::Id),
    };
    let answers =
        usize::from(field("result").is_some()).saturating_add(usize::from(field("error").is_some()));
    let method = match (field("method"), answers) {
        (Some(Json::Text(method)), 0) if version => name(method)?,
        (None, 1) if version && has_id && field("params").is_none() => return Ok(Call::Answer),
        (_, _) => return Err(CallFault::NotAMessage),
    };
    let params = match field("params") {
        None => &[][..],
        Some(Json::Object(params)) => params,
        Some(Json::Text(_) | Json::Number | Json::List(_) | Json::Other) => return Err(CallFault::Params),
    };
    unambiguous(params, &PARAMS_KEYS)?;
    if method == TOOLS_CALL {
        return match get(params, "name") {
            Some(Json::Text(tool)) => Ok(Call::Tool { name: name(tool)? }),
            Some(Json::Number | Json::List(_) | Json::Object(_) | Json::Other) | None => {
                Err(CallFault::NoTool)
            }
        };
    }
    if method.eq_ignore_ascii_case(TOOLS_CALL) {
        return Err(CallFault::Spelling { given: method, listed: TOOLS_CALL.to_owned() });
    }
    Ok(Call::Method { name: method, is_notification: !has_id })
}

/// A name that no parser trims, changes or cuts off.
fn name(text: &str) -> Result<String, CallFault> {
    if text.is_empty() || text.len() > MAX_NAME || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(CallFault::Name(shown(text)));
    }
    Ok(text.to_owned())
}

pub(super) fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}

/// Refuses keys that a parser that ignores letter case would read as one of `known`.
fn unambiguous(object: &[(String, Json)], known: &[&'static str]) -> Result<(), CallFault> {
    for (key, _) in object {
        let folded = fold(key);
        if let Some(known) = known.iter().find(|it| **it == folded && **it != key) {
            return Err(CallFault::Key(shown(key), known));
        }
    }
    Ok(())
}

fn get<'a>(object: &'a [(String, Json)], name: &str) -> Option<&'a Json> {
    object.iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

/// The parts of a JSON value that determine prices.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Json {
    Text(String),
    Number,
    List(Vec<Json>),
    /// Each key occurs once.
    Object(Vec<(String, Json)>),
    /// `null`, `true`, `false`.
    Other,
}

/// Reads a whole value at a depth: every text is decoded and every key is compared.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn below<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth = self.depth.saturating_add(1);
        if depth > MAX_DEPTH {
            return Err(E::custom(format_args!("nested more than {MAX_DEPTH} deep")));
        }
        Ok(Self { depth })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Json, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Json, E> {
        Ok(Json::Other)
    }

    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Json, E> {
        Ok(Json::Number)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let below = self.below()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let below = self.below()?;
        let mut keys = BTreeSet::new();
        let mut object = Vec::new();
        while let Some(key) = entries.next_key::<String>()? {
            if !keys.insert(key.clone()) {
                return Err(A::Error::custom(format_args!("the key {:?} occurs twice", shown(&key))));
            }
            object.push((key, entries.next_value_seed(below)?));
        }
        Ok(Json::Object(object))
    }
}
