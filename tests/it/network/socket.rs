//! Confirmations over a WebSocket.

use std::sync::Arc;
use std::time::Duration;

use faregate::devnet::{Devnet, DevnetOptions, NodeOptions, SocketDialect};
use faregate::ledger::node::{NodeClient, NodeLedger, SocketEndpoint};
use faregate::ledger::{Ledger, Sighting};
use faregate::listen;
use faregate::nano::{Account, Raw};
use futures_util::{SinkExt, StreamExt};
use pingora::apps::http_app::HttpServer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::{WAIT, endpoint, key};
use crate::rig::{PLENTY, Plan, Rig, eventually};

pub(super) fn with_socket(dialect: SocketDialect, confirm_after: Duration) -> DevnetOptions {
    let websocket = Some("127.0.0.1:0".parse().unwrap());
    DevnetOptions { websocket, dialect, confirm_after, ..DevnetOptions::default() }
}

/// A plain client of the development ledger's WebSocket.
struct Client(WebSocketStream<TcpStream>);

impl Client {
    async fn to(devnet: &Devnet) -> Self {
        let url = devnet.websocket_url().unwrap();
        let tcp = TcpStream::connect(url.trim_start_matches("ws://")).await.unwrap();
        Self(tokio_tungstenite::client_async(url, tcp).await.unwrap().0)
    }

    async fn say(&mut self, message: &Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next message; `None` if the connection was closed.
    async fn hear(&mut self) -> Option<Value> {
        match self.0.next().await {
            Some(Ok(Message::Text(text))) => Some(serde_json::from_str(&text).unwrap()),
            _ => None,
        }
    }

    /// The messages before the answer to a ping.
    async fn until_pong(&mut self) -> Vec<Value> {
        self.say(&json!({"action": "ping", "id": "7"})).await;
        let mut heard = Vec::new();
        loop {
            let message = self.hear().await.unwrap();
            if message["ack"] == "pong" {
                assert_eq!(message["id"], "7");
                return heard;
            }
            heard.push(message);
        }
    }
}

fn subscribe(options: &Value) -> Value {
    json!({"action": "subscribe", "topic": "confirmation", "ack": true, "id": "1", "options": options})
}

#[tokio::test]
async fn the_ledgers_socket_filters_as_nodes_do() {
    let devnet = Devnet::start(with_socket(SocketDialect::Reference, Duration::ZERO)).await.unwrap();
    let (first, second) = (key(1).account(), key(2).account());
    let mut socket = Client::to(&devnet).await;
    socket.say(&json!({"action": "subscribe", "topic": "nonsense", "ack": true, "id": "9"})).await;
    socket.say(&subscribe(&json!({"accounts": []}))).await;
    let ack = socket.hear().await.unwrap();
    assert_eq!((&ack["ack"], &ack["id"]), (&json!("subscribe"), &json!("1")), "a bad topic has none");
    let fund = async |account: Account| {
        let hash = devnet.fund(account, Raw::new(5)).unwrap();
        // A task of its own sends the message.
        tokio::time::sleep(Duration::from_millis(20)).await;
        hash
    };
    fund(first).await;
    assert_eq!(socket.until_pong().await, Vec::<Value>::new(), "an empty filter tells nothing");

    let legacy = first.to_string().replacen("nano_", "xrb_", 1);
    let update = |name: &str, account: &str| json!({"action": "update", "topic": "confirmation", "ack": true, "id": "2", "options": {name: [account]}});
    socket.say(&update("accounts_add", &legacy)).await;
    assert_eq!(socket.hear().await.unwrap()["ack"], "update");
    fund(second).await;
    let hash = fund(first).await;
    let heard = socket.until_pong().await;
    assert_eq!(heard.len(), 1);
    let message = &heard[0]["message"];
    assert_eq!((&message["hash"], &message["amount"]), (&json!(hash), &json!("5")));
    assert_eq!(message["block"]["link_as_account"], json!(first));
    socket.say(&update("accounts_del", &first.to_string())).await;
    socket.hear().await.unwrap();
    fund(first).await;
    assert_eq!(socket.until_pong().await, Vec::<Value>::new());
}

#[tokio::test]
async fn each_dialect_has_its_habits() {
    let strings = subscribe(&json!({"include_block": "true"}));
    let reference = Devnet::start(with_socket(SocketDialect::Reference, Duration::ZERO)).await.unwrap();
    let mut socket = Client::to(&reference).await;
    socket.say(&strings).await;
    assert_eq!(socket.hear().await.unwrap()["ack"], "subscribe");
    let other = Devnet::start(with_socket(SocketDialect::RsNano, Duration::ZERO)).await.unwrap();
    let mut socket = Client::to(&other).await;
    socket.say(&strings).await;
    assert_eq!(socket.hear().await, None, "closed");
    for devnet in [&reference, &other] {
        let mut socket = Client::to(devnet).await;
        socket.0.send(Message::text("not JSON")).await.unwrap();
        assert_eq!(socket.hear().await, None, "both close on what is no JSON");
    }
}

/// A ledger view with a WebSocket, subscribed for `accounts`.
async fn listening(devnet: &Devnet, accounts: Vec<Account>) -> (Arc<NodeLedger>, watch::Sender<bool>) {
    let client = NodeClient::new(vec![endpoint(&devnet.rpc_url(), true)]).unwrap();
    let socket = SocketEndpoint::from_url(devnet.websocket_url().unwrap().parse().unwrap()).unwrap();
    let ledger = Arc::new(NodeLedger::new(client).hearing(vec![socket]));
    let (stop, shutdown) = watch::channel(false);
    tokio::spawn(Arc::clone(&ledger).listen(accounts.into(), shutdown));
    eventually("subscribed", || async { ledger.sockets()[0].connected }).await;
    (ledger, stop)
}

#[tokio::test]
async fn a_message_wakes_a_payment_and_nothing_is_polled_in_between() {
    for dialect in [SocketDialect::Reference, SocketDialect::RsNano] {
        let devnet = Devnet::start(with_socket(dialect, Duration::ZERO)).await.unwrap();
        // More accounts than fit in one message; the paid one is among the last.
        let mut accounts: Vec<_> = (0..2500_u32)
            .map(|number| {
                let mut bytes = [9; 32];
                bytes[..4].copy_from_slice(&number.to_be_bytes());
                Account(bytes)
            })
            .collect();
        accounts.push(key(99).account());
        let (ledger, _stop) = listening(&devnet, accounts).await;
        devnet.fund(key(1).account(), Raw::new(1000)).unwrap();
        devnet.receive_all(&key(1)).unwrap();
        let block = devnet.send_block(&key(1), key(99).account(), Raw::new(5)).unwrap();
        devnet.lattice().hold(block.hash());
        ledger.publish_send(&block).await.unwrap();
        let waiting = tokio::spawn({
            let ledger = Arc::clone(&ledger);
            async move { ledger.await_confirmation(block.hash(), WAIT).await }
        });
        devnet.faults().called("blocks_info", 1).await;
        // As long as four polls would take.
        tokio::time::sleep(Duration::from_millis(450)).await;
        assert_eq!(devnet.faults().calls("blocks_info"), 1, "{dialect:?}");
        devnet.lattice().release();
        devnet.lattice();
        let seen = waiting.await.unwrap();
        assert!(matches!(seen, Ok(Sighting::Confirmed(_))), "{dialect:?} {seen:?}");
        assert_eq!(devnet.faults().calls("blocks_info"), 2, "{dialect:?}: the first look, and the hint's");
    }
}

#[tokio::test]
async fn a_message_that_never_comes_costs_time_and_no_money() {
    let devnet =
        Devnet::start(with_socket(SocketDialect::Reference, Duration::from_millis(50))).await.unwrap();
    let (ledger, _stop) = listening(&devnet, vec![key(99).account()]).await;
    devnet.node().mute_sockets(true);
    devnet.fund(key(1).account(), Raw::new(1000)).unwrap();
    devnet.receive_all(&key(1)).unwrap();
    let block = devnet.send_block(&key(1), key(99).account(), Raw::new(5)).unwrap();
    ledger.publish_send(&block).await.unwrap();
    let seen = ledger.await_confirmation(block.hash(), WAIT).await;
    assert!(matches!(seen, Ok(Sighting::Confirmed(_))), "{seen:?}");
}

#[tokio::test]
async fn a_lost_connection_is_replaced_and_the_block_is_polled_meanwhile() {
    let devnet = Devnet::start(with_socket(SocketDialect::Reference, Duration::ZERO)).await.unwrap();
    let (ledger, _stop) = listening(&devnet, vec![key(99).account()]).await;
    let other = devnet.add_node(NodeOptions::default()).await.unwrap();
    devnet.fund(key(1).account(), Raw::new(1000)).unwrap();
    devnet.receive_all(&key(1)).unwrap();
    let block = devnet.send_block(&key(1), key(99).account(), Raw::new(5)).unwrap();
    devnet.lattice().hold(block.hash());
    ledger.publish_send(&block).await.unwrap();
    let waiting = tokio::spawn({
        let ledger = Arc::clone(&ledger);
        async move { ledger.await_confirmation(block.hash(), WAIT).await }
    });
    devnet.faults().called("blocks_info", 1).await;
    devnet.node().refuse_sockets(true);
    devnet.node().drop_sockets();
    // The loss itself makes the block due.
    devnet.faults().called("blocks_info", 2).await;
    assert!(!ledger.sockets()[0].connected);
    devnet.lattice().release();
    assert!(matches!(waiting.await.unwrap(), Ok(Sighting::Confirmed(_))));
    devnet.node().refuse_sockets(false);
    eventually("connected again", || async { ledger.sockets()[0].connected }).await;
    other.stop().await;
}

/// The whole gateway, with its configuration's key, its metric and its readiness.
#[tokio::test]
async fn a_gateway_hears_of_its_payments() {
    let plan =
        Plan { devnet: with_socket(SocketDialect::Reference, Duration::from_millis(250)), ..Plan::default() };
    let rig = Rig::with(plan).await;
    rig.devnet.node().subscribed(1).await;
    let connected = || async { rig.services.ledger().sockets().iter().all(|it| it.connected) };
    eventually("connected", connected).await;
    let payer = rig.payer(1, PLENTY);
    let before = rig.devnet.faults().calls("blocks_info");
    assert_eq!(rig.pay(&payer, "/paid").await.status(), 200);
    assert_eq!(rig.devnet.faults().calls("blocks_info") - before, 2);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = format!("http://{}", listener.local_addr().unwrap());
    let (_stop, shutdown) = watch::channel(false);
    let operator =
        tokio::spawn(listen::serve(listener, Arc::new(HttpServer::new_app(rig.services.admin())), shutdown));
    let asked = async |path: &str| {
        let answer = rig.http.get(format!("{admin}{path}")).send().await.unwrap();
        answer.text().await.unwrap()
    };
    let label = rig.devnet.address().to_string();
    let ready: Value = serde_json::from_str(&asked("/readyz").await).unwrap();
    assert_eq!(
        ready["nodes"],
        json!([{"node": label, "up": true, "breaker": "closed", "behind": false, "trusted": true}])
    );
    assert_eq!(ready["websockets"][0]["connected"], true);
    let metrics = asked("/metrics").await;
    for line in [
        format!("faregate_node_up{{node=\"{label}\"}} 1"),
        format!("faregate_breaker_state{{node=\"{label}\"}} 0"),
        format!("faregate_node_behind{{node=\"{label}\"}} 0"),
        "faregate_websocket_connected 1".to_owned(),
        "faregate_confirmation_duration_seconds_count 1".to_owned(),
    ] {
        assert!(metrics.lines().any(|it| it == line), "{line}\n{metrics}");
    }
    operator.abort();
    // The connection is killed between broadcast and confirmation; the payment is granted all the same.
    let [txn, _] = rig.bill("/paid").await;
    let (header, block) = rig.txn(&payer, &txn);
    rig.devnet.lattice().hold(block.hash());
    let headers = [("PAYMENT-SIGNATURE", header.as_str())];
    let killed = async {
        rig.devnet.faults().called("process", 2).await;
        rig.devnet.node().refuse_sockets(true);
        rig.devnet.node().drop_sockets();
        rig.devnet.lattice().release();
    };
    let (answer, ()) = tokio::join!(rig.get("/paid", &headers), killed);
    assert_eq!(answer.status(), 200);
    rig.end().await;
}
