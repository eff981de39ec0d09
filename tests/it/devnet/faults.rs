//! Each fault happens as often as it was ordered, and only where it was ordered.

use std::time::Duration;

use faregate::devnet::faults::ANY;
use faregate::devnet::{InjectedFault, Lie, Times};
use faregate::nano::{Raw, StateBlock};
use serde_json::{Value, json};

use super::{Net, accepted, block, key, process};

fn version() -> Value {
    json!({ "action": "version" })
}

#[tokio::test]
async fn refusals_and_lost_connections() {
    let net = Net::start().await;
    let alice = net.opened(1, 100);
    let send = net.next(&alice, 90, key(2).account().0);
    let request = process("send", &send);

    net.devnet.order("process", InjectedFault::Refuse("Stopped".to_owned()), Times::ONCE);
    assert_eq!(net.ask(&request).await, json!({ "error": "Stopped" }));
    net.devnet.order("process", InjectedFault::ServerError, Times::ONCE);
    let answer = net.send(request.to_string()).await.unwrap();
    assert_eq!(answer.status(), 500);
    assert!(answer.json::<Value>().await.is_err(), "not JSON");
    net.devnet.order("process", InjectedFault::Drop, Times::ONCE);
    assert!(net.send(request.to_string()).await.is_err());
    assert!(net.devnet.lattice().entry(send.hash()).is_none(), "none of these handed it in");

    net.devnet.order("process", InjectedFault::LoseAnswer, Times::ONCE);
    assert!(net.send(request.to_string()).await.is_err());
    assert!(net.devnet.lattice().is_confirmed(send.hash()), "done, and not told");
    assert_eq!(net.ask(&request).await, json!({ "error": "Invalid block balance for given subtype" }));
    assert_eq!(net.devnet.faults().calls("process"), 5);
    assert_eq!(net.devnet.faults().calls("block_info"), 0);
}

#[tokio::test]
async fn orders_hold_as_long_as_ordered() {
    let net = Net::start().await;
    net.devnet.order("version", InjectedFault::Drop, Times::Only(2));
    for dropped in [true, true, false] {
        assert_eq!(net.send(version().to_string()).await.is_err(), dropped);
    }
    net.devnet.order(ANY, InjectedFault::Refuse("down".to_owned()), Times::Always);
    for action in ["version", "uptime", "version"] {
        assert_eq!(net.ask(&json!({ "action": action })).await, json!({ "error": "down" }));
    }
    net.devnet.faults().lift("version");
    assert_eq!(net.ask(&version()).await, json!({ "error": "down" }), "ordered for all, lifted for one name");
    net.devnet.faults().clear();
    assert_eq!(net.ask(&version()).await["rpc_version"], "1");
}

#[tokio::test]
async fn answers_come_late() {
    let net = Net::start().await;
    let alice = net.opened(1, 100);
    let send = net.next(&alice, 90, key(2).account().0);
    net.devnet.order("process", InjectedFault::Hold, Times::ONCE);
    net.devnet.order("version", InjectedFault::Delay(Duration::from_secs(3600)), Times::ONCE);
    let (request, asked) = (process("send", &send), version());
    let (held, delayed, ()) = tokio::join!(net.ask(&request), net.ask(&asked), async {
        net.devnet.faults().called("process", 1).await;
        net.devnet.faults().called("version", 1).await;
        assert!(net.ask(&json!({ "action": "uptime" })).await["seconds"].is_string(), "others are served");
        net.devnet.faults().clear();
    });
    assert_eq!(held, accepted(&send));
    assert_eq!(delayed["rpc_version"], "1");

    let started = faregate::clock::Stopwatch::start();
    net.devnet.order("version", InjectedFault::Delay(Duration::from_millis(30)), Times::ONCE);
    net.ask(&version()).await;
    assert!(started.elapsed() >= Duration::from_millis(30));
}

#[tokio::test]
async fn lies() {
    let net = Net::start().await;
    let alice = net.opened(1, 100);
    net.devnet.lattice().hold_all();
    let send = net.next(&alice, 90, key(2).account().0);
    net.devnet.process(send).unwrap();
    let other = block(&alice, send.previous, 50, key(3).account().0);
    for lie in [
        Lie::Confirmed,
        Lie::Contents(Box::new(other)),
        Lie::Amount(Raw::new(77)),
        Lie::Balance(Raw::new(88)),
    ] {
        net.devnet.order("block_info", InjectedFault::Lie(lie), Times::Only(2));
    }
    let mut request = json!({ "action": "block_info", "json_block": true, "hash": send.hash() });
    let lied = net.ask(&request).await;
    assert_eq!(
        (&lied["confirmed"], &lied["amount"], &lied["balance"]),
        (&json!("true"), &json!("77"), &json!("88"))
    );
    let block = |contents: &Value| serde_json::from_value::<StateBlock>(contents.clone()).unwrap();
    assert_eq!(block(&lied["contents"]), other, "as it was signed");
    request["json_block"] = json!(false);
    let text = net.ask(&request).await["contents"].as_str().unwrap().to_owned();
    assert_eq!(block(&serde_json::from_str(&text).unwrap()), other);
    let truth = net.ask(&request).await;
    assert_eq!((&truth["confirmed"], &truth["amount"]), (&json!("false"), &json!("10")));

    net.devnet.order("blocks_info", InjectedFault::Lie(Lie::Confirmed), Times::ONCE);
    let many = json!({ "action": "blocks_info", "hashes": [send.hash()] });
    assert_eq!(net.ask(&many).await["blocks"][send.hash().to_string()]["confirmed"], "true");
    net.devnet.order("account_info", InjectedFault::Lie(Lie::Balance(Raw::new(1_000))), Times::ONCE);
    let info = json!({ "action": "account_info", "account": alice.account(), "include_confirmed": true });
    let lied = net.ask(&info).await;
    assert_eq!((&lied["balance"], &lied["confirmed_balance"]), (&json!("1000"), &json!("1000")));
    assert_eq!(net.ask(&info).await["confirmed_balance"], "100");
}

#[tokio::test]
async fn answers_from_the_past() {
    let net = Net::start().await;
    let alice = net.opened(1, 100);
    let info = json!({ "action": "account_info", "account": alice.account() });
    net.devnet.order(ANY, InjectedFault::Stale, Times::Always);
    let send = net.next(&alice, 90, key(2).account().0);
    assert_eq!(net.ask(&process("send", &send)).await, accepted(&send), "what changes the ledger is done");
    assert_eq!(net.ask(&info).await["balance"], "100");
    net.devnet.faults().clear();
    assert_eq!(net.ask(&info).await["balance"], "90");
}

#[tokio::test]
async fn never_confirmed() {
    let net = Net::start().await;
    let alice = net.opened(1, 100);
    let send = net.next(&alice, 90, key(2).account().0);
    net.devnet.lattice().hold(send.hash());
    net.ask(&process("send", &send)).await;
    let free = net.devnet.fund(key(3).account(), Raw::new(1)).unwrap();
    let confirmed = async |hash| {
        let info = net.ask(&json!({ "action": "block_info", "hash": hash })).await;
        info["confirmed"].as_str().unwrap().to_owned()
    };
    assert_eq!(
        (confirmed(send.hash()).await, confirmed(free).await),
        ("false".to_owned(), "true".to_owned())
    );
    assert!(net.devnet.confirm_now(send.hash()));
    assert_eq!(confirmed(send.hash()).await, "true");
}
