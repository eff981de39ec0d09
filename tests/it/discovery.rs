//! What is published about the prices: true to the price table, silent on what is hidden, free and
//! behind nothing.

use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::rig::{Plan, Rig, header, offers};

const PATHS: [&str; 4] = ["/.well-known/x402", "/.well-known/x402.json", "/openapi.json", "/llms.txt"];

const ROUTES: &str = r#"
  - { match: "GET /v1/quote/{symbol}", upstream: api, price: 0.0001 XNO, description: "A \"quote\" <b>", mime_type: application/json }
  - { name: search, match: "/v1/search/**", upstream: api, price: 0.01 XNO, grants: { requests: 100, within: 1h } }
  - { match: "/v1/search/{id}", upstream: api, price: 3 raw, mechanisms: [nanoSignature, nanoTxn] }
  - { match: "GET /v1/both/{a}", upstream: api, price: 5 raw }
  - { match: "POST /v1/both/{b}", upstream: api, price: 6 raw }
  - { match: "/docs/**", upstream: api, free: true }
  - { name: hush, match: "/v1/internal/{confidential}", upstream: api, price: 7 raw, hidden: true }
  - { match: "GET /v1/partly", upstream: api, price: 8 raw, hidden: true }
  - { match: "/v1/partly", upstream: api, price: 9 raw }
  - name: tools
    match: POST /mcp
    upstream: api
    mcp: { methods: { ping: free, tools/call: 5 raw }, tools: { search: 10 raw, secretive: refuse } }
"#;

async fn scene(more: &str) -> Rig {
    Rig::with(Plan { routes: ROUTES.to_owned(), more: more.to_owned(), ..Plan::default() }).await
}

async fn json(rig: &Rig, path: &str) -> Value {
    let answer = rig.get(path, &[]).await;
    assert_eq!((answer.status(), header(&answer, "content-type")), (StatusCode::OK, "application/json"));
    answer.json().await.unwrap()
}

async fn text(rig: &Rig, path: &str) -> String {
    rig.get(path, &[]).await.text().await.unwrap()
}

async fn ask(rig: &Rig, method: Method, path: &str) -> Response {
    rig.http.request(method, format!("{}{path}", rig.url)).send().await.unwrap()
}

#[tokio::test]
async fn the_manifest_has_each_price_as_it_is_billed() {
    let rig = scene("").await;
    let manifest = json(&rig, "/.well-known/x402").await;
    assert_eq!(manifest, json(&rig, "/.well-known/x402.json").await);
    assert_eq!((&manifest["version"], &manifest["x402Version"]), (&json!(1), &json!(2)));
    assert_eq!(manifest["openapi"], format!("{}/openapi.json", rig.url));
    let resources: Vec<_> =
        manifest["resources"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    let expected = [
        "/v1/quote/{symbol}",
        "/v1/search",
        "/v1/search/{id}",
        "/v1/both/{a}",
        "/v1/both/{b}",
        "/v1/partly",
        "/mcp",
    ];
    assert_eq!(resources, expected.map(|it| format!("{}{it}", rig.url)));

    // What is published is what is billed, to the raw and the second.
    for item in manifest["items"].as_array().unwrap().iter().filter(|it| it.get("terms").is_some()) {
        let path = item["resource"].as_str().unwrap().strip_prefix(&rig.url).unwrap();
        let path = path.replace(['{', '}'], "");
        let method = item["method"].as_str().unwrap_or("PUT").parse().unwrap();
        let answer = ask(&rig, method, &path).await;
        assert_eq!(answer.status(), 402, "{path}");
        let bill: Value = answer.json().await.unwrap();
        let billed: Vec<_> = bill["accepts"].as_array().unwrap().iter().map(|it| json!({
            "scheme": it["scheme"], "network": it["network"], "asset": it["asset"], "amount": it["amount"],
            "maxTimeoutSeconds": it["maxTimeoutSeconds"],
            "extra": { "mechanism": it["extra"]["mechanism"], "grants": it["extra"]["grants"] },
        })).collect();
        assert_eq!(item["terms"], Value::from(billed), "{path}");
        assert_eq!(item["route"], bill["accepts"][0]["extra"]["route"]);
        assert_eq!(item.get("description"), bill["resource"].get("description"));
        assert_eq!(item.get("mimeType"), bill["resource"].get("mimeType"));
    }
    let mcp = manifest["items"].as_array().unwrap().last().unwrap();
    let calls: Vec<_> = mcp["calls"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            assert_eq!(it["free"], it["terms"].as_array().unwrap().is_empty());
            (it["method"].as_str().unwrap(), it["tool"].as_str(), it["terms"][0]["amount"].as_str())
        })
        .collect();
    assert_eq!(
        calls,
        [("ping", None, None), ("tools/call", None, Some("5")), ("tools/call", Some("search"), Some("10"))]
    );
    rig.end().await;
}

#[tokio::test]
async fn the_openapi_document_has_each_route_once_and_at_its_price() {
    let rig = scene("discovery: { title: Quotes, description: Two words., contact: a@example.com }").await;
    let api = json(&rig, "/openapi.json").await;
    assert_eq!(api["openapi"], "3.1.0");
    assert_eq!(api["servers"], json!([{ "url": rig.url }]));
    assert_eq!(
        (&api["info"]["title"], &api["info"]["contact"]["email"]),
        (&json!("Quotes"), &json!("a@example.com"))
    );
    let mut found = Vec::new();
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(key, _)| *key != "parameters") {
            let price = &operation["x-payment-info"]["price"];
            let amount = &operation["x-payment-info"]["protocols"][0]["x402"]["amount"];
            let shown = |it: &Value| it.as_str().unwrap_or("-").to_owned();
            found.push(format!("{method} {path} {} {}", shown(&price["amount"]), shown(amount)));
            assert_eq!(operation["security"], json!([]));
            assert_eq!(operation["responses"].get("402").is_some(), price.is_object());
            // Each parameter of the template is declared.
            let names: Vec<_> = item
                .get("parameters")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .map(|it| format!("{{{}}}", it["name"].as_str().unwrap()))
                .collect();
            assert_eq!(path.matches('{').count(), names.len());
            assert!(names.iter().all(|name| path.contains(name)), "{path}: {names:?}");
        }
    }
    let tiny = |raw: u128| format!("0.{raw:030} {raw}");
    let mut expected = vec![
        "get /v1/quote/{symbol} 0.0001 100000000000000000000000000".to_owned(),
        format!("get /v1/both/{{a}} {}", tiny(5)),
        format!("post /v1/both/{{a}} {}", tiny(6)),
        "post /mcp - -".to_owned(),
    ];
    for method in ["get", "post", "put", "patch", "delete"] {
        expected.push(format!("{method} /v1/search/{{id}} {}", tiny(3)));
        expected.push(format!("{method} /v1/search/{{rest1}}/{{rest}} 0.01 10000000000000000000000000000"));
        expected.push(format!("{method} /docs/{{rest}} - -"));
        if method != "get" {
            expected.push(format!("{method} /v1/partly {}", tiny(9)));
        }
    }
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let mcp = &api["paths"]["/mcp"]["post"]["x-payment-info"]["price"];
    assert_eq!(
        *mcp,
        json!({ "mode": "dynamic", "currency": "XNO", "min": "0", "max": "0.00000000000000000000000000001" })
    );
    rig.end().await;
}

/// Every `$ref` below a value.
fn references(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str);
            own.into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(items) => items.iter().flat_map(references).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

#[tokio::test]
async fn the_openapi_document_says_in_words_what_is_sold_and_refers_to_what_is_in_it() {
    let rig = scene("").await;
    let api = json(&rig, "/openapi.json").await;
    let of = |method: &str, path: &str| api["paths"][path][method].clone();
    let described = |method: &str, path: &str| of(method, path)["description"].as_str().unwrap().to_owned();
    assert_eq!(
        described("get", "/v1/quote/{symbol}"),
        "0.0001 XNO (100000000000000000000000000 raw) for 1 request within 1h. Covers `GET /v1/quote/{symbol}`."
    );
    assert_eq!(described("get", "/docs/{rest}"), "Free. Covers `/docs/**`.");
    let mcp = described("post", "/mcp");
    let start = "An MCP endpoint, priced by what is called; a payment buys 1 request within 1h, and a batch costs \
                 the sum. ";
    assert!(mcp.starts_with(start) && mcp.ends_with(" Covers `POST /mcp`."), "{mcp}");
    assert!(mcp.contains("free") && mcp.contains("search") && !mcp.contains("secretive"), "{mcp}");

    let body = of("post", "/mcp")["requestBody"].clone();
    assert_eq!(
        (&body["required"], &body["content"]["application/json"]["schema"]["type"]),
        (&json!(true), &json!(["object", "array"]))
    );
    assert_eq!(of("post", "/v1/both/{a}")["requestBody"], json!({ "content": { "*/*": {} } }));
    assert_eq!(of("get", "/v1/both/{a}").get("requestBody"), None);

    let rest = api["paths"]["/v1/search/{rest1}/{rest}"]["parameters"].as_array().unwrap();
    let said: Vec<_> =
        rest.iter().map(|it| (it["name"].as_str().unwrap(), it.get("description").is_some())).collect();
    assert_eq!(said, [("rest1", false), ("rest", true)], "only the last may hold slashes");

    let references = references(&api);
    assert!(references.contains(&"#/components/schemas/PaymentRequirements"), "{references:?}");
    for reference in references {
        assert!(api.pointer(reference.strip_prefix('#').unwrap()).is_some(), "{reference} is not in it");
    }
    rig.end().await;
}

/// Where letter case counts, a slash at the end does too.
#[tokio::test]
async fn the_openapi_document_has_a_slash_at_the_end_where_it_counts() {
    let routes = r#"
  - { name: root, match: "GET /", upstream: api, free: true }
  - { name: leaf, match: "GET /a", upstream: api, free: true, case_sensitive: true }
  - { name: folder, match: "POST /a/", upstream: api, free: true, case_sensitive: true }
  - { name: loose, match: "GET /b/", upstream: api, free: true }
"#;
    let rig = Rig::with(Plan { routes: routes.to_owned(), ..Plan::default() }).await;
    let paths = json(&rig, "/openapi.json").await["paths"].clone();
    let told = |item: &Value| item.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let found: Vec<_> =
        paths.as_object().unwrap().iter().map(|(path, item)| (path.as_str(), told(item))).collect();
    let one = |method: &str| vec![method.to_owned()];
    assert_eq!(found, [("/", one("get")), ("/a", one("get")), ("/a/", one("post")), ("/b", one("get"))]);
    rig.end().await;
}

#[tokio::test]
async fn the_guide_says_each_price_in_words() {
    let rig = scene("discovery: { description: Two words. }").await;
    let guide = text(&rig, "/llms.txt").await;
    let authority = rig.url.strip_prefix("http://").unwrap();
    assert!(guide.starts_with(&format!("# {authority}\n\n> Two words.\n")), "{guide}");
    for line in [
        "- `GET /v1/quote/{symbol}`: 0.0001 XNO (100000000000000000000000000 raw) for 1 request within 1h. A \"quote\" <b>",
        "- `/v1/search/**`: 0.01 XNO (10000000000000000000000000000 raw) for 100 requests within 1h",
        "  - tool `search`: 0.00000000000000000000000000001 XNO (10 raw)",
        "  - method `ping`: free",
        "- `/docs/**`",
    ] {
        assert!(guide.lines().any(|it| it == line), "{line:?} is not in:\n{guide}");
    }
    assert!(guide.contains("   - `nanoTxn`: ") && !guide.contains("nanoSession"), "{guide}");
    for proof in [
        "`{\"block\": <a signed send block with its work>}`",
        "sign `<block hash>:<extra.nonce>:<extra.validBefore>`",
    ] {
        assert!(guide.contains(proof), "{proof} is not in:\n{guide}");
    }
    assert!(!guide.contains("anything else"), "what is refused is not on offer");
    rig.end().await;
}

#[tokio::test]
async fn what_is_hidden_refused_or_behind_is_nowhere() {
    let rig = scene("").await;
    let upstream = rig.upstream.url.port().unwrap().to_string();
    for path in PATHS {
        let text = text(&rig, path).await;
        for word in ["hush", "internal", "confidential", "secretive", "8 raw", &upstream, "\"api\"", "rest_"]
        {
            assert!(!text.contains(word), "{word:?} is in {path}");
        }
    }
    let partly = &json(&rig, "/openapi.json").await["paths"]["/v1/partly"];
    assert!(partly.get("get").is_none() && partly.get("post").is_some(), "the hidden method of an open path");
    rig.end().await;
}

#[tokio::test]
async fn a_copy_is_fresh_until_the_configuration_changes() {
    let rig = scene("").await;
    for path in PATHS {
        let first = rig.get(path, &[]).await;
        let tag = header(&first, "etag").to_owned();
        assert_eq!(header(&first, "cache-control"), "public, max-age=60");
        assert_eq!(header(&first, "access-control-allow-origin"), "*");
        let length = header(&first, "content-length").to_owned();
        assert_eq!(first.bytes().await.unwrap().len().to_string(), length);
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()] {
            let again = rig.get(path, &[("If-None-Match", &known)]).await;
            assert_eq!((again.status().as_u16(), header(&again, "etag")), (304, tag.as_str()));
            assert_eq!(again.bytes().await.unwrap().len(), 0);
        }
        assert_eq!(rig.get(path, &[("If-None-Match", "\"other\"")]).await.status(), 200);
        let head = ask(&rig, Method::HEAD, path).await;
        assert_eq!((head.status().as_u16(), header(&head, "content-length")), (200, length.as_str()));
        assert_eq!(rig.get(&format!("{path}?utm=1"), &[]).await.status(), 200);

        let reloaded = rig.config("", &ROUTES.replace("price: 0.01 XNO", "price: 0.02 XNO"));
        rig.services.reload(&reloaded).await.unwrap();
        let changed = rig.get(path, &[("If-None-Match", &tag)]).await;
        assert_eq!(changed.status(), 200, "{path}");
        assert!(changed.text().await.unwrap().contains("20000000000000000000000000000"));
        rig.services.reload(&rig.config("", ROUTES)).await.unwrap();
        assert_eq!(header(&rig.get(path, &[]).await, "etag"), tag, "the same prices, the same document");
    }
    let metrics = rig.services.metrics().text().unwrap();
    assert!(metrics.contains(r#"requests_total{outcome="free",route="discovery"}"#), "{metrics}");
    assert_eq!(rig.upstream.seen().len(), 0);
    rig.end().await;
}

#[tokio::test]
async fn a_priced_pattern_does_not_hide_them_and_a_literal_route_replaces_them() {
    let catch_all = "  - { match: \"/**\", upstream: api, price: 1 raw }\n";
    let rig = Rig::with(Plan { routes: catch_all.to_owned(), ..Plan::default() }).await;
    // Without a node nothing is sold, but the prices can be read.
    for path in PATHS {
        assert_eq!(rig.get(path, &[]).await.status(), 200, "{path}");
        for (method, other) in [
            (Method::POST, path.to_owned()),
            (Method::GET, format!("{path}/")),
            (Method::GET, path.to_uppercase()),
        ] {
            let answer = ask(&rig, method.clone(), &other).await;
            assert_eq!(answer.status(), 402, "{method} {other} is not theirs");
            assert_eq!(offers(&answer).offers[0].amount.get(), 1);
        }
    }
    let literal = format!("{catch_all}  - {{ match: \"GET /openapi.json\", upstream: api, free: true }}\n");
    rig.services.reload(&rig.config("", &literal)).await.unwrap();
    assert_eq!(text(&rig, "/openapi.json").await, "upstream saw GET /openapi.json");
    assert!(json(&rig, "/.well-known/x402").await["openapi"].is_null());
    assert!(!text(&rig, "/llms.txt").await.contains("/openapi.json\n"));

    rig.services.reload(&rig.config("discovery: { llms: false }", catch_all)).await.unwrap();
    assert_eq!(rig.get("/llms.txt", &[]).await.status(), 402);
    assert!(json(&rig, "/.well-known/x402").await["llms"].is_null());
    assert!(json(&rig, "/openapi.json").await.get("x-service-info").is_none());
    rig.services.reload(&rig.config("discovery: false", catch_all)).await.unwrap();
    for path in PATHS {
        assert_eq!(rig.get(path, &[]).await.status(), 402, "{path}");
    }
    // Where nothing covers them, an upstream that is open to the rest does not get them either.
    let open = "  - { match: /a, upstream: api, price: 1 raw }\nunmatched: { upstream: api, free: true }";
    rig.services.reload(&rig.config("", open)).await.unwrap();
    assert!(text(&rig, "/llms.txt").await.contains("## How to pay"));
    rig.end().await;
}

/// Prices that depend on more than the path, and a route with the path of a document at other hosts.
const CONDITIONAL: &str = r#"
  - { name: large, match: "POST,GET /img", query: { size: large }, upstream: api, price: 100 raw }
  - { name: gold, match: "GET,POST /img", query: { size: large }, headers: { X-Tier: gold }, upstream: api, price: 50 raw }
  - { match: "/img", upstream: api, price: 1 raw }
  - { name: cart, host: shop.example, match: "GET /cart", upstream: api, price: 7 raw }
  - { name: own, host: "*.shop.example", match: "GET /openapi.json", upstream: api, price: 8 raw, hidden: true }
"#;

#[tokio::test]
async fn what_a_price_depends_on_is_published_with_it() {
    let rig = Rig::with(Plan { routes: CONDITIONAL.to_owned(), ..Plan::default() }).await;
    let port = rig.url.rsplit(':').next().unwrap();
    let manifest = json(&rig, "/.well-known/x402").await;
    let item = |name: &str| {
        let items = manifest["items"].as_array().unwrap();
        items.iter().find(|it| it["route"] == name).unwrap().clone()
    };
    let gold = item("gold");
    assert_eq!((&gold["methods"], gold.get("method")), (&json!(["GET", "POST"]), None));
    assert_eq!(
        (&gold["query"], &gold["headers"]),
        (&json!({ "size": "large" }), &json!({ "x-tier": "gold" }))
    );
    assert_eq!((item("large").get("headers"), item("/img").get("query")), (None, None));
    let cart = item("cart");
    assert_eq!((&cart["host"], &cart["method"]), (&json!("shop.example"), &json!("GET")));
    assert_eq!(cart["resource"], format!("http://shop.example:{port}/cart"));

    let paths = json(&rig, "/openapi.json").await["paths"].clone();
    let get = &paths["/img"]["get"];
    assert_eq!(
        get["parameters"].as_array().unwrap()[..2],
        [
            json!({ "name": "x-tier", "in": "header", "required": false, "schema": { "type": "string", "examples": ["gold"] } }),
            json!({ "name": "size", "in": "query", "required": false, "schema": { "type": "string", "examples": ["large"] } }),
        ]
    );
    let variants = get["x-payment-info"]["variants"].as_array().unwrap();
    let told: Vec<_> = variants
        .iter()
        .map(|it| {
            (it["conditions"].as_str().unwrap(), it["protocols"][0]["x402"]["amount"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        told,
        [("query size=large, header x-tier: gold", "50"), ("query size=large", "100"), ("", "1")]
    );
    assert_eq!(get["x-payment-info"]["price"]["mode"], "dynamic");
    assert_eq!(paths["/img"]["put"]["x-payment-info"]["price"]["mode"], "fixed", "no variant has the method");
    assert_eq!(paths["/cart"]["get"]["servers"], json!([{ "url": format!("http://shop.example:{port}") }]));
    let guide = text(&rig, "/llms.txt").await;
    assert!(guide.contains("- `GET,POST /img` with query size=large, header x-tier: gold: "), "{guide}");

    // At the host of a route with its very path, the document gives way; elsewhere it does not.
    let at = async |host: &str| {
        let request = rig.http.get(format!("{}/openapi.json", rig.url)).header("Host", host);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(
        (at("a.shop.example").await, at("shop.example").await, at("any.example").await),
        (402, 200, 200)
    );
    assert_eq!(at("a.shop.example.").await, 400);
    rig.end().await;
}
