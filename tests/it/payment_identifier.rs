//! The `payment-identifier` extension over real sockets: what comes again under an id gets what the
//! first payment bought, whoever else comes gets nothing, and nobody pays twice.

mod attacks;
mod bodies;
mod edges;
mod retries;

use std::sync::atomic::{AtomicU32, Ordering};

use faregate::nano::{Account, Raw, Representative, SecretKey, StateBlock};
use faregate::payment::{IdentifiedRequest, IdentifierKey, Intent, Mechanism, RequestDigest};
use faregate::routes::{Grants, RouteName, Terms};
use faregate::store::Answers;
use faregate::x402::payment_identifier::PaymentIdentifier;
use faregate::x402::{
    NanoOffer, PaymentPayload, PaymentProof, ProofRequest, SettlementOutcome, SettlementResponse,
    encode_header,
};
use reqwest::Response;

use crate::patience::eventually;
use crate::rig::{Effects, Plan, Rig, header};
use crate::scripted::{Reply, Seen};

const ROUTES: &str = r#"
  - { name: opt, match: "/opt/**", upstream: api, price: 0.001 XNO, payment_identifier: optional }
  - { name: req, match: "/req/**", upstream: api, price: 0.001 XNO, payment_identifier: required }
  - { name: many, match: "/many/**", upstream: api, price: 0.001 XNO, payment_identifier: required, grants: { requests: 5, within: 1h } }
  - { name: plain, match: "/plain", upstream: api, price: 0.001 XNO }
"#;

pub(crate) const ID: &str = "pay_0123456789abcdef";
const OTHER_ID: &str = "pay_fedcba9876543210";
const PROOF: &str = "PAYMENT-SIGNATURE";

/// An upstream that never answers twice alike.
fn counting() -> impl Fn(&Seen) -> Reply + Send + Sync {
    let count = AtomicU32::new(0);
    move |seen| {
        let number = count.fetch_add(1, Ordering::SeqCst) + 1;
        let body = format!("answer {number} to {} {} with {} bytes", seen.method, seen.path, seen.body.len());
        Reply::text(201, &body)
            .with("Content-Type", "text/plain")
            .with("X-Tag", "kept")
            .with("Set-Cookie", "session=secret")
    }
}

async fn start() -> Rig {
    rig_with(ROUTES, "", counting()).await
}

async fn rig_with(routes: &str, more: &str, answer: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Rig {
    let (routes, more) = (routes.to_owned(), more.to_owned());
    Rig::with(Plan { routes, more, answer: Box::new(answer), ..Plan::default() }).await
}

/// The payload that answers `offer` under `id`.
pub(crate) fn proof_under_id(offer: &NanoOffer, proof: &PaymentProof, id: &str) -> String {
    encode_header(&offer.answer_under(proof, &PaymentIdentifier::parse(id).unwrap(), false))
}

/// A proof by `nanoTxn` under `id`, with a bill of its own. `salt` makes another block of it.
async fn txn_proof(rig: &Rig, key: &SecretKey, path: &str, id: &str, salt: u8) -> (String, StateBlock) {
    let [offer, _] = rig.bill(path).await;
    let block = salted(rig.devnet.send_block(key, offer.pay_to, offer.amount).unwrap(), key, salt);
    (proof_under_id(&offer, &PaymentProof::NanoTxn { block }, id), block)
}

/// What is journalled of a payment with `block` under [`ID`], for a route of one use and a request for this path.
pub(crate) fn intent(offer: &NanoOffer, block: StateBlock, (route, path): (&str, &str)) -> Intent {
    let request = RequestDigest::of("GET", path, &[b"", b"", b""], b"");
    Intent {
        block: block.hash(),
        signed: Some(block),
        mechanism: Mechanism::NanoTxn,
        challenge: offer.challenge().unwrap().parse().unwrap(),
        route: RouteName::new(route),
        terms: Terms { amount: offer.amount, grants: Grants::of_requests(std::num::NonZeroU32::MIN, 3600) },
        payer: block.account,
        amount: offer.amount,
        pay_to: offer.pay_to,
        valid_before: offer.valid_before,
        exchange: None,
        identified: Some(IdentifiedRequest { id: IdentifierKey::of(ID), request }),
    }
}

/// The same send with another representative.
fn salted(block: StateBlock, key: &SecretKey, salt: u8) -> StateBlock {
    let representative = Representative(Account([salt; 32]));
    if salt == 0 { block } else { StateBlock { representative, ..block }.signed(key) }
}

/// A proof by `nanoSignature` under `id`, with a bill of its own, for a block that is sent.
async fn sent_proof(rig: &Rig, key: &SecretKey, path: &str, id: &str) -> (String, StateBlock) {
    let [_, offer] = rig.bill(path).await;
    let block = rig.devnet.send_block(key, offer.pay_to, offer.amount).unwrap();
    rig.devnet.process(block).unwrap();
    (signature_proof(key, &block, &offer, id), block)
}

/// `nanoSignature`'s proof of `block` for `offer`, under `id`.
fn signature_proof(key: &SecretKey, block: &StateBlock, offer: &NanoOffer, id: &str) -> String {
    let ProofRequest::NanoSignature { nonce } = offer.ask else { panic!("no nanoSignature offer") };
    let message = format!("{}:{}:{}", block.hash().lower_hex(), hex::encode(nonce), offer.valid_before);
    let signature = key.sign(&faregate::nano::noms_digest(&message).unwrap());
    let proof = PaymentProof::NanoSignature { block_hash: block.hash(), account: key.account(), signature };
    proof_under_id(offer, &proof, id)
}

/// The facts of an answer that these tests compare.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Answered {
    status: u16,
    /// Whether it came from the store.
    replayed: bool,
    /// The block that bought it.
    block: Option<String>,
    body: String,
}

impl Answered {
    async fn read(answer: Response) -> Self {
        let receipt = answer.headers().get("payment-response").map(|it| {
            let receipt = SettlementResponse::from_header(it.as_bytes()).unwrap();
            let SettlementOutcome::Settled { transaction, .. } = receipt.outcome else {
                panic!("{receipt:?}")
            };
            transaction.to_string()
        });
        Self {
            status: answer.status().as_u16(),
            replayed: answer.headers().contains_key("idempotent-replayed"),
            block: receipt,
            body: answer.text().await.unwrap(),
        }
    }

    /// The same answer as the store gives it to a repeated request.
    fn as_replayed(&self) -> Self {
        Self { replayed: true, ..self.clone() }
    }
}

/// Asserts a refusal with this status and code, for which nothing was forwarded or broadcast.
async fn refused(rig: &Rig, path: &str, proof: &str, status: u16, code: &str) {
    let before = rig.effects();
    let answer = rig.get(path, &[(PROOF, proof)]).await;
    assert_eq!(header(&answer, "cache-control"), "no-store");
    assert_eq!((answer.status().as_u16(), crate::rig::error(answer).await.as_str()), (status, code));
    assert_eq!(rig.effects(), before, "{code}");
}

/// Waits until the answer that `block` bought is in the store.
async fn wait_until_kept(rig: &Rig, block: &StateBlock) {
    eventually("the answer is kept", || async {
        rig.services.store().kept(block.hash()).await.unwrap().is_some()
    })
    .await;
}

/// What an account holds, in raw.
fn balance(rig: &Rig, key: &SecretKey) -> Raw {
    rig.devnet.lattice().chain(key.account()).map_or(Raw::ZERO, |it| it.balance)
}

#[tokio::test]
async fn a_bill_says_whether_an_id_is_taken() {
    let rig = start().await;
    for (path, required) in [("/opt/x", Some(false)), ("/req/x", Some(true)), ("/plain", None)] {
        let answer = rig.get(path, &[]).await;
        let bill = faregate::x402::PaymentRequired::from_header(header(&answer, "payment-required")).unwrap();
        let declared = bill.extensions.get("payment-identifier");
        assert_eq!(declared.map(|it| it["info"]["required"].as_bool().unwrap()), required, "{path}");
        if let Some(declared) = declared {
            assert_eq!(declared["schema"]["properties"]["id"]["minLength"], 16);
            assert_eq!(declared["schema"]["properties"]["id"]["maxLength"], 128);
        }
        let offers = crate::rig::offers(&answer);
        assert_eq!(offers.payment_identifier, required);
        let bytes: usize =
            answer.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        assert!(bytes < faregate::x402::MAX_RESPONSE_HEADERS_BYTES, "{bytes} bytes of headers");
    }
    rig.end().await;
}

#[tokio::test]
async fn an_id_that_is_wrong_or_missing_is_said_before_any_money_moves() {
    let rig = start().await;
    let key = rig.payer(1, crate::rig::PLENTY);
    let [offer, _] = rig.bill("/req/x").await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let bare = offer.answer(&PaymentProof::NanoTxn { block });
    let with_extension = |extension: serde_json::Value| {
        let mut payload = bare.clone();
        payload["extensions"] = serde_json::json!({ "payment-identifier": extension });
        encode_header(&payload)
    };
    let id = |id: &str| with_extension(serde_json::json!({ "info": { "required": true, "id": id } }));
    let missing = "payment_identifier_required";
    refused(&rig, "/req/x", &encode_header(&bare), 400, missing).await;
    refused(
        &rig,
        "/req/x",
        &with_extension(serde_json::json!({ "info": { "required": true } })),
        400,
        missing,
    )
    .await;
    let bad = "payment_identifier_invalid";
    for proof in [
        id("pay_0123456789a"),
        id(&"a".repeat(129)),
        id("pay_0123456789ab.def"),
        id("pay_0123456789abcdé"),
        id(""),
        with_extension(serde_json::json!({ "info": { "required": true, "id": 7 } })),
        with_extension(serde_json::json!("pay_0123456789abcdef")),
        with_extension(serde_json::json!({ "id": ID })),
    ] {
        refused(&rig, "/req/x", &proof, 400, bad).await;
        // A route that takes ids reads them, required or not.
        refused(&rig, "/opt/x", &proof, 400, bad).await;
    }
    let message = rig.get("/req/x", &[(PROOF, &id("short"))]).await.text().await.unwrap();
    assert!(message.contains("has 5 characters: 16 to 128 are allowed; nothing was charged"), "{message}");
    assert_eq!(rig.effects(), Effects { forwarded: 0, broadcast: 0 });
    // The longest id is as good as any, and a route that knows no ids ignores what is in its place.
    let answer = rig.get("/req/x", &[(PROOF, &id(&"Z_-9".repeat(32)))]).await;
    assert_eq!(answer.status(), 201);
    let [offer, _] = rig.bill("/plain").await;
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let mut payload = offer.answer(&PaymentProof::NanoTxn { block });
    payload["extensions"] = serde_json::json!({ "payment-identifier": "what?" });
    assert_eq!(rig.get("/plain", &[(PROOF, &encode_header(&payload))]).await.status(), 201);
    rig.end().await;
}

#[tokio::test]
async fn a_capability_needs_no_id_and_is_served_each_time() {
    let rig = start().await;
    let key = rig.payer(1, crate::rig::PLENTY);
    let (proof, _) = txn_proof(&rig, &key, "/many/x", ID, 0).await;
    let bought = rig.get("/many/x", &[(PROOF, &proof)]).await;
    let (token, left) = crate::rig::capability(&bought);
    assert_eq!((bought.status().as_u16(), left), (201, 4));
    for left in (2..4).rev() {
        let answer = rig.get("/many/x", &[("PAYMENT-CAPABILITY", &token)]).await;
        assert_eq!((answer.status().as_u16(), crate::rig::capability(&answer).1), (201, left));
        assert!(!Answered::read(answer).await.replayed);
    }
    // The id stands for the first request, however many uses are left.
    let again = rig.get("/many/x", &[(PROOF, &proof)]).await;
    assert_eq!(crate::rig::capability(&again).1, 2);
    let again = Answered::read(again).await;
    assert_eq!((again.replayed, again.body.as_str()), (true, "answer 1 to GET /many/x with 0 bytes"));
    assert_eq!(rig.upstream.seen().len(), 3);
    rig.end().await;
}

#[tokio::test]
async fn an_id_stands_in_the_payload_as_official_clients_write_it() {
    let rig = start().await;
    let [offer, _] = rig.bill("/opt/x").await;
    let key = rig.payer(1, crate::rig::PLENTY);
    let block = rig.devnet.send_block(&key, offer.pay_to, offer.amount).unwrap();
    let payload =
        PaymentPayload::from_header(proof_under_id(&offer, &PaymentProof::NanoTxn { block }, ID)).unwrap();
    let read = PaymentIdentifier::read(&payload.extensions).unwrap().unwrap();
    assert_eq!(read.as_str(), ID);
    // The declaration copied back is no id.
    let declared = faregate::x402::payment_identifier::declaration(false);
    let copied = serde_json::Map::from_iter([("payment-identifier".to_owned(), declared)]);
    assert_eq!(PaymentIdentifier::read(&copied), Ok(None));
    rig.end().await;
}
