//! The signals that end background tasks and listeners.

use std::time::Duration;

use tokio::sync::watch;

/// Turns true when the process has to end. It is the type that Pingora uses.
pub type StopSignal = watch::Receiver<bool>;

/// How long connections may go on where nothing else is said.
const GRACE: Duration = Duration::from_secs(10);

/// Returns once `shutdown` is true or its sender is dropped.
pub async fn asked_for(shutdown: &mut StopSignal) {
    let _either = shutdown.wait_for(|stop| *stop).await.is_ok();
}

/// How a listener ends. First it drains: it accepts connections as before, and tells each client that its
/// connection ends with the answer. Then it closes.
#[derive(Clone, Debug)]
pub struct Shutdown {
    pub drains: StopSignal,
    /// No connections are accepted any more.
    pub closes: StopSignal,
    /// How long after its begin a connection is waited for whose first request has not come when the listener
    /// closes. Its client could not know.
    pub patience: Duration,
    /// How long after that connections may go on.
    pub grace: Duration,
}

impl From<StopSignal> for Shutdown {
    /// An end of which nobody is told before.
    fn from(signal: StopSignal) -> Self {
        Self { drains: signal.clone(), closes: signal, patience: Duration::ZERO, grace: GRACE }
    }
}
