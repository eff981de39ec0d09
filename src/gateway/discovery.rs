//! Published documents about the prices: a manifest, an OpenAPI document and a guide for language
//! models. They are written once for each configuration.
//!
//! They only advise. What a request costs is what its 402 says.

mod guide;
mod manifest;
mod openapi;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use blake2::digest::consts::U16;
use blake2::{Blake2b, Digest};
use bytes::Bytes;
use http::StatusCode;
use http::header::{
    ACCESS_CONTROL_ALLOW_ORIGIN, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
};
use pingora::http::ResponseHeader;
use pingora::prelude::{Result, Session};

use super::reply;
use super::request_id::RequestId;
use crate::config::{Config, PublicUrl};
use crate::payment::Mechanism;
use crate::routes::{CanonicalTarget, Found, HostPattern, PriceTable, RequestHead, Route, RouteName};

/// The `route` label of requests for these documents.
const LABEL: &str = "discovery";
/// How long a copy may be used without asking again.
const FRESH: &str = "public, max-age=60";

const MANIFEST: &str = "/.well-known/x402";
const MANIFEST_JSON: &str = "/.well-known/x402.json";
const OPENAPI: &str = "/openapi.json";
const LLMS: &str = "/llms.txt";

/// The documents of one configuration, by their path.
#[derive(Clone, Debug)]
pub struct Documents {
    by_path: BTreeMap<&'static str, Arc<Document>>,
    /// The paths that some route has letter for letter, under conditions.
    contested: BTreeSet<&'static str>,
    pub label: RouteName,
}

/// One of them, ready to be sent.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Document {
    kind: &'static str,
    body: Bytes,
    etag: String,
}

/// What the documents are written from.
struct Published<'a> {
    config: &'a Config,
    /// The URLs of the other documents that are published.
    openapi: Option<String>,
    llms: Option<String>,
}

impl Documents {
    /// Writes the documents of `config`. If the price table names a document's exact path, the route
    /// has it. A pattern such as `/**` does not hide it.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let wanted = &config.discovery;
        let open = |on: bool, path: &str| on && !is_taken(config, path);
        let url = |path: &str| config.public_url.join(path);
        let published = Published {
            config,
            openapi: open(wanted.openapi, OPENAPI).then(|| url(OPENAPI)),
            llms: open(wanted.llms, LLMS).then(|| url(LLMS)),
        };
        let mut by_path = BTreeMap::new();
        for path in [MANIFEST, MANIFEST_JSON] {
            if open(wanted.x402, path) {
                by_path.insert(path, Document::new("application/json", manifest::write(&published)));
            }
        }
        if published.openapi.is_some() {
            by_path.insert(OPENAPI, Document::new("application/json", openapi::write(&published)));
        }
        if published.llms.is_some() {
            by_path.insert(LLMS, Document::new("text/plain; charset=utf-8", guide::write(&published)));
        }
        let contested = by_path.keys().copied().filter(|path| is_named(config, path, |_| true)).collect();
        Self { by_path, contested, label: RouteName::new(LABEL) }
    }

    /// Whether a request is answered with one of them, whatever the price table says.
    #[must_use]
    pub fn answer(&self, request: &RequestHead<'_>, table: &PriceTable) -> bool {
        self.find(request, table).is_some()
    }

    /// The document that a request asks for.
    pub(super) fn find(&self, request: &RequestHead<'_>, table: &PriceTable) -> Option<Arc<Document>> {
        let path = request.target.path();
        let document = self.by_path.get(path).filter(|_| ["GET", "HEAD"].contains(&request.method))?;
        let is_a_routes = self.contested.contains(path)
            && match table.find(request) {
                Found::Route(route) => route.pattern.is_one_path(),
                Found::Unclear(_) => true,
                Found::Unmatched => false,
            };
        (!is_a_routes).then(|| Arc::clone(document))
    }
}

/// Whether some route has a document's path letter for letter, whatever a request's other parts are.
fn is_taken(config: &Config, path: &str) -> bool {
    is_named(config, path, |route| route.conditions.is_empty())
}

/// Whether a route that is `wanted` has a path letter for letter.
fn is_named(config: &Config, path: &str, wanted: impl Fn(&Route) -> bool) -> bool {
    let Ok(target) = CanonicalTarget::parse(path) else { return true };
    let candidates = config.table.candidates(&RequestHead::new("GET", &target));
    candidates.iter().any(|it| it.route.pattern.is_one_path() && wanted(it.route))
}

impl Document {
    fn new(kind: &'static str, text: String) -> Arc<Self> {
        let digest: [u8; 16] = Blake2b::<U16>::digest(text.as_bytes()).into();
        Arc::new(Self { kind, body: Bytes::from(text), etag: format!("\"{}\"", hex::encode(digest)) })
    }

    /// Answers a request for the document. Any client and any web page may read it.
    pub(super) async fn send(&self, session: &mut Session, id: &RequestId) -> Result<()> {
        let known = session.req_header().headers.get_all(IF_NONE_MATCH);
        let is_known = known.iter().filter_map(|it| it.to_str().ok()).any(|it| self.is_among(it));
        let status = if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK };
        let mut response = ResponseHeader::build(status, Some(6))?;
        response.insert_header(ETAG, self.etag.as_str())?;
        response.insert_header(CACHE_CONTROL, FRESH)?;
        response.insert_header(ACCESS_CONTROL_ALLOW_ORIGIN, "*")?;
        if !is_known {
            response.insert_header(CONTENT_TYPE, self.kind)?;
            response.insert_header(CONTENT_LENGTH, self.body.len())?;
        }
        reply::write(session, id, response, (!is_known).then(|| self.body.clone())).await
    }

    /// Whether a list of entity tags names this document (RFC 9110 section 13.1.2).
    fn is_among(&self, tags: &str) -> bool {
        tags.split(',')
            .map(str::trim)
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag)
    }
}

impl Published<'_> {
    /// The API's name.
    fn title(&self) -> &str {
        self.config.discovery.title.as_deref().unwrap_or(self.config.public_url.authority())
    }

    /// The routes that are not hidden, in the order of the file.
    fn routes(&self) -> impl Iterator<Item = &Route> {
        self.config.table.routes().iter().map(AsRef::as_ref).filter(|route| !route.hidden)
    }

    /// A route's path as a URL. For an open pattern it is the path before its `**`, which may be empty. If
    /// the route is for one host, the URL is there.
    fn url(&self, route: &Route) -> String {
        let (segments, _) = route.pattern.template();
        let path = segments.iter().fold(String::new(), |path, part| format!("{path}/{part}"))
            + if segments.is_empty() { "/" } else { "" };
        self.origin(route).join(&path)
    }

    /// Where a route is reached.
    fn origin(&self, route: &Route) -> PublicUrl {
        let public = &self.config.public_url;
        route.conditions.host().and_then(HostPattern::one).map_or_else(|| public.clone(), |it| public.at(it))
    }

    /// How a route can be paid for, in the order of its bills.
    fn mechanisms(&self, route: &Route) -> &[Mechanism] {
        self.config.mechanisms.get(&route.name).unwrap_or(&self.config.nano.mechanisms)
    }

    fn priced(&self) -> impl Iterator<Item = &Route> {
        self.routes().filter(|route| !route.access.is_free())
    }
}
