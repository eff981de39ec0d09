//! What one loaded configuration says of requests: prices, upstreams, origins, limits. Exchanged
//! as a whole on reload, so that no request sees half of two.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, VARY,
};
use pingora::http::ResponseHeader;
use pingora::prelude::Result;
use tokio::sync::watch;

use super::upstream::Upstream;
use crate::config::{Origins, PublicUrl};
use crate::nano::Thresholds;
use crate::routes::{PriceTable, UpstreamName};

pub use crate::config::Unmatched;

/// The edge's view of a configuration.
#[derive(Debug)]
pub struct Tariff {
    pub table: PriceTable,
    pub unmatched: Unmatched,
    pub public_url: PublicUrl,
    pub upstreams: BTreeMap<UpstreamName, Arc<Upstream>>,
    pub cors: Option<Cors>,
    /// In seconds; what `maxTimeoutSeconds` of a bill says.
    pub challenge_lifetime: u64,
    /// What a bill asks of a block's work.
    pub thresholds: Thresholds,
    pub limits: EdgeLimits,
    /// The upstreams are watched until this is dropped.
    pub watched: watch::Sender<bool>,
}

/// Bounds that the edge holds.
#[derive(Clone, Copy, Debug)]
pub struct EdgeLimits {
    /// How long a connection may stay open without a request.
    pub idle_connection: Duration,
    /// Bytes of an unwanted request body that are read to keep its connection.
    pub drained_body: u64,
}

/// Which web pages of other origins may read answers and pay.
#[derive(Clone, Debug)]
pub struct Cors(pub Origins);

/// What a page must be able to read of an answer.
const EXPOSED: &str = "PAYMENT-REQUIRED, PAYMENT-RESPONSE, PAYMENT-CAPABILITY, Retry-After";
/// What a page may put on a request beside what it asks for. Official clients send the last one,
/// which is a response header's name.
const ALLOWED: &str = "PAYMENT-SIGNATURE, PAYMENT-CAPABILITY, X-PAYMENT, Content-Type, Authorization, Access-Control-Expose-Headers";
const PREFLIGHT_SECONDS: &str = "600";

impl Cors {
    #[must_use]
    pub fn allows(&self, origin: &str) -> bool {
        match &self.0 {
            Origins::Any => true,
            Origins::These(these) => these.iter().any(|it| it == origin),
        }
    }

    /// Lets a page of `origin` read this answer and its payment headers.
    pub(super) fn expose(&self, response: &mut ResponseHeader, origin: &str) -> Result<()> {
        if !response.headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
            let origin = if self.0 == Origins::Any { "*" } else { origin };
            response.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, origin)?;
        }
        response.append_header(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED)?;
        response.append_header(VARY, "Origin")?;
        Ok(())
    }

    /// Allows what a preflight asks for: the price is asked for when the request itself comes.
    pub(super) fn answer_preflight(response: &mut ResponseHeader, request: &HeaderMap) -> Result<()> {
        let asked = |name| request.get(name).and_then(|it: &HeaderValue| it.to_str().ok());
        let method = asked(ACCESS_CONTROL_REQUEST_METHOD).unwrap_or("GET").to_owned();
        response.insert_header(ACCESS_CONTROL_ALLOW_METHODS, method)?;
        let headers = match asked(ACCESS_CONTROL_REQUEST_HEADERS) {
            Some(more) if !more.trim().is_empty() => format!("{ALLOWED}, {more}"),
            Some(_) | None => ALLOWED.to_owned(),
        };
        response.insert_header(ACCESS_CONTROL_ALLOW_HEADERS, headers)?;
        response.insert_header(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS)?;
        Ok(())
    }
}
