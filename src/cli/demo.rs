//! `faregate demo`: everything in one process, on loopback: a development ledger, a small upstream,
//! the gateway in front of it, and a wallet that pays. Or the same before nodes of the operator's own.

mod live;
mod network;
mod stage;
mod story;
mod upstream;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};
use url::Url;

use self::live::Live;
use self::stage::Stage;
use super::failure::Failure;
use crate::clock::Stopwatch;

#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// End after the paid requests; otherwise everything goes on running
    #[arg(long)]
    pub once: bool,
    /// Pay on the network of this Nano node, by its RPC address, and send everything back at the end. May be repeated.
    /// Ends after the paid requests
    #[arg(long = "node", value_name = "URL", requires = "seed_file")]
    pub nodes: Vec<Url>,
    /// The file of the seed whose first account pays there: 64 hexadecimal digits, mode 0600
    #[arg(long, value_name = "FILE", requires = "nodes")]
    pub seed_file: Option<PathBuf>,
}

/// The signals that end the demo.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn catch() -> Result<Self, Failure> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(Failure::Signals)?,
            terminate: signal(SignalKind::terminate()).map_err(Failure::Signals)?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Runs the demo, printing to `out`.
///
/// # Errors
/// [`Failure::Demo`], if a step does not end as it must, or not everything comes back; [`Failure`], if something cannot be
/// started.
pub async fn run(args: &DemoArgs, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let mut signals = Signals::catch()?;
    let started = Stopwatch::start();
    if let Some(seed_file) = &args.seed_file {
        let live = Live::open(&args.nodes, seed_file).await?;
        live.announce(out)?;
        return on_own_network(&live, &mut signals, out).await;
    }
    let stage = Stage::set(None, out).await?;
    writeln!(out, "Everything runs, after {:.0?}.\n", started.elapsed())?;
    tokio::select! {
        told = story::tell(&stage, out) => told.map_err(Failure::from)?,
        _ = signals.interrupt.recv() => return stage.strike().await,
    }
    if !args.once {
        stage.invite(out)?;
        signals.any().await;
        writeln!(out, "\nThe demo ends; nothing of it is kept.")?;
    }
    stage.strike().await
}

/// Tells the story with real money. From the first payment on, nothing ends this before everything was sent back, but a
/// second signal.
async fn on_own_network(
    live: &Live,
    signals: &mut Signals,
    out: &mut impl Write,
) -> Result<ExitCode, Failure> {
    let stage = Stage::set(Some(live), out).await?;
    let config = stage.config().clone();
    let told = tokio::select! {
        told = story::tell(&stage, out) => told.map_err(Failure::from),
        () = signals.any() => Ok(()),
    };
    // Settlements under way end first.
    let struck = stage.strike().await;
    let returned = tokio::select! {
        returned = live.give_back(&config) => returned,
        () = signals.any() => Err(Failure::Demo(format!("ended by a second signal; {}", live.remedy()))),
    };
    let reported = returned.and_then(|it| live.report(it, out));
    // What is missing matters more than why.
    reported?;
    told?;
    struck
}
