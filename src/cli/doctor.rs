//! `faregate doctor`: whether what a gateway stands on is sound. Safe beside a running gateway.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use crate::assemble::{endpoints, open_store};
use crate::clock::Clock;
use crate::config::{Config, Nano, Pool, StoreLocation};
use crate::ledger::node::{NodeClient, NodeEndpoint};
use crate::nano::UnixSeconds;
use crate::store::{Health, Replication, StoreHealth, Unsound};
use crate::vault::{self, Vault, VaultError};

/// Said of a server whose disk cannot be seen from here.
const NO_FLOOR: &str = "`store.free_space` is not watched: the server's disk can be seen from here only where \
     it is reached by a socket on this machine and its role may read all settings (GRANT pg_read_all_settings \
     TO the role); otherwise have the server's own monitoring warn of a full disk";

/// How long a name may take to be looked up.
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

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    what: String,
    good: bool,
    /// It works, and there is something to know or to do about it.
    warning: bool,
    detail: String,
}

impl Check {
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

/// Looks at everything and writes what it found. Exit code 0 where all works, 1 where something does
/// not, 78 for a faulty configuration.
///
/// # Errors
/// Where `out` cannot be written.
pub async fn run(args: DoctorArgs, out: &mut impl Write) -> io::Result<ExitCode> {
    let config = match Config::load(&args.config) {
        Ok(config) => config,
        Err(faults) => return super::check::report_faults(&faults, args.json, out),
    };
    let mut checks = store(&config, &Clock::system()).await;
    checks.extend(keys(&config));
    for endpoint in endpoints(&config.nano) {
        checks.push(node(endpoint).await);
    }
    for (name, upstream) in &config.upstreams {
        for url in &upstream.urls {
            let found = resolved(&url.host, url.port).await;
            checks.push(Check::new(format!("upstream {name}"), found));
        }
    }
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

async fn store(config: &Config, clock: &Clock) -> Vec<Check> {
    if let StoreLocation::Sqlite { path, .. } = &config.store
        && !path.exists()
    {
        return vec![Check::new("store", Ok(format!("{}: made at the first start", path.display())))];
    }
    let store = match open_store(&config.store, None).await {
        Ok(store) => store,
        Err(error) => return vec![Check::new("store", Err(error.to_string()))],
    };
    let inspected = match store.inspect().await {
        Ok(found) if found.faults.is_empty() => Ok(format!("{} payment(s), all in order", found.payments)),
        Ok(found) => Err(found.faults.join("; ")),
        Err(error) => Err(error.to_string()),
    };
    let health = store.health();
    let now = clock.now();
    let mut checks = vec![Check::new("store", inspected), disk(&health, now)];
    match store.replication().await {
        Ok(None) => {}
        Ok(Some(found)) => checks.push(replication(&found)),
        Err(error) => checks.push(Check::new("standbys", Err(error.to_string()))),
    }
    let clock = match health.sells(now) {
        Err(Unsound::ClockBehind) => {
            Err(format!("{} s behind the newest payment: set the clock right", health.newest.since(now)))
        }
        Ok(()) | Err(Unsound::Unwritable | Unsound::NoSpace) => Ok("not behind the journal".to_owned()),
    };
    checks.push(Check::new("clock", clock));
    store.close().await;
    checks
}

fn disk(health: &Health, now: UnixSeconds) -> Check {
    let Some(free) = health.free_bytes else {
        return Check::warning("disk", NO_FLOOR);
    };
    let told = format!("{} MiB free, {} MiB needed", free >> 20, health.floor >> 20);
    let enough = health.sells(now) != Err(Unsound::NoSpace);
    Check::new("disk", if enough { Ok(told) } else { Err(told) })
}

fn replication(found: &Replication) -> Check {
    match (found, found.caution()) {
        (Replication::Missing { .. }, Some(caution)) => Check::new("standbys", Err(caution)),
        (_, Some(caution)) => Check::warning("standbys", caution),
        (_, None) => Check::new("standbys", Ok(found.to_string())),
    }
}

fn keys(config: &Config) -> Vec<Check> {
    let mut checks = Vec::new();
    let challenge = &config.challenge;
    let key = |path: &Path| vault::existing_mac_key(path).map(drop);
    checks.push(Check::new("challenge.key_file", secret(&challenge.key_file, true, key)));
    if let Some(path) = &challenge.previous_key_file {
        checks.push(Check::new("challenge.previous_key_file", secret(path, false, key)));
    }
    let Nano { pool, .. } = &config.nano;
    if let Pool::Seed { file, .. } = pool {
        let seed = |path: &Path| Vault::open(path).map(drop);
        checks.push(Check::new("nano.pool.seed_file", secret(file, true, seed)));
    }
    if let Some(tls) = &config.listen.tls {
        checks.push(Check::new("listen.tls.key", private(&tls.key)));
    }
    checks
}

/// Whether a secret can be read, and by its owner only.
fn secret(
    path: &Path,
    is_made: bool,
    read: impl Fn(&Path) -> Result<(), VaultError>,
) -> Result<String, String> {
    match read(path) {
        Ok(()) => Ok(path.display().to_string()),
        Err(VaultError::Missing { .. }) if is_made => {
            Ok(format!("{}: made at the first start", path.display()))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a file is there, and nobody but its owner and its group may read it.
fn private(path: &Path) -> Result<String, String> {
    let metadata = fs::metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
    if mode & 0o007 == 0 {
        Ok(path.display().to_string())
    } else {
        Err(format!("{}: anybody may use this file (mode {mode:04o}); do: chmod 600 it", path.display()))
    }
}

async fn node(endpoint: NodeEndpoint) -> Check {
    let what = format!("node {}", endpoint.label());
    let counted = match NodeClient::new(vec![endpoint]) {
        Ok(client) => client.block_count().await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let told = counted.map(|count| format!("{} blocks, {} of them confirmed", count.count, count.cemented));
    Check::new(what, told)
}

async fn resolved(host: &str, port: u16) -> Result<String, String> {
    match tokio::time::timeout(LOOK_UP_WITHIN, tokio::net::lookup_host((host, port))).await {
        Ok(Ok(found)) => {
            let addresses: Vec<_> = found.map(|address| address.to_string()).collect();
            Ok(format!("{host}: {}", addresses.join(", ")))
        }
        Ok(Err(error)) => Err(format!("{host}: {error}")),
        Err(_elapsed) => Err(format!("{host}: no answer within {} s", LOOK_UP_WITHIN.as_secs())),
    }
}
