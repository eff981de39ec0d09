//! The attack matrix: one row, one test, each against a whole gateway over real sockets.
//!
//! A row says what the attacker has, what he hands in and what he gets. The judges stand outside
//! the gateway: the upstream's log, the ledger, and the calls that the node has counted.

mod bodies;
mod capability;
mod challenge;
mod concurrency;
mod conditions;
mod nano_session;
mod nano_signature;
mod nano_txn;
pub(crate) mod paths;
mod preflights;
mod strangers;

use std::time::Duration;

use faregate::devnet::{DevnetOptions, THRESHOLDS};
use faregate::nano::{Account, BlockHash, Raw, Representative, SecretKey, Signature, StateBlock, Work};
use faregate::store::{PaymentJournal, PaymentState};
use faregate::x402::{NanoOffer, PaymentProof, encode_header};
use reqwest::Response;
use serde_json::Value;

use crate::rig::{Effects, PLENTY, Plan, Rig, error, header};

/// The header that carries a proof.
const PROOF: &str = "PAYMENT-SIGNATURE";
/// A priced resource of one use.
const QUOTE: &str = "/v1/quote/XNO";
/// L, the order of the group, little-endian.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// Everything that requests leave behind outside the gateway.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Footprint {
    effects: Effects,
    /// Questions to the node about accounts and blocks.
    questions: u64,
}

impl Footprint {
    fn of(rig: &Rig) -> Self {
        let calls = |action| rig.devnet.faults().calls(action);
        Self { effects: rig.effects(), questions: calls("account_info") + calls("block_info") }
    }
}

/// Asserts that the proof is refused with `code`, and that nothing was forwarded or broadcast for
/// it. Gives the answer's bill for those who go on with it.
async fn refused(rig: &Rig, path: &str, proof: &str, code: &str) -> [NanoOffer; 2] {
    let before = rig.effects();
    let bill = refusal(rig, path, proof, code).await;
    assert_eq!(rig.effects(), before, "{code}");
    bill
}

/// As [`refused`], and the node was not asked anything either: the check that failed is cheap.
async fn refused_unasked(rig: &Rig, path: &str, proof: &str, code: &str) -> [NanoOffer; 2] {
    let before = Footprint::of(rig);
    let bill = refusal(rig, path, proof, code).await;
    assert_eq!(Footprint::of(rig), before, "{code}: a cheap check comes before any question");
    bill
}

/// As [`refused_unasked`], for one row of a table.
async fn row_is_refused_unasked(rig: &Rig, what: &str, proof: &str, code: &str) {
    let before = Footprint::of(rig);
    let answer = rig.get(QUOTE, &[(PROOF, proof)]).await;
    assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (402, code), "{what}");
    assert_eq!(Footprint::of(rig), before, "{what}");
}

async fn refusal(rig: &Rig, path: &str, proof: &str, code: &str) -> [NanoOffer; 2] {
    let answer = rig.get(path, &[(PROOF, proof)]).await;
    let bill = crate::rig::offers(&answer).offers.try_into().expect("a fresh bill with the refusal");
    assert_eq!(header(&answer, "cache-control"), "no-store");
    assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (402, code));
    bill
}

/// Asserts that the proof is not decided yet: 503 with `reason`, and nothing forwarded. Never a
/// bill: a client pays a bill again.
async fn pending(rig: &Rig, path: &str, proof: &str, reason: &str) {
    let upstream = rig.upstream.seen().len();
    let answer = rig.get(path, &[(PROOF, proof)]).await;
    assert!(answer.headers().contains_key("retry-after"));
    assert!(!answer.headers().contains_key("payment-required"), "no bill beside a payment under way");
    assert_eq!((answer.status().as_u16(), error(answer).await.as_str()), (503, reason));
    assert_eq!(rig.upstream.seen().len(), upstream, "{reason}: the upstream was reached");
}

/// Returns once a payment is noted and not spent. On a busy machine its client is told to wait before that.
async fn noted(rig: &Rig, block: BlockHash) {
    let is_noted = async || journal(rig, block).await == Some(PaymentState::Intent);
    crate::rig::eventually("the payment is noted", is_noted).await;
}

/// Asserts that the proof buys the answer, by one request to the upstream.
async fn served(rig: &Rig, path: &str, proof: &str) -> Response {
    let upstream = rig.upstream.seen().len();
    let answer = rig.get(path, &[(PROOF, proof)]).await;
    assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    assert_eq!(rig.upstream.seen().len(), upstream + 1);
    answer
}

/// The `nanoTxn` answer to `offer` with this block.
fn txn_proof(offer: &NanoOffer, block: StateBlock) -> String {
    encode_header(&offer.answer(&PaymentProof::NanoTxn { block }))
}

/// The envelope that answers `offer` with this block, to be falsified.
fn txn_payload(offer: &NanoOffer, block: StateBlock) -> Value {
    offer.answer(&PaymentProof::NanoTxn { block })
}

/// The answer to a `nanoSignature` offer with whatever the attacker likes in it.
fn signature_proof(
    offer: &NanoOffer,
    block_hash: BlockHash,
    account: Account,
    signature: Signature,
) -> String {
    encode_header(&offer.answer(&PaymentProof::NanoSignature { block_hash, account, signature }))
}

/// What the payer of `block` signs to answer a `nanoSignature` offer.
pub(crate) fn noms(key: &SecretKey, block: BlockHash, offer: &NanoOffer) -> Signature {
    let faregate::x402::ProofRequest::NanoSignature { nonce } = offer.ask else {
        panic!("no nanoSignature offer")
    };
    let message = format!("{}:{}:{}", block.lower_hex(), hex::encode(nonce), offer.valid_before);
    key.sign(&faregate::nano::noms_digest(&message).unwrap())
}

/// Asks for bills until one of the offers in place `which` pays `to`. The pool has eight addresses
/// for each mechanism.
async fn bill_to(rig: &Rig, path: &str, which: usize, to: Account) -> NanoOffer {
    for _ in 0..400 {
        let offer = rig.bill(path).await[which].clone();
        if offer.pay_to == to {
            return offer;
        }
    }
    panic!("no challenge for {to} in 400");
}

/// A signed block with work, whatever it says.
pub(crate) fn block(key: &SecretKey, previous: BlockHash, balance: Raw, link: [u8; 32]) -> StateBlock {
    let account = key.account();
    let representative = Representative(account);
    let signature = Signature([0; 64]);
    let block = StateBlock { account, previous, representative, balance, link, signature, work: None };
    with_work(block).signed(key)
}

pub(crate) fn with_work(mut block: StateBlock) -> StateBlock {
    let root = block.work_root();
    block.work = (0..).map(Work).find(|it| it.reaches(&root, THRESHOLDS.send));
    block
}

pub(crate) fn frontier(rig: &Rig, key: &SecretKey) -> BlockHash {
    rig.devnet.lattice().frontier(key.account()).unwrap()
}

pub(crate) fn balance(rig: &Rig, key: &SecretKey) -> Raw {
    rig.devnet.lattice().balance(key.account())
}

/// What was sent to `account` and not received, confirmed or not.
pub(crate) fn received(rig: &Rig, account: Account) -> Raw {
    rig.devnet.lattice().receivable_sum(account, false)
}

pub(crate) fn less(amount: Raw, by: Raw) -> Raw {
    amount.checked_sub(by).unwrap()
}

pub(crate) fn more(amount: Raw, by: Raw) -> Raw {
    amount.checked_add(by).unwrap()
}

pub(crate) const ONE: Raw = Raw::new(1);

/// What the journal says of a block; `None` if it does not know it.
pub(crate) async fn journal(rig: &Rig, block: BlockHash) -> Option<PaymentState> {
    rig.services.store().payment(block).await.unwrap().map(|it| it.state)
}

/// The signature that every node takes for the same: S + L in place of S.
fn malleated(signature: Signature) -> Signature {
    let mut bytes = signature.0;
    let mut carry = 0_u16;
    for (place, order) in bytes[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*place) + u16::from(order) + carry;
        *place = sum.to_le_bytes()[0];
        carry = sum >> 8;
    }
    Signature(bytes)
}

/// A ledger that confirms when it is told to, and a gateway that waits 200 ms for it.
pub(crate) fn unhurried() -> Plan {
    Plan {
        devnet: DevnetOptions { confirm_after: Duration::from_secs(3600), ..DevnetOptions::default() },
        more: "settlement: { wait: 200ms }".to_owned(),
        ..Plan::default()
    }
}

/// A gateway and a payer who has plenty.
async fn scene(plan: Plan) -> (Rig, SecretKey) {
    let rig = Rig::with(plan).await;
    let key = rig.payer(1, PLENTY);
    (rig, key)
}
