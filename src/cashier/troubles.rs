//! What goes wrong again and again while nodes or the store are away or slow: the log says it once, then once a minute
//! with a count, and not for each payment and each look at it.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use crate::repeats::Repeats;
use crate::store::StoreError;

/// How long nothing goes wrong with the store until that is over. It may be read while it cannot be written, so that
/// one look-up that succeeds says little.
const QUIET: Duration = Duration::from_secs(60);

/// What may go wrong with any payment of a gateway.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    /// A look at a block brings no answer.
    pub(super) look: Repeats,
    /// A broadcast brings no answer.
    pub(super) broadcast: Repeats,
    /// A look-up before the decision brings no answer.
    pub(super) look_up: Repeats,
    /// A payment is not settled, although nothing is wrong with it.
    pub(super) settlement: Repeats,
    /// The journal of payments cannot be read.
    pub(super) recovery: Repeats,
}

impl Troubles {
    /// No node could be asked; `what` could not be done for it.
    pub(super) fn no_node(&self, error: &impl fmt::Display, what: &str) {
        if let Some(held_back) = self.look_up.again() {
            tracing::warn!(%error, held_back, "{what}");
        }
    }
}

/// Where an error becomes a verdict there is no cashier at hand, and a process has one store.
static STORE: LazyLock<Repeats> = LazyLock::new(Repeats::new);

/// The store could not be asked; `what` could not be done for it.
pub(super) fn no_store(error: &StoreError, what: &str) {
    if let Some(held_back) = STORE.again() {
        tracing::warn!(%error, held_back, "{what}");
    }
}

/// Says that the store can be asked again, once that is certain.
pub(super) fn store_may_be_back() {
    if let Some(spell) = STORE.over_after(QUIET) {
        let (times, lasted_s) = (spell.times, spell.lasted.as_secs());
        tracing::info!(times, lasted_s, "the store answers again");
    }
}
