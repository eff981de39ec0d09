//! `/openapi.json`: the routes as OpenAPI 3.1, with their prices in `x-payment-info`, the extension by
//! which agents and directories recognise a paid operation.
//!
//! Bodies and answers have no schema, because the gateway does not know what the API takes and answers.
//! `{name}` is a path parameter. `**` is one that holds slashes, for which OpenAPI has no form.

mod components;
mod conditions;
mod paths;

use std::cmp::Ordering;

use blake2::digest::consts::U8;
use blake2::{Blake2b, Digest};
use serde_json::{Map, Value, json};

use super::Published;
use crate::money::Cost;
use crate::nano::{Network, Raw};
use crate::routes::{Access, CallPrices, Line, Listed, Price, Route};
use crate::x402::{Asset, Scheme, grants_to_json};

pub(super) fn write(published: &Published<'_>) -> String {
    let config = published.config;
    let paths = paths::of(published);
    let digest: [u8; 8] = Blake2b::<U8>::digest(paths.to_string().as_bytes()).into();
    let mut info = Map::new();
    info.insert("title".to_owned(), published.title().into());
    // Changes whenever a route or a price changes.
    info.insert("version".to_owned(), hex::encode(digest).into());
    if let Some(description) = &config.discovery.description {
        info.insert("description".to_owned(), description.as_str().into());
    }
    if let Some(contact) = &config.discovery.contact {
        info.insert("contact".to_owned(), json!({ "email": contact }));
    }
    info.insert("x-guidance".to_owned(), GUIDANCE.into());
    let mut document = json!({
        "openapi": "3.1.0",
        "info": info,
        "servers": [{ "url": config.public_url.as_str() }],
        "paths": paths,
        "components": components::all(),
    });
    if let (Some(llms), Some(document)) = (&published.llms, document.as_object_mut()) {
        document.insert("x-service-info".to_owned(), json!({ "docs": { "llms": llms } }));
        document.insert("x-agentcash-guidance".to_owned(), json!({ "llmsTxtUrl": llms }));
    }
    document.to_string()
}

const GUIDANCE: &str = "Each priced operation answers an unpaid request with 402 and an x402 bill: pay one of its \
     `accepts` in XNO on the Nano network and send the request again with PAYMENT-SIGNATURE, or with the \
     PAYMENT-CAPABILITY of an earlier answer. The bill decides; prices here only advise.";

/// One method of the routes that share a path, of which the last may be without conditions.
fn operation(published: &Published<'_>, routes: &[&Route], method: &str) -> Value {
    let Some((usual, variants)) = routes.split_last() else { return Value::Null };
    let summary = if usual.description.is_empty() { usual.pattern.as_str() } else { &usual.description };
    let mut operation = Map::new();
    let mut put = |key: &str, value: Value| {
        operation.insert(key.to_owned(), value);
    };
    put("summary", summary.into());
    let each: Vec<_> = std::iter::once(usual).chain(variants).map(|it| description(it)).collect();
    put("description", each.join(" ").into());
    // In OpenAPI's terms there is no authentication. Payment is declared beside it.
    put("security", json!([]));
    if let Some(servers) = conditions::servers(published, routes) {
        put("servers", servers);
    }
    if ["post", "put", "patch"].contains(&method) {
        put("requestBody", request_body(usual));
    }
    let mut content = Map::new();
    let kind = if usual.mime_type.is_empty() { "*/*" } else { &usual.mime_type };
    content.insert(kind.to_owned(), json!({}));
    let is_free = routes.iter().all(|it| it.access.is_free());
    let mut parameters = conditions::parameters(routes);
    if is_free {
        put("responses", json!({ "200": { "description": "The API's answer.", "content": content } }));
    } else {
        parameters.extend(components::payment_parameters());
        put("x-payment-info", payment_infos(published, routes));
        put("responses", components::responses(Value::Object(content)));
    }
    if !parameters.is_empty() {
        put("parameters", parameters.into());
    }
    Value::Object(operation)
}

/// The price of an operation: that of its one route, or what its routes span, with each under `variants`.
fn payment_infos(published: &Published<'_>, routes: &[&Route]) -> Value {
    if let [route] = routes {
        return payment_info(published, route);
    }
    let priced: Vec<_> = routes.iter().filter(|it| !it.access.is_free()).collect();
    let variant = |route: &&&Route| {
        let mut info = payment_info(published, route);
        if let Some(fields) = info.as_object_mut() {
            fields.insert("conditions".to_owned(), route.conditions.to_string().into());
        }
        info
    };
    let price = span(routes).map_or_else(
        // Prices in several currencies have no order: each variant says its own.
        || json!({ "mode": "dynamic" }),
        |(least, most)| {
            json!({ "mode": "dynamic", "currency": most.unit(), "min": least.number(), "max": most.number() })
        },
    );
    let protocols: Vec<_> =
        priced.first().map(|it| json!({ "x402": x402(published, it, None) })).into_iter().collect();
    let variants: Vec<_> = priced.iter().map(variant).collect();
    json!({ "price": price, "protocols": protocols, "variants": variants })
}

/// The lowest and the highest price of several routes; `None` if they are not all in one money.
fn span(routes: &[&Route]) -> Option<(Cost, Cost)> {
    let of = |route: &&Route| match &route.access {
        Access::Free => None,
        Access::Priced(listed) => Some((listed.price, listed.price)),
        Access::Calls(prices) => prices.span(),
    };
    let mut spans = routes.iter().filter_map(of);
    let (mut least, mut most) = spans.next()?;
    for (low, high) in spans {
        if low.compare(least)? == Ordering::Less {
            least = low;
        }
        if high.compare(most)? == Ordering::Greater {
            most = high;
        }
    }
    if routes.iter().any(|it| it.access.is_free()) {
        least = least.nothing();
    }
    Some((least, most))
}

fn description(route: &Route) -> String {
    let buys = route.access.grants().map(|it| it.to_string()).unwrap_or_default();
    let price = match &route.access {
        Access::Free => "Free.".to_owned(),
        Access::Priced(listed) => format!("{} for {buys}.", listed.price.in_full()),
        Access::Calls(prices) => calls(prices, &buys),
    };
    format!("{price} Covers `{route}`.")
}

fn calls(prices: &CallPrices, buys: &str) -> String {
    let on_offer = prices.lines().filter(|(_, price)| *price != Price::Refused);
    let lines: Vec<_> = on_offer.map(|(line, price)| format!("{line}: {price}")).collect();
    format!(
        "An MCP endpoint, priced by what is called; a payment buys {buys}, and a batch costs the sum. {}.",
        lines.join("; ")
    )
}

fn request_body(route: &Route) -> Value {
    match &route.access {
        Access::Calls(_) => json!({ "required": true, "content": { "application/json": { "schema": {
            "description": "A JSON-RPC 2.0 message, or a batch of them.",
            "type": ["object", "array"],
        } } } }),
        Access::Priced(_) | Access::Free => json!({ "content": { "*/*": {} } }),
    }
}

/// `x-payment-info` as directories read it: the price in its currency, and what x402 adds. A price in another
/// currency than XNO has no amount in raw before it is billed.
fn payment_info(published: &Published<'_>, route: &Route) -> Value {
    let (price, amount) = match &route.access {
        Access::Free => return Value::Null,
        Access::Priced(Listed { price, .. }) => {
            (json!({ "mode": "fixed", "currency": price.unit(), "amount": price.number() }), price.raw())
        }
        Access::Calls(prices) => {
            let nothing = Cost::Raw(Raw::ZERO);
            let (least, most) = prices.span().unwrap_or((nothing, nothing));
            let (min, max) = (least.number(), most.number());
            (json!({ "mode": "dynamic", "currency": most.unit(), "min": min, "max": max }), None)
        }
    };
    json!({ "price": price, "protocols": [{ "x402": x402(published, route, amount) }] })
}

fn x402(published: &Published<'_>, route: &Route, amount: Option<Raw>) -> Value {
    let mut terms = json!({
        "scheme": Scheme::Exact.as_str(),
        "network": Network::Mainnet.to_string(),
        "asset": Asset::Xno.as_str(),
        "maxTimeoutSeconds": published.config.challenge.lifetime,
        "mechanisms": published.mechanisms(route).iter().map(|it| it.as_str()).collect::<Vec<_>>(),
        "route": route.name.as_str(),
    });
    let Some(fields) = terms.as_object_mut() else { return terms };
    if let Some(grants) = route.access.grants() {
        fields.insert("grants".to_owned(), grants_to_json(grants));
    }
    if let Some(amount) = amount {
        fields.insert("amount".to_owned(), amount.to_string().into());
    }
    if let Access::Calls(prices) = &route.access {
        let tools = prices.lines().filter_map(|(line, price)| match (line, price) {
            (Line::Method(_) | Line::Tool(_) | Line::Otherwise, Price::Free | Price::Refused) => None,
            (line, Price::Costs(price)) => price.raw().map(|it| (line.to_string(), it.to_string().into())),
        });
        fields.insert("amounts".to_owned(), Value::Object(tools.collect()));
    }
    terms
}
