//! `faregate payments`: the journal printed, and compared with the ledger, one planted fault a test.

use std::num::NonZeroU32;
use std::time::Duration;

use clap::{Parser, Subcommand};
use faregate::cli::payments::{PaymentsCommand, run};
use faregate::devnet::{DevnetOptions, InjectedFault, Times};
use faregate::nano::{Raw, Seed, StateBlock, UnixSeconds};
use faregate::payment::Mechanism;
use faregate::payment::Nonce;
use faregate::routes::{Grants, RouteName, Terms};
use faregate::store::{
    CapabilityId, Claims, Grantee, Holder, Intent, Meters, PaymentState, SqliteOptions, SqliteStore,
};
use serde_json::Value;

use crate::rig::{PLENTY, Rig, signature};
use crate::sweep::home::{Home, ONE_XNO, POOL, number};

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[command(subcommand)]
    Payments(PaymentsCommand),
}

/// A payment of one day in 2027.
const NOON: UnixSeconds = UnixSeconds(1_800_000_000);

/// The command's exit code and what it printed on either stream.
async fn payments(config: &std::path::Path, arguments: &[&str]) -> (u8, String, String) {
    let (name, rest) = arguments.split_first().unwrap();
    let mut line = vec!["faregate", "payments", name, "--config", config.to_str().unwrap()];
    line.extend(rest);
    let Command::Payments(command) = Line::try_parse_from(line).unwrap().command;
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run(command, &mut out, &mut err).await;
    (number(code), String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

/// A ledger, and a journal that a test writes as it wants.
struct Desk {
    home: Home,
    store: SqliteStore,
}

impl Desk {
    async fn new() -> Self {
        Self::with(DevnetOptions::default()).await
    }

    async fn with(options: DevnetOptions) -> Self {
        let home = Home::with(POOL, "", options).await;
        let path = home.folder.path().join("faregate.db");
        Self { home, store: SqliteStore::open(&path, SqliteOptions::default()).unwrap() }
    }

    /// A send of 1 XNO to the pool, made and not published.
    fn block(&self, payer: u32) -> StateBlock {
        let key = Seed::from_bytes([0x5a; 32]).key(payer);
        let account = key.account();
        self.home.devnet.fund(account, Raw::new(ONE_XNO)).unwrap();
        for hash in self.home.devnet.receive_all(&key).unwrap() {
            assert!(self.home.devnet.confirm_now(hash));
        }
        let to = self.home.key(Mechanism::NanoTxn, 0).account();
        self.home.devnet.send_block(&key, to, Raw::new(ONE_XNO)).unwrap()
    }

    fn publish(&self, block: StateBlock) {
        self.home.devnet.process(block).unwrap();
    }

    async fn grant(&self, intent: &Intent, number: u8) {
        let (id, holder) = (CapabilityId([number; 16]), Holder([7; 16]));
        self.store
            .grant(intent, Grantee { id, holder, want: 0, ttl: 0 }, NOON.plus(u64::from(number) * 86_400))
            .await
            .unwrap();
    }

    async fn reconcile(&self) -> (u8, String) {
        let (code, out, err) = payments(&self.home.config, &["reconcile"]).await;
        assert_eq!(err, "");
        let (json_code, json, _) = payments(&self.home.config, &["reconcile", "--json"]).await;
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((code, json["agrees"].as_bool().unwrap()), (json_code, json_code == 0));
        (code, out)
    }

    /// Reconciles and expects exactly one discrepancy of this kind.
    #[track_caller]
    fn expect(&self, (code, out): (u8, String), kind: &str, block: &StateBlock) {
        let rows: Vec<_> = out.lines().filter(|it| !it.starts_with(' ')).collect();
        assert!(code == 1 && rows.len() == 2, "{code}\n{out}");
        assert!(rows[0].starts_with(kind) && rows[0].contains(&block.hash().to_string()), "{out}");
        assert!(rows[1].ends_with("1 does not agree"), "{out}");
    }

    async fn end(self) {
        self.store.close().await;
        self.home.devnet.stop().await;
    }
}

fn intent(block: &StateBlock) -> Intent {
    Intent {
        block: block.hash(),
        signed: Some(*block),
        mechanism: Mechanism::NanoTxn,
        challenge: Nonce(block.hash().0),
        route: RouteName::new("a, \"b\""),
        terms: Terms { amount: Raw::new(ONE_XNO), grants: Grants::of_requests(NonZeroU32::MIN, 3600) },
        payer: block.account,
        amount: Raw::new(ONE_XNO),
        pay_to: block.destination(),
        valid_before: NOON.plus(120),
        exchange: "0.83 USD at 0.83".parse().ok(),
        identified: None,
    }
}

#[tokio::test]
async fn what_a_gateway_was_paid_is_listed_and_agrees_before_and_after_a_sweep() {
    let rig = Rig::start().await;
    let key = rig.payer(1, PLENTY);
    assert_eq!(rig.pay(&key, "/v1/quote/XNO").await.status(), 200);
    let [_, offer] = rig.bill("/v1/search/a").await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(block).unwrap();
    let proof = signature(&key, &block, &offer);
    assert_eq!(rig.get("/v1/search/a", &[("PAYMENT-SIGNATURE", &proof)]).await.status(), 200);
    let config = rig.folder.path().join("faregate.yaml");
    let work = faregate::devnet::THRESHOLDS;
    let text = format!(
        "public_url: {0}\nlisten: {{ http: 127.0.0.1:0 }}\n\
         nano: {{ nodes: [{1}], pool: {{ seed_file: pool.seed, size: 8 }}, treasury: {2}, work: {{ send: \"{3}\", receive: \"{4}\" }} }}\n\
         upstreams: {{ api: {{ url: {0} }} }}\nroutes: [{{ match: /a, upstream: api, price: 1 XNO }}]\n\
         sweep: {{ minimum: 1 raw }}\n",
        rig.url,
        rig.devnet.rpc_url(),
        faregate::nano::Account([0x42; 32]),
        work.send,
        work.receive
    );
    std::fs::write(&config, text).unwrap();

    // Beside the gateway, which has the store open.
    let (code, out, err) = payments(&config, &["list"]).await;
    assert_eq!((code, err.as_str(), out.lines().count()), (0, "", 3), "{out}");
    let lines: Vec<_> = out.lines().collect();
    assert!(lines[1].contains("granted  nanoTxn") && lines[1].contains(" 0.0001 XNO  "), "{out}");
    assert!(lines[2].contains("nanoSignature") && lines[2].ends_with(&format!("{}  search", block.hash())));
    let agrees = |(code, out, _): (u8, String, String)| {
        assert!(code == 0 && out.contains("2 sends to the pool on the ledger: all agree"), "{code} {out}");
    };
    agrees(payments(&config, &["reconcile"]).await);
    let swept = faregate::cli::sweep::SweepArgs {
        config: config.clone().into(),
        once: true,
        dry_run: false,
        json: true,
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    assert_eq!(number(faregate::cli::sweep::run(swept, &mut out, &mut err).await), 0);
    let swept: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(swept["sent_xno"], "0.0011");
    agrees(payments(&config, &["reconcile"]).await);
    rig.end().await;
}

#[tokio::test]
async fn a_send_that_came_in_by_itself_is_found_swept_or_not_and_a_late_proof_redeems_it() {
    let (clock, seconds) = crate::rig::manual_clock();
    let rig = Rig::with(crate::rig::Plan { clock, ..Default::default() }).await;
    let key = rig.payer(1, PLENTY);
    let [_, offer] = rig.bill("/v1/quote/XNO").await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(block).unwrap();
    let client = faregate::ledger::node::NodeClient::new(vec![
        faregate::ledger::node::NodeEndpoint::from_url(
            rig.devnet.rpc_url().parse().unwrap(),
            Duration::from_secs(5),
        )
        .unwrap(),
    ])
    .unwrap();
    let ledger = faregate::ledger::node::NodeLedger::new(client);
    let books = faregate::reconcile::Books::new(
        ledger,
        std::sync::Arc::clone(rig.services.store()),
        vec![offer.pay_to],
    );
    let found = books.unclaimed().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].send, found[0].amount, found[0].sender, found[0].account, found[0].received),
        (block.hash(), offer.amount, Some(key.account()), offer.pay_to, false)
    );
    // The pool receives it and it stays unclaimed.
    let pool = faregate::vault::Vault::open(&rig.folder.path().join("pool.seed")).unwrap();
    let index = (0..8).map(|it| faregate::payment::address_pool::INDEXES_PER_MECHANISM + it);
    let index = index.into_iter().find(|it| pool.account(*it) == offer.pay_to).unwrap();
    let secret = std::fs::read_to_string(rig.folder.path().join("pool.seed")).unwrap();
    let mut bytes = [0; 32];
    hex::decode_to_slice(secret.trim(), &mut bytes).unwrap();
    rig.devnet.receive_all(&Seed::from_bytes(bytes).key(index)).unwrap();
    let found = books.unclaimed().await.unwrap();
    assert_eq!((found.len(), found[0].send, found[0].received), (1, block.hash(), true));
    // Too late for its challenge: a fresh one for the same address redeems it, received or not.
    seconds.fetch_add(10_000, std::sync::atomic::Ordering::SeqCst);
    let proof = signature(&key, &block, &offer);
    let late = rig.get("/v1/quote/XNO", &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(late.status(), 402);
    let fresh = crate::rig::offers(&late).offers.into_iter().find(|it| it.pay_to == offer.pay_to).unwrap();
    let proof = signature(&key, &block, &fresh);
    assert_eq!(rig.get("/v1/quote/XNO", &[("PAYMENT-SIGNATURE", &proof)]).await.status(), 200);
    assert_eq!(books.unclaimed().await.unwrap(), []);
    rig.end().await;
}

#[tokio::test]
async fn a_payment_that_no_node_knows_is_missing() {
    let desk = Desk::new().await;
    let block = desk.block(1);
    desk.grant(&intent(&block), 1).await;
    desk.expect(desk.reconcile().await, "missing", &block);
    desk.publish(block);
    assert_eq!(desk.reconcile().await.0, 0);
    desk.end().await;
}

#[tokio::test]
async fn a_payment_that_is_not_confirmed_is_unconfirmed() {
    let confirm_after = Duration::from_secs(3600);
    let desk = Desk::with(DevnetOptions { confirm_after, ..DevnetOptions::default() }).await;
    let block = desk.block(1);
    desk.grant(&intent(&block), 1).await;
    desk.publish(block);
    desk.expect(desk.reconcile().await, "unconfirmed", &block);
    assert!(desk.home.devnet.confirm_now(block.hash()));
    assert_eq!(desk.reconcile().await.0, 0);
    desk.end().await;
}

/// `reconcile` said "all agree" of 1,236 granted payments although the nodes listed 113 sends only.
#[tokio::test]
async fn a_payment_that_the_nodes_do_not_list_is_unlisted() {
    let desk = Desk::new().await;
    let block = desk.block(1);
    desk.grant(&intent(&block), 1).await;
    desk.home.devnet.order("accounts_receivable", InjectedFault::Stale, Times::Always);
    desk.publish(block);
    desk.expect(desk.reconcile().await, "unlisted", &block);
    desk.home.devnet.faults().clear();
    assert_eq!(desk.reconcile().await.0, 0);
    desk.end().await;
}

#[tokio::test]
async fn a_payment_that_is_another_send_is_different() {
    let desk = Desk::new().await;
    let block = desk.block(1);
    desk.publish(block);
    let other = Intent { amount: Raw::new(2 * ONE_XNO), ..intent(&block) };
    desk.grant(&other, 1).await;
    let (code, out) = desk.reconcile().await;
    assert!(out.contains("the ledger: 1 XNO from"), "{out}");
    desk.expect((code, out), "different", &block);
    desk.end().await;
}

#[tokio::test]
async fn a_payment_that_was_given_up_and_is_paid_is_not_granted() {
    let desk = Desk::new().await;
    let block = desk.block(1);
    desk.store.begin(&intent(&block), NOON).await.unwrap();
    desk.publish(block);
    assert_eq!(desk.reconcile().await.0, 0, "it is on its way");
    desk.store.advance(block.hash(), &[PaymentState::Intent], PaymentState::Failed, NOON).await.unwrap();
    desk.expect(desk.reconcile().await, "not_granted", &block);
    desk.end().await;
}

#[tokio::test]
async fn a_send_without_a_payment_is_unclaimed() {
    let desk = Desk::new().await;
    let block = desk.block(1);
    desk.publish(block);
    desk.expect(desk.reconcile().await, "unclaimed", &block);
    let (code, out, _) = payments(&desk.home.config, &["list", "--unclaimed", "--from-ledger"]).await;
    assert!(
        code == 0 && out.contains(&block.account.to_string()) && out.ends_with("1 send unclaimed, 1 XNO\n")
    );
    // Received, it is as unclaimed as before.
    desk.home.devnet.receive_all(&desk.home.key(Mechanism::NanoTxn, 0)).unwrap();
    desk.expect(desk.reconcile().await, "unclaimed", &block);
    let (_, out, _) = payments(&desk.home.config, &["list", "--unclaimed", "--from-ledger", "--json"]).await;
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&json["block"], &json["amount_xno"], &json["received"]),
        (&block.hash().to_string().into(), &"1".into(), &true.into())
    );
    desk.end().await;
}

#[tokio::test]
async fn without_a_node_nothing_is_said_about_the_books() {
    let desk = Desk::new().await;
    let block = desk.block(1);
    desk.grant(&intent(&block), 1).await;
    for action in ["accounts_receivable", "account_history", "block_info"] {
        desk.home.devnet.order(action, InjectedFault::ServerError, Times::Always);
        let (code, out, err) = payments(&desk.home.config, &["reconcile"]).await;
        assert!(code == 69 && out.is_empty() && err.contains("nodes"), "{action}: {code} {out} {err}");
        desk.home.devnet.faults().clear();
    }
    desk.end().await;
}

#[tokio::test]
async fn a_long_history_is_read_to_its_end() {
    let desk = Desk::new().await;
    let key = desk.home.key(Mechanism::NanoTxn, 0);
    // More than one page of a history, and more than one call gives of what waits.
    for _ in 0..1005 {
        desk.home.devnet.fund(key.account(), Raw::new(1)).unwrap();
    }
    let (_, out, _) = payments(&desk.home.config, &["list", "--unclaimed", "--from-ledger"]).await;
    assert!(out.contains("1005 sends unclaimed, 0.000000000000000000000000001005 XNO"), "{out}");
    desk.home.devnet.receive_all(&key).unwrap();
    let (_, out, _) = payments(&desk.home.config, &["list", "--unclaimed", "--from-ledger"]).await;
    assert!(out.contains("1005 sends unclaimed"), "{out}");
    desk.end().await;
}

#[tokio::test]
async fn the_journal_is_listed_shown_and_exported() {
    let desk = Desk::new().await;
    let blocks = [desk.block(1), desk.block(2), desk.block(3)];
    desk.grant(&intent(&blocks[0]), 1).await;
    desk.grant(&intent(&blocks[1]), 2).await;
    desk.store.begin(&intent(&blocks[2]), NOON.plus(3 * 86_400)).await.unwrap();
    let config = desk.home.config.as_path();
    let hashes = |out: &str| {
        blocks
            .iter()
            .enumerate()
            .filter(|(_, it)| out.contains(&it.hash().to_string()))
            .map(|(at, _)| at)
            .collect::<Vec<_>>()
    };
    for (arguments, expected) in [
        (&["list"][..], &[0, 1, 2][..]),
        (&["list", "--state", "granted"], &[0, 1]),
        (&["list", "--state", "parked"], &[]),
        (&["list", "--last", "1"], &[2]),
        (&["list", "--since", "2027-01-17"], &[1, 2]),
        (&["list", "--since", "2027-01-18T00:00:00Z", "--json"], &[2]),
        (&["export", "--format", "csv", "--state", "intent"], &[2]),
        (&["export", "--format", "jsonl", "--since", "2027-01-17"], &[1, 2]),
    ] {
        let (code, out, err) = payments(config, arguments).await;
        assert_eq!((code, err.as_str(), hashes(&out).as_slice()), (0, "", expected), "{arguments:?}\n{out}");
    }
    let (_, csv, _) = payments(config, &["export"]).await;
    let lines: Vec<_> = csv.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].starts_with("sequence,created_at,") && lines[0].ends_with(",valid_before"));
    let start = format!(
        "1,2027-01-16T08:00:00Z,2027-01-16T08:00:00Z,granted,nanoTxn,\"a, \"\"b\"\"\",1,{ONE_XNO},{ONE_XNO},0.83,USD,0.83,"
    );
    assert!(lines[1].starts_with(&start), "{csv}");
    let (_, jsonl, _) = payments(config, &["export", "--format", "jsonl"]).await;
    let first: Value = serde_json::from_str(jsonl.lines().next().unwrap()).unwrap();
    assert_eq!(
        (&first["sequence"], &first["amount_raw"], &first["amount_xno"], &first["route"]),
        (&1.into(), &ONE_XNO.to_string().into(), &"1".into(), &"a, \"b\"".into())
    );
    assert_eq!(
        (&first["price"], &first["currency"], &first["rate"]),
        (&"0.83".into(), &"USD".into(), &"0.83".into())
    );
    assert!(payments(config, &["list"]).await.1.contains("a, \"b\" (0.83 USD at 0.83)"));
    // A challenge is a secret of its payer.
    assert!(!jsonl.to_lowercase().contains("challenge") && !csv.contains("challenge"));

    let hash = blocks[1].hash().to_string();
    let (code, out, _) = payments(config, &["show", &hash.to_lowercase()]).await;
    assert!(
        code == 0 && out.contains("amount_xno      1\n") && out.contains(&blocks[1].account.to_string()),
        "{out}"
    );
    let (code, _, err) = payments(config, &["show", &"0".repeat(64)]).await;
    assert!(code == 1 && err.contains("no payment by block"), "{err}");
    let (code, _, err) = payments(config, &["list", "--since", "yesterday"]).await;
    assert!(code == 64 && err.contains("neither a time nor a duration"), "{err}");
    desk.end().await;
}

#[tokio::test]
async fn a_journal_that_is_not_there_is_not_made() {
    let home = Home::new(POOL, "").await;
    for command in [&["list"][..], &["export"], &["reconcile"]] {
        let (code, _, err) = payments(&home.config, command).await;
        assert!(code == 78 && err.contains("there is no journal yet"), "{command:?}: {code} {err}");
    }
    assert!(!home.folder.path().join("faregate.db").exists());
    home.devnet.stop().await;
}
