//! A 402 of any server, as a paying client reads it.
//!
//! Other servers offer other currencies too, and entries as x402.Nano specifies them say less than
//! those of this gateway. The client sends an entry back unchanged, with all the fields that it does
//! not know.

use serde_json::{Map, Value};

use super::fields::Fields;
use super::payment_identifier::{PAYMENT_IDENTIFIER, PaymentIdentifier};
use super::required::check_currency;
use super::session::SessionTerms;
use super::{FieldFault, PaymentProof, Track, WorkTerms, X402_VERSION, readable};
use crate::nano::{Account, Raw, UnixSeconds};
use crate::routes::RouteName;

/// The entries of a 402 that can be paid in XNO.
#[derive(Clone, Debug, PartialEq)]
pub struct NanoOffers {
    /// Why the answer is a 402: a sentence, or the code of a refusal.
    pub error: Option<String>,
    /// In the server's order; it may be empty.
    pub offers: Vec<NanoOffer>,
    /// For each of the other entries, why it cannot be paid.
    pub passed_over: Vec<FieldFault>,
    /// Whether a payment must have an id; `None` if the server does not support ids.
    pub payment_identifier: Option<bool>,
}

/// One entry that can be paid.
#[derive(Clone, Debug, PartialEq)]
pub struct NanoOffer {
    /// The amount to send, in raw.
    pub amount: Raw,
    pub pay_to: Account,
    pub valid_before: UnixSeconds,
    pub ask: ProofRequest,
    /// The route that is paid for, if the server names it.
    pub route: Option<String>,
    entry: Value,
    resource: Option<Value>,
}

/// The kind of proof that the server asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProofRequest {
    /// A signed block; `work` is `None` if the server does not say which work it needs.
    NanoTxn { work: Option<WorkTerms> },
    /// A signature over the hash of a block and this nonce.
    NanoSignature { nonce: [u8; 32] },
    /// A block that sends exactly the amount of the entry.
    NanoSession(SessionTerms),
}

impl NanoOffers {
    fn read_fields(fields: &Fields<'_>) -> Result<Self, FieldFault> {
        fields.version()?;
        let resource = fields.optional("resource");
        let (mut offers, mut passed_over) = (Vec::new(), Vec::new());
        for (index, entry) in fields.array("accepts")?.iter().enumerate() {
            match NanoOffer::read(entry, &format!("accepts[{index}]"), resource) {
                Ok(offer) => offers.push(offer),
                Err(fault) => passed_over.push(fault),
            }
        }
        let declared = fields
            .extensions()?
            .get(PAYMENT_IDENTIFIER)
            .and_then(|it| it.get("info")?.get("required")?.as_bool());
        let error = fields.optional_text("error")?.map(str::to_owned);
        Ok(Self { error, offers, passed_over, payment_identifier: declared })
    }
}

impl NanoOffer {
    fn read(entry: &Value, path: &str, resource: Option<&Value>) -> Result<Self, FieldFault> {
        let fields = Fields::of_value(entry, path)?;
        check_currency(&fields)?;
        let extra = fields.object("extra")?;
        // Entries as x402.Nano specifies them name no mechanism: an entry with a nonce is Track B's, one
        // with a session is NanoSession's.
        let by_shape = if extra.optional("nanoSession").is_some() {
            Track::NANO_SESSION
        } else if extra.optional("nonce").is_some() {
            Track::NANO_SIGNATURE
        } else {
            Track::NANO_TXN
        };
        let ask = match extra.optional_text("mechanism")?.unwrap_or(by_shape) {
            Track::NANO_TXN => ProofRequest::NanoTxn { work: WorkTerms::read_optional(&extra)? },
            Track::NANO_SIGNATURE => ProofRequest::NanoSignature { nonce: extra.bytes32("nonce")? },
            Track::NANO_SESSION => {
                let terms = SessionTerms::read(&extra.object("nanoSession")?)?;
                terms.check_sum(fields.parsed("amount")?, &fields)?;
                ProofRequest::NanoSession(terms)
            }
            _ => return Err(extra.wrong("mechanism", Track::KNOWN)),
        };
        Ok(Self {
            amount: fields.parsed("amount")?,
            pay_to: fields.parsed("payTo")?,
            valid_before: UnixSeconds(extra.integer("validBefore")?),
            ask,
            route: extra.optional_text("route")?.map(str::to_owned),
            entry: entry.clone(),
            resource: resource.cloned(),
        })
    }

    /// The `PaymentPayload` that answers this entry with `proof`.
    #[must_use]
    pub fn answer(&self, proof: &PaymentProof) -> Value {
        let mut json = Map::new();
        json.insert("x402Version".to_owned(), X402_VERSION.into());
        if let Some(resource) = &self.resource {
            json.insert("resource".to_owned(), resource.clone());
        }
        json.insert("accepted".to_owned(), self.entry.clone());
        json.insert("payload".to_owned(), proof.to_json());
        Value::Object(json)
    }

    /// As [`NanoOffer::answer`], under an id of the client's own, which the server declares as `required`
    /// or not.
    #[must_use]
    pub fn answer_under(&self, proof: &PaymentProof, id: &PaymentIdentifier, required: bool) -> Value {
        let mut payload = self.answer(proof);
        if let Some(fields) = payload.as_object_mut() {
            let extension = (PAYMENT_IDENTIFIER.to_owned(), id.extension(required));
            fields.insert("extensions".to_owned(), Value::Object(Map::from_iter([extension])));
        }
        payload
    }

    /// The route whose capability is paid for, if the server names it.
    #[must_use]
    pub fn bought_at(&self) -> Option<String> {
        Some(RouteName::new(self.route.as_deref()?).without_purse().as_str().to_owned())
    }

    /// Whether what is paid can be added to a purse whose token comes with it.
    #[must_use]
    pub fn adds_to_purse(&self) -> bool {
        self.route.as_deref().is_some_and(|it| RouteName::new(it).adds_to().is_some())
    }

    /// The text that names this offer, `extra.challenge` or `extra.nonce`, where it has one: nobody
    /// but the server and who was sent the offer knows it.
    #[must_use]
    pub fn challenge(&self) -> Option<&str> {
        let extra = self.entry.get("extra")?;
        extra.get("challenge").or_else(|| extra.get("nonce"))?.as_str()
    }
}

readable!(NanoOffers);
