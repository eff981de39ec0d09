//! `/.well-known/x402`: the priced routes for crawlers and clients.
//!
//! Its form is not standardised. Most crawlers, such as x402scan's, read `version` and `resources`, a
//! list of URLs. `items` has the form of a facilitator's list of resources (x402 version 2, section 8),
//! with `terms` in place of `accepts`: an entry that can be paid names an address, and each 402 names a
//! fresh one.

use serde_json::{Map, Value, json};

use super::super::places::CLOSE;
use super::Published;
use crate::money::Cost;
use crate::nano::Network;
use crate::payment::Mechanism;
use crate::routes::{Access, CallPrices, Line, Listed, Price, RefundRule, Route};
use crate::x402::{Asset, Scheme, X402_VERSION, grants_to_json};

pub(super) fn write(published: &Published<'_>) -> String {
    let mut resources: Vec<String> = Vec::new();
    for route in published.priced() {
        let url = published.url(route);
        if !resources.contains(&url) {
            resources.push(url);
        }
    }
    let items: Vec<_> = published.priced().map(|route| item(published, route)).collect();
    let discovery = &published.config.discovery;
    json!({
        "version": 1,
        "x402Version": X402_VERSION,
        "name": published.title(),
        "description": discovery.description,
        "contact": discovery.contact,
        "openapi": published.openapi,
        "llms": published.llms,
        "resources": resources,
        "items": items,
    })
    .to_string()
}

fn item(published: &Published<'_>, route: &Route) -> Value {
    let mut item = Map::new();
    let mut put = |key: &str, value: Value| {
        item.insert(key.to_owned(), value);
    };
    put("resource", published.url(route).into());
    put("type", "http".into());
    put("x402Version", X402_VERSION.into());
    match route.pattern.methods() {
        [] => {}
        [method] => put("method", method.as_str().into()),
        methods => put("methods", methods.into()),
    }
    put("match", route.pattern.as_str().into());
    let conditions = &route.conditions;
    if let Some(host) = conditions.host() {
        put("host", host.to_string().into());
    }
    if !conditions.query().is_empty() {
        put("query", conditions.query().iter().map(|it| (it.name(), it.value())).collect());
    }
    if !conditions.headers().is_empty() {
        put("headers", conditions.headers().iter().map(|it| (it.name().as_str(), it.value())).collect());
    }
    put("route", route.name.as_str().into());
    if !route.description.is_empty() {
        put("description", route.description.as_str().into());
    }
    if !route.mime_type.is_empty() {
        put("mimeType", route.mime_type.as_str().into());
    }
    if route.refund == RefundRule::OnClose {
        put("refund", json!({ "when": route.refund.as_str(), "close": published.origin(route).join(CLOSE) }));
    }
    match &route.access {
        Access::Free => {}
        Access::Priced(listed) => put("terms", offered(published, route, *listed)),
        Access::Calls(prices) => {
            put("calls", calls(published, route, prices));
            put("bills", prices.bills.as_str().into());
        }
    }
    Value::Object(item)
}

/// The ways to pay a price, as a bill's `accepts` will list them, without what is fresh in each. That is the amount
/// as well, if the price is in another currency: then `extra` has the price.
fn offered(published: &Published<'_>, route: &Route, Listed { price, grants }: Listed) -> Value {
    let config = published.config;
    let one = |mechanism: &Mechanism| {
        let mut entry = json!({
            "scheme": Scheme::Exact.as_str(),
            "network": Network::Mainnet.to_string(),
            "asset": Asset::Xno.as_str(),
            "maxTimeoutSeconds": config.challenge.lifetime,
            "extra": {
                "mechanism": mechanism.as_str(),
                "grants": grants_to_json(grants),
            },
        });
        match price {
            Cost::Raw(amount) => put_in(&mut entry, "amount", amount.to_string()),
            Cost::Fiat(fiat) => {
                let extra = entry.get_mut("extra");
                if let Some(extra) = extra {
                    put_in(extra, "price", fiat.number.to_string());
                    put_in(extra, "currency", fiat.currency.to_string());
                }
            }
        }
        entry
    };
    published.mechanisms(route).iter().map(one).collect()
}

fn put_in(object: &mut Value, key: &str, text: String) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(key.to_owned(), text.into());
    }
}

/// The lines of an MCP endpoint's price list that are on offer.
fn calls(published: &Published<'_>, route: &Route, prices: &CallPrices) -> Value {
    let on_offer = prices.lines().filter_map(|(line, price)| {
        let terms = match price {
            Price::Refused => return None,
            Price::Free => Value::Array(Vec::new()),
            Price::Costs(price) => offered(published, route, Listed { price, grants: prices.grants }),
        };
        let (method, tool) = match line {
            Line::Method(method) => (Value::from(method), Value::Null),
            Line::Tool(tool) => (Value::from("tools/call"), Value::from(tool)),
            Line::Otherwise => (Value::from("*"), Value::Null),
        };
        let free = price == Price::Free;
        Some(json!({ "method": method, "tool": tool, "free": free, "terms": terms }))
    });
    on_offer.collect()
}
