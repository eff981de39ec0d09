//! The access log: which requests have a line, what it says, what never is in one, and that whoever reads it cannot
//! hurt the gateway.

use std::fs::OpenOptions;
use std::io::Write;
use std::process::Stdio;

use faregate::devnet::{Devnet, DevnetOptions};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::logs::Logs;
use crate::patience::{eventually, soon, wait_for};
use crate::program::{self, Program};
use crate::rig::{PLENTY, Plan, Rig, capability, header, offers};
use crate::scripted::{Reply, Scripted};

const ALL: &str = "access_log: { requests: all }\n";

/// The members of a line that do not differ from run to run.
fn steady(line: &Value) -> Value {
    let mut line = line.clone();
    let members = line.as_object_mut().unwrap();
    for name in ["time", "request_id", "duration_ms", "upstream_ms", "upstream", "payer", "block"] {
        members.remove(name);
    }
    line
}

#[tokio::test]
async fn what_touched_money_or_was_refused_has_a_line() {
    let rig = Rig::start().await;
    let key = rig.payer(1, PLENTY);
    // A bill has none.
    let [offer, _] = rig.bill("/v1/search/a?secret=1").await;
    let (proof, block) = rig.txn(&key, &offer);
    let paid = rig.get("/v1/search/a?secret=1", &[("PAYMENT-SIGNATURE", &proof)]).await;
    let (token, _) = capability(&paid);
    rig.lines(1).await;
    assert_eq!(rig.get("/v1/search/b", &[("PAYMENT-CAPABILITY", &token)]).await.status(), 200);
    rig.lines(2).await;
    assert_eq!(rig.get("/free/x", &[]).await.status(), 200);
    assert_eq!(rig.get("/paid", &[("PAYMENT-SIGNATURE", &proof)]).await.status(), 402);
    rig.lines(3).await;
    assert_eq!(rig.get("/nowhere?a=b", &[]).await.status(), 404);
    let lines = rig.lines(4).await;
    let line = |path: &str, status: u16, bytes: &Value, route: &str, outcome: &str| {
        json!({
            "client": "127.0.0.1", "method": "GET", "path": path, "protocol": "HTTP/1.1", "status": status,
            "bytes": bytes, "route": route, "outcome": outcome,
        })
    };
    let money = |mut line: Value, remaining: u32| {
        line["amount_raw"] = json!("1000000000000000000000000000");
        line["remaining"] = json!(remaining);
        line
    };
    let mut refused = line("/paid", 402, &lines[2]["bytes"], "paid", "refused");
    refused["reason"] = lines[2]["reason"].clone();
    let expected = [
        money(line("/v1/search/a", 200, &json!(38), "search", "paid"), 4),
        money(line("/v1/search/b", 200, &json!(29), "search", "unlocked"), 3),
        refused,
        line("/nowhere", 404, &lines[3]["bytes"], "unmatched", "refused"),
    ];
    assert_eq!(lines.iter().map(steady).collect::<Vec<_>>(), expected);
    assert!(lines[2]["reason"].as_str().is_some_and(|it| it.contains('_')), "{}", lines[2]);
    assert!(lines[3]["bytes"].as_u64().unwrap() > 50);
    for line in &lines[..3] {
        assert_eq!(line["block"], block.hash().to_string(), "{line}");
    }
    let upstream = rig.upstream.url.authority().to_owned();
    for line in &lines[..2] {
        assert_eq!(
            (&line["payer"], &line["upstream"]),
            (&json!(key.account().to_string()), &json!(upstream))
        );
        let (all, theirs) = (line["duration_ms"].as_f64().unwrap(), line["upstream_ms"].as_f64().unwrap());
        assert!(all >= theirs && theirs > 0.0, "{line}");
    }
    assert!(lines[3].get("upstream").is_none() && lines[3].get("payer").is_none());
    assert_eq!(lines[0]["request_id"], header(&paid, "x-request-id"));
    let time = lines[0]["time"].as_str().unwrap();
    assert!(time.len() == "2026-01-01T00:00:00.000Z".len() && time.ends_with('Z'), "{time}");
    rig.end().await;
}

#[tokio::test]
async fn a_reload_changes_which_requests_have_a_line() {
    let rig = Rig::with(Plan { more: ALL.to_owned(), ..Plan::default() }).await;
    assert_eq!(rig.get("/free/x", &[]).await.status(), 200);
    rig.lines(1).await;
    assert_eq!(rig.get("/paid", &[]).await.status(), 402);
    let lines = rig.lines(2).await;
    assert_eq!(
        lines.iter().map(|it| it["outcome"].as_str().unwrap()).collect::<Vec<_>>(),
        ["free", "challenged"]
    );
    let none = rig.config("access_log: { requests: none }\n", crate::rig::ROUTES);
    assert!(rig.services.reload(&none).await.unwrap().is_empty());
    assert_eq!(rig.get("/nowhere", &[]).await.status(), 404);
    let paid = rig.config("", crate::rig::ROUTES);
    assert!(rig.services.reload(&paid).await.unwrap().is_empty());
    assert_eq!(rig.get("/nowhere/else", &[]).await.status(), 404);
    let lines = rig.lines(3).await;
    assert_eq!((lines.len(), &lines[2]["path"]), (3, &json!("/nowhere/else")));
    rig.end().await;
}

/// A client behind a proxy is logged, not the proxy, and an upstream that fails.
/// A stranger could have a line for each of its requests, hundreds a second, by being turned away.
#[tokio::test]
async fn a_client_that_is_turned_away_again_and_again_fills_no_disk() {
    let logs = Logs::keep();
    let rig = Rig::start().await;
    for _ in 0..10 {
        let asked = (0..40).map(|_| rig.get("/nowhere", &[]));
        let answered = futures_util::future::join_all(asked).await;
        assert!(answered.iter().all(|it| it.status() == 404));
    }
    let paid = rig.pay(&rig.payer(1, PLENTY), "/paid").await;
    assert_eq!(paid.status(), 200);
    drop(paid);
    eventually("what is paid is logged", async || rig.logged().contains(r#""outcome":"paid""#)).await;
    let count = rig.logged().lines().count();
    assert!((101..350).contains(&count), "{count}");
    assert!(logs.text().contains("lines are left out"));
    rig.end().await;
}

#[tokio::test]
async fn the_client_is_who_a_trusted_proxy_says() {
    let plan = Plan {
        more: ALL.to_owned(),
        listen: Some("trusted_proxies: [127.0.0.1]"),
        answer: Box::new(|_| Reply::Drop),
        ..Plan::default()
    };
    let rig = Rig::with(plan).await;
    let answer = rig.get("/free/x", &[("X-Forwarded-For", "192.0.2.7"), ("X-Request-Id", "theirs")]).await;
    assert_eq!(answer.status(), 502);
    let line = &rig.lines(1).await[0];
    let said = ["client", "request_id", "outcome", "status"].map(|it| line[it].clone());
    assert_eq!(said, [json!("192.0.2.7"), json!("theirs"), json!("upstream_failed"), json!(502)]);
    assert!(line["upstream_ms"].is_number(), "{line}");
    rig.end().await;
}

/// Everything a client may send or get that is worth money, or nobody's business, is looked for in both logs.
#[tokio::test]
async fn no_secret_is_in_any_line() {
    let logs = Logs::keep();
    let rig = Rig::with(Plan { more: ALL.to_owned(), ..Plan::default() }).await;
    let key = rig.payer(1, PLENTY);
    let path = "/v1/search/a?query=hidden-query";
    let [txn, _] = rig.bill(path).await;
    let (proof, block) = rig.txn(&key, &txn);
    let paid =
        rig.get(path, &[("PAYMENT-SIGNATURE", &proof), ("Authorization", "Bearer hidden-bearer")]).await;
    let (token, _) = capability(&paid);
    let said = header(&paid, "payment-response").to_owned();
    let unlocked = [("PAYMENT-CAPABILITY", &*token), ("Cookie", "hidden-cookie")];
    assert_eq!(rig.get(path, &unlocked).await.status(), 200);
    assert_eq!(rig.get("/paid?hidden-query", &[("PAYMENT-CAPABILITY", &token)]).await.status(), 402);
    assert_eq!(rig.get("/paid?hidden-query", &[("PAYMENT-SIGNATURE", "hidden-garbage")]).await.status(), 400);
    let [_, offer] = rig.bill("/paid").await;
    let sent = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(sent).unwrap();
    let signed = crate::rig::signature(&key, &sent, &offer);
    assert_eq!(rig.get("/paid", &[("PAYMENT-SIGNATURE", &signed)]).await.status(), 200);
    assert_eq!(rig.get("/paid", &[("PAYMENT-SIGNATURE", &signed)]).await.status(), 402);
    rig.lines(8).await;
    let diagnostics = logs.text();
    // Libraries are kept at `info` by the program; here they are not.
    let own = diagnostics.lines().filter(|it| it.contains(" faregate::")).collect::<Vec<_>>().join("\n");
    assert!(own.contains("payment granted"), "{own}");
    let seed = std::fs::read_to_string(rig.folder.path().join("pool.seed")).unwrap();
    let mac = std::fs::read(rig.folder.path().join("challenge.key")).unwrap();
    let mac = String::from_utf8_lossy(&mac).trim().to_owned();
    let signature = serde_json::to_value(block).unwrap();
    let signature = signature["signature"].as_str().map(str::to_owned).unwrap_or_default();
    for text in [rig.logged(), own] {
        let lower = text.to_lowercase();
        for secret in [&proof, &signed, &token, &said, &mac, seed.trim(), "hidden-", &signature] {
            let secret = secret.to_lowercase();
            assert!(secret.is_empty() || !lower.contains(&secret), "{secret} is in:\n{text}");
        }
    }
    rig.end().await;
}

/// Standard output that is a full disk, a pipe that nobody holds, or one that nobody reads: the program serves.
#[tokio::test]
async fn whatever_becomes_of_standard_output_the_program_serves() {
    let devnet = Devnet::start(DevnetOptions::default()).await.unwrap();
    let upstream = Scripted::start(|_| Reply::text(200, "ok")).await;
    for (what, says) in [("full", true), ("closed", true), ("stuck", false)] {
        let folder = TempDir::new().unwrap();
        let origin = upstream.url.origin().ascii_serialization();
        let gateway = Program::new(folder.path(), &devnet, &origin, 1).with("", ALL);
        let out = match what {
            "full" => Stdio::from(OpenOptions::new().write(true).open("/dev/full").unwrap()),
            _ => Stdio::piped(),
        };
        let mut process = gateway.start_with(out, Stdio::piped());
        let mut said = BufReader::new(process.stderr.take().unwrap()).lines();
        let unread = process.stdout.take().filter(|_| what == "stuck");
        let client = program::client();
        let url = format!("{}/thing", gateway.url);
        let ask = async || client.get(&url).send().await.ok().map(|it| it.status());
        let status = wait_for("the program serves", &ask).await;
        assert_eq!(status, 402, "{what}");
        if says {
            let complaint = async {
                while let Some(line) = said.next_line().await.unwrap() {
                    if line.contains("the access log cannot be written") {
                        return;
                    }
                }
                panic!("{what}: it says nothing");
            };
            soon("the complaint", complaint).await;
        } else {
            // More than a pipe holds: its writer stands still.
            for _ in 0..25 {
                let asked = (0..20).map(|_| ask());
                let answered = futures_util::future::join_all(asked).await;
                assert!(
                    answered.iter().all(|it| *it == Some(reqwest::StatusCode::PAYMENT_REQUIRED)),
                    "{answered:?}"
                );
            }
        }
        assert_eq!(ask().await, Some(reqwest::StatusCode::PAYMENT_REQUIRED), "{what}");
        program::end(process).await;
        drop(unread);
    }
    soon("the ledger ends", devnet.stop()).await;
}

/// The log was written by whoever logged: a full disk or a pipe that nobody held ended the process at its next line or
/// cut a settlement off, and a pipe that nobody read stopped every thread.
#[tokio::test]
async fn whatever_becomes_of_standard_error_the_program_serves() {
    let devnet = Devnet::start(DevnetOptions::default()).await.unwrap();
    let upstream = Scripted::start(|_| Reply::text(200, "ok")).await;
    let key = faregate::nano::Seed::from_bytes([0x5a; 32]).key(0);
    for what in ["full", "closed", "stuck"] {
        let folder = TempDir::new().unwrap();
        let origin = upstream.url.origin().ascii_serialization();
        let gateway = Program::new(folder.path(), &devnet, &origin, 1).logging("info");
        let (reader, mut writer) = std::io::pipe().unwrap();
        let (unread, err) = match what {
            "full" => (None, OpenOptions::new().write(true).open("/dev/full").unwrap().into()),
            "closed" => {
                drop(reader);
                (None, writer.into())
            }
            _ => {
                // More than a pipe holds: its writers stand still.
                let copy = writer.try_clone().unwrap();
                std::thread::spawn(move || writer.write_all(&vec![b'x'; 1 << 21]));
                (Some(reader), copy.into())
            }
        };
        let process = gateway.start_with(Stdio::null(), err);
        let client = program::client();
        let url = format!("{}/thing", gateway.url);
        let pid = process.id().unwrap().to_string();
        let tell = async |signal| {
            let told =
                tokio::process::Command::new("kill").args([signal, pid.as_str()]).status().await.unwrap();
            assert!(told.success());
        };
        let bill = wait_for("a bill", async || client.get(&url).send().await.ok()).await;
        tell("-HUP").await;
        devnet.fund(key.account(), PLENTY).unwrap();
        devnet.receive_all(&key).unwrap();
        let offer = offers(&bill).offers.remove(0);
        let block = devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
        let proof = faregate::x402::PaymentProof::NanoTxn { block };
        let proof = faregate::x402::encode_header(&offer.answer(&proof));
        let paid = client.get(&url).header("PAYMENT-SIGNATURE", proof).send().await.unwrap();
        assert_eq!(paid.status(), 200, "{what}");
        program::end(process).await;
        drop(unread);
    }
    soon("the ledger ends", devnet.stop()).await;
}

/// What the program writes to standard output are lines of JSON, the last one too when it ends.
#[tokio::test]
async fn standard_output_has_whole_lines_to_the_last_request() {
    let devnet = Devnet::start(DevnetOptions::default()).await.unwrap();
    let upstream = Scripted::start(|_| Reply::text(200, "ok")).await;
    let (folder, origin) = (TempDir::new().unwrap(), upstream.url.origin().ascii_serialization());
    let gateway = Program::new(folder.path(), &devnet, &origin, 1).with("", ALL);
    let path = folder.path().join("access.log");
    let mut process = gateway.start_with(Stdio::from(std::fs::File::create(&path).unwrap()), Stdio::null());
    let client = program::client();
    let url = format!("{}/thing", gateway.url);
    let bill = wait_for("a bill", async || client.get(&url).send().await.ok()).await;
    let key = faregate::nano::Seed::from_bytes([0x5a; 32]).key(0);
    devnet.fund(key.account(), PLENTY).unwrap();
    devnet.receive_all(&key).unwrap();
    let offer = offers(&bill).offers.remove(0);
    let block = devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let proof = faregate::x402::PaymentProof::NanoTxn { block };
    let proof = faregate::x402::encode_header(&offer.answer(&proof));
    let paid = client.get(&url).header("PAYMENT-SIGNATURE", proof).send().await.unwrap();
    assert_eq!(paid.status(), 200);
    drop(paid);
    assert!(process.try_wait().unwrap().is_none());
    program::end(process).await;
    let text = std::fs::read_to_string(&path).unwrap();
    let outcomes: Vec<_> =
        text.lines().map(|it| serde_json::from_str::<Value>(it).unwrap()["outcome"].clone()).collect();
    assert_eq!(outcomes, ["challenged", "paid"]);
    assert!(text.ends_with("}\n"));
    soon("the ledger ends", devnet.stop()).await;
}
