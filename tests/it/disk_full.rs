//! A gateway whose disk fills up under it: nothing is sold any more, what was bought is served, a
//! payment in flight is granted once there is room, without a restart.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use faregate::devnet::DevnetOptions;
use faregate::nano::{BlockHash, SecretKey};
use faregate::store::{Filter, PaymentState, SqliteStore, Store};

use crate::power_cut::Mounted;
use crate::rig::{PLENTY, Plan, Rig, capability, error, eventually, header};

const ROUTES: &str = r#"
  - { name: many, match: "/many", upstream: api, price: 7 raw, grants: { requests: 1000, within: 1h } }
  - { name: once, match: "/once", upstream: api, price: 5 raw }
"#;

/// Takes all the room there is; the file that has it.
fn fill(directory: &Path) -> PathBuf {
    let path = directory.join("ballast");
    let mut file = File::create(&path).unwrap();
    for size in [1 << 16, 1 << 10, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    path
}

/// A block that the ledger knows and has not confirmed, and the proof of it, on its way.
async fn in_flight(rig: &Rig, key: &SecretKey) -> (BlockHash, String) {
    let [offer, _] = rig.bill("/once").await;
    let (proof, block) = rig.txn(key, &offer);
    (block.hash(), proof)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_sales_and_loses_nothing() {
    let Some(disk) = Mounted::tmpfs("2m", "a_full_disk_stops_sales_and_loses_nothing") else { return };
    let more = format!("store: {{ path: \"{}\" }}\n", disk.path().join("faregate.db").display());
    let devnet = DevnetOptions { confirm_after: Duration::from_secs(3600), ..DevnetOptions::default() };
    let rig = Rig::with(Plan { routes: ROUTES.to_owned(), more, devnet, ..Plan::default() }).await;
    let payers = [1, 2].map(|index| {
        let key = rig.payer(index, PLENTY);
        let received = rig.devnet.lattice().frontier(key.account()).unwrap();
        assert!(rig.devnet.confirm_now(received));
        key
    });
    // Bought while there was room.
    let [offer, _] = rig.bill("/many").await;
    let (proof, block) = rig.txn(&payers[0], &offer);
    let bought = async {
        let paid = [("PAYMENT-SIGNATURE", proof.as_str())];
        let paying = rig.get("/many", &paid);
        let (answer, ()) = tokio::join!(paying, confirm_once_seen(&rig, block.hash()));
        answer
    };
    let bought = bought.await;
    assert_eq!(bought.status(), 200);
    let (token, left) = capability(&bought);
    assert_eq!(left, 999);

    // A payment that is claimed and broadcast when the room runs out.
    let (hash, proof) = in_flight(&rig, &payers[1]).await;
    let paid = [("PAYMENT-SIGNATURE", proof.as_str())];
    let (answer, ballast) = tokio::join!(rig.get("/once", &paid), async {
        eventually("broadcast", || async { rig.devnet.lattice().entry(hash).is_some() }).await;
        let ballast = fill(disk.path());
        assert!(rig.devnet.confirm_now(hash));
        ballast
    });
    assert!(header(&answer, "retry-after").parse::<u32>().unwrap() > 0);
    assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (503, "settlement_pending"));

    let unpaid = rig.get("/once", &[]).await;
    assert!(unpaid.headers().get("payment-required").is_none());
    assert_eq!((unpaid.status().as_u16(), error(unpaid).await.as_str()), (503, "no_store"));
    let mut last = left;
    for _ in 0..20 {
        let served = rig.get("/many", &[("PAYMENT-CAPABILITY", &token)]).await;
        assert_eq!(served.status(), 200);
        last = capability(&served).1;
    }
    assert_eq!(last, left - 20);
    let again = rig.get("/once", &paid).await;
    assert_eq!(again.status(), 503, "not yet, and never a second bill");

    std::fs::remove_file(ballast).unwrap();
    eventually("bills again", || async { rig.get("/once", &[]).await.status() == 402 }).await;
    let granted = rig.get("/once", &paid).await;
    assert_eq!(granted.status(), 200);
    let served = rig.get("/many", &[("PAYMENT-CAPABILITY", &token)]).await;
    assert_eq!((served.status().as_u16(), capability(&served).1), (200, left - 21));
    everything_is_there(&rig, &[block.hash(), hash]).await;
    // What was served while nothing could be written is reported with the rest.
    let rig = rig.restart(crate::rig::Ending::Orderly).await;
    let served = rig.get("/many", &[("PAYMENT-CAPABILITY", &token)]).await;
    assert_eq!((served.status().as_u16(), capability(&served).1), (200, left - 22));
    rig.end().await;
}

async fn confirm_once_seen(rig: &Rig, hash: BlockHash) {
    eventually("broadcast", || async { rig.devnet.confirm_now(hash) }).await;
}

async fn everything_is_there(rig: &Rig, bought: &[BlockHash]) {
    let store: &SqliteStore = rig.services.store();
    let journal = store.scan(0, Filter::default(), 10).await.unwrap();
    let granted: Vec<_> =
        journal.iter().filter(|it| it.state == PaymentState::Granted).map(|it| it.intent.block).collect();
    assert_eq!((granted.as_slice(), journal.len()), (bought, bought.len()));
}
