//! The pool's part of the journal: sends that nobody has claimed, and the blocks of sweeps.

use std::process::ExitCode;

use serde_json::Value;

use super::print::{Format, Printer, Row};
use super::selection::{JournalArgs, PAGE, Selection};
use crate::admin::views::time;
use crate::cli::failure::Failure;
use crate::cli::words::counted;
use crate::nano::{Account, BlockHash, Raw, UnixSeconds};
use crate::store::Engine;
use crate::store::deposits::{DepositJournal, SeenDeposit, SweepRecord, SweepState};
use crate::sweep::Action;

impl Row for SeenDeposit {
    const COLUMNS: &'static [&'static str] =
        &["state", "seen_at", "amount_xno", "amount_raw", "block", "sender", "account"];

    fn values(&self) -> Vec<Value> {
        let deposit = &self.deposit;
        vec![
            "unclaimed".into(),
            time(self.seen_at).into(),
            deposit.amount.xno().number().into(),
            deposit.amount.to_string().into(),
            deposit.block.to_string().into(),
            deposit.sender.map(|it| it.to_string()).into(),
            deposit.account.to_string().into(),
        ]
    }

    /// In the columns of the table of payments.
    fn in_table(&self) -> String {
        let deposit = &self.deposit;
        let amount = deposit.amount.xno().to_string();
        let sender = deposit.sender.map_or_else(|| "unknown".to_owned(), |it| it.to_string());
        format!(
            "{:<20}  unclaimed  {amount:>29}  {}\n  from {sender}\n  to   {}",
            time(self.seen_at),
            deposit.block,
            deposit.account
        )
    }
}

impl Row for SweepRecord {
    const COLUMNS: &'static [&'static str] = &[
        "state",
        "planned_at",
        "ended_at",
        "action",
        "amount_xno",
        "amount_raw",
        "block",
        "account",
        "source_block",
        "destination",
    ];

    fn values(&self) -> Vec<Value> {
        let block = &self.block;
        let sends = block.action == Action::Send;
        vec![
            self.state.as_str().into(),
            time(self.planned_at).into(),
            self.ended_at.map(time).into(),
            block.action.as_str().into(),
            block.amount.xno().number().into(),
            block.amount.to_string().into(),
            block.block.to_string().into(),
            block.account.to_string().into(),
            (!sends).then(|| BlockHash(block.link).to_string()).into(),
            sends.then(|| Account(block.link).to_string()).into(),
        ]
    }

    fn in_table(&self) -> String {
        let block = &self.block;
        format!(
            "{:<20}  {:<10}  {:<7}  {:>19}  {}  {}",
            time(self.planned_at),
            self.state.as_str(),
            block.action.as_str(),
            block.amount.xno().to_string(),
            block.block,
            block.account
        )
    }
}

/// How many rows were printed, and the sum of their amounts.
pub(super) struct Sum {
    rows: usize,
    total: Raw,
}

impl Sum {
    fn add(&mut self, amount: Raw) {
        self.rows = self.rows.saturating_add(1);
        self.total = self.total.checked_add(amount).unwrap_or(Raw::MAX);
    }
}

/// Prints unclaimed sends, or the blocks of sweeps, the oldest first. A table ends with a sum.
pub(super) async fn print(
    args: &JournalArgs,
    of_sweeps: bool,
    printer: &mut Printer<'_>,
) -> Result<ExitCode, Failure> {
    let Selection { store, since, .. } = Selection::open(args).await?;
    let sum = if of_sweeps {
        let sum = print_sweeps(&store, since, printer).await?;
        format!("{}, {} sent to the treasury", counted(sum.rows, "sweep block"), sum.total.xno())
    } else {
        printer.heading::<SeenDeposit>()?;
        let sum = print_unclaimed(&store, since, printer).await?;
        format!("{} unclaimed, {}", counted(sum.rows, "send"), sum.total.xno())
    };
    if printer.format == Format::Table {
        writeln!(printer.out, "{sum}")?;
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn print_unclaimed(
    store: &Engine,
    since: UnixSeconds,
    printer: &mut Printer<'_>,
) -> Result<Sum, Failure> {
    let (mut sum, mut after) = (Sum { rows: 0, total: Raw::ZERO }, None);
    loop {
        let page = store.unclaimed(after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(sum) };
        after = Some(last.mark());
        for it in page.iter().filter(|it| it.seen_at >= since) {
            printer.row(it)?;
            sum.add(it.deposit.amount);
        }
    }
}

async fn print_sweeps(store: &Engine, since: UnixSeconds, printer: &mut Printer<'_>) -> Result<Sum, Failure> {
    printer.heading::<SweepRecord>()?;
    let (mut sum, mut after) = (Sum { rows: 0, total: Raw::ZERO }, None);
    loop {
        let page = store.sweeps(None, after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(sum) };
        after = Some(last.mark());
        for it in page.iter().filter(|it| it.planned_at >= since) {
            printer.row(it)?;
            // What was received leaves again with a send: it is counted once.
            let is_home = it.block.action == Action::Send && it.state == SweepState::Confirmed;
            sum.add(if is_home { it.block.amount } else { Raw::ZERO });
        }
    }
}
