//! Checks the server regularly: an idle gateway too must notice, before it sells, that the server is gone,
//! has a full disk, or loses writes.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use deadpool_postgres::{Client, Pool, PoolError, TimeoutType};
use tokio::sync::watch;
use tokio_postgres::Config;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;

use super::attempt::{CALL_WITHIN, Server};
use super::fault::unreachable;
use super::journal;
use super::replication::{self, Replication};
use crate::outbound::chain;
use crate::store::free_space::FreeSpace;

/// How often the server is checked.
const EVERY: Duration = Duration::from_secs(1);
/// Its standbys are checked once in so many checks.
const STANDBYS_EVERY: u64 = 60;
/// The server's port if none is named.
const PORT: u16 = 5432;

/// Checks until `stopped` turns true.
pub(super) async fn serve(Server { connections, vitals }: Server, mut stopped: watch::Receiver<bool>) {
    let (mut looks, mut standbys): (u64, _) = (0, None);
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            // An error means that the store was dropped.
            _end = stopped.wait_for(|stop| *stop) => return,
        }
        if let Some(free_space) = &vitals.free_space {
            free_space.look();
        }
        let was = vitals.writable.load(Ordering::Relaxed);
        let outcome = match tokio::time::timeout(CALL_WITHIN, look(&connections, !was)).await {
            Ok(outcome) => outcome,
            Err(_elapsed) => Err(format!("no answer within {} s", CALL_WITHIN.as_secs())),
        };
        match outcome {
            Ok(newest) => {
                vitals.newest.fetch_max(newest, Ordering::Relaxed);
                if !was {
                    vitals.full.store(false, Ordering::Relaxed);
                    vitals.writable.store(true, Ordering::Relaxed);
                    tracing::info!("the PostgreSQL server takes writes again");
                }
                if looks.is_multiple_of(STANDBYS_EVERY) {
                    tell_of_standbys(&connections, &mut standbys).await;
                }
                looks = looks.wrapping_add(1);
            }
            Err(why) if was => {
                vitals.writable.store(false, Ordering::Relaxed);
                tracing::warn!(why, "the PostgreSQL server does not answer");
            }
            Err(_) => {}
        }
    }
}

/// One check of the server, with a write without meaning if `write`.
async fn look(connections: &Pool, write: bool) -> Result<u64, String> {
    let mut client = match connections.get().await {
        Ok(client) => client,
        // All connections are busy, which shows nothing about the server.
        Err(PoolError::Timeout(TimeoutType::Wait)) if !write => return Ok(0),
        Err(error) => return Err(unreachable(&error)),
    };
    if write {
        find_space(&mut client).await.map_err(|error| chain(&error))?;
        let sql = "UPDATE probe SET writes = writes + 1";
        client.execute(sql, &[]).await.map_err(|error| chain(&error))?;
    }
    journal::newest(&client).await.map_err(|fault| fault.into_error().to_string())
}

/// Makes the server write a few hundred KiB beside the tables and undo it: on a full disk an update may
/// still fit into an existing page, and a payment would not.
async fn find_space(client: &mut Client) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    let sql = "CREATE TABLE faregate_room AS SELECT generate_series(1, 10000)";
    match transaction.batch_execute(sql).await {
        // A role that may only change rows is good enough.
        Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {}
        outcome => outcome?,
    }
    transaction.rollback().await
}

/// Logs the replication if it changed.
async fn tell_of_standbys(connections: &Pool, last: &mut Option<Replication>) {
    let Ok(client) = connections.get().await else { return };
    let Ok(found) = replication::of(&client).await else { return };
    if last.as_ref() == Some(&found) {
        return;
    }
    match found.caution() {
        Some(caution) => tracing::warn!(caution, "the PostgreSQL server's standbys"),
        None => tracing::info!(standbys = %found, "the PostgreSQL server's standbys"),
    }
    *last = Some(found);
}

/// The free space on the server's disk, if it can be seen: the server is behind a socket, says where its data
/// are, and a directory of the same owner is there on this machine.
///
/// A server that is reached by TCP may be anywhere, on loopback too.
pub(super) async fn free_space(client: &Client, server: &Config) -> Option<FreeSpace> {
    let [Host::Unix(sockets)] = server.get_hosts() else { return None };
    let port = server.get_ports().first().copied().unwrap_or(PORT);
    // Only roles that may read all settings see it.
    let sql = "SELECT setting FROM pg_settings WHERE name = 'data_directory'";
    let row = client.query_opt(sql, &[]).await.ok().flatten()?;
    let data = PathBuf::from(row.try_get::<_, String>(0).ok()?);
    let socket = sockets.join(format!(".s.PGSQL.{port}"));
    // A server in a container has its own file system: the same path here is a coincidence.
    (owner(&socket)? == owner(&data)?).then(|| FreeSpace::new(data)).filter(|space| space.free().is_some())
}

#[cfg(unix)]
fn owner(path: &Path) -> Option<u32> {
    std::fs::metadata(path).ok().map(|it| std::os::unix::fs::MetadataExt::uid(&it))
}
