//! The error texts of the C++ node, one row per case.

use serde_json::{Value, json};

use super::{
    Net, accepted, altered, block, block_for, burn_link, error, key, process, process_bare, work_between,
};
use faregate::devnet::THRESHOLDS;
use faregate::nano::{Account, BlockHash, Representative, SecretKey, Signature, StateBlock, Threshold};

const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// The same signature with S + L for S.
fn malleated(signature: Signature) -> Signature {
    let mut bytes = signature.0;
    let mut carry = 0_u16;
    for (byte, order) in bytes[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(order) + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    assert_eq!(carry, 0);
    Signature(bytes)
}

fn with_work(block: StateBlock, from: u64, below: Option<Threshold>) -> StateBlock {
    StateBlock { work: Some(work_between(&block.work_root(), Threshold(from), below)), ..block }
}

#[tokio::test]
async fn requests_that_are_not_understood() {
    let net = Net::start().await;
    assert_eq!(net.raw("not json").await, error("Unable to parse JSON"));
    assert_eq!(net.raw("[]").await, error("Unable to parse JSON"));
    let get = net.client.get(net.devnet.rpc_url()).send().await.unwrap();
    assert_eq!((get.status().as_u16(), get.headers()["connection"].to_str().unwrap()), (200, "close"));
    assert_eq!(get.json::<Value>().await.unwrap(), error("Can only POST requests"));
    net.table(&[
        ("no action", json!({ "account": "x" }), error("Unable to parse JSON")),
        ("unknown action", json!({ "action": "nope" }), error("Unknown command")),
        ("missing account", json!({ "action": "account_info" }), error("Unable to parse JSON")),
        (
            "bad account",
            json!({ "action": "account_info", "account": "nano_bad" }),
            error("Bad account number"),
        ),
        (
            "unopened",
            json!({ "action": "account_info", "account": key(0).account() }),
            error("Account not found"),
        ),
        ("burn", json!({ "action": "account_info", "account": Account::BURN }), error("Account not found")),
        (
            "block not found",
            json!({ "action": "block_info", "hash": BlockHash::ZERO }),
            error("Block not found"),
        ),
        ("bad hash", json!({ "action": "block_info", "hash": "zz" }), error("Invalid block hash")),
        (
            "one missing",
            json!({ "action": "blocks_info", "hashes": [net.devnet.lattice().genesis(), BlockHash::ZERO] }),
            error("Block not found"),
        ),
        ("blocks_info bad", json!({ "action": "blocks_info", "hashes": ["zz"] }), error("Bad hash number")),
        (
            "receivable_exists missing",
            json!({ "action": "receivable_exists", "hash": BlockHash::ZERO }),
            error("Block not found"),
        ),
        (
            "block_confirm missing",
            json!({ "action": "block_confirm", "hash": BlockHash::ZERO }),
            error("Block not found"),
        ),
        (
            "block_confirm",
            json!({ "action": "block_confirm", "hash": net.devnet.lattice().genesis() }),
            json!({ "started": "1" }),
        ),
        (
            "confirmation_info",
            json!({ "action": "confirmation_info", "root": "0".repeat(128) }),
            error("Active confirmation not found"),
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_send_that_is_refused() {
    let net = Net::start().await;
    let alice = net.opened(1, 100);
    let frontier = net.devnet.lattice().frontier(alice.account()).unwrap();
    let to = key(2).account();
    let send = block(&alice, frontier, 90, to.0);
    let zeros = StateBlock { signature: Signature([0; 64]), ..send };
    let mut flipped = send;
    flipped.signature.0[3] ^= 1;
    let lazy = with_work(send, 0, Some(THRESHOLDS.receive));
    let slow = with_work(send, THRESHOLDS.receive.0, Some(THRESHOLDS.send));
    let gap = block(&alice, BlockHash([9; 32]), 90, to.0);
    let up = block(&alice, frontier, 110, to.0);
    let invalid = |fields: &[(&str, Value)]| json!({ "action": "process", "json_block": "true", "subtype": "send", "block": altered(&send, fields) });
    let is_invalid = error("Block is invalid");
    net.table(&[
        ("bad signature (zeros)", process("send", &zeros), error("Bad signature")),
        ("bad signature (bit flip)", process("send", &flipped), error("Bad signature")),
        ("insufficient work", process("send", &lazy), error("Block work is less than threshold")),
        ("receive-level work", process("send", &slow), error("Block work is insufficient")),
        ("wrong subtype", process("receive", &send), error("Invalid block balance for given subtype")),
        ("subtype change", process("change", &send), error("Invalid block balance for given subtype")),
        ("subtype open", process("open", &send), error("Invalid previous block for given subtype")),
        ("unknown subtype", process("bogus", &send), error("Invalid block subtype")),
        ("gap previous", process("send", &gap), error("Gap previous block")),
        ("'send' that increases", process_bare(&up), error("Gap source block")),
        ("garbage balance", invalid(&[("balance", json!("garbage"))]), is_invalid.clone()),
        ("balance leading zero", invalid(&[("balance", json!("090"))]), is_invalid.clone()),
        ("missing balance", invalid(&[("balance", Value::Null)]), is_invalid.clone()),
        ("link_as_account only", invalid(&[("link", Value::Null)]), is_invalid.clone()),
        ("work 0x", invalid(&[("work", json!(format!("0x{}", send.work.unwrap())))]), is_invalid.clone()),
        ("no work", invalid(&[("work", Value::Null)]), is_invalid.clone()),
        ("type send", invalid(&[("type", json!("send"))]), is_invalid.clone()),
        (
            "object without json_block",
            json!({ "action": "process", "subtype": "send", "block": send }),
            is_invalid.clone(),
        ),
        (
            "string with json_block",
            json!({ "action": "process", "json_block": true, "block": json!(send).to_string() }),
            is_invalid,
        ),
        ("no block", json!({ "action": "process", "json_block": true }), error("Unable to parse JSON")),
    ])
    .await;
    assert_eq!(net.devnet.lattice().frontier(alice.account()), Some(frontier), "nothing was taken");
}

#[tokio::test]
async fn a_send_that_is_repeated() {
    let net = Net::start().await;
    let alice = net.opened(1, 100);
    let send = net.next(&alice, 90, key(2).account().0);
    let fork = net.next(&alice, 80, key(2).account().0);
    let gap = block(&alice, BlockHash([9; 32]), 90, key(2).account().0);
    let next = block(&alice, send.hash(), 85, key(2).account().0);
    let started = json!({ "started": "1" });
    let again = error("Invalid block balance for given subtype");
    let with = |field: &str, value: Value| {
        let mut request = process("send", &send);
        request[field] = value;
        request
    };
    let contradicting = altered(&send, &[("link_as_account", json!(Account::BURN))]);
    let extra = altered(&send, &[("note", json!("?"))]);
    net.table(&[
        ("gap, async", json!({ "action": "process", "json_block": true, "async": true, "block": gap }), started.clone()),
        ("SEND ok", process("send", &send), accepted(&send)),
        ("old block", process("send", &send), again.clone()),
        ("old block without subtype", process_bare(&send), error("Old block")),
        (
            "unknown extra field",
            json!({ "action": "process", "json_block": true, "block": extra }),
            error("Old block"),
        ),
        ("fork", process("send", &fork), error("Fork")),
        ("async repeat with subtype", with("async", json!("true")), again.clone()),
        (
            "async repeat",
            json!({ "action": "process", "json_block": "1", "async": true, "block": send }),
            started.clone(),
        ),
        (
            "string block",
            json!({ "action": "process", "subtype": "send", "block": json!(send).to_string() }),
            again.clone(),
        ),
        ("link_as_account mismatch", with("block", contradicting), again),
        (
            "send async",
            json!({ "action": "process", "json_block": true, "subtype": "send", "async": "true", "block": next }),
            started,
        ),
    ])
    .await;
    assert_eq!(net.devnet.lattice().frontier(alice.account()), Some(next.hash()));
}

#[tokio::test]
async fn spellings_that_are_taken() {
    let net = Net::start().await;
    let alice = net.opened(1, 100);
    let to = key(2).account();

    let send = net.next(&alice, 90, to.0);
    let malleable = StateBlock { signature: malleated(send.signature), ..send };
    assert!(malleable.verify().is_err(), "the gateway would refuse it");
    net.table(&[
        ("non-canonical S + L", process("send", &malleable), accepted(&send)),
        ("canonical afterwards", process("send", &send), error("Invalid block balance for given subtype")),
    ])
    .await;
    let info = net.ask(&json!({ "action": "block_info", "json_block": true, "hash": send.hash() })).await;
    assert_eq!(info["contents"]["signature"], malleable.signature.to_string());

    let send = net.next(&alice, 80, to.0);
    let xrb = alice.account().to_string().replace("nano_", "xrb_");
    let block =
        altered(&send, &[("account", json!(xrb)), ("link_as_account", json!(alice.account().to_string()))]);
    let request = json!({ "action": "process", "json_block": true, "subtype": "send", "block": block });
    assert_eq!(net.ask(&request).await, accepted(&send), "link decides");

    let send = net.next(&alice, 70, to.0);
    let loud = json!(send.work.unwrap().to_string().to_uppercase());
    let quiet = json!(send.previous.lower_hex());
    let block = altered(&send, &[("work", loud), ("previous", quiet)]);
    let request = json!({ "action": "process", "json_block": true, "subtype": "send", "block": block });
    assert_eq!(net.ask(&request).await, accepted(&send), "either case of hexadecimal");

    let dashed = alice.account().to_string().replace("nano_", "nano-");
    let info = net.ask(&json!({ "action": "account_info", "account": dashed })).await;
    assert_eq!((&info["balance"], &info["deprecated_account_format"]), (&json!("70"), &json!("1")));
}

#[tokio::test]
async fn receiving() {
    let net = Net::start().await;
    let (alice, bob) = (net.opened(1, 100), key(2));
    let send = net.next(&alice, 90, bob.account().0);
    let open = with_work(
        block(&bob, BlockHash::ZERO, 10, send.hash().0),
        THRESHOLDS.receive.0,
        Some(THRESHOLDS.send),
    );
    let too_much = block(&bob, BlockHash::ZERO, 11, send.hash().0);
    let no_source = block(&bob, BlockHash::ZERO, 10, [5; 32]);
    let not_his = block(&key(3), BlockHash::ZERO, 10, send.hash().0);
    let twice = block(&bob, open.hash(), 20, send.hash().0);
    let representative = Representative(alice.account());
    let other_open = block_for(&bob, BlockHash::ZERO, representative, 10, send.hash().0);
    let change = block_for(&bob, open.hash(), representative, 10, burn_link());
    let both = block(&bob, change.hash(), 9, alice.account().0);
    let exists = json!({ "action": "receivable_exists", "hash": send.hash() });
    net.table(&[
        ("process A->B", process("send", &send), accepted(&send)),
        ("receivable_exists true", exists.clone(), json!({ "exists": "1" })),
        ("balance mismatch", process("open", &too_much), error("Balance and amount delta do not match")),
        ("gap source", process("open", &no_source), error("Gap source block")),
        ("open B with a send to A", process("open", &not_his), error("Unreceivable")),
        ("OPEN ok with receive-level work", process("open", &open), accepted(&open)),
        ("receivable_exists after", exists, json!({ "exists": "0" })),
        ("receive twice", process("receive", &twice), error("Unreceivable")),
        ("second open (fork)", process("open", &other_open), error("Fork")),
        ("change", process("change", &change), accepted(&change)),
        ("send with change", process("send", &both), accepted(&both)),
    ])
    .await;
    let ledger = net.devnet.lattice();
    assert_eq!(ledger.weight(alice.account()).get(), 90, "bob's vote went there and came back");
    assert_eq!(ledger.received_by(send.hash()), Some(open.hash()));
    ledger.check_invariants().unwrap();
}

/// A gap-previous block without subtype is kept and applied later; with subtype it is not.
#[tokio::test]
async fn gaps_are_kept_without_subtype() {
    let net = Net::start().await;
    let alice = net.opened(1, 100);
    let first = net.next(&alice, 90, key(2).account().0);
    let second = block(&alice, first.hash(), 80, key(2).account().0);
    let third = block(&alice, second.hash(), 70, key(2).account().0);
    let gap = error("Gap previous block");
    net.table(&[
        ("with subtype", process("send", &third), gap.clone()),
        ("without", process_bare(&second), gap.clone()),
        ("without, again", process_bare(&second), gap),
    ])
    .await;
    let count = json!({ "action": "block_count" });
    assert_eq!(net.ask(&count).await, json!({ "count": "3", "unchecked": "1", "cemented": "3" }));
    assert_eq!(net.ask(&process("send", &first)).await, accepted(&first));
    assert_eq!(net.ask(&count).await, json!({ "count": "5", "unchecked": "0", "cemented": "5" }));
    assert!(net.devnet.lattice().is_confirmed(second.hash()));
    assert!(net.devnet.lattice().entry(third.hash()).is_none(), "refused before it could be kept");

    // A receive waits for its source in the same way, with a subtype too.
    let send = net.next(&alice, 50, key(5).account().0);
    let open = block(&key(5), BlockHash::ZERO, 30, send.hash().0);
    assert_eq!(net.ask(&process("open", &open)).await, error("Gap source block"));
    assert_eq!(net.ask(&process("send", &send)).await, accepted(&send));
    assert_eq!(net.devnet.lattice().balance(key(5).account()).get(), 30);
}

/// Anyone can sign for a key of small order. Nodes accept that, but never for the burn account.
#[tokio::test]
async fn keys_of_small_order() {
    let net = Net::start().await;
    let weak = Account({
        let mut identity = [0; 32];
        identity[0] = 1;
        identity
    });
    // With R the identity and S zero, the signature holds for the identity as key and any message.
    let mut forged = [0; 64];
    forged[0] = 1;
    for (account, expected) in
        [(weak, None), (Account::BURN, Some("Block attempts to open the burn account"))]
    {
        let send = net.devnet.fund(account, faregate::nano::Raw::new(5)).unwrap();
        let open = StateBlock { account, ..block(&key(0), BlockHash::ZERO, 5, send.0) };
        let open = with_work(StateBlock { signature: Signature(forged), ..open }, THRESHOLDS.send.0, None);
        // For the burn account, whose key has order 4, the forgery holds for one message in four.
        let tries =
            (0..64).map(|index| StateBlock { representative: Representative(key(index).account()), ..open });
        let answers: Vec<Value> = answers_to(&net, tries.collect()).await;
        let hit = answers.iter().find(|answer| **answer != error("Bad signature")).unwrap();
        match expected {
            None => assert!(hit.get("hash").is_some(), "{hit}"),
            Some(text) => assert_eq!(hit, &error(text)),
        }
    }
}

async fn answers_to(net: &Net, blocks: Vec<StateBlock>) -> Vec<Value> {
    let mut answers = Vec::new();
    for block in blocks {
        answers.push(net.ask(&process("open", &block)).await);
    }
    answers
}

/// `subtype` is compared with the account's balance, before the signature is checked.
#[tokio::test]
async fn subtypes_of_a_first_block() {
    let net = Net::start().await;
    let nobody: SecretKey = key(9);
    let change = block(&nobody, BlockHash::ZERO, 0, burn_link());
    net.table(&[
        ("change first", process("change", &change), error("Invalid previous block for given subtype")),
        ("send first", process("send", &change), error("Invalid block balance for given subtype")),
        ("epoch", process("epoch", &change), error("Invalid epoch link")),
        ("bare", process_bare(&change), error("Gap source block")),
    ])
    .await;
}
