//! Both dialects, as captured from running nodes (`tests/captures`).

use faregate::ledger::node::{Contents, ProcessError, Subtype};
use faregate::ledger::{Ledger, LedgerError};
use faregate::nano::{Account, BlockHash, Raw, StateBlock, Threshold};
use faregate::payment::BlockKind;
use serde_json::json;

use super::{blocks, capture, client, ledger, replaying};
use crate::scripted::{Reply, Scripted};

const DIALECTS: [&str; 2] = ["cpp", "rsnano"];

#[tokio::test]
async fn both_dialects_are_read_as_captured() {
    for dialect in DIALECTS {
        let node = replaying(dialect).await;
        let client = client(&[&node.url]);
        let said = capture("account_info")[dialect].clone();

        let info = client.account_info(Account::BURN).await.unwrap().unwrap();
        assert_eq!(info.frontier.to_string(), said["frontier"].as_str().unwrap(), "{dialect}");
        assert_eq!(info.confirmed_frontier, info.frontier);
        assert_eq!(info.confirmed_balance.to_string(), said["confirmed_balance"].as_str().unwrap());
        assert_eq!(info.representative.to_string(), said["representative"].as_str().unwrap());
        let asked = node.seen()[0].json();
        assert_eq!(
            (&asked["include_confirmed"], &asked["representative"], &asked["receivable"]),
            (&json!("true"), &json!("true"), &json!("true"))
        );

        let version = client.version().await.unwrap();
        assert_eq!(version.network, "dev");
        assert!(version.node_vendor.contains("Nano V28.0") || version.node_vendor.contains("RsNano"));
        let count = client.block_count().await.unwrap();
        assert_eq!(count.count, count.cemented);
        let telemetry = client.telemetry().await.unwrap();
        assert_eq!(telemetry.block_count, count.count);
        assert_eq!(telemetry.genesis_block.lower_hex()[..8], *"04270d7f");
        let thresholds = client.thresholds().await.unwrap();
        assert_eq!(thresholds.send, Threshold(0xffc0_0000_0000_0000));
        assert_eq!(thresholds.receive, Threshold(0xf000_0000_0000_0000));
    }
}

#[tokio::test]
async fn a_captured_block_hashes_to_the_hash_it_was_asked_by() {
    for (dialect, hash) in [
        ("cpp", "F1AB570581877CB91EC211EAE5D1FDF7B488B4F3BC513E1340F9F1A3244B1F3B"),
        ("rsnano", "F8F34DCC0EAAB35975F5C41C34552F7AA4A6E637AF75BC65268086EF36A6AFE4"),
    ] {
        // `contents` as an object, and as the string that C++ gives without `json_block`.
        for name in ["block_info", "block_info_text"] {
            let answer = capture(name)[dialect].clone();
            let node = Scripted::start(move |_| Reply::json(&answer)).await;
            let hash: BlockHash = hash.parse().unwrap();
            let info = client(&[&node.url]).block_info(hash).await.unwrap().unwrap();
            assert!(info.confirmed);
            let Contents::State(block) = info.contents else { panic!("a state block: {dialect}, {name}") };
            assert_eq!(block.hash(), hash, "{dialect}, {name}");
            assert_eq!(block.verify(), Ok(()), "{dialect}, {name}");
        }
    }
}

#[tokio::test]
async fn a_captured_send_is_accepted_under_its_own_hash_only() {
    let captured = capture("process_send");
    let block: StateBlock = serde_json::from_value(captured["request"]["block"].clone()).unwrap();
    let node = replaying("cpp").await;
    let client = client(&[&node.url]);
    assert_eq!(client.process(&block, Subtype::Send).await, Ok(()));
    let sent = node.seen()[0].json();
    assert_eq!((&sent["subtype"], &sent["json_block"]), (&json!("send"), &json!("true")));
    assert_eq!(serde_json::from_value::<StateBlock>(sent["block"].clone()).unwrap(), block);

    let other = blocks().sent;
    let answer = client.process(&other, Subtype::Send).await;
    assert!(matches!(answer, Err(ProcessError::NoAnswer(LedgerError::NotBelieved(_)))), "{answer:?}");
}

#[tokio::test]
async fn receivable_blocks_are_read_and_none_is_none() {
    for dialect in DIALECTS {
        let node = replaying(dialect).await;
        let found = client(&[&node.url]).receivable(Account::BURN, 10, Raw::new(1)).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].amount, Raw::new(5 * 10_u128.pow(27)));
        assert!(found[0].source.is_some());
        let asked = node.seen()[0].json();
        assert_eq!((&asked["count"], &asked["threshold"]), (&json!("10"), &json!("1")));

        let empty = Scripted::start(move |_| Reply::json(&capture("receivable_empty")[dialect])).await;
        let found = client(&[&empty.url]).receivable(Account::BURN, 10, Raw::ZERO).await;
        assert_eq!(found, Ok(Vec::new()), "{dialect}");
    }
}

#[tokio::test]
async fn the_amount_of_a_captured_send_comes_from_the_block_before() {
    for dialect in DIALECTS {
        // The block before is not in the capture. It is shown as a legacy block, whose balance
        // only the node reports.
        let hash = capture("block_info")[dialect]["contents"].clone();
        let block: StateBlock = serde_json::from_value(hash).unwrap();
        let before = block.balance.checked_add(Raw::new(5 * 10_u128.pow(27))).unwrap();
        let node = Scripted::start(move |seen| {
            let mut answer = capture("block_info")[dialect].clone();
            if seen.json()["hash"] == json!(block.previous) {
                answer["balance"] = json!(before);
                answer["contents"] = json!({"type": "open", "source": BlockHash::ZERO});
            }
            Reply::json(&answer)
        })
        .await;
        let facts = ledger(&[&node]).block(block.hash()).await.unwrap().unwrap();
        let amount = Raw::new(5 * 10_u128.pow(27));
        let (account, destination) = (block.account, block.destination());
        assert_eq!(facts.kind(), BlockKind::Send { account, destination, amount }, "{dialect}");
        assert!(facts.confirmed());
    }
}
