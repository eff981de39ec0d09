//! What comes again: with the same proof, with another, at once, elsewhere, after a crash, after a
//! failure, too late.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use faregate::assemble;
use faregate::clock::Clock;
use faregate::devnet::{InjectedFault, Times};
use faregate::listen;
use faregate::nano::{Account, Raw, SecretKey, StateBlock, UnixSeconds};
use faregate::payment::IdentifierKey;
use faregate::store::{Answers, Begin, Claims, Forget, PaymentJournal, PaymentState};
use faregate::x402::PaymentProof;
use futures_util::future::join_all;
use pingora::server::configuration::ServerConf;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{
    Answered, ID, OTHER_ID, PROOF, ROUTES, balance, counting, proof_under_id, refused, rig_with, sent_proof,
    start, txn_proof, wait_until_kept,
};
use crate::patience::{eventually, soon};
use crate::rig::{Effects, Ending, PLENTY, Plan, Rig, error, manual_clock};
use crate::scripted::Reply;

#[tokio::test]
async fn the_same_proof_gets_the_same_answer_from_the_store() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn_proof(&rig, &key, "/opt/x?a=1", ID, 0).await;
    let first = rig.get("/opt/x?a=1", &[(PROOF, &proof)]).await;
    assert_eq!(first.headers()["set-cookie"], "session=secret");
    let first = Answered::read(first).await;
    let bought = Some(block.hash().to_string());
    let body = "answer 1 to GET /opt/x?a=1 with 0 bytes".to_owned();
    assert_eq!(first, Answered { status: 201, replayed: false, block: bought, body });
    let asked = || ["account_info", "block_info", "blocks_info"].map(|it| rig.devnet.faults().calls(it));
    let before = asked();
    for _ in 0..3 {
        let again = rig.get("/opt/x?a=1", &[(PROOF, &proof)]).await;
        let headers = again.headers().clone();
        assert_eq!(
            (&headers["x-tag"], &headers["content-type"]),
            (&"kept".parse().unwrap(), &"text/plain".parse().unwrap())
        );
        assert_eq!(headers["cache-control"], "private");
        assert!(!headers.contains_key("set-cookie"), "a login is not kept");
        assert_eq!(Answered::read(again).await, first.as_replayed());
    }
    assert_eq!(asked(), before, "the journal knows whose it is");
    assert_eq!(rig.effects(), Effects { forwarded: 1, broadcast: 1 });
    rig.end().await;
}

#[tokio::test]
async fn another_proof_is_not_settled_and_gets_the_same_answer() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (proof, _) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    let first = Answered::read(rig.get("/opt/x", &[(PROOF, &proof)]).await).await;
    let left = balance(&rig, &key);
    // As the official wrappers do after a lost answer: a new payment on the new frontier.
    let (second, block) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    let grants = || crate::metrics::sample(&rig, "store_duration_seconds_count{operation=\"grant\"}");
    let before = grants();
    assert_eq!(Answered::read(rig.get("/opt/x", &[(PROOF, &second)]).await).await, first.as_replayed());
    assert_eq!(grants(), before, "it is in hand what the first one bought");
    assert!(rig.services.store().payment(block.hash()).await.unwrap().is_none());
    assert_eq!(rig.effects(), Effects { forwarded: 1, broadcast: 1 });
    assert_eq!(balance(&rig, &key), left);
    // What was sent already stays the payer's, for another id.
    let (third, block) = sent_proof(&rig, &key, "/opt/x", ID).await;
    assert_eq!(Answered::read(rig.ask_until_decided("/opt/x", &third).await).await, first.as_replayed());
    assert!(rig.services.store().payment(block.hash()).await.unwrap().is_none(), "it is not spent");
    rig.end().await;
}

#[tokio::test]
async fn a_proof_that_comes_late_is_not_asked_to_pay_for_what_is_bought() {
    let (clock, seconds) = manual_clock();
    let routes = ROUTES.to_owned();
    let rig = Rig::with(Plan { routes, clock, answer: Box::new(counting()), ..Plan::default() }).await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    let first = Answered::read(rig.get("/opt/x", &[(PROOF, &proof)]).await).await;
    wait_until_kept(&rig, &block).await;
    let (second, _) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    let (third, _) = sent_proof(&rig, &key, "/opt/x", ID).await;
    let (stranger, _) = txn_proof(&rig, &key, "/opt/x", OTHER_ID, 0).await;
    seconds.fetch_add(600, Ordering::SeqCst);
    for late in [&proof, &second, &third] {
        assert_eq!(Answered::read(rig.get("/opt/x", &[(PROOF, late)]).await).await, first.as_replayed());
    }
    refused(&rig, "/opt/x", &stranger, 402, "PAYMENT_EXPIRED").await;
    rig.end().await;
}

/// The background task must forget an answer after `keep_answers` and the id after `keep`. If it forgets
/// both at once, the id is free while the client may still retry, and the retry pays again.
#[tokio::test]
async fn the_background_task_forgets_an_id_later_than_its_answer() {
    let (clock, seconds) = manual_clock();
    let (routes, answer) = (ROUTES.to_owned(), Box::new(counting()));
    let more = "payment_identifiers: { keep: 2h, keep_answers: 1h }\n".to_owned();
    let mut rig = Rig::with(Plan { routes, more, clock, answer, ..Plan::default() }).await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    let first = Answered::read(rig.get("/opt/x", &[(PROOF, &proof)]).await).await;
    wait_until_kept(&rig, &block).await;
    let id = IdentifierKey::of(ID);
    // The task looks as soon as a gateway starts.
    for (passed, answer_is_kept, id_is_held) in
        [(3_599, true, true), (1, false, true), (3_599, false, true), (1, false, false)]
    {
        seconds.fetch_add(passed, Ordering::SeqCst);
        rig = rig.restart(Ending::Orderly).await;
        let state = async || {
            let store = rig.services.store();
            let answer = store.kept(block.hash()).await.unwrap();
            let holder = store.identified(id).await.unwrap();
            (answer.is_some_and(|it| it.body.is_some()), holder.is_some())
        };
        if passed > 1 {
            // Nothing may change here. A wrong change gets time to show.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            assert_eq!(state().await, (answer_is_kept, id_is_held));
        }
        eventually("as the configuration says", async || state().await == (answer_is_kept, id_is_held)).await;
        if answer_is_kept {
            assert_eq!(
                Answered::read(rig.get("/opt/x", &[(PROOF, &proof)]).await).await,
                first.as_replayed()
            );
        } else if id_is_held {
            refused(&rig, "/opt/x", &proof, 410, "answer_not_kept").await;
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn a_second_send_is_redeemed_under_an_id_of_its_own() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (first, _) = sent_proof(&rig, &key, "/opt/x", ID).await;
    let first = Answered::read(rig.ask_until_decided("/opt/x", &first).await).await;
    let [_, offer] = rig.bill("/opt/x").await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(block).unwrap();
    let same = super::signature_proof(&key, &block, &offer, ID);
    assert_eq!(Answered::read(rig.ask_until_decided("/opt/x", &same).await).await, first.as_replayed());
    let own = super::signature_proof(&key, &block, &offer, OTHER_ID);
    let second = Answered::read(rig.ask_until_decided("/opt/x", &own).await).await;
    assert_eq!((second.replayed, second.block), (false, Some(block.hash().to_string())));
    assert_eq!(rig.upstream.seen().len(), 2);
    rig.end().await;
}

#[tokio::test]
async fn sixty_four_proofs_at_once_are_one_payment() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let before = balance(&rig, &key);
    let mut proofs = Vec::new();
    for salt in 1..=64 {
        proofs.push(txn_proof(&rig, &key, "/opt/x", ID, salt).await.0);
    }
    let answers = join_all(
        proofs.iter().map(async |proof| Answered::read(rig.ask_until_decided("/opt/x", proof).await).await),
    )
    .await;
    assert_eq!(answers.iter().filter(|it| !it.replayed).count(), 1, "{answers:?}");
    let first = answers.iter().find(|it| !it.replayed).unwrap();
    assert!(answers.iter().all(|it| it.as_replayed() == first.as_replayed()), "{answers:?}");
    assert_eq!(rig.effects(), Effects { forwarded: 1, broadcast: 1 });
    let price = 10_u128.pow(27);
    assert_eq!(before.get() - balance(&rig, &key).get(), price, "one payment is on the ledger");
    rig.end().await;
}

#[tokio::test]
async fn copies_at_once_of_many_uses_take_one() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn_proof(&rig, &key, "/many/x", ID, 0).await;
    let answers =
        join_all((0..16).map(async |_| Answered::read(rig.ask_until_decided("/many/x", &proof).await).await))
            .await;
    assert_eq!(answers.iter().filter(|it| !it.replayed).count(), 1, "{answers:?}");
    let bodies: std::collections::BTreeSet<_> = answers.iter().map(|it| &it.body).collect();
    assert_eq!(bodies.len(), 1);
    wait_until_kept(&rig, &block).await;
    assert_eq!(rig.upstream.seen().len(), 1);
    rig.end().await;
}

/// Each waits for the answer to the one before, or each would take a use of what the first one bought.
#[tokio::test]
async fn proofs_at_once_of_one_payer_and_id_take_one_use_of_many() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let mut proofs = Vec::new();
    for salt in 0..8 {
        proofs.push(txn_proof(&rig, &key, "/many/x", ID, salt).await.0);
    }
    let ask = async |proof: &String| Answered::read(rig.ask_until_decided("/many/x", proof).await).await;
    let answers = join_all(proofs.iter().map(ask)).await;
    assert_eq!(answers.iter().filter(|it| !it.replayed).count(), 1, "{answers:?}");
    assert_eq!(rig.effects(), Effects { forwarded: 1, broadcast: 1 });
    rig.end().await;
}

#[tokio::test]
async fn an_answer_outlives_a_kill_and_is_given_by_another_instance() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    let first = Answered::read(rig.get("/opt/x", &[(PROOF, &proof)]).await).await;
    wait_until_kept(&rig, &block).await;
    let twin = assemble::assemble(rig.config("", ROUTES), Clock::system()).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/opt/x", listener.local_addr().unwrap());
    let proxy = pingora::proxy::http_proxy(&Arc::new(ServerConf::default()), twin.gateway());
    let (stop, shutdown) = watch::channel(false);
    let serving = tokio::spawn(listen::serve(listener, Arc::new(proxy), shutdown));
    let (second, _) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    for shown in [&proof, &second] {
        let there = rig.http.get(&url).header(PROOF, shown).send().await.unwrap();
        assert_eq!(Answered::read(there).await, first.as_replayed());
    }
    stop.send_replace(true);
    soon("the twin ends", serving).await.unwrap();
    twin.stop().await;
    let rig = rig.restart(Ending::Abrupt).await;
    assert_eq!(Answered::read(rig.get("/opt/x", &[(PROOF, &proof)]).await).await, first.as_replayed());
    let (third, _) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    assert_eq!(Answered::read(rig.get("/opt/x", &[(PROOF, &third)]).await).await, first.as_replayed());
    assert_eq!(rig.effects(), Effects { forwarded: 1, broadcast: 1 });
    rig.end().await;
}

/// Journals what an instance journals that is killed before it broadcasts.
async fn journalled(rig: &Rig, key: &SecretKey, salt: u8) -> StateBlock {
    let [offer, _] = rig.bill("/opt/x").await;
    let block = super::salted(rig.devnet.send_block(key, offer.pay_to, offer.amount).unwrap(), key, salt);
    let intent = super::intent(&offer, block, ("opt", "/opt/x"));
    let begun = rig.services.store().begin(&intent, Clock::system().now()).await.unwrap();
    assert!(matches!(begun, Begin::Fresh(_)), "{begun:?}");
    block
}

#[tokio::test]
async fn a_payment_cut_off_before_its_broadcast_is_finished_for_another_proof() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let first = journalled(&rig, &key, 1).await;
    let (second, block) = txn_proof(&rig, &key, "/opt/x", ID, 2).await;
    let answer = Answered::read(rig.ask_until_decided("/opt/x", &second).await).await;
    assert_eq!((answer.status, answer.block), (201, Some(first.hash().to_string())));
    assert!(rig.services.store().payment(block.hash()).await.unwrap().is_none());
    assert_eq!(rig.effects(), Effects { forwarded: 1, broadcast: 1 });
    rig.end().await;
}

/// A balancer sends a retry to another instance, which is quicker.
#[tokio::test]
async fn a_proof_that_another_instance_forestalls_gets_what_that_one_bought() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (second, block) = txn_proof(&rig, &key, "/opt/x", ID, 2).await;
    let asked = rig.devnet.faults().calls("account_info");
    rig.devnet.order("account_info", InjectedFault::Hold, Times::ONCE);
    let request = rig.http.get(format!("{}/opt/x", rig.url)).header(PROOF, &second);
    let answering = tokio::spawn(async move { request.send().await.unwrap() });
    soon("its account is looked up", rig.devnet.faults().called("account_info", asked + 1)).await;
    let first = journalled(&rig, &key, 1).await;
    rig.devnet.faults().clear();
    let answer = Answered::read(answering.await.unwrap()).await;
    assert_eq!((answer.status, answer.block), (201, Some(first.hash().to_string())), "{}", answer.body);
    assert!(rig.services.store().payment(block.hash()).await.unwrap().is_none());
    assert_eq!(rig.effects(), Effects { forwarded: 1, broadcast: 1 });
    rig.end().await;
}

#[tokio::test]
async fn a_payment_under_an_id_that_nodes_refuse_is_tried_once() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (proof, _) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    rig.devnet.order("process", InjectedFault::Refuse("Gap previous block".to_owned()), Times::Always);
    let answer = rig.get("/opt/x", &[(PROOF, &proof)]).await;
    assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (402, "BROADCAST_FAILED"));
    assert_eq!(rig.effects(), Effects { forwarded: 0, broadcast: 1 });
    rig.end().await;
}

#[tokio::test]
async fn a_block_that_nobody_knew_and_that_came_back_is_the_ids_payment_after_all() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let before = balance(&rig, &key);
    // No node knew the first, so it was parked, and a second on its frontier had the id.
    let first = journalled(&rig, &key, 1).await;
    let store = rig.services.store();
    let now = Clock::system().now();
    let parked = store.advance(first.hash(), &[PaymentState::Intent], PaymentState::Parked, now).await;
    assert_eq!(parked, Ok(true));
    let second = journalled(&rig, &key, 2).await;
    assert_eq!(store.identified(IdentifierKey::of(ID)).await.unwrap().unwrap().intent.block, second.hash());
    // Whoever had seen the first brings it back.
    rig.devnet.process(first).unwrap();
    let (third, block) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    let answer = Answered::read(rig.ask_until_decided("/opt/x", &third).await).await;
    assert_eq!((answer.status, &answer.block), (201, &Some(first.hash().to_string())));
    wait_until_kept(&rig, &first).await;
    assert!(Answered::read(rig.get("/opt/x", &[(PROOF, &third)]).await).await.replayed);
    assert!(store.payment(block.hash()).await.unwrap().is_none());
    assert_eq!(before.get() - balance(&rig, &key).get(), 10_u128.pow(27), "paid once");
    rig.end().await;
}

#[tokio::test]
async fn a_payment_that_was_overtaken_gives_its_id_to_the_next() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let first = journalled(&rig, &key, 1).await;
    // Meanwhile the payer spent his frontier on something else.
    let elsewhere = rig.devnet.send_block(&key, Account([9; 32]), Raw::new(1)).unwrap();
    rig.devnet.process(elsewhere).unwrap();
    let (second, block) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    let answer = Answered::read(rig.ask_until_decided("/opt/x", &second).await).await;
    assert_eq!((answer.status, answer.block), (201, Some(block.hash().to_string())));
    let failed = rig.services.store().payment(first.hash()).await.unwrap().unwrap();
    assert_eq!((failed.state, failed.intent.identified), (PaymentState::Failed, None));
    rig.end().await;
}

#[tokio::test]
async fn after_a_failure_of_the_upstream_a_retry_is_forwarded_and_charged_once() {
    let count = AtomicU32::new(0);
    let answer = move |_: &crate::scripted::Seen| match count.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => Reply::text(500, "no"),
        2 => Reply::Drop,
        number => Reply::text(200, &format!("answer {number}")),
    };
    let rig = rig_with(ROUTES, "", answer).await;
    let key = rig.payer(1, PLENTY);
    let before = balance(&rig, &key);
    let (proof, block) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    let (status, bought) = (|it: &Answered| it.status, Some(block.hash().to_string()));
    assert_eq!(status(&Answered::read(rig.get("/opt/x", &[(PROOF, &proof)]).await).await), 500);
    assert_eq!(status(&Answered::read(rig.ask_until_decided("/opt/x", &proof).await).await), 500);
    let (second, _) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    assert_eq!(status(&Answered::read(rig.ask_until_decided("/opt/x", &second).await).await), 502);
    let served = Answered::read(rig.ask_until_decided("/opt/x", &second).await).await;
    assert_eq!((served.status, served.replayed, &served.block), (200, false, &bought));
    assert_eq!(Answered::read(rig.ask_until_decided("/opt/x", &proof).await).await, served.as_replayed());
    assert_eq!(before.get() - balance(&rig, &key).get(), 10_u128.pow(27));
    assert_eq!(rig.effects(), Effects { forwarded: 4, broadcast: 1 });
    rig.end().await;
}

#[tokio::test]
async fn what_is_too_large_or_too_old_is_gone_and_costs_nothing() {
    let more = "payment_identifiers: { largest_answer: 16 }\n";
    let rig = rig_with(ROUTES, more, counting()).await;
    let key = rig.payer(1, PLENTY);
    for (path, id) in [("/opt/x", ID), ("/many/x", OTHER_ID)] {
        let (proof, block) = txn_proof(&rig, &key, path, id, 0).await;
        assert_eq!(rig.get(path, &[(PROOF, &proof)]).await.status(), 201);
        wait_until_kept(&rig, &block).await;
        refused(&rig, path, &proof, 410, "answer_not_kept").await;
        let (second, _) = txn_proof(&rig, &key, path, id, 0).await;
        refused(&rig, path, &second, 410, "answer_not_kept").await;
    }
    rig.end().await;

    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    assert_eq!(rig.get("/opt/x", &[(PROOF, &proof)]).await.status(), 201);
    wait_until_kept(&rig, &block).await;
    let later = UnixSeconds(Clock::system().now().0 + 10);
    let forget =
        |ids_until| rig.services.store().forget(Forget { ids_until, answers_until: later, limit: 9 });
    assert_eq!(forget(UnixSeconds(0)).await, Ok(1));
    refused(&rig, "/opt/x", &proof, 410, "answer_not_kept").await;
    // The id is free for another payment; what bought something once does not buy again.
    assert_eq!(forget(later).await, Ok(1));
    refused(&rig, "/opt/x", &proof, 410, "answer_not_kept").await;
    let (second_proof, _) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    assert_eq!(
        Answered::read(rig.get("/opt/x", &[(PROOF, &second_proof)]).await).await.body,
        "answer 2 to GET /opt/x with 0 bytes"
    );
    rig.end().await;
}

#[tokio::test]
async fn a_head_and_an_empty_answer_are_given_again_as_they_were() {
    let rig = rig_with(ROUTES, "", |_: &crate::scripted::Seen| Reply::Http {
        status: 204,
        headers: vec![("X-Tag".to_owned(), "kept".to_owned())],
        body: Vec::new(),
    })
    .await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    for replayed in [false, true] {
        let answer = rig.get("/opt/x", &[(PROOF, &proof)]).await;
        assert_eq!((answer.status().as_u16(), &answer.headers()["x-tag"]), (204, &"kept".parse().unwrap()));
        assert_eq!(answer.headers().contains_key("idempotent-replayed"), replayed);
        wait_until_kept(&rig, &block).await;
    }
    let [offer, _] = rig.bill("/opt/h").await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let proof = proof_under_id(&offer, &PaymentProof::NanoTxn { block }, OTHER_ID);
    for replayed in [false, true] {
        let url = format!("{}/opt/h", rig.url);
        let answer = rig.http.head(url).header(PROOF, &proof).send().await.unwrap();
        assert_eq!(answer.headers().contains_key("idempotent-replayed"), replayed, "{answer:?}");
        wait_until_kept(&rig, &block).await;
    }
    assert_eq!(rig.upstream.seen().len(), 2);
    rig.end().await;
}

/// Regression: once its route had another name, a retry was a conflict, although the payment opened the route.
#[tokio::test]
async fn a_retry_gets_the_same_answer_after_its_route_was_renamed() {
    let rig = start().await;
    let key = rig.payer(1, PLENTY);
    let (proof, block) = txn_proof(&rig, &key, "/opt/x", ID, 0).await;
    let first = Answered::read(rig.get("/opt/x", &[(PROOF, &proof)]).await).await;
    wait_until_kept(&rig, &block).await;
    let routes = ROUTES.replace("name: opt, match", "name: renamed, formerly: [opt], match");
    rig.services.reload(&rig.config("", &routes)).await.unwrap();
    let again = Answered::read(rig.get("/opt/x", &[(PROOF, &proof)]).await).await;
    assert_eq!((again.status, again.replayed, &again.body), (201, true, &first.body));
    // Another proof under the id, made for the new name, is not settled either.
    let (second, _) = txn_proof(&rig, &key, "/opt/x", ID, 1).await;
    let again = Answered::read(rig.get("/opt/x", &[(PROOF, &second)]).await).await;
    assert_eq!((again.replayed, &again.body), (true, &first.body));
    assert_eq!(rig.effects(), Effects { forwarded: 1, broadcast: 1 });
    rig.end().await;
}
