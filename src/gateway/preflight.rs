//! A browser's question before a cross-origin request (Fetch standard, CORS-preflight fetch), and who
//! answers it.
//!
//! A preflight is never billed, so it must not be a way to an answer either: an upstream that does not
//! look at the method would answer it as the request that is to be paid for. The gateway answers for
//! every path that has a price. With `preflight: upstream` the upstream is asked, without a body, and
//! only what a browser reads in such an answer is passed on.

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, ALLOW, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderName, ORIGIN, VARY,
};
use http::{Method, StatusCode};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::{Result, Session};

use super::context::Context;
use super::decision::{Decision, Destination, forward};
use super::presented::header;
use super::rejection::Rejection;
use super::reply;
use super::tariff::{CorsPolicy, Unmatched};
use crate::admission::Admission;
use crate::routes::{CanonicalTarget, PreflightRule, Route};

/// The method that a preflight asks for; `None` if the request is not a preflight.
pub(super) fn method_asked_for(session: &Session) -> Option<String> {
    let request = session.req_header();
    if request.method != Method::OPTIONS || !request.headers.contains_key(ORIGIN) {
        return None;
    }
    header(&request.headers, &ACCESS_CONTROL_REQUEST_METHOD).ok().flatten()
}

/// Decides a preflight. `route` covers the request that it prepares, as far as that is known; `has_price`
/// says whether some request for the same URL has a price.
pub(super) fn decide(
    context: &Context,
    route: Option<&Arc<Route>>,
    target: CanonicalTarget,
    has_price: bool,
) -> Result<Decision, Rejection> {
    let tariff = &context.tariff;
    let destination = match (route, &tariff.unmatched) {
        (Some(route), _) => Some(Destination::of(route)),
        (None, Unmatched::Free(upstream)) => Some(Destination::unmatched(upstream)),
        (None, Unmatched::NotFound) => None,
    };
    let rule = route.and_then(|it| it.preflight).unwrap_or(tariff.preflight);
    if let (PreflightRule::Upstream, Some(to)) = (rule, destination) {
        return forward(context, to, target, Admission::free(), true);
    }
    if context.origin.is_some() || has_price {
        return Ok(Decision::Preflight);
    }
    match destination {
        Some(to) => forward(context, to, target, Admission::free(), false),
        None => Err(Rejection::NotFound),
    }
}

/// Answers a preflight in the gateway's own name. A page of an origin that is not allowed learns nothing,
/// and its browser sends no request.
pub(super) async fn answer(session: &mut Session, context: &Context) -> Result<()> {
    let mut response = ResponseHeader::build(StatusCode::NO_CONTENT, Some(8))?;
    if let Some(cors) = &context.tariff.cors {
        cors.expose(&mut response, context.origin.as_deref())?;
        if context.origin.is_some() {
            CorsPolicy::answer_preflight(&mut response, &session.req_header().headers)?;
        }
    }
    reply::write(session, &context.request_id, response, None).await
}

/// Removes what a preflight has no use for before it is forwarded.
pub(super) fn request(request: &mut RequestHeader) {
    for name in [CONTENT_TYPE, EXPECT] {
        let _removed = request.remove_header(&name).is_some();
    }
}

/// Leaves of an upstream's answer only what a browser reads in it. The body is dropped as it comes.
pub(super) fn response(response: &mut ResponseHeader) -> Result<()> {
    let reads =
        |name: &HeaderName| *name == ALLOW || *name == VARY || name.as_str().starts_with("access-control-");
    let others: Vec<_> = response.headers.keys().filter(|name| !reads(name)).cloned().collect();
    for name in others {
        let _removed = response.remove_header(&name).is_some();
    }
    if response.status == StatusCode::PAYMENT_REQUIRED || response.status.is_informational() {
        response.set_status(StatusCode::BAD_GATEWAY)?;
    }
    if response.status != StatusCode::NO_CONTENT && response.status != StatusCode::NOT_MODIFIED {
        response.insert_header(CONTENT_LENGTH, 0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_answer_only_what_a_browser_reads_is_left() {
        for (status, expected, names) in [
            (200, 200, &["access-control-max-age", "allow", "content-length", "vary"][..]),
            (204, 204, &["access-control-max-age", "allow", "vary"]),
            (304, 304, &["access-control-max-age", "allow", "vary"]),
            (402, 502, &["access-control-max-age", "allow", "content-length", "vary"]),
        ] {
            let mut head = ResponseHeader::build(status, None).unwrap();
            for name in ["allow", "vary", "access-control-max-age", "content-type", "set-cookie"] {
                head.insert_header(name, "x").unwrap();
            }
            response(&mut head).unwrap();
            let mut left: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
            left.sort_unstable();
            assert_eq!((head.status.as_u16(), left.as_slice()), (expected, names), "{status}");
        }
    }

    #[test]
    fn a_preflight_is_forwarded_without_what_is_about_a_body() {
        let mut head = RequestHeader::build("OPTIONS", b"/", None).unwrap();
        for name in ["content-type", "expect", "origin"] {
            head.insert_header(name, "x").unwrap();
        }
        request(&mut head);
        let left: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["origin"]);
    }
}
