//! Whether the store can record a sale.

use crate::nano::UnixSeconds;

/// The state of the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Health {
    /// Whether a write would succeed, as far as is known.
    pub writable: bool,
    /// Bytes free on the store's disk. `None` if that is not known.
    pub free_bytes: Option<u64>,
    /// With fewer bytes free than this, nothing new is sold.
    pub floor: u64,
    /// The latest time in the journal, as far as is known. 0 if it is empty.
    pub newest: UnixSeconds,
}

/// Why nothing new is sold.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
pub enum Unsound {
    #[error("the store takes no writes")]
    Unwritable,
    #[error("the store's disk has less free space than `store.free_space` asks for")]
    NoSpace,
    #[error("the clock is behind the journal")]
    ClockBehind,
}

/// How far the clock may be behind the newest entry of the journal, in seconds: as far as the clocks of
/// two instances may be apart.
pub const CLOCK_GRACE: u64 = 5;

impl Health {
    /// Whether a sale at `now` could be recorded with a meaningful time.
    ///
    /// # Errors
    /// [`Unsound`].
    pub fn sells(&self, now: UnixSeconds) -> Result<(), Unsound> {
        if !self.writable {
            return Err(Unsound::Unwritable);
        }
        if self.free_bytes.is_some_and(|free| free < self.floor) {
            return Err(Unsound::NoSpace);
        }
        if now.plus(CLOCK_GRACE) < self.newest {
            return Err(Unsound::ClockBehind);
        }
        Ok(())
    }
}

/// What a store says of itself without waiting.
pub trait StoreHealth: Send + Sync + 'static {
    /// Whether a write would succeed, as far as is known. Asked with every bill: it reads a flag.
    fn is_writable(&self) -> bool;

    /// The state of the store.
    fn health(&self) -> Health;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_sells_down_to_its_floor_and_with_a_clock_within_the_grace() {
        let now = UnixSeconds(1_800_000_000);
        let sound = Health { writable: true, free_bytes: Some(5), floor: 5, newest: now.plus(CLOCK_GRACE) };
        assert_eq!(sound.sells(now), Ok(()));
        assert_eq!(Health { writable: false, ..sound }.sells(now), Err(Unsound::Unwritable));
        assert_eq!(Health { free_bytes: Some(4), ..sound }.sells(now), Err(Unsound::NoSpace));
        assert_eq!(Health { free_bytes: None, ..sound }.sells(now), Ok(()), "nobody knows");
        let behind = Health { newest: now.plus(CLOCK_GRACE).plus(1), ..sound };
        assert_eq!(behind.sells(now), Err(Unsound::ClockBehind));
    }
}
