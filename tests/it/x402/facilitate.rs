//! What a resource server sends to a facilitator, read by itself.

use faregate::x402::AcceptsRequest;
use serde_json::{Value, json};

fn seconds(entry: &Value) -> Option<u64> {
    let body = json!({ "x402Version": 2, "resource": { "url": "https://a.example/" }, "accepts": [entry] });
    AcceptsRequest::read(&body).unwrap().entries[0].seconds
}

/// Middleware writes 0 for "not set": it must not become a challenge that has expired.
#[test]
fn a_lifetime_of_zero_is_none() {
    assert_eq!(seconds(&json!({ "amount": "1", "maxTimeoutSeconds": 60 })), Some(60));
    assert_eq!(seconds(&json!({ "amount": "1", "maxTimeoutSeconds": 1 })), Some(1));
    assert_eq!(seconds(&json!({ "amount": "1", "maxTimeoutSeconds": 0 })), None);
    assert_eq!(seconds(&json!({ "amount": "1" })), None);
}
