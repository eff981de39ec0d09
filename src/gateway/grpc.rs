//! gRPC: what its clients are answered, and what its statuses mean for a use.
//!
//! A client of gRPC reads a status of HTTP other than 200 as "unknown", and not the headers beside it. So an
//! answer of the gateway's own is a head alone with `grpc-status`, `grpc-message` and the headers of the same
//! answer to others (gRPC over HTTP/2, "Trailers-Only"): a bill is metadata of the error.

use std::fmt::Write;
use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};
use http::{HeaderName, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::Result;

const STATUS: &str = "grpc-status";
const MESSAGE: &str = "grpc-message";
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const KIND: &str = "application/grpc";

/// Whether a request is a call of gRPC.
pub(super) fn is_call(request: &RequestHeader) -> bool {
    is_grpc(&request.headers)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let parted = kind.and_then(|it| it.split_at_checked(KIND.len()));
    // Not gRPC-Web, whose answers have another form.
    parted.is_some_and(|(kind, rest)| kind.eq_ignore_ascii_case(KIND) && !rest.starts_with('-'))
}

/// How long the client itself waits at most for its answer.
pub(super) fn deadline(request: &RequestHeader) -> Option<Duration> {
    let text = request.headers.get(&TIMEOUT)?.to_str().ok()?;
    // At most eight digits and a unit, so nothing here overflows.
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?).filter(|(it, _)| it.len() <= 8)?;
    let number = number.bytes().all(|it| it.is_ascii_digit()).then(|| number.parse::<u64>().ok())??;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// The head of an answer of the gateway's own: what a status of HTTP and its message are to gRPC.
pub(super) fn refusal(version: Version, status: StatusCode, message: &str) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build(StatusCode::OK, Some(12))?;
    head.insert_header(CONTENT_TYPE, KIND)?;
    head.insert_header(STATUS, code_of(status).to_string())?;
    head.insert_header(MESSAGE, encoded(message))?;
    if version < Version::HTTP_2 {
        head.insert_header(CONTENT_LENGTH, 0)?;
    }
    Ok(head)
}

/// The status of gRPC for one of HTTP.
fn code_of(status: StatusCode) -> u8 {
    match status.as_u16() {
        // Failed precondition: as it is, the call will never succeed. Other codes invite to call again.
        402 | 409 | 410 => 9,
        401 => 16,
        403 => 7,
        404 | 415 => 12,
        408 | 504 => 4,
        413 | 431 => 8,
        400..=499 => 3,
        502 | 503 => 14,
        _ => 13,
    }
}

/// The status of HTTP that a status of gRPC is judged as.
fn judged_as(code: &str) -> StatusCode {
    match code {
        "0" => StatusCode::OK,
        "3" | "9" | "11" => StatusCode::BAD_REQUEST,
        "16" => StatusCode::UNAUTHORIZED,
        "7" => StatusCode::FORBIDDEN,
        "5" => StatusCode::NOT_FOUND,
        "6" | "10" => StatusCode::CONFLICT,
        "8" => StatusCode::TOO_MANY_REQUESTS,
        // The client itself does not want it any more.
        "1" => StatusCode::REQUEST_TIMEOUT,
        "12" => StatusCode::NOT_IMPLEMENTED,
        "14" => StatusCode::SERVICE_UNAVAILABLE,
        "4" => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// The status by which an answer is charged for: that of HTTP, or that of gRPC if the head has one.
pub(super) fn judged(answer: &ResponseHeader) -> StatusCode {
    let own = is_grpc(&answer.headers).then(|| said(&answer.headers)).flatten();
    own.unwrap_or(answer.status)
}

/// What trailers say about the whole call; `None` if they are not those of gRPC.
pub(super) fn said(trailers: &HeaderMap) -> Option<StatusCode> {
    trailers.get(STATUS).map(|it| judged_as(it.to_str().unwrap_or_default()))
}

/// A message as gRPC writes it: all but printable ASCII, and `%`, in percent-encoding.
fn encoded(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for byte in message.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            text.push(char::from(byte));
        } else {
            // A string takes everything.
            let _written = write!(text, "%{byte:02X}").is_ok();
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_has_at_most_eight_digits_and_a_unit() {
        let of = |text: &str| {
            let mut request = RequestHeader::build("POST", b"/", None).unwrap();
            request.insert_header(TIMEOUT, text).unwrap();
            deadline(&request)
        };
        for (text, millis) in [("1H", 3_600_000), ("2M", 120_000), ("3S", 3000), ("40m", 40), ("5000u", 5)] {
            assert_eq!(of(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(of("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for text in ["", "S", "1", "1s", "-1S", "+1S", "1.5S", "123456789S", "1 S"] {
            assert_eq!(of(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_message_is_ascii() {
        assert_eq!(encoded("pay 1 raw: 100% sûr\n"), "pay 1 raw: 100%25 s%C3%BBr%0A");
    }

    fn answer(status: StatusCode, fields: &[(&'static str, &str)]) -> ResponseHeader {
        let mut head = ResponseHeader::build(status, None).unwrap();
        for (name, value) in fields {
            head.insert_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn only_grpc_itself_is_a_call() {
        for kind in ["application/grpc", "application/grpc+proto", "Application/GRPC;charset=utf-8"] {
            let mut request = RequestHeader::build("POST", b"/", None).unwrap();
            request.insert_header(CONTENT_TYPE, kind).unwrap();
            assert!(is_call(&request), "{kind}");
        }
        for kind in ["application/grpc-web", "application/grpc-web+proto", "application/json", "application"]
        {
            let mut request = RequestHeader::build("POST", b"/", None).unwrap();
            request.insert_header(CONTENT_TYPE, kind).unwrap();
            assert!(!is_call(&request), "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }

    /// What invites to call again is a promise that it helps.
    #[test]
    fn a_refusal_has_the_code_of_its_status() {
        for (code, statuses) in [
            (9, &[402, 409, 410][..]),
            (16, &[401]),
            (7, &[403]),
            (12, &[404, 415]),
            (4, &[408, 504]),
            (8, &[413, 431]),
            (3, &[400, 405, 417, 421]),
            (14, &[502, 503]),
            (13, &[500, 501]),
        ] {
            for status in statuses {
                assert_eq!(code_of(StatusCode::from_u16(*status).unwrap()), code, "{status}");
            }
        }
    }

    #[test]
    fn a_refusal_is_a_head_alone() {
        let head = refusal(Version::HTTP_2, StatusCode::PAYMENT_REQUIRED, "pay: 1 %").unwrap();
        assert_eq!(head.status, StatusCode::OK);
        for (name, value) in
            [("content-type", "application/grpc"), ("grpc-status", "9"), ("grpc-message", "pay: 1 %25")]
        {
            assert_eq!(head.headers[name], value);
        }
        assert!(!head.headers.contains_key(CONTENT_LENGTH));
        let head = refusal(Version::HTTP_11, StatusCode::PAYMENT_REQUIRED, "").unwrap();
        assert_eq!(head.headers[CONTENT_LENGTH], "0", "a head does not end an answer there");
    }

    #[test]
    fn a_call_is_judged_by_its_own_status() {
        for (status, codes) in [
            (200, &["0"][..]),
            (400, &["3", "9", "11"]),
            (401, &["16"]),
            (403, &["7"]),
            (404, &["5"]),
            (408, &["1"]),
            (409, &["6", "10"]),
            (429, &["8"]),
            (500, &["2", "13", "15", "17", ""]),
            (501, &["12"]),
            (503, &["14"]),
            (504, &["4"]),
        ] {
            for code in codes {
                let fields = [("content-type", "application/grpc"), ("grpc-status", *code)];
                assert_eq!(judged(&answer(StatusCode::OK, &fields)).as_u16(), status, "{code:?}");
            }
        }
        let open = answer(StatusCode::OK, &[("content-type", "application/grpc")]);
        assert_eq!((judged(&open), said(&open.headers)), (StatusCode::OK, None), "its trailers say it");
        let other = answer(StatusCode::ACCEPTED, &[("content-type", "text/plain"), ("grpc-status", "14")]);
        assert_eq!(judged(&other), StatusCode::ACCEPTED);
    }
}
