//! What the journal has of the pool: sends that nobody has claimed, and the blocks of sweeps.

use std::io::{self, Write};
use std::process::ExitCode;

use serde_json::{Map, Value};

use super::print::{quoted, time, xno};
use super::{JournalArgs, PaymentsError, load, open, since};
use crate::clock::Clock;
use crate::nano::{Account, BlockHash, Raw, UnixSeconds};
use crate::store::Engine;
use crate::store::deposits::{DepositJournal, SeenDeposit, SweepRecord, SweepState};
use crate::sweep::Action;

/// Rows that are read at a time.
const PAGE: usize = 500;

/// Which of the two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Part {
    Unclaimed,
    Sweeps,
}

impl Part {
    pub(super) const fn of(sweeps: bool) -> Self {
        if sweeps { Self::Sweeps } else { Self::Unclaimed }
    }
}

/// As what it is printed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Form {
    /// For people, with a sum at the end.
    Table,
    JsonLines,
    Csv,
}

/// The fields of a row by their names, in the order of the CSV's columns; a field without a value
/// is empty there and null in JSON.
type Fields = Vec<(&'static str, Option<String>)>;

fn deposit_fields(it: &SeenDeposit) -> Fields {
    let deposit = &it.deposit;
    vec![
        ("state", Some("unclaimed".to_owned())),
        ("seen_at", Some(time(it.seen_at))),
        ("amount_xno", Some(xno(deposit.amount))),
        ("amount_raw", Some(deposit.amount.to_string())),
        ("block", Some(deposit.block.to_string())),
        ("sender", deposit.sender.map(|it| it.to_string())),
        ("account", Some(deposit.account.to_string())),
    ]
}

fn sweep_fields(it: &SweepRecord) -> Fields {
    let block = &it.block;
    let sends = block.action == Action::Send;
    vec![
        ("state", Some(state(it.state).to_owned())),
        ("planned_at", Some(time(it.planned_at))),
        ("ended_at", it.ended_at.map(time)),
        ("action", Some(block.action.as_str().to_owned())),
        ("amount_xno", Some(xno(block.amount))),
        ("amount_raw", Some(block.amount.to_string())),
        ("block", Some(block.block.to_string())),
        ("account", Some(block.account.to_string())),
        ("source_block", (!sends).then(|| BlockHash(block.link).to_string())),
        ("destination", sends.then(|| Account(block.link).to_string())),
    ]
}

const fn state(state: SweepState) -> &'static str {
    match state {
        SweepState::Planned => "planned",
        SweepState::Confirmed => "confirmed",
        SweepState::Superseded => "superseded",
    }
}

fn json(fields: Fields) -> Value {
    let object: Map<String, Value> =
        fields.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
    Value::Object(object)
}

fn csv_line(values: impl Iterator<Item = String>, out: &mut (dyn Write + Send)) -> io::Result<()> {
    let values: Vec<String> = values.map(|it| quoted(&it)).collect();
    writeln!(out, "{}", values.join(","))
}

/// Prints rows as they are read; people get a sum at the end.
struct Printer<'a> {
    form: Form,
    out: &'a mut (dyn Write + Send),
    begun: bool,
    rows: usize,
    total: Raw,
}

impl Printer<'_> {
    fn row(&mut self, fields: Fields, amount: Raw, for_people: &str) -> io::Result<()> {
        if self.form == Form::Csv && !self.begun {
            csv_line(fields.iter().map(|(name, _)| (*name).to_owned()), self.out)?;
        }
        self.begun = true;
        self.rows = self.rows.saturating_add(1);
        self.total = self.total.checked_add(amount).unwrap_or(Raw::MAX);
        match self.form {
            Form::Table => writeln!(self.out, "{for_people}"),
            Form::JsonLines => writeln!(self.out, "{}", json(fields)),
            Form::Csv => csv_line(fields.into_iter().map(|(_, value)| value.unwrap_or_default()), self.out),
        }
    }
}

/// A deposit for people, in the columns of the list of payments.
fn deposit_row(it: &SeenDeposit) -> String {
    let deposit = &it.deposit;
    let amount = deposit.amount.xno().to_string();
    let sender = deposit.sender.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
    format!(
        "{:<20}  unclaimed  {amount:>29}  {}\n  from {sender}\n  to   {}",
        time(it.seen_at),
        deposit.block,
        deposit.account
    )
}

fn sweep_row(it: &SweepRecord) -> String {
    let block = &it.block;
    let amount = block.amount.xno().to_string();
    format!(
        "{:<20}  {:<10}  {:<7}  {amount:>19}  {}  {}",
        time(it.planned_at),
        state(it.state),
        block.action.as_str(),
        block.block,
        block.account
    )
}

/// Prints a part of the journal, the oldest row first.
pub(super) async fn print(
    args: &JournalArgs,
    part: Part,
    form: Form,
    out: &mut (dyn Write + Send),
) -> Result<ExitCode, PaymentsError> {
    let from = match &args.since {
        Some(text) => since(text, Clock::system().now())?,
        None => UnixSeconds(0),
    };
    let store = open(&load(&args.config)?).await?;
    let mut printer = Printer { form, out, begun: false, rows: 0, total: Raw::ZERO };
    match part {
        Part::Unclaimed => unclaimed(&store, from, &mut printer).await?,
        Part::Sweeps => sweeps(&store, from, &mut printer).await?,
    }
    if form == Form::Table {
        let (rows, total) = (printer.rows, printer.total.xno());
        match part {
            Part::Unclaimed => writeln!(out, "{rows} unclaimed, {total}")?,
            Part::Sweeps => writeln!(out, "{rows} block(s) of sweeps, {total} sent to the treasury")?,
        }
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

async fn unclaimed(
    store: &Engine,
    from: UnixSeconds,
    printer: &mut Printer<'_>,
) -> Result<(), PaymentsError> {
    let mut after = None;
    loop {
        let page = store.unclaimed(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.mark());
        for it in page.iter().filter(|it| it.seen_at >= from) {
            printer.row(deposit_fields(it), it.deposit.amount, &deposit_row(it))?;
        }
    }
}

async fn sweeps(store: &Engine, from: UnixSeconds, printer: &mut Printer<'_>) -> Result<(), PaymentsError> {
    let mut after = None;
    loop {
        let page = store.sweeps(None, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(last.mark());
        for it in page.iter().filter(|it| it.planned_at >= from) {
            // What was received leaves again with a send: counted once.
            let home = it.block.action == Action::Send && it.state == SweepState::Confirmed;
            let amount = if home { it.block.amount } else { Raw::ZERO };
            printer.row(sweep_fields(it), amount, &sweep_row(it))?;
        }
    }
}

/// What nobody has claimed, after a list of payments.
pub(super) async fn append_unclaimed(
    store: &Engine,
    from: UnixSeconds,
    json: bool,
    out: &mut (dyn Write + Send),
) -> Result<(), PaymentsError> {
    let form = if json { Form::JsonLines } else { Form::Table };
    let mut printer = Printer { form, out, begun: false, rows: 0, total: Raw::ZERO };
    unclaimed(store, from, &mut printer).await
}
