//! Two processes at once over one SQLite file, as when one takes over from the other: each payment is sold
//! once, each use is served once, and what was earned is swept once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use faregate::devnet::{Devnet, DevnetOptions};
use faregate::nano::{Account, BlockHash, SecretKey, Seed};
use faregate::store::deposits::{DepositJournal, SweepState};
use faregate::store::{Filter, PaymentJournal, PaymentState, SqliteOptions, SqliteStore};
use faregate::sweep::Action;
use faregate::x402::{PaymentProof, encode_header};
use reqwest::{Client, StatusCode};
use tempfile::TempDir;
use tokio::process::Child;

use crate::patience::{eventually, wait_for, within};
use crate::program::{self, PRICE, Program};
use crate::rig::{PLENTY, signature};
use crate::scripted::{Reply, Scripted};

/// Uses that one payment buys.
const USES: usize = 20;
const TREASURY: Account = Account([0x42; 32]);

/// A gateway and another over the same file.
struct Pair {
    devnet: Devnet,
    upstream: Scripted,
    folder: TempDir,
    http: Client,
    programs: [Program; 2],
    running: [Option<Child>; 2],
    paid: usize,
}

impl Pair {
    /// Two that run.
    async fn start() -> Self {
        let mut pair = Self::set_up().await;
        pair.run(0, None).await;
        pair.run(1, None).await;
        pair
    }

    async fn set_up() -> Self {
        let options = DevnetOptions { confirm_after: Duration::from_millis(30), ..DevnetOptions::default() };
        let devnet = Devnet::start(options).await.unwrap();
        let upstream = Scripted::start(|_| Reply::text(200, "served")).await;
        let folder = TempDir::new().unwrap();
        let origin = upstream.url.origin().ascii_serialization();
        let one = Program::new(folder.path(), &devnet, &origin, USES as u32)
            .with(&format!("  treasury: {TREASURY}\n"), "sweep: { every: 1s, minimum: 1 raw }\n");
        let other = one.beside();
        let http = program::client();
        Self { devnet, upstream, folder, http, programs: [one, other], running: [None, None], paid: 0 }
    }

    /// Starts one of the two; returns once it sells.
    async fn run(&mut self, which: usize, failpoints: Option<&str>) {
        self.running[which] = Some(self.programs[which].start(failpoints));
        let url = &self.programs[which].url;
        eventually("it sells", async || {
            matches!(program::get(&self.http, url, None).await, Some((StatusCode::PAYMENT_REQUIRED, _)))
        })
        .await;
    }

    fn store(&self) -> SqliteStore {
        SqliteStore::open(&self.folder.path().join("faregate.db"), SqliteOptions::default()).unwrap()
    }

    /// A proof of a new payment by `key`, billed by one of the two.
    async fn pay(&mut self, key: &SecretKey, by_signature: bool) -> String {
        let url = &self.programs[self.paid % 2].url;
        self.paid += 1;
        let bill = wait_for("a bill", async || program::get(&self.http, url, None).await?.1).await;
        let offer = &bill.offers[usize::from(by_signature)];
        let block = self.devnet.send_block(key, offer.pay_to, offer.amount).unwrap();
        if by_signature {
            self.devnet.process(block).unwrap();
            signature(key, &block, offer)
        } else {
            encode_header(&offer.answer(&PaymentProof::NanoTxn { block }))
        }
    }

    /// Shows a proof at both, six times at once, until it is used up. Gives how often it was served.
    async fn use_up(&self, proof: &str, served: &Arc<AtomicUsize>) {
        let clients = (0..6).map(|number| {
            let (http, url) = (self.http.clone(), self.programs[number % 2].url.clone());
            let (proof, served) = (proof.to_owned(), Arc::clone(served));
            tokio::spawn(async move {
                loop {
                    match program::get(&http, &url, Some(&proof)).await {
                        Some((StatusCode::OK, _)) => drop(served.fetch_add(1, Ordering::SeqCst)),
                        Some((StatusCode::PAYMENT_REQUIRED, _)) => return,
                        Some((status, _)) => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
                        // This one has ended.
                        None => return,
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            within(Duration::from_secs(60), "the proof is used up", client).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_over_one_file_sell_serve_and_sweep_once() {
    let mut pair = Pair::start().await;
    let key = Seed::from_bytes([0x6b; 32]).key(0);
    pair.devnet.fund(key.account(), PLENTY).unwrap();
    pair.devnet.receive_all(&key).unwrap();
    for by_signature in [false, true, false, true] {
        let proof = pair.pay(&key, by_signature).await;
        let served = Arc::new(AtomicUsize::new(0));
        pair.use_up(&proof, &served).await;
        assert_eq!(served.load(Ordering::SeqCst), USES, "by signature: {by_signature}");
    }

    // One ends while both serve. What it had leased comes back, and the other serves the rest.
    let proof = pair.pay(&key, false).await;
    let served = Arc::new(AtomicUsize::new(0));
    let first = pair.running[0].take().unwrap();
    let ending = async {
        eventually("it is under way", async || served.load(Ordering::SeqCst) > 2).await;
        program::end(first).await;
    };
    tokio::join!(pair.use_up(&proof, &served), ending);
    assert_eq!(served.load(Ordering::SeqCst), USES, "over the end of one of the two");
    assert_eq!(pair.upstream.seen().len(), 5 * USES, "the upstream served no more");

    let earned = PRICE * 5;
    let store = pair.store();
    let sums = async || {
        let sweeps = store.sweeps(Some(SweepState::Confirmed), None, 1000).await.unwrap();
        let sum = |actions: &[Action]| {
            let moved = sweeps.iter().filter(|it| actions.contains(&it.block.action));
            moved.map(|it| it.block.amount.get()).sum::<u128>()
        };
        (sum(&[Action::Open, Action::Receive]), sum(&[Action::Send]))
    };
    eventually("all is swept", async || sums().await == (earned, earned)).await;
    program::end(pair.running[1].take().unwrap()).await;
    let payments = store.scan(0, Filter::default(), 100).await.unwrap();
    assert_eq!(payments.len(), 5);
    assert!(payments.iter().all(|it| it.state == PaymentState::Granted), "{payments:?}");
    let found = store.inspect().await.unwrap();
    assert!(found.faults.is_empty(), "{:?}", found.faults);
    // Each payment was received once, all that was received was sent on once, and nothing was planned in vain.
    let sweeps = store.sweeps(None, None, 1000).await.unwrap();
    assert!(sweeps.iter().all(|it| it.state == SweepState::Confirmed), "{sweeps:?}");
    assert_eq!(sums().await, (earned, earned));
    let received: BTreeSet<BlockHash> = sweeps
        .iter()
        .filter(|it| it.block.action != Action::Send)
        .map(|it| BlockHash(it.block.link))
        .collect();
    assert_eq!(received, payments.iter().map(|it| it.intent.block).collect());
    assert_eq!(pair.devnet.lattice().receivable_sum(TREASURY, true).get(), earned, "to the raw");
    store.close().await;
    pair.devnet.stop().await;
}

/// Another's recovery finds the payment in the journal before its block is on the ledger, and sets it aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_one_process_is_about_to_broadcast_survives_the_start_of_another() {
    let mut pair = Pair::set_up().await;
    pair.run(0, Some("payment-claimed=1*sleep(5000)")).await;
    let key = Seed::from_bytes([0x6b; 32]).key(0);
    pair.devnet.fund(key.account(), PLENTY).unwrap();
    pair.devnet.receive_all(&key).unwrap();
    let proof = pair.pay(&key, false).await;
    let (http, url) = (pair.http.clone(), pair.programs[0].url.clone());
    let shown = proof.clone();
    let asking = tokio::spawn(async move {
        loop {
            match program::get(&http, &url, Some(&shown)).await {
                Some((StatusCode::SERVICE_UNAVAILABLE, _)) | None => {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                Some((status, _)) => return status,
            }
        }
    });
    let store = pair.store();
    let states = async || {
        let payments = store.scan(0, Filter::default(), 10).await.unwrap();
        payments.iter().map(|it| it.state).collect::<Vec<_>>()
    };
    eventually("it is claimed", async || states().await == [PaymentState::Intent]).await;
    pair.run(1, None).await;
    eventually("the other has looked", async || states().await != [PaymentState::Intent]).await;
    let status = within(Duration::from_secs(60), "the payer is served", asking).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    assert_eq!(states().await, [PaymentState::Granted]);
    let served = Arc::new(AtomicUsize::new(1));
    pair.use_up(&proof, &served).await;
    assert_eq!((served.load(Ordering::SeqCst), pair.upstream.seen().len()), (USES, USES));
    assert_eq!(states().await, [PaymentState::Granted]);
    store.close().await;
    for running in pair.running.iter_mut().filter_map(Option::take) {
        program::end(running).await;
    }
    pair.devnet.stop().await;
}
