//! Redirects: where an answer leads, and the request that follows it (RFC 9110 section 15.4).

use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_LOCATION, CONTENT_TYPE, LOCATION,
    TRANSFER_ENCODING,
};
use http::{Method, StatusCode};
use reqwest::{Request, Response, Url};

/// Where a redirect leads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Redirect {
    pub to: Url,
    /// Whether that is the origin which was asked.
    pub is_same_origin: bool,
}

impl Redirect {
    /// Where the answer to a request leads; `None` if it is no redirect, or has no usable `Location`.
    #[must_use]
    pub fn of(response: &Response) -> Option<Self> {
        let status = response.status();
        let leads = [
            StatusCode::MOVED_PERMANENTLY,
            StatusCode::FOUND,
            StatusCode::SEE_OTHER,
            StatusCode::TEMPORARY_REDIRECT,
            StatusCode::PERMANENT_REDIRECT,
        ];
        let location = response.headers().get(LOCATION).filter(|_| leads.contains(&status))?;
        let to = response.url().join(location.to_str().ok()?).ok()?;
        Some(Self { is_same_origin: to.origin() == response.url().origin(), to })
    }
}

/// The request that follows the redirect, if it stays within the origin.
pub(super) fn next(request: &Request, response: &Response) -> Option<Request> {
    let redirect = Redirect::of(response).filter(|it| it.is_same_origin)?;
    let mut next = request.try_clone()?;
    *next.url_mut() = redirect.to;
    let becomes_get = match response.status() {
        StatusCode::SEE_OTHER => *request.method() != Method::HEAD,
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND => *request.method() == Method::POST,
        _ => false,
    };
    if becomes_get {
        *next.method_mut() = Method::GET;
        *next.body_mut() = None;
        for name in [
            CONTENT_TYPE,
            CONTENT_LENGTH,
            CONTENT_ENCODING,
            CONTENT_LANGUAGE,
            CONTENT_LOCATION,
            TRANSFER_ENCODING,
        ] {
            let _removed = next.headers_mut().remove(name).is_some();
        }
    }
    Some(next)
}
