//! How connections are made: to which server, with which protection and limits, and which servers are
//! refused.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Pool, PoolBuilder, RecyclingMethod, Runtime,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::outbound;
use crate::vault::{self, VaultError};

use super::options::{PostgresFault, PostgresOptions};

/// How long it may take to make a connection, and how long a caller may wait for a free one.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long the server may work on one statement.
const STATEMENT_WITHIN: Duration = Duration::from_secs(5);
/// How long a statement may wait for a lock.
const LOCK_WITHIN: Duration = Duration::from_secs(3);
/// The isolation that the statements are made for, whatever the default of the server, the database or the
/// role is. Under a stricter one a statement that waited for a lock would read old rows.
const ISOLATION: &str = r"-c default_transaction_isolation=read\ committed";
/// How long it may take to notice that a server is gone.
const UNNOTICED: Duration = Duration::from_secs(10);

/// Reads the address of a server: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, with a socket's
/// directory as `postgres:///DATABASE?host=/var/run/postgresql`.
///
/// TLS is required of a server that is neither on this machine's loopback nor behind a socket,
/// unless the address says `sslmode=disable`.
///
/// # Errors
/// What is wrong with it. No part of the address is repeated.
pub fn server(address: &str) -> Result<Config, &'static str> {
    let scheme = ["postgres://", "postgresql://"].iter().any(|scheme| address.starts_with(scheme));
    let mut config: Config =
        address.parse().ok().filter(|_| scheme).ok_or("not the address of a PostgreSQL server")?;
    if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
        return Err("it names no host");
    }
    if config.get_ssl_mode() == SslMode::Prefer {
        if address.contains("sslmode=") {
            return Err("`sslmode=prefer` yields to whoever cuts the protection off");
        }
        config.ssl_mode(if is_near(&config) { SslMode::Disable } else { SslMode::Require });
    }
    Ok(config)
}

/// Whether the traffic to the server stays on this machine.
fn is_near(config: &Config) -> bool {
    let near_host = |host: &Host| match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    config.get_hosts().iter().all(near_host) && config.get_hostaddrs().iter().all(IpAddr::is_loopback)
}

/// The connections that `options` describe; none is made yet.
///
/// # Errors
/// [`PostgresFault`] if a file cannot be read.
pub(super) fn connections(options: &PostgresOptions) -> Result<Pool, PostgresFault> {
    let allow_unsafe = options.allow_unsafe;
    let check = Hook::async_fn(move |client: &mut ClientWrapper, _| {
        Box::pin(async move { if allow_unsafe { Ok(()) } else { refuse_unsafe(client).await } })
    });
    // A standby cannot record anything.
    bounded(manager(options, TargetSessionAttrs::ReadWrite)?, options)
        .post_create(check)
        .build()
        .map_err(|error| PostgresFault::Unreachable(error.to_string()))
}

/// Whether the files that `options` name can be used. Nobody is connected to.
///
/// # Errors
/// [`PostgresFault::File`], which names the file.
pub fn check_files(options: &PostgresOptions) -> Result<(), PostgresFault> {
    manager(options, TargetSessionAttrs::Any).map(drop)
}

/// Whether a standby answers.
pub(super) async fn answers_as_standby(options: &PostgresOptions) -> bool {
    let Ok(manager) = manager(options, TargetSessionAttrs::Any) else { return false };
    let Ok(connections) = bounded(manager, options).build() else { return false };
    let Ok(client) = connections.get().await else { return false };
    let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await;
    row.and_then(|row| row.try_get(0)).unwrap_or(false)
}

fn bounded(manager: Manager, options: &PostgresOptions) -> PoolBuilder {
    Pool::builder(manager)
        .max_size(options.connections.get())
        .runtime(Runtime::Tokio1)
        .wait_timeout(Some(CONNECT_WITHIN))
        .create_timeout(Some(CONNECT_WITHIN))
        .recycle_timeout(Some(CONNECT_WITHIN))
}

fn manager(options: &PostgresOptions, servers: TargetSessionAttrs) -> Result<Manager, PostgresFault> {
    let mut server = options.server.clone();
    if let Some(path) = &options.password_file {
        server.password(password(path)?);
    }
    let given = server.get_options().unwrap_or_default();
    let bounds = [
        ("statement_timeout", STATEMENT_WITHIN),
        ("lock_timeout", LOCK_WITHIN),
        ("idle_in_transaction_session_timeout", UNNOTICED),
    ];
    let bounds = bounds.map(|(name, bound)| format!("-c {name}={}", bound.as_millis()));
    server
        .options(format!("{given} {} {ISOLATION}", bounds.join(" ")).trim().to_owned())
        .application_name("faregate")
        .connect_timeout(CONNECT_WITHIN)
        .tcp_user_timeout(UNNOTICED)
        .keepalives_idle(UNNOTICED)
        .target_session_attrs(servers);
    let how = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    Ok(if server.get_ssl_mode() == SslMode::Disable {
        Manager::from_config(server, NoTls, how)
    } else {
        let tls = MakeRustlsConnect::new(trusting(options.ca_file.as_deref())?);
        Manager::from_config(server, tls, how)
    })
}

/// The authorities to trust for the server's certificate: those in `ca_file`, or else those that browsers
/// trust.
fn trusting(ca_file: Option<&Path>) -> Result<ClientConfig, PostgresFault> {
    let roots = match ca_file {
        None => outbound::authorities(&[]).map_err(|error| PostgresFault::Unreachable(error.to_string()))?,
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let unreadable = |why: String| PostgresFault::File { path: path.to_owned(), why };
            let certificates =
                CertificateDer::pem_file_iter(path).map_err(|it| unreadable(it.to_string()))?;
            for certificate in certificates {
                let certificate = certificate.map_err(|it| unreadable(it.to_string()))?;
                roots.add(certificate).map_err(|it| unreadable(it.to_string()))?;
            }
            if roots.is_empty() {
                return Err(unreadable("there is no certificate in it".to_owned()));
            }
            roots
        }
    };
    outbound::tls(roots).map_err(|error| PostgresFault::Unreachable(error.to_string()))
}

/// The password in `path`, which only its owner may read.
fn password(path: &Path) -> Result<String, PostgresFault> {
    let unusable = |why: String| PostgresFault::File { path: PathBuf::from(path), why };
    let open = |error| {
        let VaultError::NotPrivate { mode, .. } = error else { return unusable(error.to_string()) };
        unusable(format!(
            "users other than its owner may use this file (mode {mode:04o}); run: chmod 600 {}",
            path.display()
        ))
    };
    vault::check_private(path).map_err(open)?;
    let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(unusable("its first line should be the password".to_owned()));
    }
    Ok(line.to_owned())
}

async fn refuse_unsafe(client: &ClientWrapper) -> Result<(), HookError> {
    let sql = "SELECT current_setting('fsync'), current_setting('full_page_writes'), \
         current_setting('synchronous_commit')";
    let row =
        client.query_one(sql, &[]).await.map_err(|error| HookError::message(outbound::chain(&error)))?;
    let read = |column| {
        row.try_get::<_, String>(column).map_err(|error| HookError::message(outbound::chain(&error)))
    };
    let settings = [("fsync", read(0)?), ("full_page_writes", read(1)?), ("synchronous_commit", read(2)?)];
    let off: Vec<_> = settings.iter().filter(|(_, value)| value == "off").map(|(name, _)| *name).collect();
    if off.is_empty() {
        return Ok(());
    }
    Err(HookError::message(format!(
        "{UNSAFE} {} off: a power cut could sell one block twice. Turn it on in postgresql.conf, or say \
         `store: {{ allow_unsafe: true }}` where nothing of value is at stake",
        off.join(", ")
    )))
}

/// How the refusal of a server begins.
const UNSAFE: &str = "the server runs with";
