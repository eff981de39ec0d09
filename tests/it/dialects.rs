//! The dialects that payers in the field write, each against a whole gateway: what says the same in
//! another way is taken, and what lacks something is told what. The clients themselves are tried by
//! `tests/interop/run`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use faregate::x402::{NanoOffer, PaymentProof, encode_header};
use serde_json::{Value, json};

use crate::patience::wait_for;
use crate::proxy::wire::{Played, Wire};
use crate::rig::{PLENTY, Plan, Rig, error, header};

const QUOTE: &str = "/v1/quote/XNO";

/// The envelope of a `nanoTxn` payment, to be written in another way.
async fn envelope(rig: &Rig, index: u32) -> Value {
    let key = rig.payer(index, PLENTY);
    let [offer, _] = rig.bill(QUOTE).await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    offer.answer(&PaymentProof::NanoTxn { block })
}

fn with_link_as_account(json: &mut Value) {
    json["payload"]["block"]["link_as_account"] = json["accepted"]["payTo"].clone();
}

fn with_the_old_prefix(json: &mut Value) {
    with_link_as_account(json);
    for field in ["account", "representative", "link_as_account"] {
        let address = json["payload"]["block"][field].as_str().unwrap().replace("nano_", "xrb_");
        json["payload"]["block"][field] = address.into();
    }
}

fn in_upper_case(json: &mut Value) {
    for field in ["previous", "link", "signature", "work"] {
        let digits = json["payload"]["block"][field].as_str().unwrap().to_uppercase();
        json["payload"]["block"][field] = digits.into();
    }
}

/// The first version's fields beside the second's, and a node's beside the block's.
fn with_more_fields(json: &mut Value) {
    json["scheme"] = "exact".into();
    json["network"] = "nano:mainnet".into();
    json["paymentId"] = "1".into();
    json["payload"]["paymentId"] = "1".into();
    json["payload"]["block"]["hash"] = "00".repeat(32).into();
    json["payload"]["block"]["subtype"] = "send".into();
}

#[tokio::test]
async fn a_block_is_taken_in_every_spelling_and_under_either_name() {
    let rig = Rig::start().await;
    let dialects: [fn(&mut Value); 5] =
        [|_| (), with_link_as_account, with_the_old_prefix, in_upper_case, with_more_fields];
    let mut payers = 1..;
    for (number, write) in dialects.iter().enumerate() {
        for names in [&["PAYMENT-SIGNATURE"][..], &["X-PAYMENT"], &["X-PAYMENT", "PAYMENT-SIGNATURE"]] {
            let mut json = envelope(&rig, payers.next().unwrap()).await;
            write(&mut json);
            let proof = encode_header(&json);
            let headers: Vec<_> = names.iter().map(|name| (*name, proof.as_str())).collect();
            let answer = rig.get(QUOTE, &headers).await;
            assert_eq!(answer.status(), 200, "dialect {number}, {names:?}: {:?}", answer.text().await);
        }
    }
    let json = envelope(&rig, payers.next().unwrap()).await;
    let proof = URL_SAFE_NO_PAD.encode(json.to_string());
    assert_eq!(rig.get(QUOTE, &[("X-PAYMENT", &proof)]).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn the_same_block_comes_again_after_its_answer_was_lost() {
    let mut upstream = Played::start().await;
    let plan = Plan {
        more: format!("  played: {{ url: \"{}\" }}", upstream.url),
        routes: "  - { match: \"GET /once\", upstream: played, price: 1 raw }\n".to_owned(),
        ..Plan::default()
    };
    let rig = Rig::with(plan).await;
    let key = rig.payer(1, PLENTY);
    let [offer, _] = rig.bill("/once").await;
    let (proof, _) = rig.txn(&key, &offer);

    let mut wire = Wire::open(&rig.url).await;
    wire.ask("GET /once", &[&format!("X-PAYMENT: {proof}")]).await;
    let unanswered = upstream.call().await;
    drop((wire, unanswered));

    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    // The use belongs to the first request until the gateway has noticed that it is gone.
    let ask = async || Some(rig.get("/once", &[("X-PAYMENT", &proof)]).await).filter(|it| it.status() != 503);
    let again = wait_for("the use is free again", ask);
    let (again, ()) = tokio::join!(again, upstream.play(ok));
    assert_eq!(again.status(), 200);
    assert_eq!(rig.devnet.faults().calls("process"), 1, "the block was broadcast once");
    let third = rig.get("/once", &[("X-PAYMENT", &proof)]).await;
    assert_eq!((third.status().as_u16(), error(third).await.as_str()), (402, "DUPLICATE_BLOCK_HASH"));
    assert!(upstream.is_idle());
    rig.end().await;
}

/// What the body's `message` says of an envelope that is refused as malformed.
async fn told(rig: &Rig, json: &Value) -> String {
    let answer = rig.get(QUOTE, &[("X-PAYMENT", &encode_header(json))]).await;
    assert_eq!(answer.status(), 402, "{json}");
    let fresh: [NanoOffer; 2] = crate::rig::offers(&answer).offers.try_into().unwrap();
    assert_eq!(fresh.len(), 2);
    assert!(header(&answer, "payment-response").len() > 1);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["error"], "MALFORMED_PAYLOAD");
    body["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_an_envelope_lacks_is_said_to_its_sender() {
    let rig = Rig::start().await;
    let good = envelope(&rig, 1).await;

    let mut without_extra = good.clone();
    without_extra["accepted"].as_object_mut().unwrap().remove("extra");
    let message = told(&rig, &without_extra).await;
    assert!(message.contains("`accepted.extra` is missing") && message.contains("unchanged"), "{message}");

    let mut without_entry = good.clone();
    without_entry.as_object_mut().unwrap().remove("accepted");
    let message = told(&rig, &without_entry).await;
    assert!(message.contains("`accepted` is missing") && message.contains("`accepts`"), "{message}");

    let payload = &good["payload"];
    let first = json!({ "x402Version": 1, "scheme": "exact", "network": "nano:mainnet", "payload": payload });
    let message = told(&rig, &first).await;
    assert!(message.contains("`x402Version` is 1, only version 2"), "{message}");

    assert_eq!(rig.devnet.faults().calls("process"), 0, "nothing was broadcast for any of them");
    let proof = encode_header(&good);
    assert_eq!(rig.get(QUOTE, &[("X-PAYMENT", &proof)]).await.status(), 200, "the money is still there");
    rig.end().await;
}
