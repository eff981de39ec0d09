//! What is said for one connection only, and what each version of HTTP may be sent (RFC 9110 sections 7.6
//! and 15.2, RFC 9112 sections 6, 7 and 9, RFC 9113 section 8.2).
//!
//! Pingora takes the hop-by-hop fields out of requests; this takes them out of answers, and puts right
//! what else Pingora hands on as it came from the other side's version.

use http::header::{
    CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HeaderMap, HeaderName, HeaderValue, MAX_FORWARDS,
    PROXY_AUTHENTICATE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{Method, StatusCode, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Error, ErrorType, Result, Session};

/// Fields of an answer that are about the connection to the upstream, beside those that `Connection` names.
static OF_THE_CONNECTION: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authentication-info"),
    PROXY_AUTHENTICATE,
    TE,
    UPGRADE,
];
/// What `Connection` cannot take away: without it the end of the body is lost.
const OF_THE_BODY: [HeaderName; 2] = [CONTENT_LENGTH, TRANSFER_ENCODING];

/// Treats a request of HTTP/1.0 as that version's: it knows no answer before the answer, and so expects
/// none (RFC 9110 sections 10.1.1 and 15.2).
pub(super) fn old_client(session: &mut Session) {
    if session.req_header().version == Version::HTTP_10 {
        session.set_ignore_info_resp(true);
        let _removed = session.req_header_mut().remove_header(&EXPECT).is_some();
    }
}

/// Whether the client says that it closes its connection after the answer, in whichever line (RFC 9112
/// section 9.6).
pub(super) fn closes(request: &RequestHeader) -> bool {
    named(&request.headers).contains(&HeaderName::from_static("close"))
}

/// Whether an `OPTIONS` request is to go no further than here (RFC 9110 section 7.6.2).
pub(super) fn ends_here(request: &RequestHeader) -> bool {
    request.method == Method::OPTIONS && forwards_left(request) == Some(0)
}

fn forwards_left(request: &RequestHeader) -> Option<u64> {
    request.headers.get(MAX_FORWARDS).and_then(|it| it.to_str().ok()).and_then(|it| it.parse().ok())
}

/// Makes the client's request one of the version that the upstream is spoken to in.
pub(super) fn request(session: &Session, request: &mut RequestHeader, has_body: bool) -> Result<()> {
    let received = session.req_header().version;
    if received == Version::HTTP_2 && request.version != Version::HTTP_2 {
        join_cookies(request)?;
    }
    let is_sized = request.headers.contains_key(CONTENT_LENGTH);
    let expects_body = [Method::POST, Method::PUT, Method::PATCH].contains(&request.method);
    if expects_body && !has_body && !is_sized {
        // Some servers wait for a body otherwise, or answer 411 (RFC 9110 section 8.6).
        request.insert_header(CONTENT_LENGTH, 0)?;
    }
    if request.method == Method::OPTIONS
        && let Some(left) = forwards_left(request)
    {
        request.insert_header(MAX_FORWARDS, left.saturating_sub(1))?;
    }
    let via = match received {
        Version::HTTP_10 => "1.0 faregate",
        Version::HTTP_2 => "2 faregate",
        _ => "1.1 faregate",
    };
    request.append_header("via", HeaderValue::from_static(via))?;
    Ok(())
}

/// HTTP/2 may cut `Cookie` into pieces that no other version knows (RFC 9113 section 8.2.3).
fn join_cookies(request: &mut RequestHeader) -> Result<()> {
    let pieces: Vec<_> = request.headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() < 2 {
        return Ok(());
    }
    let whole = HeaderValue::from_bytes(&pieces.join(&b"; "[..]))
        .map_err(|error| Error::because(ErrorType::InvalidHTTPHeader, "the cookies are no field", error))?;
    request.insert_header(COOKIE, whole)
}

/// Makes the upstream's answer, also one before the answer, one of the client's version.
///
/// # Errors
/// A transfer coding that no client has asked for, and whose end only a client that knows it would see.
pub(super) fn answer(session: &mut Session, response: &mut ResponseHeader) -> Result<()> {
    check_coding(&response.headers)?;
    let is_tunnel = response.status == StatusCode::SWITCHING_PROTOCOLS;
    let upgrade = response.headers.get(UPGRADE).filter(|_| is_tunnel).cloned();
    let mut stopped = named(&response.headers);
    stopped.extend(response.headers.keys().filter(|it| OF_THE_CONNECTION.contains(it)).cloned());
    for name in &stopped {
        let _removed = response.remove_header(name).is_some();
    }
    if let Some(upgrade) = upgrade {
        response.insert_header(UPGRADE, upgrade)?;
        response.insert_header(CONNECTION, "upgrade")?;
    }
    if response.status.is_informational() || response.status == StatusCode::NO_CONTENT {
        for name in &OF_THE_BODY {
            let _removed = response.remove_header(name).is_some();
        }
    }
    if session.as_http1().is_some() || response.version != Version::HTTP_2 {
        // Pingora forwards no trailers from or to HTTP/1, so none is announced.
        let _removed = response.remove_header(&TRAILER).is_some();
    }
    if session.as_http1().is_none() {
        return Ok(());
    }
    if session.req_header().version == Version::HTTP_10
        && response.remove_header(&TRANSFER_ENCODING).is_some()
    {
        // A client that does not know chunks sees the end of the body by the end of the connection.
        session.set_keepalive(None);
    }
    // The version is that of who speaks, not of who spoke before (RFC 9110 section 6.2).
    response.set_version(Version::HTTP_11);
    Ok(())
}

fn check_coding(headers: &HeaderMap) -> Result<()> {
    let chunked = |it: &HeaderValue| it.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if codings.next().is_none_or(chunked) && codings.next().is_none() {
        return Ok(());
    }
    let why = "the upstream's answer has a transfer coding that was not asked for";
    Error::e_explain(ErrorType::InvalidHTTPHeader, why).map_err(|it: Box<Error>| it.into_up())
}

/// The fields that `Connection` names, but those that a body needs.
fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter();
    let tokens = values.flat_map(|it| it.as_bytes().split(|&byte| byte == b','));
    let names = tokens.filter_map(|it| HeaderName::from_bytes(it.trim_ascii()).ok());
    names.filter(|it| !OF_THE_BODY.contains(it)).collect()
}
