//! The demo's upstream: an ordinary API that does not know about payments.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use http::{Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use serde_json::{Value, json};

/// The model that tokens are sold of, and what a million of them cost, in XNO: of input and of output.
pub(super) const MODEL: &str = "parrot";
pub(super) const INPUT: u32 = 1;
pub(super) const OUTPUT: u32 = 4;

/// Answers quotes and searches; `/v1/flaky` fails at every other request, beginning with the first. And a model, which
/// says what it was told.
#[derive(Debug, Default)]
pub(super) struct DemoApi {
    flaky: AtomicU64,
}

#[async_trait]
impl ServeHttp for DemoApi {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        // One request a connection: the demo's end would wait for an idle one.
        session.set_keepalive(None);
        let path = session.req_header().uri.path().to_owned();
        let (status, body) = if let Some(symbol) = path.strip_prefix("/v1/quote/") {
            (StatusCode::OK, json!({ "symbol": symbol, "price": "1.17" }))
        } else if let Some(words) = path.strip_prefix("/v1/search/") {
            (StatusCode::OK, json!({ "query": words, "results": ["a", "b", "c"] }))
        } else if path == "/v1/flaky" {
            match self.flaky.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
                true => {
                    (StatusCode::INTERNAL_SERVER_ERROR, json!({ "error": "the database is not available" }))
                }
                false => (StatusCode::OK, json!({ "answer": 42 })),
            }
        } else if path == "/v1/chat/completions" {
            (StatusCode::OK, completion(&body(session).await))
        } else if path.starts_with("/docs/") {
            (StatusCode::OK, json!({ "docs": "GET /v1/quote/{symbol}, GET /v1/search/{words}" }))
        } else {
            (StatusCode::NOT_FOUND, json!({ "error": "not found" }))
        };
        answer(status, &body)
    }
}

async fn body(session: &mut ServerSession) -> Value {
    let mut body = Vec::new();
    while let Ok(Some(part)) = session.read_request_body().await {
        body.extend_from_slice(&part);
    }
    serde_json::from_slice(&body).unwrap_or_default()
}

/// A chat completion as OpenAI's API has it, of a model whose tokens are words.
fn completion(asked: &Value) -> Value {
    let told = asked.pointer("/messages/0/content").and_then(Value::as_str).unwrap_or_default();
    let said = format!("You said: {told}");
    let (input, output) = (told.split_whitespace().count(), said.split_whitespace().count());
    json!({
        "object": "chat.completion",
        "model": MODEL,
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": said }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": input, "completion_tokens": output },
    })
}

fn answer(status: StatusCode, body: &Value) -> Response<Vec<u8>> {
    let body = format!("{body}\n").into_bytes();
    let length = body.len();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response.headers_mut().insert(header::CONTENT_LENGTH, header::HeaderValue::from(length));
    response
}
