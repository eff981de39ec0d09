//! What the fuzz targets in `tests/fuzz` call of this module's private functions.

use std::io::Cursor;
use std::net::IpAddr;

use futures_util::FutureExt;
use http::HeaderMap;
use pingora::http::RequestHeader;
use pingora::prelude::Session;

use super::{framing, target};
use crate::listen::{TrustedProxies, forwarded};
use crate::routes::CanonicalTarget;

/// What is read of the head of a request.
#[derive(Debug)]
pub struct ReadHead {
    pub request: RequestHeader,
    /// The target that is matched, or why it is refused.
    pub target: Result<CanonicalTarget, String>,
    /// The target that is forwarded, if it is not refused.
    pub forwarded: Option<Vec<u8>>,
    /// Whether a body follows; `None` if that is ambiguous.
    pub has_body: Option<bool>,
}

/// Reads a request of HTTP/1 as the gateway does; `None` if it is refused before the gateway sees it.
#[must_use]
pub fn read_head(bytes: &[u8]) -> Option<ReadHead> {
    let mut session = Session::new_h1(Box::new(Cursor::new(bytes.to_vec())));
    let read = session.as_downstream_mut().read_request().now_or_never()?;
    if !read.ok()? {
        return None;
    }
    let request = session.req_header().clone();
    let target = target::canonical(&session).map(|(target, _host)| target);
    let forwarded = target.as_ref().ok().and_then(|target| {
        let mut request = request.clone();
        request.set_raw_path(target.as_str().as_bytes()).ok()?;
        Some(request.raw_path().to_vec())
    });
    let has_body = framing::check(&mut session).ok();
    Some(ReadHead { request, target, forwarded, has_body })
}

/// The client that a proxy at `peer` names; `None` if its headers are not believed.
#[must_use]
pub fn client_named_by(peer: IpAddr, headers: &HeaderMap, proxies: &TrustedProxies) -> Option<IpAddr> {
    forwarded::client_named(Some(peer), headers, proxies).ok().flatten()
}
