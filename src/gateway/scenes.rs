//! What unit tests of the gateway begin with: requests over HTTP/1 as sessions, and a configuration.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt;
use pingora::prelude::Session;

use super::context::Forwarding;
use super::upstream::{PeerSecurity, Upstream};
use crate::admission::Admission;
use crate::config::Config;
use crate::routes::CanonicalTarget;

/// A request with this head.
pub(super) fn session(head: &str) -> Session {
    let mut session = Session::new_h1(Box::new(Cursor::new(head.as_bytes().to_vec())));
    let read = session.as_downstream_mut().read_request().now_or_never().unwrap();
    assert!(read.unwrap());
    session
}

/// The configuration of `https://shop.example` whose one upstream has these settings.
pub(super) fn config(upstream: &str) -> Config {
    let text = format!(
        "public_url: https://shop.example\nlisten: {{ http: \"127.0.0.1:8402\" }}\n\
         nano: {{ nodes: [\"http://127.0.0.1:1\"], pool: {{ seed_file: pool.seed, size: 8 }} }}\n\
         upstreams: {{ api: {{ {upstream} }} }}\nroutes: [{{ match: /v1/**, upstream: api, price: 1 raw }}]\n"
    );
    Config::parse(&text, "test.yaml", Path::new("."), |_| None).unwrap()
}

/// The upstream with these settings. Nothing is known of its addresses.
pub(super) fn upstream(settings: &str) -> Upstream {
    let (name, settings) = config(settings).upstreams.into_iter().next().unwrap();
    Upstream::new(name, &settings, PeerSecurity::default())
}

/// A free request to `/a/b?q=1` on its way to an upstream with these settings.
pub(super) fn forwarding(settings: &str, has_body: bool) -> Forwarding {
    Forwarding {
        admission: Admission::free(),
        upstream: Arc::new(upstream(settings)),
        target: CanonicalTarget::parse("/a/b?q=1").unwrap(),
        strip: None,
        has_body,
        is_preflight: false,
        is_quiet: false,
        drops_body: false,
        chosen: None,
        unreached: Vec::new(),
        is_repeated: false,
    }
}
