//! Log lines that would repeat: what goes wrong with every payment and every look is said once, and so is its end.

use faregate::devnet::faults::ANY;
use faregate::devnet::{InjectedFault, Times};

use crate::logs::Logs;
use crate::patience::eventually;
use crate::rig::{PLENTY, Rig};

/// Regression: one payment before a slow node wrote 995 warnings.
#[tokio::test]
async fn a_payment_before_a_node_that_is_away_is_complained_about_once() {
    let logs = Logs::keep();
    let rig = Rig::with(crate::attacks::unhurried()).await;
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill("/paid").await;
    let (proof, block) = rig.txn(&key, &offer);
    assert_eq!(rig.get("/paid", &[("PAYMENT-SIGNATURE", &proof)]).await.status(), 503);
    rig.has_broadcast(block.hash()).await;
    let count = |what: &str| logs.text().matches(what).count();
    rig.devnet.order(ANY, InjectedFault::Drop, Times::Always);
    eventually("a look fails", async || count("confirmation not seen") > 0).await;
    eventually("the node is away", async || count("a node does not answer") > 0).await;
    // The breaker lets a call through now and then; the settlement looks four times a second.
    let before = rig.devnet.faults().calls("block_count");
    eventually("it is tried again", async || rig.devnet.faults().calls("block_count") >= before + 2).await;
    assert_eq!((count("confirmation not seen"), count("a node does not answer")), (1, 1), "{}", logs.text());
    rig.devnet.faults().clear();
    assert!(rig.devnet.confirm_now(block.hash()));
    eventually("it is settled", async || count("payment granted") == 1).await;
    eventually("its return is said", async || count("a node answers again") == 1).await;
    eventually("the end is said", async || count("confirmations are looked at again") == 1).await;
    rig.end().await;
}
