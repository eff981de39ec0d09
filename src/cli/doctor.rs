//! `faregate doctor`: checks what a gateway depends on. Safe beside a running gateway.
//!
//! Everything that can be tried is tried: connections are made and requests sent, files are read and written, and what comes
//! back is compared.

mod certificates;
mod places;
mod servers;

use std::fmt;
use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use serde_json::json;

use super::arguments::ConfigArgs;
use super::check::load;
use super::failure::Failure;
use super::secrets::{Found, Secret, secrets};
use super::words::counted;
use crate::assemble::{open_store, upstreams_tls};
use crate::clock::Clock;
use crate::config::{Config, StoreLocation, UpstreamConfig};
use crate::nano::UnixSeconds;
use crate::store::{Health, Replication, StoreHealth, Unsound};

/// The advice about a server whose disk cannot be seen from here.
const NO_FLOOR: &str = "let the server's own monitoring warn of a full disk; it can be seen only if the server is reached by a \
     socket on this machine and its role may read all settings (GRANT pg_read_all_settings TO the role)";

#[derive(Args, Clone, Debug)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
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
    /// What was found.
    detail: String,
    /// What to do. `None` if there is nothing to do.
    advice: Option<String>,
}

impl Checkup {
    fn ok(what: impl Into<String>, found: impl fmt::Display) -> Self {
        Self { what: what.into(), good: true, warning: false, detail: found.to_string(), advice: None }
    }

    fn warning(what: impl Into<String>, found: impl fmt::Display, advice: impl Into<String>) -> Self {
        let (what, detail) = (what.into(), found.to_string());
        Self { what, good: true, warning: true, detail, advice: Some(advice.into()) }
    }

    fn broken(what: impl Into<String>, found: impl fmt::Display, advice: impl Into<String>) -> Self {
        let (what, detail) = (what.into(), found.to_string());
        Self { what, good: false, warning: false, detail, advice: Some(advice.into()) }
    }

    const fn mark(&self) -> &'static str {
        match (self.good, self.warning) {
            (true, false) => "ok",
            (true, true) => "warning",
            (false, _) => "broken",
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
    let clock = Clock::system();
    let mut checks = store(&config, &clock).await;
    let secrets = secrets(&config);
    checks.extend(places::places(&config, &secrets));
    checks.extend(secrets.iter().map(secret));
    checks.extend(certificates::own(&config, clock.now()).await);
    checks.extend(servers::nodes(&config).await);
    checks.extend(servers::sockets(&config).await);
    checks.extend(servers::work(&config, clock.now()).await);
    checks.extend(servers::upstreams(&config, clock.now()).await);
    checks.extend(upstream_certificates(&config));
    checks.extend(certificates::others(&config, clock.now()));
    let good = checks.iter().all(|check| check.good);
    if args.json {
        writeln!(out, "{}", json!({ "good": good, "checks": checks }))?;
    } else {
        let width = checks.iter().map(|check| check.what.chars().count()).max().unwrap_or(0);
        for check in &checks {
            write!(out, "{:<7}  {:<width$}  {}", check.mark(), check.what, check.detail)?;
            match &check.advice {
                Some(advice) => writeln!(out, " -> {advice}")?,
                None => writeln!(out)?,
            }
        }
    }
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn store(config: &Config, clock: &Clock) -> Vec<Checkup> {
    if let StoreLocation::Sqlite { path, .. } = &config.store
        && !path.exists()
    {
        return vec![Checkup::ok("store", format!("{}: created at the first start", path.display()))];
    }
    let advice = match &config.store {
        StoreLocation::Sqlite { .. } => "look at `store.path`; is a backup at hand?",
        StoreLocation::Postgres(_) => "look whether the server runs, and at `store.postgres`",
    };
    let store = match open_store(&config.store, None).await {
        Ok(store) => store,
        Err(error) => return vec![Checkup::broken("store", error, advice)],
    };
    let inspected = match store.inspect().await {
        Ok(found) if found.faults.is_empty() => {
            Checkup::ok("store", format!("{}, all in order", counted(found.payments, "payment")))
        }
        Ok(found) => Checkup::broken(
            "store",
            found.faults.join("; "),
            "keep a copy of it and report this; a backup may be sound",
        ),
        Err(error) => Checkup::broken("store", error, advice),
    };
    let health = store.health();
    let now = clock.now();
    let mut checks = vec![inspected, disk(&health, now)];
    match store.replication().await {
        Ok(None) => {}
        Ok(Some(found)) => checks.push(replication(&found)),
        Err(error) => checks.push(Checkup::broken("standbys", error, advice)),
    }
    checks.push(match health.sells(now) {
        Err(Unsound::ClockBehind) => {
            let found = format!("{} s behind the newest payment", health.newest.since(now));
            Checkup::broken("clock", found, "correct the clock (NTP)")
        }
        Ok(()) | Err(Unsound::Unwritable | Unsound::NoSpace) => {
            Checkup::ok("clock", "not behind the journal")
        }
    });
    store.close().await;
    checks
}

fn disk(health: &Health, now: UnixSeconds) -> Checkup {
    let Some(free) = health.free_bytes else {
        return Checkup::warning("disk", "`store.free_space` is not watched", NO_FLOOR);
    };
    let found = format!("{} MiB free, {} MiB needed", free >> 20, health.floor >> 20);
    if health.sells(now) == Err(Unsound::NoSpace) {
        Checkup::broken("disk", found, "make space, or lower `store.free_space`: nothing is sold")
    } else {
        Checkup::ok("disk", found)
    }
}

fn replication(found: &Replication) -> Checkup {
    let advice = "see \"Several instances\" in deploy/README.md";
    match (found, found.caution()) {
        (Replication::Missing { .. }, Some(caution)) => Checkup::broken("standbys", caution, advice),
        (_, Some(caution)) => Checkup::warning("standbys", caution, advice),
        (_, None) => Checkup::ok("standbys", found),
    }
}

fn secret(secret: &Secret) -> Checkup {
    let path = secret.path.display();
    match &secret.found {
        Ok(Found::Good) => Checkup::ok(secret.key, path),
        Ok(Found::MadeLater) => Checkup::ok(secret.key, format!("{path}: created at the first start")),
        Err(why) => Checkup::broken(secret.key, why, "give it to the gateway's user alone, or name another"),
    }
}

/// The files of upstreams over TLS, if there are any.
fn upstream_certificates(config: &Config) -> Option<Checkup> {
    let own = |it: &&UpstreamConfig| it.identity.is_some() || !it.authorities.is_empty();
    let count = config.upstreams.values().filter(own).count();
    let what = "upstream certificates";
    (count > 0).then(|| match upstreams_tls(config) {
        Ok(_) => Checkup::ok(what, format!("read, of {}", counted(count, "upstream"))),
        Err(error) => Checkup::broken(what, error, "name a certificate and the key that belongs to it"),
    })
}
