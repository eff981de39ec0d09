//! The `rail-hint` extension: how a client that has no XNO gets some.
//!
//! A hint, never a term: `accepts` alone binds. Source: the x402 foundation's draft, `specs/extensions/rail_hint.md`.

use serde_json::{Map, Value, json};

use crate::config::RailHint;
use crate::nano::Network;

/// The key of the extension in `PaymentRequired`.
pub(super) const RAIL_HINT: &str = "rail-hint";

/// The extension: `info`, and the schema that it is of.
pub(super) fn extension(hint: &RailHint) -> Value {
    let mut info = Map::new();
    info.insert("cheapest".to_owned(), Network::Mainnet.to_string().into());
    info.insert("why".to_owned(), hint.why.as_str().into());
    for (name, text) in [
        ("docs", &hint.docs),
        ("site", &hint.site),
        ("agentReadme", &hint.agent_readme),
        ("bootstrap", &hint.bootstrap),
        ("topup", &hint.topup),
        ("spec", &hint.spec),
    ] {
        if let Some(text) = text {
            info.insert(name.to_owned(), text.as_str().into());
        }
    }
    if !hint.faucets.is_empty() {
        info.insert("faucets".to_owned(), hint.faucets.clone().into());
    }
    let address = || json!({ "type": "string", "format": "uri" });
    json!({
        "info": info,
        "schema": {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": RAIL_HINT,
            "type": "object",
            "required": ["cheapest", "why"],
            "properties": {
                "cheapest": { "type": "string" },
                "why": { "type": "string" },
                "docs": address(),
                "site": address(),
                "agentReadme": address(),
                "bootstrap": { "type": "string" },
                "topup": { "type": "string" },
                "faucets": { "type": "array", "items": address() },
                "spec": { "type": "string" },
            },
            "additionalProperties": true,
        },
    })
}
