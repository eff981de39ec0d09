//! A route's `mcp`: what each call of an MCP server's endpoint costs.

use std::collections::BTreeMap;

use serde_yaml::Value;

use super::document::below;
use super::judge::Judge;
use super::limits::bytes;
use super::mirror::{McpFile, Piece};
use crate::nano::Raw;
use crate::routes::{CallPrices, Grants, Lines, Price};

/// Bytes of a body that can be looked into and still be forwarded: what Pingora keeps of one to send
/// it again.
pub const MAX_BODY: usize = 64 * 1024;
/// Bytes of a method or tool on a line.
const MAX_LINE: usize = 128;

const PRICE_HINT: &str = "write an amount (`0.001 XNO`), `free` or `refuse`";
const LINES_HINT: &str = "write `tools: { search: 0.001 XNO, \"render-*\": 0.01 XNO }`";

/// The price list below `path`, with the route's `grants`.
pub(super) fn calls(
    judge: &mut Judge<'_>,
    path: &str,
    piece: Piece<Value>,
    grants: Option<Grants>,
) -> Option<CallPrices> {
    let file: McpFile = judge.section(path, piece)?;
    let most = u64::try_from(MAX_BODY).unwrap_or(u64::MAX);
    let body_path = below(path, "body");
    let bound = bytes(judge, &body_path, file.body, most, most);
    let bound = bound.filter(|bound| {
        if *bound == 0 {
            judge.fault(&body_path, "no body fits", "write `64 KiB`, or leave it out");
        }
        *bound > 0
    });
    let methods = lines(judge, &below(path, "methods"), file.methods);
    let tools = lines(judge, &below(path, "tools"), file.tools);
    let otherwise = match file.otherwise {
        Piece::Missing => Some(Price::Refused),
        given @ (Piece::Empty | Piece::Is(_) | Piece::Wrong(_)) => {
            let path = below(path, "otherwise");
            let text = judge.get(&path, given, PRICE_HINT);
            text.and_then(|text| price(judge, &path, &text))
        }
    };
    let prices = CallPrices {
        bound: usize::try_from(bound?).unwrap_or(MAX_BODY),
        grants: grants?,
        methods: methods?,
        tools: tools?,
        otherwise: otherwise?,
    };
    if !prices.lines().any(|(_, price)| matches!(price, Price::Costs(_))) {
        let hint = "give a tool or `tools/call` a price, or write `free: true` in place of `mcp`";
        judge.fault(path, "no call has a price", hint);
        return None;
    }
    Some(prices)
}

fn lines(judge: &mut Judge<'_>, path: &str, piece: Piece<Value>) -> Option<Lines> {
    if !piece.is_given() {
        return Some(Lines::default());
    }
    let Value::Mapping(map) = judge.get(path, piece, LINES_HINT)? else {
        judge.fault(path, "names and prices are expected here", LINES_HINT);
        return None;
    };
    let count = map.len();
    let mut lines = BTreeMap::new();
    for (name, value) in map {
        let name = name.as_str().unwrap_or_default();
        let here = below(path, name);
        let good = is_line(name);
        if !good {
            let hint =
                format!("at most {MAX_LINE} of letters, digits and `_ - . / $`, perhaps `*` at the end");
            judge.fault(&here, "this is no name of a method or a tool", &hint);
        }
        let text = value.as_str();
        if text.is_none() {
            judge.fault(&here, "a price is expected here", PRICE_HINT);
        }
        if let (true, Some(price)) = (good, text.and_then(|text| price(judge, &here, text))) {
            lines.insert(name.to_owned(), price);
        }
    }
    (lines.len() == count).then(|| Lines::new(lines))
}

fn is_line(name: &str) -> bool {
    let whole = name.strip_suffix('*').unwrap_or(name);
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b'/' | b'$');
    !name.is_empty() && name.len() <= MAX_LINE && whole.bytes().all(known)
}

fn price(judge: &mut Judge<'_>, path: &str, text: &str) -> Option<Price> {
    match text {
        "free" => Some(Price::Free),
        "refuse" => Some(Price::Refused),
        amount => {
            let amount = judge.read(path, amount, PRICE_HINT, Raw::with_unit)?;
            if amount.is_zero() {
                judge.fault(path, "a price of zero", PRICE_HINT);
                return None;
            }
            Some(Price::Costs(amount))
        }
    }
}
