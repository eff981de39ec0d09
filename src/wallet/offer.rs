//! The envelopes as a payer needs them: a bill read, a proof written.
//!
//! An entry of the bill is kept as the JSON it came in and echoed whole: what the gateway has put
//! into it, it wants back, known to this wallet or not.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use reqwest::Response;

use crate::nano::{Account, BlockHash, Raw, Signature, StateBlock, Threshold};
use crate::payment::Mechanism;
use crate::x402::payment_identifier::PaymentIdentifier;
use crate::x402::{
    MAX_HEADER_BYTES, Malformed, PayableEntries, PayableEntry, PaymentProof, ProofRequest, decode_header,
    encode_header,
};

static REQUIRED: HeaderName = HeaderName::from_static("payment-required");
static RESPONSE: HeaderName = HeaderName::from_static("payment-response");

/// The pauses between two tries that a gateway can ask for.
const MIN_RETRY_AFTER: Duration = Duration::from_millis(50);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// The pause where the gateway does not say.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// What is wrong with an envelope.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OfferError {
    #[error("there is no PAYMENT-REQUIRED header")]
    NoBill,
    #[error("PAYMENT-REQUIRED: {0}")]
    Malformed(#[from] Malformed),
    #[error(
        "it offers {offered}; this wallet pays XNO on nano:mainnet by nanoTxn, nanoSignature or nanoSession"
    )]
    NothingKnown { offered: String },
    #[error("it offers no {wanted}")]
    NotOffered { wanted: Mechanism },
    #[error("the proof is longer than {MAX_HEADER_BYTES} bytes")]
    TooLong,
    #[error("it cannot be put into a header: {0}")]
    NoHeader(String),
}

/// What a 402 asks for, as far as this wallet can pay it.
#[derive(Clone, Debug)]
pub(super) struct Bill {
    entries: Vec<Entry>,
    /// Why the other entries cannot be paid; for people.
    passed_over: String,
}

/// One entry of `accepts` that this wallet can pay by.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) mechanism: Mechanism,
    /// What the entry asks of a `nanoTxn` block's work.
    pub(super) threshold: Option<Threshold>,
    offer: PayableEntry,
    /// What the payment is called, and whether it has to be: so that an answer that was lost is given
    /// again. Nothing where the server knows no ids.
    identifier: Option<(PaymentIdentifier, bool)>,
}

/// Reads the bill of a 402.
pub(super) fn bill(headers: &HeaderMap) -> Result<Bill, OfferError> {
    let offers = PayableEntries::from_header(headers.get(&REQUIRED).ok_or(OfferError::NoBill)?)?;
    let passed_over: Vec<_> = offers.passed_over.iter().map(ToString::to_string).collect();
    Ok(Bill {
        entries: offers.offers.into_iter().filter_map(|it| entry(it, offers.payment_identifier)).collect(),
        passed_over: if passed_over.is_empty() {
            "nothing".to_owned()
        } else {
            excerpt(&passed_over.join(", "))
        },
    })
}

impl Bill {
    /// The entry by the wanted mechanism, or the first.
    pub(super) fn choose(&self, wanted: Option<Mechanism>) -> Result<&Entry, OfferError> {
        let nothing = || OfferError::NothingKnown { offered: self.passed_over.clone() };
        let first = self.entries.first().ok_or_else(nothing)?;
        let Some(wanted) = wanted else { return Ok(first) };
        self.entries.iter().find(|entry| entry.mechanism == wanted).ok_or(OfferError::NotOffered { wanted })
    }

    /// The route that the bill is for, where it says.
    pub(super) fn route(&self) -> Option<String> {
        self.entries.iter().find_map(Entry::route)
    }

    /// The entry under which a block that was sent for `old` can be signed anew: the same address,
    /// and by signature, since a signed block itself cannot be moved to another challenge.
    pub(super) fn renewal_of(&self, old: &Entry) -> Option<Entry> {
        let renews = |entry: &&Entry| {
            old.mechanism == Mechanism::NanoSignature
                && entry.mechanism == Mechanism::NanoSignature
                && entry.pay_to() == old.pay_to()
        };
        let renewed = self.entries.iter().find(renews).cloned()?;
        // It is the same payment.
        Some(Entry { identifier: old.identifier.clone(), ..renewed })
    }
}

impl Entry {
    /// The price in raw.
    pub(super) const fn amount(&self) -> Raw {
        self.offer.amount
    }

    pub(super) const fn pay_to(&self) -> Account {
        self.offer.pay_to
    }

    pub(super) fn route(&self) -> Option<String> {
        self.offer.route.clone()
    }

    /// What is signed for `hash` by `nanoSignature`; nothing by `nanoTxn`.
    pub(super) fn message(&self, hash: BlockHash) -> Option<String> {
        match self.offer.ask {
            ProofRequest::NanoSignature { nonce } => {
                Some(format!("{}:{}:{}", hash.lower_hex(), hex::encode(nonce), self.offer.valid_before))
            }
            ProofRequest::NanoTxn { .. } | ProofRequest::NanoSession(_) => None,
        }
    }
}

/// An entry that makes sense to pay.
fn entry(offer: PayableEntry, identified: Option<bool>) -> Option<Entry> {
    if offer.amount.is_zero() || offer.pay_to == Account::BURN {
        return None;
    }
    let (mechanism, threshold) = match offer.ask {
        ProofRequest::NanoTxn { work } => (Mechanism::NanoTxn, work.map(|it| it.threshold)),
        ProofRequest::NanoSignature { .. } => (Mechanism::NanoSignature, None),
        ProofRequest::NanoSession(_) => (Mechanism::NanoSession, None),
    };
    // Made of what only this client was sent, so that nobody else takes the id first.
    let identifier = identified.and_then(|required| {
        let id = PaymentIdentifier::parse(&format!("pay_{}", offer.challenge()?)).ok()?;
        Some((id, required))
    });
    Some(Entry { mechanism, threshold, offer, identifier })
}

/// The value of `PAYMENT-SIGNATURE`: the block itself, or with a `signature` only its hash, as in a
/// session.
pub(super) fn proof(
    entry: &Entry,
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

/// Whether the gateway says that it took the payment.
pub(super) fn acknowledged(headers: &HeaderMap) -> bool {
    success(headers) == Some(true)
}

/// How long to wait where the gateway says that a payment, or the use of one, is on its way: the
/// same is to be shown again. After a `proof` every 503 means that but one that says the payment
/// was taken, which is the upstream's own: what stands between may not know of payments at all.
pub(super) fn not_yet(response: &Response, proof: bool) -> Option<Duration> {
    let waits = match success(response.headers()) {
        Some(taken) => !taken,
        None => proof,
    };
    if response.status() != StatusCode::SERVICE_UNAVAILABLE || !waits {
        return None;
    }
    let told = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Some(told.map_or(RETRY_AFTER_DEFAULT, Duration::from_secs).clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER))
}

/// Why a payment was refused: the code in `PAYMENT-RESPONSE`, else what the new bill says.
pub(super) fn reason(headers: &HeaderMap) -> Option<String> {
    let said = |header, field: &str| {
        decoded(headers, header)?.get(field).and_then(serde_json::Value::as_str).map(excerpt)
    };
    said(&RESPONSE, "errorReason").or_else(|| said(&REQUIRED, "error"))
}

fn success(headers: &HeaderMap) -> Option<bool> {
    decoded(headers, &RESPONSE)?.get("success")?.as_bool()
}

/// The JSON in a header, if it can be read. A receipt that says less than the gateway's own is one
/// all the same, so it is not taken for more than its fields.
fn decoded(headers: &HeaderMap, name: &HeaderName) -> Option<serde_json::Map<String, serde_json::Value>> {
    decode_header(headers.get(name)?).ok()
}

fn excerpt(text: &str) -> String {
    text.chars().filter(|it| !it.is_control()).take(200).collect()
}
