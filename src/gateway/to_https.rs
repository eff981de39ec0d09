//! The listener that serves nothing: it sends every request on to https, and shows an authority the answers to its
//! http-01 challenges.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderValue, LOCATION};
use http::uri::Authority;
use http::{Response, StatusCode};
use pingora::apps::http_app::ServeHttp;
use pingora::http::RequestHeader;
use pingora::protocols::http::ServerSession;

use super::client::one;
use super::tariff::Tariff;
use crate::listen::{CHALLENGE_PATH, Challenges};
use crate::routes::{AbsoluteTarget, RequestHost};
use crate::shutdown::StopSignal;

/// Redirects to `public_url`, or to the host that was asked for if a route is for it. No other host is named: a
/// redirect that anybody can have made to anywhere is a gift to whoever sends links around.
#[derive(Debug)]
pub struct ToHttps {
    tariff: Arc<ArcSwap<Tariff>>,
    challenges: Challenges,
    drains: StopSignal,
}

impl ToHttps {
    #[must_use]
    pub const fn new(tariff: Arc<ArcSwap<Tariff>>, challenges: Challenges, drains: StopSignal) -> Self {
        Self { tariff, challenges, drains }
    }

    fn answer(&self, request: &RequestHeader) -> Response<Vec<u8>> {
        let raw = std::str::from_utf8(request.raw_path()).unwrap_or_default();
        let absolute = AbsoluteTarget::split(raw);
        let target = absolute.as_ref().map_or(raw, |it| it.target.as_ref());
        if let Some(text) = target.strip_prefix(CHALLENGE_PATH).and_then(|it| self.challenges.text(it)) {
            return whole(StatusCode::OK, text);
        }
        let named = request.uri.authority().map(Authority::as_str);
        let host = one(&request.headers, &HOST).or(named).and_then(RequestHost::read);
        let tariff = self.tariff.load();
        let location = location(&tariff, host.as_ref().and_then(RequestHost::name), target);
        match HeaderValue::from_str(&location) {
            Ok(location) => {
                let mut answer = whole(StatusCode::PERMANENT_REDIRECT, String::new());
                answer.headers_mut().insert(LOCATION, location);
                answer
            }
            Err(_) => {
                whole(StatusCode::BAD_REQUEST, "the target is not ASCII: percent-encode it\n".to_owned())
            }
        }
    }
}

/// Where the same is served over https.
fn location(tariff: &Tariff, host: Option<&str>, target: &str) -> String {
    let of_route = |host: &str| {
        let hosts = tariff.table.routes().iter().filter_map(|it| it.conditions.host());
        hosts.into_iter().any(|it| it.admits(host))
    };
    // Of `*`, which OPTIONS may ask for, only the host is known.
    let target = if target.starts_with('/') { target } else { "/" };
    match host.filter(|it| of_route(it)) {
        Some(host) => tariff.public_url.at(host).join(target),
        None => tariff.public_url.join(target),
    }
}

#[async_trait]
impl ServeHttp for ToHttps {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        if *self.drains.borrow() {
            session.set_keepalive(None);
        }
        self.answer(session.req_header())
    }
}

fn whole(status: StatusCode, text: String) -> Response<Vec<u8>> {
    let length = text.len();
    let mut answer = Response::new(text.into_bytes());
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if !status.is_redirection() {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    answer
}
