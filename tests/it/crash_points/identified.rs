//! The same under a client's id, with a client that signs again after the crash: one payment is made,
//! and one answer is the id's from the first whole one on.

use std::time::Duration;

use faregate::nano::{Account, Representative, SecretKey, StateBlock};
use faregate::payment::Mechanism;
use faregate::store::PaymentState;
use faregate::x402::payment_identifier::PaymentIdentifier;
use faregate::x402::{NanoOffer, PaymentProof, ProofRequest, encode_header};
use futures_util::future::join_all;
use reqwest::StatusCode;

use super::{
    BY_SIGNATURE, BY_TXN, Confirms, Crash, Scene, after_the_grant, offered, pause, program, provoke,
};
use crate::patience::within;

const ID: &str = "crashed_0123456789";

/// What shows `block`, by the offer's mechanism.
pub(super) fn proof(key: &SecretKey, block: &StateBlock, offer: &NanoOffer, id: &str) -> String {
    let id = PaymentIdentifier::parse(id).unwrap();
    let proof = match offer.ask {
        ProofRequest::NanoSignature { nonce } => {
            let message =
                format!("{}:{}:{}", block.hash().lower_hex(), hex::encode(nonce), offer.valid_before);
            let signature = key.sign(&faregate::nano::noms_digest(&message).unwrap());
            PaymentProof::NanoSignature { block_hash: block.hash(), account: key.account(), signature }
        }
        ProofRequest::NanoTxn { .. } => PaymentProof::NanoTxn { block: *block },
        ProofRequest::NanoSession(_) => panic!("no session is asked for"),
    };
    encode_header(&offer.answer_under(&proof, &id, false))
}

/// A crash of a payment under an id.
fn named(crash: Crash) -> Crash {
    Crash { id: Some(ID), ..crash }
}

/// A whole answer.
#[derive(Debug, Eq, PartialEq)]
struct WholeAnswer {
    body: String,
    /// Whether it was given before.
    replayed: bool,
}

/// Shows the proof while the program says "not yet". Any other answer than the one that was bought
/// would be a second bill.
async fn answer_to(scene: &Scene, proof: &str) -> WholeAnswer {
    loop {
        let request = scene.http.get(format!("{}/thing", scene.program.url));
        if let Ok(answer) = request.header("PAYMENT-SIGNATURE", proof).send().await {
            let replayed = answer.headers().contains_key("idempotent-replayed");
            match answer.status() {
                StatusCode::OK => return WholeAnswer { body: answer.text().await.unwrap(), replayed },
                StatusCode::SERVICE_UNAVAILABLE => {}
                status => panic!("{status}: {:?}", answer.text().await),
            }
        }
        pause().await;
    }
}

/// Another proof under the id: of `nanoTxn` another block on the payer's frontier, of
/// `nanoSignature` another signature for what he sent.
async fn sign_again(scene: &Scene, mechanism: Mechanism) -> String {
    loop {
        let offer = offered(&scene.http, &scene.program, mechanism).await;
        if mechanism == Mechanism::NanoSignature {
            if offer.pay_to == scene.block.destination() {
                return proof(&scene.key, &scene.block, &offer, ID);
            }
            continue;
        }
        let block = scene.devnet.send_block(&scene.key, offer.pay_to, offer.amount).unwrap();
        // Where the first is not on the ledger, the same terms would make the same block.
        let block =
            StateBlock { representative: Representative(Account([9; 32])), ..block }.signed(&scene.key);
        return proof(&scene.key, &block, &offer, ID);
    }
}

/// Plays one crash; after it the client shows a proof that it signed again, then what it had shown
/// before, then another. `forwarded` requests reach the upstream in all.
async fn play(crash: Crash, forwarded: usize) {
    let (mut scene, child) = Scene::set(&crash, 0).await;
    provoke(&scene, child).await;
    scene.check_what_is_durable(&crash).await;
    let child = scene.program.start(None);
    if crash.confirms == Confirms::Afterwards {
        super::confirm(&scene).await;
    }
    let second = sign_again(&scene, crash.mechanism).await;
    let all = async {
        let WholeAnswer { body, .. } = answer_to(&scene, &second).await;
        let third = sign_again(&scene, crash.mechanism).await;
        for again in [&scene.proof, &second, &third] {
            let the_same = WholeAnswer { body: body.clone(), replayed: true };
            assert_eq!(answer_to(&scene, again).await, the_same, "{}: another answer", crash.at);
        }
    };
    within(Duration::from_secs(40), &format!("{}: an answer to every proof", crash.at), all).await;
    assert_eq!(scene.upstream.seen().len(), forwarded, "{}: requests forwarded", crash.at);
    program::end(child).await;
    if crash.journal.is_none() {
        // The one payment is that of the proof that came first after the crash.
        let payload = faregate::x402::PaymentPayload::from_header(&second).unwrap();
        if let faregate::x402::Payload::Payment(payment) = payload.presented
            && let PaymentProof::NanoTxn { block } = payment.proof
        {
            scene.block = block;
        }
    }
    scene.compare_books(&crash).await;
}

#[tokio::test]
async fn under_an_id_a_crash_before_the_grant_leaves_one_payment() {
    let (intent, afterwards) = (Some(PaymentState::Intent), Confirms::Afterwards);
    let crashes = [
        Crash { at: "payment-checked", ..BY_TXN },
        Crash { at: "payment-claimed", journal: intent, ..BY_TXN },
        Crash { at: "payment-broadcast", journal: intent, published: true, ..BY_TXN },
        Crash { at: "payment-broadcast", journal: intent, published: true, confirms: afterwards, ..BY_TXN },
        Crash { at: "payment-confirmed", journal: intent, published: true, ..BY_TXN },
        Crash { at: "payment-checked", confirms: afterwards, ..BY_SIGNATURE },
        Crash { at: "payment-claimed", journal: intent, confirms: afterwards, ..BY_SIGNATURE },
        Crash { at: "payment-confirmed", ..BY_SIGNATURE },
    ];
    join_all(crashes.into_iter().map(|it| play(named(it), 1))).await;
}

#[tokio::test]
async fn under_an_id_a_crash_after_the_grant_leaves_one_answer() {
    // What is kept is given again; what the crash came before is asked for again.
    let points = [
        ("payment-granted", 1),
        ("use-held", 1),
        ("answer-to-be-kept", 2),
        ("use-answered", 1),
        ("use-committed", 1),
    ];
    let plays = points
        .into_iter()
        .flat_map(|(at, forwarded)| after_the_grant(at).map(|it| play(named(it), forwarded)));
    join_all(plays).await;
}
