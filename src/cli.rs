//! The command line: one file for each subcommand. Only this part prints.

pub mod admin;
mod arguments;
pub mod backup;
pub mod check;
pub mod demo;
pub mod devnet;
pub mod doctor;
mod exit_codes;
pub mod explain;
mod failure;
pub mod manual;
mod metered;
pub mod pay;
pub mod payments;
pub mod pool;
mod process;
pub mod purse;
pub mod recover;
pub mod refunds;
mod secrets;
pub mod serve;
pub mod sweep;
mod words;

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc::channel;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

pub use arguments::ConfigArgs;
pub use failure::Failure;
use failure::{EX_IOERR, EX_SOFTWARE, EX_USAGE};

/// A reverse proxy that puts a price on any HTTP API, paid in feeless Nano (XNO).
#[derive(Debug, Parser)]
#[command(name = "faregate", version = env!("FAREGATE_VERSION"), propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: MainCommand,
    /// What to log to standard error: `error`, `warn`, `info`, `debug`, or filters such as
    /// `info,faregate::cashier=debug` [default: info for serve, error for the others]
    #[arg(long, global = true, value_name = "LEVEL")]
    log: Option<String>,
    /// The form of log lines
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
enum MainCommand {
    /// Show everything in one process on this machine: a ledger, a gateway, a wallet that pays
    #[command(after_help = exit_codes::DEMO)]
    Demo(demo::DemoArgs),
    /// Run the gateway
    #[command(after_help = exit_codes::SERVE)]
    Serve(serve::ServeArgs),
    /// Print all faults of a configuration, or what it sells
    #[command(after_help = exit_codes::CHECK)]
    Check(check::CheckArgs),
    /// Say which route a request takes, and what it costs
    #[command(after_help = exit_codes::EXPLAIN)]
    Explain(explain::ExplainArgs),
    /// Run a development ledger with a node's RPC
    #[command(after_help = exit_codes::DEVNET)]
    Devnet(devnet::DevnetArgs),
    /// Send a request and pay what it costs
    #[command(after_help = exit_codes::PAY)]
    Pay(Box<pay::PayArgs>),
    /// What the holder of a token has, and tokens to hand on
    #[command(subcommand, after_help = exit_codes::PURSE)]
    Purse(Box<purse::PurseCommand>),
    /// Check the store, the clock, keys, nodes and upstreams
    #[command(after_help = exit_codes::DOCTOR)]
    Doctor(doctor::DoctorArgs),
    /// Copy the store while the gateway runs, and verify the copy
    #[command(after_help = exit_codes::BACKUP)]
    Backup(backup::BackupArgs),
    /// After restoring a backup: claim again what was spent since
    #[command(after_help = exit_codes::RECOVER)]
    Recover(recover::RecoverArgs),
    /// The pool's addresses
    #[command(subcommand, after_help = exit_codes::POOL)]
    Pool(pool::PoolCommand),
    /// Receive what the pool was sent and forward it to the treasury
    #[command(after_help = exit_codes::SWEEP)]
    Sweep(sweep::SweepArgs),
    /// What is sent back to those who paid
    #[command(subcommand, after_help = exit_codes::REFUNDS)]
    Refunds(refunds::RefundsCommand),
    /// The journal of payments
    #[command(subcommand, after_help = exit_codes::PAYMENTS)]
    Payments(payments::PaymentsCommand),
    /// Ask a running gateway, or change something in it, through its admin API
    #[command(after_help = exit_codes::ADMIN)]
    Admin(Box<admin::AdminArgs>),
    /// Print the completions for a shell
    #[command(after_help = exit_codes::COMPLETIONS)]
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write one for each subcommand
    #[command(after_help = exit_codes::MAN)]
    Man(manual::ManArgs),
}

/// Runs the program with the process's arguments.
#[must_use]
pub fn run() -> ExitCode {
    if let Err(error) = process::keep_memory_private() {
        complain(&format!("core dumps cannot be switched off: {error}"));
        return ExitCode::from(EX_SOFTWARE);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let error = with_advice(error);
            // Help and version are errors to clap, and go to standard output.
            let printed = error.print();
            let asked = !error.use_stderr();
            return match printed {
                Ok(()) if asked => ExitCode::SUCCESS,
                Err(_unwritable) if asked => ExitCode::from(EX_IOERR),
                Ok(()) | Err(_) => ExitCode::from(EX_USAGE),
            };
        }
    };
    let serves = matches!(cli.command, MainCommand::Serve(_));
    let usual = if serves { "info" } else { "error" };
    match start_logging(cli.log.as_deref().unwrap_or(usual), cli.log_format, serves) {
        Ok(writer) => {
            let code = dispatch(cli.command);
            writer.into_iter().for_each(write_last_lines);
            code
        }
        Err(error) => {
            complain(&format!("--log: {error}"));
            ExitCode::from(EX_USAGE)
        }
    }
}

/// Says how a configuration is named, if an argument is left over where one is needed.
fn with_advice(mut error: clap::Error) -> clap::Error {
    let usage = error.get(ContextKind::Usage).map(ToString::to_string).unwrap_or_default();
    if error.kind() == ErrorKind::UnknownArgument
        && takes_config(&usage)
        && let Some(ContextValue::String(stray)) = error.get(ContextKind::InvalidArg)
        && !stray.starts_with('-')
    {
        let advice = format!("a configuration is named with `--config {stray}`");
        let _before = error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![advice.into()]));
    }
    error
}

/// Whether the command of a usage line takes a configuration.
fn takes_config(usage: &str) -> bool {
    let (mut program, words) = (Cli::command(), usage.split_whitespace().skip_while(|it| *it != "faregate"));
    for word in words.skip(1) {
        match program.find_subcommand(word) {
            Some(command) => program = command.clone(),
            None => break,
        }
    }
    program.get_arguments().any(|it| it.get_long() == Some("config"))
}

fn dispatch(command: MainCommand) -> ExitCode {
    let (mut out, mut err) = (io::stdout(), io::stderr());
    match command {
        MainCommand::Check(args) => on_runtime(async { Failure::end(check::run(&args, &mut out).await) }),
        MainCommand::Explain(args) => Failure::end(explain::run(&args, &mut out)),
        MainCommand::Backup(args) => Failure::end(backup::run(&args, &mut out)),
        MainCommand::Pool(command) => Failure::end(pool::run(&command, &mut out)),
        MainCommand::Completions(args) => Failure::end(manual::completions(&args, Cli::command(), &mut out)),
        MainCommand::Man(args) => Failure::end(manual::manual(&args, Cli::command(), &mut out)),
        MainCommand::Doctor(args) => on_runtime(async { Failure::end(doctor::run(args, &mut out).await) }),
        MainCommand::Recover(args) => on_runtime(async { Failure::end(recover::run(args, &mut out).await) }),
        MainCommand::Serve(args) => Failure::end(serve::run(&args)),
        MainCommand::Demo(args) => on_runtime(async { Failure::end(demo::run(&args, &mut out).await) }),
        MainCommand::Devnet(args) => on_runtime(async { Failure::end(devnet::run(args, &mut out).await) }),
        MainCommand::Pay(args) => on_runtime(async { pay::run(*args, &mut out, &mut err).await.into() }),
        MainCommand::Purse(command) => {
            on_runtime(async { Failure::end(purse::run(&command, &mut out).await) })
        }
        MainCommand::Sweep(args) => on_runtime(sweep::run(args, &mut out, &mut err)),
        MainCommand::Refunds(command) => on_runtime(refunds::run(command, &mut out, &mut err)),
        MainCommand::Admin(args) => on_runtime(async { Failure::end(admin::run(*args, &mut out).await) }),
        MainCommand::Payments(command) => on_runtime(payments::run(command, &mut out, &mut err)),
    }
}

/// Libraries that log whole requests below `info`, including proofs and capabilities.
const KEPT_AT_INFO: [&str; 7] = ["pingora", "pingora_core", "h2", "hyper", "hyper_util", "reqwest", "rustls"];
/// The first logs an error for each client that hangs up in a head, as a flood does, the second a change of
/// health without the upstream's name. The gateway itself logs how requests end, and whose health changed.
const SILENT: [&str; 2] = ["pingora_proxy=off", "pingora_load_balancing=off"];

/// Log lines of the gateway that may wait to be written. Beyond, they are dropped.
const WAITING: usize = 8192;
/// How long the last of them may take when the process ends.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Logs to standard error. `serves`: a thread of its own writes, so that no request waits for whoever reads the log.
/// It writes until what is returned is dropped.
fn start_logging(filter: &str, format: LogFormat, serves: bool) -> Result<Option<WorkerGuard>, String> {
    let mut filter = EnvFilter::try_new(filter).map_err(|error| error.to_string())?;
    for library in KEPT_AT_INFO {
        let directive = format!("{library}=info").parse().map_err(|error| format!("{library}: {error}"))?;
        filter = filter.add_directive(directive);
    }
    for library in SILENT {
        filter = filter.add_directive(library.parse().map_err(|error| format!("{library}: {error}"))?);
    }
    // Colours are for people: a file or a journal gets none.
    let coloured = io::stderr().is_terminal();
    let (writer, rest) = if serves {
        let apart =
            NonBlockingBuilder::default().lossy(true).buffered_lines_limit(WAITING).thread_name("log");
        let (writer, rest) = apart.finish(io::stderr());
        (BoxMakeWriter::new(writer), Some(rest))
    } else {
        (BoxMakeWriter::new(io::stderr), None)
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(coloured);
    // To say that a line cannot be written it would have to be written: that panics.
    let builder = builder.log_internal_errors(false);
    match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|error| error.to_string())?;
    Ok(rest)
}

/// Has the rest of the log written, for a while. In a thread of its own: the writer may wait for a reader for ever.
fn write_last_lines(rest: WorkerGuard) {
    let (done, written) = channel();
    let writing = std::thread::Builder::new().spawn(move || {
        drop(rest);
        // Who waited may have given up.
        let _heard = done.send(()).is_ok();
    });
    if writing.is_ok() {
        // Whether in time or not, the process ends.
        let _in_time = written.recv_timeout(LAST_LINES).is_ok();
    }
}

/// Runs a subcommand on the one runtime of the process: connections, settlements and calls to nodes
/// share it.
fn on_runtime(work: impl Future<Output = ExitCode>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(work),
        Err(error) => {
            complain(&format!("threads cannot be started: {error}"));
            ExitCode::from(EX_SOFTWARE)
        }
    }
}

/// Prints an error to standard error. If even that fails, the exit code has to say it.
fn complain(message: &str) {
    let _written = writeln!(io::stderr(), "faregate: {message}").is_ok();
}
