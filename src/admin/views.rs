//! What the operator is shown, as JSON: payments, capabilities, routes. Never a token or a challenge: whoever knows
//! one can use what it bought.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use crate::money::Cost;
use crate::nano::UnixSeconds;
use crate::rates::RateStatus;
use crate::routes::{Access, PreflightRule, Route, RouteName, Strip, Unit};
use crate::store::PaymentRecord;
use crate::store::operator::{CapabilityEntry, ManualAct};
use crate::store::refunds::RefundRecord;

/// The last second that is printed as a date.
const LAST_DATE: u64 = 253_402_300_799;

/// An instant as a date and a time, in UTC.
#[must_use]
pub fn time(at: UnixSeconds) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(at.0.min(LAST_DATE))).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
}

/// A payment of the journal.
#[must_use]
pub fn payment(payment: &PaymentRecord) -> Value {
    let intent = &payment.intent;
    let price = intent.exchange.map(|it| it.price);
    json!({
        "sequence": payment.sequence,
        "created_at": time(payment.created_at),
        "updated_at": time(payment.updated_at),
        "state": payment.state.as_str(),
        "mechanism": intent.mechanism.as_str(),
        "route": intent.route.as_str(),
        "amount_xno": intent.amount.xno().number(),
        "amount_raw": intent.amount.to_string(),
        "price_raw": intent.terms.amount.to_string(),
        "price": price.map(|it| it.number.to_string()),
        "currency": price.map(|it| it.currency.to_string()),
        "rate": intent.exchange.map(|it| it.rate.to_string()),
        "block": intent.block.to_string(),
        "payer": intent.payer.to_string(),
        "pay_to": intent.pay_to.to_string(),
        "requests": intent.terms.grants.requests(),
        "within_seconds": intent.terms.grants.seconds,
        "valid_before": time(intent.valid_before),
    })
}

/// What goes back to who paid.
#[must_use]
pub fn refund(refund: &RefundRecord) -> Value {
    json!({
        "capability": refund.capability.to_string(),
        "state": refund.state.as_str(),
        "route": refund.route.as_str(),
        "account": refund.account.to_string(),
        "amount_xno": refund.amount.xno().number(),
        "amount_raw": refund.amount.to_string(),
        "payment": refund.payment.to_string(),
        "block": refund.block.map(|it| it.hash().to_string()),
        "closed_at": time(refund.closed_at),
        "updated_at": time(refund.updated_at),
    })
}

/// A capability, as it is at `now`.
pub(super) fn capability(entry: &CapabilityEntry, now: UnixSeconds) -> Value {
    let record = &entry.record;
    let uses = |amount: u128| (record.unit == Unit::Use).then(|| u64::try_from(amount).unwrap_or(u64::MAX));
    let unspent = record.stock.saturating_sub(entry.spent);
    let state = if record.revoked {
        "revoked"
    } else if record.expires_at <= now {
        "expired"
    } else if unspent == 0 {
        "used_up"
    } else {
        "open"
    };
    let left = if state == "open" { unspent } else { 0 };
    let paid = !entry.is_free();
    json!({
        "id": record.id.to_string(),
        "state": state,
        "route": record.route.as_str(),
        "uses": uses(record.stock),
        "spent": uses(entry.spent),
        "leased": uses(entry.leased),
        "left": uses(left),
        "purse": (record.unit == Unit::Raw).then(|| json!({
            "bought_raw": record.stock.to_string(),
            "spent_raw": entry.spent.to_string(),
            "leased_raw": entry.leased.to_string(),
            "left_raw": left.to_string(),
        })),
        "granted_at": time(entry.granted_at),
        "expires_at": time(record.expires_at),
        "free": !paid,
        "payer": paid.then(|| entry.payer.to_string()),
        "block": paid.then(|| record.block.to_string()),
        "amount_xno": entry.amount.xno().number(),
        "amount_raw": entry.amount.to_string(),
        "given": entry.given.as_ref().map(manual_act),
        "revoked_at": entry.revoked_at.map(time),
        "revoked": entry.revoked_by.as_ref().map(manual_act),
    })
}

fn manual_act(act: &ManualAct) -> Value {
    json!({ "at": time(act.at), "by": act.remark.who, "note": act.remark.why })
}

/// What is known of an exchange rate.
pub(super) fn rate(it: &RateStatus) -> Value {
    json!({
        "currency": it.currency.as_str(),
        "rate": it.rate.map(|(rate, _)| rate.to_string()),
        "age": it.rate.map(|(_, age)| age),
        "fresh": it.fresh,
        "held": it.held.map(|it| it.to_string()),
    })
}

/// A price: in raw and XNO, or as it is in another currency.
#[must_use]
pub fn price(price: Cost) -> Map<String, Value> {
    let fields = match price {
        Cost::Raw(amount) => [("amount", amount.to_string()), ("xno", amount.xno().to_string())],
        Cost::Fiat(fiat) => [("price", fiat.number.to_string()), ("currency", fiat.currency.to_string())],
    };
    fields.into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect()
}

fn pairs<'r>(all: impl Iterator<Item = (&'r str, &'r str)>) -> Value {
    all.map(|(name, value)| (name.to_owned(), value.into())).collect::<Map<_, _>>().into()
}

/// A route as JSON, as `faregate check --json` has it too.
#[must_use]
pub fn route(route: &Route) -> Value {
    let priced = match &route.access {
        Access::Free => Value::Null,
        Access::Calls(prices) => json!({
            "calls": prices.lines().map(|(line, price)| (line.to_string(), price.to_string().into())).collect::<Map<_, _>>(),
            "bills": prices.bills.as_str(),
            "requests": prices.grants.requests(),
            "seconds": prices.grants.seconds,
        }),
        Access::Priced(listed) => {
            let mut price = price(listed.price);
            price.insert("requests".to_owned(), json!(listed.grants.requests()));
            price.insert("seconds".to_owned(), listed.grants.seconds.into());
            price.into()
        }
    };
    json!({
        "name": route.name.as_str(),
        "formerly": route.standing.formerly().iter().map(RouteName::as_str).collect::<Vec<_>>(),
        "match": route.pattern.as_str(),
        "host": route.conditions.host().map(ToString::to_string),
        "query": pairs(route.conditions.query().iter().map(|it| (it.name(), it.value()))),
        "headers": pairs(route.conditions.headers().iter().map(|it| (it.name().as_str(), it.value()))),
        "upstream": route.upstream.as_str(),
        "strip": route.strip.as_ref().map(Strip::as_str),
        "free": route.access.is_free(),
        "price": priced,
        "charge_on": route.charge_on.as_str(),
        "preflight": route.preflight.map(PreflightRule::as_str),
        "body": route.body.as_str(),
        "case_sensitive": route.case_sensitive,
        "hidden": route.hidden,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates_to_the_end_of_dates() {
        assert_eq!(time(UnixSeconds(0)), "1970-01-01T00:00:00Z");
        assert_eq!(time(UnixSeconds(u64::MAX)), "9999-12-31T23:59:59Z");
    }
}
