//! The subcommands that answer at once: what they print and how they end.

use std::path::{Path, PathBuf};

use faregate::cli::{check, explain};

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

fn checked(name: &str, json: bool) -> (String, std::process::ExitCode) {
    let mut out = Vec::new();
    let code = check::run(&check::Args { config: shipped(name), json }, &mut out).unwrap();
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
    let mut out = Vec::new();
    let args = explain::Args {
        config: shipped("full.yaml"),
        json,
        data: None,
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
    assert_eq!(
        json["goes_to"],
        serde_json::json!(["http://127.0.0.1:3001/v1/search/x", "http://127.0.0.1:3002/v1/search/x"])
    );
}
