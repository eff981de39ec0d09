//! `faregate refunds`: what is owed is sent once, wherever the program is killed and whatever else the seed's owner does.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;

use clap::Parser;
use faregate::assemble::open_store;
use faregate::cli::refunds::{RefundsCommand, run};
use faregate::config::Config;
use faregate::nano::{Account, Raw, SecretKey, Seed, UnixSeconds};
use faregate::payment::Mechanism;
use faregate::store::refunds::{Closing, RefundJournal, RefundRecord, RefundSearch, RefundState};
use faregate::store::{Intent, Meters};
use serde_json::Value;

use crate::store::samples::{NOW, grantee, hash, id, purse, sent};
use crate::sweep::home::{Home, ONE_XNO, POOL, number};

/// What is owed to the payer, in raw.
const OWED: u128 = ONE_XNO / 3 + 7;
const SIGABRT: i32 = 6;

fn payer(number: u8) -> SecretKey {
    Seed::from_bytes([0x5d; 32]).key(u32::from(number))
}

/// Owes [`OWED`] to the payer of this number.
async fn owe(home: &Home, payer_number: u8) {
    let store = open_store(&Config::load(&home.config).unwrap().store, None).await.unwrap();
    let mut terms = purse();
    terms.amount = Raw::new(OWED);
    let (block, account) = (hash(payer_number), payer(payer_number).account());
    let intent = Intent { terms, amount: Raw::new(OWED), payer: account, ..sent(block, payer_number) };
    store.grant(&intent, grantee(block, 1, 0), NOW).await.unwrap();
    let closed = store.close_capability(id(block), Raw::new(1), NOW).await.unwrap();
    assert!(matches!(closed, Closing::Refund(it) if it.state == RefundState::Owed));
    store.close().await;
}

async fn journal(home: &Home) -> Vec<RefundRecord> {
    let store = open_store(&Config::load(&home.config).unwrap().store, None).await.unwrap();
    let all = store.refunds(&RefundSearch { limit: 99, ..RefundSearch::default() }).await.unwrap();
    store.close().await;
    all
}

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: RefundsCommand,
}

/// Runs the command: exit code, output, errors.
async fn refunds(home: &Home, arguments: &[&str]) -> (u8, String, String) {
    let config = ["--config", home.config.to_str().unwrap()];
    let line = Line::try_parse_from(["refunds"].iter().chain(arguments).chain(&config)).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = number(run(line.command, &mut out, &mut err).await);
    (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// Runs the program, which ends itself at a failpoint if one is named.
async fn program(home: &Home, failpoints: Option<&str>) -> std::process::ExitStatus {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_faregate"));
    command.args(["refunds", "pay", "--config"]).arg(&home.config);
    command.env_remove("FAILPOINTS").envs(failpoints.map(|it| ("FAILPOINTS", it)));
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().await.unwrap()
}

/// What came to an account: the sum in raw, and in how many sends.
fn came_to(home: &Home, account: Account) -> (u128, usize) {
    let lattice = home.devnet.lattice();
    (lattice.receivable_sum(account, true).get(), lattice.receivables(account).count())
}

#[tokio::test]
async fn what_is_owed_is_listed_and_sent() {
    let home = Home::new(POOL, "").await;
    owe(&home, 1).await;
    owe(&home, 2).await;
    home.fund(Mechanism::NanoTxn, 0, ONE_XNO / 4);
    home.fund(Mechanism::NanoTxn, 0, ONE_XNO / 4);
    home.fund(Mechanism::NanoSignature, 1, ONE_XNO);
    let (code, out, _) = refunds(&home, &["list"]).await;
    assert_eq!((code, out.lines().count()), (0, 3));
    assert!(out.ends_with("2 refunds, 0.66666666666666666666666666668 XNO not sent yet\n"), "{out}");
    let (code, out, err) = refunds(&home, &["pay", "--dry-run"]).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("2 refunds, ") && out.contains("would be sent"), "{out}");
    assert_eq!(home.devnet.faults().calls("process"), 0);
    let (code, out, err) = refunds(&home, &["pay", "--json"]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let lines: Vec<Value> = out.lines().map(|it| serde_json::from_str(it).unwrap()).collect();
    assert!(lines.iter().all(|it| it["state"] == "confirmed" && it["amount_raw"] == OWED.to_string()));
    for number in 1..=2 {
        assert_eq!(came_to(&home, payer(number).account()), (OWED, 1));
    }
    let (code, out, _) = refunds(&home, &["pay"]).await;
    assert_eq!((code, out.as_str()), (0, "0 refunds sent, 0 XNO\n"));
    let (_, out, _) = refunds(&home, &["list", "--open"]).await;
    assert_eq!(out, "0 refunds, 0 XNO not sent yet\n");
    home.devnet.stop().await;
}

#[tokio::test]
async fn killed_at_every_step_it_is_sent_once() {
    if !fail::has_failpoints() {
        return;
    }
    let points =
        ["sweep-published", "refund-signed", "refund-journalled", "refund-published", "refund-confirmed"];
    for point in points {
        let home = Home::new(POOL, "").await;
        owe(&home, 1).await;
        home.fund(Mechanism::NanoTxn, 0, ONE_XNO);
        let killed = program(&home, Some(&format!("{point}=return"))).await;
        assert_eq!(killed.signal(), Some(SIGABRT), "{point}");
        let [left] = &journal(&home).await[..] else { panic!("one") };
        let is_signed = !["sweep-published", "refund-signed"].contains(&point);
        assert_eq!(left.state, if is_signed { RefundState::Signed } else { RefundState::Owed }, "{point}");
        assert!(program(&home, None).await.success(), "{point}");
        let [sent] = &journal(&home).await[..] else { panic!("one") };
        assert_eq!(sent.state, RefundState::Confirmed, "{point}");
        if is_signed {
            assert_eq!(sent.block, left.block, "{point}: the block that was journalled, and no other");
        }
        assert_eq!(came_to(&home, payer(1).account()), (OWED, 1), "{point}");
        assert!(program(&home, None).await.success(), "{point}");
        assert_eq!(came_to(&home, payer(1).account()), (OWED, 1), "{point}");
        home.devnet.stop().await;
    }
}

/// The owner of the seed moves the account while a journalled block was not published: that block can never be
/// confirmed, so another sends the refund.
#[tokio::test]
async fn a_block_that_was_overtaken_is_replaced_and_one_that_was_not_never() {
    if !fail::has_failpoints() {
        return;
    }
    let home = Home::new(POOL, "").await;
    owe(&home, 1).await;
    home.fund(Mechanism::NanoTxn, 0, ONE_XNO);
    assert!(program(&home, Some("refund-journalled=return")).await.signal().is_some());
    let [before] = &journal(&home).await[..] else { panic!("one") };
    let first = before.block.unwrap();
    let key = home.key(Mechanism::NanoTxn, 0);
    let other = home.devnet.send_block(&key, Account([0x21; 32]), Raw::new(5)).unwrap();
    assert_eq!(other.previous, first.previous);
    home.devnet.process(other).unwrap();
    let (code, out, err) = refunds(&home, &["pay"]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let [after] = &journal(&home).await[..] else { panic!("one") };
    assert_eq!(after.state, RefundState::Confirmed);
    assert_ne!(after.block, Some(first));
    assert_eq!(came_to(&home, payer(1).account()), (OWED, 1));
    assert!(home.devnet.lattice().entry(first.hash()).is_none());
    home.devnet.stop().await;
}

#[tokio::test]
async fn a_pool_with_too_little_owes_it_until_it_has_enough() {
    let home = Home::new(POOL, "").await;
    owe(&home, 1).await;
    home.fund(Mechanism::NanoTxn, 0, OWED - 1);
    let (code, out, _) = refunds(&home, &["pay"]).await;
    assert!(code == 1 && out.contains("no account of the pool has"), "{code} {out}");
    assert_eq!(came_to(&home, payer(1).account()), (0, 0));
    home.fund(Mechanism::NanoTxn, 0, 1);
    let (code, out, _) = refunds(&home, &["pay"]).await;
    assert_eq!(code, 0, "{out}");
    assert_eq!(came_to(&home, payer(1).account()), (OWED, 1));
    home.devnet.stop().await;
}

#[tokio::test]
async fn a_gateway_without_the_seed_queues_and_the_seed_is_named_where_it_is_paid() {
    let home = Home::new("{ addresses_file: pool.addresses }", "").await;
    let addresses: String =
        Mechanism::ALL.into_iter().take(2).map(|it| format!("{}\n", home.key(it, 0).account())).collect();
    std::fs::write(home.folder.path().join("pool.addresses"), addresses).unwrap();
    owe(&home, 1).await;
    let (code, _, err) = refunds(&home, &["pay"]).await;
    assert!(code == 78 && err.contains("holds no key of its pool"), "{code} {err}");
    let text = std::fs::read_to_string(&home.config).unwrap();
    std::fs::write(&home.config, format!("{text}\nrefunds: {{ pay: gateway }}\n")).unwrap();
    let (code, _, err) = refunds(&home, &["list"]).await;
    assert!(code == 78 && err.contains("write `pay: queue`"), "{code} {err}");
    std::fs::write(&home.config, text).unwrap();
    home.fund(Mechanism::NanoTxn, 0, ONE_XNO);
    let seed = home.folder.path().join("pool.seed");
    let (code, out, err) = refunds(&home, &["pay", "--seed-file", seed.to_str().unwrap()]).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    assert_eq!(came_to(&home, payer(1).account()), (OWED, 1));
    home.devnet.stop().await;
}

#[tokio::test]
async fn a_sweep_leaves_in_the_pool_what_refunds_are_paid_with() {
    let home = Home::new(POOL, "refunds: { keep: 0.5 XNO }").await;
    home.fund(Mechanism::NanoTxn, 0, ONE_XNO / 4);
    home.fund(Mechanism::NanoTxn, 1, ONE_XNO / 2);
    home.fund(Mechanism::NanoSignature, 0, ONE_XNO / 8);
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_faregate"));
    command.args(["sweep", "--once", "--config"]).arg(&home.config).stdout(Stdio::null());
    assert!(command.status().await.unwrap().success());
    assert_eq!(home.treasury(), ONE_XNO / 4 + ONE_XNO / 8, "the largest stays");
    owe(&home, 1).await;
    assert_eq!(refunds(&home, &["pay"]).await.0, 0);
    assert_eq!(came_to(&home, payer(1).account()), (OWED, 1));
    assert!(journal(&home).await.iter().all(|it| it.closed_at == UnixSeconds(NOW.0)));
    home.devnet.stop().await;
}
