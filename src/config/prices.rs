//! The routes of the file as a price table, and what happens to requests that no route covers.

use std::num::NonZeroU32;
use std::sync::Arc;

use serde_yaml::Value;

use super::conditions;
use super::document::{below, item};
use super::judge::{Judge, Judged, Reported, all};
use super::mechanisms::{self, ByRoute, Offered};
use super::meter;
use super::mirror::{Given, GrantsFile, Piece, RouteFile, UnmatchedFile};
use super::rules::{self, RulePieces};
use super::upstream::Upstreams;
use crate::payment::Mechanism;
use crate::routes::{
    Access, BodyRule, ChargeOn, Conditions, Found, Grants, Listed, MAX_ALTERNATIVES, Metering, PART, Pattern,
    PaymentIdentifiers, PreflightRule, PriceTable, RefundRule, Route, RouteName, Standing, TableFault,
    UpstreamName,
};
use crate::usage::MeterPlan;

/// What happens to a request that no route covers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Unmatched {
    /// 404.
    NotFound,
    /// It is forwarded free to this upstream.
    Free(UpstreamName),
}

/// The longest name of a route, in bytes: it is in headers, challenges and metrics.
pub const MAX_NAME: usize = 200;
/// The longest description of a route, in bytes: it is in the header of each 402.
pub const MAX_DESCRIPTION: usize = 500;
/// The longest media type, in bytes.
const MAX_MIME_TYPE: usize = 127;
const DEFAULT_WITHIN: u64 = 3600;

const PRICE_HINT: &str =
    "write `price: 0.001 XNO` (or `rai`, `raw`, or a currency: `0.02 USD`), or `free: true`";

/// The price table. Routes with mechanisms of their own are added to `offered`.
pub(super) fn table(
    judge: &mut Judge<'_>,
    piece: Piece<Vec<Value>>,
    known: Judged<&Upstreams>,
    offered: &mut ByRoute,
) -> Judged<PriceTable> {
    let hint = "write `routes: [{ match: \"/v1/**\", upstream: NAME, price: 0.001 XNO }]`";
    let items = judge.items(piece, "no route: no request would be covered", hint)?;
    let mut outcome = Ok(());
    let mut routes = Vec::new();
    // The path of each good route.
    let mut places = Vec::new();
    for piece in items {
        let path = piece.path.clone();
        match route(judge, piece, known, offered) {
            Ok(route) => {
                routes.push(route);
                places.push(path);
            }
            Err(reported) => outcome = Err(reported),
        }
    }
    match PriceTable::new(routes) {
        Ok(table) => outcome.map(|()| table),
        Err(faults) => {
            for fault in faults {
                outcome = Err(table_fault(judge, fault, &places));
            }
            outcome.and_then(|()| Err(judge.fault("routes", "the routes contradict each other", hint)))
        }
    }
}

/// A path for a message about another: `routes[0] (line 11)`.
fn at_line(judge: &Judge<'_>, path: &str) -> String {
    format!("{path} (line {})", judge.line(path).unwrap_or_default())
}

fn table_fault(judge: &mut Judge<'_>, fault: TableFault, places: &[String]) -> Reported {
    let place = |index: usize| places.get(index).map(String::as_str).unwrap_or_default();
    let other = |index: usize| at_line(judge, place(index));
    let (path, message, hint) = match fault {
        TableFault::Equal { first, second } => (
            below(place(second), "match"),
            format!("as close as {} to requests that both match", other(first)),
            "make one of the two more specific, give them conditions that exclude each other, or remove one",
        ),
        TableFault::Crowded { first, second } => (
            below(place(second), "match"),
            format!(
                "more than {MAX_ALTERNATIVES} routes have the path of {} and differ only in their conditions",
                other(first)
            ),
            "tell them apart by path or host",
        ),
        TableFault::SameName { first, second } => {
            let named = below(place(second), "name");
            let is_named = judge.line(&named).is_some();
            (
                if is_named { named } else { below(place(second), "match") },
                format!("the same name as {}", other(first)),
                "give each route a `name` of its own",
            )
        }
        TableFault::SameFormerName { first, second } => (
            below(place(second), "formerly"),
            format!(
                "{} has or had one of these names: what was bought under it would open both",
                other(first)
            ),
            "name here only what this route was called, and give no other route that name",
        ),
        TableFault::Alias { free, priced } => {
            let (first, second) = (free.min(priced), free.max(priced));
            let (here, there) = if second == free { ("free", "priced") } else { ("priced", "free") };
            (
                below(place(second), "match"),
                format!(
                    "letter case or a trailing slash would decide between this {here} route and the {there} {}",
                    other(first)
                ),
                "remove `case_sensitive`, or make the paths differ in more than their spelling",
            )
        }
    };
    judge.fault(&path, message, hint)
}

fn route(
    judge: &mut Judge<'_>,
    piece: Piece<Value>,
    known: Judged<&Upstreams>,
    offered: &mut ByRoute,
) -> Judged<Route> {
    let path = piece.path.clone();
    let file: RouteFile = judge.section(piece)?;
    let priced_only = [
        file.grants.given_path(),
        file.charge_on.given_path(),
        file.metering.given_path(),
        file.refund.given_path(),
        file.payment_identifier.given_path(),
        file.mechanisms.given_path(),
    ];
    let hint =
        "write an optional method and a path: `GET /v1/quote/{symbol}`, `GET,POST /v1/search`, `/docs/**`";
    let pattern = judge.need_text(file.r#match, hint, Pattern::parse);
    let known_pattern = || pattern.as_ref().map_err(|it| *it);
    let conditions = conditions::conditions(judge, file.host, file.query, file.headers);
    let strip = conditions::strip(judge, file.strip, known_pattern());
    let name = name(judge, &path, file.name, known_pattern());
    let formerly = formerly(judge, file.formerly);
    let standing = standing(known_pattern(), conditions.as_ref().map_err(|it| *it), formerly);
    let prices =
        [file.price.given_path(), file.free.given_path(), file.grants.given_path(), file.mcp.given_path()];
    let (meter, refund) = metered(judge, file.meter, file.refund, prices);
    let access = match &meter {
        Ok(None) => access(judge, &path, pattern.as_ref().ok(), file.price, file.free, file.grants, file.mcp),
        Ok(Some(plan)) => Ok(meter::access(plan)),
        Err(reported) => Err(*reported),
    };
    let rule_pieces = RulePieces {
        allow: file.allow,
        deny: file.deny,
        limit: file.limit,
        free_per_day: file.free_per_day,
        mode: file.mode,
        enforce: file.enforce,
    };
    let is_free = matches!(access, Ok(Access::Free));
    if is_free {
        without_price(judge, priced_only.into_iter().chain(rule_pieces.of_a_price()).flatten());
    }
    let (identifiers, place) = (file.payment_identifier, file.mechanisms.path.clone());
    let mechanisms = mechanisms::list(judge, file.mechanisms);
    let names_payers = matches!(&mechanisms, Ok(Some(list)) if !list.contains(&Mechanism::NanoSession))
        || mechanisms.is_err();
    let rules = rules::rules(judge, rule_pieces, is_free, names_payers);
    let line = |it: Judged<Option<String>>| it.map(Option::unwrap_or_default);
    let route = all!(Route {
        name,
        standing,
        pattern,
        conditions,
        access,
        meter,
        strip,
        upstream: named_upstream(judge, file.upstream, known),
        description: line(judge.one_line(file.description, MAX_DESCRIPTION, |_| true, "a description")),
        mime_type: line(judge.one_line(file.mime_type, MAX_MIME_TYPE, is_mime_type, "a media type")),
        hidden: judge.flag(file.hidden, false),
        charge_on: judge
            .choice(file.charge_on, ChargeOn::ALL, ChargeOn::as_str)
            .map(Option::unwrap_or_default),
        metering: judge.choice(file.metering, Metering::ALL, Metering::as_str).map(Option::unwrap_or_default),
        refund,
        payment_identifier: judge.choice(identifiers, PaymentIdentifiers::ALL, PaymentIdentifiers::as_str),
        preflight: judge.choice(file.preflight, PreflightRule::ALL, PreflightRule::as_str),
        body: judge.choice(file.body, BodyRule::ALL, BodyRule::as_str).map(Option::unwrap_or_default),
        case_sensitive: judge.flag(file.case_sensitive, false),
        rules,
    })?;
    if let Some(mechanisms) = mechanisms? {
        offered.insert(route.name.clone(), Offered { mechanisms, path: place });
    }
    Ok(route)
}

/// A route's meter, and what becomes of what is left: the meter says it, where there is one. `prices` are the route's
/// other keys that say what it costs.
fn metered(
    judge: &mut Judge<'_>,
    meter: Piece<Value>,
    refund: Piece<String>,
    prices: [Option<String>; 4],
) -> (Judged<Option<Arc<MeterPlan>>>, Judged<RefundRule>) {
    let [price, free, grants, mcp] = prices;
    let plan = meter::plan(judge, meter, [price, free, grants, mcp, refund.given_path()]);
    let refund = judge.choice(refund, RefundRule::ALL, RefundRule::as_str);
    match plan {
        Ok(None) => (Ok(None), refund.map(Option::unwrap_or_default)),
        Ok(Some((plan, refund))) => (Ok(Some(plan)), Ok(refund)),
        Err(reported) => (Err(reported), Err(reported)),
    }
}

/// Refuses these keys, which say something of a price, on a route that has none.
fn without_price(judge: &mut Judge<'_>, keys: impl Iterator<Item = String>) {
    for path in keys {
        let key = path.rsplit('.').next().unwrap_or_default();
        judge.fault(&path, format_args!("`{key}` without a price"), PRICE_HINT);
    }
}

const NAME_HINT: &str = "at most 200 printable ASCII characters, without `#`";

/// # Errors
/// What is wrong with the name.
fn read_name(text: &str) -> Result<RouteName, &'static str> {
    let printable = text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    let fits = !text.is_empty() && text.len() <= MAX_NAME && text.trim() == text;
    if !fits || !printable || text.contains(PART) {
        return Err("a route cannot have this name");
    }
    let name = RouteName::new(text);
    if name.is_foreign() { Err("such names are for what other servers sell") } else { Ok(name) }
}

fn standing(
    pattern: Judged<&Pattern>,
    conditions: Judged<&Conditions>,
    formerly: Judged<Vec<RouteName>>,
) -> Judged<Arc<Standing>> {
    Ok(Arc::new(Standing::new(pattern?, conditions?, formerly?)))
}

/// The names that a route had.
fn formerly(judge: &mut Judge<'_>, piece: Piece<Vec<Value>>) -> Judged<Vec<RouteName>> {
    if !piece.is_given() {
        return Ok(Vec::new());
    }
    let items =
        judge.items(piece, "no former name", "leave `formerly` out, or name what the route was called")?;
    judge.each(items, "name", Clone::clone, |judge, it| judge.need_text(it, NAME_HINT, read_name))
}

/// The name of a route; without a `name` it is the `match`.
fn name(
    judge: &mut Judge<'_>,
    path: &str,
    piece: Piece<String>,
    pattern: Judged<&Pattern>,
) -> Judged<RouteName> {
    let given = judge.text(piece, NAME_HINT, read_name)?;
    if let Some(name) = given {
        return Ok(name);
    }
    let text = pattern?.as_str();
    if text.len() > MAX_NAME {
        let message = "too long to be the route's name as well";
        return Err(judge.fault(&below(path, "match"), message, "give it a `name`"));
    }
    Ok(RouteName::new(text))
}

/// The name of an upstream, which must be known.
fn named_upstream(
    judge: &mut Judge<'_>,
    piece: Piece<String>,
    known: Judged<&Upstreams>,
) -> Judged<UpstreamName> {
    let path = piece.path.clone();
    let name = UpstreamName::new(&judge.need(piece, "name one of `upstreams`")?);
    let known = known?;
    if known.contains_key(&name) {
        return Ok(name);
    }
    let hint = match judge.guess(name.as_str(), known.keys().map(UpstreamName::as_str)) {
        Some(near) => format!("do you mean `{near}`?"),
        None => "name one of `upstreams`".to_owned(),
    };
    Err(judge.refuse(&path, format_args!("unknown upstream {:?}", name.as_str()), &hint))
}

fn access(
    judge: &mut Judge<'_>,
    path: &str,
    pattern: Option<&Pattern>,
    price: Piece<String>,
    free: Piece<bool>,
    grants: Piece<Value>,
    mcp: Piece<Value>,
) -> Judged<Access> {
    let is_free = judge.flag(free, false)?;
    if is_free && (price.is_given() || mcp.is_given()) {
        return Err(judge.fault(
            &below(path, "free"),
            "both free and priced",
            "keep one of `free` and the price",
        ));
    }
    if is_free {
        return Ok(Access::Free);
    }
    let grants = judge.section(grants).and_then(|it| self::grants(judge, it));
    if !mcp.is_given() {
        let price = judge.need_text(price, PRICE_HINT, super::calls::amount);
        return Ok(Access::Priced(all!(Listed { price, grants })?));
    }
    if pattern.is_some_and(|it| it.methods() != ["POST"]) {
        let hint = "write `POST /mcp`, and separate routes for `GET /mcp` and `DELETE /mcp`";
        judge.fault(&below(path, "match"), "`mcp` prices what is posted", hint);
    }
    if price.is_given() {
        let hint = "put the price of everything else under `mcp.otherwise`";
        judge.fault(&price.path, "both `price` and `mcp`", hint);
    }
    super::calls::calls(judge, mcp, grants).map(|it| Access::Calls(Arc::new(it)))
}

fn grants(judge: &mut Judge<'_>, file: GrantsFile) -> Judged<Grants> {
    let range = NonZeroU32::MIN.get()..=NonZeroU32::MAX.get();
    let requests = judge.count(file.requests, range, 1);
    let seconds = judge.seconds(file.within, 1..=meter::MAX_WITHIN, DEFAULT_WITHIN);
    let requests = requests.map(|it| NonZeroU32::new(it).unwrap_or(NonZeroU32::MIN));
    Ok(Grants::of_requests(requests?, seconds?))
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

/// What happens to requests that no route covers. `table` is `None` if a fault was found in it.
pub(super) fn unmatched(
    judge: &mut Judge<'_>,
    piece: Piece<Value>,
    known: Judged<&Upstreams>,
    table: Option<&PriceTable>,
) -> Judged<Unmatched> {
    let hint = "write `404`, or `{ upstream: NAME, free: true }`";
    match &piece.given {
        Given::Missing => return Ok(Unmatched::NotFound),
        Given::Is(value) if value.as_u64() == Some(404) => return Ok(Unmatched::NotFound),
        Given::Is(value) if !value.is_mapping() => {
            return Err(judge.fault("unmatched", "neither `404` nor an upstream", hint));
        }
        Given::Is(_) | Given::Empty | Given::Wrong(_) => {}
    }
    let file: UnmatchedFile = judge.need_section(piece, hint)?;
    let is_free = judge.flag(file.free, false)?;
    let upstream = named_upstream(judge, file.upstream, known)?;
    if !is_free {
        let message = "requests that no route covers have no price: they can only be free";
        return Err(judge.fault("unmatched", message, hint));
    }
    let loose = table.and_then(|table| {
        table.routes().iter().position(|route| route.case_sensitive && !route.access.is_free())
    });
    if let Some(index) = loose {
        let route = at_line(judge, &item("routes", index));
        let message = format!("another spelling of the case-sensitive {route} would pass free");
        let hint = "write `unmatched: 404`, or remove `case_sensitive`";
        return Err(judge.fault("unmatched", message, hint));
    }
    Ok(Unmatched::Free(upstream))
}

/// Warns of paths with a segment that means "any" elsewhere and only itself here.
pub(super) fn warn_of_foreign_patterns(judge: &mut Judge<'_>, table: &PriceTable) {
    for (index, route) in table.routes().iter().enumerate() {
        let Some(segment) = route.pattern.as_str().split('/').skip(1).find(|it| is_foreign_pattern(it))
        else {
            continue;
        };
        let message = format!("`{segment}` stands for these very characters, not for any others");
        let hint = "write `{name}` for any one segment, or `/**` at the end for any rest of the path";
        judge.warn(&below(&item("routes", index), "match"), message, hint);
    }
}

/// Whether a segment looks like a placeholder or a regular expression of another program: `:id`, `<id>`,
/// `[a-z]+`, `(a|b)`.
fn is_foreign_pattern(segment: &str) -> bool {
    let within = |from: char, to: char| {
        segment.split_once(from).and_then(|(_, rest)| rest.split_once(to)).map(|(inside, _)| inside)
    };
    let is_name = |text: &str| text.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_');
    segment.strip_prefix(':').is_some_and(is_name)
        || within('<', '>').is_some()
        || within('[', ']').is_some()
        || within('(', ')').is_some_and(|it| it.contains('|'))
}

/// Warns of routes that give back what is left, and whose payments show nobody to whom.
pub(super) fn warn_of_unknown_payers(
    judge: &mut Judge<'_>,
    table: &PriceTable,
    offered: &ByRoute,
    usual: &[Mechanism],
) {
    for (index, route) in table.routes().iter().enumerate() {
        let mechanisms = offered.get(&route.name).map_or(usual, |it| &it.mechanisms);
        if route.refund == RefundRule::OnClose && !mechanisms.iter().any(|it| it.proves_payer()) {
            let message =
                "`refund: on_close`, and no payment shows who holds the key of the account that paid";
            let hint =
                "offer nanoTxn or nanoSignature as well: with nanoSession the account may be an exchange's";
            judge.warn(&below(&item("routes", index), "match"), message, hint);
        }
    }
}

/// Warns of priced routes whose path is free for another method.
pub(super) fn warn_of_free_methods(judge: &mut Judge<'_>, table: &PriceTable, unmatched: &Unmatched) {
    for (index, route) in table.routes().iter().enumerate() {
        let methods = route.pattern.methods();
        if route.access.is_free() || methods.is_empty() {
            continue;
        }
        let Some(way) = free_way(table.find_other_method(route), unmatched) else { continue };
        let message =
            format!("priced for {} only: any other method passes free through {way}", methods.join(", "));
        let hint = "leave the method out, or price the path for the other methods as well";
        judge.warn(&below(&item("routes", index), "match"), message, hint);
    }
}

/// Warns of priced routes of which a request that does not meet their conditions is free.
pub(super) fn warn_of_free_fallbacks(judge: &mut Judge<'_>, table: &PriceTable, unmatched: &Unmatched) {
    for (index, route) in table.routes().iter().enumerate() {
        let conditions = &route.conditions;
        if route.access.is_free() || conditions.is_empty() {
            continue;
        }
        let fallback = table.find_without_conditions(route);
        let upstream = match (fallback, unmatched) {
            (Found::Route(other), _) => Some(&other.upstream),
            (Found::Unmatched, Unmatched::Free(upstream)) => Some(upstream),
            (Found::Unmatched, Unmatched::NotFound) | (Found::Unclear(_), _) => None,
        };
        let host_alone = conditions.query().is_empty() && conditions.headers().is_empty();
        if host_alone && upstream != Some(&route.upstream) {
            // Another host may be another, free API.
            continue;
        }
        let Some(way) = free_way(fallback, unmatched) else { continue };
        let message = format!("priced for {conditions} only: any other request passes free through {way}");
        let hint = "price the path without conditions as well; best, give conditions to the cheaper route";
        judge.warn(&below(&item("routes", index), "match"), message, hint);
    }
}

/// By what a request that finds this is free; `None` if it is not.
fn free_way(found: Found<'_>, unmatched: &Unmatched) -> Option<&'static str> {
    match (found, unmatched) {
        (Found::Route(other), _) if other.access.is_free() => Some("a free route"),
        (Found::Unmatched, Unmatched::Free(_)) => Some("`unmatched`"),
        (
            Found::Route(_) | Found::Unmatched | Found::Unclear(_),
            Unmatched::NotFound | Unmatched::Free(_),
        ) => None,
    }
}
