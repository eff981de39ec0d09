//! The client of the admin API. It makes requests of the table of operations, so that it knows each of them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderValue, StatusCode, header};
use reqwest::Url;
use serde_json::{Map, Value};

use crate::admin::operations::{Operation, Sent};
use crate::cli::failure::Failure;
use crate::listen::ListenAddress;
use crate::outbound;
use crate::vault::AdminToken;

/// How long an answer may take: a reload resolves names.
const ANSWER_WITHIN: Duration = Duration::from_secs(90);

/// A gateway's admin API.
#[derive(Clone, Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    url: Url,
    token: AdminToken,
}

/// Why a call was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("{url}: the gateway cannot be reached: {why}; look whether it runs, and at `admin.listen`")]
    Unreachable { url: Url, why: String },
    #[error("the answer is none of an admin API: {0}")]
    Unreadable(String),
    /// It said so.
    #[error("{message}")]
    Refused { status: StatusCode, kind: String, message: String },
}

impl CallError {
    pub(super) fn into_failure(self) -> Failure {
        let message = self.to_string();
        match self {
            Self::Unreachable { .. } | Self::Unreadable(_) => Failure::Unavailable(message),
            Self::Refused { status, kind, .. } => match status {
                StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS => Failure::Refused(message),
                StatusCode::NOT_FOUND if kind.ends_with(":not_found") => Failure::NotFound(message),
                StatusCode::BAD_REQUEST | StatusCode::CONFLICT => Failure::Usage(message),
                StatusCode::UNPROCESSABLE_ENTITY => Failure::Faulty(message),
                _ => Failure::Unavailable(message),
            },
        }
    }
}

/// Where a gateway is asked.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) url: String,
    /// The Unix socket that leads there.
    pub(super) socket: Option<PathBuf>,
}

/// Where a listener is asked.
pub(super) fn place_of(listener: &ListenAddress) -> Place {
    match listener {
        ListenAddress::Inet(address) => Place { url: url_of(*address), socket: None },
        ListenAddress::Unix(unix) => {
            Place { url: "http://localhost".to_owned(), socket: Some(unix.path.clone()) }
        }
    }
}

/// The URL of a listener. One at all addresses is asked at this machine's own.
fn url_of(address: SocketAddr) -> String {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        other @ (IpAddr::V4(_) | IpAddr::V6(_)) => other,
    };
    format!("http://{}", SocketAddr::new(ip, address.port()))
}

impl Client {
    /// # Errors
    /// [`Failure::Usage`] for what is no URL; [`Failure::Unavailable`] if TLS cannot be set up.
    pub(super) fn new(place: &Place, token: AdminToken) -> Result<Self, Failure> {
        let url = place.url.as_str();
        let wrong =
            |why: String| Failure::Usage(format!("`--url` {url:?}: {why}: write `http://127.0.0.1:9402`"));
        let parsed: Url = url.parse().map_err(|error: url::ParseError| wrong(error.to_string()))?;
        if !["http", "https"].contains(&parsed.scheme()) || parsed.cannot_be_a_base() {
            return Err(wrong("it is neither http nor https".to_owned()));
        }
        let builder = outbound::http(&[]).map_err(|error| Failure::Unavailable(error.to_string()))?;
        let redirects = reqwest::redirect::Policy::none();
        let mut builder = builder.no_proxy().timeout(ANSWER_WITHIN).redirect(redirects);
        if let Some(socket) = &place.socket {
            builder = builder.unix_socket(socket.as_path());
        }
        let http = builder.build().map_err(|error| Failure::Unavailable(error.to_string()))?;
        Ok(Self { http, url: parsed, token })
    }

    /// Has an operation done that is told this, by the names of its parameters.
    ///
    /// # Errors
    /// [`CallError`].
    pub(super) async fn call(
        &self,
        operation: Operation,
        told: &Map<String, Value>,
    ) -> Result<Value, CallError> {
        let spec = operation.spec();
        let (mut path, mut body, mut url) = (spec.path.to_owned(), Map::new(), self.url.clone());
        let (mut query, mut headers) = (Vec::new(), Vec::new());
        for parameter in spec.parameters {
            let Some(value) = told.get(parameter.name).filter(|it| !it.is_null()) else { continue };
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            match parameter.sent {
                Sent::Path => {
                    let text: String = url::form_urlencoded::byte_serialize(text.as_bytes()).collect();
                    path = path.replace(&format!("{{{}}}", parameter.name), &text);
                }
                Sent::Query => query.push((parameter.name, text)),
                Sent::Header => headers.push((parameter.name, text)),
                Sent::Body => drop(body.insert(parameter.name.to_owned(), value.clone())),
            }
        }
        url.set_path(&path);
        let mut request = if spec.changes { self.http.post(url.clone()) } else { self.http.get(url.clone()) };
        if spec.changes {
            request = request.json(&body);
        }
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let mut credential = HeaderValue::try_from(format!("Bearer {}", self.token.expose()))
            .map_err(|error| CallError::Unreadable(error.to_string()))?;
        credential.set_sensitive(true);
        let request = request.query(&query).header(header::AUTHORIZATION, credential);
        let unreachable = |error: reqwest::Error| CallError::Unreachable {
            url: url.clone(),
            why: outbound::chain(&error.without_url()),
        };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let answer = response.bytes().await.map_err(unreachable)?;
        let answer: Value = serde_json::from_slice(&answer)
            .map_err(|error| CallError::Unreadable(format!("status {status}: {error}")))?;
        if status == StatusCode::OK { Ok(answer) } else { Err(refused(status, &answer)) }
    }
}

fn refused(status: StatusCode, problem: &Value) -> CallError {
    let text = |name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    CallError::Refused {
        status,
        kind: text("type"),
        message: format!("{}: {}", text("title"), text("detail")),
    }
}

#[cfg(test)]
mod tests {
    use super::url_of;

    #[test]
    fn a_listener_at_all_addresses_is_asked_at_this_machine() {
        let url = |address: &str| url_of(address.parse().unwrap());
        assert_eq!(url("0.0.0.0:9402"), "http://127.0.0.1:9402");
        assert_eq!(url("[::]:9402"), "http://[::1]:9402");
        assert_eq!(url("192.0.2.1:1"), "http://192.0.2.1:1");
    }
}
