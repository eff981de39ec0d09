//! `/llms.txt`: what this API is, how it is paid for, and what each route costs, in plain words.

use std::fmt::Write;

use super::super::places::CLOSE;
use super::Published;
use crate::payment::Mechanism;
use crate::routes::{Access, BillForm, Line, Price, RefundRule, Route};

const HOW: &str = "\
## How to pay

No account is needed. Each priced request is paid for in XNO, the currency of the Nano network
(`nano:mainnet`), without a fee, by x402 version 2.

1. Send the request. Unpaid, it is answered `402 Payment Required`; the header `PAYMENT-REQUIRED`, in
   base64, and the body hold one JSON object.
2. Choose an entry of its `accepts`: `amount` in raw (1 XNO = 10^30 raw) to the address `payTo`.
3. Send the same request with `PAYMENT-SIGNATURE`: base64 of
   `{\"x402Version\": 2, \"accepted\": <the entry, unchanged>, \"payload\": <the proof>}`.
   The payload depends on the entry's `extra.mechanism`:
";

const AFTER: &str = "\
4. The answer comes with a receipt, `PAYMENT-RESPONSE`, and `PAYMENT-CAPABILITY: <token>; remaining=N`.
   While something remains, send the token in `PAYMENT-CAPABILITY` instead of paying again.

Never pay a 503: send the same proof again after `Retry-After`. A 402 after a proof says in `error` what
was wrong. What a request costs is what its 402 says; the prices below only advise.
";

pub(super) fn write(published: &Published<'_>) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _infallible = fill(published, &mut text).is_ok();
    text
}

fn fill(published: &Published<'_>, out: &mut String) -> std::fmt::Result {
    let config = published.config;
    writeln!(out, "# {}\n", published.title())?;
    if let Some(description) = &config.discovery.description {
        writeln!(out, "> {description}\n")?;
    }
    writeln!(out, "An HTTP API at {} with a price for each request.\n", config.public_url)?;
    out.push_str(HOW);
    for mechanism in Mechanism::ALL {
        if published.priced().any(|route| published.mechanisms(route).contains(&mechanism)) {
            writeln!(out, "   - `{mechanism}`: {}", proof(mechanism))?;
        }
    }
    out.push_str(AFTER);
    if published.priced().any(gives_back) {
        let close = config.public_url.join(CLOSE);
        writeln!(
            out,
            "\nWhere a price says so, what is left is sent back to the account that paid: `POST {close}` with the token\n\
             in `PAYMENT-CAPABILITY`. The token is closed for ever. Repeat the request until its `state` is `confirmed`."
        )?;
    }
    writeln!(out, "\n## Prices\n")?;
    for route in published.priced() {
        price(route, out)?;
    }
    let mut free = published.routes().filter(|route| route.access.is_free()).peekable();
    if free.peek().is_some() {
        writeln!(out, "\n## Free\n")?;
    }
    for route in free {
        writeln!(out, "- {}{}", covered(route), described(route))?;
    }
    let more = [("OpenAPI", published.openapi.as_deref()), ("Contact", config.discovery.contact.as_deref())];
    if more.iter().any(|(_, it)| it.is_some()) {
        writeln!(out, "\n## More\n")?;
    }
    for (name, it) in more {
        if let Some(it) = it {
            writeln!(out, "- {name}: {it}")?;
        }
    }
    Ok(())
}

/// What proves a payment.
const fn proof(mechanism: Mechanism) -> &'static str {
    match mechanism {
        Mechanism::NanoTxn => {
            "`{\"block\": <a signed send block with its work>}`, which is broadcast for you"
        }
        Mechanism::NanoSignature => {
            "send the amount yourself, then sign `<block hash>:<extra.nonce>:<extra.validBefore>` as an off-chain \
             message: `{\"blockHash\", \"account\", \"signature\"}`"
        }
        Mechanism::NanoSession => "send exactly the amount yourself: `{\"proof\": <the block's hash>}`",
    }
}

fn price(route: &Route, out: &mut String) -> std::fmt::Result {
    let buys = route.access.grants().map(|it| it.to_string()).unwrap_or_default();
    match &route.access {
        Access::Free => Ok(()),
        Access::Priced(listed) => {
            let price = format!("{} for {buys}", listed.price.in_full());
            writeln!(out, "- {}: {price}{}{}", covered(route), back(route), described(route))
        }
        Access::Calls(prices) => {
            writeln!(
                out,
                "- {}, an MCP endpoint, by what is called; a payment buys {buys}{}{}",
                covered(route),
                back(route),
                described(route)
            )?;
            out.push_str(bills(prices.bills));
            for (line, price) in prices.lines() {
                if price == Price::Refused {
                    continue;
                }
                match line {
                    Line::Method(name) => writeln!(out, "  - method `{name}`: {price}")?,
                    Line::Tool(name) => writeln!(out, "  - tool `{name}`: {price}")?,
                    Line::Otherwise => writeln!(out, "  - anything else: {price}")?,
                }
            }
            Ok(())
        }
    }
}

/// How an MCP endpoint bills.
const fn bills(form: BillForm) -> &'static str {
    match form {
        BillForm::Http => "",
        BillForm::Result => {
            "  - the bill for a tool is its result, with `isError` and `structuredContent`; the payment goes into \
             `_meta[\"x402/payment\"]` of the call, or into the header as elsewhere\n"
        }
        BillForm::Both => {
            "  - the bill for a tool is its result if the call has a key of x402 in `_meta`, else HTTP 402; the payment \
             goes into `_meta[\"x402/payment\"]` of the call, or into the header as elsewhere\n"
        }
    }
}

/// The requests of a route.
fn covered(route: &Route) -> String {
    let Route { pattern, conditions, .. } = route;
    if conditions.is_empty() { format!("`{pattern}`") } else { format!("`{pattern}` with {conditions}") }
}

fn gives_back(route: &Route) -> bool {
    route.refund == RefundRule::OnClose
}

fn back(route: &Route) -> &'static str {
    if gives_back(route) { "; what is left is sent back when you close it" } else { "" }
}

fn described(route: &Route) -> String {
    if route.description.is_empty() { String::new() } else { format!(". {}", route.description) }
}
