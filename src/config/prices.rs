//! The routes of the file as a price table, and what happens to the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use serde_yaml::Value;

use super::document::{below, item};
use super::judge::{Judge, nearest};
use super::mechanisms::{self, ByRoute, Offered};
use super::mirror::{GrantsFile, Piece, RouteFile, UnmatchedFile};
use super::upstream::UpstreamConfig;
use crate::nano::Raw;
use crate::routes::{
    Access, ChargeOn, Found, Grants, Metering, PART, Pattern, PaymentIdentifiers, PriceTable, Route,
    RouteName, TableFault, Terms, UpstreamName,
};

/// What happens to a request that no route covers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unmatched {
    /// 404.
    NotFound,
    /// It passes free to this upstream.
    Free(UpstreamName),
}

/// Bytes of a route's name: it goes into headers, challenges and metrics.
pub const MAX_NAME: usize = 200;
/// Bytes of a route's description: it goes into the header of each 402.
pub const MAX_DESCRIPTION: usize = 500;
/// Bytes of a media type.
const MAX_MIME_TYPE: usize = 127;
/// Seconds for which a payment may grant.
const MAX_WITHIN: u64 = 366 * 24 * 3600;
const DEFAULT_WITHIN: u64 = 3600;

const PRICE_HINT: &str = "write `price: 0.001 XNO` (or `rai`, `raw`), or `free: true`";

pub(super) type Known = BTreeMap<UpstreamName, Option<UpstreamConfig>>;

/// The price table. `known` is nothing where the upstreams could not be read.
pub(super) fn table(
    judge: &mut Judge<'_>,
    piece: Piece<Vec<Value>>,
    known: Option<&Known>,
    used: &mut BTreeSet<UpstreamName>,
    offered: &mut ByRoute,
) -> Option<PriceTable> {
    let hint = "write `routes: [{ match: \"/v1/**\", upstream: NAME, price: 0.001 XNO }]`";
    let items = judge.need("", "routes", piece, hint)?;
    if items.is_empty() {
        judge.fault("routes", "no route: every request would be unmatched", hint);
        return None;
    }
    let count = items.len();
    let mut routes = Vec::new();
    // Where in the file each of the good ones stands.
    let mut places = Vec::new();
    for (index, value) in items.into_iter().enumerate() {
        let path = item("routes", index);
        if let Some(route) = route(judge, &path, value, known, used, offered) {
            routes.push(route);
            places.push(path);
        }
    }
    let complete = routes.len() == count;
    match PriceTable::new(routes) {
        Ok(table) => complete.then_some(table),
        Err(faults) => {
            for fault in faults {
                table_fault(judge, fault, &places);
            }
            None
        }
    }
}

fn table_fault(judge: &mut Judge<'_>, fault: TableFault, places: &[String]) {
    let place = |index: usize| places.get(index).map(String::as_str).unwrap_or_default();
    let other =
        |judge: &Judge<'_>, index: usize| format!("{} (line {})", place(index), judge.line(place(index)));
    match fault {
        TableFault::Equal { first, second } => {
            let message = format!("claims the same requests as {}", other(judge, first));
            judge.fault(
                &below(place(second), "match"),
                message,
                "make one of the two closer, or take it out",
            );
        }
        TableFault::SameName { first, second } => {
            let path = match below(place(second), "name") {
                named if judge.line(&named) > 0 => named,
                _ => below(place(second), "match"),
            };
            let message = format!("the same name as {}", other(judge, first));
            judge.fault(&path, message, "give each route a `name` of its own");
        }
        TableFault::Alias { free, priced } => {
            let (first, second) = (free.min(priced), free.max(priced));
            let (here, there) = if second == free { ("free", "priced") } else { ("priced", "free") };
            let message = format!(
                "letter case or a trailing slash would decide between this {here} route and the {there} {}",
                other(judge, first)
            );
            let hint = "take `case_sensitive` away, or make the paths differ in more than their spelling";
            judge.fault(&below(place(second), "match"), message, hint);
        }
    }
}

fn route(
    judge: &mut Judge<'_>,
    path: &str,
    value: Value,
    known: Option<&Known>,
    used: &mut BTreeSet<UpstreamName>,
    offered: &mut ByRoute,
) -> Option<Route> {
    let file: RouteFile = judge.open(path, value)?;
    let hint = "write an optional method and a path: `GET /v1/quote/{symbol}`, `/docs/**`";
    let pattern = judge.need(path, "match", file.r#match, hint);
    let pattern = pattern.and_then(|text| judge.read(&below(path, "match"), &text, hint, Pattern::parse));
    let name = name(judge, path, file.name, pattern.as_ref());
    let upstream = judge.need(path, "upstream", file.upstream, "name one of `upstreams`");
    let upstream =
        upstream.and_then(|name| named_upstream(judge, &below(path, "upstream"), &name, known, used));
    let priced_only = [
        ("grants", file.grants.is_given()),
        ("charge_on", file.charge_on.is_given()),
        ("metering", file.metering.is_given()),
        ("payment_identifier", file.payment_identifier.is_given()),
        ("mechanisms", file.mechanisms.is_given()),
    ];
    let asked = Asked { price: file.price, free: file.free, grants: file.grants, mcp: file.mcp };
    let access = access(judge, path, asked, pattern.as_ref());
    if let Some(Access::Free) = access {
        for (key, _) in priced_only.iter().filter(|(_, given)| *given) {
            judge.fault(&below(path, key), format_args!("`{key}` without a price"), PRICE_HINT);
        }
    }
    let description = file.description;
    let description =
        line_of_text(judge, &below(path, "description"), description, MAX_DESCRIPTION, |_| true);
    let mime_type =
        line_of_text(judge, &below(path, "mime_type"), file.mime_type, MAX_MIME_TYPE, is_mime_type);
    let hidden = flag(judge, &below(path, "hidden"), file.hidden);
    let charge_on = charge_on(judge, &below(path, "charge_on"), file.charge_on);
    let metering = metering(judge, &below(path, "metering"), file.metering);
    let payment_identifier =
        payment_identifier(judge, &below(path, "payment_identifier"), file.payment_identifier);
    let case_sensitive = flag(judge, &below(path, "case_sensitive"), file.case_sensitive);
    if file.mechanisms.is_given() {
        let path = below(path, "mechanisms");
        let mechanisms = mechanisms::list(judge, &path, file.mechanisms)?;
        offered.insert(name.clone()?, Offered { mechanisms, path });
    }
    Some(Route {
        name: name?,
        pattern: pattern?,
        access: access?,
        upstream: upstream?,
        description: description?,
        mime_type: mime_type?,
        hidden: hidden?,
        charge_on: charge_on?,
        metering: metering?,
        payment_identifier: payment_identifier?,
        case_sensitive: case_sensitive?,
    })
}

fn name(
    judge: &mut Judge<'_>,
    path: &str,
    piece: Piece<String>,
    pattern: Option<&Pattern>,
) -> Option<RouteName> {
    let hint = format!("at most {MAX_NAME} printable ASCII characters, no `{PART}` among them");
    if !piece.is_given() {
        let text = pattern?.as_str();
        if text.len() > MAX_NAME {
            judge.fault(&below(path, "match"), "too long to be the route's name too", "give it a `name`");
            return None;
        }
        return Some(RouteName::new(text));
    }
    judge.text(&below(path, "name"), piece, &hint, |text| {
        let printable = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if text.trim() != text
            || text.is_empty()
            || text.len() > MAX_NAME
            || text.contains(PART)
            || !printable
        {
            return Err("this is no name for a route");
        }
        let name = RouteName::new(text);
        if name.is_foreign() { Err("names of this kind are for what other servers sell") } else { Ok(name) }
    })
}

/// An upstream by its name, which must be known.
fn named_upstream(
    judge: &mut Judge<'_>,
    path: &str,
    name: &str,
    known: Option<&Known>,
    used: &mut BTreeSet<UpstreamName>,
) -> Option<UpstreamName> {
    let known = known?;
    let wanted = UpstreamName::new(name);
    if known.contains_key(&wanted) {
        used.insert(wanted.clone());
        return Some(wanted);
    }
    let hint = match nearest(name, known.keys().map(UpstreamName::as_str)) {
        Some(near) => format!("is `{near}` meant?"),
        None => "name one of `upstreams`".to_owned(),
    };
    judge.refuse(path, format_args!("unknown upstream {name:?}"), &hint);
    None
}

/// What a route says of its price.
struct Asked {
    price: Piece<String>,
    free: Piece<bool>,
    grants: Piece<Value>,
    mcp: Piece<Value>,
}

fn access(judge: &mut Judge<'_>, path: &str, asked: Asked, pattern: Option<&Pattern>) -> Option<Access> {
    let Asked { price, free, grants, mcp } = asked;
    let priced = price.is_given();
    let free_path = below(path, "free");
    let is_free = flag(judge, &free_path, free);
    if (priced || mcp.is_given()) && is_free == Some(true) {
        judge.fault(&free_path, "both free and priced", "keep one of `free` and the price");
        return None;
    }
    if mcp.is_given() {
        if priced {
            let hint = "put the price of whatever is on no line under `mcp.otherwise`";
            judge.fault(&below(path, "price"), "both `price` and `mcp`", hint);
        }
        if pattern.is_some_and(|it| it.method() != Some("POST")) {
            let hint = "write `POST /mcp`, and routes of their own for `GET /mcp` and `DELETE /mcp`";
            judge.fault(&below(path, "match"), "`mcp` prices what is posted", hint);
        }
        let grants = self::grants(judge, &below(path, "grants"), grants);
        let calls = super::calls::calls(judge, &below(path, "mcp"), mcp, grants)?;
        return (!priced && is_free.is_some()).then(|| Access::Calls(Arc::new(calls)));
    }
    if !priced {
        return match is_free? {
            true => Some(Access::Free),
            false => {
                judge.missing(path, "price", PRICE_HINT);
                None
            }
        };
    }
    let price_path = below(path, "price");
    let amount = judge.text(&price_path, price, PRICE_HINT, Raw::with_unit);
    let amount = amount.filter(|amount| {
        if amount.is_zero() {
            judge.fault(&price_path, "a price of zero", PRICE_HINT);
        }
        !amount.is_zero()
    });
    let grants = self::grants(judge, &below(path, "grants"), grants);
    is_free?;
    Some(Access::Priced(Terms { amount: amount?, grants: grants? }))
}

fn grants(judge: &mut Judge<'_>, path: &str, piece: Piece<Value>) -> Option<Grants> {
    let file: GrantsFile = judge.section_or_default(path, piece)?;
    let range = NonZeroU32::MIN.get()..=NonZeroU32::MAX.get();
    let requests = judge.count(&below(path, "requests"), file.requests, range, 1);
    let seconds = judge.seconds(&below(path, "within"), file.within, 1..=MAX_WITHIN, DEFAULT_WITHIN);
    Some(Grants { requests: NonZeroU32::new(requests?)?, seconds: seconds? })
}

fn charge_on(judge: &mut Judge<'_>, path: &str, piece: Piece<String>) -> Option<ChargeOn> {
    if !piece.is_given() {
        return Some(ChargeOn::default());
    }
    let hint = format!("one of {}", ChargeOn::ALL.map(ChargeOn::as_str).join(", "));
    judge.text(path, piece, &hint, |text| {
        ChargeOn::ALL
            .into_iter()
            .find(|it| it.as_str() == text)
            .ok_or_else(|| format!("unknown rule {text:?}"))
    })
}

fn metering(judge: &mut Judge<'_>, path: &str, piece: Piece<String>) -> Option<Metering> {
    if !piece.is_given() {
        return Some(Metering::default());
    }
    let hint = format!("one of {}", Metering::ALL.map(Metering::as_str).join(", "));
    judge.text(path, piece, &hint, |text| {
        Metering::ALL
            .into_iter()
            .find(|it| it.as_str() == text)
            .ok_or_else(|| format!("unknown metering {text:?}"))
    })
}

/// Nothing inside where the route does not speak of ids.
fn payment_identifier(
    judge: &mut Judge<'_>,
    path: &str,
    piece: Piece<String>,
) -> Option<Option<PaymentIdentifiers>> {
    if !piece.is_given() {
        return Some(None);
    }
    let hint = "write `optional` or `required`, or leave it out";
    let read = judge.text(path, piece, hint, |text| {
        PaymentIdentifiers::ALL
            .into_iter()
            .find(|it| it.as_str() == text)
            .ok_or_else(|| format!("neither `optional` nor `required`: {text:?}"))
    });
    read.map(Some)
}

fn flag(judge: &mut Judge<'_>, path: &str, piece: Piece<bool>) -> Option<bool> {
    if piece.is_given() { judge.get(path, piece, "write `true` or `false`") } else { Some(false) }
}

/// A text that goes into a header; empty where there is none.
fn line_of_text(
    judge: &mut Judge<'_>,
    path: &str,
    piece: Piece<String>,
    longest: usize,
    is_good: impl Fn(&str) -> bool,
) -> Option<String> {
    if !piece.is_given() {
        return Some(String::new());
    }
    let text = judge.get(path, piece, "")?;
    if text.len() > longest || text.chars().any(char::is_control) || !is_good(&text) {
        let hint = format!("one line of at most {longest} bytes");
        judge.fault(path, "this text cannot be used here", &hint);
        return None;
    }
    Some(text)
}

/// `type/subtype`, perhaps with parameters.
fn is_mime_type(text: &str) -> bool {
    let essence = text.split(';').next().unwrap_or_default().trim_end();
    let is_token = |part: &str| {
        let in_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&byte);
        !part.is_empty() && part.bytes().all(in_token)
    };
    text.is_ascii() && essence.split_once('/').is_some_and(|(kind, sub)| is_token(kind) && is_token(sub))
}

/// What happens to requests that no route covers.
pub(super) fn unmatched(
    judge: &mut Judge<'_>,
    piece: Piece<Value>,
    known: Option<&Known>,
    used: &mut BTreeSet<UpstreamName>,
    table: Option<&PriceTable>,
) -> Option<Unmatched> {
    let hint = "write `404`, or `{ upstream: NAME, free: true }`";
    if !piece.is_given() {
        return Some(Unmatched::NotFound);
    }
    let value = judge.get("unmatched", piece, hint)?;
    if value.as_u64() == Some(404) {
        return Some(Unmatched::NotFound);
    }
    if !value.is_mapping() {
        judge.fault("unmatched", "neither `404` nor an upstream", hint);
        return None;
    }
    let file: UnmatchedFile = judge.open("unmatched", value)?;
    let free = flag(judge, "unmatched.free", file.free)?;
    let name = judge.need("unmatched", "upstream", file.upstream, hint)?;
    let upstream = named_upstream(judge, "unmatched.upstream", &name, known, used)?;
    if !free {
        judge.fault("unmatched", "what no route covers has no price: it can only be free", hint);
        return None;
    }
    let loose = table.and_then(|table| {
        table.routes().iter().position(|route| route.case_sensitive && !route.access.is_free())
    });
    if let Some(index) = loose {
        let place = item("routes", index);
        let message = format!(
            "another spelling of the case-sensitive {place} (line {}) would pass free",
            judge.line(&place)
        );
        judge.fault("unmatched", message, "write `unmatched: 404`, or take `case_sensitive` away");
        return None;
    }
    Some(Unmatched::Free(upstream))
}

/// Warns of priced routes whose path is free by another method.
pub(super) fn warn_of_free_methods(judge: &mut Judge<'_>, table: &PriceTable, unmatched: &Unmatched) {
    for (index, route) in table.routes().iter().enumerate() {
        let Some(method) = route.pattern.method().filter(|_| !route.access.is_free()) else { continue };
        let way = match (table.find_other_method(route), unmatched) {
            (Found::Route(other), _) if other.access.is_free() => "a free route",
            (Found::Unmatched, Unmatched::Free(_)) => "`unmatched`",
            (Found::Route(_) | Found::Unmatched, Unmatched::NotFound | Unmatched::Free(_)) => continue,
        };
        let message = format!("priced for {method} alone: any other method passes free through {way}");
        let hint = "leave the method out, or price the path for the other methods too";
        judge.warn(&below(&item("routes", index), "match"), message, hint);
    }
}
