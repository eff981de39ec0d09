//! Where the stock of one capability is, in as little memory as its unit allows: a million may be cached.

use crate::routes::Unit;

/// Where the stock of one capability is, as far as this instance knows. In its unit: uses, or raw.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Counts<T = u128> {
    /// Leased and free to be taken.
    pub(super) available: T,
    /// Taken by requests under way.
    pub(super) reserved: T,
    /// On its way back to the store.
    pub(super) returning: T,
    /// Spent and not reported.
    pub(super) unreported: T,
    /// What answers under way have used beyond what is taken for them: it is theirs, wherever it is.
    pub(super) owed: T,
    /// Left in the store when it was last asked.
    pub(super) stored: T,
    /// Leased by other instances when it was last asked.
    pub(super) elsewhere: T,
}

impl<T> Counts<T> {
    fn map<U>(self, each: impl Fn(T) -> U) -> Counts<U> {
        Counts {
            available: each(self.available),
            reserved: each(self.reserved),
            returning: each(self.returning),
            unreported: each(self.unreported),
            owed: each(self.owed),
            stored: each(self.stored),
            elsewhere: each(self.elsewhere),
        }
    }
}

impl Counts {
    /// What no request has taken.
    pub(super) fn untaken(&self) -> u128 {
        let here = self.available.saturating_add(self.returning);
        here.saturating_add(self.stored).saturating_add(self.elsewhere)
    }

    /// What is left, without what is under way.
    pub(super) fn remaining(&self) -> u128 {
        self.untaken().saturating_sub(self.owed)
    }
}

/// [`Counts`] as they are kept. No payment buys more uses than 32 bits count; the raw of a purse need 128 each, so
/// they have a place of their own.
#[derive(Debug)]
pub(super) enum KeptCounts {
    Uses(Counts<u32>),
    Raw(Box<Counts>),
}

impl KeptCounts {
    pub(super) fn new(unit: Unit, counts: Counts) -> Self {
        match unit {
            Unit::Use => Self::Uses(counts.map(narrow)),
            Unit::Raw => Self::Raw(Box::new(counts)),
        }
    }

    pub(super) fn read(&self) -> Counts {
        match self {
            Self::Uses(counts) => counts.map(u128::from),
            Self::Raw(counts) => **counts,
        }
    }

    pub(super) fn write(&mut self, counts: Counts) {
        match self {
            Self::Uses(kept) => *kept = counts.map(narrow),
            Self::Raw(kept) => **kept = counts,
        }
    }
}

fn narrow(uses: u128) -> u32 {
    u32::try_from(uses).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_in_either_unit() {
        for (unit, most) in [(Unit::Use, u128::from(u32::MAX)), (Unit::Raw, u128::MAX)] {
            let counts = Counts {
                available: most,
                reserved: 1,
                returning: 2,
                unreported: 3,
                owed: 4,
                stored: 5,
                elsewhere: 6,
            };
            let mut kept = KeptCounts::new(unit, counts);
            assert_eq!(kept.read(), counts, "{unit:?}");
            kept.write(Counts { owed: most, ..counts });
            assert_eq!(kept.read(), Counts { owed: most, ..counts }, "{unit:?}");
        }
    }
}
