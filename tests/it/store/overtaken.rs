//! One proof at two instances at the same time, as a load balancer sends it when it retries elsewhere. The
//! instance that broadcasts second must not take the first broadcast for that of a stranger.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use faregate::assemble::address_pool;
use faregate::cashier::{
    Ask, Cashier, ClientLimits, IdentifierSettings, Parts, Presented, Proof, Settings, Verdict, WorkRules,
};
use faregate::clock::Clock;
use faregate::entropy::Entropy;
use faregate::ledger::node::NodeLedger;
use faregate::ledger::{Ledger, LedgerError, PublishError, Sighting};
use faregate::metrics::Metrics;
use faregate::nano::{Account, BlockHash, Raw, StateBlock};
use faregate::payment::{AccountFacts, BlockFacts, MacKeys, Mechanism};
use faregate::routes::{Grants, Metering, RouteName, Terms};
use faregate::store::{Engine, Holder};
use faregate::{vault, x402};
use tokio::sync::Semaphore;

use crate::rig::{PLENTY, ROUTES, Rig};

/// A ledger that is asked for accounts only when the test says so.
#[derive(Debug)]
struct Late {
    node: Arc<NodeLedger>,
    asked: Arc<Semaphore>,
    go: Arc<Semaphore>,
}

impl Ledger for Late {
    async fn account(&self, account: Account) -> Result<Option<AccountFacts>, LedgerError> {
        self.node.account(account).await
    }

    async fn account_at(
        &self,
        account: Account,
        previous: BlockHash,
    ) -> Result<Option<AccountFacts>, LedgerError> {
        self.asked.add_permits(1);
        self.go.acquire().await.unwrap().forget();
        self.node.account_at(account, previous).await
    }

    async fn block(&self, hash: BlockHash) -> Result<Option<BlockFacts>, LedgerError> {
        self.node.block(hash).await
    }

    async fn successor(&self, hash: BlockHash) -> Result<Option<BlockHash>, LedgerError> {
        self.node.successor(hash).await
    }

    async fn publish_send(&self, block: &StateBlock) -> Result<(), PublishError> {
        self.node.publish_send(block).await
    }

    async fn await_confirmation(&self, hash: BlockHash, wait: Duration) -> Result<Sighting, LedgerError> {
        self.node.await_confirmation(hash, wait).await
    }

    fn is_healthy(&self) -> bool {
        self.node.is_healthy()
    }
}

/// Another instance's cashier over the rig's store.
pub(crate) fn sibling<L: Ledger>(rig: &Rig, ledger: L) -> Cashier<L, Engine> {
    let config = rig.config("", ROUTES);
    let key = vault::existing_mac_key(&rig.folder.path().join("challenge.key")).unwrap();
    Cashier::new(Parts {
        keys: MacKeys::new(key, None),
        pool: address_pool(&config.nano).unwrap(),
        work: WorkRules { threshold: config.nano.work.thresholds.send, server: None },
        ledger: Arc::new(ledger),
        store: Arc::clone(rig.services.store()),
        clock: Clock::system(),
        entropy: Entropy::system(),
        metrics: Arc::new(Metrics::new().unwrap()),
        settings: Settings {
            mechanisms: Mechanism::ALL.to_vec(),
            by_route: BTreeMap::new(),
            routes: std::collections::BTreeSet::from([RouteName::new("search")]),
            lifetime: 120,
            wait: Duration::from_secs(10),
            without_extra: false,
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

/// A request to the route `search` with the proof in this header.
pub(crate) fn ask(header: &str) -> Ask {
    let payload = x402::PaymentPayload::from_header(header).unwrap();
    let x402::Payload::Payment(payment) = payload.presented else { panic!("a payment") };
    let grants = Grants::of_requests(5.try_into().unwrap(), 3600);
    Ask {
        hold: None,
        route: RouteName::new("search"),
        standing: Arc::default(),
        listed: Terms { amount: Raw::new(10_u128.pow(27)), grants }.into(),
        quoted: Some(Terms { amount: Raw::new(10_u128.pow(27)), grants }.into()),
        metering: Metering::Leased,
        presented: Presented::Proof(Box::new(Proof::from(*payment))),
        identified: None,
        client: None,
        down: None,
        url: None,
    }
}

#[tokio::test]
async fn a_broadcast_by_another_instance_is_no_second_bill() {
    let rig = Rig::start().await;
    let (asked, go) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let node = Arc::clone(rig.services.ledger());
    let late = sibling(&rig, Late { node, asked: Arc::clone(&asked), go: Arc::clone(&go) });
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill("/v1/search/nano").await;
    let (header, _) = rig.txn(&key, &offer);
    let ask = ask(&header);
    let deciding = tokio::spawn(async move { late.decide(ask).await });
    // It has looked into the journal, where nothing was yet.
    asked.acquire().await.unwrap().forget();
    let served = rig.get("/v1/search/nano", &[("PAYMENT-SIGNATURE", &header)]).await;
    assert_eq!(served.status(), 200);
    go.add_permits(100);
    let verdict = deciding.await.unwrap();
    assert!(matches!(verdict, Verdict::Admit(_)), "{verdict:?}");
    drop(verdict);
    rig.end().await;
}
