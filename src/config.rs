//! The configuration: a file's text → checked values, or everything that is wrong with it.
//!
//! Two stages. `document` reads YAML and puts in variables, `mirror` says which keys there are and
//! of what type; then each concern turns its part into values that the rest of the program need
//! not check again. No fault ends the judging of the others.

mod calls;
mod discovery;
mod document;
mod finding;
mod judge;
mod limits;
mod listen;
mod mechanisms;
mod mirror;
mod nano;
mod nodes;
mod prices;
mod sweep;
mod upstream;
mod work_server;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;

use crate::payment::Mechanism;
use crate::routes::{PriceTable, RouteName, UpstreamName};
use judge::Judge;
use mirror::ConfigFile;

pub use calls::MAX_BODY;
pub use discovery::Discovery;
pub use document::MAX_FILE;
pub use finding::{Fault, Faults, Mark, Warning};
pub use limits::{ChallengeConfig, Limits, PaymentIdentifiersConfig, Settlement, StoreLocation};
pub use listen::{CorsConfig, FacilitatorConfig, Listen, Origins, PublicUrl, TlsListener};
pub use mirror::known_keys;
pub use nano::{MAX_POOL, MIN_POOL, Nano, PoolSource};
pub use nodes::{DEFAULT_QUORUM, NodeUrl, SocketUrl};
pub use prices::{MAX_DESCRIPTION, MAX_NAME, Unmatched};
pub use sweep::{Sweep, can_sweep};
pub use upstream::{HealthCheck, HostHeader, UpstreamConfig, UpstreamUrl};
pub use work_server::WorkMaker;

/// A whole configuration, checked. Prints without secrets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Config {
    pub public_url: PublicUrl,
    pub listen: Listen,
    /// Metrics, health and the admin API.
    pub admin: Option<SocketAddr>,
    /// The listener for other servers that sell for Nano.
    pub facilitator: Option<FacilitatorConfig>,
    pub nano: Nano,
    pub challenge: ChallengeConfig,
    pub settlement: Settlement,
    /// How the pool is swept; nothing where that is left to others.
    pub sweep: Option<Sweep>,
    pub store: StoreLocation,
    /// By name; each that a route names is among them.
    pub upstreams: BTreeMap<UpstreamName, UpstreamConfig>,
    pub table: PriceTable,
    /// What routes offer that do not offer `nano.mechanisms`: in the order of `accepts`.
    pub mechanisms: BTreeMap<RouteName, Vec<Mechanism>>,
    pub unmatched: Unmatched,
    /// What is published about the prices.
    pub discovery: Discovery,
    pub cors: Option<CorsConfig>,
    /// For how long ids of payments and what was answered under them are kept.
    pub payment_identifiers: PaymentIdentifiersConfig,
    pub limits: Limits,
    /// What works but is hardly meant, in the order of the file's lines.
    pub warnings: Vec<Warning>,
}

impl Config {
    /// Reads a file, with the process's environment. Relative paths in it start at its directory.
    ///
    /// # Errors
    /// [`Faults`], all of them.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        let file = path.display().to_string();
        #[expect(clippy::disallowed_methods, reason = "this is the one place")]
        let env = |name: &str| std::env::var(name).ok();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &file, path.parent().unwrap_or(Path::new("")), env),
            Err(error) => {
                let fault = Fault {
                    mark: None,
                    key: String::new(),
                    message: format!("the file cannot be read: {error}"),
                    hint: Some("config/minimal.yaml is the smallest that works".to_owned()),
                };
                Err(Faults::new(&file, vec![fault]))
            }
        }
    }

    /// Reads a file's text. `file` names it in messages, `base` is where relative paths in it
    /// start, `env` gives a variable's value.
    ///
    /// # Errors
    /// [`Faults`], all of them.
    pub fn parse(
        text: &str,
        file: &str,
        base: &Path,
        env: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let Some(document) = document::read(text, &env, &mut faults) else {
            return Err(Faults::new(file, faults));
        };
        let mut judge = Judge { places: document.places, faults, warnings: Vec::new(), base };
        match (checked(&mut judge, document.value), judge.faults.is_empty()) {
            (Some(mut config), true) => {
                config.warnings = judge.warnings;
                config.warnings.sort_by_key(|warning| warning.0.mark);
                Ok(config)
            }
            (Some(_) | None, _) => Err(Faults::new(file, judge.faults)),
        }
    }
}

/// The file's values; nothing where one of them is wrong. A fault may have been noted even so.
fn checked(judge: &mut Judge<'_>, value: serde_yaml::Value) -> Option<Config> {
    let file: ConfigFile = judge.open("", value)?;
    let public_url = listen::public_url(judge, file.public_url);
    let listen = listen::listen(judge, file.listen);
    let admin = listen::admin(judge, file.admin);
    let facilitator = listen::facilitator(judge, file.facilitator);
    let mut nano = nano::nano(judge, file.nano);
    let challenge = limits::challenge(judge, file.challenge);
    let settlement = limits::settlement(judge, file.settlement);
    let sweep = sweep::sweep(judge, file.sweep, nano.as_ref());
    let store = limits::store(judge, file.store);
    let known = upstream::upstreams(judge, file.upstreams);
    let mut used = BTreeSet::new();
    let mut offered = BTreeMap::new();
    let table = prices::table(judge, file.routes, known.as_ref(), &mut used, &mut offered);
    if let Some(nano) = &mut nano {
        mechanisms::share_pool(judge, nano, &offered);
    }
    let unmatched = prices::unmatched(judge, file.unmatched, known.as_ref(), &mut used, table.as_ref());
    if let (Some(table), Some(unmatched)) = (&table, &unmatched) {
        prices::warn_of_free_methods(judge, table, unmatched);
    }
    let discovery = discovery::discovery(judge, file.discovery);
    let cors = listen::cors(judge, file.cors);
    let payment_identifiers = limits::payment_identifiers(judge, file.payment_identifiers);
    let limits = limits::limits(judge, file.limits);
    let mut upstreams = BTreeMap::new();
    for (name, upstream) in known? {
        if !used.contains(&name) {
            let path = document::below("upstreams", name.as_str());
            judge.warn(&path, "no route leads to this upstream", "take it out, or name it in a route");
        }
        upstreams.insert(name, upstream?);
    }
    Some(Config {
        public_url: public_url?,
        listen: listen?,
        admin: admin?,
        facilitator: facilitator?,
        nano: nano?,
        challenge: challenge?,
        settlement: settlement?,
        sweep: sweep?,
        store: store?,
        upstreams,
        table: table?,
        mechanisms: offered.into_iter().map(|(route, it)| (route, it.mechanisms)).collect(),
        unmatched: unmatched?,
        discovery: discovery?,
        cors: cors?,
        payment_identifiers: payment_identifiers?,
        limits: limits?,
        warnings: Vec::new(),
    })
}
