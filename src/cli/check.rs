//! `faregate check`: all faults of a configuration, or what it sells.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::arguments::ConfigArgs;
use super::failure::{EX_CONFIG, EX_DATAERR, Failure};
use super::payments::selection;
use super::secrets::secrets;
use super::words::counted;
use crate::admin::views;
use crate::assemble::{Stranded, listener_tls, shared_names, stranded, upstreams_tls};
use crate::clock::Clock;
use crate::config::{Config, Fault, Faults, StoreLocation, Warning};
use crate::listen::Challenges;
use crate::routes::{Access, CallPrices};
use crate::store::check_postgres_files;

#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    #[command(flatten)]
    pub config: ConfigArgs,
    /// Read no other file and take nothing from this machine but variables: for a machine that has neither the keys
    /// nor the certificates
    #[arg(long, conflicts_with = "against_store")]
    pub offline: bool,
    /// Also say which grants in the store would open no route; exit code 65 if there are some
    #[arg(long)]
    pub against_store: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Checks the file and prints its faults or its prices.
///
/// # Errors
/// [`Failure::Printed`] with exit code 78 if it has faults; [`Failure::Output`]; with `--against-store`
/// those of the store.
pub async fn run(args: &CheckArgs, out: &mut impl Write) -> Result<ExitCode, Failure> {
    let mut config = args.config.load_by(args.offline).or_else(|faults| refuse(&faults, args.json, out))?;
    let file = args.config.path().display().to_string();
    let faults = if args.offline { Vec::new() } else { unusable(&mut config) };
    if !faults.is_empty() {
        return refuse(&Faults { file, faults }, args.json, out);
    }
    let stranded = if args.against_store { taken_away(&config).await? } else { Vec::new() };
    let code = if stranded.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EX_DATAERR) };
    if args.json {
        let routes: Vec<_> = config.table.routes().iter().map(|route| views::route(route)).collect();
        let whole = json!({ "file": file, "good": true, "faults": [], "warnings": config.warnings, "routes": routes,
            "stranded": stranded.iter().map(describe_stranded).collect::<Vec<_>>() });
        writeln!(out, "{whole}")?;
        return Ok(code);
    }
    for warning in &config.warnings {
        writeln!(out, "{}", warning.about(&file))?;
    }
    write_table(&config, out)?;
    writeln!(out, "{file} is good: {}", counted(config.table.routes().len(), "route"))?;
    for one in &stranded {
        writeln!(out, "{file}: {one}")?;
    }
    Ok(code)
}

/// The grants in the store that open no route of `config`; none if there is no store yet.
async fn taken_away(config: &Config) -> Result<Vec<Stranded>, Failure> {
    let store = match selection::open(config).await {
        Ok(store) => store,
        Err(Failure::NoJournal(_)) => return Ok(Vec::new()),
        Err(other) => return Err(other),
    };
    let found = stranded(&store, &config.table, Clock::system().now()).await;
    store.close().await;
    Ok(found?)
}

fn describe_stranded(one: &Stranded) -> Value {
    json!({
        "route": one.route.as_str(),
        "dearer": one.dearer,
        "capabilities": one.capabilities,
        "uses": one.uses,
    })
}

/// Loads a configuration, or prints its faults.
///
/// # Errors
/// [`Failure::Printed`] with exit code 78, [`Failure::Output`].
pub(super) fn load(config: &ConfigArgs, json: bool, out: &mut impl Write) -> Result<Config, Failure> {
    config.load().or_else(|faults| refuse(&faults, json, out))
}

/// Prints faults.
fn refuse<T>(faults: &Faults, json: bool, out: &mut impl Write) -> Result<T, Failure> {
    if json {
        let Faults { file, faults } = faults;
        let whole = json!({ "file": file, "good": false, "faults": faults, "warnings": [], "routes": [] });
        writeln!(out, "{whole}")?;
    } else {
        writeln!(out, "{faults}\n{}", counted(faults.faults.len(), "fault"))?;
    }
    Err(Failure::Printed(EX_CONFIG))
}

/// The faults of the files that the configuration names, which a start would find. Those with authorities and
/// addresses were read with it. What is odd about them is added to the warnings.
fn unusable(config: &mut Config) -> Vec<Fault> {
    let fault = |key, message| Fault { mark: None, key, message, hint: None };
    let shown = config.listen.tls.as_ref().map(|it| (it, listener_tls(it, &Challenges::default())));
    let (own, odd) = match shown {
        None => (None, Vec::new()),
        Some((_, Err(error))) => (Some(fault(error.key, error.fault.to_string())), Vec::new()),
        Some((listener, Ok((tls, unusable)))) => {
            let hint = Some("have each name in one certificate".to_owned());
            let shared = shared_names(listener, &tls).into_iter().map(|message| (message, hint.clone()));
            let unusable = unusable.map(|it| (it.to_string(), Some("a start orders another one".to_owned())));
            let key = || "listen.tls".to_owned();
            let odd =
                shared.chain(unusable).map(|(message, hint)| Fault { mark: None, key: key(), message, hint });
            (None, odd.map(Warning).collect())
        }
    };
    config.warnings.extend(odd);
    let config = &*config;
    let upstreams = upstreams_tls(config)
        .err()
        .map(|error| fault(format!("upstreams.{}.{}", error.upstream, error.key), error.fault.to_string()));
    let postgres = match &config.store {
        StoreLocation::Postgres(options) => check_postgres_files(options).err(),
        StoreLocation::Sqlite { .. } => None,
    };
    let postgres = postgres.map(|error| fault("store.postgres".to_owned(), error.to_string()));
    let secrets = secrets(config).into_iter().filter_map(|secret| {
        let message = secret.found.err()?;
        Some(fault(secret.key.to_owned(), message))
    });
    own.into_iter().chain(upstreams).chain(postgres).chain(secrets).collect()
}

fn write_table(config: &Config, out: &mut impl Write) -> io::Result<()> {
    let header = ["MATCH", "PRICE", "GRANTS", "UPSTREAM"].map(ToOwned::to_owned);
    let rows: Vec<[String; 4]> = std::iter::once(header)
        .chain(config.table.routes().iter().map(|route| {
            let (price, grants) = match &route.access {
                Access::Free => ("free".to_owned(), String::new()),
                Access::Priced(terms) => (terms.amount.xno().to_string(), terms.grants.to_string()),
                Access::Calls(prices) => (span(prices), prices.grants.to_string()),
            };
            [route.to_string(), price, grants, route.upstream.to_string()]
        }))
        .collect();
    let mut widths = [0; 4];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// The range of the prices of calls, in words.
fn span(prices: &CallPrices) -> String {
    match prices.span() {
        Some((least, most)) if least.is_zero() => format!("free to {} a call", most.xno()),
        Some((least, most)) if least == most => format!("{} a call", most.xno()),
        Some((least, most)) => format!("{} to {} a call", least.xno(), most.xno()),
        None => "refused".to_owned(),
    }
}
