//! Blocks from before state blocks: nothing proves what a node says about them, so a quorum has to say it.

use super::*;

const WAIT: Duration = Duration::from_secs(20);

/// What a node says about a legacy block, with the balance after it.
fn legacy_info(balance: u128) -> Value {
    json!({
        "block_account": Account::BURN, "balance": balance.to_string(), "confirmed": "true",
        "contents": {"type": "send", "previous": BlockHash::ZERO, "balance": "0"},
    })
}

/// A node that has these blocks, each as it describes it.
async fn telling(blocks: &[(BlockHash, Value)]) -> Scripted {
    let known: BTreeMap<_, _> = blocks.iter().map(|(hash, info)| (hash.to_string(), info.clone())).collect();
    Scripted::start(move |seen| {
        let body = seen.json();
        if let Some(hashes) = body["hashes"].as_array() {
            return Reply::json(&blocks_info(hashes, &known));
        }
        Reply::json(known.get(body["hash"].as_str().unwrap_or("")).unwrap_or(&absent()))
    })
    .await
}

/// The ledger as these nodes show it, of which two have to agree.
fn strangers(nodes: &[&Scripted]) -> NodeLedger {
    let endpoint = |node: &&Scripted| {
        let endpoint = NodeEndpoint::from_url(node.url.clone(), Duration::from_secs(5)).unwrap();
        NodeEndpoint { trusted: false, ..endpoint }
    };
    NodeLedger::new(NodeClient::new(nodes.iter().map(endpoint).collect()).unwrap().with_quorum(2))
}

/// What a block does, by look-up and by waiting for it.
async fn kinds(ledger: &NodeLedger, hash: BlockHash) -> [BlockKind; 2] {
    let seen = ledger.block(hash).await.unwrap().unwrap();
    let Ok(Sighting::Confirmed(awaited)) = ledger.await_confirmation(hash, WAIT).await else {
        panic!("two nodes confirm it")
    };
    assert!(seen.confirmed());
    [seen.kind(), awaited.kind()]
}

/// One node of a quorum could make any amount of any send: it said that the block before is a legacy block,
/// after which the balance was as high as it liked.
#[tokio::test]
async fn one_node_alone_does_not_say_the_balance_before_a_send() {
    let Blocks { account, payee, opened, sent, .. } = blocks();
    let rich = [(opened.hash(), legacy_info(1_000_000)), (sent.hash(), block_info(&sent, true))];
    let (liar, honest) = (telling(&rich).await, having(&[(opened, true), (sent, true)]).await);
    let other = having(&[(opened, true), (sent, true)]).await;
    let send = BlockKind::Send { account, destination: payee, amount: Raw::new(3) };
    for nodes in [[&liar, &honest, &other], [&honest, &other, &liar]] {
        assert_eq!(kinds(&strangers(&nodes), sent.hash()).await, [send; 2]);
    }
}

#[tokio::test]
async fn a_quorum_says_the_balance_after_a_legacy_block() {
    let Blocks { account, payee, opened, sent, .. } = blocks();
    let with = |balance| [(opened.hash(), legacy_info(balance)), (sent.hash(), block_info(&sent, true))];
    let nodes = [telling(&with(10)).await, telling(&with(99)).await, telling(&with(10)).await];
    let send = BlockKind::Send { account, destination: payee, amount: Raw::new(3) };
    let agreed = strangers(&[&nodes[0], &nodes[1], &nodes[2]]);
    assert_eq!(kinds(&agreed, sent.hash()).await, [send; 2]);
    // Two of whom each says something else.
    let split = strangers(&[&nodes[0], &nodes[1]]);
    let seen = split.block(sent.hash()).await;
    assert!(matches!(&seen, Err(LedgerError::NotBelieved(_))), "{seen:?}");
    let awaited = split.await_confirmation(sent.hash(), Duration::from_millis(400)).await;
    assert_eq!(awaited, Err(LedgerError::TimedOut));
    // One that is trusted needs nobody.
    assert_eq!(kinds(&ledger(&[&nodes[0]]), sent.hash()).await, [send; 2]);
}

/// One node of a quorum could make every payment one that is never accepted: it said that the send is a legacy
/// block, and it was asked first.
#[tokio::test]
async fn one_node_alone_does_not_make_a_send_a_legacy_block() {
    let Blocks { account, payee, opened, sent, .. } = blocks();
    let liar = telling(&[(opened.hash(), block_info(&opened, true)), (sent.hash(), legacy_info(7))]).await;
    let honest =
        [having(&[(opened, true), (sent, true)]).await, having(&[(opened, true), (sent, true)]).await];
    let send = BlockKind::Send { account, destination: payee, amount: Raw::new(3) };
    for nodes in [[&liar, &honest[0], &honest[1]], [&honest[0], &honest[1], &liar]] {
        assert_eq!(kinds(&strangers(&nodes), sent.hash()).await, [send; 2]);
    }
    // Of a block that is none to all of them.
    let legacy = [(sent.hash(), legacy_info(7))];
    let nodes = [telling(&legacy).await, telling(&legacy).await];
    let facts = BlockFacts::of_legacy_block(sent.hash(), true);
    assert_eq!(strangers(&[&nodes[0], &nodes[1]]).block(sent.hash()).await, Ok(Some(facts)));
}
