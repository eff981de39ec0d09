//! The real program, killed with SIGKILL again and again under payers, then everybody's books held
//! against each other to the raw. More rounds: `KILL_ROUNDS=200 cargo test --release kills`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use faregate::devnet::{Devnet, DevnetOptions};
use faregate::nano::{BlockHash, Raw, SecretKey, Seed};
use faregate::store::{Filter, PaymentJournal, PaymentRecord, PaymentState, SqliteOptions, SqliteStore};
use faregate::x402::{PaymentProof, encode_header};
use reqwest::{Client, StatusCode};
use tempfile::TempDir;

use crate::patience::{eventually, within};
use crate::program::{self, PRICE, Program};
use crate::rig::{PLENTY, signature};
use crate::scripted::{Reply, Scripted};

const ROUNDS: u32 = 6;
const PAYERS: u32 = 6;
/// Uses that one payment buys on the route.
const USES: u32 = 3;

/// What one payer bought: by payment, how often it was served.
type Bought = BTreeMap<BlockHash, u32>;

struct Shop {
    url: String,
    devnet: Arc<Devnet>,
    http: Client,
    closing: AtomicBool,
    /// Payments that were answered with what they bought at least once.
    redeemed: AtomicU32,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_killed_loses_and_doubles_no_payment() {
    #[expect(clippy::disallowed_methods, reason = "a test's own argument")]
    let rounds = std::env::var("KILL_ROUNDS").map_or(ROUNDS, |it| it.parse().expect("KILL_ROUNDS"));
    let options = DevnetOptions { confirm_after: Duration::from_millis(60), ..DevnetOptions::default() };
    let devnet = Arc::new(Devnet::start(options).await.unwrap());
    let upstream = Scripted::start(|_| Reply::text(200, "served")).await;
    let folder = TempDir::new().unwrap();
    let program = Program::new(folder.path(), &devnet, &upstream.url.origin().ascii_serialization(), USES);
    let (url, http) = (program.url.clone(), program::client());
    let shop =
        Arc::new(Shop { url, devnet, http, closing: AtomicBool::new(false), redeemed: AtomicU32::new(0) });

    let mut gateway = program.start(None);
    let payers: Vec<_> = (0..PAYERS)
        .map(|index| {
            let key = Seed::from_bytes([0x6b; 32]).key(index);
            shop.devnet.fund(key.account(), PLENTY).unwrap();
            shop.devnet.receive_all(&key).unwrap();
            tokio::spawn(pay(Arc::clone(&shop), key, index % 2 == 0))
        })
        .collect();
    for round in 0..rounds {
        // However slow the machine is, something is bought between two kills.
        eventually("something is bought", || async { shop.redeemed.load(Ordering::SeqCst) > round }).await;
        // Long enough to be in the middle of things, at another point each time.
        tokio::time::sleep(Duration::from_millis(150 + u64::from(round) * 37 % 400)).await;
        gateway.kill().await.unwrap();
        gateway = program.start(None);
    }
    shop.closing.store(true, Ordering::SeqCst);
    let mut bought = Bought::new();
    for payer in payers {
        bought.extend(
            within(Duration::from_secs(60), "every payer is served in the end", payer).await.unwrap(),
        );
    }
    program::end(gateway).await;
    compare(&shop.devnet, folder.path(), &bought, rounds).await;
}

/// Buys one thing after the other until the shop closes, and uses each up. A lost connection or a
/// "not yet" is answered with the same proof; a second bill is the end of the test.
async fn pay(shop: Arc<Shop>, key: SecretKey, by_signature: bool) -> Bought {
    let mut bought = Bought::new();
    while !shop.closing.load(Ordering::SeqCst) {
        let offers = loop {
            match program::get(&shop.http, &shop.url, None).await {
                Some((StatusCode::PAYMENT_REQUIRED, Some(bill))) => break bill,
                Some((status, _)) => assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE),
                None => {}
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let offer = &offers.offers[usize::from(by_signature)];
        let block = shop.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
        let proof = if by_signature {
            shop.devnet.process(block).unwrap();
            signature(&key, &block, offer)
        } else {
            encode_header(&offer.answer(&PaymentProof::NanoTxn { block }))
        };
        let mut served = 0;
        while served < USES {
            match program::get(&shop.http, &shop.url, Some(&proof)).await {
                Some((StatusCode::OK, _)) => {
                    served += 1;
                    if served == 1 {
                        shop.redeemed.fetch_add(1, Ordering::SeqCst);
                    }
                }
                Some((StatusCode::SERVICE_UNAVAILABLE, _)) | None => {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                Some((status, bill)) => {
                    let why = bill.and_then(|it| it.error);
                    panic!("{} was served {served} times, then {status} {why:?}", block.hash());
                }
            }
        }
        bought.insert(block.hash(), served);
    }
    bought
}

/// Clients, journal and ledger say the same.
async fn compare(devnet: &Devnet, folder: &Path, bought: &Bought, rounds: u32) {
    let store = SqliteStore::open(&folder.join("faregate.db"), SqliteOptions::default()).unwrap();
    let journal = store.scan(0, Filter::default(), 1_000_000).await.unwrap();
    let granted: BTreeMap<BlockHash, Raw> = journal
        .iter()
        .filter(|it| it.state == PaymentState::Granted)
        .map(|it| (it.intent.block, it.intent.amount))
        .collect();
    assert_eq!(
        granted.keys().collect::<Vec<_>>(),
        bought.keys().collect::<Vec<_>>(),
        "what clients bought is what the journal granted"
    );
    let settled = journal.iter().filter(|it| it.state == PaymentState::Granted).count();
    assert_eq!(settled, granted.len(), "a block is granted once");
    assert!(journal.iter().all(|it| it.state == PaymentState::Granted), "nothing is left unfinished");
    let earned: u128 = journal.iter().map(|payment| receivable(devnet, payment)).sum();
    let spent: u128 = (0..PAYERS)
        .map(|index| Seed::from_bytes([0x6b; 32]).key(index).account())
        .map(|account| PLENTY.get() - devnet.lattice().balance(account).get())
        .sum();
    assert_eq!((spent, earned), (PRICE * bought.len() as u128, spent), "to the raw");
    assert!(bought.len() as u32 >= rounds, "hardly anything was bought: {}", bought.len());
    store.close().await;
    #[expect(clippy::print_stdout, reason = "the figures of a longer run")]
    let () = println!("{rounds} kills, {} payments, {spent} raw, none lost, none doubled", bought.len());
}

/// What the ledger has for the pool from a payment's block, which must be confirmed.
fn receivable(devnet: &Devnet, payment: &PaymentRecord) -> u128 {
    let ledger = devnet.lattice();
    assert!(ledger.is_confirmed(payment.intent.block));
    let found = ledger.receivables(payment.intent.pay_to).find(|(hash, _)| *hash == payment.intent.block);
    found.expect("receivable").1.amount.get()
}
