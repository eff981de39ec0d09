//! The real program, ended at each of the points between a proof and its access, then started again
//! on the same files: the same proof must bring exactly what was paid for, never a second bill.
//!
//! `FAILPOINTS=payment-claimed=return` ends a program that was built for tests at that very point,
//! at once and without a last word, as `kill -9` would. The names stand in the sources.

mod identified;

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use faregate::devnet::{Devnet, DevnetOptions};
use faregate::nano::{SecretKey, Seed, StateBlock};
use faregate::payment::Mechanism;
use faregate::store::{Filter, PaymentJournal, PaymentState, SqliteOptions, SqliteStore};
use faregate::x402::{NanoOffer, PaymentProof, encode_header};
use futures_util::future::join_all;
use reqwest::{Client, StatusCode};
use tempfile::TempDir;
use tokio::process::Child;

use crate::patience::{eventually, soon, within};
use crate::program::{self, PRICE, Program};
use crate::rig::{PLENTY, signature};
use crate::scripted::{Reply, Scripted};

/// Uses that one payment buys.
const USES: u32 = 2;
/// What a process says that ended itself at a failpoint.
const SIGABRT: i32 = 6;
/// Longer than any test: such a block is confirmed when the test says so.
const NEVER: Duration = Duration::from_secs(3600);

/// A crash: where, and what must be durable then.
struct Crash {
    at: &'static str,
    mechanism: Mechanism,
    confirms: Confirms,
    /// The journal's word on the payment after the crash.
    journal: Option<PaymentState>,
    /// Whether the payment's block is on the ledger then.
    published: bool,
    /// Uses that may be served beyond those bought: what was in flight.
    forgiven: u32,
    /// How the route counts uses.
    metering: &'static str,
    /// Uses that are counted and whose answer never came: what was in flight where each use is recorded
    /// before its answer leaves.
    lost: u32,
    /// The client's own id for the payment.
    id: Option<&'static str>,
}

/// When the payment's block is confirmed.
#[derive(Clone, Copy, PartialEq)]
enum Confirms {
    AtOnce,
    /// Once the program has crashed and was started again.
    Afterwards,
}

/// One program, one payer, one payment.
struct Scene {
    devnet: Devnet,
    upstream: Scripted,
    folder: TempDir,
    program: Program,
    http: Client,
    key: SecretKey,
    block: StateBlock,
    proof: String,
}

impl Scene {
    /// Starts everything and gets as far as a proof in the payer's hand. `unanswered` requests reach the
    /// upstream and are not answered by it.
    async fn set(crash: &Crash, unanswered: usize) -> (Self, Child) {
        let confirm_after = if crash.confirms == Confirms::AtOnce { Duration::ZERO } else { NEVER };
        let devnet =
            Devnet::start(DevnetOptions { confirm_after, ..DevnetOptions::default() }).await.unwrap();
        let key = Seed::from_bytes([0x6c; 32]).key(1);
        devnet.fund(key.account(), PLENTY).unwrap();
        for hash in devnet.receive_all(&key).unwrap() {
            assert!(devnet.confirm_now(hash));
        }
        let left = Arc::new(AtomicUsize::new(unanswered));
        let served = AtomicUsize::new(0);
        let upstream = Scripted::start(move |_| {
            let hangs = left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |it| it.checked_sub(1)).is_ok();
            if hangs {
                Reply::Hang
            } else {
                Reply::text(200, &format!("served {}", served.fetch_add(1, Ordering::SeqCst)))
            }
        })
        .await;
        let folder = TempDir::new().unwrap();
        let origin = upstream.url.origin().ascii_serialization();
        let program = Program::metering(folder.path(), &devnet, &origin, USES, crash.metering);
        let child = program.start(Some(&format!("{}=return", crash.at)));
        let http = program::client();
        let offer = offered(&http, &program, crash.mechanism).await;
        let block = devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
        if crash.mechanism == Mechanism::NanoSignature {
            devnet.process(block).unwrap();
        }
        let proof = match (crash.id, crash.mechanism) {
            (Some(id), _) => identified::proof(&key, &block, &offer, id),
            (None, Mechanism::NanoSignature) => signature(&key, &block, &offer),
            (None, _) => encode_header(&offer.answer(&PaymentProof::NanoTxn { block })),
        };
        (Self { devnet, upstream, folder, program, http, key, block, proof }, child)
    }

    fn database(&self) -> PathBuf {
        self.folder.path().join("faregate.db")
    }

    fn open(&self) -> SqliteStore {
        SqliteStore::open(&self.database(), SqliteOptions::default()).unwrap()
    }

    /// What is durable, while the program does not run.
    async fn check_what_is_durable(&self, crash: &Crash) {
        let store = self.open();
        let state = store.payment(self.block.hash()).await.unwrap().map(|it| it.state);
        assert_eq!(state, crash.journal, "{}: the journal", crash.at);
        store.close().await;
        let published = self.devnet.lattice().entry(self.block.hash()).is_some();
        assert_eq!(published, crash.published, "{}: the ledger", crash.at);
    }

    /// Sends the proof again until it is refused as used up; how often it was served. Any other
    /// refusal would be a second bill.
    async fn use_up(&self) -> u32 {
        let mut served = 0;
        loop {
            match program::get(&self.http, &self.program.url, Some(&self.proof)).await {
                Some((StatusCode::OK, _)) => served += 1,
                Some((StatusCode::SERVICE_UNAVAILABLE, _)) | None => pause().await,
                Some((StatusCode::PAYMENT_REQUIRED, Some(bill))) => {
                    assert_eq!(bill.error.as_deref(), Some("DUPLICATE_BLOCK_HASH"), "served {served} times");
                    return served;
                }
                other => panic!("served {served} times, then {other:?}"),
            }
        }
    }

    /// Journal, ledger and payer say the same: one payment, granted, to the raw.
    async fn compare_books(self, crash: &Crash) {
        let store = self.open();
        let journal = store.scan(0, Filter::default(), 10).await.unwrap();
        let [payment] = &journal[..] else { panic!("{}: {journal:?}", crash.at) };
        assert_eq!((payment.intent.block, payment.state), (self.block.hash(), PaymentState::Granted));
        assert_eq!(payment.intent.amount.get(), PRICE);
        store.close().await;
        let lattice = self.devnet.lattice();
        assert!(lattice.is_confirmed(self.block.hash()));
        assert_eq!(PLENTY.get() - lattice.balance(self.key.account()).get(), PRICE, "paid once");
        assert_eq!(lattice.receivable_sum(payment.intent.pay_to, true).get(), PRICE);
    }
}

/// What a program that has come up asks for by `mechanism`.
async fn offered(http: &Client, program: &Program, mechanism: Mechanism) -> NanoOffer {
    loop {
        match program::get(http, &program.url, None).await {
            Some((StatusCode::PAYMENT_REQUIRED, Some(bill))) => {
                return bill.offers[usize::from(mechanism == Mechanism::NanoSignature)].clone();
            }
            Some((StatusCode::SERVICE_UNAVAILABLE, _)) | None => pause().await,
            other => panic!("no bill: {other:?}"),
        }
    }
}

/// A client's patience between two tries.
async fn pause() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Sends the proof, which must be what ends the program; how often it was served nevertheless.
async fn provoke(scene: &Scene, mut child: Child) -> u32 {
    let answer = program::get(&scene.http, &scene.program.url, Some(&scene.proof)).await;
    let ended = soon("the program ends itself", child.wait()).await.unwrap();
    assert_eq!(ended.signal(), Some(SIGABRT), "{ended}, after {answer:?}");
    u32::from(matches!(answer, Some((StatusCode::OK, _))))
}

/// Plays one crash to its end. `found` runs after the restart, before the client tries again.
async fn play(crash: Crash, found: impl AsyncFnOnce(&Scene)) {
    let (scene, child) = Scene::set(&crash, 0).await;
    let served = provoke(&scene, child).await;
    scene.check_what_is_durable(&crash).await;
    let child = scene.program.start(None);
    if crash.confirms == Confirms::Afterwards {
        confirm(&scene).await;
    }
    found(&scene).await;
    finish(scene, child, &crash, served).await;
}

/// Uses the payment up, which was served `before` times, and compares everybody's books.
async fn finish(scene: Scene, child: Child, crash: &Crash, before: u32) {
    let used_up = format!("{}: the payment is used up", crash.at);
    let served = before + within(Duration::from_secs(40), &used_up, scene.use_up()).await;
    let promised = USES - crash.lost..=USES - crash.lost + crash.forgiven;
    assert!(promised.contains(&served), "{}: {USES} bought, {served} served", crash.at);
    program::end(child).await;
    scene.compare_books(crash).await;
}

/// Confirms the payment's block, once the ledger has it.
async fn confirm(scene: &Scene) {
    eventually("broadcast", || async { scene.devnet.confirm_now(scene.block.hash()) }).await;
}

async fn by_retry(_: &Scene) {}

/// The payment is granted without the client's doing.
async fn by_recovery(scene: &Scene) {
    let store = scene.open();
    eventually("granted by recovery", || async {
        let payment = store.payment(scene.block.hash()).await.unwrap();
        payment.is_some_and(|it| it.state == PaymentState::Granted)
    })
    .await;
    store.close().await;
}

/// A payment by a signed block, which has left no trace before the crash.
const BY_TXN: Crash = Crash {
    at: "",
    mechanism: Mechanism::NanoTxn,
    confirms: Confirms::AtOnce,
    journal: None,
    published: false,
    forgiven: 0,
    metering: "leased",
    lost: 0,
    id: None,
};

/// A payment that the client has sent itself: its block is on the ledger before the proof comes.
const BY_SIGNATURE: Crash = Crash { mechanism: Mechanism::NanoSignature, published: true, ..BY_TXN };

/// A crash after the grant, for each mechanism.
fn after_the_grant(at: &'static str) -> [Crash; 2] {
    let granted = Some(PaymentState::Granted);
    [
        Crash { at, journal: granted, published: true, ..BY_TXN },
        Crash { at, journal: granted, ..BY_SIGNATURE },
    ]
}

// The crash points of the money guide (`src/guide/money.md`): after the checks.

#[tokio::test]
async fn before_the_intent_nothing_has_moved() {
    play(Crash { at: "payment-checked", ..BY_TXN }, by_retry).await;
}

#[tokio::test]
async fn a_sent_block_is_redeemed_although_its_first_proof_left_no_trace() {
    let crash = Crash { at: "payment-checked", confirms: Confirms::Afterwards, ..BY_SIGNATURE };
    play(crash, by_retry).await;
}

// After the claim.

#[tokio::test]
async fn an_intent_that_was_not_broadcast_is_carried_out_for_the_client_who_comes_again() {
    play(Crash { at: "payment-claimed", journal: Some(PaymentState::Intent), ..BY_TXN }, by_retry).await;
}

#[tokio::test]
async fn a_noted_payment_is_granted_once_it_is_confirmed() {
    let confirms = Confirms::Afterwards;
    let crash =
        Crash { at: "payment-claimed", journal: Some(PaymentState::Intent), confirms, ..BY_SIGNATURE };
    play(crash, by_recovery).await;
}

// After the broadcast.

#[tokio::test]
async fn a_broadcast_without_an_answer_is_found_by_the_client_who_comes_again() {
    play(
        Crash { at: "payment-broadcast", journal: Some(PaymentState::Intent), published: true, ..BY_TXN },
        by_retry,
    )
    .await;
}

#[tokio::test]
async fn a_broadcast_without_an_answer_is_found_without_the_client() {
    let confirms = Confirms::Afterwards;
    let crash = Crash {
        at: "payment-broadcast",
        journal: Some(PaymentState::Intent),
        published: true,
        confirms,
        ..BY_TXN
    };
    play(crash, by_recovery).await;
}

// After the confirmation.

#[tokio::test]
async fn a_confirmed_payment_is_granted_at_the_next_start() {
    play(
        Crash { at: "payment-confirmed", journal: Some(PaymentState::Intent), published: true, ..BY_TXN },
        by_recovery,
    )
    .await;
}

#[tokio::test]
async fn a_confirmed_payment_is_granted_to_the_client_who_comes_again() {
    play(Crash { at: "payment-confirmed", ..BY_SIGNATURE }, by_retry).await;
}

// After the grant, a use and its answer. What the crashed program had leased comes back when its lease lapses, so these wait
// for that, together.

#[tokio::test]
async fn a_crash_after_the_grant_costs_the_payer_nothing_and_gives_away_what_was_in_flight() {
    let crashes = ["payment-granted", "use-held"].into_iter().flat_map(after_the_grant);
    let in_flight = ["use-answered", "use-committed"].into_iter().flat_map(|at| {
        // Row 7: the client may have the answer, the store does not know.
        after_the_grant(at).map(|it| Crash { forgiven: 1, ..it })
    });
    // Counted strictly, the two generals decide the other way: what was under way is served again
    // only where it was not counted, and never both.
    let strictly = [("use-to-be-recorded", 0), ("use-recorded", 1)]
        .into_iter()
        .flat_map(|(at, lost)| after_the_grant(at).map(|it| Crash { metering: "strict", lost, ..it }));
    let plays = crashes.chain(in_flight).chain(strictly).map(|it| play(it, by_retry));
    tokio::join!(join_all(plays), while_the_upstream_works());
}

/// Row 6, with SIGKILL: the upstream has the request, and may have done what it asks for.
async fn while_the_upstream_works() {
    let crash = Crash { at: "nowhere", journal: Some(PaymentState::Granted), published: true, ..BY_TXN };
    let (scene, mut child) = Scene::set(&crash, 1).await;
    let request = program::get(&scene.http, &scene.program.url, Some(&scene.proof));
    let reached = async {
        eventually("the upstream is asked", || async { !scene.upstream.seen().is_empty() }).await;
        child.kill().await.unwrap();
    };
    let (answer, ()) = tokio::join!(request, reached);
    assert!(answer.is_none(), "{answer:?}");
    scene.check_what_is_durable(&crash).await;
    let child = scene.program.start(None);
    finish(scene, child, &crash, 0).await;
}
