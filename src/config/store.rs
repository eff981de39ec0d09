//! Where the store is: a file, or a PostgreSQL server.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::judge::{Judge, Judged, all};
use super::mirror::StoreFile;
use crate::store::{PostgresOptions, SqliteOptions, postgres_server};

/// Where payments are journalled.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum StoreLocation {
    /// One file, for one instance.
    Sqlite {
        path: PathBuf,
        /// With fewer free bytes than this, nothing new is sold.
        free_space: u64,
    },
    /// A server, for several instances.
    Postgres(Box<PostgresOptions>),
}

const MAX_FREE_SPACE: u64 = 1 << 50;
const MAX_CONNECTIONS: usize = 1000;

pub(super) fn store(judge: &mut Judge<'_>, file: StoreFile) -> Judged<StoreLocation> {
    let (misplaced, hint) = if file.postgres.is_given() {
        (vec![file.path.given_path()], "a store is a file (`path`) or a server (`postgres`), not both")
    } else {
        let for_a_server = vec![
            file.password_file.given_path(),
            file.ca_file.given_path(),
            file.connections.given_path(),
            file.allow_unsafe.given_path(),
        ];
        (for_a_server, "it belongs to `postgres: \"postgres://USER@HOST/DATABASE\"`")
    };
    let mut outcome = Ok(());
    for path in misplaced.into_iter().flatten() {
        outcome = Err(judge.fault(&path, "it does not belong to this kind of store", hint));
    }
    outcome?;
    if file.postgres.is_given() {
        return postgres(judge, file).map(|it| StoreLocation::Postgres(Box::new(it)));
    }
    let path = judge.file(file.path);
    all!(StoreLocation::Sqlite {
        path: path.map(|it| it.unwrap_or_else(|| judge.base.join("faregate.db"))),
        free_space: judge.bytes(file.free_space, 0..=MAX_FREE_SPACE, SqliteOptions::FREE_SPACE),
    })
}

fn postgres(judge: &mut Judge<'_>, file: StoreFile) -> Judged<PostgresOptions> {
    let hint = "write `postgres: \"postgres://USER@HOST/DATABASE\"`, with `?host=/var/run/postgresql` for a \
         socket or `?sslmode=disable` for a network that needs no protection, and put the password into a \
         `password_file` or a ${VARIABLE}";
    let default = PostgresOptions::CONNECTIONS.get();
    let connections = judge.count(file.connections, 1..=MAX_CONNECTIONS, default);
    all!(PostgresOptions {
        server: judge.need_text(file.postgres, hint, postgres_server),
        password_file: judge.file(file.password_file),
        ca_file: judge.file(file.ca_file),
        connections: connections.map(|it| NonZeroUsize::new(it).unwrap_or(PostgresOptions::CONNECTIONS)),
        allow_unsafe: judge.flag(file.allow_unsafe, false),
        free_space: judge.bytes(file.free_space, 0..=MAX_FREE_SPACE, PostgresOptions::FREE_SPACE),
    })
}
