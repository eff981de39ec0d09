//! The demo's upstream: an ordinary API that does not know about payments.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use http::{Response, StatusCode, header};
use pingora::apps::http_app::ServeHttp;
use pingora::protocols::http::ServerSession;
use serde_json::{Value, json};

/// Answers quotes and searches; `/v1/flaky` fails at every other request, beginning with the first.
#[derive(Debug, Default)]
pub(super) struct DemoApi {
    flaky: AtomicU64,
}

#[async_trait]
impl ServeHttp for DemoApi {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        // One request a connection: the demo's end would wait for an idle one.
        session.set_keepalive(None);
        let path = session.req_header().uri.path();
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
        } else if path.starts_with("/docs/") {
            (StatusCode::OK, json!({ "docs": "GET /v1/quote/{symbol}, GET /v1/search/{words}" }))
        } else {
            (StatusCode::NOT_FOUND, json!({ "error": "not found" }))
        };
        answer(status, &body)
    }
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
