//! The network as it is: nodes that are down, slow, behind or lying, and WebSockets that are lost.

mod cost;
mod rivals;
mod slow;
mod socket;
pub(crate) mod tls;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use faregate::devnet::faults::ANY;
use faregate::devnet::{Devnet, DevnetNode, DevnetOptions, InjectedFault, Lie, NodeOptions, Times};
use faregate::ledger::node::{BreakerState, NodeClient, NodeEndpoint, NodeEvent, NodeLedger, SocketEndpoint};
use faregate::ledger::{Ledger, Sighting};
use faregate::nano::{BlockHash, Raw, SecretKey, Seed, StateBlock};

use crate::logs::Logs;
use crate::scripted::nobody;

const WAIT: Duration = Duration::from_secs(20);

fn key(index: u32) -> SecretKey {
    Seed::from_bytes([3; 32]).key(index)
}

/// The events about nodes so far: the kind of event, and the node.
type Events = Arc<Mutex<Vec<(&'static str, String)>>>;

/// Several nodes over one ledger, and the gateway's view of them.
struct Net {
    devnet: Devnet,
    /// The nodes after the ledger's first one.
    others: Vec<DevnetNode>,
    ledger: Arc<NodeLedger>,
    events: Events,
}

/// How many nodes, and whether they are trusted.
#[derive(Clone, Copy)]
struct Plan {
    nodes: usize,
    trusted: bool,
    quorum: usize,
    confirm_after: Duration,
}

impl Default for Plan {
    fn default() -> Self {
        Self { nodes: 3, trusted: true, quorum: 2, confirm_after: Duration::ZERO }
    }
}

impl Net {
    async fn start(plan: Plan) -> Self {
        let options = DevnetOptions {
            websocket: Some("127.0.0.1:0".parse().unwrap()),
            confirm_after: plan.confirm_after,
            ..DevnetOptions::default()
        };
        let devnet = Devnet::start(options).await.unwrap();
        let mut others = Vec::new();
        for _ in 1..plan.nodes {
            others.push(devnet.add_node(NodeOptions::default()).await.unwrap());
        }
        let events = Events::default();
        let log = Arc::clone(&events);
        let urls = std::iter::once(devnet.node()).chain(&others).map(DevnetNode::rpc_url);
        let client = NodeClient::new(urls.map(|url| endpoint(&url, plan.trusted)).collect()).unwrap();
        let client = client.with_quorum(plan.quorum).observed_by(Arc::new(move |event| {
            let entry = match event {
                NodeEvent::Called(call) if call.ok => ("answered", call.node),
                NodeEvent::Called(call) => ("failed", call.node),
                NodeEvent::Hedged { node } => ("hedged", node),
                NodeEvent::Disagreed { node } => ("disagreed", node),
            };
            log.lock().unwrap().push((entry.0, entry.1.to_owned()));
        }));
        let ledger = NodeLedger::new(client);
        ledger.probe().await;
        Self { devnet, others, ledger: Arc::new(ledger), events }
    }

    /// A send of 5 raw by a funded account, not published.
    fn send(&self, index: u32) -> StateBlock {
        let key = key(index);
        self.devnet.fund(key.account(), Raw::new(1000)).unwrap();
        self.devnet.receive_all(&key).unwrap();
        self.devnet.send_block(&key, self::key(99).account(), Raw::new(5)).unwrap()
    }

    /// The nodes of all events of one kind, in order.
    fn nodes_of(&self, what: &str) -> Vec<String> {
        let events = self.events.lock().unwrap();
        events.iter().filter(|(kind, _)| *kind == what).map(|(_, node)| node.clone()).collect()
    }

    fn node(&self, index: usize) -> &DevnetNode {
        index.checked_sub(1).map_or(self.devnet.node(), |index| &self.others[index])
    }

    async fn confirmed(&self, hash: BlockHash, wait: Duration) -> bool {
        matches!(self.ledger.await_confirmation(hash, wait).await, Ok(Sighting::Confirmed(_)))
    }
}

fn endpoint(url: &str, trusted: bool) -> NodeEndpoint {
    let endpoint = NodeEndpoint::from_url(url.parse().unwrap(), Duration::from_secs(5)).unwrap();
    NodeEndpoint { trusted, ..endpoint }
}

#[tokio::test]
async fn a_payment_under_way_does_not_notice_two_nodes_of_three_going_down() {
    let net = Net::start(Plan { confirm_after: Duration::from_millis(300), ..Plan::default() }).await;
    let block = net.send(1);
    net.ledger.publish_send(&block).await.unwrap();
    let waiting = tokio::spawn({
        let ledger = Arc::clone(&net.ledger);
        async move { ledger.await_confirmation(block.hash(), WAIT).await }
    });
    net.devnet.faults().called("blocks_info", 1).await;
    net.node(0).cut_off();
    net.node(1).cut_off();
    assert!(matches!(waiting.await.unwrap(), Ok(Sighting::Confirmed(_))));
    assert!(net.node(2).faults().calls("blocks_info") > 0);
    // The next payment does not notice it either, from its first look-up on.
    let next = net.devnet.send_block(&key(1), key(99).account(), Raw::new(5)).unwrap();
    let account = net.ledger.account_at(next.account, next.previous).await.unwrap().unwrap();
    assert_eq!(account.confirmed_frontier, block.hash());
    net.ledger.publish_send(&next).await.unwrap();
    assert!(net.confirmed(next.hash(), WAIT).await);
}

#[tokio::test]
async fn a_node_that_keeps_failing_is_left_alone_and_comes_back() {
    let net = Net::start(Plan { nodes: 2, ..Plan::default() }).await;
    net.node(0).order(ANY, InjectedFault::Drop, Times::Always);
    let hash = net.devnet.lattice().genesis();
    for _ in 0..8 {
        assert!(net.ledger.block(hash).await.unwrap().is_some());
    }
    assert_eq!(net.node(0).faults().calls("block_info"), 5, "the breaker opened at the fifth");
    let status = net.ledger.nodes();
    assert_eq!((status[0].breaker, status[0].up), (BreakerState::Open, false));
    assert!(net.ledger.is_healthy());
    net.node(0).restore();
    let back = async {
        while net.ledger.nodes()[0].breaker != BreakerState::Closed {
            net.ledger.probe().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    crate::patience::within(WAIT, "the breaker closes again", back).await;
    assert_eq!(net.node(0).faults().calls("block_count"), 2, "one trial after the rest, no other");
}

#[tokio::test]
async fn a_slow_node_gets_a_rival_and_only_as_often_as_the_budget_lets() {
    let net = Net::start(Plan { nodes: 2, ..Plan::default() }).await;
    let hash = net.devnet.lattice().genesis();
    net.node(0).order("block_info", InjectedFault::Hold, Times::Always);
    // Held for as long as the order stands: only a rival can have answered.
    assert!(net.ledger.block(hash).await.unwrap().is_some());
    assert_eq!(net.nodes_of("hedged"), [net.ledger.nodes()[0].label.clone()]);
    assert_eq!(net.node(1).faults().calls("block_info"), 1);
    net.node(0).faults().clear();
    for _ in 0..30 {
        net.ledger.block(hash).await.unwrap();
    }
    assert!(net.nodes_of("hedged").len() <= 4, "at most one in ten");
    assert_eq!(net.nodes_of("failed"), Vec::<String>::new(), "slow is not broken");
}

#[tokio::test]
async fn a_lying_node_is_outvoted_counted_and_left_alone() {
    let net = Net::start(Plan { trusted: false, ..Plan::default() }).await;
    let block = net.send(1);
    net.devnet.lattice().hold(block.hash());
    for action in ["blocks_info", "block_info"] {
        net.node(0).order(action, InjectedFault::Lie(Lie::Confirmed), Times::Always);
    }
    net.ledger.publish_send(&block).await.unwrap();
    let seen = net.ledger.block(block.hash()).await.unwrap().unwrap();
    assert!(!seen.confirmed(), "one voice of two that it takes");
    let liar = net.ledger.nodes()[0].label.clone();
    let (ledger, hash) = (Arc::clone(&net.ledger), block.hash());
    let waiting = tokio::spawn(async move { ledger.await_confirmation(hash, WAIT).await });
    crate::rig::eventually("the liar is found out", || async { !net.nodes_of("disagreed").is_empty() }).await;
    assert_eq!(net.nodes_of("disagreed"), [liar]);
    assert_eq!(net.ledger.nodes()[0].breaker, BreakerState::Open);
    assert!(!waiting.is_finished());
    // The other two nodes are enough once the network has confirmed the block.
    net.devnet.lattice().release();
    assert!(matches!(waiting.await.unwrap(), Ok(Sighting::Confirmed(_))));
}

#[tokio::test]
async fn one_stranger_confirms_nothing_and_a_trusted_node_needs_nobody() {
    for (trusted, expected) in [(false, false), (true, true)] {
        let net = Net::start(Plan { nodes: 1, trusted, ..Plan::default() }).await;
        assert_eq!(net.ledger.is_healthy(), expected, "what could not be confirmed is not sold");
        let block = net.send(1);
        net.ledger.publish_send(&block).await.unwrap();
        assert_eq!(net.confirmed(block.hash(), Duration::from_millis(400)).await, expected);
        assert_eq!(net.ledger.block(block.hash()).await.unwrap().unwrap().confirmed(), expected);
    }
    let two = Net::start(Plan { nodes: 2, trusted: false, ..Plan::default() }).await;
    assert!(two.ledger.is_healthy());
    let block = two.send(1);
    two.ledger.publish_send(&block).await.unwrap();
    assert!(two.confirmed(block.hash(), WAIT).await);
}

/// One provider under two keys counted as two, so that it was a quorum of two by itself.
#[tokio::test]
async fn one_provider_with_two_keys_is_one_of_a_quorum() {
    let net = Net::start(Plan { nodes: 2, ..Plan::default() }).await;
    let block = net.send(1);
    net.devnet.process(block).unwrap();
    let confirmed_by = async |urls: [String; 2]| {
        let endpoints = urls.iter().map(|url| endpoint(url, false)).collect();
        let ledger = Arc::new(NodeLedger::new(NodeClient::new(endpoints).unwrap().with_quorum(2)));
        ledger.probe().await;
        let seen = ledger.block(block.hash()).await.unwrap().unwrap();
        let awaited = ledger.await_confirmation(block.hash(), Duration::from_millis(400)).await.unwrap();
        (ledger.is_healthy(), seen.confirmed(), matches!(awaited, Sighting::Confirmed(_)))
    };
    let (one, other) = (net.node(0).rpc_url(), net.node(1).rpc_url());
    let keyed = |key: &str| format!("{one}?key={key}");
    assert_eq!(confirmed_by([keyed("a"), keyed("b")]).await, (false, false, false));
    assert_eq!(confirmed_by([keyed("a"), other]).await, (true, true, true), "two nodes of the operator's");
}

#[tokio::test]
async fn a_node_that_is_behind_is_not_believed_about_a_frontier() {
    let net = Net::start(Plan { nodes: 2, ..Plan::default() }).await;
    let first = net.send(1);
    net.node(0).fall_behind();
    net.devnet.process(first).unwrap();
    let next = net.devnet.send_block(&key(1), key(99).account(), Raw::new(5)).unwrap();
    let facts = net.ledger.account_at(next.account, next.previous).await.unwrap().unwrap();
    assert_eq!((facts.frontier, facts.confirmed_frontier), (first.hash(), first.hash()));
    let facts = net.ledger.account(next.account).await.unwrap().unwrap();
    assert_eq!(facts.confirmed_frontier, first.hash(), "of two answers the one that is further along");
    // A single node that claims to be further along is no proof either.
    let strangers = Net::start(Plan { trusted: false, ..Plan::default() }).await;
    let sent = strangers.send(1);
    strangers.node(1).fall_behind();
    strangers.node(2).fall_behind();
    strangers.devnet.process(sent).unwrap();
    let facts = strangers.ledger.account(sent.account).await.unwrap().unwrap();
    assert_eq!(facts.confirmed_frontier, sent.previous, "two against one");
}

#[tokio::test]
async fn a_node_far_behind_is_not_asked_to_confirm() {
    let net = Net::start(Plan { nodes: 2, ..Plan::default() }).await;
    net.node(0).fall_behind();
    for _ in 0..102 {
        net.devnet.fund(key(7).account(), Raw::new(1)).unwrap();
    }
    net.ledger.probe().await;
    let behind: Vec<_> = net.ledger.nodes().iter().map(|node| node.behind).collect();
    assert_eq!(behind, [true, false]);
    let block = net.send(1);
    net.ledger.publish_send(&block).await.unwrap();
    assert!(net.confirmed(block.hash(), WAIT).await);
    assert_eq!(net.node(0).faults().calls("blocks_info"), 0);
    net.node(0).restore();
    net.ledger.probe().await;
    assert!(!net.ledger.nodes()[0].behind);
}

#[tokio::test]
async fn one_node_alone_is_compared_with_its_own_peers() {
    let net = Net::start(Plan { nodes: 1, ..Plan::default() }).await;
    let client = NodeClient::new(vec![endpoint(&net.node(0).rpc_url(), true)]).unwrap();
    let client = client.looking_at_peers_every(Duration::ZERO);
    client.probe().await;
    assert_eq!((client.nodes()[0].behind, client.nodes()[0].compared), (false, true));
    net.node(0).fall_behind();
    for _ in 0..1002 {
        net.devnet.fund(key(7).account(), Raw::new(1)).unwrap();
    }
    for look in 1..=3 {
        assert!(client.is_healthy(), "before look {look}");
        client.probe().await;
    }
    assert!(client.nodes()[0].behind && client.nodes()[0].up);
    assert!(!client.is_healthy(), "nothing is sold that it would not see confirmed");
    net.node(0).restore();
    client.probe().await;
    assert!(!client.nodes()[0].behind && client.is_healthy());
}

#[tokio::test]
async fn nothing_is_known_of_a_node_without_telemetry() {
    let net = Net::start(Plan { nodes: 1, ..Plan::default() }).await;
    for (fault, asked) in [
        (InjectedFault::Refuse("RPC control is disabled".to_owned()), 1),
        (InjectedFault::ServerError, 1),
        (InjectedFault::Drop, 4),
    ] {
        net.node(0).order("telemetry", fault, Times::Always);
        let client = NodeClient::new(vec![endpoint(&net.node(0).rpc_url(), true)]).unwrap();
        let client = client.looking_at_peers_every(Duration::ZERO);
        let before = net.node(0).faults().calls("telemetry");
        for _ in 0..4 {
            client.probe().await;
        }
        let status = &client.nodes()[0];
        assert_eq!((status.up, status.behind, status.compared), (true, false, false));
        assert_eq!(net.node(0).faults().calls("telemetry") - before, asked);
        net.node(0).restore();
    }
}

#[tokio::test]
async fn a_thousand_payments_share_a_handful_of_calls_a_tick() {
    let net = Net::start(Plan { nodes: 1, ..Plan::default() }).await;
    let mut waits = tokio::task::JoinSet::new();
    for number in 0..1000_u32 {
        let mut hash = [1; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        let ledger = Arc::clone(&net.ledger);
        let wait = Duration::from_millis(950);
        waits.spawn(async move { ledger.await_confirmation(BlockHash(hash), wait).await });
    }
    while let Some(seen) = waits.join_next().await {
        assert_eq!(seen.unwrap(), Ok(Sighting::Unknown));
    }
    // Ten ticks of four calls, and the calls of the first moment, when not all payments had come.
    let calls = net.devnet.faults().calls("blocks_info");
    assert!((4..=60).contains(&calls), "{calls} calls");
    assert_eq!(net.devnet.faults().calls("block_info"), 0);
}

#[tokio::test]
async fn contents_of_another_block_are_not_believed_in_a_batch_either() {
    let net = Net::start(Plan { nodes: 2, ..Plan::default() }).await;
    let (block, other) = (net.send(1), net.send(2));
    net.ledger.publish_send(&block).await.unwrap();
    net.node(0).order("blocks_info", InjectedFault::Lie(Lie::Contents(Box::new(other))), Times::Always);
    let Ok(Sighting::Confirmed(facts)) = net.ledger.await_confirmation(block.hash(), WAIT).await else {
        panic!("the honest one confirms it")
    };
    assert_eq!(facts.hash(), block.hash());
    assert_eq!(net.ledger.nodes()[0].breaker, BreakerState::Open, "who lies is left alone");
}

#[tokio::test]
async fn a_block_that_loses_to_a_fork_is_not_confirmed() {
    let net = Net::start(Plan { nodes: 1, ..Plan::default() }).await;
    let block = net.send(1);
    let rival = net.devnet.send_block(&key(1), key(98).account(), Raw::new(6)).unwrap();
    net.devnet.lattice().hold(block.hash());
    net.ledger.publish_send(&block).await.unwrap();
    let (ledger, hash) = (Arc::clone(&net.ledger), block.hash());
    let waiting = tokio::spawn(async move { ledger.await_confirmation(hash, Duration::from_secs(1)).await });
    net.devnet.faults().called("blocks_info", 2).await;
    net.devnet.fork(rival).unwrap();
    assert_eq!(waiting.await.unwrap(), Ok(Sighting::Unknown));
}

#[tokio::test]
async fn a_node_that_refuses_batches_is_asked_block_by_block() {
    let net = Net::start(Plan { nodes: 1, ..Plan::default() }).await;
    net.devnet.order("blocks_info", InjectedFault::Refuse("Action not allowed".to_owned()), Times::Always);
    let block = net.send(1);
    net.ledger.publish_send(&block).await.unwrap();
    assert!(net.confirmed(block.hash(), WAIT).await);
}

#[tokio::test]
async fn no_key_shows_in_what_is_logged_or_printed_of_nodes() {
    let logs = Logs::keep();
    let dead = nobody();
    let mut url = dead.url.clone();
    url.set_query(Some("key=s3cret"));
    url.set_path("/s3cret/");
    let client = NodeClient::new(vec![endpoint(url.as_str(), false)]).unwrap();
    let socket = format!("ws://{}:{}/s3cret?key=s3cret", url.host_str().unwrap(), url.port().unwrap());
    let socket = SocketEndpoint::from_url(socket.parse().unwrap()).unwrap();
    let ledger = Arc::new(NodeLedger::new(client).hearing(vec![socket.clone()]));
    let (_stop, shutdown) = tokio::sync::watch::channel(false);
    let listening = tokio::spawn(Arc::clone(&ledger).listen([key(1).account()].into(), shutdown));
    ledger.probe().await;
    let error = ledger.await_confirmation(BlockHash([1; 32]), Duration::from_millis(300)).await.unwrap_err();
    listening.abort();
    let logged = logs.text();
    assert!(logged.contains("a WebSocket is not connected") && logged.contains("a node does not answer"));
    for text in [
        logged,
        error.to_string(),
        format!("{ledger:?}"),
        format!("{socket:?}"),
        format!("{:?}", ledger.sockets()),
        format!("{:?}", ledger.nodes()),
    ] {
        assert!(!text.contains("s3cret"), "{text}");
    }
}
