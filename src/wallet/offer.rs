//! The envelopes as a payer needs them: a bill read, a proof written.
//!
//! An entry of the bill is kept as the JSON it came in and echoed whole: what the gateway has put
//! into it, it wants back, known to this wallet or not.

use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use reqwest::Response;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::nano::{Account, Network, Raw, Signature, StateBlock, Threshold, UnixSeconds};
use crate::payment::{Mechanism, Nonce};

static REQUIRED: HeaderName = HeaderName::from_static("payment-required");
static RESPONSE: HeaderName = HeaderName::from_static("payment-response");

/// The longest header that is read, as the gateway's own limit (PROTOCOL section 2).
const MAX_HEADER: usize = 16 * 1024;

/// The pauses between two tries that a gateway can ask for.
const MIN_RETRY_AFTER: Duration = Duration::from_millis(50);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(30);

/// The pause where the gateway does not say.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

const X402_VERSION: u64 = 2;
const SCHEME: &str = "exact";
const ASSET: &str = "XNO";

/// What is wrong with an envelope.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OfferError {
    #[error("there is no PAYMENT-REQUIRED header")]
    NoBill,
    #[error("a payment header has more than {MAX_HEADER} bytes")]
    TooLong,
    #[error("PAYMENT-REQUIRED is not base64 of JSON: {0}")]
    Unreadable(String),
    #[error("x402 version {0} is not known, only {X402_VERSION}")]
    Version(String),
    #[error(
        "it offers {offered}; this wallet pays `{SCHEME}` XNO on nano:mainnet by nanoTxn or nanoSignature"
    )]
    NothingKnown { offered: String },
    #[error("it offers {offered}, not the wanted {wanted}")]
    NotOffered { wanted: Mechanism, offered: String },
    #[error("it cannot be put into a header: {0}")]
    NoHeader(String),
}

/// A `PaymentRequired`.
#[derive(Clone, Debug)]
pub(super) struct Bill {
    resource: Option<Value>,
    entries: Vec<Entry>,
    /// What every entry is, known or not; for people.
    offered: String,
}

/// One entry of `accepts` that this wallet can pay by.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) mechanism: Mechanism,
    pub(super) amount: Raw,
    pub(super) pay_to: Account,
    pub(super) nonce: Nonce,
    pub(super) valid_before: UnixSeconds,
    /// What the entry asks of a `nanoTxn` block's work.
    pub(super) threshold: Option<Threshold>,
    pub(super) route: Option<String>,
    verbatim: Value,
}

/// Reads the bill of a 402.
pub(super) fn bill(headers: &HeaderMap) -> Result<Bill, OfferError> {
    let json = decoded(headers, &REQUIRED)?.ok_or(OfferError::NoBill)?;
    let version = json.get("x402Version").cloned().unwrap_or(Value::Null);
    if version.as_u64() != Some(X402_VERSION) {
        return Err(OfferError::Version(excerpt(&version.to_string())));
    }
    let accepts = json.get("accepts").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let offered: Vec<_> = accepts.iter().map(described).collect();
    Ok(Bill {
        resource: json.get("resource").filter(|resource| resource.is_object()).cloned(),
        entries: accepts.iter().filter_map(entry).collect(),
        offered: if offered.is_empty() { "nothing".to_owned() } else { offered.join(", ") },
    })
}

impl Bill {
    /// The entry by the wanted mechanism, or the first.
    pub(super) fn choose(&self, wanted: Option<Mechanism>) -> Result<&Entry, OfferError> {
        let first =
            self.entries.first().ok_or_else(|| OfferError::NothingKnown { offered: self.offered.clone() })?;
        let Some(wanted) = wanted else { return Ok(first) };
        self.entries
            .iter()
            .find(|entry| entry.mechanism == wanted)
            .ok_or_else(|| OfferError::NotOffered { wanted, offered: self.offered.clone() })
    }

    /// The route that the bill is for, where it says.
    pub(super) fn route(&self) -> Option<String> {
        self.entries.iter().find_map(|entry| entry.route.clone())
    }

    /// The entry under which a block that was sent for `old` can be signed anew: the same address,
    /// and by signature, since a signed block itself cannot be moved to another challenge.
    pub(super) fn renewal_of(&self, old: &Entry) -> Option<Entry> {
        let renews = |entry: &&Entry| {
            old.mechanism == Mechanism::NanoSignature
                && entry.mechanism == Mechanism::NanoSignature
                && entry.pay_to == old.pay_to
        };
        self.entries.iter().find(renews).cloned()
    }
}

/// An entry this wallet understands in full; the others are left alone.
fn entry(verbatim: &Value) -> Option<Entry> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Told {
        scheme: String,
        #[serde(rename = "network")]
        _network: Network,
        asset: String,
        amount: Raw,
        pay_to: Account,
        extra: Extra,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Extra {
        mechanism: Option<Mechanism>,
        nonce: Option<Nonce>,
        challenge: Option<Nonce>,
        valid_before: u64,
        work_threshold: Option<Threshold>,
        route: Option<String>,
    }
    let told = Told::deserialize(verbatim).ok()?;
    if told.scheme != SCHEME || told.asset != ASSET || told.amount.is_zero() || told.pay_to == Account::BURN {
        return None;
    }
    let extra = told.extra;
    let (mechanism, nonce) = match (extra.mechanism, extra.nonce, extra.challenge) {
        (Some(Mechanism::NanoSignature), Some(nonce), _) | (None, Some(nonce), None) => {
            (Mechanism::NanoSignature, nonce)
        }
        (Some(Mechanism::NanoTxn), _, Some(nonce)) | (None, None, Some(nonce)) => (Mechanism::NanoTxn, nonce),
        _ => return None,
    };
    Some(Entry {
        mechanism,
        amount: told.amount,
        pay_to: told.pay_to,
        nonce,
        valid_before: UnixSeconds(extra.valid_before),
        threshold: extra.work_threshold,
        route: extra.route,
        verbatim: verbatim.clone(),
    })
}

/// An entry in a few words, for people.
fn described(entry: &Value) -> String {
    let field = |name| entry.get(name).and_then(Value::as_str).unwrap_or("?");
    let mechanism = entry.pointer("/extra/mechanism").and_then(Value::as_str).unwrap_or("?");
    excerpt(&format!("{} {} on {} ({mechanism})", field("scheme"), field("asset"), field("network")))
}

/// The value of `PAYMENT-SIGNATURE`: the block itself, or with a `signature` only its hash.
pub(super) fn proof(
    bill: &Bill,
    entry: &Entry,
    block: &StateBlock,
    signature: Option<Signature>,
) -> Result<HeaderValue, OfferError> {
    let payload = match signature {
        Some(signature) => json!({
            "blockHash": block.hash().lower_hex(),
            "account": block.account,
            "signature": signature.lower_hex(),
        }),
        None => json!({ "block": block }),
    };
    let mut envelope = json!({ "x402Version": X402_VERSION, "accepted": entry.verbatim, "payload": payload });
    if let (Some(fields), Some(resource)) = (envelope.as_object_mut(), &bill.resource) {
        fields.insert("resource".to_owned(), resource.clone());
    }
    let text = STANDARD.encode(envelope.to_string());
    if text.len() > MAX_HEADER {
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
        let json = decoded(headers, header).ok().flatten()?;
        json.get(field).and_then(Value::as_str).map(excerpt)
    };
    said(&RESPONSE, "errorReason").or_else(|| said(&REQUIRED, "error"))
}

fn success(headers: &HeaderMap) -> Option<bool> {
    decoded(headers, &RESPONSE).ok().flatten()?.get("success")?.as_bool()
}

/// The JSON in a header: base64 of either alphabet, padded or not.
fn decoded(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Value>, OfferError> {
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &ALPHABET,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let Some(value) = headers.get(name) else { return Ok(None) };
    if value.len() > MAX_HEADER {
        return Err(OfferError::TooLong);
    }
    let text = value.to_str().map_err(|error| OfferError::Unreadable(error.to_string()))?;
    let text = text.trim().replace('-', "+").replace('_', "/");
    let bytes = LENIENT.decode(text).map_err(|error| OfferError::Unreadable(error.to_string()))?;
    serde_json::from_slice(&bytes).map(Some).map_err(|error| OfferError::Unreadable(error.to_string()))
}

fn excerpt(text: &str) -> String {
    text.chars().filter(|it| !it.is_control()).take(120).collect()
}
