//! Claiming, moving and granting payments: loads what [`claim_rules`] decide on, and writes the decision.

use rusqlite::Connection;

use super::fault::Fault;
use super::{capabilities, journal};
use crate::nano::{BlockHash, UnixSeconds};
use crate::store::claim_rules::{self, BeginStep, Decision, GrantStep, HashClaim, Standing};
use crate::store::{Begin, Grant, Grantee, Intent, PaymentRecord, PaymentState};

/// `Claims::begin`.
pub(super) fn begin(db: &Connection, intent: &Intent, now: UnixSeconds) -> Result<Begin, Fault> {
    let standing = standing(db, intent)?;
    let frontier = standing.hash.frontier_needed(intent);
    let frontier_holder = frontier.map_or(Ok(None), |it| journal::frontier_holder(db, it))?;
    let Decision { id_changes, step } = claim_rules::begin(intent, standing, frontier_holder);
    journal::change_ids(db, &id_changes)?;
    Ok(match step {
        BeginStep::Answer(answer) => answer,
        BeginStep::Insert => Begin::Fresh(journal::insert(db, intent, PaymentState::Intent, now)?),
        BeginStep::Revive(payment) => {
            journal::move_to(db, payment.sequence, PaymentState::Intent, now)?;
            Begin::Fresh(PaymentRecord { state: PaymentState::Intent, updated_at: now, ..payment })
        }
    })
}

/// `Claims::advance`.
pub(super) fn advance(
    db: &Connection,
    block: BlockHash,
    from: &[PaymentState],
    to: PaymentState,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    let hash = journal::hash_claim(db, block)?;
    let frontier_holder =
        hash.frontier_to_retake(to).map_or(Ok(None), |it| journal::frontier_holder(db, it))?;
    let moved = claim_rules::advance(&hash, from, to, frontier_holder)
        .map_err(|error| Fault::Unfit(error.to_string()))?;
    moved.map_or(Ok(false), |sequence| journal::move_to(db, sequence, to, now).map(|()| true))
}

/// `Meters::grant`.
pub(super) fn grant(
    db: &Connection,
    intent: &Intent,
    grantee: Grantee,
    now: UnixSeconds,
) -> Result<Grant, Fault> {
    let standing = standing(db, intent)?;
    let borrower = standing
        .hash
        .may_have_lent_its_id()
        .map_or(Ok(None), |(sequence, previous)| journal::borrower(db, sequence, previous))?;
    let Decision { id_changes, step } = claim_rules::grant(intent, standing, borrower);
    journal::change_ids(db, &id_changes)?;
    let payment = match step {
        GrantStep::Answer(answer) => return Ok(answer),
        GrantStep::Join(payment) => {
            let (record, lease) = capabilities::join(db, payment.sequence, grantee, now)?;
            return Ok(Grant::Granted { record, lease, fresh: false });
        }
        GrantStep::Insert => journal::insert(db, intent, PaymentState::Granted, now)?,
        GrantStep::Move(payment) => {
            journal::move_to(db, payment.sequence, PaymentState::Granted, now)?;
            *payment
        }
    };
    let (record, lease) = capabilities::open(db, &payment, grantee, now)?;
    Ok(Grant::Granted { record, lease, fresh: true })
}

/// What is stored about the hash and the id of `intent`.
fn standing(db: &Connection, intent: &Intent) -> Result<Standing, Fault> {
    let hash = journal::hash_claim(db, intent.block)?;
    let id_holder = match (&hash, intent.identified) {
        (HashClaim::Nobody, Some(wanted)) => journal::id_holder(db, wanted.id)?,
        _ => None,
    };
    let heir = match id_holder.as_ref().and_then(|holder| claim_rules::heir(holder, intent)) {
        Some((previous, request)) => journal::heir(db, previous, request)?,
        None => None,
    };
    Ok(Standing { hash, id_holder, heir })
}
