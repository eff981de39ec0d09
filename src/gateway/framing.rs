//! Whether a request's head can be read in one way only, and whether a body follows it.
//!
//! The gateway and an upstream that find the end of a request in different places are how one client's
//! body becomes the next client's request. So whatever two servers are known to read differently is
//! refused here (RFC 9112 sections 2, 5 and 6), before anything else is looked at.

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, StatusCode, Version};
use pingora::prelude::Session;

use super::rejection::Rejection;

/// Methods whose requests have no body, in capital letters. Many servers read none for them, and take it
/// for the next request.
const WITHOUT_BODY: [&str; 5] = ["GET", "HEAD", "DELETE", "OPTIONS", "TRACE"];

/// The most names in `Connection` that Pingora takes.
const MOST_OPTIONS: usize = 9;

/// Checks the framing. Returns whether the request has a body.
///
/// # Errors
/// What makes the end of the head or of the body ambiguous, and an expectation that is not known.
pub(super) fn check(session: &mut Session) -> Result<bool, Rejection> {
    let ambiguous = |why: &str| Rejection::Unreadable(why.to_owned());
    let request = session.req_header();
    let headers = &request.headers;
    let encoded = headers.contains_key(TRANSFER_ENCODING);
    check_options(headers).map_err(ambiguous)?;
    if let Some(http1) = session.as_http1() {
        let head = http1.get_headers_raw_bytes();
        if !ends_every_line(&head) {
            return Err(ambiguous("a line of the head does not end with CR LF"));
        }
        // Pingora drops a length beside an encoding; another proxy may have used it.
        if encoded && names(&head, &CONTENT_LENGTH) {
            return Err(ambiguous("both Content-Length and Transfer-Encoding: the body's end is ambiguous"));
        }
    }
    if encoded && (request.version != Version::HTTP_11 || !is_only(headers, &TRANSFER_ENCODING, b"chunked")) {
        return Err(ambiguous("the only Transfer-Encoding is `chunked`, once, in HTTP/1.1"));
    }
    let length = length(headers).map_err(|()| ambiguous("Content-Length is not one decimal number"))?;
    if headers.contains_key(EXPECT) && !is_only(headers, &EXPECT, b"100-continue") {
        return Err(Rejection::UnknownExpectation);
    }
    let upgrades = headers.contains_key(UPGRADE);
    // Not asked of an HTTP/1 connection itself: that would fix how it is read, and no tunnel could follow.
    let has_body = match session.as_http1() {
        Some(_) => encoded || length.is_some_and(|it| it > 0),
        None => length != Some(0) && !session.is_body_empty(),
    };
    if upgrades && has_body {
        return Err(ambiguous("a body before an upgrade: its end and the tunnel's beginning are ambiguous"));
    }
    Ok(has_body)
}

/// Checks what `Connection` names as fields for the gateway alone (RFC 9110 section 7.6.1). Pingora refuses
/// the same, but later, after a use is taken.
fn check_options(headers: &HeaderMap) -> Result<(), &'static str> {
    let is_needed = |name: &HeaderName| *name == HOST || name.as_str().starts_with("x-forwarded-");
    let values = headers.get_all(CONNECTION).iter();
    let options = values.flat_map(|it| it.as_bytes().split(|&byte| byte == b','));
    let mut named = 0_usize;
    for option in options.map(<[u8]>::trim_ascii).filter(|it| !it.is_empty()) {
        named = named.saturating_add(1);
        let name = HeaderName::from_bytes(option).map_err(|_| "Connection is not a list of names")?;
        if is_needed(&name) {
            return Err("Connection names a field that goes further than this connection");
        }
    }
    if named > MOST_OPTIONS { Err("Connection names more than 9 fields") } else { Ok(()) }
}

/// Whether no body belongs to a request of this method.
pub(super) fn takes_no_body(method: &Method) -> bool {
    WITHOUT_BODY.iter().any(|it| method.as_str().eq_ignore_ascii_case(it))
}

/// Whether an answer with this status to a request of this method ends with its head (RFC 9112 section 6.3).
pub(super) fn ends_with_head(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

/// Whether every LF follows a CR and every CR is followed by an LF.
fn ends_every_line(head: &[u8]) -> bool {
    let follows_return = |at: usize| at.checked_sub(1).and_then(|it| head.get(it)) == Some(&b'\r');
    let mut lines = 0_usize;
    let all_follow = memchr::memchr_iter(b'\n', head).all(|at| {
        lines = lines.saturating_add(1);
        follows_return(at)
    });
    all_follow && memchr::memchr_iter(b'\r', head).count() == lines
}

/// Whether the head as received has a field of that name.
fn names(head: &[u8], name: &HeaderName) -> bool {
    head.split(|&byte| byte == b'\n').any(|line| {
        let field = line.split(|&byte| byte == b':').next().unwrap_or_default();
        field.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes())
    })
}

/// Whether a header stands there once, with this value in any letter case.
fn is_only(headers: &HeaderMap, name: &HeaderName, value: &[u8]) -> bool {
    let mut values = headers.get_all(name).iter();
    let matches = |it: &HeaderValue| it.as_bytes().trim_ascii().eq_ignore_ascii_case(value);
    values.next().is_some_and(matches) && values.next().is_none()
}

/// How many bytes follow a head of HTTP/1; `None` if it does not say.
pub(super) fn length_of_body(headers: &HeaderMap) -> Option<u64> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return None;
    }
    length(headers).ok().map(Option::unwrap_or_default)
}

/// The declared length of the body; `None` if none is declared.
fn length(headers: &HeaderMap) -> Result<Option<u64>, ()> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let digits = value.to_str().ok().filter(|it| it.bytes().all(|byte| byte.is_ascii_digit()));
    let length = digits.and_then(|it| it.parse().ok());
    if values.next().is_some() { Err(()) } else { length.map(Some).ok_or(()) }
}

#[cfg(test)]
mod tests {
    use super::super::scenes::session;
    use super::*;

    fn checked(line: &str, fields: &str) -> Result<bool, Rejection> {
        check(&mut session(&format!("{line}\r\nHost: a\r\n{fields}\r\n")))
    }

    #[test]
    fn a_body_is_chunked_or_has_a_length() {
        assert!(matches!(checked("POST / HTTP/1.1", "Transfer-Encoding: Chunked\r\n"), Ok(true)));
        assert!(matches!(checked("POST / HTTP/1.1", "Content-Length: 0\r\n"), Ok(false)));
        assert!(matches!(checked("POST / HTTP/1.1", "Content-Length: 7\r\n"), Ok(true)));
        assert!(matches!(checked("POST / HTTP/1.1", ""), Ok(false)));
    }

    fn fields(name: &HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|it| (name.clone(), http::HeaderValue::from_static(it))).collect()
    }

    #[test]
    fn a_length_is_one_decimal_number() {
        let read = |values: &[&'static str]| length(&fields(&CONTENT_LENGTH, values));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!([read(&["0"]), read(&["17"])], [Ok(Some(0)), Ok(Some(17))]);
        for bad in [&["+3"][..], &["3, 3"], &["3", "3"], &[""], &["-1"], &["18446744073709551616"], &["x"]] {
            assert_eq!(read(bad), Err(()), "{bad:?}");
        }
    }

    #[test]
    fn a_field_that_may_stand_once_has_one_value() {
        let is_chunked = |values: &[&'static str]| {
            is_only(&fields(&TRANSFER_ENCODING, values), &TRANSFER_ENCODING, b"chunked")
        };
        assert!(is_chunked(&["chunked"]) && is_chunked(&[" Chunked\t"]));
        for bad in [&[][..], &["gzip"], &["gzip, chunked"], &["chunked", "chunked"], &["chunked", "gzip"]] {
            assert!(!is_chunked(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_field_is_seen_in_the_head_as_received() {
        let has = |head: &str| names(head.as_bytes(), &CONTENT_LENGTH);
        assert!(has("POST / HTTP/1.1\r\nHost: a\r\nContent-length: 3\r\n\r\n"));
        assert!(has("POST / HTTP/1.1\r\ncontent-length : 3\r\n\r\n"));
        for head in ["POST / HTTP/1.1\r\nX-Content-Length: 3\r\n\r\n", "X: Content-Length\r\n", ""] {
            assert!(!has(head), "{head:?}");
        }
    }

    #[test]
    fn each_line_ends_with_both_characters() {
        for good in ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", ""] {
            assert!(ends_every_line(good.as_bytes()), "{good:?}");
        }
        for bad in ["\n", "a\r\nb\n", "a\rb\r\n", "a\r\r\n", "a\n\r"] {
            assert!(!ends_every_line(bad.as_bytes()), "{bad:?}");
        }
    }

    /// What Pingora would refuse later, after a use was taken.
    #[test]
    fn a_connection_names_at_most_nine_fields_of_its_own() {
        let named = |names: &str| checked("GET / HTTP/1.1", &format!("Connection: {names}\r\n")).is_ok();
        let list = |count: usize| (0..count).map(|it| format!("x-{it}")).collect::<Vec<_>>().join(", ");
        assert!(named(&list(9)) && named(&format!("{},,", list(9))));
        assert!(!named(&list(10)));
        for name in ["Host", "X-Forwarded-For", "a b"] {
            assert!(!named(name), "{name}");
        }
    }

    /// RFC 9110 section 9.3: a body has no meaning for these.
    #[test]
    fn what_takes_no_body_is_known_in_any_letter_case() {
        let takes_none = |name: &str| takes_no_body(&Method::from_bytes(name.as_bytes()).unwrap());
        for name in ["GET", "HEAD", "DELETE", "OPTIONS", "TRACE", "get", "Delete"] {
            assert!(takes_none(name), "{name}");
        }
        for name in ["POST", "PUT", "PATCH", "QUERY", "GETS"] {
            assert!(!takes_none(name), "{name}");
        }
    }

    /// A body after such a head would be read as the next answer.
    #[test]
    fn an_answer_to_head_and_one_of_a_bodiless_status_end_with_their_heads() {
        let ends =
            |method: Method, status: u16| ends_with_head(&method, StatusCode::from_u16(status).unwrap());
        for status in [100, 103, 204, 304] {
            assert!(ends(Method::GET, status) && ends(Method::HEAD, status), "{status}");
        }
        for status in [200, 201, 205, 303, 404, 500] {
            assert!(!ends(Method::GET, status) && !ends(Method::POST, status), "{status}");
            assert!(ends(Method::HEAD, status), "{status}");
        }
    }
}
