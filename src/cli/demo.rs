//! `faregate demo`: everything in one process, on loopback: a development ledger, a small upstream,
//! the gateway in front of it, and a wallet that pays.

mod stage;
mod story;
mod upstream;

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::stage::Stage;
use super::failure::Failure;
use crate::clock::Stopwatch;

#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// End after the paid requests; otherwise everything goes on running
    #[arg(long)]
    pub once: bool,
}

/// Runs the demo, printing to `out`.
///
/// # Errors
/// [`Failure::Demo`], if a step does not end as it must; [`Failure`], if something cannot be started.
pub async fn run(args: &DemoArgs, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Signals)?;
    let started = Stopwatch::start();
    let stage = Stage::set(out).await?;
    writeln!(out, "Everything runs, after {:.0?}.\n", started.elapsed())?;
    tokio::select! {
        told = story::tell(&stage, out) => told.map_err(|error| Failure::Demo(error.to_string()))?,
        _ = interrupt.recv() => { return stage.strike().await; }
    }
    if !args.once {
        stage.invite(out)?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        writeln!(out, "\nThe demo ends; nothing of it is kept.")?;
    }
    stage.strike().await
}
