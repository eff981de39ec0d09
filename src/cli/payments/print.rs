//! Rows of the journal as a table, as lines of JSON, or as CSV. Amounts in XNO for people, in raw as
//! well for programs.

use std::io::{self, Write};

use clap::ValueEnum;
use serde_json::{Map, Value};

use crate::admin::views::{self, time};
use crate::store::PaymentRecord;

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
        "block",
        "payer",
        "pay_to",
        "requests",
        "within_seconds",
        "valid_before",
    ];

    fn values(&self) -> Vec<Value> {
        let mut all = views::payment(self);
        Self::COLUMNS.iter().map(|it| all.get_mut(*it).map(Value::take).unwrap_or_default()).collect()
    }

    fn in_table(&self) -> String {
        let intent = &self.intent;
        format!(
            "{:<20}  {:<7}  {:<13}  {:>18}  {}  {}",
            time(self.created_at),
            self.state.as_str(),
            intent.mechanism.as_str(),
            intent.amount.xno().to_string(),
            intent.block,
            intent.route.as_str()
        )
    }

    fn table_heading() -> Option<String> {
        Some(format!(
            "{:<20}  {:<7}  {:<13}  {:>18}  {:<64}  ROUTE",
            "SINCE", "STATE", "MECHANISM", "AMOUNT", "BLOCK"
        ))
    }
}
