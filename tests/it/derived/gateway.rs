//! Derived tokens at a gateway: they spend from the capability of the token they were made of.

use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use faregate::cli::purse::{PurseCommand, ShowArgs, TokenArgs, run};
use faregate::payment::capability::CapabilityId;
use faregate::payment::derived::{self, Restriction};
use faregate::x402::encode_header;
use reqwest::Response;
use serde_json::{Value, json};

use super::{by_hand, requests, until};
use crate::rig::{PLENTY, Plan, Rig, capability, error, eventually, header, manual_clock, offers};
use crate::scripted::{Reply, Seen};

const CAPABILITY: &str = "PAYMENT-CAPABILITY";
const WELL_KNOWN: &str = "/.well-known/x402/capability";

/// A gateway, and the token of a capability with four uses of `/v1/search/**` left.
async fn bought(plan: Plan) -> (Rig, String) {
    let rig = Rig::with(plan).await;
    let answer = rig.pay(&rig.payer(1, PLENTY), "/v1/search/a").await;
    let (token, left) = capability(&answer);
    assert_eq!((answer.status().as_u16(), left), (200, 4));
    (rig, token)
}

fn narrowed(token: &str, restrictions: &[Restriction]) -> String {
    derived::derive(token, restrictions).unwrap().expose().to_owned()
}

async fn show(rig: &Rig, path: &str, token: &str) -> Response {
    rig.get(path, &[(CAPABILITY, token)]).await
}

/// Asserts that the token is refused with `code` and these words, and that nothing was asked of anybody for it.
async fn refused(rig: &Rig, path: &str, token: &str, code: &str, words: &str) {
    let before = (rig.effects(), rig.devnet.faults().calls("block_info"));
    let answer = show(rig, path, token).await;
    let (status, body) = (answer.status().as_u16(), answer.json::<Value>().await.unwrap());
    assert_eq!((status, body["error"].as_str()), (402, Some(code)), "{path} {body}");
    assert!(body["message"].as_str().unwrap().contains(words), "{words}: {body}");
    assert!(body["accepts"].is_array(), "with a bill: {body}");
    assert_eq!((rig.effects(), rig.devnet.faults().calls("block_info")), before);
}

#[tokio::test]
async fn a_token_that_was_handed_on_spends_from_the_same_capability_and_opens_less() {
    let (clock, seconds) = manual_clock();
    let (rig, token) = bought(Plan { clock, ..Plan::default() }).await;
    let end = seconds.load(Ordering::SeqCst) + 600;
    let child = narrowed(&token, &[until(end), requests("GET /v1/search/a/**")]);
    let grandchild = narrowed(&child, &[requests("/v1/search/{any}/b")]);
    for (holder, path, left) in
        [(&child, "/v1/search/a/b?q=1", 3), (&token, "/v1/search/z", 2), (&grandchild, "/v1/search/a/b", 1)]
    {
        let answer = show(&rig, path, holder).await;
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(capability(&answer), (holder.clone(), left), "each gets its own token back");
        let expires = if holder == &token { end + 3000 } else { end };
        assert!(header(&answer, "payment-capability").ends_with(&format!("; expires={expires}")));
        let said = format!("{:?}", answer.headers());
        assert!(holder == &token || !said.contains(&token), "never the token it was made of: {said}");
    }
    refused(&rig, "/v1/search/b", &child, "WRONG_RESOURCE", "GET /v1/search/a/**").await;
    refused(&rig, "/V1/Search/A/b", &child, "WRONG_RESOURCE", "restricted").await;
    refused(&rig, "/v1/search/a/c", &grandchild, "WRONG_RESOURCE", "/v1/search/{any}/b").await;
    let posted = rig.http.post(format!("{}/v1/search/a/b", rig.url)).header(CAPABILITY, &child);
    assert_eq!(error(posted.send().await.unwrap()).await, "WRONG_RESOURCE");
    refused(&rig, "/v1/quote/a", &narrowed(&token, &[until(end)]), "WRONG_RESOURCE", "another route").await;
    let access = json!({ "x402Version": 2, "payload": { "mode": "access", "credential": child } });
    let answer = rig.get("/v1/search/a", &[("PAYMENT-SIGNATURE", &encode_header(&access))]).await;
    assert_eq!((answer.status().as_u16(), capability(&answer)), (200, (child.clone(), 0)));
    refused(&rig, "/v1/search/a", &child, "CAPABILITY_EXHAUSTED", "has not enough left").await;
    seconds.store(end, Ordering::SeqCst);
    refused(&rig, "/v1/search/a", &child, "CAPABILITY_EXPIRED", "was valid until").await;
    assert_eq!(rig.upstream.seen().len(), 5);
    for seen in rig.upstream.seen() {
        assert!(!format!("{:?}", seen.headers()).contains(&token[..20]), "no token reaches the upstream");
    }
    rig.end().await;
}

#[tokio::test]
async fn a_derived_token_is_forged_bent_or_of_what_was_revoked() {
    let (rig, token) = bought(Plan::default()).await;
    let child = narrowed(&token, &[requests("/v1/search/a")]);
    for at in 0..child.len() {
        let mut bent = child.clone().into_bytes();
        bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
        let bent = String::from_utf8(bent).unwrap();
        refused(&rig, "/v1/search/a", &bent, "CAPABILITY_UNKNOWN", "").await;
    }
    for length in 72..child.len() {
        refused(&rig, "/v1/search/a", &child[..length], "CAPABILITY_UNKNOWN", "").await;
    }
    let limited = by_hand(&token, &[(3, &[0, 0, 0, 1])]);
    refused(&rig, "/v1/search/a", &limited, "MALFORMED_PAYLOAD", "limit of its own").await;
    let unknown = by_hand(&child, &[(77, b"x")]);
    refused(&rig, "/v1/search/a", &unknown, "MALFORMED_PAYLOAD", "kind 77").await;
    assert_eq!(capability(&show(&rig, "/v1/search/a", &child).await), (child.clone(), 3));
    let rig = rig.restart(crate::rig::Ending::Orderly).await;
    assert_eq!(
        capability(&show(&rig, "/v1/search/a", &child).await),
        (child.clone(), 2),
        "found in the store"
    );
    let id = CapabilityId(derived::inspect(&token).unwrap().claim.id.0);
    assert!(rig.services.capabilities().revoke(id).await.unwrap());
    refused(&rig, "/v1/search/a", &child, "CAPABILITY_REVOKED", "").await;
    rig.end().await;
}

/// A route where each answer costs so much of a purse of 10,000 raw.
async fn metered(cost: &'static str) -> Rig {
    let routes = r#"
  - name: cost
    match: "/cost/**"
    upstream: api
    meter: { deposit: 10000 raw, within: 1h, usage: header, hold: 2000 raw }
"#;
    let answer = move |_: &Seen| Reply::text(200, "x").with("Faregate-Cost", cost);
    Rig::with(Plan { routes: routes.to_owned(), answer: Box::new(answer), ..Plan::default() }).await
}

#[tokio::test]
async fn a_derived_token_spends_from_a_purse() {
    let rig = metered("7 raw").await;
    let paid = rig.pay(&rig.payer(1, PLENTY), "/cost/a").await;
    let token = header(&paid, "payment-capability").split(';').next().unwrap().to_owned();
    let child = narrowed(&token, &[requests("/cost/b")]);
    let answer = show(&rig, "/cost/b", &child).await;
    assert_eq!(answer.status(), 200);
    let said = header(&answer, "payment-capability");
    assert!(said.starts_with(&format!("{child}; balance=")), "{said}");
    refused(&rig, "/cost/a", &child, "WRONG_RESOURCE", "/cost/b").await;
    eventually("both requests are charged", async || {
        let held: Value = show(&rig, WELL_KNOWN, &child).await.json().await.unwrap();
        (&held["balance"], &held["route"]) == (&json!("9986"), &json!("cost"))
    })
    .await;
    rig.end().await;
}

/// The token that the purse was sold with goes to those who have it, and to nobody else who pays.
#[tokio::test]
async fn a_payment_beside_a_derived_token_buys_a_purse_of_its_own() {
    let rig = metered("9000 raw").await;
    let bare = |answer: &Response| header(answer, "payment-capability").split(';').next().unwrap().to_owned();
    let token = bare(&rig.pay(&rig.payer(1, PLENTY), "/cost/a").await);
    let child = narrowed(&token, &[requests("/cost/**")]);
    let is_dry = async || {
        let held: Value = show(&rig, WELL_KNOWN, &token).await.json().await.unwrap();
        held["balance"] == "1000"
    };
    eventually("the request is charged", is_dry).await;
    refused(&rig, "/cost/a", &child, "CAPABILITY_EXHAUSTED", "has not enough left").await;
    let offer = offers(&show(&rig, "/cost/a", &token).await).offers.into_iter().next().unwrap();
    let (proof, _) = rig.txn(&rig.payer(2, PLENTY), &offer);
    let served = rig.get("/cost/a", &[("PAYMENT-SIGNATURE", &proof), (CAPABILITY, &child)]).await;
    assert_eq!(served.status(), 200);
    let own = bare(&served);
    assert!(own != token && own != child && !format!("{:?}", served.headers()).contains(&token));
    assert!(is_dry().await, "nothing was added to the purse");
    rig.end().await;
}

#[tokio::test]
async fn the_holder_asks_what_a_token_is_worth_and_it_costs_nothing() {
    let (clock, seconds) = manual_clock();
    let (rig, token) = bought(Plan { clock, ..Plan::default() }).await;
    let end = seconds.load(Ordering::SeqCst) + 600;
    let child = narrowed(&token, &[until(end), requests("/v1/search/a")]);
    let before = rig.effects();
    let held = async |token: &str| show(&rig, WELL_KNOWN, token).await.json::<Value>().await.unwrap();
    for _ in 0..3 {
        let whole = held(&token).await;
        assert_eq!(
            (&whole["state"], &whole["remaining"], &whole["route"]),
            (&json!("open"), &json!(4), &json!("search"))
        );
        assert_eq!((&whole["expires"], &whole["restrictions"]), (&json!(end + 3000), &json!([])));
    }
    let less = held(&format!("{child}; remaining=9")).await;
    assert_eq!(less["restrictions"], json!([{ "until": end }, { "requests": "/v1/search/a" }]), "{less}");
    assert_eq!((&less["expires"], &less["remaining"]), (&json!(end), &json!(4)));
    let answer = show(&rig, WELL_KNOWN, &token).await;
    assert_eq!(header(&answer, "cache-control"), "no-store");
    for (forged, status, code) in [
        (child[..child.len() - 1].to_owned(), 404, "CAPABILITY_UNKNOWN"),
        ("A".repeat(71), 404, "CAPABILITY_UNKNOWN"),
        (by_hand(&token, &[(9, b"x")]), 400, "MALFORMED_PAYLOAD"),
    ] {
        let answer = show(&rig, WELL_KNOWN, &forged).await;
        assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (status, code), "{forged}");
    }
    let nothing = rig.get(WELL_KNOWN, &[]).await;
    assert_eq!((nothing.status().as_u16(), error(nothing).await.as_str()), (400, "bad_request"));
    seconds.store(end, Ordering::SeqCst);
    assert_eq!(
        (held(&child).await["state"].clone(), held(&token).await["state"].clone()),
        (json!("expired"), json!("open"))
    );
    assert_eq!(rig.effects(), before);
    let args = ShowArgs {
        token: TokenArgs { token: Some(token.clone()), token_file: None },
        url: Some(rig.url.parse().unwrap()),
        json: false,
    };
    let mut out = Vec::<u8>::new();
    run(&PurseCommand::Show(args.clone()), &mut out).await.unwrap();
    let out = String::from_utf8(out).unwrap();
    assert!(out.contains("left        4 uses") && out.contains("route       search"), "{out}");
    let forged = TokenArgs { token: Some(format!("AQ{}", "A".repeat(69))), token_file: None };
    let refused = run(&PurseCommand::Show(ShowArgs { token: forged, ..args }), &mut Vec::<u8>::new()).await;
    assert_eq!(refused.unwrap_err().exit_code(), 1);
    rig.end().await;
}

/// Runs the program with this on its standard input: what it printed, what it complained of, and its exit code.
fn program(arguments: &[&str], input: &str) -> (String, String, Option<i32>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faregate"));
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may not read it.
    let _written = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn the_program_splits_a_token_and_says_what_one_says() {
    let token = super::bought();
    let sent = format!("{}; remaining=3; expires=9\n", token.expose());
    let (made, _, code) = program(
        &["purse", "split", "-", "--path", "/v1/chat/**", "--method", "post,get", "--within", "10m"],
        &sent,
    );
    assert_eq!(code, Some(0));
    let read = super::recognise(made.trim()).unwrap();
    assert!(matches!(read.restrictions(), [Restriction::Until(_), Restriction::Requests(_)]));
    assert_eq!(read.restrictions()[1], requests("GET,POST /v1/chat/**"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, &made).unwrap();
    let path = file.to_str().unwrap();
    let shown = |mode: u32| {
        std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        program(&["purse", "show", "--token-file", path], "")
    };
    assert_eq!(shown(0o644).2, Some(78), "others can read it");
    let (out, _, code) = shown(0o600);
    assert_eq!(code, Some(0));
    for line in
        ["capability  abab", "bought      5 uses", "restricted  only GET,POST /v1/chat/**", "verified    no"]
    {
        assert!(out.contains(line), "{out}");
    }
    let (out, _, _) = program(&["purse", "show", "--json", token.expose()], "");
    let whole: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&whole["uses"], &whole["expires"], &whole["restrictions"]),
        (&json!(5), &json!(1000), &json!([]))
    );
    let jwk = folder.path().join("jwk");
    std::fs::write(
        &jwk,
        r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#,
    )
    .unwrap();
    let thumbprint = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";
    let (by_key, _, _) = program(&["purse", "split", "-", "--key", thumbprint], &sent);
    let (by_jwk, _, _) = program(&["purse", "split", "-", "--jwk", jwk.to_str().unwrap(), "--json"], &sent);
    let by_jwk: Value = serde_json::from_str(&by_jwk).unwrap();
    assert_eq!(
        (by_key.trim(), &by_jwk["restrictions"]),
        (by_jwk["token"].as_str().unwrap(), &json!([{ "key": thumbprint }]))
    );
}

/// What is not kept by any gateway is not promised.
#[test]
fn a_token_with_a_limit_of_its_own_is_not_made() {
    let sent = super::bought().expose().to_owned();
    for limit in [&["--uses", "3"], &["--amount", "0.01XNO"]] {
        let arguments = [&["purse", "split", "-", "--path", "/a"][..], &limit[..]].concat();
        let (made, complaint, code) = program(&arguments, &sent);
        assert_eq!((made.as_str(), code), ("", Some(64)));
        assert!(complaint.contains("no gateway keeps a limit"), "{complaint}");
    }
    for (arguments, words) in [
        (&["purse", "split", "-"][..], "no restriction"),
        (&["purse", "split", "-", "--path", "v1"], "--path"),
        (&["purse", "split", "made-up", "--within", "1m"], "no token"),
        (&["purse", "show", "made-up"], "no token"),
    ] {
        let (made, complaint, code) = program(arguments, &sent);
        assert_eq!((made.as_str(), code), ("", Some(64)), "{arguments:?}");
        assert!(complaint.contains(words), "{complaint}");
    }
}
