//! What one loaded configuration says about requests: prices, upstreams, origins, limits. A reload
//! exchanges it as a whole, so that no request sees half of two.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderValue, VARY,
};
use http::{HeaderMap, HeaderName};
use pingora::http::ResponseHeader;
use pingora::prelude::Result;
use tokio::sync::watch;

use super::bill_text::{AddressTexts, BillText};
use super::body::BodyBudget;
use super::discovery::Documents;
use super::upstream::Upstream;
use crate::access_log::LoggedRequests;
use crate::config::{Origins, PublicUrl, RailHint};
use crate::listen::TrustedProxies;
use crate::metrics::RouteSeries;
use crate::nano::Raw;
use crate::rates::Rates;
use crate::routes::{PreflightRule, PriceTable, RouteName, UpstreamName};
use crate::x402::WorkTerms;

pub use crate::config::Unmatched;

/// The edge's view of a configuration.
#[derive(Debug)]
pub struct Tariff {
    pub table: PriceTable,
    /// What the prices in other currencies are in raw.
    pub rates: Arc<Rates>,
    pub unmatched: Unmatched,
    pub public_url: PublicUrl,
    pub upstreams: BTreeMap<UpstreamName, Arc<Upstream>>,
    /// What is published about the prices.
    pub documents: Documents,
    /// What is kept for each route, and for the documents.
    pub by_route: HashMap<RouteName, Arc<AtRoute>>,
    /// The same for requests that match none.
    pub by_no_route: Arc<AtRoute>,
    /// The texts of the addresses that bills name.
    pub addresses: AddressTexts,
    pub cors: Option<CorsPolicy>,
    /// Who answers preflights, unless a route says otherwise.
    pub preflight: PreflightRule,
    /// If less is left of what is closed, it is not sent back.
    pub refunds_at_least: Raw,
    /// `maxTimeoutSeconds` of a bill, in seconds.
    pub challenge_lifetime: u64,
    /// What a bill says about how XNO is got.
    pub rail_hint: Option<RailHint>,
    /// What a bill says about a block's work.
    pub work: WorkTerms,
    pub limits: EdgeLimits,
    /// Which requests have a line in the access log.
    pub logged: LoggedRequests,
    /// The proxies that are believed about their clients.
    pub proxies: TrustedProxies,
    /// For the bodies that are read before the decision.
    pub bodies: BodyBudget,
    /// The upstreams are watched until this is dropped.
    pub watched: watch::Sender<bool>,
}

/// What is kept for one route, so that no request makes it again.
#[derive(Debug)]
pub struct AtRoute {
    pub(super) series: RouteSeries,
    pub(super) bills: BillText,
}

impl AtRoute {
    /// Of a route with this label in metrics. Nothing is kept yet.
    #[must_use]
    pub fn new(label: &str) -> Arc<Self> {
        Arc::new(Self { series: RouteSeries::new(label), bills: BillText::default() })
    }

    /// The `route` label of metrics.
    #[must_use]
    pub fn label(&self) -> &str {
        self.series.label()
    }

    /// Of no route.
    #[must_use]
    pub fn unmatched() -> Arc<Self> {
        Self::new(NO_ROUTE)
    }
}

impl Tariff {
    pub(super) fn at(&self, route: &RouteName) -> Arc<AtRoute> {
        Arc::clone(self.by_route.get(route).unwrap_or(&self.by_no_route))
    }
}

/// Limits of the edge.
#[derive(Clone, Copy, Debug)]
pub struct EdgeLimits {
    /// How long a connection may stay open without a request.
    pub idle_connection: Duration,
    /// How long a client may pause in its body.
    pub body_idle: Duration,
    /// Bytes of an unneeded request body that are read to keep its connection.
    pub drained_body: u64,
    /// Requests of one client at the same time that hold no paid use.
    pub unpaid_per_client: usize,
    /// Settlements of one client at the same time.
    pub settlements_per_client: usize,
    /// Of the unpaid requests, those at upstreams.
    pub free_forwards_per_client: usize,
    /// As before, of all clients together.
    pub free_forwards: usize,
    /// Answers a second to one client that sell nothing.
    pub bills_per_client: u32,
}

/// Which web pages of other origins may read answers and pay.
#[derive(Clone, Debug)]
pub struct CorsPolicy {
    pub origins: Origins,
    /// Never together with [`Origins::Any`].
    pub credentials: bool,
}

/// The `route` label of requests that matched none.
const NO_ROUTE: &str = "unmatched";

/// Response headers that a page must be able to read.
const EXPOSED: &str = "PAYMENT-REQUIRED, PAYMENT-RESPONSE, PAYMENT-CAPABILITY, Retry-After, X-Request-Id, Faregate-Allowance, Faregate-Shadow, Idempotent-Replayed, X-PAYMENT-ADDRESS, X-PAYMENT-AMOUNT, X-PAYMENT-TAG, X-PAYMENT-SESSION, X-PAYMENT-EXPIRES";
/// Request headers that a page may send in any case. Official clients send the last one, although it
/// is the name of a response header.
const ALLOWED: &str = "PAYMENT-SIGNATURE, PAYMENT-CAPABILITY, DPoP, X-PAYMENT, X-PAYMENT-BLOCK, X-PAYMENT-SESSION, Content-Type, Authorization, Access-Control-Expose-Headers";
/// A preflight's header is repeated in its answer up to this many bytes.
const MAX_ASKED: usize = 2048;
const PREFLIGHT_SECONDS: &str = "600";

impl CorsPolicy {
    #[must_use]
    pub fn allows(&self, origin: &str) -> bool {
        match &self.origins {
            Origins::Any => true,
            Origins::These(these) => these.iter().any(|it| it == origin),
        }
    }

    /// Lets a page of `origin` read this answer and its payment headers. Without an allowed origin the
    /// answer only says that it depends on the origin, and what the upstream allows stays.
    pub(super) fn expose(&self, response: &mut ResponseHeader, origin: Option<&str>) -> Result<()> {
        extend_list(response, VARY, "Origin")?;
        let Some(origin) = origin else { return Ok(()) };
        if self.origins == Origins::Any {
            response.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, "*")?;
            // Browsers refuse the two together.
            let _removed = response.remove_header(&ACCESS_CONTROL_ALLOW_CREDENTIALS);
        } else {
            response.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, origin)?;
            if self.credentials {
                response.insert_header(ACCESS_CONTROL_ALLOW_CREDENTIALS, "true")?;
            }
        }
        extend_list(response, ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED)
    }

    /// Allows what a preflight asks for. The request itself is billed when it comes.
    pub(super) fn answer_preflight(response: &mut ResponseHeader, request: &HeaderMap) -> Result<()> {
        let asked = |name| {
            let value = request.get(name).and_then(|it: &HeaderValue| it.to_str().ok());
            value.filter(|it| it.len() <= MAX_ASKED)
        };
        let method = asked(ACCESS_CONTROL_REQUEST_METHOD).unwrap_or("GET").to_owned();
        response.insert_header(ACCESS_CONTROL_ALLOW_METHODS, method)?;
        response.insert_header(ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED)?;
        extend_list(
            response,
            ACCESS_CONTROL_ALLOW_HEADERS,
            asked(ACCESS_CONTROL_REQUEST_HEADERS).unwrap_or_default(),
        )?;
        response.insert_header(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS)?;
        Ok(())
    }
}

/// Writes a list header as one line, with those names of `more` that it lacks.
pub(super) fn extend_list(response: &mut ResponseHeader, name: HeaderName, more: &str) -> Result<()> {
    if !response.headers.contains_key(&name) {
        return response.insert_header(name, more);
    }
    let mut names: Vec<String> = Vec::new();
    let given = response.headers.get_all(&name).iter().filter_map(|it| it.to_str().ok());
    for item in given.chain([more]).flat_map(|it| it.split(',')).map(str::trim) {
        if !item.is_empty() && !names.iter().any(|it| it.eq_ignore_ascii_case(item)) {
            names.push(item.to_owned());
        }
    }
    response.insert_header(name, names.join(", "))
}
