//! The settings of a PostgreSQL store, and why one cannot be opened.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use crate::outbound::chain;

/// The server of a store, and the settings.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PostgresOptions {
    /// As [`server`](super::server) gives it. It prints without its password.
    pub server: tokio_postgres::Config,
    /// Replaces a password in `server`.
    pub password_file: Option<PathBuf>,
    /// Certificates (PEM) of the authorities to trust. `None` means those that browsers trust.
    pub ca_file: Option<PathBuf>,
    /// Most connections.
    pub connections: NonZeroUsize,
    /// Use a server that loses acknowledged writes at a power cut.
    pub allow_unsafe: bool,
    /// With fewer bytes free than this on the server's disk, nothing new is sold, if that can be seen from
    /// here ([`Health::free_bytes`](crate::store::Health::free_bytes)).
    pub free_space: u64,
}

impl PostgresOptions {
    /// The usual [`PostgresOptions::connections`].
    pub const CONNECTIONS: NonZeroUsize = NonZeroUsize::new(16).unwrap();
    /// The usual [`PostgresOptions::free_space`].
    pub const FREE_SPACE: u64 = 64 << 20;

    /// The usual use of `server`.
    #[must_use]
    pub const fn new(server: tokio_postgres::Config) -> Self {
        Self {
            server,
            password_file: None,
            ca_file: None,
            connections: Self::CONNECTIONS,
            allow_unsafe: false,
            free_space: Self::FREE_SPACE,
        }
    }
}

/// Why a store cannot be opened, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum PostgresFault {
    #[error("the PostgreSQL server cannot be used: {0}")]
    Unreachable(String),
    #[error(
        "the PostgreSQL server is a standby, which takes no writes: name the primary, or all of them \
         (`postgres://USER@ONE,OTHER/DATABASE`)"
    )]
    Standby,
    /// Its settings lose acknowledged writes.
    #[error("{0}")]
    Unsafe(String),
    #[error("the tables are of a newer Faregate (version {found}, this program knows {known}): run that one")]
    Newer { found: i32, known: i32 },
    #[error(
        "the schema holds tables of another program: give the gateway a database of its own, or a schema \
         (`?options=-csearch_path%3Dfaregate` at the end of the address)"
    )]
    Foreign,
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: String },
    #[error("the tables cannot be made: {}", chain(.0))]
    Schema(#[from] tokio_postgres::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_sold_with_less_than_64_mib_free_unless_told_otherwise() {
        let options = PostgresOptions::new(tokio_postgres::Config::new());
        assert_eq!(options.free_space, 67_108_864);
    }
}
