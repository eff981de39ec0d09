//! `faregate purse`: what the holder of a token has, and tokens to hand on that may do less.
//!
//! A token is as good as money, and arguments can be seen by others of the machine: it is read from standard
//! input or a file as well.

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use humantime::format_rfc3339_seconds;
use reqwest::{Method, StatusCode, Url};
use serde_json::{Value, json};

use super::failure::Failure;
use crate::clock::Clock;
use crate::nano::{Raw, UnixSeconds};
use crate::outbound;
use crate::payment::derived::{self, Inspected, Restriction, Thumbprint};
use crate::payment::dpop::Jwk;
use crate::routes::Pattern;
use crate::vault;
use crate::x402::MAX_HEADER_BYTES;

/// How long a gateway may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Subcommand)]
pub enum PurseCommand {
    /// Say what a token says, and with --url what is left by the gateway's word
    Show(ShowArgs),
    /// Make a token to hand on, which may do less and spends from the same capability. The gateway is not asked
    Split(SplitArgs),
    /// Close what a token opens, for ever: what is left goes back to the account that paid, where its route says so
    Close(CloseArgs),
}

#[derive(Args, Clone, Debug)]
pub struct TokenArgs {
    /// The token, or `-` to read it from standard input: others of the machine can see arguments
    #[arg(value_name = "TOKEN", required_unless_present = "token_file")]
    pub token: Option<String>,
    /// A file with the token, mode 0600
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    #[command(flatten)]
    pub token: TokenArgs,
    /// Ask the gateway at this address too. It takes no use
    #[arg(long, value_name = "URL")]
    pub url: Option<Url>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Clone, Debug)]
pub struct CloseArgs {
    #[command(flatten)]
    pub token: TokenArgs,
    /// The gateway that sold it. Ask again to learn how far the refund is
    #[arg(long, value_name = "URL")]
    pub url: Url,
    /// Print the gateway's answer, one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args, Clone, Debug)]
pub struct SplitArgs {
    #[command(flatten)]
    pub token: TokenArgs,
    /// It is valid for so long from now, if the token is
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub within: Option<Duration>,
    /// It opens only paths that match, written as in the price table: `/v1/chat/**`. Letter case and a trailing slash count
    #[arg(long, value_name = "PATTERN")]
    pub path: Option<String>,
    /// It opens only requests with one of these methods
    #[arg(long, value_name = "METHOD", value_delimiter = ',')]
    pub method: Vec<String>,
    /// It opens only requests with a DPoP proof of the key with this thumbprint (RFC 7638)
    #[arg(long, value_name = "THUMBPRINT")]
    pub key: Option<Thumbprint>,
    /// As --key: a file with the public key as a JWK, Ed25519 or P-256
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    pub jwk: Option<PathBuf>,
    /// Not yet: no gateway keeps a limit of its own for such a token
    #[arg(long, value_name = "COUNT")]
    pub uses: Option<u64>,
    /// Not yet: no gateway keeps a limit of its own for such a token
    #[arg(long, value_name = "AMOUNT", value_parser = Raw::with_unit)]
    pub amount: Option<Raw>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Runs `faregate purse`.
///
/// # Errors
/// [`Failure`].
pub async fn run(command: &PurseCommand, out: &mut (dyn Write + Send)) -> Result<ExitCode, Failure> {
    match command {
        PurseCommand::Show(args) => show(args, out).await,
        PurseCommand::Split(args) => split(args, out),
        PurseCommand::Close(args) => close(args, out).await,
    }
}

impl TokenArgs {
    fn read(&self) -> Result<String, Failure> {
        let read = match (&self.token_file, self.token.as_deref()) {
            (Some(path), _) => {
                vault::text(path).map_err(|error| Failure::Config(error.to_string()))?.trim().to_owned()
            }
            (None, Some("-")) => {
                let mut text = String::new();
                let most = u64::try_from(MAX_HEADER_BYTES).unwrap_or(u64::MAX);
                let read = io::stdin().lock().take(most).read_to_string(&mut text);
                read.map_err(|error| Failure::Usage(format!("standard input: {error}")))?;
                text.trim().to_owned()
            }
            (None, token) => token.unwrap_or_default().trim().to_owned(),
        };
        Ok(read)
    }
}

fn no_token() -> Failure {
    Failure::Usage(
        "that is no token: it is what stands in PAYMENT-CAPABILITY before the first semicolon, of 71 characters or more"
            .to_owned(),
    )
}

async fn show(args: &ShowArgs, out: &mut (dyn Write + Send)) -> Result<ExitCode, Failure> {
    let token = args.token.read()?;
    let said = derived::inspect(&token).ok_or_else(no_token)?;
    let held = match &args.url {
        Some(url) => Some(ask(url, Method::GET, "capability", &token).await?),
        None => None,
    };
    if args.json {
        let mut whole = as_json(&said);
        if let (Some(held), Some(whole)) = (held, whole.as_object_mut()) {
            whole.insert("gateway".to_owned(), held);
        }
        writeln!(out, "{whole}")?;
    } else {
        for line in lines(&said, held.as_ref()) {
            writeln!(out, "{line}")?;
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

async fn close(args: &CloseArgs, out: &mut (dyn Write + Send)) -> Result<ExitCode, Failure> {
    let token = args.token.read()?;
    derived::inspect(&token).ok_or_else(no_token)?;
    let answer = ask(&args.url, Method::POST, "close", &token).await?;
    if args.json {
        writeln!(out, "{answer}")?;
    } else {
        let text = |name: &str| answer.get(name).and_then(Value::as_str);
        writeln!(out, "state   {}", text("state").unwrap_or("unknown"))?;
        if let Some(amount) = text("amount_raw").and_then(|it| it.parse::<Raw>().ok()) {
            writeln!(out, "amount  {} ({amount} raw)", amount.xno())?;
        }
        for name in ["account", "block"] {
            if let Some(value) = text(name) {
                writeln!(out, "{name:7} {value}")?;
            }
        }
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// What the gateway at `url` says to a token at this place of its own.
async fn ask(url: &Url, method: Method, place: &str, token: &str) -> Result<Value, Failure> {
    let place = url.join(&format!("/.well-known/x402/{place}"));
    let place = place.map_err(|error| Failure::Usage(format!("`--url` {url}: {error}")))?;
    let unavailable = |why: String| Failure::Unavailable(format!("{place}: {why}"));
    let builder = outbound::http(&[]).map_err(|error| unavailable(error.to_string()))?;
    let builder = builder.timeout(ANSWER_WITHIN).redirect(reqwest::redirect::Policy::none());
    let http = builder.build().map_err(|error| unavailable(error.to_string()))?;
    let mut credential = reqwest::header::HeaderValue::try_from(token).map_err(|_| no_token())?;
    credential.set_sensitive(true);
    let unreachable = |error: reqwest::Error| unavailable(outbound::chain(&error.without_url()));
    let answer = http.request(method, place.clone()).header("PAYMENT-CAPABILITY", credential).send();
    let answer = answer.await.map_err(unreachable)?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(unreachable)?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    match status {
        StatusCode::OK | StatusCode::ACCEPTED if body.is_object() => Ok(body),
        _ => {
            let said = body.get("message").and_then(Value::as_str).unwrap_or("it has no such address");
            let text = format!("{place}: status {}: {said}", status.as_u16());
            if status.is_client_error() {
                Err(Failure::NotFound(text))
            } else {
                Err(Failure::Unavailable(text))
            }
        }
    }
}

fn as_json(said: &Inspected) -> Value {
    let Inspected { claim, restrictions } = said;
    let restrictions: Vec<_> = restrictions
        .iter()
        .map(|it| {
            it.as_ref().map_or_else(|why| json!({ "unreadable": why.to_string() }), Restriction::to_json)
        })
        .collect();
    json!({
        "capability": claim.id.to_string(),
        "uses": (claim.uses > 0).then_some(claim.uses),
        "expires": claim.expires_at,
        "restrictions": restrictions,
    })
}

fn lines(said: &Inspected, held: Option<&Value>) -> Vec<String> {
    let Inspected { claim, restrictions } = said;
    let bought = if claim.uses > 0 {
        super::words::counted(u64::from(claim.uses), "use")
    } else {
        "a purse".to_owned()
    };
    let mut lines = vec![
        format!("capability  {}", claim.id),
        format!("bought      {bought}"),
        format!("expires     {}", time(claim.expires_at)),
    ];
    for restriction in restrictions {
        lines.push(format!(
            "restricted  {}",
            match restriction {
                Ok(Restriction::Until(end)) => format!("until {}", time(*end)),
                Ok(it @ (Restriction::Requests(_) | Restriction::Key(_))) => it.to_string(),
                Err(why) => format!("{why}: it opens nothing there"),
            }
        ));
    }
    let Some(held) = held else {
        lines.push("verified    no: only its gateway can, see --url".to_owned());
        return lines;
    };
    let text = |name: &str| held.get(name).and_then(Value::as_str);
    lines.push(format!("verified    {}", text("state").unwrap_or("by the gateway")));
    lines.extend(text("route").map(|it| format!("route       {it}")));
    let balance = text("balance").and_then(|it| it.parse::<Raw>().ok());
    lines.extend(balance.map(|it| format!("left        {} ({it} raw)", it.xno())));
    let uses = held.get("remaining").and_then(Value::as_u64);
    lines.extend(uses.map(|it| format!("left        {}", super::words::counted(it, "use"))));
    lines
}

fn time(at: UnixSeconds) -> String {
    let since = std::time::UNIX_EPOCH.checked_add(Duration::from_secs(at.0));
    // What is printed has four digits for the year.
    let printable = since.filter(|_| at.0 < 253_402_300_800);
    printable.map_or_else(|| format!("{} s after 1970", at.0), |it| format_rfc3339_seconds(it).to_string())
}

fn split(args: &SplitArgs, out: &mut (dyn Write + Send)) -> Result<ExitCode, Failure> {
    if args.uses.is_some() || args.amount.is_some() {
        return Err(Failure::Usage(
            "--uses and --amount: no gateway keeps a limit of its own for such a token yet, so no token is made; what \
             is handed on can spend all that is left: leave them out, or pay for another capability to hand on"
                .to_owned(),
        ));
    }
    let token = args.token.read()?;
    let restrictions = restrictions(args)?;
    derived::inspect(&token).ok_or_else(no_token)?;
    let made = derived::derive(&token, &restrictions).map_err(|error| Failure::Usage(error.to_string()))?;
    if args.json {
        let mut whole = derived::inspect(made.expose()).map(|it| as_json(&it)).unwrap_or_default();
        if let Some(whole) = whole.as_object_mut() {
            whole.insert("token".to_owned(), made.expose().into());
        }
        writeln!(out, "{whole}")?;
    } else {
        writeln!(out, "{}", made.expose())?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn restrictions(args: &SplitArgs) -> Result<Vec<Restriction>, Failure> {
    let mut restrictions = Vec::new();
    if let Some(within) = args.within {
        restrictions.push(Restriction::Until(Clock::system().now().plus(within.as_secs())));
    }
    if args.path.is_some() || !args.method.is_empty() {
        let path = args.path.as_deref().unwrap_or("/**");
        let methods = args.method.join(",").to_ascii_uppercase();
        let pattern = if methods.is_empty() { path.to_owned() } else { format!("{methods} {path}") };
        let pattern = Pattern::parse(&pattern)
            .map_err(|error| Failure::Usage(format!("`--path` and `--method`: {pattern:?}: {error}")))?;
        restrictions.push(Restriction::Requests(pattern));
    }
    if let Some(path) = &args.jwk {
        let named = |why: String| Failure::Usage(format!("`--jwk` {}: {why}", path.display()));
        let jwk = std::fs::read(path).map_err(|error| named(error.to_string()))?;
        restrictions
            .push(Restriction::Key(Jwk::thumbprint_of(&jwk).map_err(|error| named(error.to_string()))?));
    }
    restrictions.extend(args.key.map(Restriction::Key));
    Ok(restrictions)
}
