//! Nodes that are slow, and nodes that come back. The runtime's clock is paused: it moves on when everything waits, so
//! that minutes pass at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use faregate::cashier::{
    Ask, Cashier, ClientLimits, Evidence, IdentifierSettings, Parts, Presented, Proof, Settings, Verdict,
    WorkRules,
};
use faregate::clock::{Clock, Stopwatch};
use faregate::devnet::faults::ANY;
use faregate::devnet::{Devnet, DevnetOptions, InjectedFault, NodeOptions, THRESHOLDS, Times};
use faregate::entropy::Entropy;
use faregate::ledger::Ledger;
use faregate::ledger::node::{NodeClient, NodeEndpoint, NodeLedger};
use faregate::metrics::Metrics;
use faregate::nano::Raw;
use faregate::payment::address_pool::AddressPool;
use faregate::payment::{MacKey, MacKeys, Mechanism};
use faregate::routes::{Grants, Metering, RouteName, Terms};
use faregate::store::Holder;
use tokio::sync::watch;

use super::key;
use crate::patience::eventually;
use crate::store::model::Model;

/// How long a slow node takes for each call: less than its operator allows.
const SLOW: Duration = Duration::from_secs(3);
const ALLOWED: Duration = Duration::from_secs(10);
/// How often the gateway probes its nodes.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// How long a gateway may be closed after its node is back.
const BACK_WITHIN: Duration = Duration::from_secs(5);

fn endpoint(url: &str, timeout: Duration, trusted: bool) -> NodeEndpoint {
    let endpoint = NodeEndpoint::from_url(url.parse().unwrap(), timeout).unwrap();
    NodeEndpoint { trusted, ..endpoint }
}

fn ledger(nodes: Vec<NodeEndpoint>) -> Arc<NodeLedger> {
    Arc::new(NodeLedger::new(NodeClient::new(nodes).unwrap()))
}

/// Probes the nodes as a gateway does, for as long as what it gives is kept.
fn watched(ledger: &Arc<NodeLedger>) -> watch::Sender<bool> {
    let (stop, shutdown) = watch::channel(false);
    tokio::spawn(Arc::clone(ledger).watch(PROBE_EVERY, shutdown));
    stop
}

fn cashier(ledger: &Arc<NodeLedger>) -> Cashier<NodeLedger, Model> {
    let accounts = |first: u32| (first..first + 8).map(|index| key(index).account()).collect();
    Cashier::new(Parts {
        keys: MacKeys::new(MacKey::from_bytes([3; 32]), None),
        pool: AddressPool::new(accounts(100), accounts(200)),
        work: WorkRules { threshold: THRESHOLDS.send, server: None },
        ledger: Arc::clone(ledger),
        store: Arc::new(Model::default()),
        clock: Clock::system(),
        entropy: Entropy::system(),
        metrics: Arc::new(Metrics::new().unwrap()),
        settings: Settings {
            mechanisms: vec![Mechanism::NanoTxn],
            by_route: BTreeMap::new(),
            routes: BTreeSet::from([RouteName::new("thing")]),
            lifetime: 120,
            // Longer than is allowed here: how long it takes is measured.
            wait: Duration::from_secs(1000),
            pending_settlements: 10,
            per_client: ClientLimits { settlements: 10, lookups: 10 },
            per_caller: ClientLimits { settlements: 10, lookups: 10 },
            identifiers: IdentifierSettings { ids: 60, answers: 60, largest_answer: 1024 },
        },
        holder: Holder([0xee; 16]),
        capabilities_cached: 10,
        runtime: tokio::runtime::Handle::current(),
    })
}

fn ask(presented: Presented) -> Ask {
    let grants = Grants::of_requests(1.try_into().unwrap(), 3600);
    Ask {
        hold: None,
        route: RouteName::new("thing"),
        standing: Arc::default(),
        terms: Terms { amount: Raw::new(5), grants },
        metering: Metering::Leased,
        presented,
        identified: None,
        client: None,
        down: None,
        url: None,
    }
}

/// Before: 336 s for one payment. Each look at its block was given up after 2 s, and each probe, so that the node counted
/// as down.
#[tokio::test(start_paused = true)]
async fn a_payment_at_a_slow_node_takes_a_few_of_its_calls() {
    let devnet = Devnet::start(DevnetOptions::default()).await.unwrap();
    devnet.fund(key(1).account(), Raw::new(1000)).unwrap();
    devnet.receive_all(&key(1)).unwrap();
    devnet.order(ANY, InjectedFault::Delay(SLOW), Times::Always);
    let ledger = ledger(vec![endpoint(&devnet.rpc_url(), ALLOWED, true)]);
    let _watched = watched(&ledger);
    eventually("the slow node counts as up", async || ledger.is_healthy()).await;
    let cashier = cashier(&ledger);
    let bill = cashier.decide(ask(Presented::Nothing)).await;
    let Verdict::Bill(bill) = bill else { panic!("{bill:?}") };
    let challenge = bill.challenges.first().unwrap();
    let block = devnet.send_block(&key(1), challenge.offer().pay_to, Raw::new(5)).unwrap();
    let evidence = Evidence::Txn(block);
    let proof = Proof { nonce: challenge.nonce(), offer: challenge.offer().clone(), evidence, beside: None };
    let watch = Stopwatch::start();
    let verdict = cashier.decide(ask(Presented::Proof(Box::new(proof)))).await;
    assert!(matches!(verdict, Verdict::Admit(_)), "{verdict:?}");
    // The account, the broadcast, and two looks at the block at most.
    let took = watch.elapsed();
    assert!(took <= SLOW * 5, "{took:?}");
    assert_eq!(devnet.faults().calls("process"), 1, "it is broadcast once");
    assert!(ledger.is_healthy(), "slow is not down");
}

/// Before: after some failures the node was left alone for up to a minute, though there was no other.
#[tokio::test(start_paused = true)]
async fn an_only_node_that_comes_back_is_used_within_five_seconds() {
    for (slow, fault) in
        [(false, InjectedFault::Drop), (false, InjectedFault::Hold), (true, InjectedFault::ServerError)]
    {
        let devnet = Devnet::start(DevnetOptions::default()).await.unwrap();
        let genesis = devnet.lattice().genesis();
        let ledger = ledger(vec![endpoint(&devnet.rpc_url(), ALLOWED, true)]);
        let _watched = watched(&ledger);
        eventually("it is up", async || ledger.is_healthy()).await;
        devnet.order(ANY, fault.clone(), Times::Always);
        eventually("it is down", async || !ledger.is_healthy()).await;
        // Ten minutes, in which payers ask too.
        for _ in 0..60 {
            assert!(ledger.block(genesis).await.is_err());
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
        assert!(!ledger.is_healthy());
        devnet.faults().clear();
        if slow {
            devnet.order(ANY, InjectedFault::Delay(Duration::from_secs(2)), Times::Always);
        }
        let watch = Stopwatch::start();
        eventually("it is up again", async || ledger.is_healthy()).await;
        assert!(watch.elapsed() <= BACK_WITHIN, "{fault:?}: {:?}", watch.elapsed());
        assert!(ledger.block(genesis).await.unwrap().is_some(), "{fault:?}: it is asked again");
    }
}

/// A probe may take as long as a call. The probes of other nodes do not wait for it.
#[tokio::test(start_paused = true)]
async fn a_node_that_hangs_does_not_hide_that_another_is_back() {
    let devnet = Devnet::start(DevnetOptions::default()).await.unwrap();
    let other = devnet.add_node(NodeOptions::default()).await.unwrap();
    let long = Duration::from_secs(120);
    let nodes = vec![endpoint(&devnet.rpc_url(), long, true), endpoint(&other.rpc_url(), ALLOWED, true)];
    let ledger = ledger(nodes);
    let _watched = watched(&ledger);
    eventually("both are up", async || ledger.nodes().iter().all(|it| it.up)).await;
    devnet.order(ANY, InjectedFault::Hold, Times::Always);
    other.cut_off();
    eventually("the other is down", async || !ledger.nodes()[1].up).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    other.restore();
    let watch = Stopwatch::start();
    eventually("the other is up again", async || ledger.nodes()[1].up).await;
    // The one that hangs has not been given up by every call: the breaker may let the other rest as long as there is one.
    assert!(watch.elapsed() <= Duration::from_secs(60), "{:?}", watch.elapsed());
}

/// Half a second after the first answer the others were left out, so that a quorum of a fast and a slow node agreed on
/// nothing.
#[tokio::test(start_paused = true)]
async fn a_quorum_waits_for_its_slowest_node() {
    let devnet = Devnet::start(DevnetOptions::default()).await.unwrap();
    let other = devnet.add_node(NodeOptions::default()).await.unwrap();
    devnet.fund(key(1).account(), Raw::new(1000)).unwrap();
    devnet.receive_all(&key(1)).unwrap();
    let nodes = vec![endpoint(&devnet.rpc_url(), ALLOWED, false), endpoint(&other.rpc_url(), ALLOWED, false)];
    let ledger = NodeLedger::new(NodeClient::new(nodes).unwrap().with_quorum(2));
    ledger.probe().await;
    other.order(ANY, InjectedFault::Delay(SLOW), Times::Always);
    let facts = ledger.account(key(1).account()).await.unwrap().unwrap();
    assert_eq!(facts.confirmed_balance, Raw::new(1000));
    assert!(ledger.block(facts.frontier).await.unwrap().unwrap().confirmed());
}
