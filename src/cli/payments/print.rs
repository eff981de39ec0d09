//! Rows of the journal as a table, as lines of JSON, or as CSV. Amounts in XNO for people, in raw as
//! well for programs.

use std::io::{self, Write};
use std::time::{Duration, UNIX_EPOCH};

use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::nano::UnixSeconds;
use crate::store::PaymentRecord;

/// The last second that is printed as a date.
const LAST_DATE: u64 = 253_402_300_799;

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(super) enum Format {
    Csv,
    /// One JSON object a line
    Jsonl,
    /// For people
    #[value(skip)]
    Table,
}

/// A row of the journal.
pub(super) trait Row {
    /// The names of the columns, in the order of the CSV.
    const COLUMNS: &'static [&'static str];

    /// One value for each column; `null` is empty in CSV. Amounts are texts: a number would be read
    /// as floating point.
    fn values(&self) -> Vec<Value>;

    /// The row of a table.
    fn in_table(&self) -> String;

    /// The first line of a table; `None` if it has none.
    fn table_heading() -> Option<String> {
        None
    }
}

/// The row as a JSON object.
pub(super) fn json<R: Row>(row: &R) -> Value {
    let names = R::COLUMNS.iter().map(|it| (*it).to_owned());
    Value::Object(names.zip(row.values()).collect::<Map<_, _>>())
}

/// Every column of a row, one a line.
pub(super) fn fields<R: Row>(row: &R, out: &mut dyn Write) -> io::Result<()> {
    let mut fields = R::COLUMNS.iter().zip(row.values());
    fields.try_for_each(|(name, value)| writeln!(out, "{name:<14}  {}", plain(value)))
}

/// A value without quotes.
fn plain(value: Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text,
        other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => other.to_string(),
    }
}

/// Prints rows as they are read.
pub(super) struct Printer<'a> {
    pub(super) format: Format,
    pub(super) out: &'a mut (dyn Write + Send),
}

impl Printer<'_> {
    pub(super) fn heading<R: Row>(&mut self) -> io::Result<()> {
        match (self.format, R::table_heading()) {
            (Format::Csv, _) => self.record(R::COLUMNS.iter().map(|it| (*it).to_owned())),
            (Format::Table, Some(heading)) => writeln!(self.out, "{heading}"),
            (Format::Table, None) | (Format::Jsonl, _) => Ok(()),
        }
    }

    pub(super) fn row<R: Row>(&mut self, row: &R) -> io::Result<()> {
        match self.format {
            Format::Csv => self.record(row.values().into_iter().map(plain)),
            Format::Jsonl => writeln!(self.out, "{}", json(row)),
            Format::Table => writeln!(self.out, "{}", row.in_table()),
        }
    }

    fn record(&mut self, values: impl Iterator<Item = String>) -> io::Result<()> {
        let mut writer = csv::Writer::from_writer(&mut *self.out);
        writer.write_record(values)?;
        writer.flush()
    }
}

pub(super) fn time(at: UnixSeconds) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(at.0.min(LAST_DATE))).unwrap_or(UNIX_EPOCH);
    humantime::format_rfc3339_seconds(at).to_string()
}

impl Row for PaymentRecord {
    const COLUMNS: &'static [&'static str] = &[
        "sequence",
        "created_at",
        "updated_at",
        "state",
        "mechanism",
        "route",
        "amount_xno",
        "amount_raw",
        "price_raw",
        "price",
        "currency",
        "rate",
        "block",
        "payer",
        "pay_to",
        "requests",
        "within_seconds",
        "valid_before",
    ];

    fn values(&self) -> Vec<Value> {
        let intent = &self.intent;
        // As configured, and units of its currency for one XNO; nothing if it was in raw.
        let price = intent.exchange.map(|it| it.price);
        vec![
            self.sequence.into(),
            time(self.created_at).into(),
            time(self.updated_at).into(),
            self.state.as_str().into(),
            intent.mechanism.as_str().into(),
            intent.route.as_str().into(),
            intent.amount.xno().number().into(),
            intent.amount.to_string().into(),
            intent.terms.amount.to_string().into(),
            price.map(|it| it.number.to_string()).into(),
            price.map(|it| it.currency.to_string()).into(),
            intent.exchange.map(|it| it.rate.to_string()).into(),
            intent.block.to_string().into(),
            intent.payer.to_string().into(),
            intent.pay_to.to_string().into(),
            intent.terms.grants.requests.get().into(),
            intent.terms.grants.seconds.into(),
            time(intent.valid_before).into(),
        ]
    }

    fn in_table(&self) -> String {
        let intent = &self.intent;
        format!(
            "{:<20}  {:<7}  {:<13}  {:>18}  {}  {}{}",
            time(self.created_at),
            self.state.as_str(),
            intent.mechanism.as_str(),
            intent.amount.xno().to_string(),
            intent.block,
            intent.route.as_str(),
            intent.exchange.map(|it| format!(" ({it})")).unwrap_or_default()
        )
    }

    fn table_heading() -> Option<String> {
        Some(format!(
            "{:<20}  {:<7}  {:<13}  {:>18}  {:<64}  ROUTE",
            "SINCE", "STATE", "MECHANISM", "AMOUNT", "BLOCK"
        ))
    }
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
