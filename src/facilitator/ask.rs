//! Reads what a resource server sends: a payment with what was demanded for it, or an order for
//! challenges.

use serde::Deserialize;
use serde_json::Value;

use crate::cashier::Proof;
use crate::cashier::facilitate::{Demand, Order};
use crate::nano::{Account, Raw};
use crate::payment::Mechanism;
use crate::routes::RouteName;
use crate::x402::{
    AcceptsRequest, Demanded, FacilitatorRequest, FieldFault, Payload, PaymentPayload, Resource,
};

/// Seconds for which a challenge can be asked for.
const SECONDS: std::ops::RangeInclusive<u64> = 10..=3600;
/// Bytes of a resource's URL.
const MAX_URL: usize = 2048;
/// Bytes of a resource's description, and of its media type.
const MAX_TEXT: usize = 500;
/// Entries that one call of `/accepts` may have filled in.
const MAX_ENTRIES: usize = 16;

/// What is wrong with a request, for its author.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Told(pub(super) String);

impl From<FieldFault> for Told {
    fn from(fault: FieldFault) -> Self {
        Self(fault.to_string())
    }
}

/// A payment to be verified or settled.
pub(super) struct Payment {
    pub(super) proof: Proof,
    pub(super) demand: Demand,
}

/// Why there is no payment in a request.
pub(super) enum Unusable {
    /// The resource server's request is at fault: 400.
    Unreadable(Told),
    /// The payment or what was demanded is; `reason` is one of x402's or x402.Nano's codes.
    Invalid { reason: &'static str, message: String },
}

const INVALID_VERSION: &str = "invalid_x402_version";
const INVALID_REQUIREMENTS: &str = "invalid_payment_requirements";
const MALFORMED: &str = "MALFORMED_PAYLOAD";

/// Reads the body of `/verify` and `/settle`.
pub(super) fn payment(body: &[u8]) -> Result<Payment, Unusable> {
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
        let message = "a capability opens the gateway's own routes, not another server's".to_owned();
        return Err(Unusable::Invalid { reason: MALFORMED, message });
    };
    let demand =
        Demand { route: RouteName::new(&demanded.route), amount: demanded.amount, pay_to: demanded.pay_to };
    Ok(Payment { proof: Proof::from(*payment), demand })
}

const fn is_of_version(fault: &FieldFault) -> bool {
    matches!(fault, FieldFault::Version { .. })
}

fn invalid(reason: &'static str, fault: &FieldFault) -> Unusable {
    Unusable::Invalid { reason, message: fault.to_string() }
}

fn json(body: &[u8]) -> Result<Value, Told> {
    serde_json::from_slice(body).map_err(|error| Told(format!("the body is not JSON: {error}")))
}

/// The body of `/requirements`. A key that is not known is an error: it might be a price.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RequirementsBody {
    resource: ResourceBody,
    /// Raw, in digits.
    amount: Option<String>,
    /// As in the configuration: `0.001 XNO`.
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

/// Reads the body of `/requirements`.
pub(super) fn requirements(body: &[u8]) -> Result<(Resource, Order), Told> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let asked: RequirementsBody = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        Told(format!(
            "{error}; expected {{\"resource\":{{\"url\":\"https://...\"}},\"price\":\"0.001 XNO\"}}, and where \
             wanted \"mechanisms\" and \"maxTimeoutSeconds\""
        ))
    })?;
    let amount = match (asked.amount, asked.price) {
        (Some(amount), None) => amount.parse().map_err(|error| Told(format!("`amount`: {error}")))?,
        (None, Some(price)) => Raw::with_unit(&price).map_err(|error| Told(format!("`price`: {error}")))?,
        (Some(_), Some(_)) => return Err(Told("both `amount` and `price`: send one".to_owned())),
        (None, None) => {
            return Err(Told("`price` (\"0.001 XNO\") or `amount` (raw) is missing".to_owned()));
        }
    };
    let ResourceBody { url, description, mime_type } = asked.resource;
    let resource = resource(Resource { url, description, mime_type })?;
    let seconds = asked.max_timeout_seconds;
    let order = order(&resource, amount, asked.mechanisms, seconds)?;
    Ok((resource, order))
}

/// Reads the body of `/accepts`; `is_ours` says whether payments are taken at an address.
pub(super) fn accepts(
    body: &[u8],
    is_ours: impl Fn(Account) -> bool,
) -> Result<(Resource, Vec<Order>), Told> {
    let request = AcceptsRequest::read(&json(body)?)?;
    if request.entries.len() > MAX_ENTRIES {
        return Err(Told(format!("more than {MAX_ENTRIES} entries in `accepts`")));
    }
    let resource = resource(request.resource)?;
    let mut orders = Vec::new();
    for entry in request.entries {
        if entry.pay_to.is_some_and(|it| !is_ours(it)) {
            let why = "`payTo`: payments are taken at this facilitator's own addresses: leave it empty";
            return Err(Told(why.to_owned()));
        }
        let mechanism = entry.mechanism.map(|it| it.parse::<Mechanism>()).transpose();
        let mechanism = mechanism.map_err(|error| Told(format!("`extra.mechanism`: {error}")))?;
        orders.push(order(&resource, entry.amount, mechanism.into_iter().collect(), entry.seconds)?);
    }
    Ok((resource, orders))
}

fn order(
    resource: &Resource,
    amount: Raw,
    mechanisms: Vec<Mechanism>,
    seconds: Option<u64>,
) -> Result<Order, Told> {
    if amount.is_zero() {
        return Err(Told("a price of zero".to_owned()));
    }
    if seconds.is_some_and(|it| !SECONDS.contains(&it)) {
        return Err(Told(format!("`maxTimeoutSeconds`: from {} to {}", SECONDS.start(), SECONDS.end())));
    }
    Ok(Order { route: RouteName::of_foreign(&resource.url), amount, mechanisms, seconds })
}

/// What is sold. Its URL is what a payment is bound to, byte for byte.
fn resource(resource: Resource) -> Result<Resource, Told> {
    let too_long = |text: &Option<String>| text.as_ref().is_some_and(|it| it.len() > MAX_TEXT);
    if resource.url.is_empty() || resource.url.len() > MAX_URL {
        return Err(Told(format!(
            "`resource.url`: 1 to {MAX_URL} bytes, what the payment is to be good for"
        )));
    }
    if too_long(&resource.description) || too_long(&resource.mime_type) {
        return Err(Told(format!("`resource`: a text of more than {MAX_TEXT} bytes")));
    }
    Ok(resource)
}
