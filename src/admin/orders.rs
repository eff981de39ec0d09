//! What the admin API asks of the process: only that can read the configuration again, and end.

use tokio::sync::oneshot;

use crate::config::Fault;

/// Something that the process is to do.
#[derive(Debug)]
pub enum Order {
    /// As SIGHUP does; if this is a dry run, only say what would change.
    Reload { dry_run: bool, outcome: oneshot::Sender<Result<Reloaded, ReloadRefused>> },
    /// As SIGTERM does.
    Drain,
}

/// A configuration that was read again.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reloaded {
    /// What is different in it, in words.
    pub changed: Vec<String>,
    /// Keys that changed and need a restart; those stay as they were.
    pub needs_restart: Vec<&'static str>,
}

/// A configuration that cannot be used. Everything stays as it was.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReloadRefused {
    pub reason: String,
    /// Those of the file.
    pub faults: Vec<Fault>,
}
