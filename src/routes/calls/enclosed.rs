//! What a call of an MCP server carries in `params._meta` for the gateway, and the body without it (x402 v2,
//! transport MCP).

use std::fmt;

use serde_json::Value;

use super::message::{CallFault, TOOLS_CALL, shown};
use super::text::ObjectText;
use crate::letter_case::fold;

/// The key under which a payment is, in `params._meta`.
pub const PAYMENT_KEY: &str = "x402/payment";
/// The key under which a capability is, in `params._meta` of a call and in `_meta` of a result.
pub const CAPABILITY_KEY: &str = "faregate/capability";
/// Beginnings of keys by which a client shows that it reads bills in results.
const SPOKEN: [&str; 2] = ["x402/", "faregate/"];
const META: &str = "_meta";

/// What one message carries beside its call.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Enclosed {
    /// The id, as JSON in the client's own spelling; `None` for a notification and for a batch.
    pub id: Option<String>,
    /// Whether it calls a tool.
    pub calls_tool: bool,
    /// The payment, as JSON.
    pub payment: Option<String>,
    /// The capability, as JSON.
    pub capability: Option<String>,
    /// Whether a key of `_meta` shows that the client reads bills in results.
    pub speaks_x402: bool,
    /// The body without payment and capability, otherwise byte for byte; `None` if there was neither.
    pub rest: Option<String>,
}

impl fmt::Debug for Enclosed {
    /// Whoever has a capability can use it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (payment, capability) = (self.payment.is_some(), self.capability.is_some());
        f.debug_struct("Enclosed")
            .field("payment", &payment)
            .field("capability", &capability)
            .finish_non_exhaustive()
    }
}

impl Enclosed {
    /// What `body` carries, whose price is known: it is JSON that every parser reads alike.
    ///
    /// # Errors
    /// [`CallFault`], for a key that a server could take for one of these, and for something enclosed in a batch.
    pub fn read(body: &[u8]) -> Result<Self, CallFault> {
        let text = std::str::from_utf8(body).map_err(|_| CallFault::NotUtf8)?;
        let Some(message) = ObjectText::whole(text) else { return in_batch(text) };
        let value_of = |key| message.only(key).and_then(|it| text.get(it.value.clone()));
        let mut read = Self {
            id: value_of("id").map(ToOwned::to_owned),
            calls_tool: value_of("method").is_some_and(|it| is_text(it, TOOLS_CALL)),
            ..Self::default()
        };
        let Some(params) = message.inner(text, "params") else { return Ok(read) };
        spelled(&params, &[META])?;
        let Some(meta) = params.inner(text, META) else { return Ok(read) };
        spelled(&meta, &[PAYMENT_KEY, CAPABILITY_KEY])?;
        let value_of = |key| meta.only(key).and_then(|it| text.get(it.value.clone())).map(ToOwned::to_owned);
        read.payment = value_of(PAYMENT_KEY);
        read.capability = value_of(CAPABILITY_KEY);
        read.speaks_x402 = meta.members.iter().any(|it| SPOKEN.iter().any(|key| it.key.starts_with(key)));
        if read.shows_something() {
            read.rest = meta.without(text, &[PAYMENT_KEY, CAPABILITY_KEY]);
        }
        Ok(read)
    }

    /// Whether a payment or a capability is there.
    #[must_use]
    pub const fn shows_something(&self) -> bool {
        self.payment.is_some() || self.capability.is_some()
    }
}

/// A batch has one price and no one message that it is paid in.
fn in_batch(text: &str) -> Result<Enclosed, CallFault> {
    let batch: Value = serde_json::from_str(text).map_err(|error| CallFault::Json(error.to_string()))?;
    let metas = batch.as_array().into_iter().flatten().filter_map(|it| it.pointer("/params/_meta"));
    let mut keys = metas.filter_map(Value::as_object).flat_map(|it| it.keys());
    let is_own = |key: &String| [PAYMENT_KEY, CAPABILITY_KEY].contains(&fold(key).as_str());
    if keys.any(is_own) { Err(CallFault::EnclosedInBatch) } else { Ok(Enclosed::default()) }
}

fn is_text(json: &str, text: &str) -> bool {
    serde_json::from_str::<String>(json).is_ok_and(|it| it == text)
}

/// Refuses keys that a parser that ignores letter case would read as one of `known`.
fn spelled(object: &ObjectText, known: &[&'static str]) -> Result<(), CallFault> {
    for key in object.members.iter().map(|it| &it.key) {
        let folded = fold(key);
        if let Some(known) = known.iter().find(|it| **it == folded && **it != key) {
            return Err(CallFault::Key(shown(key), known));
        }
    }
    Ok(())
}
