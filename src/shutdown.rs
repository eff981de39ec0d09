//! The signal that ends every background task and listener.

use tokio::sync::watch;

/// Turns true when the process has to end. It is the type that Pingora uses.
pub type StopSignal = watch::Receiver<bool>;

/// Returns once `shutdown` is true or its sender is dropped.
pub async fn asked_for(shutdown: &mut StopSignal) {
    let _either = shutdown.wait_for(|stop| *stop).await.is_ok();
}
