//! A gateway whose disk fills up under it: nothing is sold any more, what was bought is served, a
//! payment in flight is granted once there is room, without a restart.

mod postgres;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use faregate::devnet::DevnetOptions;
use faregate::nano::{BlockHash, SecretKey};
use faregate::store::{Filter, PaymentJournal, PaymentState};

use crate::patience::eventually;
use crate::power_cut::Mounted;
use crate::rig::{PLENTY, Plan, Rig, capability, error, header};

const ROUTES: &str = r#"
  - { name: many, match: "/many", upstream: api, price: 7 raw, grants: { requests: 1000, within: 1h } }
  - { name: once, match: "/once", upstream: api, price: 5 raw }
"#;

/// Takes all the room there is with the file `name`; its path.
fn fill(directory: &Path, name: &str) -> PathBuf {
    let path = directory.join(name);
    let mut file = File::create(&path).unwrap();
    for size in [1 << 16, 1 << 10, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    path
}

/// A block for one payment, and the proof of it.
async fn in_flight(rig: &Rig, key: &SecretKey) -> (BlockHash, String) {
    let [offer, _] = rig.bill("/once").await;
    let (proof, block) = rig.txn(key, &offer);
    (block.hash(), proof)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_sales_and_loses_nothing() {
    let Some(disk) = Mounted::tmpfs("12m", "a_full_disk_stops_sales_and_loses_nothing") else { return };
    let more =
        format!("store: {{ path: \"{}\", free_space: 4 KiB }}\n", disk.path().join("faregate.db").display());
    let devnet = DevnetOptions { confirm_after: Duration::from_secs(3600), ..DevnetOptions::default() };
    let rig = Rig::with(Plan { routes: ROUTES.to_owned(), more, devnet, ..Plan::default() }).await;
    let payers = [1, 2, 3].map(|index| {
        let key = rig.payer(index, PLENTY);
        let received = rig.devnet.lattice().frontier(key.account()).unwrap();
        assert!(rig.devnet.confirm_now(received));
        key
    });
    // Bought while there was room.
    let [offer, _] = rig.bill("/many").await;
    let (proof, block) = rig.txn(&payers[0], &offer);
    let paid = [("PAYMENT-SIGNATURE", proof.as_str())];
    let (bought, ()) = tokio::join!(rig.get("/many", &paid), rig.confirm(block.hash()));
    assert_eq!(bought.status(), 200);
    let (token, left) = capability(&bought);
    assert_eq!(left, 999);

    // Two payments that are claimed and broadcast when the room runs out.
    let (first, first_proof) = in_flight(&rig, &payers[1]).await;
    let (second, second_proof) = in_flight(&rig, &payers[2]).await;
    let paid = [("PAYMENT-SIGNATURE", second_proof.as_str())];
    let first_paid = [("PAYMENT-SIGNATURE", first_proof.as_str())];
    let (kept, waiting, fillers) =
        tokio::join!(rig.get("/once", &first_paid), rig.get("/once", &paid), async {
            for hash in [first, second] {
                rig.has_broadcast(hash).await;
            }
            let one = fill(disk.path(), "filler");
            assert!(rig.devnet.confirm_now(first));
            let granted = || async {
                let payment = rig.services.store().payment(first).await.unwrap();
                payment.is_some_and(|it| it.state == PaymentState::Granted)
            };
            eventually("granted in the ballast's room", granted).await;
            let other = fill(disk.path(), "another");
            assert!(rig.devnet.confirm_now(second));
            [one, other]
        });
    assert_eq!(kept.status(), 200, "what is under way is finished in the ballast's room");
    assert!(header(&waiting, "retry-after").parse::<u32>().unwrap() > 0);
    assert_eq!((waiting.status().as_u16(), error(waiting).await.as_str()), (503, "settlement_pending"));

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

    for filler in fillers {
        std::fs::remove_file(filler).unwrap();
    }
    eventually("bills again", || async { rig.get("/once", &[]).await.status() == 402 }).await;
    let granted = rig.get("/once", &paid).await;
    assert_eq!(granted.status(), 200);
    let served = rig.get("/many", &[("PAYMENT-CAPABILITY", &token)]).await;
    assert_eq!((served.status().as_u16(), capability(&served).1), (200, left - 21));
    everything_is_there(&rig, [block.hash(), first, second]).await;
    // What was served while nothing could be written is reported with the rest.
    let rig = rig.restart(crate::rig::Ending::Orderly).await;
    let served = rig.get("/many", &[("PAYMENT-CAPABILITY", &token)]).await;
    assert_eq!((served.status().as_u16(), capability(&served).1), (200, left - 22));
    rig.end().await;
}

async fn everything_is_there(rig: &Rig, bought: [BlockHash; 3]) {
    let journal = rig.services.store().scan(0, Filter::default(), 10).await.unwrap();
    let granted: BTreeSet<_> =
        journal.iter().filter(|it| it.state == PaymentState::Granted).map(|it| it.intent.block).collect();
    assert_eq!((journal.len(), granted), (bought.len(), BTreeSet::from(bought)));
}
