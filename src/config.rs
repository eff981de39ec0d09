//! The configuration: from a file's text to checked values, or to all its faults.
//!
//! Two stages. `document` reads YAML and replaces variables; `mirror` lists the keys and their types.
//! Then each section is judged: it becomes values that the rest of the program need not check again.
//! One fault does not hide another.
//!
//! To add a key: one line in `mirror`, a field of the section's struct and the line that judges it,
//! and its paragraph in `config/full.yaml`, which a test compares with `mirror`.

mod calls;
mod conditions;
mod discovery;
mod document;
mod env_file;
mod finding;
mod judge;
mod limits;
mod listen;
mod listen_address;
mod listeners;
mod mechanisms;
mod meter;
mod mirror;
mod nano;
mod nodes;
mod pool;
mod prices;
mod rates;
mod refunds;
mod rules;
mod store;
mod sweep;
mod tls;
mod traces;
mod upstream;
mod web_address;
mod work_server;
mod x402;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::access_log::LoggedRequests;
use crate::listen::ListenAddress;
use crate::payment::Mechanism;
use crate::rates::RateSettings;
use crate::routes::{PreflightRule, PriceTable, RouteName, UpstreamName};
use judge::{Judge, Judged, all};
use mirror::{AccessLogFile, AdminFile, ConfigFile, Piece};

pub use calls::MAX_BODY;
pub use discovery::Discovery;
pub use document::MAX_FILE;
pub use finding::{Fault, Faults, Mark, Warning};
pub use limits::{ChallengeConfig, Limits, PaymentIdentifiersConfig, PerCaller, PerClient, Settlement};
pub use listen::{CorsConfig, Drain, FacilitatorConfig, Listen, Origins, PublicUrl};
pub use mirror::known_keys;
pub use nano::{BlockWork, Nano};
pub use nodes::{DEFAULT_QUORUM, NodeUrl, SocketUrl};
pub use pool::{MAX_POOL, MIN_POOL, PoolSource};
pub use prices::{MAX_DESCRIPTION, MAX_NAME, Unmatched};
pub use refunds::{RefundPayer, Refunds};
pub use store::StoreLocation;
pub use sweep::{Sweep, can_sweep};
pub use tls::{AcmeChallenge, AcmeConfig, CertificateFiles, TlsListener};
pub use traces::{Sample, Tracing};
pub use upstream::{
    AfterBody, ClientIdentity, HealthCheck, HealthRules, HostHeader, MAX_BACK_OFF, Protocol, Redirects,
    UpstreamAuth, UpstreamConfig, UpstreamUrl,
};
pub use work_server::WorkMaker;
pub use x402::{RailHint, X402Config};

/// A whole configuration, checked. Prints without secrets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    pub public_url: PublicUrl,
    pub listen: Listen,
    pub drain: Drain,
    /// Metrics, health and the admin API; nowhere if this is empty.
    pub admin: Vec<ListenAddress>,
    /// The file of the token that callers of the admin API send; created if it is missing. `None`: there is no API.
    pub admin_token_file: Option<PathBuf>,
    /// Which requests have a line in the access log.
    pub logged_requests: LoggedRequests,
    /// Where spans of requests are sent; `None` if nowhere.
    pub tracing: Option<Tracing>,
    pub x402: X402Config,
    /// The listener for other servers that sell for Nano; `None` if it is off.
    pub facilitator: Option<FacilitatorConfig>,
    pub nano: Nano,
    pub challenge: ChallengeConfig,
    pub settlement: Settlement,
    /// How the pool is swept; `None` if this gateway does not sweep.
    pub sweep: Option<Sweep>,
    pub refunds: Refunds,
    pub store: StoreLocation,
    /// By name; every upstream that a route names is here.
    pub upstreams: BTreeMap<UpstreamName, UpstreamConfig>,
    pub table: PriceTable,
    /// Where the rates of currencies are read; `None` if no price needs one.
    pub rates: Option<RateSettings>,
    /// The mechanisms of routes that have their own list, in the order of `accepts`.
    pub mechanisms: BTreeMap<RouteName, Vec<Mechanism>>,
    pub unmatched: Unmatched,
    /// What is published about the prices.
    pub discovery: Discovery,
    pub cors: Option<CorsConfig>,
    /// For the routes that have no rule of their own.
    pub preflight: PreflightRule,
    pub payment_identifiers: PaymentIdentifiersConfig,
    pub limits: Limits,
    /// What works but is probably a mistake, in the order of the file's lines.
    pub warnings: Vec<Warning>,
}

/// How a file is read.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reading {
    /// A file of variables, in the form of systemd's `EnvironmentFile=`. The environment comes before it.
    pub env_file: Option<PathBuf>,
    /// Whether no file is read that the configuration names. Then it is good for judging alone.
    pub offline: bool,
}

impl Config {
    /// Reads a file, with the process's environment. Relative paths start at the file's directory.
    ///
    /// # Errors
    /// All [`Faults`].
    pub fn load(path: &Path) -> Result<Self, Faults> {
        Self::load_by(path, &Reading::default())
    }

    /// The same, as `reading` says.
    ///
    /// # Errors
    /// All [`Faults`].
    pub fn load_by(path: &Path, reading: &Reading) -> Result<Self, Faults> {
        let file = path.display().to_string();
        let variables = match &reading.env_file {
            Some(named) => env_file::read(named).map_err(|fault| Faults::new(&file, vec![fault]))?,
            None => BTreeMap::new(),
        };
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        let env = |name: &str| std::env::var(name).ok().or_else(|| variables.get(name).cloned());
        match std::fs::read_to_string(path) {
            Ok(text) => {
                Self::read(&text, &file, path.parent().unwrap_or(Path::new("")), &env, reading.offline)
            }
            Err(error) => {
                let message = format!("the file cannot be read: {error}");
                Err(Faults::new(&file, vec![Fault::new(None, "", message, document::SMALLEST)]))
            }
        }
    }

    /// Reads a file's text. `file` is its name in messages, `base` the directory of relative paths,
    /// `env` gives a variable's value.
    ///
    /// # Errors
    /// All [`Faults`].
    pub fn parse(
        text: &str,
        file: &str,
        base: &Path,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Faults> {
        Self::read(text, file, base, &env, false)
    }

    fn read(
        text: &str,
        file: &str,
        base: &Path,
        env: &dyn Fn(&str) -> Option<String>,
        offline: bool,
    ) -> Result<Self, Faults> {
        let document = document::read(text, env).map_err(|faults| Faults::new(file, faults))?;
        let (places, faults) = (document.places, document.faults);
        let mut judge = Judge::new(places, faults, base, offline);
        match (checked(&mut judge, document.value), judge.faults.is_empty()) {
            (Ok(mut config), true) => {
                config.warnings = judge.warnings;
                config.warnings.sort_by_key(|warning| warning.0.mark);
                Ok(config)
            }
            (Ok(_) | Err(_), _) => Err(Faults::new(file, judge.faults)),
        }
    }
}

/// The file's values. Even an `Ok` is refused if any fault was reported.
fn checked(judge: &mut Judge<'_>, value: serde_yaml::Value) -> Judged<Config> {
    let file: ConfigFile = judge.open("", value)?;
    let nano = judge.need_section(file.nano, "`nodes` and `pool` belong there");
    let mut nano = nano.and_then(|it| nano::nano(judge, it));
    let known = upstream::upstreams(judge, file.upstreams);
    let known_names = || known.as_ref().map_err(|it| *it);
    let mut offered = BTreeMap::new();
    let table = prices::table(judge, file.routes, known_names(), &mut offered);
    if let Ok(nano) = &mut nano {
        nano::share_pool(judge, nano, &offered);
    }
    let unmatched = prices::unmatched(judge, file.unmatched, known_names(), table.as_ref().ok());
    if let Ok(table) = &table {
        prices::warn_of_foreign_patterns(judge, table);
    }
    if let (Ok(table), Ok(nano)) = (&table, &nano) {
        prices::warn_of_unknown_payers(judge, table, &offered, &nano.mechanisms);
    }
    if let (Ok(table), Ok(unmatched), Ok(known)) = (&table, &unmatched, &known) {
        prices::warn_of_free_methods(judge, table, unmatched);
        prices::warn_of_free_fallbacks(judge, table, unmatched);
        warn_of_unused(judge, known.keys(), table, unmatched);
    }
    let listen = judge.need_section(file.listen, listen::LISTEN_HINT);
    let public_url = listen::public_url(judge, file.public_url);
    let listen = listen.and_then(|it| listen::listen(judge, it, public_url.as_ref().ok()));
    let mut admin_token_file = Judged::Ok(None);
    let admin = judge.optional(file.admin, |judge, mut it: AdminFile| {
        admin_token_file = judge.file(it.token_file.take());
        listen::admin(judge, it)
    });
    let admin = admin.map(Option::unwrap_or_default);
    let facilitator = judge.optional(file.facilitator, listen::facilitator);
    let beside = facilitator.as_ref().ok().and_then(Option::as_ref);
    listeners::apart(judge, listen.as_ref().ok(), admin.as_deref().unwrap_or_default(), beside);
    let rates = rates::rates(judge, file.rates, table.as_ref().ok());
    all!(Config {
        public_url,
        listen,
        drain: judge.section(file.drain).and_then(|it| listen::drain(judge, it)),
        admin,
        admin_token_file,
        logged_requests: logged_requests(judge, file.access_log),
        tracing: judge.optional(file.tracing, traces::tracing),
        x402: judge.section(file.x402).and_then(|it| x402::x402(judge, it)),
        facilitator,
        sweep: judge.optional(file.sweep, |judge, it| sweep::sweep(judge, it, nano.as_ref().ok())),
        refunds: judge.section(file.refunds).and_then(|it| refunds::refunds(judge, it, nano.as_ref().ok())),
        nano,
        challenge: judge.section(file.challenge).and_then(|it| limits::challenge(judge, it)),
        settlement: judge.section(file.settlement).and_then(|it| limits::settlement(judge, it)),
        store: judge.section(file.store).and_then(|it| store::store(judge, it)),
        upstreams: known.and_then(|it| it.into_iter().map(|(name, it)| Ok((name, it?))).collect()),
        table,
        rates,
        mechanisms: Judged::Ok(offered.into_iter().map(|(route, it)| (route, it.mechanisms)).collect()),
        unmatched,
        discovery: discovery::discovery(judge, file.discovery),
        cors: judge.optional(file.cors, listen::cors),
        preflight: judge
            .choice(file.preflight, PreflightRule::ALL, PreflightRule::as_str)
            .map(Option::unwrap_or_default),
        payment_identifiers: judge
            .section(file.payment_identifiers)
            .and_then(|it| limits::payment_identifiers(judge, it)),
        limits: judge.section(file.limits).and_then(|it| limits::limits(judge, it)),
        warnings: Judged::Ok(Vec::new()),
    })
}

fn logged_requests(judge: &mut Judge<'_>, piece: Piece<serde_yaml::Value>) -> Judged<LoggedRequests> {
    let file: AccessLogFile = judge.section(piece)?;
    let chosen = judge.choice(file.requests, LoggedRequests::ALL, LoggedRequests::as_str);
    chosen.map(Option::unwrap_or_default)
}

/// Warns of upstreams that no request can reach.
fn warn_of_unused<'a>(
    judge: &mut Judge<'_>,
    names: impl Iterator<Item = &'a UpstreamName>,
    table: &PriceTable,
    unmatched: &Unmatched,
) {
    let mut used: BTreeSet<_> = table.routes().iter().map(|route| &route.upstream).collect();
    if let Unmatched::Free(upstream) = unmatched {
        used.insert(upstream);
    }
    for name in names.filter(|it| !used.contains(it)) {
        let path = document::below("upstreams", name.as_str());
        judge.warn(&path, "no route leads to this upstream", "remove it, or name it in a route");
    }
}
