//! `faregate sweep`: receives what the pool was sent and forwards it to the treasury.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

use super::arguments::ConfigArgs;
use super::failure::Failure;
use super::words::counted;
use crate::assemble::{node_client, open_store, sweeper};
use crate::clock::Clock;
use crate::ledger::node::NodeLedger;
use crate::ledger::work::WorkSource;
use crate::nano::Raw;
use crate::sweep::Step;
use crate::sweeper::{PoolPlace, SweepError, SweepJournal, SweepRound, Sweeper, Swept};
use crate::vault::Turn;

#[derive(Args, Clone, Debug)]
pub struct SweepArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Sweep once and end; otherwise sweep every `sweep.every` (10 minutes) until SIGTERM
    #[arg(long)]
    pub once: bool,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object a sweep
    #[arg(long)]
    pub json: bool,
}

/// Runs the command. Exit code 0, 1 if an account was not swept completely, 69 without a node, 75 while
/// another process sweeps, 78 if the configuration does not allow it.
pub async fn run(args: SweepArgs, out: &mut (dyn Write + Send), err: &mut (dyn Write + Send)) -> ExitCode {
    let swept = sweep(&args, out).await;
    Failure::end_on(swept.map(|complete| ExitCode::from(u8::from(!complete))), err)
}

/// Sweeps; gives whether every account was swept completely.
async fn sweep(args: &SweepArgs, out: &mut (dyn Write + Send)) -> Result<bool, Failure> {
    let config = args.config.load()?;
    let client = node_client(&config.nano)?;
    let mut work = WorkSource::node_first(client.clone());
    let bar = (io::stderr().is_terminal() && !args.json && !args.dry_run).then(progress_bar);
    if let Some(bar) = bar.clone() {
        work = work.observed_by(Arc::new(move |_| bar.tick()));
    }
    let (mut sweeper, seed_file) = sweeper(&config, NodeLedger::new(client), work)?;
    if args.dry_run {
        return dry_run(&sweeper, args.json, out).await;
    }
    // What is swept is journalled, so that the journal can be compared with the ledger.
    let store = Arc::new(open_store(&config.store, None).await?);
    sweeper = sweeper.journalled_in(SweepJournal::new(Arc::clone(&store), Clock::system()));
    if let Some(bar) = bar.clone() {
        sweeper = sweeper.observed_by(Arc::new(move |_: &Step| bar.inc(1)));
    }
    let every = config.sweep.unwrap_or_default().every;
    let mut rounds = Rounds { sweeper, bar, json: args.json };
    let outcome = if args.once {
        match Turn::take(&seed_file)? {
            Some(_turn) => rounds.one(out).await,
            None => Err(Failure::SweptElsewhere),
        }
    } else {
        rounds.until_signalled(&seed_file, every, out).await
    };
    store.close().await;
    outcome
}

/// Sweeps one after the other, and prints them.
struct Rounds {
    sweeper: Sweeper,
    bar: Option<ProgressBar>,
    json: bool,
}

impl Rounds {
    /// Sweeps at once and then at every `every`, if no other process does, until SIGTERM or SIGINT.
    async fn until_signalled(
        &mut self,
        seed_file: &Path,
        every: Duration,
        out: &mut (dyn Write + Send),
    ) -> Result<bool, Failure> {
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Signals)?;
        let forever = async {
            loop {
                match Turn::take(seed_file)? {
                    Some(_turn) => match self.one(out).await {
                        Ok(_complete) => {}
                        Err(Failure::Ledger(error)) => tracing::error!(%error, "the next sweep tries again"),
                        Err(error) => return Err(error),
                    },
                    None => tracing::warn!("another process is sweeping this pool; this one waits"),
                }
                tokio::time::sleep(every).await;
            }
        };
        tokio::select! {
            ended = forever => ended,
            _ = terminate.recv() => Ok(true),
            _ = interrupt.recv() => Ok(true),
        }
    }

    async fn one(&mut self, out: &mut (dyn Write + Send)) -> Result<bool, Failure> {
        let round = self.sweeper.sweep().await;
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
            bar.reset();
        }
        let round = round?;
        if self.json {
            writeln!(out, "{}", as_json(&round))?;
        } else {
            show(&round, out)?;
        }
        out.flush()?;
        Ok(round.failed().next().is_none())
    }
}

/// Shows how many blocks are done; the work of a send can take a minute on the main network.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // If the template did not parse, the plain bar would stay.
    if let Ok(style) = ProgressStyle::with_template("{spinner} {pos} blocks confirmed {elapsed}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn show(round: &SweepRound, out: &mut (dyn Write + Send)) -> io::Result<()> {
    for swept in &round.accounts {
        writeln!(
            out,
            "{}  {:>24} swept  {:>11}{}",
            swept.place.account,
            swept.sent.xno().to_string(),
            counted(swept.blocks.len(), "block"),
            swept.error.as_ref().map(|it| format!("  not completely: {it}")).unwrap_or_default()
        )?;
    }
    let failed = round.failed().count();
    if round.accounts.is_empty() {
        writeln!(out, "nothing to sweep")
    } else {
        write!(out, "{} to the treasury, {}", round.sent().xno(), counted(round.blocks(), "block"))?;
        if failed > 0 {
            write!(out, ", {} not swept completely: run it again", counted(failed, "account"))?;
        }
        writeln!(out)
    }
}

fn as_json(round: &SweepRound) -> Value {
    let account = |it: &Swept| {
        json!({
            "account": it.place.account,
            "index": it.place.index,
            "received_raw": it.received,
            "sent_raw": it.sent,
            "sent_xno": it.sent.xno().number(),
            "blocks": it.blocks.iter().map(describe).collect::<Vec<_>>(),
            "error": it.error.as_ref().map(ToString::to_string),
        })
    };
    json!({
        "accounts": round.accounts.iter().map(account).collect::<Vec<_>>(),
        "sent_raw": round.sent(),
        "sent_xno": round.sent().xno().number(),
        "blocks": round.blocks(),
        "failed": round.failed().count(),
    })
}

fn describe(step: &Step) -> Value {
    json!({
        "action": step.action.as_str(),
        "hash": step.block.hash(),
        "amount_raw": step.amount,
        "amount_xno": step.amount.xno().number(),
    })
}

/// Plans every account and prints the blocks; gives whether every account could be planned.
async fn dry_run(sweeper: &Sweeper, json: bool, out: &mut (dyn Write + Send)) -> Result<bool, Failure> {
    let mut planned: Vec<(PoolPlace, Result<Vec<Step>, SweepError>)> = Vec::new();
    for place in sweeper.worth_sweeping().await? {
        planned.push((place, sweeper.plan(place).await));
    }
    planned.retain(|(_, plan)| plan.as_ref().map_or(true, |steps| !steps.is_empty()));
    let sends = planned.iter().filter_map(|(_, plan)| plan.as_ref().ok()?.last());
    let total = sends.fold(Raw::ZERO, |sum, it| sum.checked_add(it.amount).unwrap_or(Raw::MAX));
    let complete = planned.iter().all(|(_, plan)| plan.is_ok());
    if json {
        let account = |(place, plan): &(PoolPlace, Result<Vec<Step>, SweepError>)| {
            json!({
                "account": place.account,
                "index": place.index,
                "blocks": plan.as_ref().map(|it| it.iter().map(describe).collect::<Vec<_>>()).ok(),
                "error": plan.as_ref().err().map(ToString::to_string),
            })
        };
        let accounts: Vec<_> = planned.iter().map(account).collect();
        let whole = json!({ "dry_run": true, "accounts": accounts, "would_send_raw": total, "would_send_xno": total.xno().number() });
        writeln!(out, "{whole}")?;
    } else {
        for (place, plan) in &planned {
            writeln!(out, "{}  index {}", place.account, place.index)?;
            match plan {
                Ok(steps) => {
                    for step in steps {
                        let (name, amount) = (step.action.as_str(), step.amount);
                        writeln!(
                            out,
                            "  {name:<7}  {}  ({amount} raw)  {}",
                            amount.xno(),
                            step.block.hash()
                        )?;
                    }
                }
                Err(error) => writeln!(out, "  cannot be planned: {error}")?,
            }
        }
        writeln!(
            out,
            "{}, {} ({total} raw) would go to the treasury",
            counted(planned.len(), "account"),
            total.xno()
        )?;
    }
    out.flush()?;
    Ok(complete)
}
