//! A 402 as a paying client reads it, whoever wrote it.
//!
//! Other servers offer other currencies beside this one, and x402.Nano's entries say less than the
//! gateway's own. An entry is sent back as it came, with all that is not understood in it.

use serde_json::{Map, Value};

use super::fields::Fields;
use super::payment_identifier::{PAYMENT_IDENTIFIER, PaymentIdentifier};
use super::required::check_currency;
use super::session::SessionTerms;
use super::{Fault, Malformed, Proof, Track, WorkTerms, X402_VERSION, decode_header};
use crate::nano::{Account, Raw, UnixSeconds};

/// The entries of a 402 that can be paid in XNO.
#[derive(Clone, Debug, PartialEq)]
pub struct Offers {
    /// Why it is a 402: a sentence or a refusal's code.
    pub error: Option<String>,
    /// In the server's order; it may be empty.
    pub offers: Vec<Offer>,
    /// Why the other entries cannot be paid.
    pub passed_over: Vec<Fault>,
    /// Whether an id is required of a payment; nothing where the server knows no ids.
    pub payment_identifier: Option<bool>,
}

/// One entry that can be paid.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// What is to be sent, in raw.
    pub amount: Raw,
    pub pay_to: Account,
    pub valid_before: UnixSeconds,
    pub ask: Ask,
    /// The route that is paid for, where the server says.
    pub route: Option<String>,
    entry: Value,
    resource: Option<Value>,
}

/// What the server wants to see.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ask {
    /// A signed block. Nothing where the server does not say what work it asks for.
    NanoTxn { work: Option<WorkTerms> },
    /// A signature over a block's hash and this nonce.
    NanoSignature { nonce: [u8; 32] },
    /// A send of exactly the entry's amount.
    NanoSession(SessionTerms),
}

impl Offers {
    /// Reads the value of a `PAYMENT-REQUIRED` header.
    ///
    /// # Errors
    /// [`Malformed`], when it is no `PaymentRequired` of version 2. An entry that cannot be paid is
    /// no error; it is passed over.
    pub fn from_header(value: impl AsRef<[u8]>) -> Result<Self, Malformed> {
        Ok(Self::read_fields(&Fields::of(&decode_header(value)?))?)
    }

    /// Reads a 402's body.
    ///
    /// # Errors
    /// [`Fault`], as [`Offers::from_header`].
    pub fn read(json: &Value) -> Result<Self, Fault> {
        Self::read_fields(&Fields::of_value(json, "")?)
    }

    fn read_fields(fields: &Fields<'_>) -> Result<Self, Fault> {
        fields.version()?;
        let resource = fields.optional("resource");
        let (mut offers, mut passed_over) = (Vec::new(), Vec::new());
        for (index, entry) in fields.array("accepts")?.iter().enumerate() {
            match Offer::read(entry, &format!("accepts[{index}]"), resource) {
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

impl Offer {
    fn read(entry: &Value, path: &str, resource: Option<&Value>) -> Result<Self, Fault> {
        let fields = Fields::of_value(entry, path)?;
        check_currency(&fields)?;
        let extra = fields.object("extra")?;
        // x402.Nano's own entries name no mechanism: there a nonce is what sets Track B apart, and a
        // session what sets NanoSession's.
        let by_shape = if extra.optional("nanoSession").is_some() {
            Track::NANO_SESSION
        } else if extra.optional("nonce").is_some() {
            Track::NANO_SIGNATURE
        } else {
            Track::NANO_TXN
        };
        let ask = match extra.optional_text("mechanism")?.unwrap_or(by_shape) {
            Track::NANO_TXN => Ask::NanoTxn { work: WorkTerms::read_optional(&extra)? },
            Track::NANO_SIGNATURE => Ask::NanoSignature { nonce: extra.bytes32("nonce")? },
            Track::NANO_SESSION => {
                let terms = SessionTerms::read(&extra.object("nanoSession")?)?;
                terms.check_sum(fields.parsed("amount")?, &fields)?;
                Ask::NanoSession(terms)
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
    pub fn answer(&self, proof: &Proof) -> Value {
        let mut json = Map::new();
        json.insert("x402Version".to_owned(), X402_VERSION.into());
        if let Some(resource) = &self.resource {
            json.insert("resource".to_owned(), resource.clone());
        }
        json.insert("accepted".to_owned(), self.entry.clone());
        json.insert("payload".to_owned(), proof.to_json());
        Value::Object(json)
    }

    /// As [`Offer::answer`], under an id of the client's own, which the server declares as `required`
    /// or not.
    #[must_use]
    pub fn answer_under(&self, proof: &Proof, id: &PaymentIdentifier, required: bool) -> Value {
        let mut payload = self.answer(proof);
        if let Some(fields) = payload.as_object_mut() {
            let extension = (PAYMENT_IDENTIFIER.to_owned(), id.extension(required));
            fields.insert("extensions".to_owned(), Value::Object(Map::from_iter([extension])));
        }
        payload
    }

    /// The text that names this offer, `extra.challenge` or `extra.nonce`, where it has one: nobody
    /// but the server and who was sent the offer knows it.
    #[must_use]
    pub fn challenge(&self) -> Option<&str> {
        let extra = self.entry.get("extra")?;
        extra.get("challenge").or_else(|| extra.get("nonce"))?.as_str()
    }
}
