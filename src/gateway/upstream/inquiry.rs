//! One request to a server, to see whether it answers: what `faregate doctor` asks.

use http::{Method, StatusCode};
use pingora::connectors::http::Connector;
use pingora::http::RequestHeader;
use pingora::prelude::{Error, ErrorType, Result};
use pingora::protocols::l4::socket::SocketAddr;

use super::reasons::in_words;
use super::{Server, Upstream, authority};
use crate::config::UpstreamUrl;

/// How a server answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Inquiry {
    /// What was asked, with its path.
    pub asked: String,
    pub status: StatusCode,
    /// Whether the answer was to the check of its health, which takes 200 alone for an answer.
    pub is_health_check: bool,
}

impl Upstream {
    /// Sends one request to `address` as to a server of `url`: that of its health check, or else a `HEAD` of the URL's own
    /// path, which changes nothing there (RFC 9110 section 9.2.1).
    ///
    /// # Errors
    /// Why there is no answer, in words for people.
    pub async fn ask(&self, address: SocketAddr, url: &UpstreamUrl) -> Result<Inquiry, String> {
        let settings = &self.rules.settings;
        let check = settings.health.check.as_ref();
        let (method, path) = check.map_or((Method::HEAD, "/"), |it| (Method::GET, it.path.as_str()));
        let path = format!("{}{path}", url.base_path);
        let server = self.rules.server(address, url.clone());
        let within = settings.connect_timeout.saturating_add(settings.timeout);
        let status = match tokio::time::timeout(within, status(&server, &method, &path)).await {
            Ok(answered) => answered.map_err(|error| in_words(&error))?,
            Err(_elapsed) => {
                return Err(format!(
                    "no answer to {method} {path} within {}",
                    humantime::format_duration(within)
                ));
            }
        };
        Ok(Inquiry { asked: format!("{method} {path}"), status, is_health_check: check.is_some() })
    }
}

async fn status(server: &Server, method: &Method, path: &str) -> Result<StatusCode> {
    let (mut session, _reused) = Connector::new(None).get_http_session(&server.peer).await?;
    let mut request = RequestHeader::build(method.clone(), path.as_bytes(), None)?;
    request.insert_header(http::header::HOST, authority(&server.url))?;
    request.insert_header(http::header::USER_AGENT, concat!("faregate/", env!("CARGO_PKG_VERSION")))?;
    session.write_request_header(Box::new(request)).await?;
    session.finish_request_body().await?;
    session.read_response_header().await?;
    let status = session.response_header().map(|it| it.status);
    session.shutdown().await;
    match status {
        Some(status) => Ok(status),
        None => Error::e_explain(ErrorType::InvalidHTTPHeader, "no head of an answer"),
    }
}
