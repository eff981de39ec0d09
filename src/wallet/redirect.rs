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

#[cfg(test)]
mod tests {
    use reqwest::ResponseBuilderExt;

    use super::*;

    fn asked(method: Method) -> Request {
        let mut request = Request::new(method, "https://a.example/one?q=1".parse().unwrap());
        *request.body_mut() = Some("body".into());
        request.headers_mut().insert(CONTENT_TYPE, "text/plain".parse().unwrap());
        request
    }

    /// An answer to `https://a.example/one?q=1`.
    fn answer(status: u16, location: &str) -> Response {
        let url = "https://a.example/one?q=1".parse().unwrap();
        http::Response::builder().status(status).header(LOCATION, location).url(url).body("").unwrap().into()
    }

    #[test]
    fn a_redirect_is_followed_within_its_origin() {
        let to = |status, location| {
            Redirect::of(&answer(status, location)).map(|it| (it.to.to_string(), it.is_same_origin))
        };
        for status in [301, 302, 303, 307, 308] {
            assert_eq!(to(status, "two"), Some(("https://a.example/two".to_owned(), true)), "{status}");
        }
        assert_eq!(to(307, "https://b.example/"), Some(("https://b.example/".to_owned(), false)));
        assert_eq!(to(300, "two"), None);
        assert_eq!(to(200, "two"), None);
        assert!(next(&asked(Method::GET), &answer(307, "https://b.example/")).is_none());
        assert!(next(&asked(Method::GET), &answer(307, "http://a.example/")).is_none(), "another scheme");
    }

    /// RFC 9110 section 15.4.
    #[test]
    fn what_was_posted_is_asked_for_after_some_redirects() {
        for (method, status, expected) in [
            (Method::POST, 301, Method::GET),
            (Method::POST, 302, Method::GET),
            (Method::POST, 303, Method::GET),
            (Method::POST, 307, Method::POST),
            (Method::POST, 308, Method::POST),
            (Method::PUT, 301, Method::PUT),
            (Method::PUT, 302, Method::PUT),
            (Method::PUT, 303, Method::GET),
            (Method::HEAD, 303, Method::HEAD),
        ] {
            let following = next(&asked(method.clone()), &answer(status, "/two")).unwrap();
            assert_eq!(
                (following.method(), following.url().path()),
                (&expected, "/two"),
                "{method} {status}"
            );
            let keeps = following.method() == method;
            assert_eq!(following.body().is_some(), keeps, "{method} {status}");
            assert_eq!(following.headers().contains_key(CONTENT_TYPE), keeps, "{method} {status}");
        }
    }
}
