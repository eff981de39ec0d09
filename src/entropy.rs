//! The one place that asks the system for random bytes.

/// The system has no random bytes to give; nothing secret can be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the system gives no random bytes: {0}")]
pub struct NoEntropy(String);

/// `N` random bytes, fit for secrets.
///
/// # Errors
/// [`NoEntropy`], when the system's source fails.
pub fn bytes<const N: usize>() -> Result<[u8; N], NoEntropy> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| NoEntropy(error.to_string()))?;
    Ok(bytes)
}
