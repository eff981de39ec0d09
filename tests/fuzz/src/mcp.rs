//! The calls in the body of a request to an MCP server: what is priced is what a second parser reads.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::LazyLock;

use faregate::nano::Raw;
use faregate::routes::{
    BillForm, CAPABILITY_KEY, CallPrices, ClaimedCall, Enclosed, Grants, Lines, MAX_BATCH, MAX_DEPTH,
    PAYMENT_KEY, Price, Quote,
};
use faregate::x402::mcp::{PAYMENT_RESPONSE_KEY, ResultMeta, WholeReceipt, with_meta};
use jiter::{JsonErrorType, JsonValue};

use crate::json;

/// What the second parser reads of one message.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Seen {
    Answer,
    Tool(String),
    Method(String),
}

fn prices(methods: BTreeMap<String, Price>, tools: BTreeMap<String, Price>, otherwise: Price) -> CallPrices {
    let grants = Grants::of_requests(NonZeroU32::MIN, 60);
    let (methods, tools, bills) = (Lines::new(methods), Lines::new(tools), BillForm::Both);
    CallPrices { bound: 1 << 20, grants, methods, tools, otherwise, bills }
}

/// Everything is offered for 1 raw.
static OPEN: LazyLock<CallPrices> =
    LazyLock::new(|| prices(BTreeMap::new(), BTreeMap::new(), Price::Costs(Raw::new(1).into())));

/// A body whose calls are priced is read by the second parser in the same way: each call is on the line
/// that this parser sees, no key is there twice, and the limits hold. A payment in it is the one that this parser
/// sees, and is cut out of the text with nothing else. Read as an answer, it has its receipt where this parser looks.
pub fn run(body: &[u8]) {
    check_receipt(body);
    let quote = OPEN.quote(body);
    let read = JsonValue::parse(body, false);
    // As it is built here, it has no type for integers beyond 64 bits.
    if read.as_ref().is_err_and(|it| it.error_type == JsonErrorType::NumberOutOfRange) {
        return;
    }
    if let Ok(value) = &read {
        // Of what both refuse nothing is known. What is plain to the second parser is not refused.
        assert!(quote.is_ok() || !is_plain(value, body), "refused: {quote:?}");
    }
    let Ok(quote) = quote else { return };
    let value = read.unwrap_or_else(|error| panic!("only one parser reads it: {error}"));
    assert!(!has_double_key(&value), "a key is there twice");
    assert!(depth(&value) <= MAX_DEPTH, "too deep");
    let seen = messages(&value).unwrap_or_else(|| panic!("no batch of messages"));
    assert!((1..=MAX_BATCH).contains(&seen.len()), "{} messages", seen.len());
    check_names(&seen);
    check_sum(body, &seen, &quote);
    check_claims(body, &seen);
    check_enclosed(body, &value, &quote);
}

/// A receipt that is put in is there for the second parser, however the answer comes in pieces.
fn check_receipt(answer: &[u8]) {
    let meta = ResultMeta { payment_response: Some("{\"success\":true}".to_owned()), capability: None };
    let text = std::str::from_utf8(answer).ok();
    let with = text.and_then(|it| with_meta(it, "1", &meta));
    let middle = answer.len() / 2;
    let mut receipt = WholeReceipt::new("1".to_owned(), meta);
    let mut passed = receipt.part(&answer[..middle]);
    passed.extend(receipt.part(&answer[middle..]));
    passed.extend(receipt.end());
    let Some(with) = with else { return };
    // A byte order mark or the like behind the object is no part of it, and passes.
    assert_eq!(String::from_utf8_lossy(&passed), with);
    let Ok(seen) = JsonValue::parse(with.as_bytes(), false) else {
        assert!(JsonValue::parse(answer, false).is_err(), "it could be read before: {with}");
        return;
    };
    let given = json::field(&seen, "result").and_then(|it| json::field(it, "_meta"));
    let given = given.and_then(|it| json::field(it, PAYMENT_RESPONSE_KEY));
    assert_eq!(given, JsonValue::parse(b"{\"success\":true}", false).ok().as_ref(), "{with}");
}

/// What is enclosed is what the second parser finds there. The rest is the same text but for it, and costs the same.
fn check_enclosed(body: &[u8], value: &JsonValue<'_>, quote: &Quote) {
    let Ok(read) = Enclosed::read(body) else { return };
    let params = json::field(value, "params");
    let meta =
        params.and_then(|it| json::field(it, "_meta")).filter(|_| matches!(value, JsonValue::Object(_)));
    let mut count = 0;
    for (key, own) in [(PAYMENT_KEY, &read.payment), (CAPABILITY_KEY, &read.capability)] {
        let seen = meta.and_then(|it| json::field(it, key));
        let own =
            own.as_ref().map(|it| JsonValue::parse(it.as_bytes(), false).expect("a part of what was read"));
        assert_eq!(own.as_ref(), seen, "{key}");
        count += usize::from(seen.is_some());
    }
    let Some(rest) = &read.rest else {
        assert_eq!(count, 0, "it goes on with the body");
        return;
    };
    assert!(count > 0, "nothing was to be cut");
    let left = JsonValue::parse(rest.as_bytes(), false)
        .unwrap_or_else(|error| panic!("the rest is not JSON: {error}"));
    assert!(
        is_without(value, &left, &["params", "_meta"]),
        "more or less than what is enclosed is gone: {rest}"
    );
    assert_eq!(OPEN.quote(rest.as_bytes()).as_ref(), Ok(quote));
    let again = Enclosed::read(rest.as_bytes()).expect("the rest can be read");
    assert!(!again.shows_something() && again.id == read.id && again.rest.is_none());
    let before = body.iter().zip(rest.as_bytes()).take_while(|(one, other)| one == other).count();
    let behind = body.iter().rev().zip(rest.bytes().rev()).take_while(|(one, other)| *one == other).count();
    assert!(
        count > 1 || before + behind >= rest.len(),
        "the rest is not byte for byte what was sent: {rest}"
    );
}

/// Whether `left` is `whole` without what is enclosed in the object at `path`, in the same order.
fn is_without(whole: &JsonValue<'_>, left: &JsonValue<'_>, path: &[&str]) -> bool {
    let (JsonValue::Object(whole), JsonValue::Object(left)) = (whole, left) else { return false };
    let stays = |key: &str| !path.is_empty() || ![PAYMENT_KEY, CAPABILITY_KEY].contains(&key);
    let mut stay = whole.iter().filter(|(key, _)| stays(key));
    let same = left.iter().all(|(key, left)| {
        stay.next().is_some_and(|(own, whole)| {
            let leads_on = path.split_first().filter(|(first, _)| **first == &**key);
            own == key && leads_on.map_or_else(|| whole == left, |(_, path)| is_without(whole, left, path))
        })
    });
    same && stay.next().is_none()
}

fn check_names(seen: &[Seen]) {
    for name in seen.iter().filter_map(Seen::name) {
        assert!((1..=128).contains(&name.len()) && name.bytes().all(|it| it.is_ascii_graphic()), "{name:?}");
    }
}

/// Each call costs what the line of its own name says, and nothing else is called.
fn check_sum(body: &[u8], seen: &[Seen], open: &Quote) {
    let names: BTreeSet<_> = seen.iter().filter(|it| **it != Seen::Answer).cloned().collect();
    let (mut methods, mut tools, mut costs) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (index, call) in (0_u32..).zip(&names) {
        let cost = 1_u128 << index;
        costs.insert(call.clone(), cost);
        let lines = if matches!(call, Seen::Tool(_)) { &mut tools } else { &mut methods };
        lines.insert(call.name().unwrap_or_default().to_owned(), Price::Costs(Raw::new(cost).into()));
    }
    let due: u128 = seen.iter().filter_map(|it| costs.get(it)).sum();
    let listed = prices(methods.clone(), tools.clone(), Price::Refused);
    match listed.quote(body) {
        Ok(Quote::Free) => assert_eq!(due, 0),
        Ok(Quote::Costs { amount, .. }) => assert_eq!(amount.raw().unwrap().get(), due, "{seen:?}"),
        // Two names that differ in letter case only cannot be told apart by every server.
        Err(fault) => panic!("{fault} for {seen:?}"),
    }
    // Without its line, a call is refused, whichever it is. A line that ends in `*` is for other names too.
    let is_one_name = |it: &Seen| it.name().is_some_and(|it| !it.ends_with('*'));
    for name in names.iter().filter(|_| names.iter().all(is_one_name)) {
        let (mut methods, mut tools) = (methods.clone(), tools.clone());
        let removed = match name {
            Seen::Tool(name) => tools.remove(name),
            Seen::Method(name) => methods.remove(name),
            Seen::Answer => None,
        };
        assert!(removed.is_some());
        let free = name.name().is_some_and(|it| it.starts_with("notifications/"));
        let quote = prices(methods, tools, Price::Refused).quote(body);
        assert!(quote.is_err() || free, "{name:?} is not refused: {quote:?}");
    }
    assert!(*open == Quote::Free || due > 0);
}

/// The headers that name the call are believed only if they name this one.
fn check_claims(body: &[u8], seen: &[Seen]) {
    let [call] = seen else { return };
    let (method, name) = match call {
        Seen::Answer => return,
        Seen::Tool(name) => ("tools/call", Some(name.as_str())),
        Seen::Method(method) => (method.as_str(), None),
    };
    let claimed = |method, name| OPEN.quote_claimed(body, &ClaimedCall { method, name }).is_ok();
    assert!(claimed(Some(method), name));
    assert!(!claimed(Some("initialize/"), name) || method == "initialize/");
    if let Some(name) = name {
        assert!(!claimed(Some(method), Some("another tool")) && !name.contains(' '));
    }
}

impl Seen {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Answer => None,
            Self::Tool(name) | Self::Method(name) => Some(name),
        }
    }

    fn of(message: &JsonValue<'_>) -> Option<Self> {
        let Some(method) = json::text(message, "method") else {
            let is_answer = json::field(message, "method").is_none()
                && (json::field(message, "result").is_some() != json::field(message, "error").is_some());
            return is_answer.then_some(Self::Answer);
        };
        if method != "tools/call" {
            return Some(Self::Method(method.to_owned()));
        }
        let tool = json::text(json::field(message, "params")?, "name")?;
        Some(Self::Tool(tool.to_owned()))
    }
}

fn messages(value: &JsonValue<'_>) -> Option<Vec<Seen>> {
    match value {
        JsonValue::Array(list) => list.iter().map(Seen::of).collect(),
        one => Some(vec![Seen::of(one)?]),
    }
}

fn depth(value: &JsonValue<'_>) -> usize {
    match value {
        JsonValue::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        JsonValue::Object(fields) => 1 + fields.iter().map(|(_, it)| depth(it)).max().unwrap_or(0),
        _ => 0,
    }
}

fn has_double_key(value: &JsonValue<'_>) -> bool {
    match value {
        JsonValue::Array(list) => list.iter().any(has_double_key),
        JsonValue::Object(fields) => {
            let keys: BTreeSet<_> = fields.iter().map(|(key, _)| key).collect();
            keys.len() < fields.len() || fields.iter().any(|(_, it)| has_double_key(it))
        }
        _ => false,
    }
}

/// Whether this is one call that no server can misread: a version, an id, a method, and a tool in `params`.
fn is_plain(value: &JsonValue<'_>, body: &[u8]) -> bool {
    const KEYS: [&str; 4] = ["jsonrpc", "id", "method", "params"];
    let JsonValue::Object(fields) = value else { return false };
    let is_name = |it: &str| {
        (1..=128).contains(&it.len())
            && it.bytes().all(|it| it.is_ascii_lowercase() || it == b'/' || it == b'_')
    };
    let has_known_keys = fields.iter().all(|(key, _)| KEYS.contains(&&**key)) && !has_double_key(value);
    let method = json::text(value, "method").filter(|it| is_name(it));
    let has_id = matches!(json::field(value, "id"), Some(JsonValue::Str(_) | JsonValue::Int(_)));
    let is_versioned = json::text(value, "jsonrpc") == Some("2.0");
    let params = json::field(value, "params");
    let has_tool = params.and_then(|it| json::text(it, "name")).is_some_and(is_name);
    let has_plain_params = match params {
        None => method != Some("tools/call"),
        Some(JsonValue::Object(params)) => {
            let is_plain_value = |it: &JsonValue<'_>| matches!(it, JsonValue::Str(_) | JsonValue::Int(_));
            let is_plain_key = |it: &str| is_name(it);
            params.iter().all(|(key, it)| is_plain_key(key) && is_plain_value(it)) && has_tool
        }
        Some(_) => false,
    };
    // The second parser takes what `serde_json` does not: half of a pair of surrogates.
    let has_escapes = body.contains(&b'\\');
    has_known_keys && method.is_some() && has_id && is_versioned && has_plain_params && !has_escapes
}
