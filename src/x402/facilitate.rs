//! Requests of a resource server to a facilitator: the requirements that come with a payment to
//! `/verify` and `/settle`, and the entries that Faremeter's middleware has completed by `/accepts`.
//!
//! A resource server makes new entries for each request, so the requirements that it sends are not a
//! challenge. They say what must have been paid, and the entry in the payment is compared with them.

use serde_json::Value;

use super::fields::Fields;
use super::required::{check_currency, read_exchange};
use super::{Asset, FieldFault, Resource, Scheme, X402_VERSION};
use crate::money::Exchange;
use crate::nano::{Account, Network, Raw};

/// What a resource server requires of a payment.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Demanded {
    /// The price in raw.
    pub amount: Raw,
    /// The account to pay; `None` if the server does not name one.
    pub pay_to: Option<Account>,
    /// The name of what it sells.
    pub route: String,
    /// How the amount came about, of a price in another currency.
    pub exchange: Option<Exchange>,
}

/// The body of `/verify` and `/settle`.
#[derive(Clone, Debug)]
pub struct FacilitatorRequest<'a> {
    pub payload: &'a Value,
    pub requirements: &'a Value,
}

/// The body of `/accepts`.
#[derive(Clone, Debug)]
pub struct AcceptsRequest {
    pub resource: Resource,
    /// The entries that can be paid in XNO, without those of other currencies.
    pub entries: Vec<Wanted>,
}

/// An entry to complete.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wanted {
    pub amount: Raw,
    pub pay_to: Option<Account>,
    /// `extra.mechanism`; `None` if the server accepts every mechanism.
    pub mechanism: Option<String>,
    /// The time that the payer has, in seconds.
    pub seconds: Option<u64>,
}

impl Demanded {
    /// Reads `paymentRequirements`.
    ///
    /// # Errors
    /// [`FieldFault`], the first one found.
    pub fn read(json: &Value) -> Result<Self, FieldFault> {
        let fields = Fields::of_value(json, "paymentRequirements")?;
        check_currency(&fields)?;
        let extra = fields.object("extra")?;
        Ok(Self {
            amount: fields.parsed("amount")?,
            pay_to: fields.optional_parsed("payTo")?,
            route: extra.text("route")?.to_owned(),
            exchange: extra.optional_object("exchange")?.map(|it| read_exchange(&it)).transpose()?,
        })
    }
}

impl<'a> FacilitatorRequest<'a> {
    /// Reads the body. `x402Version` may be missing, since the payload has its own.
    ///
    /// # Errors
    /// [`FieldFault::Version`] for a version that is not supported; another [`FieldFault`] if a part is
    /// missing.
    pub fn read(json: &'a Value) -> Result<Self, FieldFault> {
        let fields = Fields::of_value(json, "")?;
        if fields.optional("x402Version").is_some() {
            fields.version()?;
        }
        let request = Self {
            payload: fields.required("paymentPayload")?,
            requirements: fields.required("paymentRequirements")?,
        };
        for part in ["paymentPayload", "paymentRequirements"] {
            fields.object(part)?;
        }
        Ok(request)
    }
}

impl AcceptsRequest {
    /// Reads the body. Entries of other schemes, networks and assets are left out. An entry without
    /// these fields is taken as one in XNO.
    ///
    /// # Errors
    /// [`FieldFault`], the first one found.
    pub fn read(json: &Value) -> Result<Self, FieldFault> {
        let fields = Fields::of_value(json, "")?;
        fields.version()?;
        let resource = Resource::read(&fields.object("resource")?)?;
        let mut entries = Vec::new();
        for (index, entry) in fields.array("accepts")?.iter().enumerate() {
            let entry = Fields::of_value(entry, &format!("accepts[{index}]"))?;
            if is_of_other_currency(&entry)? {
                continue;
            }
            let extra = entry.optional_object("extra")?;
            let mechanism = extra.as_ref().map(|it| it.optional_text("mechanism")).transpose()?.flatten();
            let seconds = entry.optional("maxTimeoutSeconds").is_some();
            let seconds = if seconds { Some(entry.integer("maxTimeoutSeconds")?) } else { None };
            entries.push(Wanted {
                amount: entry.parsed("amount")?,
                pay_to: entry.optional_parsed("payTo")?,
                mechanism: mechanism.map(str::to_owned),
                seconds: seconds.filter(|it| *it > 0),
            });
        }
        Ok(Self { resource, entries })
    }
}

fn is_of_other_currency(entry: &Fields<'_>) -> Result<bool, FieldFault> {
    let network = Network::Mainnet.to_string();
    for (field, own) in
        [("scheme", Scheme::Exact.as_str()), ("network", network.as_str()), ("asset", Asset::Xno.as_str())]
    {
        if entry.optional_text(field)?.is_some_and(|it| !it.is_empty() && it != own) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The body of `GET /supported`: the one supported kind of payment, with these mechanisms. The
/// facilitator never signs for a payer, so there are no signers.
#[must_use]
pub fn supported(mechanisms: &[&str]) -> Value {
    serde_json::json!({
        "kinds": [{
            "x402Version": X402_VERSION,
            "scheme": Scheme::Exact.as_str(),
            "network": Network::Mainnet.to_string(),
            "extra": { "asset": Asset::Xno.as_str(), "mechanisms": mechanisms },
        }],
        "extensions": [],
        "signers": {},
    })
}
