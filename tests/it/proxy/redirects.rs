//! Redirects of an upstream to itself: where they lead, and what they cost.

use super::wire::{Answer, Played, Wire};
use super::{OK, bought};
use crate::metrics::Uses;
use crate::patience::eventually;
use crate::rig::{PLENTY, Plan, Rig, capability, offers};

/// A gateway before an upstream that the test plays.
struct Scene {
    rig: Rig,
    upstream: Played,
}

impl Scene {
    /// `base` stands after the upstream's URL, `options` and `route` among the settings of both.
    async fn with(base: &str, options: &str, route: &str) -> Self {
        let upstream = Played::start().await;
        let more = format!("  raw: {{ url: \"{}{base}\"{options} }}\n", upstream.url);
        let routes = format!(
            "  - {{ match: \"/free/**\", upstream: raw, free: true }}\n  \
             - {{ name: raw, match: \"/raw/**\", upstream: raw, price: 1 raw, \
             grants: {{ requests: 10, within: 1h }}{route} }}\n"
        );
        let rig = Rig::with(Plan { more, routes, ..Plan::default() }).await;
        Self { rig, upstream }
    }

    /// A capability with 9 uses left.
    async fn token(&mut self) -> String {
        let (token, ()) = tokio::join!(bought(&self.rig, "/raw/bought"), self.upstream.play(OK));
        format!("PAYMENT-CAPABILITY: {token}")
    }

    /// `text` with the addresses of this scene in it.
    fn filled(&self, text: &str) -> String {
        let authority = self.upstream.url.trim_start_matches("http://");
        text.replace("UPSTREAM", &self.upstream.url)
            .replace("AUTHORITY", authority)
            .replace("GATEWAY", &self.rig.url)
    }

    /// The answer to a request for `path` if the upstream answers with `status` and these lines.
    async fn ask(&mut self, path: &str, with: &str, status: u16, lines: &str) -> Answer {
        let mut wire = Wire::open(&self.rig.url).await;
        wire.ask(&format!("GET {path}"), &[with]).await;
        let lines = self.filled(lines);
        self.upstream.play(&format!("HTTP/1.1 {status} X\r\nContent-Length: 4\r\n{lines}\r\n\r\nbody")).await;
        wire.answer().await
    }
}

/// What becomes of these values of `Location` behind an upstream with this base path and these options.
async fn lead(base: &str, options: &str, cases: &[(&str, &str)]) {
    let mut scene = Scene::with(base, options, "").await;
    for (given, expected) in cases {
        for name in ["Location", "Content-Location"] {
            let answer = scene.ask("/free/a/b?q=1", "X-None: 1", 302, &format!("{name}: {given}")).await;
            let expected = scene.filled(expected);
            assert_eq!(answer.one(name), expected, "{name}: {given} at {base:?}{options}");
        }
        let answer = scene.ask("/free/a/b", "X-None: 1", 200, &format!("Refresh: 5;URL='{given}'")).await;
        let kept = scene.filled(&format!("5;URL='{given}'"));
        let changed = format!("5; url={}", scene.filled(expected));
        let refresh = answer.one("refresh");
        assert!(refresh == changed || (given == expected && refresh == kept), "{refresh} of {given}");
    }
    scene.rig.end().await;
}

/// Regression: they named the upstream, and passed as they were.
#[tokio::test]
async fn a_redirect_to_the_upstream_leads_to_the_gateway() {
    lead(
        "",
        "",
        &[
            ("UPSTREAM/next?a=1#b", "GATEWAY/next?a=1#b"),
            ("UPSTREAM", "GATEWAY/"),
            ("https://AUTHORITY/next", "GATEWAY/next"),
            ("//AUTHORITY/next", "GATEWAY/next"),
            ("HTTP://user:secret@AUTHORITY/next", "GATEWAY/next"),
            ("GATEWAY/next", "GATEWAY/next"),
            // The Host of the request: an upstream may know it from X-Forwarded-Host.
            ("https://gateway.test/next", "GATEWAY/next"),
            ("http://Gateway.Test:80/next", "GATEWAY/next"),
            ("http://gateway.test:8080/next", "http://gateway.test:8080/next"),
            ("/next", "/next"),
            ("next?c", "next?c"),
            ("?c", "?c"),
            ("https://elsewhere.example/next", "https://elsewhere.example/next"),
            ("//elsewhere.example/next", "//elsewhere.example/next"),
            ("mailto:someone@AUTHORITY", "mailto:someone@AUTHORITY"),
            ("http://[bad", "http://[bad"),
        ],
    )
    .await;
}

#[tokio::test]
async fn a_redirect_below_the_base_path_leads_to_the_path_that_clients_know() {
    lead(
        "/base",
        "",
        &[
            ("UPSTREAM/base/next", "GATEWAY/next"),
            ("UPSTREAM/base?a", "GATEWAY/?a"),
            ("UPSTREAM/base/../base/next", "GATEWAY/next"),
            ("https://gateway.test/base/next", "GATEWAY/next"),
            ("https://gateway.test/next", "GATEWAY/next"),
            ("/base/next?a#b", "/next?a#b"),
            ("/base", "/"),
            ("next", "/free/a/next"),
            ("../next", "/free/next"),
            ("?c", "/free/a/b?c"),
            // Nothing at the gateway leads there.
            ("UPSTREAM/other", "UPSTREAM/other"),
            ("UPSTREAM/basement", "UPSTREAM/basement"),
            ("/other", "/other"),
            ("/base/../other", "/base/../other"),
        ],
    )
    .await;
}

#[tokio::test]
async fn redirects_can_be_kept_and_the_clients_host_is_known_if_it_is_preserved() {
    let as_it_is = [("UPSTREAM/base/next", "UPSTREAM/base/next"), ("/base/next", "/base/next")];
    lead("/base", ", redirects: keep", &as_it_is).await;
    let preserved =
        [("https://gateway.test/base/next", "GATEWAY/next"), ("UPSTREAM/base/next", "GATEWAY/next")];
    lead("/base", ", host_header: preserve", &preserved).await;
}

/// Regression: behind a balancer that speaks TLS, one request cost as many uses as its client followed
/// redirects.
#[tokio::test]
async fn a_redirect_to_what_has_a_price_is_not_charged_for() {
    for location in ["https://AUTHORITY/raw/x", "/raw/next", "next?a", "GATEWAY/raw/y#part"] {
        let mut scene = Scene::with("", "", "").await;
        let token = scene.token().await;
        for status in [301, 302, 303, 307, 308] {
            let lines = format!("Location: {location}\r\nContent-Type: text/html");
            let answer = scene.ask("/raw/x", &token, status, &lines).await;
            assert_eq!((answer.status, answer.remaining()), (status, 9), "{location}");
            assert_eq!(answer.text(), "", "what is not charged for is not handed out");
        }
        let next = scene.ask("/raw/next", &token, 200, "X-None: 1").await;
        assert_eq!((next.remaining(), next.text()), (8, "body"), "the request that follows is charged");
        eventually("counted", || async {
            Uses::of(&scene.rig, "raw") == Uses { committed: 2, given_back: 5 }
        })
        .await;
        scene.rig.end().await;
    }
}

/// A price may be one of this host only.
#[tokio::test]
async fn a_redirect_to_what_has_a_price_at_this_host_is_not_charged_for() {
    let another = "  - { name: other, host: other.test, match: \"/other/**\", upstream: raw, price: 1 raw";
    let mut scene = Scene::with("", "", &format!(", host: gateway.test }}\n{another}")).await;
    let host = ("Host", "gateway.test");
    let offer = offers(&scene.rig.get("/raw/bought", &[host]).await).offers.remove(0);
    let (proof, _) = scene.rig.txn(&scene.rig.payer(1, PLENTY), &offer);
    let headers = [host, ("PAYMENT-SIGNATURE", proof.as_str())];
    let (paid, ()) = tokio::join!(scene.rig.get("/raw/bought", &headers), scene.upstream.play(OK));
    let token = format!("PAYMENT-CAPABILITY: {}", capability(&paid).0);
    let answer = scene.ask("/raw/x", &token, 302, "Location: /raw/next").await;
    assert_eq!((answer.status, answer.remaining()), (302, 9));
    let next = scene.ask("/raw/next", &token, 200, "X-None: 1").await;
    assert_eq!((next.remaining(), next.text()), (8, "body"));
    let nowhere = scene.ask("/raw/x", &token, 302, "Location: /other/x").await;
    assert_eq!((nowhere.status, nowhere.remaining()), (302, 7), "that has a price at another host only");
    scene.rig.end().await;
}

/// What else has the form of a redirect is an answer: nothing that is charged for need follow it.
#[tokio::test]
async fn any_other_redirect_counts() {
    let mut scene = Scene::with("", "", "").await;
    let token = scene.token().await;
    let mut left = 9;
    for (status, lines) in [
        (302, "X-None: 1"),
        (302, "Location: /free/x"),
        (302, "Location: https://elsewhere.example/raw/x"),
        (302, "Location: /raw/x\r\nLocation: /raw/y"),
        (304, "Location: /raw/x"),
        (201, "Location: /raw/x"),
    ] {
        let answer = match status {
            304 => {
                let mut wire = Wire::open(&scene.rig.url).await;
                wire.ask("GET /raw/x", &[&token]).await;
                scene.upstream.play("HTTP/1.1 304 X\r\nLocation: /raw/x\r\n\r\n").await;
                wire.head().await
            }
            _ => scene.ask("/raw/x", &token, status, lines).await,
        };
        left -= 1;
        assert_eq!((answer.status, answer.remaining()), (status, left), "{lines}");
        assert_eq!(answer.body.is_empty(), status == 304);
    }
    scene.rig.end().await;
    for (route, left) in [(", charge_on: answered", 8), (", charge_on: below_400", 9)] {
        let mut scene = Scene::with("", "", route).await;
        let token = scene.token().await;
        let answer = scene.ask("/raw/x", &token, 302, "Location: /raw/x").await;
        assert_eq!((answer.status, answer.remaining()), (302, left), "{route}");
        scene.rig.end().await;
    }
}

#[tokio::test]
async fn a_redirect_loop_cannot_be_used_without_end() {
    let mut scene = Scene::with("", "", "").await;
    let token = scene.token().await;
    let mut remaining = 9;
    for round in 1..=54 {
        let answer = scene.ask("/raw/x", &token, 302, "Location: /raw/x").await;
        let is_charged = round % 6 == 0;
        remaining -= u32::from(is_charged);
        assert_eq!((answer.status, answer.remaining()), (302, remaining), "{round}");
        assert_eq!(answer.text(), if is_charged { "body" } else { "" }, "{round}");
    }
    let mut wire = Wire::open(&scene.rig.url).await;
    wire.ask("GET /raw/x", &[&token]).await;
    let end = wire.answer().await;
    assert_eq!((end.status, end.json()["error"].as_str()), (402, Some("CAPABILITY_EXHAUSTED")));
    assert!(scene.upstream.is_idle());
    eventually("counted", || async { Uses::of(&scene.rig, "raw") == Uses { committed: 10, given_back: 45 } })
        .await;
    scene.rig.end().await;
}
