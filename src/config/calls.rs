//! A route's `mcp`: the price of each call at an MCP server's endpoint.

use std::collections::BTreeMap;

use serde_yaml::Value;

use super::document::below;
use super::judge::{Judge, Judged, all};
use super::mirror::{McpFile, Piece};
use crate::money::Cost;
use crate::nano::Raw;
use crate::routes::{BillForm, CallPrices, Grants, Lines, Price};

/// The largest body that can be read before the request is forwarded, in bytes: Pingora keeps this
/// much of a body to send it again.
pub const MAX_BODY: usize = 64 * 1024;
/// The longest name of a method or tool, in bytes.
const MAX_LINE: usize = 128;

const PRICE_HINT: &str = "write an amount (`0.001 XNO`, `0.02 USD`), `free` or `refuse`";
const LINES_HINT: &str = "write `tools: { search: 0.001 XNO, \"render-*\": 0.01 XNO }`";

/// The price list, with the route's `grants`.
pub(super) fn calls(
    judge: &mut Judge<'_>,
    piece: Piece<Value>,
    grants: Judged<Grants>,
) -> Judged<CallPrices> {
    let place = piece.path.clone();
    let file: McpFile = judge.section(piece)?;
    let most = u64::try_from(MAX_BODY).unwrap_or(u64::MAX);
    let bound = judge.bytes(file.body, 1..=most, most);
    let otherwise = judge.text(file.otherwise, PRICE_HINT, price);
    let prices = all!(CallPrices {
        bound: bound.map(|it| usize::try_from(it).unwrap_or(MAX_BODY)),
        grants,
        methods: lines(judge, file.methods),
        tools: lines(judge, file.tools),
        otherwise: otherwise.map(|it| it.unwrap_or(Price::Refused)),
        bills: judge.choice(file.bills, BillForm::ALL, BillForm::as_str).map(Option::unwrap_or_default),
    })?;
    if !prices.lines().any(|(_, price)| matches!(price, Price::Costs(_))) {
        let hint = "give a tool or `tools/call` a price, or write `free: true` instead of `mcp`";
        return Err(judge.fault(&place, "no call has a price", hint));
    }
    let first = prices.costs().next().and_then(Cost::currency);
    if prices.costs().any(|it| it.currency() != first) {
        let hint = "write all prices of one `mcp` in the same currency, or all in XNO";
        return Err(judge.fault(&place, "prices in several currencies: a batch would have no sum", hint));
    }
    Ok(prices)
}

fn lines(judge: &mut Judge<'_>, piece: Piece<Value>) -> Judged<Lines> {
    let place = piece.path.clone();
    let map = match judge.get(piece, LINES_HINT)? {
        None => return Ok(Lines::default()),
        Some(Value::Mapping(map)) => map,
        Some(_) => return Err(judge.fault(&place, "names and prices are expected here", LINES_HINT)),
    };
    let mut outcome = Ok(());
    let mut lines = BTreeMap::new();
    for (name, value) in map {
        let name = name.as_str().unwrap_or_default();
        let here = below(&place, name);
        if !is_line(name) {
            let hint = format!("at most {MAX_LINE} letters, digits and `_ - . / $`, perhaps `*` at the end");
            outcome = Err(judge.fault(&here, "no method or tool has such a name", &hint));
        }
        match judge.need_text(Piece::new(here, Some(value)), PRICE_HINT, price) {
            Ok(price) => drop(lines.insert(name.to_owned(), price)),
            Err(reported) => outcome = Err(reported),
        }
    }
    outcome.map(|()| Lines::new(lines))
}

fn is_line(name: &str) -> bool {
    let whole = name.strip_suffix('*').unwrap_or(name);
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b'$');
    !name.is_empty() && name.len() <= MAX_LINE && whole.bytes().all(known)
}

fn price(text: &str) -> Result<Price, String> {
    match text {
        "free" => Ok(Price::Free),
        "refuse" => Ok(Price::Refused),
        amount => self::amount(amount).map(Price::Costs),
    }
}

/// An amount of XNO that is not zero.
pub(super) fn raw(text: &str) -> Result<Raw, String> {
    match Raw::with_unit(text) {
        Ok(amount) if amount.is_zero() => Err("a price of zero".to_owned()),
        Ok(amount) => Ok(amount),
        Err(error) => Err(error.to_string()),
    }
}

/// An amount that is not zero.
pub(super) fn amount(text: &str) -> Result<Cost, String> {
    match Cost::with_unit(text) {
        Ok(amount) if amount.is_zero() => Err("a price of zero".to_owned()),
        Ok(amount) => Ok(amount),
        Err(error) => Err(error.to_string()),
    }
}
