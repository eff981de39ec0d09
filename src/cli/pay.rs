//! `faregate pay`: sends a request and pays what a 402 asks for.
//!
//! The answer goes to `out` and the cost to `err`; with `--json` both go to `out`, one object for each
//! request. Exit codes follow sysexits.h.

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use reqwest::{Request, Url};
use serde_json::{Value, json};

use super::arguments;
use super::words::counted;
use crate::ledger::node::{NodeClient, NodeEndpoint, NodeSetupError, read_authorities};
use crate::ledger::work::{WorkObserver, WorkSource};
use crate::nano::{AmountError, Raw};
use crate::payment::Mechanism;
use crate::vault::{Vault, VaultError};
use crate::wallet::{
    AllowanceError, Capability, DayLimit, NODE_TIMEOUT, Paid, Payment, Redirect, Wallet, WalletError,
    WalletOptions, WalletSetupError,
};

/// How long a work server may take for one block.
const WORK_TIMEOUT: Duration = Duration::from_secs(30);

/// The longest answer that `--json` keeps in memory.
const MAX_JSON_ANSWER: usize = 64 * 1024 * 1024;

/// Arguments of `faregate pay`.
#[derive(Clone, Debug, Args)]
pub struct PayArgs {
    /// The URL to request
    pub url: Url,
    /// A Nano node's RPC address; query parameters (such as a key) are sent in the body of each call.
    /// May be repeated: nodes are asked in this order
    #[arg(long = "node", value_name = "URL", required = true)]
    pub nodes: Vec<Url>,
    /// A node or work server that answers `work_generate`; it is asked for work before the nodes are
    #[arg(long, value_name = "URL")]
    pub work_server: Option<Url>,
    /// The file of the seed that pays: 64 hexadecimal digits, mode 0600
    #[arg(long, value_name = "FILE")]
    pub seed_file: PathBuf,
    /// A PEM file with authorities that vouch for the gateway, the nodes and the work server over TLS,
    /// beside those that browsers trust
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Which of the seed's accounts pays
    #[arg(long, default_value_t = 0)]
    pub index: u32,
    /// Pay only by this: `nanoTxn` (the gateway broadcasts), `nanoSignature` or `nanoSession` (this client
    /// broadcasts)
    #[arg(long)]
    pub mechanism: Option<Mechanism>,
    /// The most that one request may cost
    #[arg(long, value_name = "AMOUNT", default_value = "0.01 XNO", value_parser = amount)]
    pub max: Raw,
    /// The most that all requests with this seed file may cost in any 24 hours
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    pub max_per_day: Option<Raw>,
    /// Where --max-per-day notes what was spent [default: the seed file's name and .spent]
    #[arg(long, value_name = "FILE", requires = "max_per_day")]
    pub spent_file: Option<PathBuf>,
    /// The method [default: GET, or POST with a body]
    #[arg(short = 'X', long = "request", value_name = "METHOD")]
    pub method: Option<Method>,
    /// A header, `Name: value`; may be repeated
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = arguments::header)]
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body
    #[arg(short = 'd', long = "data", value_name = "BODY")]
    pub body: Option<String>,
    /// How many times to send it; requests that are paid for already are used first
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// Follow redirects within the URL's origin, and pay once at most
    #[arg(long)]
    pub follow: bool,
    /// Print one JSON object for each request, with the capability's token, which is as good as money
    #[arg(long)]
    pub json: bool,
}

fn amount(text: &str) -> Result<Raw, AmountError> {
    Raw::with_unit(text)
}

/// How `faregate pay` ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PayExit {
    /// Every request was answered with a status below 400, and with no error of gRPC.
    Answered,
    /// An answer was an error of the upstream or the gateway (status 400 or above, or a `grpc-status` other
    /// than 0 in its head).
    ErrorAnswer,
    /// The arguments do not fit together (`EX_USAGE`).
    Usage,
    /// The gateway or every node cannot be reached, or there are no funds (`EX_UNAVAILABLE`).
    Unavailable,
    /// The output cannot be written (`EX_IOERR`).
    Output,
    /// A payment is on its way and not settled yet (`EX_TEMPFAIL`).
    Pending,
    /// The 402 is not of x402, or this wallet cannot pay it (`EX_PROTOCOL`).
    NotPayable,
    /// It would cost more than `--max` (`EX_NOPERM`).
    TooExpensive,
    /// The seed file is missing, not private or has no seed, or another file cannot be used (`EX_CONFIG`).
    Configuration,
}

impl PayExit {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Answered => 0,
            Self::ErrorAnswer => 1,
            Self::Usage => 64,
            Self::Unavailable => 69,
            Self::Output => 74,
            Self::Pending => 75,
            Self::NotPayable => 76,
            Self::TooExpensive => 77,
            Self::Configuration => 78,
        }
    }
}

impl From<PayExit> for std::process::ExitCode {
    fn from(exit: PayExit) -> Self {
        Self::from(exit.code())
    }
}

/// Why no request, or no further request, was made.
#[derive(Debug, thiserror::Error)]
enum PayError {
    #[error("{0}; name a file with a seed with --seed-file")]
    Seed(#[from] VaultError),
    #[error("--node: {0}")]
    Node(#[from] NodeSetupError),
    #[error("--ca-file: {0}")]
    Authorities(NodeSetupError),
    #[error("{0}: not an http or https address")]
    Address(Url),
    #[error(transparent)]
    Setup(#[from] WalletSetupError),
    #[error(transparent)]
    Wallet(#[from] WalletError),
    #[error("the output cannot be written: {0}")]
    Output(#[from] io::Error),
}

impl PayError {
    /// Whether the reader of the output has ended, as `head` does. It knows that itself.
    fn is_end_of_reader(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// Runs `faregate pay`. The answer goes to `out`, everything else to `err`.
pub async fn run(args: PayArgs, out: &mut (dyn Write + Send), err: &mut (dyn Write + Send)) -> PayExit {
    let outcome = pay(&args, out, err).await.and_then(|exit| {
        out.flush()?;
        Ok(exit)
    });
    match outcome {
        Ok(exit) => exit,
        Err(error) => {
            let (exit, advice) = judged(&error);
            let report = if error.is_end_of_reader() {
                Ok(())
            } else if args.json {
                writeln!(out, "{}", failed(&error)).and_then(|()| out.flush())
            } else {
                let advice = advice.map(|advice| format!("\n  {advice}")).unwrap_or_default();
                let bought = capability_of(&error).map(|it| format!("\n  {}", send_again(it)));
                writeln!(err, "faregate: {error}{advice}{}", bought.unwrap_or_default())
            };
            // If even that fails, the exit code has to say it.
            if report.is_err() { PayExit::Output } else { exit }
        }
    }
}

async fn pay(
    args: &PayArgs,
    out: &mut (dyn Write + Send),
    err: &mut (dyn Write + Send),
) -> Result<PayExit, PayError> {
    let wallet = wallet(args)?;
    let mut exit = PayExit::Answered;
    for _ in 0..args.repeat {
        let mut paid = wallet.request(request(args)?).await?;
        let status = paid.response.status();
        let failed_call = failed_call(&paid);
        if args.json {
            let line = as_json(&wallet, &mut paid).await?;
            writeln!(out, "{line}")?;
        } else {
            for line in summary(&paid) {
                writeln!(err, "{line}")?;
            }
            while let Some(chunk) = paid.chunk().await? {
                out.write_all(&chunk)?;
            }
        }
        let failed = status.is_client_error() || status.is_server_error() || failed_call.is_some();
        exit = if failed { PayExit::ErrorAnswer } else { exit };
    }
    Ok(exit)
}

fn wallet(args: &PayArgs) -> Result<Wallet, PayError> {
    let vault = Vault::open(&args.seed_file)?;
    let authorities = args.ca_file.as_deref().map(read_authorities).transpose();
    let authorities = authorities.map_err(PayError::Authorities)?.unwrap_or_default();
    let endpoint = |url: &Url, timeout| {
        NodeEndpoint::from_url(url.clone(), timeout).map(|it| it.believing(Arc::clone(&authorities)))
    };
    let endpoints: Result<Vec<_>, _> = args.nodes.iter().map(|url| endpoint(url, NODE_TIMEOUT)).collect();
    let nodes = NodeClient::new(endpoints?)?;
    let mut work = WorkSource::node_first(nodes.clone());
    if let Some(server) = &args.work_server {
        let server = endpoint(server, WORK_TIMEOUT)?;
        work = work.served_by(NodeClient::new(vec![server])?);
    }
    if io::stderr().is_terminal() && !args.json {
        work = work.observed_by(progress_bar());
    }
    let per_day = args.max_per_day.map(|max| DayLimit { max, file: Some(spent_file(args)) });
    let (mechanism, follow, ca_file) = (args.mechanism, args.follow, args.ca_file.clone());
    let options = WalletOptions { mechanism, per_day, follow, ca_file, ..WalletOptions::up_to(args.max) };
    Ok(Wallet::new(vault, args.index, nodes, work, options)?)
}

fn spent_file(args: &PayArgs) -> PathBuf {
    args.spent_file.clone().unwrap_or_else(|| {
        let mut path = args.seed_file.clone().into_os_string();
        path.push(".spent");
        path.into()
    })
}

fn request(args: &PayArgs) -> Result<Request, PayError> {
    if !matches!(args.url.scheme(), "http" | "https") {
        return Err(PayError::Address(args.url.clone()));
    }
    let default = if args.body.is_some() { Method::POST } else { Method::GET };
    let mut request = Request::new(args.method.clone().unwrap_or(default), args.url.clone());
    for (name, value) in &args.headers {
        request.headers_mut().append(name.clone(), value.clone());
    }
    *request.body_mut() = args.body.clone().map(Into::into);
    Ok(request)
}

/// A bar that is shown while work is computed.
fn progress_bar() -> WorkObserver {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    // If the template did not parse, the plain bar would stay.
    if let Ok(style) = ProgressStyle::with_template("computing work {wide_bar} {elapsed}") {
        bar.set_style(style);
    }
    Arc::new(move |progress| {
        // With bad luck it takes several times the average; the bar then stays nearly full.
        bar.set_length(progress.expected);
        bar.set_position(progress.tried.min(progress.expected.saturating_sub(1)));
        if progress.found {
            bar.finish_and_clear();
            bar.reset();
        }
    })
}

/// How a call of gRPC failed, if the head of its answer says so.
fn failed_call(paid: &Paid) -> Option<String> {
    let said = |name| paid.response.headers().get(name).and_then(|it: &HeaderValue| it.to_str().ok());
    let code = said("grpc-status").filter(|code| *code != "0")?;
    let message = said("grpc-message").map(|it| format!(": {it}")).unwrap_or_default();
    Some(format!("grpc-status {code}{message}"))
}

/// What the request cost and what is left, in lines.
fn summary(paid: &Paid) -> Vec<String> {
    let mut lines = Vec::new();
    match paid.payment() {
        Some(Payment { mechanism, amount, account, hash, acknowledged, .. }) => {
            lines.push(format!("paid {} by {mechanism} from {account}, block {hash}", amount.xno()));
            if !acknowledged {
                lines.push("the gateway did not acknowledge the payment".to_owned());
            }
        }
        None if paid.capability.is_some() => lines.push("paid for already".to_owned()),
        None => {}
    }
    if let Some(remaining) = paid.capability.as_ref().and_then(|it| it.remaining) {
        let verb = if remaining == 1 { "is" } else { "are" };
        lines.push(format!("{} {verb} paid for", counted(remaining, "more request")));
    }
    if let Some(balance) = paid.capability.as_ref().and_then(|it| it.balance) {
        lines.push(format!("{} left in the purse", balance.xno()));
    }
    if paid.response.status() == StatusCode::SERVICE_UNAVAILABLE {
        lines.push("status 503: the gateway cannot serve this now; try again later".to_owned());
    } else if !paid.response.status().is_success() {
        lines.push(format!("status {}", paid.response.status()));
    }
    lines.extend(failed_call(paid));
    if let Some(Redirect { to, is_same_origin }) = Redirect::of(&paid.response) {
        let how =
            if is_same_origin { "with --follow it is followed" } else { "nothing is sent to another origin" };
        lines.push(format!("it leads to {to}; {how}"));
    }
    lines
}

/// How what was bought can be used by hand.
fn send_again(capability: &Capability) -> String {
    let uses = capability.remaining.map(|it| format!(", {} left", counted(it, "request")));
    let balance = capability.balance.map(|it| format!(", {} left", it.xno()));
    let left = uses.or(balance).unwrap_or_default();
    format!("it is paid for{left}: send it again with -H 'PAYMENT-CAPABILITY: {}'", capability.token())
}

async fn as_json(wallet: &Wallet, paid: &mut Paid) -> Result<Value, PayError> {
    let body = paid.bytes(MAX_JSON_ANSWER).await?;
    let mut line = json!({
        "status": paid.response.status().as_u16(),
        "account": wallet.account(),
        "payment": paid.payment().as_ref().map(payment_json),
        "proof": paid.proof.as_ref().and_then(|proof| proof.header().to_str().ok()),
        "capability": paid.capability.as_ref().map(capability_json),
    });
    if let Some(fields) = line.as_object_mut() {
        if let Some(Redirect { to, .. }) = Redirect::of(&paid.response) {
            fields.insert("location".to_owned(), to.as_str().into());
        }
        // Bytes that are not text cannot be in JSON as they are.
        match String::from_utf8(body) {
            Ok(text) => fields.insert("body".to_owned(), text.into()),
            Err(bytes) => fields.insert("body_base64".to_owned(), STANDARD.encode(bytes.as_bytes()).into()),
        };
    }
    Ok(line)
}

/// With the token, for programs that send further requests. Whoever has it can use it up.
fn capability_json(capability: &Capability) -> Value {
    json!({
        "token": capability.token(),
        "remaining": capability.remaining,
        "balance": capability.balance,
        "expires": capability.expires_at.map(|at| at.0),
    })
}

fn payment_json(payment: &Payment) -> Value {
    json!({
        "mechanism": payment.mechanism,
        "amount_raw": payment.amount,
        "amount": payment.amount.xno().to_string(),
        "account": payment.account,
        "pay_to": payment.pay_to,
        "block": payment.hash,
        "acknowledged": payment.acknowledged,
    })
}

/// An error as one JSON object: with what was paid and bought before it.
fn failed(error: &PayError) -> Value {
    let proof = wallet_error(error).and_then(WalletError::proof);
    json!({
        "error": error.to_string(),
        "payment": proof.map(|proof| payment_json(&proof.payment)),
        "proof": proof.and_then(|proof| proof.header().to_str().ok()),
        "capability": capability_of(error).map(capability_json),
    })
}

fn capability_of(error: &PayError) -> Option<&Capability> {
    wallet_error(error).and_then(WalletError::capability)
}

const fn wallet_error(error: &PayError) -> Option<&WalletError> {
    match error {
        PayError::Wallet(error) => Some(error),
        PayError::Seed(_)
        | PayError::Node(_)
        | PayError::Authorities(_)
        | PayError::Setup(_)
        | PayError::Address(_)
        | PayError::Output(_) => None,
    }
}

/// The exit code of an error, and what to do about it.
fn judged(error: &PayError) -> (PayExit, Option<&'static str>) {
    match error {
        PayError::Seed(_) | PayError::Authorities(_) => (PayExit::Configuration, None),
        PayError::Node(_) | PayError::Address(_) => (PayExit::Usage, None),
        PayError::Setup(_) => (PayExit::Unavailable, None),
        PayError::Output(_) => (PayExit::Output, None),
        PayError::Wallet(error) => judged_wallet(error),
    }
}

fn judged_wallet(error: &WalletError) -> (PayExit, Option<&'static str>) {
    match error {
        WalletError::TooExpensive { .. } => (
            PayExit::TooExpensive,
            Some("nothing was paid; raise the limit with --max, as in --max '0.1 XNO'"),
        ),
        WalletError::DayLimit(AllowanceError::Spent { .. }) => {
            (PayExit::TooExpensive, Some("nothing was paid; wait, or raise the limit with --max-per-day"))
        }
        WalletError::DayLimit(_) => (
            PayExit::Configuration,
            Some("nothing was paid; the file of --spent-file must be readable and writable"),
        ),
        WalletError::NoFunds { .. } => {
            (PayExit::Unavailable, Some("nothing was paid; send XNO to that account and run this again"))
        }
        WalletError::NotAGateway { .. } => (PayExit::NotPayable, Some("nothing was paid")),
        WalletError::NothingPayable(_) | WalletError::WorkTooHard { .. } => {
            (PayExit::NotPayable, Some("nothing was paid; this wallet cannot pay that gateway"))
        }
        WalletError::Ledger(_) => {
            (PayExit::Unavailable, Some("nothing was paid; is the address after --node a Nano node's RPC?"))
        }
        WalletError::Unreachable { .. } => (PayExit::Unavailable, Some("nothing was paid by this request")),
        WalletError::Unsettled { .. } | WalletError::NotReceived { .. } => {
            (PayExit::Pending, Some("nothing was paid for this request; try again when it is confirmed"))
        }
        WalletError::Work(_) => (PayExit::Unavailable, Some("nothing was paid")),
        WalletError::NotSent { .. } => (
            PayExit::Unavailable,
            Some("nothing was paid as far as the nodes know; look the block up before you pay again"),
        ),
        WalletError::Pending { .. } | WalletError::AnswerLost { .. } => {
            (PayExit::Pending, Some("do not pay again: run with --json to get the proof, which stays valid"))
        }
        WalletError::Refused { .. } => (PayExit::NotPayable, Some("a payment was signed; look its block up")),
        WalletError::AnswerBroken { .. } => (PayExit::Unavailable, None),
        WalletError::AnswerTooLong { .. } => (PayExit::Usage, Some("without --json it is streamed")),
        WalletError::BilledAgain { .. } => (PayExit::TooExpensive, Some("request that URL by itself")),
        WalletError::AfterRedirect { error, .. } => judged_wallet(error),
        WalletError::BodyNotRepeatable | WalletError::NoRequest(_) | WalletError::Unwritable(_) => {
            (PayExit::Usage, Some("nothing was paid"))
        }
    }
}
