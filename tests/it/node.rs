//! Nano nodes: which answers are accepted, and every way in which a node can fail.

mod captured;
mod legacy;
mod receivable;
mod work;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use faregate::ledger::node::{NodeClient, NodeEndpoint, NodeEvent, NodeLedger, NodeSetupError};
use faregate::ledger::{Ledger, LedgerError, PublishError, Sighting};
use faregate::nano::{Account, BlockHash, Raw, Representative, Seed, Signature, StateBlock, Work};
use faregate::payment::{BlockFacts, BlockKind};
use serde_json::{Value, json};
use url::Url;

use crate::scripted::{Reply, Scripted, Seen, nobody};

fn capture(name: &str) -> Value {
    let path = format!("{}/tests/captures/{name}.json", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn client(urls: &[&Url]) -> NodeClient {
    client_with(urls, Duration::from_secs(5))
}

fn client_with(urls: &[&Url], timeout: Duration) -> NodeClient {
    let endpoints = urls.iter().map(|url| NodeEndpoint::from_url((*url).clone(), timeout).unwrap());
    NodeClient::new(endpoints.collect()).unwrap()
}

/// A node that answers each call with a captured answer.
async fn replaying(dialect: &'static str) -> Scripted {
    Scripted::start(move |seen| {
        let name = match seen.action().as_str() {
            "process" => "process_send".to_owned(),
            action => action.to_owned(),
        };
        Reply::json(&capture(&name)[dialect])
    })
    .await
}

/// An account with three blocks: 10 raw, then 7, then 7 under another representative.
struct Blocks {
    account: Account,
    payee: Account,
    opened: StateBlock,
    sent: StateBlock,
    changed: StateBlock,
}

fn blocks() -> Blocks {
    let seed = Seed::from_bytes([5; 32]);
    let (account, payee) = (seed.key(0).account(), seed.key(1).account());
    let block = |previous: BlockHash, balance, link| {
        let unsigned = StateBlock {
            account,
            previous,
            representative: Representative(account),
            balance: Raw::new(balance),
            link,
            signature: Signature([0; 64]),
            work: Some(Work(0)),
        };
        unsigned.signed(&seed.key(0))
    };
    let opened = block(BlockHash::ZERO, 10, [9; 32]);
    let sent = block(opened.hash(), 7, payee.0);
    let changed = block(sent.hash(), 7, [0; 32]);
    Blocks { account, payee, opened, sent, changed }
}

fn block_info(block: &StateBlock, confirmed: bool) -> Value {
    json!({
        "block_account": block.account,
        "amount": "3",
        "balance": block.balance,
        "height": "2",
        "local_timestamp": "0",
        "successor": BlockHash::ZERO,
        "confirmed": confirmed.to_string(),
        "contents": block,
        "subtype": "send",
    })
}

fn absent() -> Value {
    capture("not_found")["block_info"].clone()
}

/// What a node answers to `blocks_info` with `include_not_found`.
fn blocks_info(hashes: &[Value], known: &BTreeMap<String, Value>) -> Value {
    let (mut blocks, mut missing) = (serde_json::Map::new(), Vec::new());
    for hash in hashes {
        match known.get(hash.as_str().unwrap()) {
            Some(info) => drop(blocks.insert(hash.as_str().unwrap().to_owned(), info.clone())),
            None => missing.push(hash),
        }
    }
    let blocks = if blocks.is_empty() { json!("") } else { json!(blocks) };
    json!({ "blocks": blocks, "blocks_not_found": missing })
}

/// A node that has these blocks.
async fn having(blocks: &[(StateBlock, bool)]) -> Scripted {
    let known: BTreeMap<String, Value> = blocks
        .iter()
        .map(|(block, confirmed)| (block.hash().to_string(), block_info(block, *confirmed)))
        .collect();
    Scripted::start(move |seen| {
        let body = seen.json();
        if let Some(hashes) = body["hashes"].as_array() {
            return Reply::json(&blocks_info(hashes, &known));
        }
        let hash = body["hash"].as_str().unwrap_or("");
        Reply::json(known.get(hash).unwrap_or(&absent()))
    })
    .await
}

fn ledger(nodes: &[&Scripted]) -> NodeLedger {
    NodeLedger::new(client(&nodes.iter().map(|node| &node.url).collect::<Vec<_>>()))
}

#[tokio::test]
async fn a_ledger_block_is_judged_by_the_balance_before_it() {
    let Blocks { account, payee, opened, sent, changed } = blocks();
    let node = having(&[(opened, true), (sent, false), (changed, true)]).await;
    let ledger = ledger(&[&node]);
    let kind = async |block: &StateBlock| ledger.block(block.hash()).await.unwrap().unwrap().kind();
    assert_eq!(kind(&sent).await, BlockKind::Send { account, destination: payee, amount: Raw::new(3) });
    assert_eq!(kind(&opened).await, BlockKind::Other);
    assert_eq!(kind(&changed).await, BlockKind::Other);
    assert_eq!(ledger.block(BlockHash([8; 32])).await, Ok(None));
}

#[tokio::test]
async fn a_legacy_block_is_no_send() {
    let answer = json!({
        "block_account": Account::BURN, "balance": "1", "confirmed": "true",
        "contents": {"type": "send", "previous": BlockHash::ZERO, "balance": "0000000000000000000000000000000A"},
    });
    let node = Scripted::start(move |_| Reply::json(&answer)).await;
    let hash = BlockHash([1; 32]);
    assert_eq!(ledger(&[&node]).block(hash).await, Ok(Some(BlockFacts::of_legacy_block(hash, true))));
}

#[tokio::test]
async fn what_no_node_knows_is_not_there() {
    for action in ["account_info", "block_info"] {
        let answer = capture("not_found")[action].clone();
        let node = Scripted::start(move |_| Reply::json(&answer)).await;
        let client = client(&[&node.url]);
        match action {
            "account_info" => assert_eq!(client.account_info(Account::BURN).await, Ok(None)),
            _ => assert_eq!(client.block_info(BlockHash::ZERO).await, Ok(None)),
        }
    }
}

#[tokio::test]
async fn a_node_that_is_behind_has_not_the_last_word() {
    let Blocks { opened, sent, .. } = blocks();
    let behind = having(&[]).await;
    let ahead = having(&[(opened, true), (sent, true)]).await;
    assert!(ledger(&[&behind, &ahead]).block(sent.hash()).await.unwrap().unwrap().confirmed());
    assert_eq!(behind.seen().len(), 1);
}

#[tokio::test]
async fn not_found_stands_when_the_other_node_cannot_be_asked() {
    let (dead, behind) = (nobody(), having(&[]).await);
    for urls in [[&dead.url, &behind.url], [&behind.url, &dead.url]] {
        assert_eq!(NodeLedger::new(client(&urls)).block(BlockHash([1; 32])).await, Ok(None));
    }
}

#[tokio::test]
async fn the_next_node_is_asked_when_one_fails() {
    let Blocks { opened, sent, .. } = blocks();
    let good = having(&[(opened, true), (sent, true)]).await;
    let failing: [fn(&Seen) -> Reply; 8] = [
        |_| Reply::Drop,
        |_| Reply::Hang,
        |_| Reply::text(422, "Failed to deserialize the JSON body into the target type"),
        |_| Reply::text(400, "Failed to parse the request body as JSON"),
        |_| Reply::text(502, "<html>bad gateway</html>"),
        |_| Reply::text(200, "{\"contents\": "),
        |_| Reply::json(&json!({"error": "Unknown command"})),
        |_| Reply::json(&json!({})),
    ];
    for (number, answer) in failing.into_iter().enumerate() {
        let bad = Scripted::start(answer).await;
        let client = client_with(&[&bad.url, &good.url], Duration::from_millis(300));
        let facts = NodeLedger::new(client).block(sent.hash()).await.unwrap().unwrap();
        assert!(facts.confirmed(), "{number}");
        assert_eq!(bad.seen().len(), 1, "{number}");
    }
}

#[tokio::test]
async fn each_failure_of_the_only_node_has_its_name() {
    let hash = BlockHash([1; 32]);
    let short = Duration::from_millis(200);
    let alone = async |url: &Url| client_with(&[url], short).block_info(hash).await.unwrap_err();

    let hanging = Scripted::start(|_| Reply::Hang).await;
    assert_eq!(alone(&hanging.url).await, LedgerError::TimedOut);
    assert!(matches!(alone(&nobody().url).await, LedgerError::Unreachable(_)));
    let dropping = Scripted::start(|_| Reply::Drop).await;
    assert!(matches!(alone(&dropping.url).await, LedgerError::Unreachable(_)));
    let refusing = Scripted::start(|_| Reply::text(422, "expected a hex string")).await;
    assert!(alone(&refusing.url).await.to_string().contains("expected a hex string"));
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_its_end() {
    let flood = Scripted::start(|_| Reply::text(200, &" ".repeat(5 * 1024 * 1024))).await;
    let error = client(&[&flood.url]).version().await.unwrap_err();
    assert!(error.to_string().contains("more than 4194304 bytes"), "{error}");
}

#[tokio::test]
async fn contents_that_hash_to_another_block_are_not_believed() {
    let Blocks { opened, sent, changed, .. } = blocks();
    let lie = block_info(&changed, true);
    let liar = Scripted::start(move |_| Reply::json(&lie)).await;
    let error = ledger(&[&liar]).block(sent.hash()).await.unwrap_err();
    assert!(
        matches!(&error, LedgerError::NotBelieved(why) if why.contains(&sent.hash().to_string())),
        "{error}"
    );

    let honest = having(&[(opened, true), (sent, false)]).await;
    assert!(!ledger(&[&liar, &honest]).block(sent.hash()).await.unwrap().unwrap().confirmed());
}

#[tokio::test]
async fn a_block_before_that_is_another_makes_no_amount() {
    let Blocks { opened, sent, .. } = blocks();
    let richer = StateBlock { balance: Raw::new(1000), ..opened };
    let (right, wrong) = (block_info(&sent, true), block_info(&richer, true));
    let liar = Scripted::start(move |seen| {
        Reply::json(if seen.json()["hash"] == json!(sent.hash()) { &right } else { &wrong })
    })
    .await;
    let answer = ledger(&[&liar]).block(sent.hash()).await;
    assert!(matches!(answer, Err(LedgerError::NotBelieved(_))), "{answer:?}");

    let gap = having(&[(sent, true)]).await;
    let answer = ledger(&[&gap]).block(sent.hash()).await;
    assert!(matches!(answer, Err(LedgerError::NotBelieved(_))), "{answer:?}");
}

#[tokio::test]
async fn an_accounts_confirmed_state_is_told_apart_from_its_newest() {
    let node = Scripted::start(|_| {
        let mut answer = capture("account_info")["cpp"].clone();
        answer["confirmed_frontier"] = json!(BlockHash([4; 32]).lower_hex());
        answer["confirmed_balance"] = json!("12");
        Reply::json(&answer)
    })
    .await;
    let facts = ledger(&[&node]).account(Account::BURN).await.unwrap().unwrap();
    assert_eq!(facts.confirmed_frontier, BlockHash([4; 32]));
    assert_eq!(facts.confirmed_balance, Raw::new(12));
    assert_ne!(facts.frontier, facts.confirmed_frontier);
}

#[tokio::test]
async fn a_send_goes_to_every_node_and_one_yes_is_enough() {
    let sent = blocks().sent;
    let hash = sent.hash().lower_hex();
    let yes = Scripted::start(move |_| Reply::json(&json!({"hash": hash}))).await;
    let no = Scripted::start(|_| Reply::json(&json!({"error": "Gap previous block"}))).await;
    let dead = nobody();
    let ledger = NodeLedger::new(client(&[&dead.url, &no.url, &yes.url]));
    assert_eq!(ledger.publish_send(&sent).await, Ok(()));
    // The node that refuses gets the block too, if later.
    until(|| no.calls("process") == 1).await;

    let refused = NodeLedger::new(client(&[&no.url, &dead.url])).publish_send(&sent).await;
    assert!(
        matches!(&refused, Err(PublishError::Refused(why)) if why.contains("Gap previous block")),
        "{refused:?}"
    );
    let unknown = NodeLedger::new(client(&[&dead.url])).publish_send(&sent).await;
    assert!(matches!(unknown, Err(PublishError::Unknown(LedgerError::Unreachable(_)))), "{unknown:?}");
    let hanging = Scripted::start(|_| Reply::Hang).await;
    let late =
        NodeLedger::new(client_with(&[&hanging.url], Duration::from_millis(100))).publish_send(&sent).await;
    assert_eq!(late, Err(PublishError::Unknown(LedgerError::TimedOut)));
    let page = Scripted::start(|_| Reply::text(503, "busy")).await;
    let unknown = NodeLedger::new(client(&[&page.url])).publish_send(&sent).await;
    assert!(matches!(unknown, Err(PublishError::Unknown(_))), "{unknown:?}");
}

/// What public RPC services in front of nodes answer when no node is there or the caller is limited.
#[tokio::test]
async fn only_a_nodes_own_refusal_refuses_a_send() {
    let sent = blocks().sent;
    let published = async |answer: Value| {
        let node = Scripted::start(move |_| Reply::json(&answer)).await;
        ledger(&[&node]).publish_send(&sent).await.unwrap_err()
    };
    for proxys in [
        json!({ "error": 500, "message": "No Node available" }),
        json!({ "error": 429 }),
        json!({ "error": "Rate limit exceeded" }),
        json!({ "error": { "code": -32005 } }),
        json!({ "error": "Unknown command" }),
    ] {
        let error = published(proxys.clone()).await;
        assert!(matches!(error, PublishError::Unknown(_)), "{proxys}: {error}");
    }
    for text in
        ["Fork", "Gap previous block", "Block work is insufficient", "Conflict while processing block"]
    {
        let error = published(json!({ "error": text })).await;
        assert!(matches!(error, PublishError::Refused(_)), "{text}: {error}");
    }
}

/// Waits until `true_now`, by yielding to the tasks that make it so.
async fn until(true_now: impl Fn() -> bool) {
    crate::patience::eventually("it becomes true", async || true_now()).await;
}

#[tokio::test]
async fn a_key_travels_in_the_body_and_shows_nowhere() {
    let node = Scripted::start(|_| Reply::json(&json!({"error": "bad key s3cret"}))).await;
    let mut url = node.url.clone();
    url.set_query(Some("key=s3cret&user=me&action=stop"));
    let client = client(&[&url]);
    let error = client.version().await.unwrap_err();
    let seen = &node.seen()[0];
    assert_eq!(
        (seen.path.as_str(), &seen.json()["key"], &seen.json()["user"]),
        ("/", &json!("s3cret"), &json!("me"))
    );
    // A parameter does not change the call itself.
    assert_eq!(seen.action(), "version");
    for text in [error.to_string(), format!("{client:?}"), format!("{error:?}")] {
        assert!(!text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn confirmation_is_awaited_through_absence_and_failure() {
    let Blocks { opened, sent, .. } = blocks();
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let node = Scripted::start(move |seen| {
        let body = seen.json();
        let hashes = body["hashes"].as_array().unwrap();
        let mut known = BTreeMap::from([(opened.hash().to_string(), block_info(&opened, true))]);
        if hashes.contains(&json!(sent.hash())) {
            match counted.fetch_add(1, Ordering::SeqCst) {
                0 => {}
                1 | 4 => return Reply::Drop,
                2 | 3 => drop(known.insert(sent.hash().to_string(), block_info(&sent, false))),
                _ => drop(known.insert(sent.hash().to_string(), block_info(&sent, true))),
            }
        }
        Reply::json(&blocks_info(hashes, &known))
    })
    .await;
    let seen = ledger(&[&node]).await_confirmation(sent.hash(), Duration::from_secs(30)).await.unwrap();
    assert!(matches!(seen, Sighting::Confirmed(facts) if facts.hash() == sent.hash()), "{seen:?}");
    assert_eq!(looks.load(Ordering::SeqCst), 6);
    // The block before was asked for once; the hash covers its balance.
    assert_eq!(node.seen().len(), 7);
}

#[tokio::test]
async fn a_wait_ends_with_what_was_seen_last() {
    let Blocks { opened, sent, .. } = blocks();
    let wait = Duration::from_millis(150);
    let node = having(&[(opened, true), (sent, false)]).await;
    let seen = ledger(&[&node]).await_confirmation(sent.hash(), wait).await;
    assert!(matches!(seen, Ok(Sighting::Unconfirmed(_))), "{seen:?}");
    assert_eq!(
        ledger(&[&having(&[]).await]).await_confirmation(sent.hash(), wait).await,
        Ok(Sighting::Unknown)
    );
    let nobody = nobody();
    let dead = NodeLedger::new(client(&[&nobody.url]));
    let seen = dead.await_confirmation(sent.hash(), wait).await;
    assert!(matches!(seen, Err(LedgerError::Unreachable(_))), "{seen:?}");
}

#[tokio::test]
async fn a_node_stuck_behind_does_not_hold_a_confirmation_back() {
    let Blocks { opened, sent, .. } = blocks();
    let stuck = having(&[(opened, true), (sent, false)]).await;
    let ahead = having(&[(opened, true), (sent, true)]).await;
    let seen = ledger(&[&stuck, &ahead]).await_confirmation(sent.hash(), Duration::from_secs(30)).await;
    assert!(matches!(seen, Ok(Sighting::Confirmed(_))), "{seen:?}");
}

#[tokio::test]
async fn health_follows_probes_and_calls() {
    let node = replaying("rsnano").await;
    let nobody = nobody();
    let client = client(&[&node.url, &nobody.url]);
    let up = || client.nodes().iter().map(|node| node.up).collect::<Vec<_>>();
    assert_eq!((client.is_healthy(), up()), (false, vec![false, false]));
    client.probe().await;
    assert_eq!((client.is_healthy(), up()), (true, vec![true, false]));

    let dead = NodeLedger::new(client_with(&[&nobody.url], Duration::from_millis(100)));
    dead.probe().await;
    assert!(!dead.is_healthy());
    let failing = Arc::new(Mutex::new(false));
    let flag = Arc::clone(&failing);
    let node =
        Scripted::start(move |_| if *flag.lock().unwrap() { Reply::Drop } else { Reply::json(&absent()) })
            .await;
    let ledger = ledger(&[&node]);
    assert_eq!(ledger.block(BlockHash::ZERO).await, Ok(None));
    assert!(ledger.is_healthy(), "an answer shows that it is there");
    *failing.lock().unwrap() = true;
    // A read tries twice if no node is reached; the fifth failure opens the breaker.
    for failures in [2, 4, 5] {
        assert!(ledger.block(BlockHash::ZERO).await.is_err());
        assert_eq!(ledger.is_healthy(), failures < 5);
    }
    let asked = node.seen().len();
    assert!(ledger.block(BlockHash::ZERO).await.is_err());
    assert_eq!(node.seen().len(), asked, "it rests");
}

#[tokio::test]
async fn the_watch_notices_a_failure_and_ends_on_shutdown() {
    let node = replaying("cpp").await;
    let ledger = Arc::new(ledger(&[&node]));
    let (stop, shutdown) = tokio::sync::watch::channel(false);
    let watch = tokio::spawn(Arc::clone(&ledger).watch(Duration::from_millis(5), shutdown));
    until(|| ledger.is_healthy() && node.calls("block_count") >= 2).await;
    stop.send(true).unwrap();
    crate::patience::soon("the watch ends", watch).await.unwrap();
}

#[tokio::test]
async fn every_call_is_observed() {
    let events = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&events);
    let (node, dead) = (replaying("cpp").await, nobody());
    let client = client(&[&dead.url, &node.url]).observed_by(Arc::new(move |event| {
        let NodeEvent::Called(call) = event else { return };
        log.lock().unwrap().push((call.node.to_owned(), call.action, call.ok));
    }));
    client.version().await.unwrap();
    let label = |url: &Url| format!("127.0.0.1:{}", url.port().unwrap());
    let expected = [(label(&dead.url), "version", false), (label(&node.url), "version", true)];
    assert_eq!(*events.lock().unwrap(), expected);
}

#[tokio::test]
async fn nodes_of_one_provider_have_names_of_their_own() {
    let url: Url = "https://rpc.example.net/?key=a".parse().unwrap();
    let labels: Vec<_> = client(&[&url, &url]).nodes().into_iter().map(|node| node.label).collect();
    assert_eq!(labels, ["rpc.example.net:443", "rpc.example.net:443#2"]);
    assert_eq!(NodeClient::new(Vec::new()).unwrap_err(), NodeSetupError::NoNodes);
    let socket = NodeEndpoint::from_url("ws://a/".parse().unwrap(), Duration::from_secs(1));
    assert_eq!(socket.unwrap_err(), NodeSetupError::Scheme("ws".to_owned()));
}
