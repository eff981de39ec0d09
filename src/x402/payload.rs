//! `PaymentPayload`, which a client sends: a proof of payment, or a capability.

use std::fmt;

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::required::check_currency;
use super::{
    FieldFault, PaymentRequirements, Resource, Track, X402_VERSION, encode_header, readable, serde_json_form,
};
use crate::nano::{Account, BlockHash, Raw, Signature, StateBlock};

/// What a `PAYMENT-SIGNATURE` header holds.
#[derive(Clone, Debug, PartialEq)]
pub struct PaymentPayload {
    /// What the client says it pays for. No decision depends on it.
    pub resource: Option<Resource>,
    pub presented: Payload,
    pub extensions: Map<String, Value>,
}

/// What the client presents: a payment, or a capability.
#[derive(Clone, Debug, PartialEq)]
pub enum Payload {
    Payment(Box<PresentedPayment>),
    /// A capability that was bought before. This payload needs no `accepted`.
    Access {
        credential: Credential,
    },
}

/// A proof of payment and the entry that it answers. In what [`PaymentPayload::read`] returns, both
/// have the same mechanism.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PresentedPayment {
    /// The entry of `accepts`, as the client sent it back.
    pub accepted: PaymentRequirements,
    pub proof: PaymentProof,
}

/// A signed block and the six fields of the entry that it answers, as the foundation's `exact` scheme on Nano has them
/// (`specs/schemes/exact/scheme_exact_nano.md`): without `extra`, so that nothing binds it to a bill.
#[derive(Clone, Debug, PartialEq)]
pub struct PlainPayment {
    /// In raw.
    pub amount: Raw,
    pub pay_to: Account,
    pub block: StateBlock,
    pub extensions: Map<String, Value>,
}

impl PlainPayment {
    fn read_fields(fields: &Fields<'_>) -> Result<Self, FieldFault> {
        fields.version()?;
        let accepted = fields.object("accepted")?;
        check_currency(&accepted)?;
        if accepted.optional("extra").is_some() {
            return Err(accepted.wrong("extra", "an entry with it is read as a whole"));
        }
        Ok(Self {
            amount: accepted.parsed("amount")?,
            pay_to: accepted.parsed("payTo")?,
            block: fields.object("payload")?.object("block")?.read()?,
            extensions: fields.extensions()?,
        })
    }
}

/// The proof in the field `payload`. The fields that it has tell its mechanism.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PaymentProof {
    /// Track A: a signed block, which the gateway broadcasts. Its work may be missing.
    NanoTxn { block: StateBlock },
    /// Track B: a block that is on the ledger, and a signature of its account.
    NanoSignature { block_hash: BlockHash, account: Account, signature: Signature },
    /// NanoSession: a block that is on the ledger. The entry shows that the payer presents it, since
    /// nobody else received that entry.
    NanoSession { block_hash: BlockHash },
}

/// The token of a capability. Whoever has it can use the capability, so it prints as `****`.
#[derive(Clone, Eq, PartialEq)]
pub struct Credential(String);

impl Credential {
    /// The token with this text.
    #[must_use]
    pub const fn new(token: String) -> Self {
        Self(token)
    }

    /// The text of the token, to look it up or to give it to its owner.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(****)")
    }
}

impl PaymentProof {
    /// The mechanism's name on the wire.
    #[must_use]
    pub const fn mechanism(&self) -> &'static str {
        match self {
            Self::NanoTxn { .. } => Track::NANO_TXN,
            Self::NanoSignature { .. } => Track::NANO_SIGNATURE,
            Self::NanoSession { .. } => Track::NANO_SESSION,
        }
    }

    /// The object `payload`. Its hexadecimal is in lower case, as x402.Nano requires.
    #[must_use]
    pub fn to_json(&self) -> Value {
        match self {
            Self::NanoTxn { block } => json!({ "block": block }),
            Self::NanoSignature { block_hash, account, signature } => json!({
                "blockHash": block_hash.lower_hex(),
                "account": account.to_string(),
                "signature": signature.lower_hex(),
            }),
            Self::NanoSession { block_hash } => json!({ "proof": block_hash.lower_hex() }),
        }
    }
}

impl PaymentPayload {
    /// A fault is the first one in the order version, scheme, network, asset, shape of `payload`, the
    /// rest of `accepted` ([protocol guide](crate::guide::protocol), "Verification").
    fn read_fields(fields: &Fields<'_>) -> Result<Self, FieldFault> {
        fields.version()?;
        let accepted = fields.optional_object("accepted")?.map(Fields::echoed);
        if let Some(accepted) = &accepted {
            check_currency(accepted)?;
        }
        let payload = fields.object("payload")?;
        refuse_url_bound(&payload, accepted.as_ref())?;
        let presented = match read_shape(&payload)? {
            Shape::Access(credential) => Payload::Access { credential },
            Shape::Proof(proof) => {
                let accepted =
                    accepted.ok_or_else(|| FieldFault::NotEchoed { path: fields.path("accepted") })?;
                let accepted = PaymentRequirements::read_fields(&accepted)?;
                agree(&proof, &accepted)?;
                Payload::Payment(Box::new(PresentedPayment { accepted, proof }))
            }
        };
        let resource = fields.optional_object("resource")?.map(|it| Resource::read(&it)).transpose()?;
        Ok(Self { resource, presented, extensions: fields.extensions()? })
    }

    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut json = Map::new();
        json.insert("x402Version".to_owned(), X402_VERSION.into());
        if let Some(resource) = &self.resource {
            json.insert("resource".to_owned(), resource.to_json());
        }
        match &self.presented {
            Payload::Payment(payment) => {
                json.insert("accepted".to_owned(), payment.accepted.to_json());
                json.insert("payload".to_owned(), payment.proof.to_json());
            }
            Payload::Access { credential } => {
                let payload = json!({ "mode": "access", "credential": credential.expose() });
                json.insert("payload".to_owned(), payload);
            }
        }
        if !self.extensions.is_empty() {
            json.insert("extensions".to_owned(), Value::Object(self.extensions.clone()));
        }
        Value::Object(json)
    }

    /// The value of the `PAYMENT-SIGNATURE` header.
    #[must_use]
    pub fn to_header(&self) -> String {
        encode_header(&self.to_json())
    }
}

enum Shape {
    Proof(PaymentProof),
    Access(Credential),
}

/// Reads `payload` as the kind that its fields show.
fn read_shape(payload: &Fields<'_>) -> Result<Shape, FieldFault> {
    if payload.optional("block").is_some() {
        let block = payload.object("block")?.read()?;
        return Ok(Shape::Proof(PaymentProof::NanoTxn { block }));
    }
    if is_session(payload) {
        return Ok(Shape::Proof(PaymentProof::NanoSession { block_hash: payload.parsed("proof")? }));
    }
    if ["blockHash", "account", "signature"].iter().any(|field| payload.optional(field).is_some()) {
        return Ok(Shape::Proof(PaymentProof::NanoSignature {
            block_hash: payload.parsed("blockHash")?,
            account: payload.parsed("account")?,
            signature: payload.parsed("signature")?,
        }));
    }
    if payload.optional("mode").and_then(Value::as_str) == Some("access") {
        let token = payload.text("credential")?;
        if token.is_empty() {
            return Err(payload.wrong("credential", "it is empty"));
        }
        return Ok(Shape::Access(Credential(token.to_owned())));
    }
    Err(FieldFault::NoProof)
}

/// Whether this is NanoSession's payload, which names the block as `proof` and has no field of Track B.
fn is_session(payload: &Fields<'_>) -> bool {
    let has = |field| payload.optional(field).is_some();
    has("proof") && !has("blockHash") && !has("account")
}

/// Refuses the other mechanism of revision 7, also called nanoSignature, which has a signature beside
/// the `proof`. The message says so, instead of naming the fields of Track B that are missing.
fn refuse_url_bound(payload: &Fields<'_>, accepted: Option<&Fields<'_>>) -> Result<(), FieldFault> {
    if !is_session(payload) || payload.optional("signature").is_none() {
        return Ok(());
    }
    let extra = accepted.and_then(|it| it.optional("extra"));
    let mechanism = extra.and_then(|it| it.get("mechanism")).and_then(Value::as_str);
    if mechanism == Some(Track::NANO_SESSION) { Ok(()) } else { Err(FieldFault::UrlBound) }
}

/// Checks that the proof and the entry have the same mechanism.
fn agree(proof: &PaymentProof, accepted: &PaymentRequirements) -> Result<(), FieldFault> {
    let (payload, accepted) = (proof.mechanism(), accepted.extra.track.as_str());
    if payload == accepted { Ok(()) } else { Err(FieldFault::TrackDisagrees { payload, accepted }) }
}

readable!(PaymentPayload);
readable!(PlainPayment);
serde_json_form!(PaymentPayload);
