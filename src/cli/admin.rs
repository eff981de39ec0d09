//! `faregate admin`: asks a running gateway, or changes something in it, through its admin API.
//!
//! A table for a terminal, JSON for a pipe. `faregate admin mcp` gives agents the same.

mod client;
mod mcp;
mod tables;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use self::client::Client;
use super::arguments::ConfigArgs;
use super::failure::Failure;
use crate::admin::operations::Operation;
use crate::store::PaymentState;
use crate::vault::{self, AdminToken};

#[derive(Args, Clone, Debug)]
pub struct AdminArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    #[command(subcommand)]
    command: AdminCommand,
}

/// Which gateway, and how it is answered.
#[derive(Args, Clone, Debug)]
struct GatewayArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The admin listener, such as `http://127.0.0.1:9402` [default: `admin.listen` of the configuration]
    #[arg(long)]
    url: Option<String>,
    /// The file with the token [default: `admin.token_file` of the configuration]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON, on a terminal too
    #[arg(long, global = true)]
    json: bool,
    /// Print a table, into a pipe too
    #[arg(long, global = true, conflicts_with = "json")]
    table: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum AdminCommand {
    /// Payments of the journal
    #[command(subcommand)]
    Payments(PaymentsOf),
    /// What payments bought, and what was given away
    #[command(subcommand)]
    Capabilities(CapabilitiesOf),
    /// The routes with their prices
    Routes,
    /// What goes back to those who paid
    Refunds(RefundsArgs),
    /// The Nano nodes and how they are
    Nodes,
    /// The upstreams and whether they are up
    Upstreams,
    /// The addresses in use, and what they could receive at the last look
    Pool,
    /// The version, and whether the gateway is ready
    Status,
    /// Have the configuration read again, as SIGHUP does
    Reload(Dry),
    /// Have the gateway drain and end, as SIGTERM does
    Drain(Dry),
    /// Print the API as an OpenAPI document
    Openapi,
    /// Serve the same to agents over standard input and output (MCP)
    Mcp(McpArgs),
}

#[derive(Args, Clone, Debug)]
struct Dry {
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Args, Clone, Debug)]
struct McpArgs {
    /// Also offer the tools that change something
    #[arg(long)]
    allow_changes: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum PaymentsOf {
    /// Print payments, the newest first
    List(PaymentsArgs),
    /// Print one payment
    Show {
        /// The hash of the payment's block
        hash: String,
    },
}

#[derive(Args, Clone, Debug)]
struct PaymentsArgs {
    /// Only of this route
    #[arg(long)]
    route: Option<String>,
    /// Only of this account
    #[arg(long)]
    payer: Option<String>,
    /// Only in this state
    #[arg(long, value_enum)]
    state: Option<PaymentState>,
    /// Only those that began since: `24h`, `2026-01-31` or `2026-01-31T12:00:00Z` (UTC)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only those that began before
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only the payment by this block
    #[arg(long, value_name = "HASH")]
    block: Option<String>,
    #[command(flatten)]
    page: Page,
}

#[derive(Args, Clone, Debug)]
struct Page {
    /// At most so many [default: 100]
    #[arg(long, value_name = "COUNT")]
    limit: Option<u32>,
    /// Go on after a page: its `next`
    #[arg(long)]
    cursor: Option<String>,
}

#[derive(Clone, Debug, Subcommand)]
enum CapabilitiesOf {
    /// Print capabilities, the newest first, without their tokens
    List(CapabilitiesArgs),
    /// Print one capability, without its token
    Show {
        /// The id of the capability
        id: String,
    },
    /// End a capability for ever; nothing is paid back
    Revoke(RevokeArgs),
    /// Give uses of a route away, and print the token, which is shown only here
    Grant(GrantArgs),
}

#[derive(Args, Clone, Debug)]
struct CapabilitiesArgs {
    /// Only of this route
    #[arg(long)]
    route: Option<String>,
    /// Only of this account
    #[arg(long)]
    payer: Option<String>,
    /// Only those that open something: not used up, expired or revoked
    #[arg(long)]
    open: bool,
    /// Only those that were given away
    #[arg(long)]
    free: bool,
    #[command(flatten)]
    page: Page,
}

#[derive(Args, Clone, Debug)]
struct RefundsArgs {
    /// Only those that are not confirmed yet
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    page: Page,
}

#[derive(Args, Clone, Debug)]
struct RevokeArgs {
    /// The id of the capability
    id: String,
    /// Why, for the record
    #[arg(long)]
    reason: Option<String>,
    /// Who does it, for the record
    #[arg(long, env = "USER", hide_env_values = true)]
    by: Option<String>,
    #[command(flatten)]
    dry: Dry,
}

#[derive(Args, Clone, Debug)]
struct GrantArgs {
    /// The route's name
    route: String,
    /// How many requests [default: as many as a payment buys]
    #[arg(long, value_name = "COUNT")]
    uses: Option<u32>,
    /// How long it is good, such as `7d` [default: as long as what a payment buys]
    #[arg(long, value_name = "DURATION")]
    within: Option<String>,
    /// Why, for the record
    #[arg(long)]
    note: Option<String>,
    /// Who does it, for the record
    #[arg(long, env = "USER", hide_env_values = true)]
    by: Option<String>,
    /// A text that no other grant has: two calls with it give one capability
    #[arg(long, value_name = "TEXT")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    dry: Dry,
}

/// What an operation is told, by the names of its parameters.
type Told = Map<String, Value>;

impl AdminCommand {
    /// The operation, and what it is told. `None` for `mcp`, which is none.
    fn operation(&self) -> Option<(Operation, Told)> {
        Some(match self {
            Self::Payments(PaymentsOf::List(args)) => (Operation::ListPayments, args.told()),
            Self::Payments(PaymentsOf::Show { hash }) => (Operation::ShowPayment, told([("id", Some(hash))])),
            Self::Capabilities(CapabilitiesOf::List(args)) => (Operation::ListCapabilities, args.told()),
            Self::Capabilities(CapabilitiesOf::Show { id }) => {
                (Operation::ShowCapability, told([("id", Some(id))]))
            }
            Self::Capabilities(CapabilitiesOf::Revoke(args)) => (Operation::RevokeCapability, args.told()),
            Self::Capabilities(CapabilitiesOf::Grant(args)) => (Operation::GrantCapability, args.told()),
            Self::Refunds(args) => (Operation::ListRefunds, args.told()),
            Self::Routes => (Operation::ListRoutes, Told::new()),
            Self::Nodes => (Operation::ListNodes, Told::new()),
            Self::Upstreams => (Operation::ListUpstreams, Told::new()),
            Self::Pool => (Operation::ShowPool, Told::new()),
            Self::Status => (Operation::ShowStatus, Told::new()),
            Self::Reload(dry) => (Operation::Reload, dry.told()),
            Self::Drain(dry) => (Operation::Drain, dry.told()),
            Self::Openapi => (Operation::ShowDocument, Told::new()),
            Self::Mcp(_) => return None,
        })
    }
}

/// The parameters that are given.
fn told<const N: usize>(all: [(&str, Option<&String>); N]) -> Told {
    let given = all.into_iter().filter_map(|(name, it)| Some((name.to_owned(), it?.as_str().into())));
    given.collect()
}

impl Dry {
    fn told(&self) -> Told {
        if self.dry_run { Told::from_iter([("dry_run".to_owned(), true.into())]) } else { Told::new() }
    }
}

impl Page {
    fn add_to(&self, told: &mut Told) {
        told.extend(self.limit.map(|it| ("limit".to_owned(), it.into())));
        told.extend(self.cursor.as_ref().map(|it| ("cursor".to_owned(), it.as_str().into())));
    }
}

impl RefundsArgs {
    fn told(&self) -> Told {
        let mut told = Told::new();
        if self.open {
            told.insert("open".to_owned(), true.into());
        }
        self.page.add_to(&mut told);
        told
    }
}

impl PaymentsArgs {
    fn told(&self) -> Told {
        let Self { route, payer, state, since, until, block, page } = self;
        let state = state.map(|it| it.as_str().to_owned());
        let mut told = told([
            ("route", route.as_ref()),
            ("payer", payer.as_ref()),
            ("state", state.as_ref()),
            ("since", since.as_ref()),
            ("until", until.as_ref()),
            ("block", block.as_ref()),
        ]);
        page.add_to(&mut told);
        told
    }
}

impl CapabilitiesArgs {
    fn told(&self) -> Told {
        let mut told = told([("route", self.route.as_ref()), ("payer", self.payer.as_ref())]);
        for (name, _) in [("open", self.open), ("free", self.free)].into_iter().filter(|(_, it)| *it) {
            told.insert(name.to_owned(), true.into());
        }
        self.page.add_to(&mut told);
        told
    }
}

impl RevokeArgs {
    fn told(&self) -> Told {
        let mut told =
            told([("id", Some(&self.id)), ("reason", self.reason.as_ref()), ("by", self.by.as_ref())]);
        told.extend(self.dry.told());
        told
    }
}

impl GrantArgs {
    fn told(&self) -> Told {
        let mut told = told([
            ("route", Some(&self.route)),
            ("within", self.within.as_ref()),
            ("note", self.note.as_ref()),
            ("by", self.by.as_ref()),
            ("Idempotency-Key", self.idempotency_key.as_ref()),
        ]);
        told.extend(self.uses.map(|it| ("uses".to_owned(), it.into())));
        told.extend(self.dry.told());
        told
    }
}

impl GatewayArgs {
    /// A client of the gateway that is meant.
    fn client(&self) -> Result<Client, Failure> {
        let config = match (&self.url, &self.token_file) {
            (Some(_), Some(_)) => None,
            (None, _) | (_, None) => Some(self.config.load()?),
        };
        let missing = |key: &str, option: &str| {
            Failure::Config(format!("the configuration has no `admin.{key}`: set it, or say `--{option}`"))
        };
        let place = match &self.url {
            Some(url) => client::Place { url: url.clone(), socket: None },
            None => {
                // A TCP address has no permissions that could stand in the way.
                let all = config.as_ref().map(|it| it.admin.as_slice()).unwrap_or_default();
                let address = all.iter().min_by_key(|it| it.socket_path().is_some());
                client::place_of(address.ok_or_else(|| missing("listen", "url"))?)
            }
        };
        let file = self.token_file.as_ref().or(config.as_ref().and_then(|it| it.admin_token_file.as_ref()));
        let file = file.ok_or_else(|| missing("token_file", "token-file"))?;
        let token: AdminToken =
            vault::existing_admin_token(file).map_err(|error| Failure::Config(error.to_string()))?;
        Client::new(&place, token)
    }
}

/// Asks the gateway, and prints what it answers.
///
/// # Errors
/// [`Failure`]: the gateway cannot be reached, refuses the token, or does not do it.
pub async fn run(args: AdminArgs, out: &mut (impl Write + Send)) -> Result<ExitCode, Failure> {
    let client = args.gateway.client()?;
    let Some((operation, told)) = args.command.operation() else {
        let AdminCommand::Mcp(McpArgs { allow_changes }) = args.command else { return Ok(ExitCode::SUCCESS) };
        mcp::serve(client, allow_changes).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let answer = client.call(operation, &told).await.map_err(client::CallError::into_failure)?;
    let is_table = args.gateway.table || (!args.gateway.json && io::stdout().is_terminal());
    if is_table {
        tables::write(operation, &answer, out)?
    } else {
        writeln!(out, "{answer}")?
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
