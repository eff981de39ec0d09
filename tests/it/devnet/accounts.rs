//! Answers about accounts and blocks, in the reference node's formats.

use faregate::devnet::DevnetOptions;
use faregate::nano::{BlockHash, Raw};
use serde_json::{Value, json};

use super::{Net, accepted, block, burn_link, key, process};

/// The fields of an answer, sorted.
fn fields(answer: &Value) -> Vec<&str> {
    answer.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Send, open, change, send, receive, and each answer that mentions these blocks.
#[tokio::test]
async fn a_life_in_blocks() {
    let net = Net::start().await;
    let (alice, bob) = (net.opened(1, 100), key(2));
    let send = net.next(&alice, 60, bob.account().0);
    assert_eq!(net.ask(&process("send", &send)).await, accepted(&send));
    let open = net.next(&bob, 40, send.hash().0);
    assert_eq!(net.ask(&process("open", &open)).await, accepted(&open));
    let change = net.next(&bob, 40, burn_link());
    assert_eq!(net.ask(&process("change", &change)).await, accepted(&change));
    let back = net.next(&bob, 33, alice.account().0);
    assert_eq!(net.ask(&process("send", &back)).await, accepted(&back));
    let receive = net.next(&alice, 67, back.hash().0);
    assert_eq!(net.ask(&process("receive", &receive)).await, accepted(&receive));

    let history = json!({ "action": "account_history", "account": bob.account(), "count": "2" });
    let history = net.ask(&history).await;
    assert_eq!(history["account"], bob.account().to_string());
    let entry = &history["history"][0];
    assert_eq!(
        fields(entry),
        ["account", "amount", "confirmed", "hash", "height", "local_timestamp", "type"]
    );
    assert_eq!((&entry["type"], &entry["amount"]), (&json!("send"), &json!("7")));
    assert_eq!((&entry["height"], &entry["confirmed"]), (&json!("3"), &json!("true")));
    let entry = &history["history"][1];
    assert_eq!((&entry["type"], &entry["amount"]), (&json!("receive"), &json!("40")), "changes are left out");
    assert_eq!(entry["account"], alice.account().to_string());
    assert!(history.get("previous").is_none());

    let first = json!({ "action": "account_history", "account": bob.account(), "count": 1, "raw": true });
    let first = net.ask(&first).await;
    assert_eq!(first["history"][0]["subtype"], "send");
    assert_eq!(first["previous"], change.hash().to_string());
    let nobody = json!({ "action": "account_history", "account": key(8).account(), "count": "1" });
    assert_eq!(net.ask(&nobody).await, json!({ "account": key(8).account(), "history": "" }));
    net.devnet.lattice().check_invariants().unwrap();
}

#[tokio::test]
async fn account_info_tells_confirmed_from_accepted() {
    let net = Net::start().await;
    let alice = net.opened(1, 100);
    net.devnet.lattice().hold_all();
    let send = net.next(&alice, 60, key(2).account().0);
    net.ask(&process("send", &send)).await;
    let (open, account) = (send.previous, alice.account());
    let mut request = json!({ "action": "account_info", "account": account, "include_confirmed": "true",
        "representative": true, "weight": "true", "receivable": "1" });
    let info = net.ask(&request).await;
    let stamp = info["modified_timestamp"].as_str().unwrap().to_owned();
    assert!(stamp.parse::<u64>().unwrap() > 1_700_000_000, "{stamp}");
    assert_eq!(
        info,
        json!({
            "frontier": send.hash(), "open_block": open, "representative_block": send.hash(),
            "balance": "60", "confirmed_balance": "100", "modified_timestamp": stamp,
            "block_count": "2", "account_version": "2",
            "confirmed_height": "1", "confirmed_frontier": open,
            "representative": account, "confirmed_representative": account, "weight": "60",
            "pending": "0", "receivable": "0", "confirmed_pending": "0", "confirmed_receivable": "0",
        })
    );
    request.as_object_mut().unwrap().remove("include_confirmed");
    let info = net.ask(&request).await;
    assert_eq!((&info["confirmation_height"], info.get("confirmed_height")), (&json!("1"), None));
    assert_eq!(info["confirmation_height_frontier"], open.to_string());

    let balance = json!({ "action": "account_balance", "account": account });
    assert_eq!(net.ask(&balance).await, json!({ "balance": "100", "pending": "0", "receivable": "0" }));
    let all = json!({ "action": "accounts_balances", "include_only_confirmed": "false",
        "accounts": [account, key(2).account(), "nano_bad"] });
    let expected = json!({
        "balances": {
            account.to_string(): { "balance": "60", "pending": "0", "receivable": "0" },
            key(2).account().to_string(): { "balance": "0", "pending": "40", "receivable": "40" },
        },
        "errors": { "nano_bad": "Bad account number" },
    });
    assert_eq!(net.ask(&all).await, expected);
    let frontiers = json!({ "action": "accounts_frontiers", "accounts": [account, key(2).account()] });
    let expected = json!({
        "frontiers": { account.to_string(): send.hash() },
        "errors": { key(2).account().to_string(): "Account not found" },
    });
    assert_eq!(net.ask(&frontiers).await, expected);
}

#[tokio::test]
async fn block_info_in_both_forms() {
    let net = Net::start().await;
    let alice = net.opened(1, 100);
    let send = net.next(&alice, 60, key(2).account().0);
    net.ask(&process("send", &send)).await;
    let lower = json!({ "action": "block_info", "json_block": "true", "hash": send.hash().lower_hex() });
    let mut info = net.ask(&lower).await;
    let stamp = info["local_timestamp"].take();
    assert!(stamp.is_string());
    let contents = json!({
        "type": "state", "account": alice.account(), "previous": send.previous,
        "representative": alice.account(), "balance": "60", "link": send.hash_of_link(),
        "link_as_account": key(2).account(), "signature": send.signature, "work": send.work,
    });
    assert_eq!(
        info,
        json!({
            "block_account": alice.account(), "amount": "40", "balance": "60", "height": "2",
            "local_timestamp": null, "successor": BlockHash::ZERO, "confirmed": "true",
            "contents": contents, "subtype": "send",
        })
    );
    let text = net.ask(&json!({ "action": "block_info", "hash": send.hash() })).await;
    let text = text["contents"].as_str().unwrap();
    assert!(
        text.starts_with("{\n    \"type\": \"state\",\n    \"account\": \"nano_") && text.ends_with("\n}\n")
    );
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), contents);
    let open = net.ask(&json!({ "action": "block_info", "hash": send.previous })).await;
    assert_eq!((&open["subtype"], &open["height"]), (&json!("receive"), &json!("1")));
    assert_eq!(open["successor"], send.hash().to_string());
}

trait HashOfLink {
    fn hash_of_link(&self) -> BlockHash;
}

impl HashOfLink for faregate::nano::StateBlock {
    fn hash_of_link(&self) -> BlockHash {
        BlockHash(self.link)
    }
}

#[tokio::test]
async fn blocks_info_with_everything() {
    let net = Net::start().await;
    let (alice, missing) = (net.opened(1, 100), BlockHash([1; 32]));
    let send = net.next(&alice, 60, key(2).account().0);
    net.ask(&process("send", &send)).await;
    let open = block(&key(2), BlockHash::ZERO, 40, send.hash().0);
    let request = json!({ "action": "blocks_info", "json_block": "true", "include_not_found": "true",
        "receivable": "true", "source": "true", "receive_hash": "true",
        "hashes": [send.hash(), open.hash(), missing] });
    let info = net.ask(&request).await;
    assert_eq!(info["blocks_not_found"], json!([open.hash(), missing]));
    let sent = &info["blocks"][send.hash().to_string()];
    assert_eq!((&sent["receivable"], &sent["pending"]), (&json!("1"), &json!("1")));
    assert_eq!((&sent["receive_hash"], &sent["source_account"]), (&json!(BlockHash::ZERO), &json!("0")));
    assert_eq!((&sent["amount"], &sent["contents"]["balance"]), (&json!("40"), &json!("60")));

    net.ask(&process("open", &open)).await;
    let info = net.ask(&request).await;
    let (sent, opened) = (&info["blocks"][send.hash().to_string()], &info["blocks"][open.hash().to_string()]);
    assert_eq!((&sent["receivable"], &sent["receive_hash"]), (&json!("0"), &json!(open.hash())));
    assert_eq!((&opened["receivable"], &opened["source_account"]), (&json!("0"), &json!(alice.account())));
}

#[tokio::test]
async fn receivable_in_its_forms() {
    let net = Net::start().await;
    let (account, nobody) = (key(1).account(), key(2).account());
    let small = net.devnet.fund(account, Raw::new(1)).unwrap();
    let large = net.devnet.fund(account, Raw::new(10)).unwrap();
    net.devnet.lattice().hold_all();
    let genesis = net.devnet.genesis_seed().key(0);
    let late = net.devnet.send_block(&genesis, account, Raw::new(100)).unwrap();
    net.devnet.process(late).unwrap();
    let mut confirmed = [small, large];
    confirmed.sort();
    let source = net.devnet.genesis_account();
    let of = |more: Value| {
        let mut request = json!({ "action": "receivable", "account": account });
        request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        request
    };
    let unconfirmed = of(json!({ "include_only_confirmed": "false", "threshold": "100" }));
    let hash = |hash: BlockHash| hash.to_string();
    net.table(&[
        ("plain", of(json!({})), json!({ "blocks": confirmed })),
        ("empty", json!({ "action": "receivable", "account": nobody }), json!({ "blocks": "" })),
        ("count", of(json!({ "count": "1" })), json!({ "blocks": [confirmed[0]] })),
        ("offset", of(json!({ "offset": "1" })), json!({ "blocks": [confirmed[1]] })),
        ("above", of(json!({ "threshold": "11" })), json!({ "blocks": "" })),
        ("equal", of(json!({ "threshold": "10" })), json!({ "blocks": { hash(large): "10" } })),
        (
            "source",
            of(json!({ "threshold": "2", "source": "true" })),
            json!({ "blocks": { hash(large): { "amount": "10", "source": source } } }),
        ),
        ("unconfirmed", unconfirmed, json!({ "blocks": { hash(late.hash()): "100" } })),
        (
            "bad threshold",
            of(json!({ "threshold": "01" })),
            json!({ "error": "Bad threshold number" }),
        ),
        (
            "accounts",
            json!({ "action": "accounts_receivable", "accounts": [account, nobody], "threshold": "5",
                "source": "true", "count": "5" }),
            json!({ "blocks": { account.to_string(): { hash(large): { "amount": "10", "source": source } } } }),
        ),
        (
            "accounts plain",
            json!({ "action": "accounts_receivable", "accounts": [account, nobody], "count": "5" }),
            json!({ "blocks": { account.to_string(): confirmed } }),
        ),
        (
            "accounts empty",
            json!({ "action": "accounts_receivable", "accounts": [nobody] }),
            json!({ "blocks": "" }),
        ),
        (
            "unconfirmed does not exist",
            json!({ "action": "receivable_exists", "hash": late.hash() }),
            json!({ "exists": "0" }),
        ),
    ])
    .await;
    let pending = net.ask(&json!({ "action": "pending", "account": account })).await;
    assert_eq!(pending, json!({ "blocks": confirmed, "deprecated": "1" }));
}

#[tokio::test]
async fn about_the_node() {
    let net = Net::with(DevnetOptions {
        clock: faregate::clock::Clock::from_fn(|| faregate::nano::UnixSeconds(1_795_162_878)),
        ..DevnetOptions::default()
    })
    .await;
    let genesis = net.devnet.lattice().genesis().to_string();
    let version = net.ask(&json!({ "action": "version" })).await;
    assert_eq!((&version["rpc_version"], &version["network_identifier"]), (&json!("1"), &json!(genesis)));
    assert!(version["node_vendor"].as_str().unwrap().starts_with("Faregate devnet "));
    let telemetry = net.ask(&json!({ "action": "telemetry" })).await;
    assert_eq!(telemetry["genesis_block"], genesis);
    assert_eq!((&telemetry["block_count"], &telemetry["timestamp"]), (&json!("1"), &json!("1795162878000")));
    assert_eq!(telemetry.as_object().unwrap().len(), 18);
    let uptime = net.ask(&json!({ "action": "uptime" })).await;
    assert!(uptime["seconds"].as_str().unwrap().parse::<u64>().is_ok());
    let quorum = net.ask(&json!({ "action": "confirmation_quorum" })).await;
    assert_eq!(quorum["quorum_delta"], "227989185837028770520460986979284701674");
    assert_eq!(quorum["online_weight_quorum_percent"], "67");
    let difficulty = net.ask(&json!({ "action": "active_difficulty" })).await;
    assert_eq!(difficulty["network_minimum"], "fc00000000000000");
    assert_eq!(difficulty["network_receive_minimum"], "f000000000000000");
    assert_eq!((&difficulty["multiplier"], &difficulty["deprecated"]), (&json!("1"), &json!("1")));
    net.devnet.stop().await;
}
