//! `nanoTxn` blocks that come without work: a work server makes it, within limits, and only for
//! blocks that are broadcast next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use faregate::devnet::{InjectedFault, THRESHOLDS, Times};
use faregate::nano::{BlockHash, Raw, Signature, StateBlock, Work};
use faregate::store::PaymentJournal;
use faregate::x402::{NanoOffer, PaymentProof, encode_header};
use futures_util::future::join_all;
use serde_json::json;

use crate::rig::{Ending, PLENTY, Plan, Rig, error, eventually, offers};
use crate::scripted::{Reply, Scripted};

const QUOTE: &str = "/v1/quote/XNO";

/// How the work server behaves.
const GOOD: u8 = 0;
const LIES: u8 = 1;
const REFUSES: u8 = 2;
const HANGS: u8 = 3;
const GONE: u8 = 4;

/// A gateway with a work server that behaves as `mood` says.
struct Scene {
    rig: Rig,
    server: Scripted,
    mood: Arc<AtomicU8>,
}

impl Scene {
    async fn new(limits: &str) -> Self {
        let mood = Arc::new(AtomicU8::new(GOOD));
        let shown = Arc::clone(&mood);
        let server = Scripted::start(move |seen| {
            let root: BlockHash = seen.json()["hash"].as_str().unwrap().parse().unwrap();
            let found = |good: bool| {
                (0..).map(Work).find(|it| it.reaches(&root.0, THRESHOLDS.send) == good).unwrap().to_string()
            };
            match shown.load(Ordering::SeqCst) {
                GOOD => Reply::json(&json!({ "work": found(true) })),
                LIES => Reply::json(&json!({ "work": found(false) })),
                REFUSES => Reply::json(&json!({ "error": "Local work generation is disabled" })),
                HANGS => Reply::Hang,
                _ => Reply::Drop,
            }
        })
        .await;
        let work = Some(format!("{{ server: \"{}\"{limits} }}", server.url));
        let rig = Rig::with(Plan { work, ..Plan::default() }).await;
        Self { rig, server, mood }
    }

    fn asked(&self) -> usize {
        self.server.calls("work_generate")
    }

    fn is(&self, mood: u8) {
        self.mood.store(mood, Ordering::SeqCst);
    }

    /// A proof by payer `index`, its block without work.
    async fn proof(&self, index: u32) -> (String, StateBlock) {
        let key = self.rig.payer(index, PLENTY);
        let [offer, _] = self.rig.bill(QUOTE).await;
        let block = self.rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
        let block = StateBlock { work: None, ..block };
        (header(&offer, block), block)
    }

    async fn show(&self, proof: &str) -> (u16, String) {
        let answer = self.rig.get(QUOTE, &[("PAYMENT-SIGNATURE", proof)]).await;
        let status = answer.status().as_u16();
        assert_eq!(status == 503, answer.headers().contains_key("retry-after"));
        (status, if status == 200 { String::new() } else { error(answer).await })
    }
}

fn header(offer: &NanoOffer, block: StateBlock) -> String {
    encode_header(&offer.answer(&PaymentProof::NanoTxn { block }))
}

fn too_little(root: &[u8; 32]) -> Work {
    (0..).map(Work).find(|it| !it.reaches(root, THRESHOLDS.send)).unwrap()
}

#[tokio::test]
async fn a_block_without_work_gets_it_and_is_journalled_with_it() {
    let scene = Scene::new("").await;
    let bill = scene.rig.get(QUOTE, &[]).await;
    let entry = &bill.json::<serde_json::Value>().await.unwrap()["accepts"][0]["extra"];
    assert_eq!(
        (&entry["work"], &entry["workThreshold"]),
        (&json!("optional"), &json!(THRESHOLDS.send.to_string()))
    );
    let (proof, block) = scene.proof(1).await;
    assert_eq!(scene.show(&proof).await.0, 200);
    let row = scene.rig.services.store().payment(block.hash()).await.unwrap().unwrap();
    let work = row.intent.signed.unwrap().work.unwrap();
    assert!(work.reaches(&block.work_root(), THRESHOLDS.send));
    assert_eq!(scene.asked(), 1);
    let text = scene.rig.services.metrics().text().unwrap();
    assert!(text.contains("faregate_work_duration_seconds_count{outcome=\"made\"} 1\n"), "{text}");
    // Work below the threshold counts as none, and good work is kept.
    let key = scene.rig.payer(2, PLENTY);
    let [offer, _] = scene.rig.bill(QUOTE).await;
    let block = scene.rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let block = StateBlock { work: Some(too_little(&block.work_root())), ..block };
    let proof = header(&offer, block);
    assert_eq!(scene.show(&proof).await.0, 200);
    let before = scene.asked();
    let key = scene.rig.payer(3, PLENTY);
    assert_eq!(scene.rig.pay(&key, QUOTE).await.status(), 200);
    assert_eq!((before, scene.asked()), (2, 2));
    scene.rig.end().await;
}

#[tokio::test]
async fn no_work_is_made_for_what_is_refused_anyway() {
    let scene = Scene::new("").await;
    let rig = &scene.rig;
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill(QUOTE).await;
    let good = StateBlock { work: None, ..rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap() };
    let signed = |block: StateBlock| StateBlock { signature: key.sign(&block.hash().0), ..block };
    let other = rig.devnet.send_block(&key, offer.pay_to, Raw::new(1)).unwrap();
    for (block, code) in [
        (StateBlock { signature: Signature([1; 64]), ..good }, "INVALID_SIGNATURE"),
        (signed(StateBlock { link: [7; 32], ..good }), "WRONG_DESTINATION"),
        (signed(StateBlock { previous: BlockHash([7; 32]), ..good }), "STALE_FRONTIER"),
        (StateBlock { work: None, ..other }, "INSUFFICIENT_AMOUNT"),
    ] {
        let (status, error) = scene.show(&header(&offer, block)).await;
        assert_eq!((status, error.as_str()), (402, code));
    }
    let text = header(&offer, good).replace('A', "B");
    assert_ne!(scene.show(&text).await.0, 200);
    assert_eq!(scene.asked(), 0);
    assert_eq!(scene.show(&header(&offer, good)).await.0, 200);
    scene.rig.end().await;
}

#[tokio::test]
async fn many_copies_at_once_are_one_computation() {
    let scene = Scene::new(", per_client: 1").await;
    let (proof, _) = scene.proof(1).await;
    let answers = join_all((0..20).map(|_| scene.show(&proof))).await;
    // One use was bought: one request is served, and the others get that it is taken or pending.
    assert_eq!(answers.iter().filter(|(status, _)| *status == 200).count(), 1, "{answers:?}");
    assert_eq!(scene.asked(), 1);
    scene.rig.end().await;
}

#[tokio::test]
async fn a_work_server_that_fails_is_a_503_and_the_retry_is_served() {
    let scene = Scene::new(", timeout: 100ms").await;
    for (index, mood) in [LIES, REFUSES, HANGS, GONE].into_iter().enumerate() {
        let (proof, block) = scene.proof(index as u32).await;
        scene.is(mood);
        let (status, error) = scene.show(&proof).await;
        assert_eq!((status, error.as_str()), (503, "no_work"), "mood {mood}");
        assert_eq!(scene.rig.services.store().payment(block.hash()).await.unwrap(), None);
        scene.is(GOOD);
        let rig = &scene.rig;
        // A server that failed often is left alone for a while.
        eventually("it is served", || async {
            let answer = rig.get(QUOTE, &[("PAYMENT-SIGNATURE", &proof)]).await;
            assert!([200, 503].contains(&answer.status().as_u16()));
            answer.status() == 200
        })
        .await;
    }
    scene.rig.end().await;
}

#[tokio::test]
async fn work_is_bounded_for_one_client_and_for_all() {
    let scene = Scene::new(", per_client: 2").await;
    for index in 0..2 {
        let (proof, _) = scene.proof(index).await;
        assert_eq!(scene.show(&proof).await.0, 200);
    }
    let (proof, _) = scene.proof(2).await;
    assert_eq!(scene.show(&proof).await, (503, "overloaded".to_owned()));
    // With its work, the same payment is served: the block's hash is the same.
    let key = scene.rig.payer(3, PLENTY);
    assert_eq!(scene.rig.pay(&key, QUOTE).await.status(), 200);
    assert_eq!(scene.asked(), 2);
    scene.rig.end().await;

    let scene = Scene::new(", at_once: 1, waiting: 1, timeout: 2s").await;
    let mut proofs = Vec::new();
    for index in 0..3 {
        proofs.push(scene.proof(index).await.0);
    }
    scene.is(HANGS);
    let first = scene.show(&proofs[0]);
    let rest = async {
        eventually("the server is asked", || async { scene.asked() == 1 }).await;
        tokio::join!(scene.show(&proofs[1]), scene.show(&proofs[2]))
    };
    let (first, (one, other)) = tokio::join!(first, rest);
    assert_eq!(first, (503, "no_work".to_owned()));
    let mut answers = [one.1, other.1];
    answers.sort_unstable();
    assert_eq!(answers, ["no_work", "overloaded"]);
    scene.rig.end().await;
}

#[tokio::test]
async fn a_crash_after_the_work_was_made_needs_no_other() {
    let scene = Scene::new("").await;
    let (proof, block) = scene.proof(1).await;
    // The broadcast is lost, but the journal has the block with its work.
    scene.rig.devnet.order("process", InjectedFault::ServerError, Times::Always);
    let rig = &scene.rig;
    let headers = [("PAYMENT-SIGNATURE", proof.as_str())];
    let show = rig.get(QUOTE, &headers);
    let journalled = eventually("it is journalled", || async {
        rig.services.store().payment(block.hash()).await.unwrap().is_some()
    });
    tokio::select! {
        _ = show => panic!("answered without a broadcast"),
        () = journalled => {}
    }
    scene.is(GONE);
    let Scene { rig, server, .. } = scene;
    let rig = rig.restart(Ending::Abrupt).await;
    rig.devnet.faults().clear();
    eventually("it is served", || async {
        rig.get(QUOTE, &[("PAYMENT-SIGNATURE", &proof)]).await.status() == 200
    })
    .await;
    assert_eq!(server.calls("work_generate"), 1);
    rig.end().await;
}

#[tokio::test]
async fn without_a_work_server_a_block_without_work_is_refused() {
    let rig = Rig::start().await;
    let key = rig.payer(1, PLENTY);
    let bill = rig.get(QUOTE, &[]).await;
    let offer = offers(&bill).offers[0].clone();
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let proof = header(&offer, StateBlock { work: None, ..block });
    let answer = rig.get(QUOTE, &[("PAYMENT-SIGNATURE", &proof)]).await;
    assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (402, "INVALID_WORK"));
    rig.end().await;
}
