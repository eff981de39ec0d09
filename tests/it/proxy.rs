//! The gateway as a proxy: what passes through it, what does not, and who pays when it goes wrong.

mod bills;
mod early;
mod forwarding;
mod give_back;
mod headers;
mod lifetime;
mod outage;
mod redirects;
mod vocabulary;
pub(crate) mod wire;

use crate::metrics::sample;
use crate::rig::{PLENTY, Plan, Rig, capability};
use wire::Played;

/// Routes with uses to spare.
const ROOMY: &str = r#"
  - { name: roomy, match: "/v1/search/**", upstream: api, price: 1 raw, grants: { requests: 1000, within: 1h } }
  - { name: once, match: "/once/**", upstream: api, price: 1 raw }
  - { match: "/free/**", upstream: api, free: true }
"#;

/// A gateway with [`ROOMY`] routes and a capability for the first.
async fn roomy() -> (Rig, String) {
    let rig = Rig::with(Plan { routes: ROOMY.to_owned(), ..Plan::default() }).await;
    let token = bought(&rig, "/v1/search/bought").await;
    (rig, token)
}

/// Pays `path` and gives the capability.
async fn bought(rig: &Rig, path: &str) -> String {
    let key = rig.payer(1, PLENTY);
    let answer = rig.pay(&key, path).await;
    assert_eq!(answer.status(), 200);
    capability(&answer).0
}

/// A gateway whose `/raw/**` leads to an upstream that the test plays, and a capability for it with
/// 9 uses left. `options` go to the upstream, `route` to the route.
pub(crate) async fn played(options: &str, route: &str, rest: &str) -> (Rig, Played, String) {
    let mut upstream = Played::start().await;
    let more = format!("  raw: {{ url: \"{}\"{options} }}\n{rest}", upstream.url);
    let routes = format!(
        "{ROOMY}\n  - {{ name: raw, match: \"/raw/**\", upstream: raw, price: 1 raw, grants: {{ requests: 10, within: 1h }}{route} }}\n"
    );
    let rig = Rig::with(Plan { more, routes, ..Plan::default() }).await;
    let (token, ()) = tokio::join!(bought(&rig, "/raw/bought"), upstream.play(OK));
    (rig, upstream, token)
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// How many requests of a route ended as `outcome`.
pub(crate) fn requests(rig: &Rig, route: &str, outcome: &str) -> u64 {
    sample(rig, &format!("requests_total{{outcome=\"{outcome}\",route=\"{route}\"}}")) as u64
}
