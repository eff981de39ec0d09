//! `PaymentRequired`, the challenge of a 402, and the entry of it that a client sends back.

use std::fmt;
use std::num::NonZeroU32;

use serde_json::{Map, Value, json};

use super::fields::{Fields, excerpt};
use super::session::{Session, SessionTerms};
use super::{Fault, Malformed, X402_VERSION, decode_header, encode_header, serde_json_form};
use crate::nano::{Account, Network, Raw, Threshold, UnixSeconds};

/// What a 402 says, in `PAYMENT-REQUIRED` and in its body (PROTOCOL section 3).
#[derive(Clone, Debug, PartialEq)]
pub struct PaymentRequired {
    /// Why this is a 402: a sentence or a refusal's code.
    pub error: Option<String>,
    pub resource: Resource,
    /// One entry for each way to pay, the one that most clients know first.
    pub accepts: Vec<PaymentRequirements>,
    pub extensions: Map<String, Value>,
}

/// What is being paid for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Resource {
    /// Absolute, under the public origin that is configured. It takes part in the header's size.
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
    /// What is to be sent, in raw: the price, and in an entry for nanoSession its tag.
    pub amount: Raw,
    pub pay_to: Account,
    /// How long the client may take. Only for information: `extra.valid_before` binds.
    pub max_timeout_seconds: u64,
    pub extra: Extra,
}

/// `exact`, the one scheme that is taken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Scheme {
    #[default]
    Exact,
}

/// `XNO`, the one asset that is taken.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Asset {
    #[default]
    Xno,
}

/// What the standard fields of an entry do not carry: all that is needed to check it again from
/// itself alone, whatever the price table says by then.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Extra {
    /// Called `challenge` in an entry for nanoTxn, `nonce` in one for nanoSignature; a part of
    /// `nanoSession.id` in one for nanoSession.
    pub challenge: [u8; 32],
    pub valid_before: UnixSeconds,
    /// The identity of the route that is paid for.
    pub route: String,
    pub grants: Grants,
    pub track: Track,
}

/// What a payment buys.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Grants {
    pub requests: NonZeroU32,
    /// For how long after the grant.
    pub seconds: u64,
}

/// `extra.mechanism`, and what belongs to that mechanism alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Track {
    /// Track A. Nothing where the entry does not say what work it asks for.
    NanoTxn { work: Option<WorkTerms> },
    /// Track B.
    NanoSignature,
    /// NanoSession, revisions 5 to 7.
    NanoSession(SessionTerms),
}

/// What is asked of a block's work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WorkTerms {
    pub policy: WorkPolicy,
    pub threshold: Threshold,
}

/// Who supplies the work.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WorkPolicy {
    /// The client.
    Required,
    /// The client, or where it does not the gateway.
    Optional,
}

impl Scheme {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exact => "exact",
        }
    }
}

impl Asset {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Xno => "XNO",
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Asset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
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

impl WorkPolicy {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Optional => "optional",
        }
    }
}

impl WorkTerms {
    /// What an entry's `extra` says of work; nothing where it says nothing.
    pub(super) fn read_optional(extra: &Fields<'_>) -> Result<Option<Self>, Fault> {
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
    /// The JSON of the 402's body and header. Empty `extensions` and what is `None` are left out.
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

    /// Reads what a Faregate gateway wrote. A client that also meets other servers reads
    /// [`super::Offers`] instead.
    ///
    /// # Errors
    /// [`Fault`], the first one found.
    pub fn read(json: &Value) -> Result<Self, Fault> {
        Self::read_fields(&Fields::of_value(json, "")?)
    }

    /// Reads the value of a `PAYMENT-REQUIRED` header.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn from_header(value: impl AsRef<[u8]>) -> Result<Self, Malformed> {
        Ok(Self::read_fields(&Fields::of(&decode_header(value)?))?)
    }

    fn read_fields(fields: &Fields<'_>) -> Result<Self, Fault> {
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

    pub(super) fn read(fields: &Fields<'_>) -> Result<Self, Fault> {
        Ok(Self {
            url: fields.text("url")?.to_owned(),
            description: fields.optional_text("description")?.map(str::to_owned),
            mime_type: fields.optional_text("mimeType")?.map(str::to_owned),
        })
    }
}

/// Checks the scheme, network and asset of an entry, in that order.
pub(super) fn check_currency(entry: &Fields<'_>) -> Result<(), Fault> {
    let said = |field, known: &str| {
        let value = entry.required(field)?;
        Ok(if value.as_str() == Some(known) { None } else { Some((entry.path(field), excerpt(value))) })
    };
    if let Some((path, found)) = said("scheme", Scheme::Exact.as_str())? {
        return Err(Fault::Scheme { path, found });
    }
    if let Some((path, found)) = said("network", &Network::Mainnet.to_string())? {
        return Err(Fault::Network { path, found });
    }
    if let Some((path, found)) = said("asset", Asset::Xno.as_str())? {
        return Err(Fault::Asset { path, found });
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
            "extra": self.extra.to_json(Session::of(self)),
        })
    }

    /// Reads one entry.
    ///
    /// # Errors
    /// [`Fault`], the first one found.
    pub fn read(json: &Value) -> Result<Self, Fault> {
        Self::read_fields(&Fields::of_value(json, "")?)
    }

    pub(super) fn read_fields(fields: &Fields<'_>) -> Result<Self, Fault> {
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
    /// `session` is that of an entry for nanoSession.
    fn to_json(&self, session: Option<Session>) -> Value {
        let mut json = Map::new();
        let challenge = hex::encode(self.challenge);
        json.insert("mechanism".to_owned(), self.track.as_str().into());
        json.insert("validBefore".to_owned(), self.valid_before.0.into());
        json.insert("route".to_owned(), self.route.as_str().into());
        let grants = json!({ "requests": self.grants.requests.get(), "seconds": self.grants.seconds });
        json.insert("grants".to_owned(), grants);
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
                // By this newer official clients choose (PROTOCOL section 3).
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

    fn read(fields: &Fields<'_>) -> Result<Self, Fault> {
        let (track, challenge) = match fields.text("mechanism")? {
            Track::NANO_TXN => {
                (Track::NanoTxn { work: WorkTerms::read_optional(fields)? }, fields.bytes32("challenge")?)
            }
            Track::NANO_SIGNATURE => (Track::NanoSignature, fields.bytes32("nonce")?),
            Track::NANO_SESSION => {
                let told = fields.object("nanoSession")?;
                let session: Session = told.parsed("id")?;
                (Track::NanoSession(SessionTerms::read(&told)?), session.nonce)
            }
            _ => return Err(fields.wrong("mechanism", Track::KNOWN)),
        };
        Ok(Self {
            challenge,
            valid_before: UnixSeconds(fields.integer("validBefore")?),
            route: fields.text("route")?.to_owned(),
            grants: Grants::read(&fields.object("grants")?)?,
            track,
        })
    }
}

impl Grants {
    fn read(fields: &Fields<'_>) -> Result<Self, Fault> {
        let requests = fields.integer("requests")?;
        let requests = u32::try_from(requests).ok().and_then(NonZeroU32::new).ok_or_else(|| {
            fields.wrong("requests", format_args!("{requests} is not from 1 to {}", u32::MAX))
        })?;
        Ok(Self { requests, seconds: fields.integer("seconds")? })
    }
}

serde_json_form!(PaymentRequired);
serde_json_form!(PaymentRequirements);
