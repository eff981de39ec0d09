//! Attacks on prices that depend on host, query and headers: a request that the gateway and the upstream
//! could read differently is refused, and never served for the cheaper price.

use serde_json::Value;

use crate::proxy::wire::{Answer, Wire};
use crate::rig::{PLENTY, Plan, Rig, capability, error, header, offers};
use crate::scripted::{Reply, Seen};

/// Each dear thing has a free or cheaper neighbour with the same path.
const ROUTES: &str = r#"
  - { name: large, match: "/img", query: { size: large }, upstream: api, price: 100 raw }
  - { match: "/img", name: usual, upstream: api, free: true }
  - { name: gold, match: "GET,POST /tier", headers: { X-Tier: gold }, upstream: api, price: 100 raw }
  - { match: "/tier", name: tin, upstream: api, free: true }
  - { name: cheap, match: "/render", query: { size: small }, headers: { X-Priority: low }, upstream: api, price: 1 raw }
  - { match: "/render", upstream: api, price: 100 raw }
  - { name: shop, host: shop.example, match: "/**", upstream: kept, price: 100 raw }
  - { name: shops, host: "*.shop.example", match: "/llm/**", strip: /llm, upstream: based, price: 10 raw, grants: { requests: 9, within: 1h }, payment_identifier: optional }
  - { name: below, match: "/llm/**", strip: /llm, upstream: api, free: true, preflight: upstream }
"#;

async fn house() -> Rig {
    let more = "  kept: { url: \"UPSTREAM\", host_header: preserve }\n  based: { url: \"UPSTREAM/base\", host_header: preserve }\n";
    let answer = Box::new(|_: &_| Reply::text(200, "served").with("Vary", "Accept"));
    Rig::with(Plan { routes: ROUTES.to_owned(), more: more.to_owned(), answer, ..Plan::default() }).await
}

/// Sends a head as it is: the request line without its version, and whole header lines.
async fn send(rig: &Rig, line: &str, headers: &[&str]) -> Answer {
    let mut wire = Wire::open(&rig.url).await;
    let lines: String = headers.iter().map(|it| format!("{it}\r\n")).collect();
    wire.send(format!("{line} HTTP/1.1\r\n{lines}\r\n")).await;
    if line.starts_with("HEAD ") { wire.head().await } else { wire.answer().await }
}

async fn amount(rig: &Rig, line: &str, headers: &[&str]) -> String {
    let answer = send(rig, line, headers).await;
    assert_eq!(answer.status, 402, "{line} {headers:?}: {}", answer.text());
    answer.json()["accepts"][0]["amount"].as_str().unwrap().to_owned()
}

const HOST: &str = "Host: any.example";

/// The upstream would take the last of two parameters, fold letter case, or decode: it is never asked.
#[tokio::test]
async fn no_spelling_of_a_query_gets_what_is_dear_for_less() {
    let rig = house().await;
    for query in [
        "size=small&size=large",
        "size=large&size=small",
        "Size=large",
        "size=LARGE",
        "size=%6Carge",
        "s%69ze=large",
        "size[]=large",
        "size=small,large",
        "q=1;size=large",
        "size",
        "size=",
        "size=large%00",
        "%73%69%7A%65=large",
        "size=%256Carge",
        "+size=large",
        "size=large+",
    ] {
        let answer = send(&rig, &format!("GET /img?{query}"), &[HOST]).await;
        assert_eq!(answer.status, 400, "{query}");
        let message = answer.json()["message"].as_str().unwrap().to_owned();
        assert!(message.contains("the price depends on the query parameter `size`: it"), "{message}");
    }
    assert_eq!(rig.effects().forwarded, 0);
    assert_eq!(amount(&rig, "GET /IMG/?q=1&size=large", &[HOST]).await, "100");
    for query in ["", "?size=small", "?q=size%3Dlarge", "?oversize=large"] {
        assert_eq!(send(&rig, &format!("GET /img{query}"), &[HOST]).await.status, 200, "{query}");
    }
    rig.end().await;
}

#[tokio::test]
async fn no_spelling_of_a_header_gets_what_is_dear_for_less() {
    let rig = house().await;
    for lines in [
        &["X-Tier: gold", "X-Tier: tin"][..],
        &["X-Tier: tin", "X-Tier: gold"],
        &["X_Tier: gold"],
        &["X-Tier: Gold"],
        &["X-Tier: tin, gold"],
        &["X-Tier: gold;a=b"],
        &["X-Tier: \"gold\""],
        &["X-Tier: gold\u{e9}"],
        &["X-Tier:"],
        &["X-Tier: gold", "Connection: X-Tier"],
        &["X-Tier: tin", "Connection: keep-alive, x-tier"],
    ] {
        let answer = send(&rig, "GET /tier", &[&[HOST], lines].concat()).await;
        assert_eq!(answer.status, 400, "{lines:?}");
        assert!(answer.text().contains("header `x-tier`: "), "{}", answer.text());
        assert_eq!(answer.one("vary").rsplit(", ").next(), Some("x-tier"), "{lines:?}");
    }
    assert_eq!(rig.effects().forwarded, 0);
    for method in ["GET", "HEAD", "POST"] {
        let bill =
            send(&rig, &format!("{method} /tier"), &[HOST, "x-tier:  gold ", "Content-Length: 0"]).await;
        assert_eq!(bill.status, 402, "{method}");
    }
    let free = send(&rig, "GET /tier", &[HOST, "X-Tier: tin"]).await;
    assert_eq!(
        (free.status, free.one("vary")),
        (200, "Accept, x-tier"),
        "no cache serves it to who sends gold"
    );
    assert_eq!(send(&rig, "PUT /tier", &[HOST, "X-Tier: gold", "Content-Length: 0"]).await.status, 200);
    let elsewhere = send(&rig, "GET /img", &[HOST]).await;
    assert_eq!(elsewhere.one("vary"), "Accept");
    rig.end().await;
}

/// Where the condition is on the cheaper route, whatever does not meet it costs the full price.
#[tokio::test]
async fn all_conditions_of_the_cheaper_route_must_be_met() {
    let rig = house().await;
    assert_eq!(amount(&rig, "GET /render?size=small", &[HOST, "X-Priority: low"]).await, "1");
    for (query, priority) in
        [("?size=small", "high"), ("?size=tiny", "low"), ("", "low"), ("?size=smaller", "low")]
    {
        let priority = format!("X-Priority: {priority}");
        assert_eq!(
            amount(&rig, &format!("GET /render{query}"), &[HOST, &priority]).await,
            "100",
            "{query} {priority}"
        );
    }
    // What was paid for the cheaper route opens only that one.
    let key = rig.payer(1, PLENTY);
    let bill = rig.get("/render?size=small", &[("X-Priority", "low")]).await;
    let offer = offers(&bill).offers.remove(0);
    let (proof, _) = rig.txn(&key, &offer);
    let dear = rig.get("/render", &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!((dear.status().as_u16(), error(dear).await.as_str()), (402, "WRONG_RESOURCE"));
    let cheap = rig.get("/render?size=small", &[("X-Priority", "low"), ("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(cheap.status(), 200);
    assert!(header(&cheap, "vary").contains("x-priority"), "{:?}", cheap.headers());
    rig.end().await;
}

/// The host that is matched is the one that the upstream sees.
#[tokio::test]
async fn no_spelling_of_a_host_gets_past_its_price() {
    let rig = house().await;
    let shop = async |line: &str, headers: &[&str]| send(&rig, line, headers).await;
    for (line, headers) in [
        ("GET /img", &["Host: shop.example"][..]),
        ("GET /elsewhere", &["Host: shop.example"]),
        ("GET /elsewhere", &["Host: SHOP.example:8402"]),
        ("GET http://shop.example/elsewhere", &["Host: shop.example"]),
    ] {
        let closer_path = line == "GET /img";
        assert_eq!(
            shop(line, headers).await.status,
            if closer_path { 200 } else { 402 },
            "{line} {headers:?}"
        );
    }
    for (line, headers) in [
        ("GET /elsewhere", &["Host: shop.example."][..]),
        ("GET /elsewhere", &["Host: a..shop.example"]),
        ("GET /elsewhere", &["Host: shop.example", "Host: any.example"]),
        ("GET http://any.example/elsewhere", &["Host: shop.example"]),
        ("GET http://shop.example/elsewhere", &["Host: any.example"]),
        ("GET /elsewhere", &["Host:"]),
    ] {
        assert_eq!(shop(line, headers).await.status, 400, "{line} {headers:?}");
    }
    let mut wire = Wire::open(&rig.url).await;
    wire.send("GET /elsewhere HTTP/1.0\r\n\r\n").await;
    let nameless = wire.answer().await;
    assert!(nameless.status == 400 && nameless.text().contains("the request names none"), "{nameless:?}");
    assert_eq!(shop("GET /elsewhere", &["Host: any.example"]).await.status, 404);
    let bill = shop("GET /elsewhere?a=b", &["Host: SHOP.example"]).await.json();
    let port = rig.url.rsplit(':').next().unwrap();
    assert_eq!(bill["resource"]["url"], format!("http://shop.example:{port}/elsewhere?a=b"));
    assert_eq!(rig.effects().forwarded, 1, "/img alone");
    rig.end().await;
}

#[tokio::test]
async fn the_upstream_sees_the_path_without_the_prefix_and_is_told_of_it() {
    let rig = house().await;
    for (path, seen) in [
        ("/llm/v1/chat?a=/llm", "/v1/chat?a=/llm"),
        ("/LLM/v1/", "/v1/"),
        ("/%6clm", "/"),
        ("/llm/?x", "/?x"),
        ("/llm/llm/a%20b", "/llm/a%20b"),
    ] {
        let answer = rig.get(path, &[("X-Forwarded-Prefix", "/evil"), ("X_Forwarded_Prefix", "/evil")]).await;
        assert_eq!(answer.status(), 200);
        let request = rig.upstream.seen().pop().unwrap();
        assert_eq!(request.path, seen);
        let told: Vec<_> = request
            .headers()
            .iter()
            .filter(|(name, _)| name.to_lowercase().replace('_', "-") == "x-forwarded-prefix")
            .collect();
        assert_eq!(told.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["/llm"], "{path}");
    }
    for path in ["/llm//v1", "/llm/../img", "/llm/%2e%2e/img", "/llm/..%2fimg"] {
        let answer = send(&rig, &format!("GET {path}"), &[HOST]).await;
        assert_eq!(answer.status, 400, "{path}");
    }
    // A preflight for the upstream goes the same way.
    let asked = send(
        &rig,
        "OPTIONS /llm/v1",
        &[HOST, "Origin: https://a.example", "Access-Control-Request-Method: GET"],
    )
    .await;
    assert_eq!((asked.status, rig.upstream.seen().pop().unwrap().path.as_str()), (200, "/v1"));
    rig.end().await;
}

/// An upstream that does not know of the prefix, and one that heeds `X-Forwarded-Prefix`.
#[tokio::test]
async fn a_redirect_of_the_upstream_leads_below_the_prefix() {
    let answer = Box::new(|seen: &Seen| Reply::text(302, "").with("Location", seen.header("x-to").unwrap()));
    let routes = "\n  - { match: \"/llm/**\", strip: /llm, upstream: api, free: true }\n".to_owned();
    let rig = Rig::with(Plan { routes, answer, ..Plan::default() }).await;
    let upstream = rig.upstream.url.origin().ascii_serialization();
    for (location, expected) in [
        ("/v1/y?z".to_owned(), "/llm/v1/y?z".to_owned()),
        ("/".to_owned(), "/llm/".to_owned()),
        ("y".to_owned(), "/llm/v1/y".to_owned()),
        ("/llm/v1".to_owned(), "/llm/v1".to_owned()),
        (format!("{upstream}/v1"), format!("{}/llm/v1", rig.url)),
        ("https://elsewhere.example/v1".to_owned(), "https://elsewhere.example/v1".to_owned()),
    ] {
        let answer = rig.get("/llm/v1/x", &[("X-To", &location)]).await;
        assert_eq!(header(&answer, "location"), expected, "{location}");
    }
    rig.end().await;
}

/// An id stands for one request, and a request to another host is another one.
#[tokio::test]
async fn an_identifier_does_not_lead_to_the_answer_of_another_host() {
    let rig = house().await;
    let key = rig.payer(1, PLENTY);
    let at = async |host: &str, proof: Option<&str>| {
        let mut request = rig.http.get(format!("{}/llm/x", rig.url)).header("Host", host);
        if let Some(proof) = proof {
            request = request.header("PAYMENT-SIGNATURE", proof);
        }
        request.send().await.unwrap()
    };
    let bill = at("a.shop.example", None).await;
    assert_eq!(bill.status(), 402);
    let offer = offers(&bill).offers.remove(0);
    let (proof, _) = rig.txn(&key, &offer);
    let with_id = with_identifier(&proof, "an-id-of-sixteen-letters");
    let paid = at("a.shop.example", Some(&with_id)).await;
    assert_eq!(paid.status(), 200);
    let (token, left) = capability(&paid);
    assert_eq!(left, 8);
    let request = rig.upstream.seen().pop().unwrap();
    assert_eq!((request.path.as_str(), request.header("host")), ("/base/x", Some("a.shop.example")));
    assert_eq!(request.header("x-forwarded-prefix"), Some("/llm"));
    assert_eq!(at("A.shop.example", Some(&with_id)).await.status(), 200, "the same host again");
    assert_eq!(at("b.shop.example", Some(&with_id)).await.status(), 409);
    let elsewhere = rig.http.get(format!("{}/llm/x", rig.url)).header("Host", "b.shop.example");
    let used = elsewhere.header("PAYMENT-CAPABILITY", token).send().await.unwrap();
    assert_eq!((used.status().as_u16(), capability(&used).1), (200, 7), "the route was bought");
    rig.end().await;
}

/// The envelope of a proof, with a payment identifier in it.
fn with_identifier(proof: &str, id: &str) -> String {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    let mut payload: Value = serde_json::from_slice(&engine.decode(proof).unwrap()).unwrap();
    payload["extensions"] = serde_json::json!({ "payment-identifier": { "info": { "id": id } } });
    engine.encode(payload.to_string())
}

/// A grant follows its name only to where a use costs no more, and conditions are a part of where.
#[tokio::test]
async fn a_name_that_is_moved_to_other_conditions_takes_no_cheap_grant_along() {
    let routes = |name: &str, price: &str, conditions: &str| {
        format!(
            "\n  - {{ name: {name}, match: \"/img\", {conditions} upstream: api, price: {price}, grants: {{ requests: 9, within: 1h }} }}\n"
        )
    };
    let small = routes("img", "1 raw", "query: { size: small },");
    let rig = Rig::with(Plan { routes: small.clone(), ..Plan::default() }).await;
    let key = rig.payer(1, PLENTY);
    let (token, _) = capability(&rig.pay(&key, "/img?size=small").await);
    let status = async |path: &str| rig.get(path, &[("PAYMENT-CAPABILITY", &token)]).await.status().as_u16();
    assert_eq!(status("/img?size=small").await, 200);
    rig.services.reload(&rig.config("", &routes("img", "100 raw", "query: { size: large },"))).await.unwrap();
    assert_eq!(status("/img?size=large").await, 410, "bought for the small one");
    rig.services.reload(&rig.config("", &routes("img", "100 raw", "query: { size: small },"))).await.unwrap();
    assert_eq!(status("/img?size=small").await, 200, "bought is bought, whatever it costs since");
    rig.services.reload(&rig.config("", &routes("img", "1 raw", ""))).await.unwrap();
    assert_eq!(status("/img").await, 200, "it costs no more there");
    rig.end().await;
}
