//! `PaymentPayload`, what a client hands in: a proof of payment, or a capability.

use std::fmt;

use serde_json::{Map, Value, json};

use super::fields::Fields;
use super::required::check_currency;
use super::{
    Fault, Malformed, PaymentRequirements, Resource, Track, X402_VERSION, decode_header, encode_header,
    serde_json_form,
};
use crate::nano::{Account, BlockHash, Signature, StateBlock};

/// What a `PAYMENT-SIGNATURE` header holds.
#[derive(Clone, Debug, PartialEq)]
pub struct PaymentPayload {
    /// What the client says it pays for. Nothing rests on it.
    pub resource: Option<Resource>,
    pub presented: Presented,
    pub extensions: Map<String, Value>,
}

/// What the client shows to be let in.
#[derive(Clone, Debug, PartialEq)]
pub enum Presented {
    Payment(Box<Payment>),
    /// A capability bought before; such a payload needs no `accepted`.
    Access {
        credential: Credential,
    },
}

/// A proof of payment and the entry it answers. [`PaymentPayload::read`] makes only those in which
/// the proof is of the entry's mechanism.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Payment {
    /// The entry of `accepts`, as the client says it was.
    pub accepted: PaymentRequirements,
    pub proof: Proof,
}

/// The client's `payload`; its shape tells which kind it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Proof {
    /// Track A: a signed block for the gateway to broadcast. It may lack its work.
    NanoTxn { block: StateBlock },
    /// Track B: a block that is on the ledger, and who signed for it.
    NanoSignature { block_hash: BlockHash, account: Account, signature: Signature },
    /// NanoSession: a block that is on the ledger. That the payer shows it, the entry says, which
    /// nobody else was sent.
    NanoSession { block_hash: BlockHash },
}

/// A capability's token. Whoever has it is let in, so it prints as `****`.
#[derive(Clone, Eq, PartialEq)]
pub struct Credential(String);

impl Credential {
    /// The token with this text.
    #[must_use]
    pub const fn new(token: String) -> Self {
        Self(token)
    }

    /// The token's text, for looking it up or handing it to its owner.
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

impl Proof {
    /// The mechanism's name on the wire.
    #[must_use]
    pub const fn mechanism(&self) -> &'static str {
        match self {
            Self::NanoTxn { .. } => Track::NANO_TXN,
            Self::NanoSignature { .. } => Track::NANO_SIGNATURE,
            Self::NanoSession { .. } => Track::NANO_SESSION,
        }
    }

    /// The `payload` object. Hexadecimal in lower case, as x402.Nano asks for it.
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
    /// Reads the value of a `PAYMENT-SIGNATURE` header.
    ///
    /// # Errors
    /// [`Malformed`]: unreadable (400), or readable and refused (402).
    pub fn from_header(value: impl AsRef<[u8]>) -> Result<Self, Malformed> {
        Ok(Self::read_fields(&Fields::of(&decode_header(value)?))?)
    }

    /// Reads the envelope, as the facilitator is sent it.
    ///
    /// # Errors
    /// [`Fault`]: the first in the order version, scheme, network, asset, shape of `payload`, the
    /// rest of `accepted` (PROTOCOL section 4).
    pub fn read(json: &Value) -> Result<Self, Fault> {
        Self::read_fields(&Fields::of_value(json, "")?)
    }

    fn read_fields(fields: &Fields<'_>) -> Result<Self, Fault> {
        fields.version()?;
        let accepted = fields.optional_object("accepted")?.map(Fields::echoed);
        if let Some(accepted) = &accepted {
            check_currency(accepted)?;
        }
        let payload = fields.object("payload")?;
        refuse_url_bound(&payload, accepted.as_ref())?;
        let presented = match read_shape(&payload)? {
            Shape::Access(credential) => Presented::Access { credential },
            Shape::Proof(proof) => {
                let accepted = accepted.ok_or_else(|| Fault::NotEchoed { path: fields.path("accepted") })?;
                let accepted = PaymentRequirements::read_fields(&accepted)?;
                agree(&proof, &accepted)?;
                Presented::Payment(Box::new(Payment { accepted, proof }))
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
            Presented::Payment(payment) => {
                json.insert("accepted".to_owned(), payment.accepted.to_json());
                json.insert("payload".to_owned(), payment.proof.to_json());
            }
            Presented::Access { credential } => {
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
    Proof(Proof),
    Access(Credential),
}

/// Tells the kind of `payload` by the fields it has.
fn read_shape(payload: &Fields<'_>) -> Result<Shape, Fault> {
    if payload.optional("block").is_some() {
        let block = payload.object("block")?.read()?;
        return Ok(Shape::Proof(Proof::NanoTxn { block }));
    }
    if is_session(payload) {
        return Ok(Shape::Proof(Proof::NanoSession { block_hash: payload.parsed("proof")? }));
    }
    if ["blockHash", "account", "signature"].iter().any(|field| payload.optional(field).is_some()) {
        return Ok(Shape::Proof(Proof::NanoSignature {
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
    Err(Fault::NoProof)
}

/// NanoSession's payload, which names the block as `proof` and nothing of Track B.
fn is_session(payload: &Fields<'_>) -> bool {
    let has = |field| payload.optional(field).is_some();
    has("proof") && !has("blockHash") && !has("account")
}

/// Revision 7's other mechanism, also called nanoSignature, has a signature beside the `proof`. Its
/// sender is told so rather than what would be missing of Track B.
fn refuse_url_bound(payload: &Fields<'_>, accepted: Option<&Fields<'_>>) -> Result<(), Fault> {
    if !is_session(payload) || payload.optional("signature").is_none() {
        return Ok(());
    }
    let extra = accepted.and_then(|it| it.optional("extra"));
    let mechanism = extra.and_then(|it| it.get("mechanism")).and_then(Value::as_str);
    if mechanism == Some(Track::NANO_SESSION) { Ok(()) } else { Err(Fault::UrlBound) }
}

/// A proof answers an entry of its own mechanism.
fn agree(proof: &Proof, accepted: &PaymentRequirements) -> Result<(), Fault> {
    let (payload, accepted) = (proof.mechanism(), accepted.extra.track.as_str());
    if payload == accepted { Ok(()) } else { Err(Fault::TrackDisagrees { payload, accepted }) }
}

serde_json_form!(PaymentPayload);
