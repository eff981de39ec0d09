//! Reads a resource server's requests: a payment with the requirements it must meet, or an order for
//! challenges.

use serde::Deserialize;
use serde_json::Value;

use crate::cashier::Proof;
use crate::cashier::facilitate::{Demand, Order};
use crate::money::{Cost, Exchange};
use crate::nano::{Account, Raw};
use crate::payment::Mechanism;
use crate::rates::Rates;
use crate::routes::RouteName;
use crate::x402::{
    AcceptsRequest, Demanded, FacilitatorRequest, FieldFault, Payload, PaymentPayload, Resource,
};

/// The lifetimes of a challenge that can be asked for, in seconds.
const SECONDS: std::ops::RangeInclusive<u64> = 10..=3600;
/// The most bytes of a resource's URL.
const MAX_URL: usize = 2048;
/// The most bytes of a resource's description, and of its media type.
const MAX_TEXT: usize = 500;
/// The most entries in one call of `/accepts`.
const MAX_ENTRIES: usize = 16;

/// What is wrong with a request; a sentence for its author.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(super) struct RequestFault(pub(super) String);

impl From<FieldFault> for RequestFault {
    fn from(fault: FieldFault) -> Self {
        Self(fault.to_string())
    }
}

/// A call to verify or settle a payment.
pub(super) struct PaymentCall {
    pub(super) proof: Proof,
    pub(super) demand: Demand,
}

/// Why there is no payment in a request.
pub(super) enum Unusable {
    /// The resource server's request cannot be read: 400.
    Unreadable(RequestFault),
    /// The payment or its requirements are invalid; `reason` is one of the codes of x402 or x402.Nano.
    Invalid { reason: &'static str, message: String },
}

const INVALID_VERSION: &str = "invalid_x402_version";
const INVALID_REQUIREMENTS: &str = "invalid_payment_requirements";
const MALFORMED: &str = "MALFORMED_PAYLOAD";

/// Reads the body of `/verify` and `/settle`.
pub(super) fn payment(body: &[u8]) -> Result<PaymentCall, Unusable> {
    let json = json(body).map_err(Unusable::Unreadable)?;
    let request = FacilitatorRequest::read(&json).map_err(|fault| {
        if is_of_version(&fault) {
            invalid(INVALID_VERSION, &fault)
        } else {
            Unusable::Unreadable(fault.into())
        }
    })?;
    let payload = PaymentPayload::read(request.payload).map_err(|fault| {
        let reason = if is_of_version(&fault) { INVALID_VERSION } else { MALFORMED };
        invalid(reason, &fault)
    })?;
    let demanded =
        Demanded::read(request.requirements).map_err(|fault| invalid(INVALID_REQUIREMENTS, &fault))?;
    let Payload::Payment(payment) = payload.presented else {
        let message =
            "a capability is valid for the gateway's own routes, not for another server's".to_owned();
        return Err(Unusable::Invalid { reason: MALFORMED, message });
    };
    let Demanded { amount, pay_to, route, exchange } = demanded;
    let demand = Demand { route: RouteName::new(&route), amount, exchange, pay_to };
    Ok(PaymentCall { proof: Proof::from(*payment), demand })
}

const fn is_of_version(fault: &FieldFault) -> bool {
    matches!(fault, FieldFault::Version { .. })
}

fn invalid(reason: &'static str, fault: &FieldFault) -> Unusable {
    Unusable::Invalid { reason, message: fault.to_string() }
}

fn json(body: &[u8]) -> Result<Value, RequestFault> {
    serde_json::from_slice(body).map_err(|error| RequestFault(format!("the body is not JSON: {error}")))
}

/// The body of `/requirements`. An unknown key is an error: it might be a misspelt price.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RequirementsBody {
    resource: ResourceBody,
    /// In raw, in digits.
    amount: Option<String>,
    /// With a unit, as in the configuration: `0.001 XNO`, `0.02 USD`.
    price: Option<String>,
    #[serde(default)]
    mechanisms: Vec<Mechanism>,
    max_timeout_seconds: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResourceBody {
    url: String,
    description: Option<String>,
    mime_type: Option<String>,
}

/// Why there is no order in a request.
pub(super) enum NoOrder {
    Unreadable(RequestFault),
    /// No rate is known now for the currency of the price.
    NoRate,
}

impl From<RequestFault> for NoOrder {
    fn from(fault: RequestFault) -> Self {
        Self::Unreadable(fault)
    }
}

/// Reads the body of `/requirements`. A price in another currency is exchanged by `rates`.
pub(super) fn requirements(body: &[u8], rates: &Rates) -> Result<(Resource, Order), NoOrder> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let asked: RequirementsBody = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        RequestFault(format!(
            "{error}; expected {{\"resource\":{{\"url\":\"https://...\"}},\"price\":\"0.001 XNO\"}}, and \
             optionally \"mechanisms\" and \"maxTimeoutSeconds\""
        ))
    })?;
    let price: Cost = match (asked.amount, asked.price) {
        (Some(amount), None) => {
            let amount: Raw = amount.parse().map_err(|error| RequestFault(format!("`amount`: {error}")))?;
            amount.into()
        }
        (None, Some(price)) => {
            Cost::with_unit(&price).map_err(|error| RequestFault(format!("`price`: {error}")))?
        }
        (Some(_), Some(_)) => {
            return Err(RequestFault("`amount` and `price` are both there: send one".to_owned()).into());
        }
        (None, None) => {
            let why = "`price` (\"0.001 XNO\", \"0.02 USD\") or `amount` (raw) is missing";
            return Err(RequestFault(why.to_owned()).into());
        }
    };
    let ResourceBody { url, description, mime_type } = asked.resource;
    let resource = resource(Resource { url, description, mime_type })?;
    let (amount, exchange) = exchanged(price, rates)?;
    let order = order(&resource, amount, asked.mechanisms, asked.max_timeout_seconds)?;
    Ok((resource, Order { exchange, ..order }))
}

/// The price in raw at this moment, and how it came about.
fn exchanged(price: Cost, rates: &Rates) -> Result<(Raw, Option<Exchange>), NoOrder> {
    let price = match price {
        Cost::Raw(amount) => return Ok((amount, None)),
        Cost::Fiat(price) => price,
    };
    let currency = price.currency;
    if !rates.has(currency) {
        let why =
            format!("`price`: no rate is read for {currency}: name it in `rates.currencies` of the gateway");
        return Err(RequestFault(why).into());
    }
    let exchange = rates.exchange(price).ok_or(NoOrder::NoRate)?;
    let too_much = || RequestFault(format!("`price`: {price} is more XNO than there can be"));
    let amount = exchange.amount().ok_or_else(too_much)?;
    Ok((amount, Some(exchange)))
}

/// Reads the body of `/accepts`. `is_ours` says whether an address is of this facilitator's pool.
pub(super) fn accepts(
    body: &[u8],
    is_ours: impl Fn(Account) -> bool,
) -> Result<(Resource, Vec<Order>), RequestFault> {
    let request = AcceptsRequest::read(&json(body)?)?;
    if request.entries.len() > MAX_ENTRIES {
        return Err(RequestFault(format!("more than {MAX_ENTRIES} entries in `accepts`")));
    }
    let resource = resource(request.resource)?;
    let mut orders = Vec::new();
    for entry in request.entries {
        if entry.pay_to.is_some_and(|it| !is_ours(it)) {
            let why = "`payTo`: payments go to this facilitator's own addresses: leave it empty";
            return Err(RequestFault(why.to_owned()));
        }
        let mechanism = entry.mechanism.map(|it| it.parse::<Mechanism>()).transpose();
        let mechanism = mechanism.map_err(|error| RequestFault(format!("`extra.mechanism`: {error}")))?;
        orders.push(order(&resource, entry.amount, mechanism.into_iter().collect(), entry.seconds)?);
    }
    Ok((resource, orders))
}

fn order(
    resource: &Resource,
    amount: Raw,
    mechanisms: Vec<Mechanism>,
    seconds: Option<u64>,
) -> Result<Order, RequestFault> {
    if amount.is_zero() {
        return Err(RequestFault("the price is zero".to_owned()));
    }
    if seconds.is_some_and(|it| !SECONDS.contains(&it)) {
        return Err(RequestFault(format!(
            "`maxTimeoutSeconds`: from {} to {}",
            SECONDS.start(),
            SECONDS.end()
        )));
    }
    Ok(Order { route: RouteName::of_foreign(&resource.url), amount, exchange: None, mechanisms, seconds })
}

/// The resource that is sold. A payment is bound to its URL, byte for byte.
fn resource(resource: Resource) -> Result<Resource, RequestFault> {
    let too_long = |text: &Option<String>| text.as_ref().is_some_and(|it| it.len() > MAX_TEXT);
    if resource.url.is_empty() || resource.url.len() > MAX_URL {
        return Err(RequestFault(format!(
            "`resource.url`: 1 to {MAX_URL} bytes; the payment is valid for this resource only"
        )));
    }
    if too_long(&resource.description) || too_long(&resource.mime_type) {
        return Err(RequestFault(format!("`resource`: a text has more than {MAX_TEXT} bytes")));
    }
    Ok(resource)
}
