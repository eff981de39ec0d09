//! The header pair of revision 5, where they go and where not; the clients of revision 7; and the
//! receipts, as the parser of x402.Nano reads them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};
use faregate::nano::{BlockHash, SecretKey, noms_digest};
use faregate::x402::{NanoOffer, URL_BOUND, encode_header};
use reqwest::Response;
use serde_json::{Value, json};

use super::{
    MANY, ONE, ROUTES, accepted_entry, assert_refused, pay_session, plan, present, session_id, session_in,
    session_offer, session_proof,
};
use crate::proxy::wire::Wire;
use crate::rig::{PLENTY, Plan, Rig, capability, error, header, manual_clock, signature};

/// The headers of a bill that offers a session.
const SESSION_HEADERS: [&str; 5] =
    ["x-payment-address", "x-payment-amount", "x-payment-tag", "x-payment-session", "x-payment-expires"];

/// A bill's headers, as a client of revision 5 reads them.
struct SessionHeaders {
    address: String,
    /// In raw, with the tag.
    amount: u128,
    session: String,
}

impl SessionHeaders {
    fn read(answer: &Response) -> Self {
        let amount: u128 = header(answer, "x-payment-amount").parse().unwrap();
        let tag: u128 = header(answer, "x-payment-tag").parse().unwrap();
        assert!(tag < 10_000_000, "revision 5's TAG_MODULUS");
        Self {
            address: header(answer, "x-payment-address").to_owned(),
            amount: amount + tag,
            session: header(answer, "x-payment-session").to_owned(),
        }
    }
}

/// Sends a request with the header pair of revision 5.
async fn present_header_pair(rig: &Rig, path: &str, block: &str, session: &str) -> Response {
    rig.get(path, &[("X-PAYMENT-BLOCK", block), ("X-PAYMENT-SESSION", session)]).await
}

#[tokio::test]
async fn a_client_of_revision_5_pays_with_headers_alone() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    for lower in [false, true] {
        let bill = rig.get(MANY, &[]).await;
        let SessionHeaders { address, amount, session } = SessionHeaders::read(&bill);
        let offer = session_in(&bill);
        assert_eq!(address, offer.pay_to.to_string());
        assert_eq!(amount, offer.amount.get());
        assert_eq!(session, session_id(&offer));
        assert_eq!(
            header(&bill, "x-payment-expires"),
            accepted_entry(&offer)["extra"]["nanoSession"]["expiresAt"]
        );
        let block = pay_session(&rig, &key, &offer);
        let hash = if lower { block.lower_hex() } else { block.to_string() };
        let answer = present_header_pair(&rig, MANY, &hash, &session).await;
        assert_eq!(answer.status(), 200);
        let (_, remaining) = capability(&answer);
        assert_eq!(remaining, 2);
        // One payment, however it is shown.
        assert_eq!(present(&rig, MANY, &session_proof(&offer, block)).await.status(), 200);
        assert_eq!(present_header_pair(&rig, MANY, &hash, &session).await.status(), 200);
        assert_refused(present(&rig, MANY, &session_proof(&offer, block)).await, "DUPLICATE_BLOCK_HASH")
            .await;
        assert_refused(present_header_pair(&rig, MANY, &hash, &session).await, "DUPLICATE_BLOCK_HASH").await;
    }
    assert_eq!(rig.upstream.seen().len(), 6);
    for seen in rig.upstream.seen() {
        for name in SESSION_HEADERS.iter().filter(|it| **it != "x-payment-amount").chain(&["x-payment-block"])
        {
            assert_eq!(seen.header(name), None, "{name} went to the upstream");
        }
    }
    rig.end().await;
}

#[tokio::test]
async fn the_pair_outlives_a_restart_and_the_price_it_was_made_for() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    let offer = session_offer(&rig, ONE).await;
    let block = pay_session(&rig, &key, &offer);
    let rig = rig.restart(crate::rig::Ending::Abrupt).await;
    let dearer = ROUTES.replace("0.0001 XNO, mechanisms", "5 XNO, mechanisms");
    let held_back = rig.services.reload(&rig.config("", &dearer)).await.unwrap();
    assert_eq!(held_back, ["listen"], "the rig's own new port");
    assert!(session_offer(&rig, ONE).await.amount > offer.amount);
    assert_eq!(present_header_pair(&rig, ONE, &block.to_string(), &session_id(&offer)).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn half_a_pair_and_a_spoiled_one_are_told_what_they_are() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    let offer = session_offer(&rig, ONE).await;
    let (block, id) = (pay_session(&rig, &key, &offer).to_string(), session_id(&offer));
    let message = async |headers: &[(&str, &str)], code: &str| {
        let body: Value = rig.get(ONE, headers).await.json().await.unwrap();
        assert_eq!(body["error"], code, "{headers:?}");
        body["message"].as_str().unwrap().to_owned()
    };
    let half = message(&[("X-PAYMENT-BLOCK", &block)], "MALFORMED_PAYLOAD").await;
    assert!(half.contains("x-payment-block without x-payment-session"), "{half}");
    let short = message(&[("X-PAYMENT-BLOCK", "abc"), ("X-PAYMENT-SESSION", &id)], "MALFORMED_PAYLOAD").await;
    assert!(short.contains("x-payment-block: a block's hash"), "{short}");
    // A session alone proves nothing and is no reason to refuse.
    message(&[("X-PAYMENT-SESSION", &id)], "PAYMENT_REQUIRED").await;
    for strange in ["", "uuid-1234", &id[1..], &format!("{id}AAAA"), "%%%"] {
        let headers = [("X-PAYMENT-BLOCK", block.as_str()), ("X-PAYMENT-SESSION", strange)];
        message(&headers, "CHALLENGE_UNKNOWN").await;
    }
    let twice =
        [("X-PAYMENT-BLOCK", block.as_str()), ("X-PAYMENT-BLOCK", &block), ("X-PAYMENT-SESSION", &id)];
    message(&twice, "bad_request").await;
    assert_eq!(present_header_pair(&rig, ONE, &block, &id).await.status(), 200);
    rig.end().await;
}

#[tokio::test]
async fn a_page_of_another_origin_may_read_and_send_them() {
    let more = "cors: { origins: any }".to_owned();
    let rig = Rig::with(Plan { more, ..plan() }).await;
    let answer = rig.get(ONE, &[("Origin", "https://app.example.com")]).await;
    let exposed = header(&answer, "access-control-expose-headers").to_lowercase();
    assert!(SESSION_HEADERS.iter().all(|name| exposed.contains(name)), "{exposed}");
    let preflight = rig.http.request(reqwest::Method::OPTIONS, format!("{}{ONE}", rig.url));
    let preflight =
        preflight.header("Origin", "https://app.example.com").header("Access-Control-Request-Method", "GET");
    let answer = preflight.send().await.unwrap();
    let allowed = header(&answer, "access-control-allow-headers").to_lowercase();
    assert!(allowed.contains("x-payment-block") && allowed.contains("x-payment-session"), "{allowed}");
    rig.end().await;
}

#[tokio::test]
async fn a_bill_with_every_mechanism_fits_into_the_headers_that_clients_read() {
    let (name, text) = ("n".repeat(200), "d".repeat(500));
    let routes = format!(
        "  - {{ name: {name}, match: \"/**\", upstream: api, price: 340282366920938463463374607431768211455 raw, \
         description: \"{text}\", mime_type: application/json, grants: {{ requests: 4000000, within: 30d }}, \
         mechanisms: [nanoTxn, nanoSignature, nanoSession] }}\n"
    );
    let more = "cors: { origins: any }".to_owned();
    let rig = Rig::with(Plan { routes, more, ..Plan::default() }).await;
    let mut wire = Wire::open(&rig.url).await;
    for target in [format!("/{}", "a".repeat(1020)), format!("/x?{}", "q".repeat(16_000))] {
        for also in ["Accept: */*", "PAYMENT-CAPABILITY: bm90LWEtdG9rZW4"] {
            wire.ask(&format!("GET {target}"), &["Origin: https://app.example.com", also]).await;
            let answer = wire.answer().await;
            assert_eq!(answer.status, 402);
            assert!(!answer.one("x-payment-session").is_empty());
            assert!(answer.head < 4096, "{} bytes of headers", answer.head);
        }
    }
    drop(wire);
    rig.end().await;
}

/// How clients of revision 7 signed `blockHash + url`: over a plain hash, later as a message.
fn url_bound(key: &SecretKey, block: &str, url: &str) -> [faregate::nano::Signature; 2] {
    let message = format!("{block}{url}");
    [key.sign(&Blake2b::<U32>::digest(&message).into()), key.sign(&noms_digest(&message).unwrap())]
}

#[tokio::test]
async fn revision_7s_signature_over_the_url_is_refused_by_its_name() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    let [_, offer] = rig.bill("/plain").await;
    let sent = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(sent).unwrap();
    let url = format!("{}/plain", rig.url);
    let refusal = async |json: Value, code: &str| {
        let answer = rig.get("/plain", &[("PAYMENT-SIGNATURE", &encode_header(&json))]).await;
        assert_eq!(answer.status(), 402);
        let receipt = receipt(&answer);
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"], code);
        assert_eq!(receipt["errorMessage"], body["message"]);
        body["message"].as_str().unwrap().to_owned()
    };
    let good = offer.answer(&faregate::x402::PaymentProof::NanoSignature {
        block_hash: sent.hash(),
        account: key.account(),
        signature: key.sign(&[0; 32]),
    });
    for hash in [sent.hash().to_string(), sent.hash().lower_hex()] {
        for signature in url_bound(&key, &hash, &url) {
            // In its own shape, and in that of Track B.
            let mut json = good.clone();
            json["payload"] = json!({ "proof": hash, "signature": signature.lower_hex() });
            assert!(refusal(json.clone(), "MALFORMED_PAYLOAD").await.contains(URL_BOUND));
            // With an entry as that revision had them, it is told the same.
            json["accepted"]["extra"] = json!({ "nanoSignature": { "url": url } });
            assert!(refusal(json, "MALFORMED_PAYLOAD").await.contains(URL_BOUND));
            let mut json = good.clone();
            json["payload"]["signature"] = signature.lower_hex().into();
            assert_eq!(refusal(json, "INVALID_SIGNATURE").await, URL_BOUND);
        }
    }
    // Any other wrong signature is one.
    let [elsewhere, _] = url_bound(&key, &sent.hash().to_string(), "https://other.example.com/plain");
    let mut json = good.clone();
    json["payload"]["signature"] = elsewhere.lower_hex().into();
    assert_eq!(refusal(json, "INVALID_SIGNATURE").await, "the signature does not hold for the account");
    assert_eq!(rig.upstream.seen().len(), 0);
    let answer = rig.get("/plain", &[("PAYMENT-SIGNATURE", &signature(&key, &sent, &offer))]).await;
    assert_eq!(answer.status(), 200, "the money is still there");
    rig.end().await;
}

/// To find such a signature costs several times what the refusal does, and who asks for it has paid nothing:
/// eight a second are looked at closely, whoever sends them.
#[tokio::test]
async fn only_so_many_refusals_a_second_are_looked_at_closely() {
    let (clock, now) = manual_clock();
    let rig = Rig::with(Plan { clock, ..plan() }).await;
    let key = rig.payer(1, PLENTY);
    let [_, offer] = rig.bill("/plain").await;
    let hash = BlockHash([7; 32]);
    let [signature, _] = url_bound(&key, &hash.to_string(), &format!("{}/plain", rig.url));
    let (block_hash, account) = (hash, key.account());
    let proof = faregate::x402::PaymentProof::NanoSignature { block_hash, account, signature };
    let proof = encode_header(&offer.answer(&proof));
    let explained = async || {
        let mut explained = 0;
        for _ in 0..12 {
            let answer = rig.get("/plain", &[("PAYMENT-SIGNATURE", &proof)]).await;
            let body: Value = answer.json().await.unwrap();
            assert_eq!(body["error"], "INVALID_SIGNATURE");
            explained += u32::from(body["message"] == URL_BOUND);
        }
        explained
    };
    assert_eq!(explained().await, 8);
    now.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(explained().await, 8, "in the next second");
    rig.end().await;
}

/// The receipt in an answer.
fn receipt(answer: &Response) -> Value {
    serde_json::from_slice(&STANDARD.decode(header(answer, "payment-response")).unwrap()).unwrap()
}

/// What `decodePaymentResponse` of x402.Nano's `packages/core` asks of a receipt before it hands it on;
/// it gives null for any other. `tests/interop/run` tries the parser itself where it can be had.
fn is_read_by_x402_nano(receipt: &Value) -> bool {
    receipt["x402Version"] == json!(2) && receipt["result"]["mode"].as_str().is_some_and(|it| !it.is_empty())
}

#[tokio::test]
async fn every_receipt_is_one_to_the_parser_of_x402_nano() {
    let routes = "  - { match: /all, upstream: api, price: 1 raw, mechanisms: [nanoTxn, nanoSignature, nanoSession] }\n";
    let rig = Rig::with(Plan { routes: routes.to_owned(), ..Plan::default() }).await;
    let key = rig.payer(1, PLENTY);
    let answer = rig.get("/all", &[]).await;
    let [txn, upfront, session]: [NanoOffer; 3] = crate::rig::offers(&answer).offers.try_into().unwrap();
    let (by_txn, block) = rig.txn(&key, &txn);
    let mut proofs = vec![(by_txn, block.hash())];
    let settled = async |proof: &str, block: BlockHash| {
        let answer = present(&rig, "/all", proof).await;
        assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
        let receipt = receipt(&answer);
        assert!(is_read_by_x402_nano(&receipt), "{receipt}");
        assert_eq!(receipt["result"]["mode"], "settled");
        assert_eq!(receipt["result"]["sendHash"], block.lower_hex());
        assert_eq!(receipt["result"]["payerAccount"], key.account().to_string());
    };
    settled(&proofs[0].0, block.hash()).await;
    let sent = rig.devnet.send_block(&key, upfront.pay_to, upfront.amount).unwrap();
    rig.devnet.process(sent).unwrap();
    proofs.push((signature(&key, &sent, &upfront), sent.hash()));
    settled(&proofs[1].0, sent.hash()).await;
    let block = pay_session(&rig, &key, &session);
    proofs.push((session_proof(&session, block), block));
    settled(&proofs[2].0, block).await;
    // A refusal and a payment under way have one too.
    for (proof, _) in &proofs {
        let answer = present(&rig, "/all", proof).await;
        let receipt = receipt(&answer);
        assert!(is_read_by_x402_nano(&receipt) && receipt["success"] == false, "{receipt}");
        assert_eq!(error(answer).await, "DUPLICATE_BLOCK_HASH");
    }
    let answer = rig.get("/all", &[]).await;
    let unsent = session_proof(&session_in(&answer), BlockHash([7; 32]));
    let answer = present(&rig, "/all", &unsent).await;
    assert_eq!(answer.status(), 503);
    assert!(is_read_by_x402_nano(&receipt(&answer)));
    rig.end().await;
}

/// Regression: two headers on a route that was gone were answered with a bill, as if nothing had been paid.
#[tokio::test]
async fn two_headers_on_a_route_that_is_gone_are_no_bill() {
    let rig = Rig::with(plan()).await;
    let key = rig.payer(1, PLENTY);
    let offer = session_offer(&rig, MANY).await;
    let (block, session) = (pay_session(&rig, &key, &offer).to_string(), session_id(&offer));
    let elsewhere = present_header_pair(&rig, ONE, &block, &session).await;
    assert_refused(elsewhere, "WRONG_RESOURCE").await;
    let renamed = ROUTES.replace("name: many\n", "name: other\n");
    assert_ne!(renamed, ROUTES);
    rig.services.reload(&rig.config("", &renamed)).await.unwrap();
    for path in [MANY, ONE] {
        let gone = present_header_pair(&rig, path, &block, &session).await;
        assert_eq!((gone.status().as_u16(), error(gone).await.as_str()), (410, "route_gone"), "{path}");
    }
    let named = ROUTES.replace("name: many\n", "name: other\n    formerly: [many]\n");
    rig.services.reload(&rig.config("", &named)).await.unwrap();
    let served = present_header_pair(&rig, MANY, &block, &session).await;
    assert_eq!((served.status().as_u16(), capability(&served).1), (200, 2));
    rig.end().await;
}
