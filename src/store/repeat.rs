//! Repeats a call whose outcome is unknown, as the store's contract asks.

use std::future::Future;
use std::time::Duration;

use super::StoreError;

/// How often a call is repeated before its unknown outcome is reported.
const REPEATS: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// Makes the same call again, a few times, while its outcome is unknown.
///
/// # Errors
/// The error of the last call.
pub async fn repeat_unknown<T, F>(call: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut pause = FIRST_PAUSE;
    for _ in 0..REPEATS {
        match call().await {
            Err(StoreError::Unknown(_)) => tokio::time::sleep(pause).await,
            known => return known,
        }
        pause = pause.saturating_mul(2);
    }
    call().await
}
