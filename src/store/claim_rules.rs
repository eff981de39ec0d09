//! The rules of claims: which payment has a block's hash, holds a frontier, and holds a client's id.
//!
//! Pure. An engine loads what one call depends on, asks for the decision, and writes it, all in one
//! transaction. The rules are those of the [money guide](crate::guide::money).

use crate::nano::BlockHash;
use crate::payment::{IdentifierKey, RequestDigest};
use crate::store::{Begin, Grant, Intent, PaymentRecord, PaymentState};

/// Who has claimed a block's hash.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum HashClaim {
    Nobody,
    /// It is marked as spent, without a payment.
    Marked,
    Payment(Box<PaymentRecord>),
}

/// What is stored about an intent's hash and its id.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Standing {
    pub(super) hash: HashClaim,
    /// The payment that holds the intent's id. Loaded only if nobody has claimed the hash.
    pub(super) id_holder: Option<PaymentRecord>,
    /// The payment that [`heir`] describes.
    pub(super) heir: Option<Heir>,
}

/// A payment that gave its id up to another one, and that may still be on the ledger.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Heir {
    pub(super) sequence: u64,
    pub(super) block: BlockHash,
}

/// A payment that holds the id which another payment gave up to it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Borrower {
    pub(super) sequence: u64,
    pub(super) id: IdentifierKey,
}

/// A new value for the id of one payment. Changes are written in their order: an id is taken from one
/// payment before another gets it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct IdChange {
    /// The payment's place in the journal.
    pub(super) sequence: u64,
    pub(super) id: Option<IdentifierKey>,
    /// Whether the digest of its request stays. A payment with a request and without an id gave its id
    /// up, and can get it back.
    pub(super) keeps_request: bool,
}

/// What to write, and then to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Decision<T> {
    pub(super) id_changes: Vec<IdChange>,
    pub(super) step: T,
}

/// The last step of [`Claims::begin`](super::Claims::begin).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum BeginStep {
    Answer(Begin),
    /// Add the intent to the journal and claim its hash.
    Insert,
    /// Move this parked payment back to [`PaymentState::Intent`].
    Revive(PaymentRecord),
}

/// The last step of [`Meters::grant`](super::Meters::grant).
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum GrantStep {
    Answer(Grant),
    /// Add the intent to the journal as granted, claim its hash, and make the capability.
    Insert,
    /// Move this payment to [`PaymentState::Granted`] and make its capability.
    Move(Box<PaymentRecord>),
    /// This payment is granted already: lease uses of its capability.
    Join(Box<PaymentRecord>),
}

/// Why a payment is not moved.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub(super) enum MoveError {
    #[error("only a grant makes a payment granted")]
    ToGranted,
    #[error("payment {holder} holds the frontier of {block}")]
    FrontierHeld { holder: BlockHash, block: BlockHash },
}

/// The block that an intent builds on, which it holds while it lives.
pub(super) fn frontier(intent: &Intent) -> Option<BlockHash> {
    intent.signed.as_ref().map(|block| block.previous)
}

impl HashClaim {
    /// Whether `intent` may take up this payment again: it is parked, and made for the same challenge.
    fn revives(&self, intent: &Intent) -> bool {
        matches!(self, Self::Payment(payment)
            if payment.state == PaymentState::Parked && payment.intent.challenge == intent.challenge)
    }

    /// The frontier that `intent` needs. `None` if [`begin`] does not depend on who holds it.
    pub(super) fn frontier_needed(&self, intent: &Intent) -> Option<BlockHash> {
        match self {
            Self::Nobody => frontier(intent),
            Self::Payment(payment) if self.revives(intent) => frontier(&payment.intent),
            Self::Marked | Self::Payment(_) => None,
        }
    }

    /// The frontier that this payment needs to become [`PaymentState::Intent`] again.
    pub(super) fn frontier_to_retake(&self, to: PaymentState) -> Option<BlockHash> {
        match self {
            Self::Payment(payment) if to == PaymentState::Intent => frontier(&payment.intent),
            Self::Nobody | Self::Marked | Self::Payment(_) => None,
        }
    }

    /// The payment that a grant confirms, and its frontier: its [`Borrower`] has to be loaded. `None` if there
    /// can be none.
    pub(super) fn may_have_lent_its_id(&self) -> Option<(u64, BlockHash)> {
        match self {
            Self::Payment(payment) if payment.state != PaymentState::Granted => {
                Some((payment.sequence, frontier(&payment.intent)?))
            }
            Self::Nobody | Self::Marked | Self::Payment(_) => None,
        }
    }
}

/// Whether `holder` lets another payment, `next`, have its id: it failed, or it is parked and the ledger
/// takes at most one of the two.
fn gives_id_up(holder: &PaymentRecord, next: &Intent) -> bool {
    match holder.state {
        PaymentState::Failed => true,
        PaymentState::Parked => {
            frontier(&holder.intent).is_some() && frontier(&holder.intent) == frontier(next)
        }
        PaymentState::Intent | PaymentState::Granted => false,
    }
}

/// Where to look for an [`Heir`] of the id that `holder` gives up to `next`: a payment that builds on
/// this frontier, is not granted and did not fail, has no id, and keeps this request. `None` if there
/// can be none.
pub(super) fn heir(holder: &PaymentRecord, next: &Intent) -> Option<(BlockHash, RequestDigest)> {
    let previous = frontier(&holder.intent)?;
    let elsewhere = frontier(next) != Some(previous);
    let had = holder.intent.identified?;
    (gives_id_up(holder, next) && elsewhere).then_some((previous, had.request))
}

impl IdChange {
    /// Takes the id from its holder. If the holder did not fail, its request shows that it had the id.
    fn give_up(holder: &PaymentRecord) -> Self {
        let keeps_request = holder.state != PaymentState::Failed;
        Self { sequence: holder.sequence, id: None, keeps_request }
    }

    const fn give(sequence: u64, id: IdentifierKey) -> Self {
        Self { sequence, id: Some(id), keeps_request: true }
    }
}

impl<T> Decision<T> {
    const fn only(step: T) -> Self {
        Self { id_changes: Vec::new(), step }
    }
}

/// Decides whether a new payment of `intent` may have its id: the changes to write, and who holds the id.
fn id_for(intent: &Intent, standing: &Standing) -> Decision<Option<BlockHash>> {
    let (Some(wanted), Some(holder)) = (intent.identified, &standing.id_holder) else {
        return Decision::only(None);
    };
    if !gives_id_up(holder, intent) {
        return Decision::only(Some(holder.intent.block));
    }
    let mut id_changes = vec![IdChange::give_up(holder)];
    // The payment that gave the id up earlier can still be confirmed, so it gets the id back.
    id_changes.extend(standing.heir.map(|heir| IdChange::give(heir.sequence, wanted.id)));
    Decision { id_changes, step: standing.heir.map(|heir| heir.block) }
}

/// Decides [`Claims::begin`](super::Claims::begin). `frontier_holder` is the live intent on
/// [`HashClaim::frontier_needed`].
pub(super) fn begin(
    intent: &Intent,
    standing: Standing,
    frontier_holder: Option<BlockHash>,
) -> Decision<BeginStep> {
    let answer = |begin| Decision::only(BeginStep::Answer(begin));
    let revives = standing.hash.revives(intent);
    match &standing.hash {
        HashClaim::Marked => answer(Begin::Spent),
        HashClaim::Payment(payment) if !revives => answer(Begin::Existing((**payment).clone())),
        HashClaim::Payment(payment) => match frontier_holder {
            Some(holder) => answer(Begin::FrontierHeld(holder)),
            None => Decision::only(BeginStep::Revive((**payment).clone())),
        },
        HashClaim::Nobody => {
            let Decision { id_changes, step: id_holder } = id_for(intent, &standing);
            match (id_holder, frontier_holder) {
                (Some(holder), _) => Decision { id_changes, step: BeginStep::Answer(Begin::IdHeld(holder)) },
                // No id changes hands for a payment that is not made.
                (None, Some(holder)) => answer(Begin::FrontierHeld(holder)),
                (None, None) => Decision { id_changes, step: BeginStep::Insert },
            }
        }
    }
}

/// Decides [`Meters::grant`](super::Meters::grant). `borrower` is what
/// [`HashClaim::may_have_lent_its_id`] asked for.
pub(super) fn grant(intent: &Intent, standing: Standing, borrower: Option<Borrower>) -> Decision<GrantStep> {
    match standing.hash {
        HashClaim::Nobody => {
            let Decision { id_changes, step: id_holder } = id_for(intent, &standing);
            let held = id_holder.map(|holder| GrantStep::Answer(Grant::IdHeld(holder)));
            Decision { id_changes, step: held.unwrap_or(GrantStep::Insert) }
        }
        HashClaim::Payment(payment) if payment.intent.challenge == intent.challenge => {
            if payment.state == PaymentState::Granted {
                return Decision::only(GrantStep::Join(payment));
            }
            // The borrower is on the same frontier and will never be confirmed.
            let id_changes = borrower.map_or_else(Vec::new, |Borrower { sequence, id }| {
                let given_up = IdChange { sequence, id: None, keeps_request: false };
                vec![given_up, IdChange::give(payment.sequence, id)]
            });
            Decision { id_changes, step: GrantStep::Move(payment) }
        }
        HashClaim::Marked | HashClaim::Payment(_) => Decision::only(GrantStep::Answer(Grant::Taken)),
    }
}

/// Decides [`Claims::advance`](super::Claims::advance): the payment to move, if any. `frontier_holder`
/// is the live intent on [`HashClaim::frontier_to_retake`].
///
/// # Errors
/// [`MoveError`].
pub(super) fn advance(
    hash: &HashClaim,
    from: &[PaymentState],
    to: PaymentState,
    frontier_holder: Option<BlockHash>,
) -> Result<Option<u64>, MoveError> {
    if to == PaymentState::Granted {
        return Err(MoveError::ToGranted);
    }
    let HashClaim::Payment(payment) = hash else { return Ok(None) };
    if payment.state == PaymentState::Granted || !from.contains(&payment.state) {
        return Ok(None);
    }
    let block = payment.intent.block;
    match frontier_holder.filter(|holder| to == PaymentState::Intent && *holder != block) {
        Some(holder) => Err(MoveError::FrontierHeld { holder, block }),
        None => Ok(Some(payment.sequence)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples::{FRONTIER, intent};
    use super::*;
    use crate::nano::UnixSeconds;

    /// The claim of a payment in `state`, made for challenge 1.
    fn claim(state: PaymentState) -> HashClaim {
        let at = UnixSeconds(1);
        let payment = PaymentRecord { sequence: 3, intent: intent(1), state, created_at: at, updated_at: at };
        HashClaim::Payment(Box::new(payment))
    }

    const STATES: [PaymentState; 4] =
        [PaymentState::Intent, PaymentState::Parked, PaymentState::Granted, PaymentState::Failed];

    /// An engine asks only for what a decision depends on.
    #[test]
    fn a_new_payment_and_one_that_is_taken_up_again_need_a_frontier() {
        assert_eq!(HashClaim::Nobody.frontier_needed(&intent(1)), Some(FRONTIER));
        assert_eq!(HashClaim::Marked.frontier_needed(&intent(1)), None);
        for state in STATES {
            let parked = (state == PaymentState::Parked).then_some(FRONTIER);
            assert_eq!(claim(state).frontier_needed(&intent(1)), parked, "{state:?}");
            assert_eq!(claim(state).frontier_needed(&intent(2)), None, "{state:?}: for another challenge");
        }
    }

    #[test]
    fn only_a_payment_that_becomes_an_intent_takes_its_frontier_again() {
        for to in STATES {
            let needed = (to == PaymentState::Intent).then_some(FRONTIER);
            assert_eq!(claim(PaymentState::Parked).frontier_to_retake(to), needed, "{to:?}");
            assert_eq!(HashClaim::Nobody.frontier_to_retake(to), None);
        }
    }

    #[test]
    fn only_a_payment_that_is_not_granted_may_get_a_lent_id_back() {
        for state in STATES {
            let lent = (state != PaymentState::Granted).then_some((3, FRONTIER));
            assert_eq!(claim(state).may_have_lent_its_id(), lent, "{state:?}");
        }
        assert_eq!(HashClaim::Nobody.may_have_lent_its_id(), None);
    }

    #[test]
    fn a_payment_is_moved_from_the_states_that_are_named_and_never_out_of_granted() {
        use PaymentState::{Failed, Granted, Intent, Parked};
        let other = BlockHash([9; 32]);
        let moved = |state, to, holder| advance(&claim(state), &[Intent, Parked, Granted], to, holder);
        assert_eq!(moved(Intent, Failed, None), Ok(Some(3)));
        assert_eq!(moved(Granted, Failed, None), Ok(None));
        assert_eq!(moved(Failed, Parked, None), Ok(None), "it is not among the states");
        assert_eq!(moved(Intent, Granted, None), Err(MoveError::ToGranted));
        let block = intent(1).block;
        let held = MoveError::FrontierHeld { holder: other, block };
        assert_eq!(moved(Parked, Intent, Some(other)), Err(held));
        assert_eq!(moved(Parked, Intent, Some(block)), Ok(Some(3)), "it holds it itself");
        assert_eq!(moved(Intent, Parked, Some(other)), Ok(Some(3)), "it needs no frontier");
        for nobody in [HashClaim::Nobody, HashClaim::Marked] {
            assert_eq!(advance(&nobody, &STATES, Failed, None), Ok(None));
        }
    }

    #[test]
    fn a_grant_is_for_the_challenge_that_has_the_hash() {
        let standing = |hash| Standing { hash, id_holder: None, heir: None };
        let step = |hash, challenge| grant(&intent(challenge), standing(hash), None).step;
        assert_eq!(step(HashClaim::Nobody, 1), GrantStep::Insert);
        assert_eq!(step(HashClaim::Marked, 1), GrantStep::Answer(Grant::Taken));
        for state in STATES {
            assert_eq!(step(claim(state), 2), GrantStep::Answer(Grant::Taken), "{state:?}");
            let HashClaim::Payment(payment) = claim(state) else { unreachable!() };
            let own = match state {
                PaymentState::Granted => GrantStep::Join(payment),
                PaymentState::Intent | PaymentState::Parked | PaymentState::Failed => {
                    GrantStep::Move(payment)
                }
            };
            assert_eq!(step(claim(state), 1), own, "{state:?}");
        }
    }

    /// A payment that failed, or one of two on a frontier, lets the other have its id. One that may still be
    /// confirmed gets it back from one that builds on something else.
    #[test]
    fn an_id_is_given_up_to_who_can_still_be_confirmed() {
        let request = RequestDigest([6; 32]);
        let identified = crate::payment::IdentifiedRequest { id: IdentifierKey([5; 32]), request };
        let holder = |state| {
            let HashClaim::Payment(mut payment) = claim(state) else { unreachable!() };
            payment.intent.identified = Some(identified);
            *payment
        };
        let on = |previous| {
            let mut next = Intent { identified: Some(identified), ..intent(2) };
            next.signed.as_mut().unwrap().previous = previous;
            next
        };
        let elsewhere = BlockHash([9; 32]);
        assert_eq!(heir(&holder(PaymentState::Failed), &on(elsewhere)), Some((FRONTIER, request)));
        assert_eq!(heir(&holder(PaymentState::Failed), &on(FRONTIER)), None, "it is the only one there");
        assert_eq!(heir(&holder(PaymentState::Intent), &on(elsewhere)), None);
        for (state, previous, gives) in [
            (PaymentState::Failed, elsewhere, true),
            (PaymentState::Parked, FRONTIER, true),
            (PaymentState::Parked, elsewhere, false),
            (PaymentState::Intent, FRONTIER, false),
            (PaymentState::Granted, FRONTIER, false),
        ] {
            let standing = Standing { hash: HashClaim::Nobody, id_holder: Some(holder(state)), heir: None };
            let Decision { id_changes, step } = begin(&on(previous), standing, None);
            if gives {
                let keeps_request = state == PaymentState::Parked;
                assert_eq!(id_changes, [IdChange { sequence: 3, id: None, keeps_request }], "{state:?}");
                assert_eq!(step, BeginStep::Insert, "{state:?}");
            } else {
                assert_eq!(id_changes, [], "{state:?}");
                assert_eq!(step, BeginStep::Answer(Begin::IdHeld(intent(1).block)), "{state:?}");
            }
        }
    }
}
