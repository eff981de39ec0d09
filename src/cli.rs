//! The command line: one file a subcommand. The only part that prints.

pub mod backup;
pub mod check;
pub mod demo;
pub mod devnet;
pub mod doctor;
pub mod explain;
pub mod pay;
pub mod payments;
pub mod pool;
pub mod recover;
pub mod serve;
pub mod sweep;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tracing_subscriber::EnvFilter;

/// Exit codes of sysexits.h that the subcommands share.
pub const EX_USAGE: u8 = 64;
pub const EX_UNAVAILABLE: u8 = 69;
pub const EX_SOFTWARE: u8 = 70;
pub const EX_IOERR: u8 = 74;
pub const EX_TEMPFAIL: u8 = 75;
pub const EX_CONFIG: u8 = 78;

/// A reverse proxy that puts a price on any HTTP API, paid in feeless Nano (XNO).
#[derive(Debug, Parser)]
#[command(name = "faregate", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What is logged to standard error: `error`, `warn`, `info`, `debug`, or filters such as
    /// `info,faregate::cashier=debug` [default: info for serve, error for the others]
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Text,
    /// One JSON object a line
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The whole thing in one process, on loopback, nothing to install
    Demo(demo::DemoArgs),
    /// The gateway
    Serve(serve::ServeArgs),
    /// All faults of a configuration at once
    Check(check::CheckArgs),
    /// Which route a request takes, and what it costs
    Explain(explain::ExplainArgs),
    /// A development ledger with a node's RPC
    Devnet(devnet::DevnetArgs),
    /// Send a request and pay what it costs
    Pay(Box<pay::PayArgs>),
    /// Whether the store, the clock, keys, nodes and upstreams are sound
    Doctor(doctor::DoctorArgs),
    /// A verified copy of the store, taken beside a running gateway
    Backup(backup::BackupArgs),
    /// Claim anew what was spent since a restored backup
    Recover(recover::RecoverArgs),
    /// The pool's addresses
    #[command(subcommand)]
    Pool(pool::PoolCommand),
    /// Receive what the pool was sent and forward it to the treasury
    Sweep(sweep::SweepArgs),
    /// The journal of payments
    #[command(subcommand)]
    Payments(payments::PaymentsCommand),
}

/// Runs the program with the process's arguments.
#[must_use]
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, and go to standard output.
            let printed = error.print();
            let asked = !error.use_stderr();
            return if asked && printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(EX_USAGE) };
        }
    };
    let usual = if matches!(cli.command, Command::Serve(_)) { "info" } else { "error" };
    if let Err(error) = start_logging(cli.log.as_deref().unwrap_or(usual), cli.log_format) {
        complain(&format!("--log: {error}"));
        return ExitCode::from(EX_USAGE);
    }
    dispatch(cli.command)
}

fn dispatch(command: Command) -> ExitCode {
    let (mut out, mut err) = (io::stdout(), io::stderr());
    match command {
        Command::Check(args) => printed(check::run(&args, &mut out)),
        Command::Explain(args) => printed(explain::run(&args, &mut out)),
        Command::Doctor(args) => on_runtime(async { printed(doctor::run(args, &mut out).await) }),
        Command::Backup(args) => printed(backup::run(&args, &mut out)),
        Command::Recover(args) => on_runtime(async { printed(recover::run(args, &mut out).await) }),
        Command::Pool(command) => pool::run(&command, &mut out),
        Command::Serve(args) => on_runtime(serve::run(args)),
        Command::Demo(args) => on_runtime(demo::run(args, &mut out)),
        Command::Pay(args) => on_runtime(async { pay::run(*args, &mut out, &mut err).await.into() }),
        Command::Sweep(args) => on_runtime(sweep::run(args, &mut out, &mut err)),
        Command::Payments(command) => on_runtime(payments::run(command, &mut out, &mut err)),
        Command::Devnet(args) => on_runtime(async {
            match devnet::run(args, &mut out).await {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    complain(&error.to_string());
                    ExitCode::from(EX_UNAVAILABLE)
                }
            }
        }),
    }
}

/// Libraries that log whole requests below `info`, proofs and capabilities with them.
const KEPT_AT_INFO: [&str; 8] =
    ["pingora", "pingora_core", "pingora_proxy", "h2", "hyper", "hyper_util", "reqwest", "rustls"];

fn start_logging(filter: &str, format: LogFormat) -> Result<(), String> {
    let mut filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    for library in KEPT_AT_INFO {
        let directive = format!("{library}=info").parse().map_err(|error| format!("{library}: {error}"))?;
        filter = filter.add_directive(directive);
    }
    // Colours are for people: a file or a journal gets none.
    let coloured = io::stderr().is_terminal();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(coloured);
    match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|error| error.to_string())
}

/// Runs a subcommand on the one runtime of the process: connections, settlements and calls to nodes
/// share it.
fn on_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            complain(&format!("no threads can be started: {error}"));
            ExitCode::from(EX_SOFTWARE)
        }
    }
}

fn printed(outcome: io::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        complain(&format!("the output cannot be written: {error}"));
        ExitCode::from(EX_IOERR)
    })
}

/// Says on standard error what went wrong. Where even that cannot be written, the exit code says it.
fn complain(message: &str) {
    let _written = writeln!(io::stderr(), "faregate: {message}").is_ok();
}
