//! Whether acknowledged writes would survive the server: a standby that takes over knows only what it was
//! sent, and an asynchronous one may lack the last payments.

use std::fmt;

use deadpool_postgres::Client;

use super::fault::Fault;
use super::query::query;
use super::rows;
use crate::store::columns::Columns;

/// The replication of a server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Replication {
    /// There is no standby that could take over.
    None,
    /// A commit waits for at least one of these.
    Synchronous { standbys: u32 },
    /// These are attached, and no commit waits for any of them.
    Asynchronous { standbys: u32 },
    /// The server names standbys to wait for, but this role's commits do not wait.
    NotWaitedFor,
    /// The server names these standbys to wait for, but none is attached: no commit ends.
    Missing { named: String },
}

impl fmt::Display for Replication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no standby"),
            Self::Synchronous { standbys } => write!(f, "{standbys} standby(s), a commit waits for one"),
            Self::Asynchronous { standbys } => write!(f, "{standbys} standby(s), none is waited for"),
            Self::NotWaitedFor => f.write_str("the standbys are not waited for"),
            Self::Missing { .. } => f.write_str("the standbys to wait for are missing"),
        }
    }
}

impl Replication {
    /// What is wrong and what to do. `None` if all is well.
    #[must_use]
    pub fn caution(&self) -> Option<String> {
        match self {
            Self::None | Self::Synchronous { .. } => None,
            Self::Asynchronous { standbys } => Some(format!(
                "{standbys} standby(s) attached, and no commit waits for one: a standby that takes over would \
                 have forgotten the last payments, and sell their blocks again. On the server: \
                 ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'; SELECT pg_reload_conf(); \
                 with two standbys, so that one may fail"
            )),
            Self::NotWaitedFor => Some(
                "synchronous_standby_names is set, and synchronous_commit does not wait for standbys in the \
                 gateway's sessions: set it to on for the role and the database"
                    .to_owned(),
            ),
            Self::Missing { named } => Some(format!(
                "synchronous_standby_names is '{named}', and no such standby is attached: nothing can be \
                 recorded until one is"
            )),
        }
    }
}

/// The replication of the server, as far as this role may see it.
pub(super) async fn of(client: &Client) -> Result<Replication, Fault> {
    // A base backup uses the same view. For a role without the right to see them, states are null.
    let sql = "SELECT current_setting('synchronous_standby_names'), current_setting('synchronous_commit'), \
         count(*), count(*) FILTER (WHERE sync_state IN ('sync', 'quorum') OR sync_state IS NULL) \
         FROM pg_stat_replication WHERE state IS DISTINCT FROM 'backup'";
    let found = query(client, sql, &[]).await?;
    let row = found.first().ok_or_else(|| Fault::Unavailable("no word of standbys".to_owned()))?;
    let (named, commits) = (rows::get::<String>(row, 0)?, rows::get::<&str>(row, 1)?);
    let (standbys, waited_for): (u32, u32) = (row.small(2)?, row.small(3)?);
    Ok(judged(named, commits, standbys, waited_for))
}

/// By the settings `synchronous_standby_names` and `synchronous_commit`, and by how many standbys are attached
/// and how many of them a commit may wait for.
fn judged(named: String, commits: &str, standbys: u32, waited_for: u32) -> Replication {
    let waits = !matches!(commits, "local" | "off");
    match (named.is_empty(), waits) {
        (true, _) if standbys == 0 => Replication::None,
        (true, _) => Replication::Asynchronous { standbys },
        (false, false) => Replication::NotWaitedFor,
        (false, true) if waited_for == 0 => Replication::Missing { named },
        (false, true) => Replication::Synchronous { standbys },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_lose_payments_is_said_with_what_to_do() {
        let said = |replication: Replication| (replication.to_string(), replication.caution());
        for (replication, words) in [
            (Replication::None, "no standby"),
            (Replication::Synchronous { standbys: 2 }, "2 standby(s), a commit waits for one"),
        ] {
            assert_eq!(said(replication), (words.to_owned(), None));
        }
        for (replication, words, advice) in [
            (
                Replication::Asynchronous { standbys: 2 },
                "2 standby(s), none is waited for",
                "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'",
            ),
            (
                Replication::NotWaitedFor,
                "the standbys are not waited for",
                "set it to on for the role and the database",
            ),
            (
                Replication::Missing { named: "ANY 1 (other)".to_owned() },
                "the standbys to wait for are missing",
                "synchronous_standby_names is 'ANY 1 (other)'",
            ),
        ] {
            let (display, caution) = said(replication);
            assert_eq!(display, words);
            assert!(caution.is_some_and(|it| it.contains(advice)), "{words}");
        }
    }

    #[test]
    fn a_commit_is_safe_if_it_waits_for_a_standby_that_is_there() {
        let of = |named: &str, commits: &str, standbys, waited_for| {
            judged(named.to_owned(), commits, standbys, waited_for)
        };
        for commits in ["on", "remote_write", "remote_apply", "local", "off"] {
            assert_eq!(of("", commits, 0, 0), Replication::None, "{commits}");
            assert_eq!(of("", commits, 2, 0), Replication::Asynchronous { standbys: 2 }, "{commits}");
        }
        for commits in ["on", "remote_write", "remote_apply"] {
            let missing = Replication::Missing { named: "ANY 1 (*)".to_owned() };
            assert_eq!(of("ANY 1 (*)", commits, 0, 0), missing, "{commits}");
            assert_eq!(of("ANY 1 (*)", commits, 1, 0), missing, "{commits}");
            assert_eq!(of("ANY 1 (*)", commits, 2, 1), Replication::Synchronous { standbys: 2 }, "{commits}");
        }
        for commits in ["local", "off"] {
            assert_eq!(of("ANY 1 (*)", commits, 2, 2), Replication::NotWaitedFor, "{commits}");
        }
    }
}
