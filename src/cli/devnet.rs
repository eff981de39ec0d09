//! `faregate devnet`: the development ledger by itself.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::Failure;
use crate::clock::Clock;
use crate::devnet::{Devnet, DevnetOptions, THRESHOLDS};
use crate::nano::{Threshold, Thresholds};

/// Runs a Nano ledger for development: a node's RPC on loopback, money that is worth nothing.
#[derive(Args, Clone, Debug)]
pub struct DevnetArgs {
    /// The address of the RPC; port 0 picks a free port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7076")]
    pub rpc: SocketAddr,
    /// The address of the WebSocket; without this option there is none
    #[arg(long, value_name = "ADDR")]
    pub websocket: Option<SocketAddr>,
    /// How long a block takes to be confirmed: `0s`, `300ms`, `2s`
    #[arg(long, value_name = "DURATION", default_value = "300ms", value_parser = humantime::parse_duration)]
    pub confirm_after: Duration,
    /// The threshold of every block's work, as 16 hexadecimal digits [default: a few
    /// microseconds of computing; the main network: fffffff800000000]
    #[arg(long, value_name = "HEX")]
    pub work_threshold: Option<Threshold>,
}

/// Starts the ledger, prints how to use it to `out`, and runs until SIGINT or SIGTERM.
///
/// # Errors
/// [`Failure::Devnet`], usually because the address is in use; [`Failure::Signals`];
/// [`Failure::Output`].
pub async fn run(args: DevnetArgs, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Signals)?;
    let thresholds = args.work_threshold.map_or(THRESHOLDS, |it| Thresholds { send: it, receive: it });
    let options = DevnetOptions {
        listen: args.rpc,
        websocket: args.websocket,
        confirm_after: args.confirm_after,
        thresholds,
        clock: Clock::system(),
        ..DevnetOptions::default()
    };
    let devnet = Devnet::start(options).await?;
    print(&devnet, &args, thresholds, out)?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    devnet.stop().await;
    Ok(ExitCode::SUCCESS)
}

fn print(
    devnet: &Devnet,
    args: &DevnetArgs,
    thresholds: Thresholds,
    out: &mut impl Write,
) -> std::io::Result<()> {
    let (url, account) = (devnet.rpc_url(), devnet.genesis_account());
    writeln!(out, "Development ledger; its money is worth nothing. Ctrl-C ends it; nothing is kept.\n")?;
    writeln!(out, "  RPC             {url}")?;
    if let Some(url) = devnet.websocket_url() {
        writeln!(out, "  WebSocket       {url}")?;
    }
    writeln!(out, "  funded seed     {} (index 0)", devnet.genesis_seed().expose_hex())?;
    writeln!(out, "  funded account  {account}")?;
    writeln!(out, "  genesis block   {}", devnet.lattice().genesis())?;
    writeln!(
        out,
        "  confirmed       {} after a block arrives",
        humantime::format_duration(args.confirm_after)
    )?;
    writeln!(out, "  work            {} to send, {} to receive\n", thresholds.send, thresholds.receive)?;
    writeln!(out, "Try:")?;
    for body in [
        r#"{"action":"version"}"#.to_owned(),
        format!(r#"{{"action":"account_info","account":"{account}","include_confirmed":true}}"#),
        r#"{"action":"block_count"}"#.to_owned(),
    ] {
        writeln!(out, "  curl -d '{body}' {url}")?;
    }
    out.flush()
}
