//! Bills and receipts in the results of an MCP server's tools (x402 v2, transport MCP).

mod events;
mod whole;

use std::fmt;

use serde_json::{Map, Value};

use super::push_text;
use crate::routes::{CAPABILITY_KEY, ObjectText, replaced};
pub use events::EventReceipt;
pub use whole::WholeReceipt;

/// The key under which a receipt is, in `_meta` of a result.
pub const PAYMENT_RESPONSE_KEY: &str = "x402/payment-response";
/// The most bytes of one answer, or of one event of a stream, that are held to put a receipt into it. A longer one
/// passes without.
pub const MAX_HELD: usize = 256 * 1024;

/// What stands in `_meta` of a result: what a client has, as JSON.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct ResultMeta {
    /// The object of `PAYMENT-RESPONSE`.
    pub payment_response: Option<String>,
    /// The capability, with what is left of it.
    pub capability: Option<String>,
}

impl fmt::Debug for ResultMeta {
    /// Whoever has a capability can use it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ResultMeta(****)")
    }
}

impl ResultMeta {
    /// Of the values of `PAYMENT-RESPONSE` and `PAYMENT-CAPABILITY` as the gateway writes them.
    #[must_use]
    pub fn of_headers(payment_response: Option<&[u8]>, capability: Option<&[u8]>) -> Self {
        let decoded = payment_response.and_then(|it| super::decode_header(it).ok());
        Self {
            payment_response: decoded.map(|it| Value::Object(it).to_string()),
            capability: capability.and_then(|it| std::str::from_utf8(it).ok()).map(capability_object),
        }
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.payment_response.is_none() && self.capability.is_none()
    }

    /// The members, with a comma between them.
    fn members(&self) -> String {
        let own = [(PAYMENT_RESPONSE_KEY, &self.payment_response), (CAPABILITY_KEY, &self.capability)];
        let written: Vec<_> = own
            .into_iter()
            .filter_map(|(key, json)| json.as_ref().map(|it| format!("\"{key}\":{it}")))
            .collect();
        written.join(",")
    }
}

/// `TOKEN; remaining=N; expires=SECONDS` as an object.
fn capability_object(header: &str) -> String {
    let mut parts = header.split(';').map(str::trim);
    let mut object = Map::new();
    object.insert("token".to_owned(), parts.next().unwrap_or_default().into());
    for (name, number) in parts.filter_map(|it| it.split_once('=')) {
        let number = number.parse::<u64>().map_or_else(|_| Value::from(number), Value::from);
        object.insert(name.to_owned(), number);
    }
    Value::Object(object).to_string()
}

/// The answer to the call with this `id`, which is JSON as the client wrote it: a result that is an error, with the
/// object `body` as its content in both forms that the transport asks for.
#[must_use]
pub fn tool_error(id: &str, body: &str, meta: &ResultMeta) -> String {
    let mut json = String::with_capacity(body.len().saturating_mul(3));
    for part in
        ["{\"jsonrpc\":\"2.0\",\"id\":", id, ",\"result\":{\"isError\":true,\"structuredContent\":", body]
    {
        json.push_str(part);
    }
    json.push_str(",\"content\":[{\"type\":\"text\",\"text\":");
    push_text(&mut json, body);
    json.push_str("}]");
    if !meta.is_empty() {
        json.push_str(",\"_meta\":{");
        json.push_str(&meta.members());
        json.push('}');
    }
    json.push_str("}}");
    json
}

/// `answer` with `meta` in the `_meta` of its result, otherwise as it was; `None` if it is not the one answer to the
/// call with this `id`, or has no result. What the server says itself under the keys of `meta` is gone: only the
/// gateway may say it.
#[must_use]
pub fn with_meta(answer: &str, id: &str, meta: &ResultMeta) -> Option<String> {
    let object = ObjectText::whole(answer)?;
    let id_of = |json: &str| serde_json::from_str::<Value>(json).ok();
    let own = id_of(answer.get(object.only("id")?.value.clone())?)?;
    let result = object.inner(answer, "result").filter(|_| id_of(id).is_some_and(|it| it == own))?;
    if !result.has("_meta") {
        return put(answer, &result, &format!("\"_meta\":{{{}}}", meta.members()));
    }
    let value = result.only("_meta")?.value.clone();
    if answer.get(value.clone()) == Some("null") {
        return replaced(answer, value, &format!("{{{}}}", meta.members()));
    }
    let given = result.inner(answer, "_meta")?;
    let text = given.without(answer, &[PAYMENT_RESPONSE_KEY, CAPABILITY_KEY])?;
    put(&text, &ObjectText::at(&text, value.start)?, &meta.members())
}

/// `text` with `members` before those that `object` has.
fn put(text: &str, object: &ObjectText, members: &str) -> Option<String> {
    let comma = if object.members.is_empty() || members.is_empty() { "" } else { "," };
    replaced(text, object.begin..object.begin, &format!("{members}{comma}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn meta() -> ResultMeta {
        let receipt = super::super::encode_header(&json!({ "success": true }));
        ResultMeta::of_headers(Some(receipt.as_bytes()), Some(b"cap_1; remaining=2; expires=3"))
    }

    const OWN: &str = "\"x402/payment-response\":{\"success\":true},\
                       \"faregate/capability\":{\"expires\":3,\"remaining\":2,\"token\":\"cap_1\"}";

    #[test]
    fn a_receipt_is_put_in_and_the_rest_stays_byte_for_byte() {
        for (answer, expected) in [
            ("{\"id\":1,\"result\":{}}", format!("{{\"id\":1,\"result\":{{\"_meta\":{{{OWN}}}}}}}")),
            (
                " {\"result\" : { \"a\":1.50e+2,\"\\u0062\" : [ ] },\n\"id\": 1 } ",
                format!(
                    " {{\"result\" : {{\"_meta\":{{{OWN}}}, \"a\":1.50e+2,\"\\u0062\" : [ ] }},\n\"id\": 1 }} "
                ),
            ),
            (
                "{\"id\":1,\"result\":{\"x\":2,\"_meta\":{ \"k\":0}}}",
                format!("{{\"id\":1,\"result\":{{\"x\":2,\"_meta\":{{{OWN}, \"k\":0}}}}}}"),
            ),
            (
                "{\"id\":1,\"result\":{\"_meta\":null}}",
                format!("{{\"id\":1,\"result\":{{\"_meta\":{{{OWN}}}}}}}"),
            ),
            (
                "{\"id\":1,\"result\":{\"_meta\":{\"x402/payment-response\":{\"success\":true},\"x402/payment-response\":1,\"k\":0,\"faregate\\/capability\":2}}}",
                format!("{{\"id\":1,\"result\":{{\"_meta\":{{{OWN},\"k\":0}}}}}}"),
            ),
        ] {
            assert_eq!(with_meta(answer, "1", &meta()).as_deref(), Some(expected.as_str()));
        }
    }

    #[test]
    fn a_capability_is_not_printed() {
        assert_eq!(format!("{:?}", meta()), "ResultMeta(****)");
        let call = "{\"params\":{\"_meta\":{\"faregate/capability\":\"cap_1\"}}}";
        let enclosed = crate::routes::Enclosed::read(call.as_bytes()).unwrap();
        assert_eq!(format!("{enclosed:?}"), "Enclosed { payment: false, capability: true, .. }");
    }

    #[test]
    fn what_is_not_the_answer_has_no_receipt() {
        for answer in [
            "",
            "1",
            "[{\"id\":1,\"result\":{}}]",
            "{\"id\":2,\"result\":{}}",
            "{\"id\":\"1\",\"result\":{}}",
            "{\"id\":1,\"id\":1,\"result\":{}}",
            "{\"id\":1,\"error\":{}}",
            "{\"id\":1,\"result\":[]}",
            "{\"id\":1,\"result\":{},\"result\":{}}",
            "{\"id\":1,\"result\":{\"_meta\":[]}}",
            "{\"id\":1,\"result\":{\"_meta\":{},\"_meta\":{}}}",
            "{\"id\":1,\"result\":{}} {}",
            "{\"id\":1,\"result\":{}",
        ] {
            assert_eq!(with_meta(answer, "1", &meta()), None, "{answer}");
        }
        for (sent, answered) in [("\"\\u0061\"", "\"a\""), ("\"1\"", "\"1\""), ("0.5", "0.5")] {
            let answer = format!("{{\"id\":{answered},\"result\":{{}}}}");
            assert!(with_meta(&answer, sent, &meta()).is_some(), "{sent}");
        }
    }

    #[test]
    fn a_bill_is_an_error_in_both_forms() {
        let body = json!({ "x402Version": 2, "error": "a\"b" }).to_string();
        for meta in [ResultMeta::default(), meta()] {
            let text = tool_error("1e0", &body, &meta);
            assert!(
                text.starts_with("{\"jsonrpc\":\"2.0\",\"id\":1e0,\"result\":{\"isError\":true,"),
                "{text}"
            );
            let result = &serde_json::from_str::<Value>(&text).unwrap()["result"];
            assert_eq!(result["structuredContent"].to_string(), body);
            assert_eq!(result["content"], json!([{ "type": "text", "text": body }]));
            assert_eq!(result.get("_meta").is_some(), !meta.is_empty());
        }
    }
}
