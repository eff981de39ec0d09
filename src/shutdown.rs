//! The one signal by which every background task and listener ends.

use tokio::sync::watch;

/// Turns true when the process is to end. Pingora's own kind, so that it can be handed on.
pub type StopSignal = watch::Receiver<bool>;

/// Returns once `shutdown` is true, or whoever could make it so is gone.
pub async fn asked_for(shutdown: &mut StopSignal) {
    let _told = shutdown.wait_for(|stop| *stop).await.is_ok();
}
