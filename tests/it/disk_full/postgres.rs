//! The same over a server whose tables have no room left: it has no ballast, so what is under way
//! waits; nothing is sold, nothing is lost, and no restart is needed.

use std::time::Duration;

use super::fill;
use crate::patience::eventually;
use crate::power_cut::Mounted;
use crate::rig::{PLENTY, Plan, Rig, error};
use crate::store::server::Site;

const ROUTES: &str = r#"
  - { name: once, match: "/once", upstream: api, price: 5 raw }
"#;

/// Payments for which the tables' last pages may have room at most.
const LAST_PAGES: usize = 200;

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_room_stops_sales_and_loses_nothing() {
    let test = "a_server_without_room_stops_sales_and_loses_nothing";
    let Some(site) = Site::new() else { return };
    let Some(disk) = Mounted::tmpfs("12m", test) else { return };
    let (data, tables) = (site.path().join("data"), disk.path().join("tables"));
    site.create(&data);
    site.own(&tables);
    let server = site.start(&data, 5432).await;
    server.run(&format!("CREATE TABLESPACE small LOCATION '{}'", tables.display())).await;
    let more = format!("store: {{ postgres: \"{}\" }}\n", server.address("-c default_tablespace=small"));
    let rig = Rig::with(Plan { routes: ROUTES.to_owned(), more, ..Plan::default() }).await;
    let key = rig.payer(1, PLENTY);
    assert_eq!(rig.pay(&key, "/once").await.status(), 200);

    let filler = fill(disk.path(), "filler");
    let mut waiting = None;
    for _ in 0..LAST_PAGES {
        let [offer, _] = rig.bill("/once").await;
        let (proof, _) = rig.txn(&key, &offer);
        let paid = rig.get("/once", &[("PAYMENT-SIGNATURE", &proof)]).await;
        if paid.status() != 200 {
            assert_eq!(paid.status(), 503, "not yet, and no second bill");
            waiting = Some(proof);
            break;
        }
    }
    let proof = waiting.expect("the tables find room without end");
    // As long as several looks of the store at its server.
    for _ in 0..35 {
        let unpaid = rig.get("/once", &[]).await;
        assert!(unpaid.headers().get("payment-required").is_none());
        assert_eq!((unpaid.status().as_u16(), error(unpaid).await.as_str()), (503, "no_store"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let again = rig.get("/once", &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(again.status(), 503);

    std::fs::remove_file(filler).unwrap();
    eventually("bills again", || async { rig.get("/once", &[]).await.status() == 402 }).await;
    let served = rig.get("/once", &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!(served.status(), 200);
    rig.end().await;
}
