//! Reads bills and writes proofs for a payer.
//!
//! An entry of the bill is kept as the JSON that came and is sent back whole: the gateway needs all its
//! fields, also those that this wallet does not know.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use reqwest::Response;

use crate::nano::{Account, BlockHash, Raw, Signature, StateBlock, Threshold};
use crate::payment::Mechanism;
use crate::x402::payment_identifier::PaymentIdentifier;
use crate::x402::{
    MAX_HEADER_BYTES, Malformed, NanoOffer, NanoOffers, PaymentProof, ProofRequest, decode_header,
    encode_header,
};

static REQUIRED: HeaderName = HeaderName::from_static("payment-required");
static RESPONSE: HeaderName = HeaderName::from_static("payment-response");
static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The shortest and the longest pause that a gateway can ask for.
const MIN_RETRY_AFTER: Duration = Duration::from_millis(50);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// The pause if the gateway names none.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// What is wrong with a bill or a proof.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OfferError {
    #[error("there is no PAYMENT-REQUIRED header")]
    NoBill,
    #[error("PAYMENT-REQUIRED: {0}")]
    Malformed(#[from] Malformed),
    #[error(
        "it offers {offered}; this wallet can pay XNO on nano:mainnet by nanoTxn, nanoSignature or nanoSession"
    )]
    NothingKnown { offered: String },
    #[error("it offers no {wanted}")]
    NotOffered { wanted: Mechanism },
    #[error("the proof is longer than {MAX_HEADER_BYTES} bytes")]
    TooLong,
    #[error("it cannot be put into a header: {0}")]
    NoHeader(String),
}

/// The entries of a 402 that this wallet can pay.
#[derive(Clone, Debug)]
pub(super) struct PayableBill {
    entries: Vec<PayableEntry>,
    /// Why the other entries cannot be paid; for people.
    passed_over: String,
}

/// One entry of `accepts` that this wallet can pay.
#[derive(Clone, Debug)]
pub(super) struct PayableEntry {
    pub(super) mechanism: Mechanism,
    /// The work threshold of a `nanoTxn` block.
    pub(super) threshold: Option<Threshold>,
    offer: NanoOffer,
    /// The payment's id, and whether the server requires one: with an id a lost answer is given again.
    /// `None` if the server does not offer ids.
    identifier: Option<(PaymentIdentifier, bool)>,
}

/// Reads the bill of a 402.
pub(super) fn bill(headers: &HeaderMap) -> Result<PayableBill, OfferError> {
    let offers = NanoOffers::from_header(headers.get(&REQUIRED).ok_or(OfferError::NoBill)?)?;
    let passed_over: Vec<_> = offers.passed_over.iter().map(ToString::to_string).collect();
    Ok(PayableBill {
        entries: offers.offers.into_iter().filter_map(|it| entry(it, offers.payment_identifier)).collect(),
        passed_over: if passed_over.is_empty() {
            "nothing".to_owned()
        } else {
            excerpt(&passed_over.join(", "))
        },
    })
}

impl PayableBill {
    /// The entry by the wanted mechanism, or the first.
    pub(super) fn choose(&self, wanted: Option<Mechanism>) -> Result<&PayableEntry, OfferError> {
        let nothing = || OfferError::NothingKnown { offered: self.passed_over.clone() };
        let first = self.entries.first().ok_or_else(nothing)?;
        let Some(wanted) = wanted else { return Ok(first) };
        self.entries.iter().find(|entry| entry.mechanism == wanted).ok_or(OfferError::NotOffered { wanted })
    }

    /// The route of the bill, if it names one.
    pub(super) fn route(&self) -> Option<String> {
        self.entries.iter().find_map(PayableEntry::route)
    }

    /// Whether the bill is for a purse that does not cover the request.
    pub(super) fn adds_to_purse(&self) -> bool {
        self.entries.iter().any(PayableEntry::adds_to_purse)
    }

    /// The entry under which a block that was sent for `old` can be signed again: it has the same
    /// address, and both are `nanoSignature`. A `nanoTxn` block cannot move to another challenge.
    pub(super) fn renewal_of(&self, old: &PayableEntry) -> Option<PayableEntry> {
        let renews = |entry: &&PayableEntry| {
            old.mechanism == Mechanism::NanoSignature
                && entry.mechanism == Mechanism::NanoSignature
                && entry.pay_to() == old.pay_to()
        };
        let renewed = self.entries.iter().find(renews).cloned()?;
        // It is the same payment, so it keeps its id.
        Some(PayableEntry { identifier: old.identifier.clone(), ..renewed })
    }
}

impl PayableEntry {
    /// The price in raw.
    pub(super) const fn amount(&self) -> Raw {
        self.offer.amount
    }

    pub(super) const fn pay_to(&self) -> Account {
        self.offer.pay_to
    }

    pub(super) fn route(&self) -> Option<String> {
        self.offer.bought_at()
    }

    /// Whether what is paid can be added to a purse whose token comes with it.
    pub(super) fn adds_to_purse(&self) -> bool {
        self.offer.adds_to_purse()
    }

    /// The message that `nanoSignature` signs for `hash`; `None` for the other mechanisms.
    pub(super) fn message(&self, hash: BlockHash) -> Option<String> {
        match self.offer.ask {
            ProofRequest::NanoSignature { nonce } => {
                Some(format!("{}:{}:{}", hash.lower_hex(), hex::encode(nonce), self.offer.valid_before))
            }
            ProofRequest::NanoTxn { .. } | ProofRequest::NanoSession(_) => None,
        }
    }
}

/// The entry of an offer; `None` if it makes no sense to pay it.
fn entry(offer: NanoOffer, identified: Option<bool>) -> Option<PayableEntry> {
    if offer.amount.is_zero() || offer.pay_to == Account::BURN {
        return None;
    }
    let (mechanism, threshold) = match offer.ask {
        ProofRequest::NanoTxn { work } => (Mechanism::NanoTxn, work.map(|it| it.threshold)),
        ProofRequest::NanoSignature { .. } => (Mechanism::NanoSignature, None),
        ProofRequest::NanoSession(_) => (Mechanism::NanoSession, None),
    };
    // Made of the challenge, which only this client has, so that nobody else takes the id first.
    let identifier = identified.and_then(|required| {
        let id = PaymentIdentifier::parse(&format!("pay_{}", offer.challenge()?)).ok()?;
        Some((id, required))
    });
    Some(PayableEntry { mechanism, threshold, offer, identifier })
}

/// The value of `PAYMENT-SIGNATURE`: the block for `nanoTxn`, its hash for the other mechanisms.
pub(super) fn proof(
    entry: &PayableEntry,
    block: &StateBlock,
    signature: Option<Signature>,
) -> Result<HeaderValue, OfferError> {
    let proof = match signature {
        Some(signature) => {
            PaymentProof::NanoSignature { block_hash: block.hash(), account: block.account, signature }
        }
        None if entry.mechanism == Mechanism::NanoSession => {
            PaymentProof::NanoSession { block_hash: block.hash() }
        }
        None => PaymentProof::NanoTxn { block: *block },
    };
    let text = encode_header(&match &entry.identifier {
        Some((id, required)) => entry.offer.answer_under(&proof, id, *required),
        None => entry.offer.answer(&proof),
    });
    if text.len() > MAX_HEADER_BYTES {
        return Err(OfferError::TooLong);
    }
    let mut header = HeaderValue::from_str(&text).map_err(|error| OfferError::NoHeader(error.to_string()))?;
    header.set_sensitive(true);
    Ok(header)
}

/// The status that an answer stands for. To a call of gRPC the gateway says 402 and 503 in `grpc-status`,
/// under a status 200 of HTTP.
pub(super) fn status(response: &Response) -> StatusCode {
    let headers = response.headers();
    let grpc = headers.get(&GRPC_STATUS).filter(|_| response.status() == StatusCode::OK);
    match grpc.map(HeaderValue::as_bytes) {
        Some(b"9") if headers.contains_key(&REQUIRED) => StatusCode::PAYMENT_REQUIRED,
        Some(b"14") => StatusCode::SERVICE_UNAVAILABLE,
        Some(_) | None => response.status(),
    }
}

/// Whether the gateway says that it accepted the payment.
pub(super) fn acknowledged(headers: &HeaderMap) -> bool {
    success(headers) == Some(true)
}

/// The pause before the same request is sent again, if the gateway says that a payment or a use is
/// pending; else `None`. After a `proof`, every 503 means that, because a proxy in between may not know
/// of payments. The exception is a 503 that says that the payment was accepted: it is the upstream's own.
pub(super) fn not_yet(response: &Response, proof: bool) -> Option<Duration> {
    let pending = match success(response.headers()) {
        Some(accepted) => !accepted,
        None => proof,
    };
    if status(response) != StatusCode::SERVICE_UNAVAILABLE || !pending {
        return None;
    }
    let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Some(asked.map_or(RETRY_AFTER_DEFAULT, Duration::from_secs).clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER))
}

/// Why a payment was refused: the code in `PAYMENT-RESPONSE`, else the `error` of the new bill.
pub(super) fn reason(headers: &HeaderMap) -> Option<String> {
    let field_of = |header, field: &str| {
        decoded(headers, header)?.get(field).and_then(serde_json::Value::as_str).map(excerpt)
    };
    field_of(&RESPONSE, "errorReason").or_else(|| field_of(&REQUIRED, "error"))
}

fn success(headers: &HeaderMap) -> Option<bool> {
    decoded(headers, &RESPONSE)?.get("success")?.as_bool()
}

/// The JSON in a header, if it can be read. Receipts of other gateways may have fewer fields, so only
/// single fields are read.
fn decoded(headers: &HeaderMap, name: &HeaderName) -> Option<serde_json::Map<String, serde_json::Value>> {
    decode_header(headers.get(name)?).ok()
}

fn excerpt(text: &str) -> String {
    text.chars().filter(|it| !it.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::nano::{Network, Representative, UnixSeconds};
    use crate::routes::Grants;
    use crate::x402::payment_identifier::{PAYMENT_IDENTIFIER, declaration};
    use crate::x402::{
        Asset, Extra, PaymentRequired, PaymentRequirements, Resource, Scheme, SessionTerms, Track,
    };

    fn answer(status: u16, fields: &[(&HeaderName, String)]) -> Response {
        let mut response = http::Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, value);
        }
        response.body("").unwrap().into()
    }

    #[test]
    fn a_call_of_grpc_that_failed_is_billed_if_there_is_a_bill() {
        let code = |code: &str| (&GRPC_STATUS, code.to_owned());
        let billed = (&REQUIRED, "e30=".to_owned());
        for (http, fields, expected) in [
            (200, vec![code("9"), billed.clone()], 402),
            (200, vec![code("9")], 200),
            (200, vec![code("0"), billed.clone()], 200),
            (200, vec![billed.clone()], 200),
            (500, vec![code("9"), billed.clone()], 500),
            (402, vec![billed], 402),
        ] {
            assert_eq!(status(&answer(http, &fields)).as_u16(), expected, "{http} {fields:?}");
        }
    }

    #[test]
    fn after_a_proof_every_503_means_not_yet_but_the_upstreams_own() {
        let said = |success: bool| (&RESPONSE, encode_header(&serde_json::json!({ "success": success })));
        let usual = Some(RETRY_AFTER_DEFAULT);
        assert_eq!(not_yet(&answer(503, &[]), true), usual);
        assert_eq!(not_yet(&answer(503, &[]), false), None, "no payment is under way");
        assert_eq!(not_yet(&answer(503, &[said(false)]), false), usual);
        assert_eq!(not_yet(&answer(503, &[said(true)]), true), None, "it was accepted");
        assert_eq!(not_yet(&answer(502, &[]), true), None);
        let call = |fields: &[(&HeaderName, String)]| answer(200, fields);
        let unavailable = (&GRPC_STATUS, "14".to_owned());
        assert_eq!(not_yet(&call(std::slice::from_ref(&unavailable)), true), usual, "a call of gRPC");
        assert_eq!(not_yet(&call(&[unavailable, said(true)]), true), None, "its upstream is unavailable");
        for (asked, expected) in
            [("0", MIN_RETRY_AFTER), ("7", Duration::from_secs(7)), ("99", MAX_RETRY_AFTER)]
        {
            let after = answer(503, &[(&RETRY_AFTER, asked.to_owned())]);
            assert_eq!(not_yet(&after, true), Some(expected), "{asked}");
        }
    }

    /// The bill of a gateway with one entry, for a route of this name. `identified`: it asks for an id.
    fn bill_of(track: Track, route: &str, identified: bool) -> PayableBill {
        let amount = match track {
            Track::NanoSession(terms) => terms.amount().unwrap(),
            Track::NanoTxn { .. } | Track::NanoSignature => Raw::new(7),
        };
        let entry = PaymentRequirements {
            scheme: Scheme::Exact,
            network: Network::Mainnet,
            asset: Asset::Xno,
            amount,
            pay_to: Account([2; 32]),
            max_timeout_seconds: 60,
            extra: Extra {
                challenge: [1; 32],
                valid_before: UnixSeconds(1),
                route: route.to_owned(),
                grants: Grants::of_requests(NonZeroU32::MIN, 60),
                exchange: None,
                track,
            },
        };
        let declared = identified.then(|| (PAYMENT_IDENTIFIER.to_owned(), declaration(true)));
        let required = PaymentRequired {
            error: None,
            resource: Resource { url: "https://a.example/".to_owned(), description: None, mime_type: None },
            accepts: vec![entry],
            extensions: declared.into_iter().collect(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(&REQUIRED, required.to_header().parse().unwrap());
        bill(&headers).unwrap()
    }

    fn first(bill: &PayableBill) -> &PayableEntry {
        bill.choose(None).unwrap()
    }

    fn block() -> StateBlock {
        StateBlock {
            account: Account([3; 32]),
            previous: BlockHash([4; 32]),
            representative: Representative(Account([3; 32])),
            balance: Raw::new(1),
            link: [2; 32],
            signature: Signature([9; 64]),
            work: None,
        }
    }

    const SESSION: Track = Track::NanoSession(SessionTerms { price: Raw::new(7), tag_amount: Raw::new(3) });

    #[test]
    fn a_bill_names_the_route_that_is_paid_for() {
        assert_eq!(bill_of(Track::NanoSignature, "GET /v1", false).route().as_deref(), Some("GET /v1"));
    }

    /// Then a lost answer can still be given again under it.
    #[test]
    fn a_payment_that_is_signed_again_keeps_its_id() {
        let old = bill_of(Track::NanoSignature, "GET /v1", true);
        let new = bill_of(Track::NanoSignature, "GET /v1", false);
        let renewed = new.renewal_of(first(&old)).unwrap();
        assert!(renewed.identifier.is_some() && renewed.identifier == first(&old).identifier);
        let without = old.renewal_of(first(&new)).unwrap();
        assert_eq!(without.identifier, None, "it had none");
        assert!(bill_of(SESSION, "GET /v1", true).renewal_of(first(&old)).is_none());
    }

    #[test]
    fn a_proof_is_the_block_its_hash_or_a_signature_over_it() {
        let hash = block().hash().lower_hex().to_string();
        let payload = |track: Track, signature: Option<Signature>| {
            let proof = proof(first(&bill_of(track, "GET /", false)), &block(), signature).unwrap();
            decode_header(&proof).unwrap()["payload"].to_string().to_lowercase()
        };
        let (txn, session) = (payload(Track::NanoTxn { work: None }, None), payload(SESSION, None));
        assert!(txn.contains("balance") && txn.contains("previous"), "{txn}");
        assert!(session.contains(&hash) && !session.contains("balance"), "{session}");
        let signed = payload(Track::NanoSignature, Some(Signature([8; 64])));
        assert!(signed.contains(&hash) && signed.contains(&"08".repeat(64)), "{signed}");
    }

    /// A gateway reads no longer header.
    #[test]
    fn a_proof_has_at_most_the_length_that_is_read() {
        let length = |name: usize| {
            let bill = bill_of(Track::NanoSignature, &"r".repeat(name), false);
            proof(first(&bill), &block(), None).map(|it| it.len())
        };
        let lengths: Vec<_> = (10_000..11_800).step_by(100).map(length).collect();
        let long = lengths.iter().take_while(|it| it.is_ok()).count();
        assert!(long > 0 && long < lengths.len(), "{lengths:?}");
        let start = 10_000 + 100 * (long - 1);
        let longest = (start..start + 100).map_while(|it| length(it).ok()).last();
        assert_eq!(longest, Some(MAX_HEADER_BYTES));
    }
}
