//! The admin API: who may ask, what it tells, and what it changes. The program and its command line are in
//! [`crate::serve`].

mod document;
mod free;
mod revocation;

use std::sync::Arc;

use faregate::nano::Raw;
use pingora::apps::http_app::HttpServer;
use reqwest::{Client, RequestBuilder, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::patience::{http_client, soon};
use crate::rig::{PLENTY, Plan, Rig, capability, header};

/// The lines of a configuration with an admin API.
pub(crate) const ADMIN: &str = "admin: { listen: 127.0.0.1:0, token_file: admin.token }\n";

/// The admin API of a rig.
pub(crate) struct Api {
    pub(crate) url: String,
    pub(crate) token: String,
    http: Client,
    stop: watch::Sender<bool>,
    serving: JoinHandle<()>,
}

impl Api {
    pub(crate) async fn of(rig: &Rig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, shutdown) = watch::channel(false);
        let app = Arc::new(HttpServer::new_app(rig.services.admin()));
        let serving = tokio::spawn(faregate::listen::serve(listener, app, shutdown));
        let token = std::fs::read_to_string(rig.folder.path().join("admin.token")).unwrap_or_default();
        Self { url, token: token.trim().to_owned(), http: http_client().build().unwrap(), stop, serving }
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.url);
        self.http.request(method.parse().unwrap(), url).bearer_auth(&self.token)
    }

    /// The answer to a GET, which must be 200.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, value) = said(self.request("GET", path).send().await.unwrap()).await;
        assert_eq!(status, 200, "{path}: {value}");
        value
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        said(self.request("POST", path).json(body).send().await.unwrap()).await
    }

    /// What is wrong with a GET.
    pub(crate) async fn problem(&self, path: &str) -> (u16, String) {
        let (status, value) = said(self.request("GET", path).send().await.unwrap()).await;
        (status, value["detail"].as_str().unwrap_or_else(|| panic!("{path}: {value}")).to_owned())
    }

    pub(crate) async fn end(self) {
        self.stop.send_replace(true);
        soon("the operator's listener ends", self.serving).await.unwrap();
    }
}

async fn said(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

pub(crate) async fn with_api() -> (Rig, Api) {
    let rig = Rig::with(Plan { more: ADMIN.to_owned(), ..Plan::default() }).await;
    let api = Api::of(&rig).await;
    (rig, api)
}

/// Buys five searches. Gives the token, of which one use is spent, and the id of the capability.
pub(crate) async fn bought(rig: &Rig, payer: u32) -> (String, String) {
    let paid = rig.pay(&rig.payer(payer, PLENTY), "/v1/search/x").await;
    assert_eq!(paid.status(), 200);
    let token = capability(&paid).0;
    let id = id_of(&token);
    (token, id)
}

/// A token begins with its version and the public name of the capability.
pub(crate) fn id_of(token: &str) -> String {
    use base64::Engine;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(token).unwrap();
    hex::encode(&bytes[1..17])
}

#[tokio::test]
async fn without_a_token_file_there_is_no_api_and_it_says_so() {
    let rig =
        Rig::with(Plan { more: "admin: { listen: 127.0.0.1:0 }\n".to_owned(), ..Plan::default() }).await;
    let api = Api::of(&rig).await;
    for path in ["/v1/status", "/v1", "/v1/anything"] {
        let (status, detail) = api.problem(path).await;
        assert_eq!(status, 404);
        assert!(detail.contains("admin.token_file"), "{detail}");
    }
    assert_eq!(api.request("GET", "/healthz").send().await.unwrap().status(), 200);
    api.end().await;
    rig.end().await;
}

#[tokio::test]
async fn whoever_has_not_the_token_is_told_nothing_and_locks_nobody_out() {
    let (rig, api) = with_api().await;
    assert!(api.token.len() >= 32);
    let url = format!("{}/v1/status", api.url);
    let wrong = "0".repeat(api.token.len());
    let refused = [
        api.http.get(&url),
        api.http.get(&url).bearer_auth(&wrong),
        api.http.get(&url).bearer_auth(&api.token[1..]),
        api.http.get(&url).bearer_auth(format!("{}0", api.token)),
        api.http.get(&url).basic_auth("admin", Some(&api.token)),
        api.http.get(&url).bearer_auth(&api.token).bearer_auth(&api.token),
        api.http.get(format!("{}/v1/no-such-thing", api.url)),
        api.http.post(format!("{}/v1/drain", api.url)),
    ];
    for request in refused {
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 401);
        assert!(header(&answer, "www-authenticate").starts_with("Bearer"));
        assert_eq!(header(&answer, "content-type"), "application/problem+json");
        assert_eq!(said(answer).await.1["type"], "urn:faregate:problem:token_refused");
    }
    let mut statuses = Vec::new();
    for _ in 8..25 {
        statuses.push(api.http.get(&url).bearer_auth(&wrong).send().await.unwrap().status().as_u16());
    }
    assert_eq!(statuses[..12], [401; 12]);
    assert_eq!(statuses[12..], [429; 5], "failures are limited");
    assert_eq!(api.get("/v1/status").await["ready"], true, "and the right token is let in");
    api.end().await;
    rig.end().await;
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_what_to_do() {
    let (rig, api) = with_api().await;
    for (path, words) in [
        ("/v1/payments?limit=1001", "1 to 1000"),
        ("/v1/payments?limit=0", "1 to 1000"),
        ("/v1/payments?stat=granted", "known there: route, payer, state"),
        ("/v1/payments?state=paid", "intent, parked, granted, failed"),
        ("/v1/payments?since=yesterday", "2026-01-31"),
        ("/v1/payments?cursor=AAAA", "unchanged"),
        ("/v1/payments?payer=nano_1", "payer"),
        ("/v1/capabilities/xyz", "32 hexadecimal digits"),
        ("/v1/capabilities?open=yes", "`true` or `false`"),
    ] {
        let (status, detail) = api.problem(path).await;
        assert_eq!(status, 400, "{path}: {detail}");
        assert!(detail.contains(words), "{path}: {detail}");
    }
    assert_eq!(api.problem("/v1/nothing").await.0, 404);
    assert_eq!(api.problem(&format!("/v1/payments/{}", "0".repeat(64))).await.0, 404);
    assert_eq!(api.problem(&format!("/v1/capabilities/{}", "0".repeat(32))).await.0, 404);
    let wrong = api.request("POST", "/v1/routes").send().await.unwrap();
    assert_eq!((wrong.status().as_u16(), header(&wrong, "allow")), (405, "GET"));
    let wrong = api.request("DELETE", "/v1/capabilities").send().await.unwrap();
    assert_eq!((wrong.status().as_u16(), header(&wrong, "allow")), (405, "GET, POST"));
    let text = api.request("POST", "/v1/capabilities").body("route=search").send().await.unwrap();
    assert_eq!(text.status(), 415);
    let long = serde_json::json!({ "route": "x".repeat(70_000) });
    assert_eq!(api.post("/v1/capabilities", &long).await.0, 413);
    assert_eq!(api.get("/v1/capabilities").await["capabilities"], serde_json::json!([]), "nothing was given");
    api.end().await;
    rig.end().await;
}

#[tokio::test]
async fn payments_are_found_by_what_they_are_and_page_by_page() {
    let (rig, api) = with_api().await;
    let (one, other) = (rig.payer(1, PLENTY), rig.payer(2, PLENTY));
    for (key, path) in [(&one, "/paid"), (&one, "/v1/search/x"), (&other, "/paid"), (&other, "/v1/search/y")]
    {
        assert_eq!(rig.pay(key, path).await.status(), 200);
    }
    let listed = |value: &Value| -> Vec<u64> {
        value["payments"].as_array().unwrap().iter().map(|it| it["sequence"].as_u64().unwrap()).collect()
    };
    let all = api.get("/v1/payments").await;
    assert_eq!((listed(&all), &all["next"]), (vec![4, 3, 2, 1], &Value::Null), "the newest first");
    let first = api.get("/v1/payments?limit=3").await;
    assert_eq!(listed(&first), [4, 3, 2]);
    let next = first["next"].as_str().unwrap();
    assert_eq!(listed(&api.get(&format!("/v1/payments?limit=3&cursor={next}")).await), [1]);
    let block = all["payments"][1]["block"].as_str().unwrap();
    for (query, found) in [
        ("route=paid".to_owned(), &[3, 1][..]),
        (format!("payer={}", one.account()), &[2, 1]),
        (format!("payer={}&route=search", other.account()), &[4]),
        ("state=granted".to_owned(), &[4, 3, 2, 1]),
        ("state=failed".to_owned(), &[]),
        ("since=1h".to_owned(), &[4, 3, 2, 1]),
        ("until=1h".to_owned(), &[]),
        ("until=2020-01-01".to_owned(), &[]),
        (format!("block={block}"), &[3]),
        (format!("block={block}&route=search"), &[]),
    ] {
        assert_eq!(listed(&api.get(&format!("/v1/payments?{query}")).await), found, "{query}");
    }
    let shown = api.get(&format!("/v1/payments/{block}")).await;
    assert_eq!(shown, all["payments"][1]);
    assert_eq!(
        (shown["payer"].as_str(), shown["amount_raw"].as_str()),
        (Some(&*other.account().to_string()), Some("1"))
    );
    api.end().await;
    rig.end().await;
}

#[tokio::test]
async fn capabilities_are_shown_without_their_tokens() {
    let (rig, api) = with_api().await;
    let (token, id) = bought(&rig, 1).await;
    assert_eq!(rig.get("/v1/search/x", &[("PAYMENT-CAPABILITY", &token)]).await.status(), 200);
    assert_eq!(rig.pay(&rig.payer(2, PLENTY), "/paid").await.status(), 200);
    crate::rig::eventually("the uses are recorded", async || {
        api.get(&format!("/v1/capabilities/{id}")).await["spent"] == 2
    })
    .await;
    let all = api.get("/v1/capabilities").await;
    let text = all.to_string();
    assert!(!text.contains(&token), "{text}");
    let listed = all["capabilities"].as_array().unwrap();
    assert_eq!((listed[0]["route"].as_str(), listed[1]["route"].as_str()), (Some("paid"), Some("search")));
    let shown = api.get(&format!("/v1/capabilities/{id}")).await;
    for (name, value) in [
        ("id", Value::from(id.as_str())),
        ("state", "open".into()),
        ("uses", 5.into()),
        ("left", 3.into()),
        ("free", false.into()),
        ("payer", rig.payer(1, Raw::new(1)).account().to_string().into()),
        ("revoked", Value::Null),
    ] {
        assert_eq!(shown[name], value, "{name}: {shown}");
    }
    let open = api.get("/v1/capabilities?open=true").await;
    assert_eq!(open["capabilities"].as_array().unwrap().len(), 1, "one is used up");
    let page = api.get("/v1/capabilities?limit=1").await;
    let next = page["next"].as_str().unwrap();
    let rest = api.get(&format!("/v1/capabilities?limit=1&cursor={next}")).await;
    assert_eq!(rest["capabilities"][0]["id"], id.as_str());
    api.end().await;
    rig.end().await;
}
