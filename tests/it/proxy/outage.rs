//! What is still sold, and what is still served, while something that is needed is not there.

use faregate::devnet::{InjectedFault, Times, faults::ANY};

use super::{ROOMY, bought, requests, roomy};
use crate::patience::eventually;
use crate::rig::{PLENTY, capability, error, header};

#[tokio::test]
async fn without_a_node_nothing_is_sold_and_everything_bought_is_served() {
    let (rig, token) = roomy().await;
    rig.devnet.order(ANY, InjectedFault::Drop, Times::Always);
    eventually("no bill", || async { rig.get("/v1/search/x", &[]).await.status() == 503 }).await;
    let unpaid = rig.get("/v1/search/x", &[]).await;
    assert_eq!((unpaid.status().as_u16(), header(&unpaid, "cache-control")), (503, "no-store"));
    assert!(header(&unpaid, "retry-after").parse::<u32>().unwrap() > 0);
    assert!(unpaid.headers().get("payment-required").is_none());
    assert_eq!(error(unpaid).await, "no_node");
    let served = rig.get("/v1/search/x", &[("PAYMENT-CAPABILITY", &token)]).await;
    assert_eq!((served.status().as_u16(), capability(&served).1), (200, 998));
    assert_eq!(rig.get("/free/x", &[]).await.status(), 200);
    assert!(requests(&rig, "roomy", "unavailable") >= 2);
    let refused = rig.get("/v1/search/x", &[("PAYMENT-CAPABILITY", "bm9uZQ")]).await;
    assert_eq!(refused.status(), 503, "no bill for a bad capability either");

    rig.devnet.faults().clear();
    eventually("bills again", || async { rig.get("/v1/search/x", &[]).await.status() == 402 }).await;
    assert_eq!(rig.pay(&rig.payer(2, PLENTY), "/once/x").await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn without_a_store_nothing_is_sold_and_everything_bought_is_served() {
    let (rig, token) = roomy().await;
    // A store that is closed takes no writes, as one on a full disk takes none.
    rig.services.store().close().await;
    let unpaid = rig.get("/once/x", &[]).await;
    assert!(header(&unpaid, "retry-after").parse::<u32>().unwrap() > 0);
    assert_eq!((unpaid.status().as_u16(), error(unpaid).await.as_str()), (503, "no_store"));
    let served = rig.get("/v1/search/x", &[("PAYMENT-CAPABILITY", &token)]).await;
    assert_eq!((served.status().as_u16(), capability(&served).1), (200, 998));
    assert_eq!(rig.get("/free/x", &[]).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn an_upstream_that_is_down_does_not_stop_bills_for_others() {
    let dead = crate::scripted::nobody();
    let more = format!("  dead: {{ url: \"{}\" }}\n", dead.url);
    let routes = format!("{ROOMY}\n  - {{ match: \"/dead\", upstream: dead, price: 1 raw }}\n");
    let rig = crate::rig::Rig::with(crate::rig::Plan { more, routes, ..crate::rig::Plan::default() }).await;
    assert_eq!(error(rig.get("/dead", &[]).await).await, "upstream_down");
    let token = bought(&rig, "/v1/search/x").await;
    assert_eq!(rig.get("/v1/search/y", &[("PAYMENT-CAPABILITY", &token)]).await.status(), 200);
    rig.end().await;
}
