//! `PaymentRequired`, the content of a 402, and its entries, one of which a client sends back.

use std::num::NonZeroU32;

use serde_json::{Map, Value, json};

use super::fields::{Fields, excerpt};
use super::session::{SessionId, SessionTerms};
use super::{FieldFault, X402_VERSION, encode_header, readable, serde_json_form};
use crate::money::{Exchange, Fiat};
use crate::nano::{Account, Network, Raw, Threshold, UnixSeconds};
use crate::routes::{Grants, Measure};

/// The content of the header `PAYMENT-REQUIRED` and of the body of a 402
/// ([protocol guide](crate::guide::protocol), "The challenge"), as this gateway writes it. A client that
/// also pays other servers reads [`super::NanoOffers`] instead.
#[derive(Clone, Debug, PartialEq)]
pub struct PaymentRequired {
    /// Why the answer is a 402: a sentence, or the code of a refusal.
    pub error: Option<String>,
    pub resource: Resource,
    /// One entry for each mechanism. The one that most clients know comes first.
    pub accepts: Vec<PaymentRequirements>,
    pub extensions: Map<String, Value>,
}

/// What is being paid for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resource {
    /// Absolute, with the configured public origin. It counts towards the size of the header.
    pub url: String,
    pub description: Option<String>,
    pub mime_type: Option<String>,
}

/// One way to pay.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PaymentRequirements {
    pub scheme: Scheme,
    pub network: Network,
    pub asset: Asset,
    /// The amount to send, in raw: the price, plus the tag in an entry for nanoSession.
    pub amount: Raw,
    pub pay_to: Account,
    /// The time that the client has, in seconds. For information only: `extra.valid_before` is what
    /// counts.
    pub max_timeout_seconds: u64,
    pub extra: Extra,
}

vocabulary! {
    /// `exact`, the only supported scheme.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub enum Scheme {
        #[default]
        Exact = "exact",
    }
    pub fn as_str;
}

vocabulary! {
    /// `XNO`, the only supported asset.
    #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
    pub enum Asset {
        #[default]
        Xno = "XNO",
    }
    pub fn as_str;
}

/// The rest of an entry: what the gateway needs to check the entry later without any stored state,
/// even if the price table has changed by then.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Extra {
    /// The field `challenge` for nanoTxn, `nonce` for nanoSignature; a part of `nanoSession.id` for
    /// nanoSession.
    pub challenge: [u8; 32],
    pub valid_before: UnixSeconds,
    /// The name of the route that is paid for.
    pub route: String,
    pub grants: Grants,
    /// How the amount came about, of a price in another currency.
    pub exchange: Option<Exchange>,
    pub track: Track,
}

/// `extra.mechanism`, and the fields that only this mechanism has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Track {
    /// Track A; `work` is `None` if the entry does not say which work it needs.
    NanoTxn { work: Option<WorkTerms> },
    /// Track B.
    NanoSignature,
    /// NanoSession, revisions 5 to 7.
    NanoSession(SessionTerms),
}

/// The requirements for the work of a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WorkTerms {
    pub policy: WorkPolicy,
    pub threshold: Threshold,
}

vocabulary! {
    /// Who supplies the work.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum WorkPolicy {
        /// The client.
        Required = "required",
        /// The client, or else the gateway.
        Optional = "optional",
    }
    pub fn as_str;
}

impl Track {
    pub(super) const NANO_TXN: &'static str = "nanoTxn";
    pub(super) const NANO_SIGNATURE: &'static str = "nanoSignature";
    pub(super) const NANO_SESSION: &'static str = "nanoSession";
    pub(super) const KNOWN: &'static str = "\"nanoTxn\", \"nanoSignature\" and \"nanoSession\" are known";

    /// The mechanism's name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NanoTxn { .. } => Self::NANO_TXN,
            Self::NanoSignature => Self::NANO_SIGNATURE,
            Self::NanoSession(_) => Self::NANO_SESSION,
        }
    }
}

impl WorkTerms {
    /// The fields about work in `extra`; `None` if there are none.
    pub(super) fn read_optional(extra: &Fields<'_>) -> Result<Option<Self>, FieldFault> {
        if extra.optional("work").is_none() && extra.optional("workThreshold").is_none() {
            return Ok(None);
        }
        let policy = match extra.optional_text("work")? {
            None | Some("required") => WorkPolicy::Required,
            Some("optional") => WorkPolicy::Optional,
            Some(_) => return Err(extra.wrong("work", "\"required\" and \"optional\" are known")),
        };
        Ok(Some(Self { policy, threshold: extra.parsed("workThreshold")? }))
    }
}

impl PaymentRequired {
    /// The JSON of the body and the header. Empty `extensions` and fields that are `None` are left out.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut json = Map::new();
        json.insert("x402Version".to_owned(), X402_VERSION.into());
        if let Some(error) = &self.error {
            json.insert("error".to_owned(), error.as_str().into());
        }
        json.insert("resource".to_owned(), self.resource.to_json());
        let accepts = self.accepts.iter().map(PaymentRequirements::to_json).collect();
        json.insert("accepts".to_owned(), Value::Array(accepts));
        if !self.extensions.is_empty() {
            json.insert("extensions".to_owned(), Value::Object(self.extensions.clone()));
        }
        Value::Object(json)
    }

    /// The value of the `PAYMENT-REQUIRED` header.
    #[must_use]
    pub fn to_header(&self) -> String {
        encode_header(&self.to_json())
    }

    fn read_fields(fields: &Fields<'_>) -> Result<Self, FieldFault> {
        fields.version()?;
        let mut accepts = Vec::new();
        for (index, entry) in fields.array("accepts")?.iter().enumerate() {
            let entry = Fields::of_value(entry, &format!("accepts[{index}]"))?;
            accepts.push(PaymentRequirements::read_fields(&entry)?);
        }
        Ok(Self {
            error: fields.optional_text("error")?.map(str::to_owned),
            resource: Resource::read(&fields.object("resource")?)?,
            accepts,
            extensions: fields.extensions()?,
        })
    }
}

impl Resource {
    pub(super) fn to_json(&self) -> Value {
        let mut json = Map::new();
        json.insert("url".to_owned(), self.url.as_str().into());
        if let Some(description) = &self.description {
            json.insert("description".to_owned(), description.as_str().into());
        }
        if let Some(mime_type) = &self.mime_type {
            json.insert("mimeType".to_owned(), mime_type.as_str().into());
        }
        Value::Object(json)
    }

    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, FieldFault> {
        Ok(Self {
            url: fields.text("url")?.to_owned(),
            description: fields.optional_text("description")?.map(str::to_owned),
            mime_type: fields.optional_text("mimeType")?.map(str::to_owned),
        })
    }
}

/// Checks the scheme, network and asset of an entry, in that order.
pub(super) fn check_currency(entry: &Fields<'_>) -> Result<(), FieldFault> {
    let said = |field, known: &str| {
        let value = entry.required(field)?;
        Ok(if value.as_str() == Some(known) { None } else { Some((entry.path(field), excerpt(value))) })
    };
    if let Some((path, found)) = said("scheme", Scheme::Exact.as_str())? {
        return Err(FieldFault::Scheme { path, found });
    }
    if let Some((path, found)) = said("network", &Network::Mainnet.to_string())? {
        return Err(FieldFault::Network { path, found });
    }
    if let Some((path, found)) = said("asset", Asset::Xno.as_str())? {
        return Err(FieldFault::Asset { path, found });
    }
    Ok(())
}

impl PaymentRequirements {
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "scheme": self.scheme.as_str(),
            "network": self.network.to_string(),
            "asset": self.asset.as_str(),
            "amount": self.amount.to_string(),
            "payTo": self.pay_to.to_string(),
            "maxTimeoutSeconds": self.max_timeout_seconds,
            "extra": self.extra.to_json(self.session()),
        })
    }

    /// The session that the entry offers; `None` if it is of another mechanism.
    #[must_use]
    pub fn session(&self) -> Option<SessionId> {
        let Track::NanoSession(terms) = self.extra.track else { return None };
        let Extra { challenge, valid_before, route, grants, exchange, .. } = &self.extra;
        let session = SessionId::new(*challenge, self.pay_to, terms.price, *grants, *valid_before, route);
        Some(session.exchanged(*exchange))
    }

    /// Reads one entry.
    ///
    /// # Errors
    /// [`FieldFault`], the first one found.
    pub fn read(json: &Value) -> Result<Self, FieldFault> {
        Self::read_fields(&Fields::of_value(json, "")?)
    }

    pub(super) fn read_fields(fields: &Fields<'_>) -> Result<Self, FieldFault> {
        check_currency(fields)?;
        let entry = Self {
            scheme: Scheme::Exact,
            network: Network::Mainnet,
            asset: Asset::Xno,
            amount: fields.parsed("amount")?,
            pay_to: fields.parsed("payTo")?,
            max_timeout_seconds: fields.integer("maxTimeoutSeconds")?,
            extra: Extra::read(&fields.object("extra")?)?,
        };
        match entry.extra.track {
            Track::NanoSession(terms) => terms.check_sum(entry.amount, fields)?,
            Track::NanoTxn { .. } | Track::NanoSignature => {}
        }
        Ok(entry)
    }
}

impl Extra {
    /// `session` is the one of an entry for nanoSession.
    fn to_json(&self, session: Option<SessionId>) -> Value {
        let mut json = Map::new();
        let challenge = hex::encode(self.challenge);
        json.insert("mechanism".to_owned(), self.track.as_str().into());
        json.insert("validBefore".to_owned(), self.valid_before.0.into());
        json.insert("route".to_owned(), self.route.as_str().into());
        json.insert("grants".to_owned(), grants_to_json(self.grants));
        if let Some(Exchange { price, rate }) = &self.exchange {
            let (number, currency) = (price.number.to_string(), price.currency.as_str());
            let exchange = json!({ "price": number, "currency": currency, "rate": rate.to_string() });
            json.insert("exchange".to_owned(), exchange);
        }
        match self.track {
            Track::NanoTxn { work } => {
                json.insert("challenge".to_owned(), challenge.into());
                if let Some(work) = work {
                    json.insert("work".to_owned(), work.policy.as_str().into());
                    json.insert("workThreshold".to_owned(), work.threshold.to_string().into());
                }
            }
            Track::NanoSignature => {
                json.insert("nonce".to_owned(), challenge.into());
                // Newer official clients choose an entry by this field.
                json.insert("paymentFlow".to_owned(), "upfront".into());
            }
            Track::NanoSession(terms) => {
                if let Some(session) = session {
                    json.insert("nanoSession".to_owned(), terms.to_json(&session));
                }
                json.insert("paymentFlow".to_owned(), "upfront".into());
            }
        }
        Value::Object(json)
    }

    fn read(fields: &Fields<'_>) -> Result<Self, FieldFault> {
        let (track, challenge) = match fields.text("mechanism")? {
            Track::NANO_TXN => {
                (Track::NanoTxn { work: WorkTerms::read_optional(fields)? }, fields.bytes32("challenge")?)
            }
            Track::NANO_SIGNATURE => (Track::NanoSignature, fields.bytes32("nonce")?),
            Track::NANO_SESSION => {
                let told = fields.object("nanoSession")?;
                let session: SessionId = told.parsed("id")?;
                (Track::NanoSession(SessionTerms::read(&told)?), session.nonce)
            }
            _ => return Err(fields.wrong("mechanism", Track::KNOWN)),
        };
        Ok(Self {
            challenge,
            valid_before: UnixSeconds(fields.integer("validBefore")?),
            route: fields.text("route")?.to_owned(),
            grants: read_grants(&fields.object("grants")?)?,
            exchange: fields.optional_object("exchange")?.map(|it| read_exchange(&it)).transpose()?,
            track,
        })
    }
}

pub(super) fn read_exchange(fields: &Fields<'_>) -> Result<Exchange, FieldFault> {
    let price = Fiat { number: fields.parsed("price")?, currency: fields.parsed("currency")? };
    Ok(Exchange { price, rate: fields.parsed("rate")? })
}

/// What a payment buys: `requests`, or for a purse `balance: true`, within `seconds`.
#[must_use]
pub fn grants_to_json(grants: Grants) -> Value {
    match grants.buys {
        Measure::Requests(requests) => json!({ "requests": requests, "seconds": grants.seconds }),
        Measure::Balance => json!({ "balance": true, "seconds": grants.seconds }),
    }
}

fn read_grants(fields: &Fields<'_>) -> Result<Grants, FieldFault> {
    if fields.optional("balance").is_some() && fields.flag("balance")? {
        return Ok(Grants::of_balance(fields.integer("seconds")?));
    }
    let requests = fields.integer("requests")?;
    let requests = u32::try_from(requests)
        .ok()
        .and_then(NonZeroU32::new)
        .ok_or_else(|| fields.wrong("requests", format_args!("{requests} is not from 1 to {}", u32::MAX)))?;
    Ok(Grants::of_requests(requests, fields.integer("seconds")?))
}

readable!(PaymentRequired);
serde_json_form!(PaymentRequired);
serde_json_form!(PaymentRequirements);
