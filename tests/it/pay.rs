//! `faregate pay`, from its arguments to its exit code.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Parser;
use faregate::cli::pay::{PayArgs, PayExit, run};
use faregate::nano::Raw;
use faregate::wallet::{Wallet, WalletOptions};
use serde_json::Value;

use crate::network::tls::{certificate, front};
use crate::rig::{PLENTY, Plan, Rig};
use crate::scripted::{Reply, Scripted, Seen, nobody};
use crate::wallet::world::{
    Books, bill, entry, node, payer, proof, seed, seed_file, selling, served, url_of,
};

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    pay: PayArgs,
}

struct Outcome {
    exit: PayExit,
    out: String,
    err: String,
}

async fn pay(arguments: &[&str]) -> Outcome {
    let command =
        Command::try_parse_from(std::iter::once(&"pay").chain(arguments)).expect("arguments that parse");
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = run(command.pay, &mut out, &mut err).await;
    Outcome { exit, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

/// Runs the command with a seed of its own, against this gateway and node.
async fn pay_at(url: &url::Url, node: &url::Url, more: &[&str]) -> Outcome {
    let directory = tempfile::tempdir().unwrap();
    let seed = seed_file(directory.path());
    let mut arguments = vec![url.as_str(), "--node", node.as_str(), "--seed-file", seed.to_str().unwrap()];
    arguments.extend(more);
    pay(&arguments).await
}

#[tokio::test]
async fn the_answer_goes_to_one_place_and_the_cost_to_another() {
    let books = Books::with_balance(1000);
    let (node, gateway) = (node(&books).await, selling(&books).await);
    let more = ["--max", "100 raw", "--repeat", "2", "-d", "ask", "-H", "X-Mine: a: b"];
    let Outcome { exit, out, err } = pay_at(&url_of(&gateway, "/q"), &node.url, &more).await;
    assert_eq!((exit, out.as_str()), (PayExit::Answered, "quotequote"), "{err}");
    let lines: Vec<_> = err.lines().collect();
    assert!(lines[0].starts_with(&format!(
        "paid 0.0000000000000000000000000001 XNO by nanoTxn from {}, block ",
        payer()
    )));
    assert_eq!(
        lines[1..],
        ["2 more requests are paid for", "paid for already", "1 more request is paid for"]
    );
    let seen = &gateway.seen()[0];
    assert_eq!(
        (seen.method.as_str(), seen.body.as_slice(), seen.header("x-mine")),
        ("POST", &b"ask"[..], Some("a: b"))
    );
}

/// Regression: a gateway with a certificate of the operator's own could not be paid.
#[tokio::test]
async fn own_authorities_vouch_for_the_gateway_and_the_node() {
    let books = Books::with_balance(1000);
    let (plain_node, plain_gateway) = (node(&books).await, selling(&books).await);
    let (certificate, key) = certificate();
    let secured = async |url: &url::Url, path: &str| {
        let front = front(format!("127.0.0.1:{}", url.port().unwrap()), &certificate, &key).await;
        (url::Url::parse(&format!("https://localhost:{}{path}", front.port)).unwrap(), front)
    };
    let (node, _front_of_node) = secured(&plain_node.url, "/").await;
    let (gateway, _front_of_gateway) = secured(&plain_gateway.url, "/q").await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let pem = format!(
        "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
        base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &certificate)
    );
    let (own, empty) = (file("own.pem", &pem), file("empty.pem", ""));

    for (gateway, node) in [(&gateway, &plain_node.url), (&plain_gateway.url, &node)] {
        let Outcome { exit, err, .. } = pay_at(gateway, node, &[]).await;
        assert_eq!(exit, PayExit::Unavailable, "{gateway} {node}: {err}");
    }
    let Outcome { exit, out, err } = pay_at(&gateway, &node, &["--ca-file", &own, "--max", "100 raw"]).await;
    assert_eq!((exit, out.as_str()), (PayExit::Answered, "quote"), "{err}");
    for (file, why) in [(empty.as_str(), "no certificate"), ("nowhere.pem", "nowhere.pem")] {
        let Outcome { exit, err, .. } = pay_at(&gateway, &node, &["--ca-file", file]).await;
        assert_eq!(exit, PayExit::Configuration, "{err}");
        assert!(err.contains("--ca-file") && err.contains(why), "{err}");
    }

    // The library's wallet.
    let seed = seed_file(folder.path());
    let open = |ca_file: Option<&str>| {
        let options =
            WalletOptions { ca_file: ca_file.map(Into::into), ..WalletOptions::up_to(Raw::new(100)) };
        Wallet::open(&seed, [node.as_str()], options)
    };
    assert!(open(Some(&empty)).unwrap_err().to_string().contains("no certificate"));
    assert!(open(None).unwrap().get(gateway.as_str()).send().await.is_err());
    let paid = open(Some(&own)).unwrap().get(gateway.as_str()).send().await.unwrap();
    assert_eq!(paid.response.status(), 200);
}

#[tokio::test]
async fn a_payment_is_named_where_the_route_asks_for_it() {
    let routes = r#"
  - { match: "/named", upstream: api, price: 0.001 XNO, payment_identifier: required }
"#;
    let rig = Rig::with(Plan { routes: routes.to_owned(), ..Plan::default() }).await;
    rig.devnet.fund(payer(), PLENTY).unwrap();
    rig.devnet.receive_all(&seed().key(0)).unwrap();
    let (url, node) = (format!("{}/named", rig.url), rig.devnet.rpc_url().to_string());
    let (url, node) = (url.parse().unwrap(), node.parse().unwrap());
    // Each request is another payment with an id of its own.
    for mechanism in ["nanoTxn", "nanoSignature"] {
        let more = ["--max", "1 XNO", "--mechanism", mechanism];
        let Outcome { exit, out, err } = pay_at(&url, &node, &more).await;
        assert_eq!((exit, out.as_str()), (PayExit::Answered, "upstream saw GET /named"), "{err}");
    }
    assert_eq!(rig.upstream.seen().len(), 2);
    rig.end().await;
}

#[tokio::test]
async fn json_is_one_object_a_request() {
    let books = Books::with_balance(1000);
    let (node, gateway) = (node(&books).await, selling(&books).await);
    let Outcome { exit, out, err } =
        pay_at(&url_of(&gateway, "/q"), &node.url, &["--json", "--repeat", "2"]).await;
    assert_eq!((exit, err.as_str()), (PayExit::Answered, ""));
    let lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[0]["status"], &lines[0]["body"]), (&200.into(), &"quote".into()));
    assert_eq!(
        (&lines[0]["payment"]["amount_raw"], &lines[0]["payment"]["acknowledged"]),
        (&"100".into(), &true.into())
    );
    assert_eq!((&lines[1]["payment"], &lines[1]["capability"]["remaining"]), (&Value::Null, &1.into()));
    assert_eq!(lines.len(), 2);
}

#[tokio::test]
async fn each_fault_says_what_to_do_and_has_its_code() {
    let rich = Books::with_balance(1000);
    let (node_of_rich, gateway) = (node(&rich).await, selling(&rich).await);
    let node_of_poor = node(&Books::with_balance(1)).await;
    let plain = Scripted::start(|_| Reply::text(402, "pay me")).await;
    let foreign =
        Scripted::start(|_| bill("", &[serde_json::json!({"scheme": "exact", "network": "eip155:1"})])).await;
    let refusing = Scripted::start(|_| bill("DUPLICATE_BLOCK_HASH", &[entry("nanoTxn")])).await;
    let missing = Scripted::start(|_| Reply::text(404, "no such thing")).await;
    let dead = nobody();
    let cases: [(&url::Url, &url::Url, &[&str], u8, &str); 8] = [
        (&gateway.url, &node_of_rich.url, &["--max", "99 raw"], 77, "raise the limit with --max"),
        (&gateway.url, &node_of_poor.url, &[], 69, "send XNO to that account"),
        (&gateway.url, &dead.url, &[], 69, "a Nano node's RPC"),
        (&dead.url, &node_of_rich.url, &[], 69, "cannot be reached"),
        (&plain.url, &node_of_rich.url, &[], 76, "is not an x402 bill"),
        (&foreign.url, &node_of_rich.url, &[], 76, "eip155:1"),
        (&refusing.url, &node_of_rich.url, &[], 76, "DUPLICATE_BLOCK_HASH"),
        (&missing.url, &node_of_rich.url, &[], 1, "status 404"),
    ];
    for (url, node, more, code, says) in cases {
        let Outcome { exit, err, .. } = pay_at(url, node, more).await;
        assert_eq!(exit.code(), code, "{err}");
        assert!(err.contains(says), "{err}");
    }
}

#[tokio::test]
async fn a_refused_payment_leaves_its_proof_in_the_json() {
    let node = node(&Books::with_balance(1000)).await;
    let refusing = Scripted::start(|_| bill("WRONG_RESOURCE", &[entry("nanoTxn")])).await;
    let Outcome { out, .. } = pay_at(&refusing.url, &node.url, &["--json"]).await;
    let line: Value = serde_json::from_str(&out).unwrap();
    assert!(line["error"].as_str().unwrap().contains("WRONG_RESOURCE"));
    assert_eq!(line["payment"]["amount_raw"], "100");
    assert_eq!(refusing.seen()[1].header("PAYMENT-SIGNATURE"), line["proof"].as_str());
}

#[tokio::test]
async fn a_seed_file_that_will_not_do_is_a_configuration_fault() {
    let arguments = ["http://127.0.0.1:1/", "--node", "http://127.0.0.1:1/", "--seed-file", "/nowhere/seed"];
    let Outcome { exit, err, .. } = pay(&arguments).await;
    assert_eq!((exit.code(), err.contains("/nowhere/seed: there is no such file")), (78, true), "{err}");
}

#[test]
fn arguments_that_cannot_be_meant_are_refused() {
    let all = ["pay", "http://a/", "--node", "http://n/", "--seed-file", "s"];
    let parses = |more: &[&str]| Command::try_parse_from(all.iter().chain(more)).is_ok();
    assert!(parses(&[]) && parses(&["-X", "PUT", "--mechanism", "nanoSignature"]));
    for wrong in [
        ["--max", "0.01"],
        ["--max", "x XNO"],
        ["-H", "no colon"],
        ["--mechanism", "card"],
        ["--repeat", "0"],
    ] {
        assert!(!parses(&wrong), "{wrong:?}");
    }
    let defaults = Command::try_parse_from(all).unwrap().pay;
    assert_eq!(defaults.max.xno().to_string(), "0.01 XNO");
}

#[tokio::test]
async fn the_day_s_limit_is_kept_beside_the_seed() {
    let books = Books::with_balance(1000);
    let (node, gateway) = (node(&books).await, selling(&books).await);
    let directory = tempfile::tempdir().unwrap();
    let seed = seed_file(directory.path());
    let url = url_of(&gateway, "/q");
    let mut arguments = vec![
        url.as_str(),
        "--node",
        node.url.as_str(),
        "--seed-file",
        seed.to_str().unwrap(),
        "--max",
        "100 raw",
        "--max-per-day",
        "150 raw",
    ];
    // No capability is kept between two runs, so each run pays.
    assert_eq!(pay(&arguments).await.exit, PayExit::Answered);
    let Outcome { exit, out, err } = pay(&arguments).await;
    assert_eq!((exit, out.as_str()), (PayExit::TooExpensive, ""));
    assert!(err.contains("for a day are spent") && err.contains("--max-per-day"), "{err}");
    let noted = std::fs::read_to_string(directory.path().join("payer.seed.spent")).unwrap();
    assert_eq!(noted.lines().count(), 1);
    // Another file has a limit of its own; with a file that cannot be written, nothing is paid.
    let other = directory.path().join("other");
    arguments.extend(["--spent-file", other.to_str().unwrap()]);
    assert_eq!(pay(&arguments).await.exit, PayExit::Answered);
    let nowhere = directory.path().join("no/such/place");
    arguments.pop();
    arguments.push(nowhere.to_str().unwrap());
    assert_eq!(pay(&arguments).await.exit, PayExit::Configuration);
    assert_eq!(books.lock().unwrap().frontier.unwrap().balance.get(), 800);
}

/// Once the JSON of such an error said that nothing was paid, and the token was lost.
#[tokio::test]
async fn a_broken_answer_says_what_was_paid_and_how_to_use_it() {
    let books = Books::with_balance(1000);
    let node = node(&books).await;
    let cutting = Scripted::start(|seen| match (proof(seen), seen.header("PAYMENT-CAPABILITY")) {
        (Some(_), _) => served(2).cut(3),
        (None, Some("tok")) => served(1),
        (None, _) => bill("", &[entry("nanoTxn")]),
    })
    .await;
    let url = url_of(&cutting, "/q");
    let Outcome { exit, out, .. } = pay_at(&url, &node.url, &["--json"]).await;
    let line: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(exit, PayExit::Unavailable);
    assert_eq!(
        (&line["payment"]["amount_raw"], &line["capability"]["token"]),
        (&"100".into(), &"tok".into())
    );
    assert_eq!(cutting.seen()[1].header("PAYMENT-SIGNATURE"), line["proof"].as_str());
    let Outcome { exit, err, .. } = pay_at(&url, &node.url, &[]).await;
    assert_eq!(exit, PayExit::Unavailable);
    let advice = "it is paid for, 2 requests left: send it again with -H 'PAYMENT-CAPABILITY: tok'";
    assert!(err.contains(advice), "{err}");
    let again = pay_at(&url, &node.url, &["-H", "PAYMENT-CAPABILITY: tok"]).await;
    assert_eq!((again.exit, again.out.as_str()), (PayExit::Answered, "quote"), "{}", again.err);
}

#[tokio::test]
async fn a_redirect_is_shown_or_followed() {
    let books = Books::with_balance(1000);
    let node = node(&books).await;
    let moved = Scripted::start(|seen| match seen.path.as_str() {
        "/old" => Reply::text(302, "").with("Location", "/new"),
        _ => Reply::text(200, "here"),
    })
    .await;
    let url = url_of(&moved, "/old");
    let Outcome { exit, err, .. } = pay_at(&url, &node.url, &[]).await;
    assert_eq!(exit, PayExit::Answered);
    let target = url_of(&moved, "/new");
    assert!(err.contains(&format!("it leads to {target}; with --follow it is followed")), "{err}");
    let line: Value = serde_json::from_str(&pay_at(&url, &node.url, &["--json"]).await.out).unwrap();
    assert_eq!(line["location"], target.as_str());
    let followed = pay_at(&url, &node.url, &["--follow"]).await;
    assert_eq!((followed.exit, followed.out.as_str()), (PayExit::Answered, "here"));
}

/// Regression: the upstream's own 402 was taken for a refusal of the payment, and the token was lost.
#[tokio::test]
async fn an_upstream_that_asks_for_money_itself_costs_nothing() {
    let owes = Arc::new(AtomicBool::new(true));
    let state = Arc::clone(&owes);
    let answer = move |_: &Seen| {
        if state.load(Ordering::SeqCst) { Reply::text(402, "top up") } else { Reply::text(200, "here") }
    };
    let routes = "  - { match: \"/sold\", upstream: api, price: 0.001 XNO }\n".to_owned();
    let rig = Rig::with(Plan { routes, answer: Box::new(answer), ..Plan::default() }).await;
    rig.devnet.fund(payer(), PLENTY).unwrap();
    rig.devnet.receive_all(&seed().key(0)).unwrap();
    let (url, node) = (format!("{}/sold", rig.url), rig.devnet.rpc_url().to_string());
    let (url, node) = (url.parse().unwrap(), node.parse().unwrap());
    let Outcome { exit, out, err } = pay_at(&url, &node, &["--max", "1 XNO", "--json"]).await;
    assert_eq!(exit, PayExit::ErrorAnswer, "{out}{err}");
    let line: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&line["status"], &line["capability"]["remaining"]), (&502.into(), &1.into()), "{out}");
    assert_eq!(line["payment"]["acknowledged"], true);
    assert!(line["body"].as_str().unwrap().contains("upstream_payment_required"), "{out}");
    owes.store(false, Ordering::SeqCst);
    let token = format!("PAYMENT-CAPABILITY: {}", line["capability"]["token"].as_str().unwrap());
    let later = pay_at(&url, &node, &["-H", &token]).await;
    assert_eq!((later.exit, later.out.as_str()), (PayExit::Answered, "here"), "{}", later.err);
    rig.end().await;
}

/// What the gateway says in a body, an upstream can say as well. Clients go by the receipt.
#[tokio::test]
async fn an_upstreams_words_about_payments_are_not_taken_for_the_gateways() {
    let answer = |seen: &Seen| {
        let (status, error) = seen.path.trim_start_matches("/sold/").split_once('/').unwrap();
        Reply::text(status.parse().unwrap(), &format!("{{\"error\":\"{error}\"}}")).with("Retry-After", "1")
    };
    let routes = "  - { match: \"/sold/**\", upstream: api, price: 1 raw }\n".to_owned();
    let rig = Rig::with(Plan { routes, answer: Box::new(answer), ..Plan::default() }).await;
    rig.devnet.fund(payer(), PLENTY).unwrap();
    rig.devnet.receive_all(&seed().key(0)).unwrap();
    let node = rig.devnet.rpc_url().to_string().parse().unwrap();
    for (status, error, left) in [
        (503, "settlement_pending", 1),
        (503, "no_node", 1),
        (425, "BLOCK_NOT_FOUND", 0),
        (409, "payment_identifier_conflict", 0),
        (410, "route_gone", 0),
    ] {
        let before = rig.effects();
        let url = format!("{}/sold/{status}/{error}", rig.url).parse().unwrap();
        let Outcome { exit, out, err } = pay_at(&url, &node, &["--max", "1 XNO", "--json"]).await;
        assert_eq!(exit, PayExit::ErrorAnswer, "{out}{err}");
        let line: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (&line["status"], &line["capability"]["remaining"]),
            (&status.into(), &left.into()),
            "{out}"
        );
        assert_eq!(line["payment"]["acknowledged"], true, "{out}");
        let after = rig.effects();
        let tried = (after.forwarded - before.forwarded, after.broadcast - before.broadcast);
        assert_eq!(tried, (1, 1), "asked and paid for once: {error}");
    }
    rig.end().await;
}

/// Regression: the bill of a call of gRPC, under a status 200 of HTTP, was taken for the answer.
#[tokio::test]
async fn a_bill_of_grpc_is_paid_and_a_failed_call_is_an_error() {
    let answer = |seen: &Seen| match seen.path.as_str() {
        "/free/Lost" => Reply::text(200, "").with("grpc-status", "12").with("grpc-message", "no such method"),
        _ => Reply::text(200, "here"),
    };
    let routes = "  - { match: \"/sold/**\", upstream: api, price: 1 raw }\n  - { match: \"/free/**\", upstream: api, free: true }\n";
    let plan = Plan { routes: routes.to_owned(), answer: Box::new(answer), ..Plan::default() };
    let rig = Rig::with(plan).await;
    rig.devnet.fund(payer(), PLENTY).unwrap();
    rig.devnet.receive_all(&seed().key(0)).unwrap();
    let node = rig.devnet.rpc_url().to_string().parse().unwrap();
    let call = async |path: &str, max: &str| {
        let url = format!("{}{path}", rig.url).parse().unwrap();
        pay_at(&url, &node, &["--max", max, "-H", "Content-Type: application/grpc", "-d", "hi"]).await
    };
    let Outcome { exit, err, .. } = call("/sold/Ok", "0 raw").await;
    assert_eq!(exit, PayExit::TooExpensive, "{err}");
    let Outcome { exit, out, err } = call("/sold/Ok", "1 raw").await;
    assert_eq!((exit, out.as_str()), (PayExit::Answered, "here"), "{err}");
    assert!(err.starts_with("paid 0.000000000000000000000000000001 XNO by nanoTxn"), "{err}");
    let Outcome { exit, err, .. } = call("/free/Lost", "1 raw").await;
    assert_eq!((exit, err.trim_end()), (PayExit::ErrorAnswer, "grpc-status 12: no such method"));
    rig.end().await;
}
