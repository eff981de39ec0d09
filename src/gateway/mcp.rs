//! A call of an MCP server that is paid, or billed, inside its JSON-RPC messages: the server sees the call without the
//! payment, the gateway's own answer is a result, and the receipt goes into the result of the server.

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderMap, HeaderName,
    HeaderValue, TRANSFER_ENCODING,
};
use http::{StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Result, Session};

use super::framing;
use super::tariff::Tariff;
use crate::routes::{Access, BillForm, Enclosed};
use crate::x402::mcp::{EventReceipt, MAX_HELD, ResultMeta, WholeReceipt, tool_error};

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
/// What a body has with which it was sent, and no other one.
static OF_THE_BYTES: [HeaderName; 4] = [
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-md5"),
];

/// Such a call.
#[derive(Debug)]
pub(super) struct EnclosedCall {
    /// JSON as the client wrote it; `None` if no answer follows.
    id: Option<String>,
    /// Whether the gateway's own answers are results.
    is_billed_in_result: bool,
    /// Whether the client reads answers only as streams of events.
    reads_only_events: bool,
    /// Whether a payment or a capability came in it: then its answer has the receipt.
    shows_something: bool,
    /// The body for the server, if it is not the client's.
    rest: Option<Bytes>,
    is_sent: bool,
    receipt: Option<Receipt>,
}

/// A receipt on its way into the server's answer.
#[derive(Debug)]
enum Receipt {
    Whole(WholeReceipt),
    Events(EventReceipt),
}

impl EnclosedCall {
    /// A call that carries `enclosed`, with these headers; `None` if it is one as any other. `bills` says how it is
    /// billed, if it has a price.
    pub(super) fn of(enclosed: &Enclosed, bills: Option<BillForm>, headers: &HeaderMap) -> Option<Box<Self>> {
        let is_billed_in_result = bills.is_some_and(|it| it.is_result_for(enclosed));
        let shows_something = enclosed.shows_something();
        let call = Self {
            id: enclosed.id.clone(),
            is_billed_in_result,
            reads_only_events: reads_only_events(headers),
            shows_something,
            rest: enclosed.rest.clone().map(Bytes::from),
            is_sent: false,
            receipt: None,
        };
        (is_billed_in_result || shows_something).then(|| Box::new(call))
    }

    /// Makes the head of a request one for the body that the server gets. It may be one more try.
    pub(super) fn request(&mut self, request: &mut RequestHeader) -> Result<()> {
        self.is_sent = false;
        let Some(rest) = &self.rest else { return Ok(()) };
        for name in OF_THE_BYTES.iter().chain([&TRANSFER_ENCODING, &ACCEPT_ENCODING]) {
            let _removed = request.remove_header(name).is_some();
        }
        request.insert_header(CONTENT_LENGTH, rest.len())
    }

    /// Puts the body for the server in the place of the client's, which was read whole and comes as one part.
    pub(super) fn request_body(&mut self, body: &mut Option<Bytes>) {
        if let Some(rest) = &self.rest {
            *body = (!std::mem::replace(&mut self.is_sent, true)).then(|| rest.clone());
        }
    }

    /// Makes the head of the server's answer one for a body with the receipt that the head has, if there is a place
    /// for it.
    pub(super) fn answer(&mut self, session: &mut Session, response: &mut ResponseHeader) -> Result<()> {
        let ends_with_head = framing::ends_with_head(&session.req_header().method, response.status);
        self.receipt = self.receipt_for(response).filter(|_| !ends_with_head);
        if self.receipt.is_none() {
            return Ok(());
        }
        forget_bytes(response);
        let _removed = response.remove_header(&CONTENT_LENGTH).is_some();
        if session.as_http1().is_some() {
            if session.req_header().version == Version::HTTP_10 {
                // The end of the body is that of the connection.
                session.set_keepalive(None);
            } else {
                response.insert_header(TRANSFER_ENCODING, "chunked")?;
            }
        }
        Ok(())
    }

    /// Puts the receipt into a part of the server's answer, or holds the part.
    pub(super) fn answer_body(&mut self, body: &mut Option<Bytes>, end: bool) {
        let Some(receipt) = self.receipt.as_mut().filter(|it| !it.is_done()) else { return };
        let mut passed = body.as_ref().map(|it| receipt.part(it)).unwrap_or_default();
        if end {
            passed.append(&mut receipt.end());
        }
        *body = (!passed.is_empty()).then(|| passed.into());
    }

    /// What is held when no more of the server's body comes; `None` if nothing is.
    pub(super) fn end(&mut self) -> Option<Bytes> {
        let held = self.receipt.as_mut().map(Receipt::end).unwrap_or_default();
        (!held.is_empty()).then(|| held.into())
    }

    /// A whole answer with the receipt that its head has.
    pub(super) fn with_receipt(&self, response: &mut ResponseHeader, body: Vec<u8>) -> Vec<u8> {
        let Some(mut receipt) = self.receipt_for(response) else { return body };
        forget_bytes(response);
        let mut whole = receipt.part(&body);
        whole.append(&mut receipt.end());
        whole
    }

    /// The gateway's own answer `body`, a JSON object, as a result, with its content type and the receipt that
    /// `headers` have; `None` if it stays as it is.
    pub(super) fn own_answer(&self, body: &[u8], headers: &HeaderMap) -> Option<(&'static str, Bytes)> {
        let id = self.id.as_deref().filter(|_| self.is_billed_in_result)?;
        let body = std::str::from_utf8(body).ok()?;
        let result = tool_error(id, body, &meta_of(headers));
        Some(if self.reads_only_events {
            (EVENTS, format!("event: message\ndata: {result}\n\n").into())
        } else {
            (JSON, result.into())
        })
    }

    fn receipt_for(&self, response: &ResponseHeader) -> Option<Receipt> {
        let id = self.id.clone().filter(|_| self.shows_something)?;
        let headers = &response.headers;
        let meta = meta_of(headers);
        if response.status != StatusCode::OK || headers.contains_key(CONTENT_ENCODING) || meta.is_empty() {
            return None;
        }
        let length =
            headers.get(CONTENT_LENGTH).and_then(|it| it.to_str().ok()).and_then(|it| it.parse().ok());
        let kind = headers.get(CONTENT_TYPE)?.as_bytes().split(|it| *it == b';').next()?.trim_ascii();
        if kind.eq_ignore_ascii_case(EVENTS.as_bytes()) {
            return Some(Receipt::Events(EventReceipt::new(id, meta)));
        }
        let fits = length.is_none_or(|it: usize| it <= MAX_HELD);
        (fits && kind.eq_ignore_ascii_case(JSON.as_bytes()))
            .then(|| Receipt::Whole(WholeReceipt::new(id, meta)))
    }
}

impl Receipt {
    const fn is_done(&self) -> bool {
        match self {
            Self::Whole(it) => it.is_done(),
            Self::Events(it) => it.is_done(),
        }
    }

    fn part(&mut self, part: &[u8]) -> Vec<u8> {
        match self {
            Self::Whole(it) => it.part(part),
            Self::Events(it) => it.part(part),
        }
    }

    fn end(&mut self) -> Vec<u8> {
        match self {
            Self::Whole(it) => it.end(),
            Self::Events(it) => it.end(),
        }
    }
}

/// Whether a request may carry a payment in its body, as far as its head tells.
pub(super) fn may_enclose(session: &Session, tariff: &Tariff) -> bool {
    let request = session.req_header();
    let is_json = |it: &HeaderValue| it.as_bytes().to_ascii_lowercase().starts_with(JSON.as_bytes());
    let takes = |it: &Access| matches!(it, Access::Calls(prices) if prices.bills.takes_enclosed());
    request.method == http::Method::POST
        && request.headers.get(CONTENT_TYPE).is_some_and(is_json)
        && tariff.table.routes().iter().any(|it| takes(&it.access))
}

/// Whether an answer's header says how to pay over HTTP, which is nothing for a client that has its bill in a result.
pub(super) fn is_of_a_bill(name: &str) -> bool {
    name.eq_ignore_ascii_case("PAYMENT-REQUIRED") || name.to_ascii_uppercase().starts_with("X-PAYMENT-")
}

fn meta_of(headers: &HeaderMap) -> ResultMeta {
    let value = |name| headers.get(name).map(HeaderValue::as_bytes);
    ResultMeta::of_headers(value("payment-response"), value("payment-capability"))
}

fn forget_bytes(response: &mut ResponseHeader) {
    for name in OF_THE_BYTES.iter().chain([&ETAG]) {
        let _removed = response.remove_header(name).is_some();
    }
}

fn reads_only_events(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|it| it.to_str().ok());
    let kinds: Vec<_> = values.flat_map(|it| it.split(',')).filter_map(|it| it.split(';').next()).collect();
    let reads = |kind: &str| kinds.iter().any(|it| it.trim().eq_ignore_ascii_case(kind));
    reads(EVENTS) && ![JSON, "application/*", "*/*"].into_iter().any(reads)
}

#[cfg(test)]
mod tests {
    use super::super::scenes::session;
    use super::*;

    /// An answer to HEAD has no body, so that its length is nothing to see its end by.
    #[test]
    fn only_an_answer_with_a_body_has_a_place_for_a_receipt() {
        let body = "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\",\"params\":{\"_meta\":{\"faregate/capability\":\"cap_1\"}}}";
        let enclosed = Enclosed::read(body.as_bytes()).unwrap();
        for (method, status, is_rewritten) in
            [("POST", 200, true), ("HEAD", 200, false), ("POST", 204, false)]
        {
            let mut session = session(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
            let mut call = EnclosedCall::of(&enclosed, None, &HeaderMap::new()).unwrap();
            let mut head = ResponseHeader::build(status, None).unwrap();
            for (name, value) in [
                ("content-type", JSON),
                ("content-length", "2"),
                ("payment-capability", "cap_1; remaining=1"),
            ] {
                head.insert_header(name, value).unwrap();
            }
            call.answer(&mut session, &mut head).unwrap();
            let framed = [CONTENT_LENGTH, TRANSFER_ENCODING].map(|it| head.headers.contains_key(it));
            assert_eq!(framed, [!is_rewritten, is_rewritten], "{method} {status}");
        }
    }

    #[test]
    fn a_stream_is_for_a_client_that_reads_nothing_else() {
        let only = |accept: &[&'static str]| {
            let headers = accept.iter().map(|it| (ACCEPT, HeaderValue::from_static(it)));
            reads_only_events(&headers.collect())
        };
        assert!(only(&["text/event-stream"]) && only(&["text/html, Text/Event-Stream;q=0.5"]));
        for accept in [
            &[][..],
            &["*/*"],
            &["text/html"],
            &["application/json, text/event-stream"],
            &["text/event-stream", "application/*;q=0.1"],
        ] {
            assert!(!only(accept), "{accept:?}");
        }
    }

    #[test]
    fn what_says_how_to_pay_over_http_is_told_from_receipts() {
        assert!(["PAYMENT-REQUIRED", "X-Payment-Session", "X-PAYMENT-ADDRESS"].into_iter().all(is_of_a_bill));
        assert!(!["PAYMENT-RESPONSE", "PAYMENT-CAPABILITY", "retry-after"].into_iter().any(is_of_a_bill));
    }
}
