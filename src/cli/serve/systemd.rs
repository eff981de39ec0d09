//! What systemd is told, if it has started the process and wants to know (`Type=notify`): sd_notify(3).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told how the gateway is");
    }
}

/// The gateway serves, or has reloaded.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// The gateway reads its configuration again; [`ready`] ends it.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        // Without the time, systemd would take the reload for failed.
        Err(error) => tracing::warn!(%error, "systemd is not told of the reload"),
    }
}

/// The gateway ends.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says again and again that the threads which serve requests get on, if the unit has a watchdog. Ends when it is
/// dropped.
pub(super) fn feed_watchdog() -> JoinSet<()> {
    let mut feeding = JoinSet::new();
    // Half of the time, as sd_watchdog_enabled(3) advises.
    let half = sd_notify::watchdog_enabled().and_then(|it| it.checked_div(2));
    if let Some(half) = half {
        let mut every = interval(half.max(Duration::from_millis(1)));
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        feeding.spawn(async move {
            loop {
                every.tick().await;
                tell(&[NotifyState::Watchdog]);
            }
        });
    }
    feeding
}
