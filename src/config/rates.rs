//! Where exchange rates come from, and which of them are good.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_yaml::Value;
use url::Url;

use super::document::{below, item};
use super::judge::{Judge, Judged, all};
use super::mirror::{Piece, RatesFile};
use super::nodes;
use super::web_address::{self, HTTP};
use crate::ledger::node::is_near;
use crate::money::{Cost, Currency};
use crate::rates::{RateSettings, RateSource};
use crate::routes::{Access, PriceTable};
use crate::usage::Pointer;

const EVERY: Duration = Duration::from_secs(60);
const MIN_EVERY: Duration = Duration::from_secs(1);
const MAX_EVERY: Duration = Duration::from_secs(3600);
/// In seconds.
const AT_MOST_OLD: u64 = 600;
const MAX_AT_MOST_OLD: u64 = 7 * 24 * 3600;
const TIMEOUT: Duration = Duration::from_secs(5);
const MIN_TIMEOUT: Duration = Duration::from_millis(100);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// In %.
const MAX_CHANGE: u8 = 30;

const SOURCE_HINT: &str = "write the path of a file, or `https://HOST/PATH`";
const CURRENCIES_HINT: &str = "write `currencies: { USD: /nano/usd }`: where each rate stands in the answer";
const RATES_HINT: &str =
    "write `rates: { source: https://HOST/PATH }`: where the rates of currencies are read";

/// The currencies of the prices, each with the path of one of them.
fn priced(table: &PriceTable) -> BTreeMap<Currency, String> {
    let mut found = BTreeMap::new();
    for (index, route) in table.routes().iter().enumerate() {
        let route_path = item("routes", index);
        let (cost, key) = match &route.access {
            Access::Free => continue,
            Access::Priced(listed) => (Some(listed.price), "price"),
            // They are all in one money.
            Access::Calls(prices) => (prices.costs().next(), "mcp"),
        };
        if let Some(currency) = cost.and_then(Cost::currency) {
            found.entry(currency).or_insert_with(|| below(&route_path, key));
        }
    }
    found
}

/// `table` is `None` if a fault was found in it.
pub(super) fn rates(
    judge: &mut Judge<'_>,
    piece: Piece<Value>,
    table: Option<&PriceTable>,
) -> Judged<Option<RateSettings>> {
    let priced = table.map(priced).unwrap_or_default();
    if !piece.is_given() {
        let mut outcome = Ok(None);
        for (currency, path) in priced {
            let message = format!("a price in {currency}, and no `rates`: what that is in XNO is not known");
            outcome = Err(judge.fault(&path, message, RATES_HINT));
        }
        return outcome;
    }
    let file: RatesFile = judge.section(piece)?;
    let place = file.at_most_old.path.clone();
    let lists = file.currencies.is_given();
    let listed = currencies(judge, file.currencies);
    let currencies = listed.and_then(|listed| pointers(judge, listed, lists, priced));
    let hint = "write the place of a time in the answer: `time: /nano/last_updated_at`";
    let time = judge.text(file.time, hint, str::parse::<Pointer>);
    let settings = all!(RateSettings {
        source: source(judge, file.source),
        every: judge.duration(file.every, MIN_EVERY..=MAX_EVERY, EVERY),
        at_most_old: judge.seconds(file.at_most_old, 1..=MAX_AT_MOST_OLD, AT_MOST_OLD),
        timeout: judge.duration(file.timeout, MIN_TIMEOUT..=MAX_TIMEOUT, TIMEOUT),
        max_change: judge
            .text(file.max_change, "write a share, from `1%` to `100%`", percent)
            .map(|it| it.unwrap_or(MAX_CHANGE)),
        currencies,
        // The form without pointers has its time at `/at`.
        time: time.map(|it| it.or_else(|| "/at".parse().ok().filter(|_| !lists))),
        authorities: nodes::authorities(judge, file.ca_file),
    })?;
    if Duration::from_secs(settings.at_most_old) < settings.every {
        let hint = "let a rate be used for several times `every`";
        return Err(judge.fault(&place, "a rate would be too old before the next one is read", hint));
    }
    Ok(Some(settings))
}

fn source(judge: &mut Judge<'_>, piece: Piece<String>) -> Judged<RateSource> {
    let base = judge.base;
    judge.need_text(piece, SOURCE_HINT, |text| {
        if text.contains("://") {
            return address(text).map(RateSource::Url);
        }
        if text.is_empty() {
            Err("the path is empty".to_owned())
        } else {
            Ok(RateSource::File(base.join(text)))
        }
    })
}

fn address(text: &str) -> Result<Url, String> {
    let url = web_address::parse(text, HTTP)?;
    if url.scheme() == "http" && !is_near(&url) {
        return Err("plain http: anybody on the network path could set the prices".to_owned());
    }
    Ok(url)
}

fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').map(str::trim_end).and_then(|it| it.parse().ok());
    number.filter(|it| (1..=100).contains(it)).ok_or_else(|| format!("{text:?} is no such share"))
}

/// What the file says of the places of rates; empty if it says nothing.
fn currencies(judge: &mut Judge<'_>, piece: Piece<Value>) -> Judged<BTreeMap<Currency, Pointer>> {
    let place = piece.path.clone();
    let map = match judge.get(piece, CURRENCIES_HINT)? {
        None => return Ok(BTreeMap::new()),
        Some(Value::Mapping(map)) if !map.is_empty() => map,
        Some(_) => return Err(judge.fault(&place, "no currency with its place", CURRENCIES_HINT)),
    };
    let (mut found, mut outcome) = (BTreeMap::new(), Ok(()));
    for (name, value) in map {
        let name = name.as_str().unwrap_or_default();
        let here = below(&place, name);
        let currency = name.parse::<Currency>();
        if let Err(error) = &currency {
            outcome = Err(judge.fault(&here, error, CURRENCIES_HINT));
        }
        let pointer = judge.need_text(Piece::new(here, Some(value)), CURRENCIES_HINT, str::parse);
        match (currency, pointer) {
            (Ok(currency), Ok(pointer)) => drop(found.insert(currency, pointer)),
            (_, Err(reported)) => outcome = Err(reported),
            (Err(_), Ok(_)) => {}
        }
    }
    outcome.map(|()| found)
}

/// The place of each currency's rate: as it is `listed`, or in the form that needs no list.
fn pointers(
    judge: &mut Judge<'_>,
    listed: BTreeMap<Currency, Pointer>,
    lists: bool,
    priced: BTreeMap<Currency, String>,
) -> Judged<BTreeMap<Currency, Pointer>> {
    if lists {
        let mut outcome = Ok(());
        for (currency, path) in priced.iter().filter(|(it, _)| !listed.contains_key(it)) {
            let message = format!("a price in {currency}, which `rates.currencies` does not have");
            outcome = Err(judge.fault(path, message, CURRENCIES_HINT));
        }
        return outcome.map(|()| listed);
    }
    if priced.is_empty() {
        let message = "no price is in another currency: the rates are not read";
        judge.warn("rates", message, "write a price in a currency (`price: 0.02 USD`), or remove `rates`");
    }
    let place = |currency: Currency| format!("/XNO/{currency}").parse().ok().map(|it| (currency, it));
    Ok(priced.into_keys().filter_map(place).collect())
}
