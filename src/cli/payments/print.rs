//! A payment in words: a row, a line of CSV, a JSON object. Amounts in XNO for people, in raw too
//! for programs.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::nano::{Raw, UnixSeconds};
use crate::store::{PaymentRecord, PaymentState};

/// The last second that is printed as a date.
const LAST_DATE: u64 = 253_402_300_799;

pub(super) const fn state(state: PaymentState) -> &'static str {
    match state {
        PaymentState::Intent => "intent",
        PaymentState::Parked => "parked",
        PaymentState::Granted => "granted",
        PaymentState::Failed => "failed",
    }
}

/// The number without its unit.
pub(super) fn xno(amount: Raw) -> String {
    amount.xno().to_string().trim_end_matches(" XNO").to_owned()
}

pub(super) fn time(at: UnixSeconds) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(at.0.min(LAST_DATE))).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
}

/// Every field by its name, in the order of the CSV's columns.
fn fields(payment: &PaymentRecord) -> [(&'static str, String); 15] {
    let intent = &payment.intent;
    [
        ("sequence", payment.sequence.to_string()),
        ("created_at", time(payment.created_at)),
        ("updated_at", time(payment.updated_at)),
        ("state", state(payment.state).to_owned()),
        ("mechanism", intent.mechanism.to_string()),
        ("route", intent.route.as_str().to_owned()),
        ("amount_xno", xno(intent.amount)),
        ("amount_raw", intent.amount.to_string()),
        ("price_raw", intent.terms.amount.to_string()),
        ("block", intent.block.to_string()),
        ("payer", intent.payer.to_string()),
        ("pay_to", intent.pay_to.to_string()),
        ("requests", intent.terms.grants.requests.to_string()),
        ("within_seconds", intent.terms.grants.seconds.to_string()),
        ("valid_before", time(intent.valid_before)),
    ]
}

pub(super) fn heading(out: &mut (dyn Write + Send)) -> io::Result<()> {
    writeln!(
        out,
        "{:<20}  {:<7}  {:<13}  {:>18}  {:<64}  ROUTE",
        "SINCE", "STATE", "MECHANISM", "AMOUNT", "BLOCK"
    )
}

pub(super) fn row(payment: &PaymentRecord, out: &mut (dyn Write + Send)) -> io::Result<()> {
    let intent = &payment.intent;
    writeln!(
        out,
        "{:<20}  {:<7}  {:<13}  {:>18}  {}  {}",
        time(payment.created_at),
        state(payment.state),
        intent.mechanism.as_str(),
        intent.amount.xno().to_string(),
        intent.block,
        intent.route.as_str()
    )
}

/// Every field, one a line.
pub(super) fn whole(payment: &PaymentRecord, out: &mut (dyn Write + Send)) -> io::Result<()> {
    fields(payment).iter().try_for_each(|(name, value)| writeln!(out, "{name:<14}  {value}"))
}

pub(super) fn csv_heading(out: &mut (dyn Write + Send)) -> io::Result<()> {
    writeln!(
        out,
        "sequence,created_at,updated_at,state,mechanism,route,amount_xno,amount_raw,price_raw,block,\
         payer,pay_to,requests,within_seconds,valid_before"
    )
}

pub(super) fn csv_line(payment: &PaymentRecord, out: &mut (dyn Write + Send)) -> io::Result<()> {
    let values: Vec<String> = fields(payment).into_iter().map(|(_, value)| quoted(&value)).collect();
    writeln!(out, "{}", values.join(","))
}

/// A value of CSV (RFC 4180).
pub(super) fn quoted(value: &str) -> String {
    if value.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", value.replace('"', "\"\""))
    } else {
        value.to_owned()
    }
}

/// A JSON object on a line. Amounts are texts: a number would be read as floating point.
pub(super) fn json_line(payment: &PaymentRecord, out: &mut (dyn Write + Send)) -> io::Result<()> {
    writeln!(out, "{}", json(payment))
}

pub(super) fn json(payment: &PaymentRecord) -> Value {
    let numbers = ["sequence", "requests", "within_seconds"];
    let value = |name: &str, text: String| match text.parse::<u64>() {
        Ok(number) if numbers.contains(&name) => Value::from(number),
        Ok(_) | Err(_) => Value::from(text),
    };
    let object: Map<String, Value> =
        fields(payment).into_iter().map(|(name, text)| (name.to_owned(), value(name, text))).collect();
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_is_quoted_where_it_must_be() {
        assert_eq!(quoted("GET /a"), "GET /a");
        assert_eq!(quoted("a,b"), "\"a,b\"");
        assert_eq!(quoted("say \"a\""), "\"say \"\"a\"\"\"");
    }

    #[test]
    fn times_are_dates_to_the_end_of_dates() {
        assert_eq!(time(UnixSeconds(0)), "1970-01-01T00:00:00Z");
        assert_eq!(time(UnixSeconds(u64::MAX)), "9999-12-31T23:59:59Z");
    }
}
