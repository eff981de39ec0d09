//! The one place that asks the system for random bytes.

use std::fmt;
use std::sync::Arc;

/// The system provides no random bytes, so no secret can be made.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the system gives no random bytes: {0}")]
pub struct NoEntropy(String);

type Fill = dyn Fn(&mut [u8]) -> Result<(), NoEntropy> + Send + Sync;

/// A source of random bytes. Cheap to clone. The code that assembles the gateway chooses the source,
/// so a simulation can be repeated.
#[derive(Clone)]
pub struct Entropy(Arc<Fill>);

impl Entropy {
    /// The system's source, suitable for secrets.
    #[must_use]
    pub fn system() -> Self {
        Self::from_fn(|bytes| getrandom::fill(bytes).map_err(|error| NoEntropy(error.to_string())))
    }

    /// A source that fills buffers with `fill`.
    pub fn from_fn(fill: impl Fn(&mut [u8]) -> Result<(), NoEntropy> + Send + Sync + 'static) -> Self {
        Self(Arc::new(fill))
    }

    /// `N` bytes from the source.
    ///
    /// # Errors
    /// [`NoEntropy`] if the source fails.
    pub fn bytes<const N: usize>(&self) -> Result<[u8; N], NoEntropy> {
        let mut bytes = [0; N];
        (self.0)(&mut bytes)?;
        Ok(bytes)
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy")
    }
}

/// `N` random bytes from the system, suitable for secrets.
///
/// # Errors
/// [`NoEntropy`] if the system's source fails.
pub fn bytes<const N: usize>() -> Result<[u8; N], NoEntropy> {
    Entropy::system().bytes()
}
