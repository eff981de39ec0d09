//! The subcommands that answer at once: what they print and how they end.

use std::path::{Path, PathBuf};

use faregate::cli::{check, explain};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

fn checked(name: &str, json: bool) -> (String, std::process::ExitCode) {
    let mut out = Vec::new();
    let code = check::run(&check::CheckArgs { config: shipped(name), json }, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), code)
}

/// `ExitCode` compares only as text.
fn is_code(code: std::process::ExitCode, number: u8) -> bool {
    format!("{code:?}") == format!("{:?}", std::process::ExitCode::from(number))
}

#[test]
fn check_prints_the_prices_or_the_faults() {
    let (out, code) = checked("full.yaml", false);
    assert!(
        is_code(code, 0) && out.contains("/v1/search/**") && out.contains("100 requests within 1h"),
        "{out}"
    );
    let (out, code) = checked("bad/zero-price.yaml", false);
    assert!(is_code(code, 78) && out.contains("zero-price.yaml:11:") && out.contains("hint: "), "{out}");
    let (out, code) = checked("bad/zero-price.yaml", true);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(is_code(code, 78));
    assert_eq!((&json["good"], &json["faults"][0]["line"]), (&false.into(), &11.into()));
    let (out, code) = checked("minimal.yaml", true);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(is_code(code, 0));
    assert_eq!(json["routes"][0]["price"]["amount"], "1000000000000000000000000000");
}

fn explained(method: &str, url: &str, json: bool) -> (String, std::process::ExitCode) {
    explained_with(None, method, url, json)
}

fn explained_with(
    data: Option<&str>,
    method: &str,
    url: &str,
    json: bool,
) -> (String, std::process::ExitCode) {
    let data = data.map(str::to_owned);
    let mut out = Vec::new();
    let args = explain::ExplainArgs {
        config: shipped("full.yaml"),
        json,
        data,
        method: method.into(),
        url: url.into(),
    };
    let code = explain::run(&args, &mut out).unwrap();
    (String::from_utf8(out).unwrap(), code)
}

#[test]
fn explain_says_which_route_and_why() {
    let (out, code) = explained("HEAD", "https://api.example.com:443/V1/quote/xno/?a=b", false);
    assert!(is_code(code, 0));
    for part in [
        "route     GET /v1/quote/{symbol}",
        "costs     0.0001 XNO (100000000000000000000000000 raw)",
        "grants    1 request within 1h",
        "paid by   nanoTxn, nanoSignature\n",
        "why       no other route covers it",
        "goes to   quotes: http://127.0.0.1:3000/V1/quote/xno/?a=b",
    ] {
        assert!(out.contains(part), "{part:?} is not in:\n{out}");
    }
    assert!(!out.contains("note"), "{out}");
    assert!(explained("GET", "http://other.example/docs", false).0.contains("note"));
    assert!(explained("POST", "/v1/quote/xno", false).0.contains("404"));
    let (out, code) = explained("GET", "/docs/%2e%2e/v1", false);
    assert!(is_code(code, 65) && out.contains("`.` or `..`"), "{out}");
    let (_, code) = explained("GET", "docs", true);
    assert!(is_code(code, 64));
    let json: serde_json::Value = serde_json::from_str(&explained("GET", "/v1/search/x", true).0).unwrap();
    assert_eq!(json["route"]["name"], "search");
    assert_eq!(json["mechanisms"], serde_json::json!(["nanoTxn", "nanoSignature", "nanoSession"]));
    let free: serde_json::Value = serde_json::from_str(&explained("GET", "/docs/x", true).0).unwrap();
    assert!(free["mechanisms"].is_null(), "{free}");
    assert_eq!(
        json["goes_to"],
        serde_json::json!(["http://127.0.0.1:3001/v1/search/x", "http://127.0.0.1:3002/v1/search/x"])
    );
}

#[test]
fn explain_knows_what_the_gateway_answers_itself() {
    let (out, code) = explained("GET", "/openapi.json", false);
    assert!(is_code(code, 0) && out.contains("answer    200: what the gateway publishes"), "{out}");
    assert!(explained("POST", "/openapi.json", false).0.contains("answer    404"));
    let json: serde_json::Value = serde_json::from_str(&explained("HEAD", "/llms.txt", true).0).unwrap();
    assert_eq!((&json["document"], &json["upstream"]), (&true.into(), &serde_json::Value::Null));
}

#[test]
fn explain_says_what_a_call_costs() {
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search"}}"#;
    let other = call.replace("search", "list");
    let explained = |data| explained_with(data, "POST", "/mcp", false).0;
    let listed = explained(None);
    for part in [
        "call      method initialize: free",
        "call      tool render-*: 0.05 XNO (50000000000000000000000000000 raw)",
        "call      anything else: refused",
        "grants    10 requests within 1h",
    ] {
        assert!(listed.contains(part), "{part:?} is not in:\n{listed}");
    }
    let priced = explained(Some(call));
    assert!(priced.contains("costs     0.01 XNO (1"), "{priced}");
    assert!(priced.contains("buys      tools#tool:search"), "{priced}");
    assert!(explained(Some(&other)).contains("costs     0.001 XNO"));
    assert!(explained(Some(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)).contains("costs     nothing"));
    assert!(
        explained(Some(r#"{"jsonrpc":"2.0","id":1,"method":"other"}"#)).contains("answer    403: the method")
    );
    assert!(explained(Some("[]")).contains("answer    400: a batch holds"));
    let json = explained_with(Some(call), "POST", "/mcp", true).0;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["call"]["buys"], &json["call"]["xno"]), (&"tool:search".into(), &"0.01 XNO".into()));
    assert_eq!(
        json["route"]["price"]["calls"]["tool search"],
        "0.01 XNO (10000000000000000000000000000 raw)"
    );
}
