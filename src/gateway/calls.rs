//! What a request costs whose body says so: what it calls of an MCP server, or how much a model may answer.

use std::num::NonZeroU32;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, HeaderName};
use pingora::prelude::Session;

use super::context::Context;
use super::mcp::EnclosedCall;
use super::metered::Metered;
use super::presented::header;
use super::rejection::Rejection;
use crate::money::Cost;
use crate::nano::Raw;
use crate::routes::{CallFault, CallPrices, ClaimedCall, Enclosed, Listed, Quote, RouteName};
use crate::usage::MeterPlan;

/// What a client says beforehand that its body calls.
const MCP_METHOD: HeaderName = HeaderName::from_static("mcp-method");
const MCP_NAME: HeaderName = HeaderName::from_static("mcp-name");

/// The longest body that is read to learn what its answer may cost, in bytes.
const LONGEST: usize = 8 * 1024 * 1024;

/// What is to be sold to a request.
#[derive(Debug)]
pub(super) struct Sale {
    /// The identity that payments for it are bound to.
    pub(super) route: RouteName,
    pub(super) listed: Listed,
    /// How many calls that is.
    pub(super) calls: NonZeroU32,
    /// What the request may cost by the route's meter; `None` if the route has none.
    pub(super) hold: Option<Raw>,
    /// The request's body as the upstream gets it, if it was read to find the price.
    pub(super) body: Option<Bytes>,
    /// What it carries for the gateway.
    pub(super) enclosed: Option<Enclosed>,
}

impl Sale {
    /// Of a request to `route`, whatever is in its body.
    pub(super) const fn of(route: RouteName, listed: Listed) -> Self {
        Self { route, listed, calls: NonZeroU32::MIN, hold: None, body: None, enclosed: None }
    }
}

/// What is sold to a request to `route`, and for how much; `None` if its calls are free.
pub(super) async fn price(
    session: &mut Session,
    context: &mut Context,
    route: &RouteName,
    prices: &CallPrices,
) -> Result<Option<Sale>, Rejection> {
    let headers = &session.req_header().headers;
    plain_json(headers)?;
    let claim = |name| header(headers, name).map(|it| it.map(|it| it.trim().to_owned()));
    let [method, name] = [claim(&MCP_METHOD)?, claim(&MCP_NAME)?];
    let body = context.tariff.bodies.read(session, context.caller.client(), prices.bound).await?;
    context.body = Some(body.permit);
    let claimed = ClaimedCall { method: method.as_deref(), name: name.as_deref() };
    let quote = prices.quote_claimed(&body.bytes, &claimed).map_err(reject)?;
    let bills = prices.bills;
    let mut enclosed =
        bills.takes_enclosed().then(|| Enclosed::read(&body.bytes)).transpose().map_err(reject)?;
    let billed = (quote != Quote::Free).then_some(bills);
    let headers = &session.req_header().headers;
    context.call = enclosed.as_ref().and_then(|it| EnclosedCall::of(it, billed, headers));
    let rest = enclosed.as_mut().and_then(|it| it.rest.take());
    Ok(match quote {
        Quote::Free => None,
        Quote::Costs { part, amount, calls } => {
            let listed = Listed { price: amount, grants: prices.grants };
            let body = rest.map_or(body.bytes, Bytes::from);
            Some(Sale { route: route.part(&part), listed, calls, hold: None, body: Some(body), enclosed })
        }
    })
}

/// What is sold to a request to `route`, for which a payment of what is `listed` buys a purse. A request that may cost more
/// than that is offered a purse that is as large.
pub(super) async fn price_metered(
    session: &mut Session,
    context: &mut Context,
    route: &RouteName,
    listed: Listed,
    plan: &Arc<MeterPlan>,
) -> Result<Sale, Rejection> {
    let mut body = None;
    if plan.reads_request() {
        plain_json(&session.req_header().headers)?;
        let read = context.tariff.bodies.read(session, context.caller.client(), LONGEST).await?;
        context.body = Some(read.permit);
        body = Some(read.bytes);
    }
    let metered = Metered::admit(plan, body.as_ref()).map_err(|why| {
        if why.is_not_offered() {
            Rejection::NotOffered(why.to_string())
        } else {
            Rejection::Unreadable(why.to_string())
        }
    })?;
    let hold = metered.hold();
    context.metered = Some(Box::new(metered));
    let price = match listed.price {
        Cost::Raw(amount) => amount.max(hold).into(),
        // What it holds is in raw, and so is its price: the configuration takes no other.
        fiat @ Cost::Fiat(_) => fiat,
    };
    Ok(Sale { hold: Some(hold), body, ..Sale::of(route.clone(), Listed { price, ..listed }) })
}

fn reject(fault: CallFault) -> Rejection {
    if fault.is_not_offered() {
        Rejection::NotOffered(fault.to_string())
    } else {
        Rejection::Unreadable(fault.to_string())
    }
}

/// Checks that the upstream sees the very text that is priced.
pub(super) fn plain_json(headers: &HeaderMap) -> Result<(), Rejection> {
    if headers.contains_key(UPGRADE) {
        // Calls in a tunnel could not be counted.
        return Err(Rejection::Unreadable("an upgrade cannot be priced by call: leave it out".to_owned()));
    }
    let is_plain = match header(headers, &CONTENT_ENCODING) {
        Ok(encoding) => encoding.is_none_or(|it| it.trim().eq_ignore_ascii_case("identity")),
        Err(_) => false,
    };
    if !is_plain {
        return Err(Rejection::UnsupportedBody("send the body without a Content-Encoding"));
    }
    match header(headers, &CONTENT_TYPE) {
        Ok(Some(kind)) if is_json_in_utf8(&kind) => Ok(()),
        Ok(_) | Err(_) => Err(Rejection::UnsupportedBody("send `Content-Type: application/json`, in UTF-8")),
    }
}

fn is_json_in_utf8(kind: &str) -> bool {
    let mut parts = kind.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|it| it.eq_ignore_ascii_case("application/json"));
    is_json
        && parts.filter(|it| !it.is_empty()).all(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            name.trim().eq_ignore_ascii_case("charset")
                && value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
}
