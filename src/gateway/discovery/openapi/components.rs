//! The parts of the OpenAPI document that every priced operation shares.

use serde_json::{Value, json};

/// The headers by which a request is paid for.
pub(super) fn payment_parameters() -> [Value; 2] {
    ["PaymentSignature", "PaymentCapability"]
        .map(|it| json!({ "$ref": format!("#/components/parameters/{it}") }))
}

/// The answers of a priced operation. The API's own answers have this `content`.
pub(super) fn responses(content: Value) -> Value {
    json!({
        "200": {
            "description": "The API's answer.",
            "headers": {
                "PAYMENT-RESPONSE": { "$ref": "#/components/headers/PaymentResponse" },
                "PAYMENT-CAPABILITY": { "$ref": "#/components/headers/PaymentCapability" },
            },
            "content": content,
        },
        "402": { "$ref": "#/components/responses/PaymentRequired" },
        "503": { "$ref": "#/components/responses/NotYet" },
    })
}

/// `components` of the document.
pub(super) fn all() -> Value {
    json!({
        "parameters": {
            "PaymentSignature": {
                "name": "PAYMENT-SIGNATURE",
                "in": "header",
                "description": "The proof of a payment: base64 of an x402 PaymentPayload.",
                "schema": { "type": "string" },
            },
            "PaymentCapability": {
                "name": "PAYMENT-CAPABILITY",
                "in": "header",
                "description": "The token of an earlier answer that has uses left, in place of a payment.",
                "schema": { "type": "string" },
            },
        },
        "headers": {
            "PaymentRequired": {
                "description": "Base64 of the JSON that is also the body.",
                "schema": { "type": "string" },
            },
            "PaymentResponse": {
                "description": "The receipt: base64 of an x402 SettlementResponse.",
                "schema": { "type": "string" },
            },
            "PaymentCapability": {
                "description": "`<token>; remaining=<uses>; expires=<Unix seconds>`",
                "schema": { "type": "string" },
            },
        },
        "responses": {
            "PaymentRequired": {
                "description": "The bill: pay one of `accepts` and send the request again.",
                "headers": { "PAYMENT-REQUIRED": { "$ref": "#/components/headers/PaymentRequired" } },
                "content": {
                    "application/json": { "schema": { "$ref": "#/components/schemas/PaymentRequired" } },
                },
            },
            "NotYet": {
                "description": "Not now: send the same request again after Retry-After, do not pay again.",
                "headers": { "Retry-After": { "schema": { "type": "integer" } } },
            },
        },
        "schemas": schemas(),
    })
}

fn schemas() -> Value {
    json!({
        "PaymentRequired": {
            "type": "object",
            "required": ["x402Version", "resource", "accepts"],
            "properties": {
                "x402Version": { "const": 2 },
                "error": { "type": "string" },
                "message": { "type": "string" },
                "resource": {
                    "type": "object",
                    "required": ["url"],
                    "properties": {
                        "url": { "type": "string" },
                        "description": { "type": "string" },
                        "mimeType": { "type": "string" },
                    },
                },
                "accepts": {
                    "type": "array",
                    "items": { "$ref": "#/components/schemas/PaymentRequirements" },
                },
                "extensions": { "type": "object" },
            },
        },
        "PaymentRequirements": {
            "type": "object",
            "required": [
                "scheme", "network", "asset", "amount", "payTo", "maxTimeoutSeconds", "extra",
            ],
            "properties": {
                "scheme": { "const": "exact" },
                "network": { "const": "nano:mainnet" },
                "asset": { "const": "XNO" },
                "amount": { "type": "string", "pattern": "^[1-9][0-9]*$", "description": "In raw." },
                "payTo": { "type": "string" },
                "maxTimeoutSeconds": { "type": "integer" },
                "extra": { "type": "object" },
            },
        },
    })
}
