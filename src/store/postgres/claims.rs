//! Claiming, moving and granting payments.
//!
//! A new payment takes one statement, which applies only if nothing stands in its way. Otherwise what
//! stands in its way is loaded under locks, and [`claim_rules`] decide. If two calls meet at the same
//! instant, one of them fails on a unique index and starts again ([`Fault::Overtaken`]).

use deadpool_postgres::{Client, Transaction};

use super::capabilities;
use super::fault::Fault;
use super::journal::{self, GATE, PAY};
use super::query::apply_numbered;
use crate::nano::{BlockHash, UnixSeconds};
use crate::store::claim_rules::{self, BeginStep, Decision, GrantStep, HashClaim, Standing};
use crate::store::{Begin, Grant, Grantee, Intent, PaymentRecord, PaymentState};

/// `Claims::begin`.
pub(super) async fn begin(client: &mut Client, intent: Intent, now: UnixSeconds) -> Result<Begin, Fault> {
    let mut values = journal::values(&intent, PaymentState::Intent, now);
    values.push(Box::new(claim_rules::frontier(&intent).map(|previous| previous.0.to_vec())));
    let sql = format!(
        "{GATE} AND NOT EXISTS (SELECT FROM payments WHERE previous = $17::bytea AND state = 0)
        {PAY} SELECT sequence FROM paid"
    );
    if let Some(sequence) = apply_numbered(client, &sql, &values).await? {
        let state = PaymentState::Intent;
        return Ok(Begin::Fresh(PaymentRecord { sequence, intent, state, created_at: now, updated_at: now }));
    }
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    let standing = standing(&transaction, &intent).await?;
    let frontier_holder = match standing.hash.frontier_needed(&intent) {
        Some(frontier) => journal::frontier_holder(&transaction, frontier).await?,
        None => None,
    };
    let Decision { id_changes, step } = claim_rules::begin(&intent, standing, frontier_holder);
    if let (BeginStep::Answer(answer), []) = (&step, &id_changes[..]) {
        // Nothing to commit.
        return Ok(answer.clone());
    }
    journal::change_ids(&transaction, &id_changes).await?;
    if let BeginStep::Revive(payment) = &step {
        journal::move_to(&transaction, payment.sequence, PaymentState::Intent, now).await?;
    }
    transaction.commit().await.map_err(Fault::committing)?;
    match step {
        BeginStep::Answer(answer) => Ok(answer),
        BeginStep::Revive(payment) => {
            Ok(Begin::Fresh(PaymentRecord { state: PaymentState::Intent, updated_at: now, ..payment }))
        }
        BeginStep::Insert => Err(Fault::Overtaken("the id or the frontier became free".to_owned())),
    }
}

/// `Claims::advance`.
pub(super) async fn advance(
    client: &mut Client,
    block: BlockHash,
    from: Vec<PaymentState>,
    to: PaymentState,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    let hash = journal::hash_claim(&transaction, block).await?;
    let frontier_holder = match hash.frontier_to_retake(to) {
        Some(frontier) => journal::frontier_holder(&transaction, frontier).await?,
        None => None,
    };
    let moved = claim_rules::advance(&hash, &from, to, frontier_holder)
        .map_err(|error| Fault::Unfit(error.to_string()))?;
    let Some(sequence) = moved else { return Ok(false) };
    journal::move_to(&transaction, sequence, to, now).await?;
    transaction.commit().await.map_err(Fault::committing)?;
    Ok(true)
}

/// `Meters::grant`.
pub(super) async fn grant(
    client: &mut Client,
    intent: Intent,
    grantee: Grantee,
    now: UnixSeconds,
) -> Result<Grant, Fault> {
    let mut values = journal::values(&intent, PaymentState::Granted, now);
    let opening = capabilities::opening(&intent, grantee, now);
    values.extend(opening.values);
    let sql = format!("{GATE} {} {PAY} {} SELECT sequence FROM paid", capabilities::FREE, capabilities::OPEN);
    if apply_numbered(client, &sql, &values).await?.is_some() {
        return Ok(Grant::Granted { record: opening.record, lease: opening.lease, fresh: true });
    }
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    let standing = standing(&transaction, &intent).await?;
    let borrower = match standing.hash.may_have_lent_its_id() {
        Some((sequence, previous)) => journal::borrower(&transaction, sequence, previous).await?,
        None => None,
    };
    let Decision { id_changes, step } = claim_rules::grant(&intent, standing, borrower);
    if let (GrantStep::Answer(answer), []) = (&step, &id_changes[..]) {
        return Ok(answer.clone());
    }
    journal::change_ids(&transaction, &id_changes).await?;
    let granted = match step {
        GrantStep::Answer(answer) => Some(answer),
        GrantStep::Join(payment) => {
            let (record, lease) = capabilities::join(&transaction, payment.sequence, grantee, now).await?;
            Some(Grant::Granted { record, lease, fresh: false })
        }
        GrantStep::Move(payment) => {
            journal::move_to(&transaction, payment.sequence, PaymentState::Granted, now).await?;
            let (record, lease) = capabilities::open(&transaction, &payment, grantee, now).await?;
            Some(Grant::Granted { record, lease, fresh: true })
        }
        GrantStep::Insert => {
            capabilities::refuse_taken(&transaction, grantee.id).await?;
            None
        }
    };
    transaction.commit().await.map_err(Fault::committing)?;
    granted.ok_or_else(|| Fault::Overtaken("the payment is being made, or an id became free".to_owned()))
}

/// What is stored about the hash and the id of `intent`, locked for the rest of the transaction.
async fn standing(transaction: &Transaction<'_>, intent: &Intent) -> Result<Standing, Fault> {
    let hash = journal::hash_claim(transaction, intent.block).await?;
    let id_holder = match (&hash, intent.identified) {
        (HashClaim::Nobody, Some(wanted)) => journal::id_holder(transaction, wanted.id, "FOR UPDATE").await?,
        _ => None,
    };
    let heir = match id_holder.as_ref().and_then(|holder| claim_rules::heir(holder, intent)) {
        Some((previous, request)) => journal::heir(transaction, previous, request).await?,
        None => None,
    };
    Ok(Standing { hash, id_holder, heir })
}
