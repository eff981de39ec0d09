//! `faregate doctor`: checks what a gateway depends on. Safe beside a running gateway.

use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;
use serde::Serialize;
use serde_json::json;

use super::check::load;
use super::failure::Failure;
use super::words::counted;
use crate::assemble::{endpoints, open_store, upstreams_tls};
use crate::clock::Clock;
use crate::config::{Config, Nano, PoolSource, StoreLocation, UpstreamConfig, UpstreamUrl};
use crate::gateway::upstream::Upstream;
use crate::ledger::node::{NodeClient, NodeEndpoint};
use crate::listen::Tls;
use crate::nano::UnixSeconds;
use crate::store::{Health, Replication, StoreHealth, Unsound};
use crate::vault::{self, Vault, VaultError};

/// The advice about a server whose disk cannot be seen from here.
const NO_FLOOR: &str = "`store.free_space` is not watched: the server's disk can be seen only if the server is \
     reached by a socket on this machine and its role may read all settings (GRANT pg_read_all_settings TO \
     the role); otherwise let the server's own monitoring warn of a full disk";

/// How long the look-up of a name may take.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(5);

#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    /// The configuration
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// One thing that was checked.
#[derive(Debug, Serialize)]
struct Checkup {
    what: String,
    good: bool,
    /// It works, but there is something to know or to do about it.
    warning: bool,
    detail: String,
}

impl Checkup {
    fn new(what: impl Into<String>, outcome: Result<String, String>) -> Self {
        let good = outcome.is_ok();
        Self { what: what.into(), good, warning: false, detail: outcome.unwrap_or_else(|fault| fault) }
    }

    fn warning(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { what: what.into(), good: true, warning: true, detail: detail.into() }
    }

    const fn mark(&self) -> &'static str {
        match (self.good, self.warning) {
            (true, false) => "ok   ",
            (true, true) => "warn ",
            (false, _) => "FAULT",
        }
    }
}

/// Checks everything and prints what it found. Exit code 0 if all works, 1 if something does not, 78 if
/// the configuration has faults.
///
/// # Errors
/// [`Failure::Output`].
pub async fn run(args: DoctorArgs, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let config = load(&args.config, args.json, out)?;
    let mut checks = store(&config, &Clock::system()).await;
    checks.extend(keys(&config));
    for endpoint in endpoints(&config.nano) {
        checks.push(node(endpoint).await);
    }
    let tls = upstreams_tls(&config).map_err(|error| error.to_string());
    for (name, settings) in &config.upstreams {
        let upstream = tls
            .as_ref()
            .ok()
            .map(|it| Upstream::new(name.clone(), settings, it.get(name).cloned().unwrap_or_default()));
        for url in &settings.urls {
            checks.push(server(&format!("upstream {name}"), url, upstream.as_ref()).await);
        }
    }
    checks.extend(certificates(&config, tls.map(drop)));
    let good = checks.iter().all(|check| check.good);
    if args.json {
        writeln!(out, "{}", json!({ "good": good, "checks": checks }))?;
    } else {
        let width = checks.iter().map(|check| check.what.chars().count()).max().unwrap_or(0);
        for check in &checks {
            writeln!(out, "{}  {:<width$}  {}", check.mark(), check.what, check.detail)?;
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn store(config: &Config, clock: &Clock) -> Vec<Checkup> {
    if let StoreLocation::Sqlite { path, .. } = &config.store
        && !path.exists()
    {
        return vec![Checkup::new("store", Ok(format!("{}: created at the first start", path.display())))];
    }
    let store = match open_store(&config.store, None).await {
        Ok(store) => store,
        Err(error) => return vec![Checkup::new("store", Err(error.to_string()))],
    };
    let inspected = match store.inspect().await {
        Ok(found) if found.faults.is_empty() => {
            Ok(format!("{}, all in order", counted(found.payments, "payment")))
        }
        Ok(found) => Err(found.faults.join("; ")),
        Err(error) => Err(error.to_string()),
    };
    let health = store.health();
    let now = clock.now();
    let mut checks = vec![Checkup::new("store", inspected), disk(&health, now)];
    match store.replication().await {
        Ok(None) => {}
        Ok(Some(found)) => checks.push(replication(&found)),
        Err(error) => checks.push(Checkup::new("standbys", Err(error.to_string()))),
    }
    let clock = match health.sells(now) {
        Err(Unsound::ClockBehind) => {
            Err(format!("{} s behind the newest payment: correct the clock", health.newest.since(now)))
        }
        Ok(()) | Err(Unsound::Unwritable | Unsound::NoSpace) => Ok("not behind the journal".to_owned()),
    };
    checks.push(Checkup::new("clock", clock));
    store.close().await;
    checks
}

fn disk(health: &Health, now: UnixSeconds) -> Checkup {
    let Some(free) = health.free_bytes else {
        return Checkup::warning("disk", NO_FLOOR);
    };
    let found = format!("{} MiB free, {} MiB needed", free >> 20, health.floor >> 20);
    let enough = health.sells(now) != Err(Unsound::NoSpace);
    Checkup::new("disk", if enough { Ok(found) } else { Err(found) })
}

fn replication(found: &Replication) -> Checkup {
    match (found, found.caution()) {
        (Replication::Missing { .. }, Some(caution)) => Checkup::new("standbys", Err(caution)),
        (_, Some(caution)) => Checkup::warning("standbys", caution),
        (_, None) => Checkup::new("standbys", Ok(found.to_string())),
    }
}

fn keys(config: &Config) -> Vec<Checkup> {
    let mut checks = Vec::new();
    let challenge = &config.challenge;
    let key = |path: &Path| vault::existing_mac_key(path).map(drop);
    checks.push(Checkup::new("challenge.key_file", secret(&challenge.key_file, true, key)));
    if let Some(path) = &challenge.previous_key_file {
        checks.push(Checkup::new("challenge.previous_key_file", secret(path, false, key)));
    }
    let Nano { pool, .. } = &config.nano;
    if let PoolSource::Seed { file, .. } = pool {
        let seed = |path: &Path| Vault::open(path).map(drop);
        checks.push(Checkup::new("nano.pool.seed_file", secret(file, true, seed)));
    }
    if let Some(tls) = &config.listen.tls {
        let read = Tls::load(&tls.certificate, &tls.key);
        checks.push(match read {
            Ok(_) => Checkup::new("listen.tls", Ok(format!("{} and its key", tls.certificate.display()))),
            Err(error) => Checkup::new(format!("listen.tls.{}", error.key()), Err(error.to_string())),
        });
    }
    checks
}

/// The files of upstreams over TLS, if there are any.
fn certificates(config: &Config, found: Result<(), String>) -> Option<Checkup> {
    let own = |it: &&UpstreamConfig| it.identity.is_some() || !it.authorities.is_empty();
    let count = config.upstreams.values().filter(own).count();
    (count > 0).then(|| {
        Checkup::new(
            "upstream certificates",
            found.map(|()| format!("read, of {}", counted(count, "upstream"))),
        )
    })
}

/// Whether a secret can be read, and only by its owner.
fn secret(
    path: &Path,
    is_made: bool,
    read: impl Fn(&Path) -> Result<(), VaultError>,
) -> Result<String, String> {
    match read(path) {
        Ok(()) => Ok(path.display().to_string()),
        Err(VaultError::Missing { .. }) if is_made => {
            Ok(format!("{}: created at the first start", path.display()))
        }
        Err(error) => Err(error.to_string()),
    }
}

async fn node(endpoint: NodeEndpoint) -> Checkup {
    let what = format!("node {}", endpoint.label());
    let found = match NodeClient::new(vec![endpoint]) {
        Ok(client) => client.block_count().await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let found = found.map(|it| format!("{} blocks, {} of them confirmed", it.count, it.cemented));
    Checkup::new(what, found)
}

/// Whether the servers of a URL take connections. Without an `upstream` its certificates are at fault, and
/// nobody is connected to.
async fn server(what: &str, url: &UpstreamUrl, upstream: Option<&Upstream>) -> Checkup {
    let host = &url.host;
    let addresses = match resolved(host, url.port).await {
        Ok(addresses) => addresses,
        Err(error) => return Checkup::new(what, Err(format!("{host}: {error}"))),
    };
    let listed: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let Some(upstream) = upstream else {
        let detail = format!("{host}: {}; not connected to, see the certificates", listed.join(", "));
        return Checkup::warning(what, detail);
    };
    let tried = join_all(addresses.into_iter().map(|address| upstream.reach(address, url))).await;
    let some_work = tried.iter().any(Result::is_ok);
    let all_work = tried.iter().all(Result::is_ok);
    let told: Vec<_> = listed
        .into_iter()
        .zip(tried)
        .map(|(address, outcome)| match outcome {
            Ok(()) => format!("{address} takes connections"),
            Err(why) => format!("{address} takes no connections: {why}"),
        })
        .collect();
    let told = format!("{host}: {}", told.join("; "));
    match (some_work, all_work) {
        (true, true) => Checkup::new(what, Ok(told)),
        (true, false) => Checkup::warning(what, told),
        (false, _) => Checkup::new(what, Err(told)),
    }
}

/// The addresses of a host, at least one.
async fn resolved(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    match tokio::time::timeout(LOOK_UP_WITHIN, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let addresses: Vec<_> = found.collect();
            if addresses.is_empty() { Err("no address".to_owned()) } else { Ok(addresses) }
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_elapsed) => Err(format!("no answer within {} s", LOOK_UP_WITHIN.as_secs())),
    }
}
