//! Claiming, moving and granting payments.
//!
//! Payments that have nothing in their way are written by one statement for many of them. For any other, what
//! is in its way is loaded under locks, and [`claim_rules`] decide. If two calls meet at the same
//! instant, one of them fails on a unique index and starts again ([`Fault::Overtaken`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use deadpool_postgres::{Client, Transaction};
use futures_util::future::BoxFuture;
use tokio_postgres::Row;

use super::batch::{Call, Key};
use super::capabilities::{self, FREE, OPEN, OPENING_ARRAYS, OPENINGS, Opening};
use super::fault::Fault;
use super::journal::{self, ARRAYS, GATE, ITEMS, PAY};
use super::query::apply_batch;
use crate::nano::{BlockHash, UnixSeconds};
use crate::store::claim_rules::{self, BeginStep, Decision, GrantStep, HashClaim, Standing};
use crate::store::columns::Columns;
use crate::store::{Begin, Grant, Grantee, Intent, PaymentRecord, PaymentState};

/// `Claims::begin`.
#[derive(Clone, Debug)]
pub(super) struct Beginning {
    pub(super) intent: Intent,
    pub(super) now: UnixSeconds,
}

/// `Meters::grant`.
#[derive(Clone, Debug)]
pub(super) struct Granting {
    pub(super) intent: Intent,
    pub(super) grantee: Grantee,
    pub(super) now: UnixSeconds,
}

impl Call for Beginning {
    type Answer = Begin;

    fn keys(&self) -> Vec<Key> {
        let frontier = claim_rules::frontier(&self.intent).map(Key::Frontier);
        frontier.into_iter().chain(changed(&self.intent)).collect()
    }

    fn together(
        client: &mut Client,
        calls: Arc<Vec<Self>>,
    ) -> BoxFuture<'_, Result<Vec<Option<Begin>>, Fault>> {
        Box::pin(begin_together(client, calls))
    }

    fn alone(client: &mut Client, call: Arc<Self>) -> BoxFuture<'_, Result<Begin, Fault>> {
        Box::pin(begin(client, call))
    }
}

impl Call for Granting {
    type Answer = Grant;

    fn keys(&self) -> Vec<Key> {
        changed(&self.intent).chain([Key::Capability(self.grantee.id)]).collect()
    }

    fn together(
        client: &mut Client,
        calls: Arc<Vec<Self>>,
    ) -> BoxFuture<'_, Result<Vec<Option<Grant>>, Fault>> {
        Box::pin(grant_together(client, calls))
    }

    fn alone(client: &mut Client, call: Arc<Self>) -> BoxFuture<'_, Result<Grant, Fault>> {
        Box::pin(grant(client, call))
    }
}

/// The unique values of a payment.
fn changed(intent: &Intent) -> impl Iterator<Item = Key> {
    [Key::Block(intent.block)].into_iter().chain(intent.identified.map(|it| Key::Identifier(it.id)))
}

/// Journals the intents that have nothing in their way.
async fn begin_together(client: &Client, calls: Arc<Vec<Beginning>>) -> Result<Vec<Option<Begin>>, Fault> {
    let (state, items) = (PaymentState::Intent, calls.iter().map(|it| (&it.intent, it.now)));
    let sql = format!(
        "WITH {ITEMS}) AS MATERIALIZED (SELECT * FROM unnest({ARRAYS})), {GATE}
            AND (SELECT true FROM payments AS p
                WHERE p.previous = substring(item.signed FROM 33 FOR 32) AND p.state = 0) IS NULL
        {PAY} SELECT sequence, block FROM paid"
    );
    let written = written(apply_batch(client, &sql, &journal::arrays(items, state)).await?)?;
    let answer = |Beginning { intent, now }: &Beginning| {
        let sequence = *written.get(&intent.block)?;
        let intent = intent.clone();
        Some(Begin::Fresh(PaymentRecord { sequence, intent, state, created_at: *now, updated_at: *now }))
    };
    Ok(calls.iter().map(answer).collect())
}

/// Grants the payments that have nothing in their way: new ones, and those in the journal that are not
/// granted, for the same challenge and without a client's id.
async fn grant_together(client: &Client, calls: Arc<Vec<Granting>>) -> Result<Vec<Option<Grant>>, Fault> {
    // What is added to a purse is granted alone, with that purse locked.
    let plain = || calls.iter().filter(|it| it.intent.adds_to().is_none());
    let openings: Vec<Opening> = plain().map(|it| Opening::new(&it.intent, it.grantee, it.now)).collect();
    let items = plain().map(|it| (&it.intent, it.now));
    let mut arrays = journal::arrays(items, PaymentState::Granted);
    arrays.extend(capabilities::opening_arrays(&openings));
    let sql = format!(
        "WITH {ITEMS}, {OPENINGS}) AS MATERIALIZED (
            SELECT * FROM unnest({ARRAYS}, {OPENING_ARRAYS})
        ), known AS MATERIALIZED (
            SELECT p.sequence, item.called_at FROM item JOIN claims AS c ON c.block = item.block
            JOIN payments AS p ON p.sequence = c.sequence
            WHERE p.state <> 2 AND p.challenge = item.challenge AND p.identifier IS NULL AND p.request IS NULL
                AND p.route = item.route AND p.requests = item.requests AND p.seconds = item.seconds AND {FREE}
            FOR UPDATE OF p
        ), moved AS (
            UPDATE payments AS p SET state = 2, updated_at = known.called_at FROM known
            WHERE p.sequence = known.sequence RETURNING p.sequence, p.block
        ), {GATE} AND {FREE} {PAY}, granted AS (
            SELECT sequence, block FROM paid UNION ALL SELECT sequence, block FROM moved
        ) {OPEN} SELECT sequence, block FROM granted"
    );
    let written = written(apply_batch(client, &sql, &arrays).await?)?;
    let mut openings = openings.into_iter().peekable();
    let answer = |call: &Granting| {
        let Opening { record, lease, .. } = openings.next_if(|it| it.record.block == call.intent.block)?;
        written.contains_key(&record.block).then_some(Grant::Granted { record, lease, fresh: true })
    };
    Ok(calls.iter().map(answer).collect())
}

/// The numbers of the payments that a batch wrote.
fn written(rows: Vec<Row>) -> Result<BTreeMap<BlockHash, u64>, Fault> {
    rows.iter().map(|row| Ok((BlockHash(row.bytes(1)?), row.number(0)?))).collect()
}

async fn begin(client: &mut Client, call: Arc<Beginning>) -> Result<Begin, Fault> {
    if let Some(Some(begun)) = begin_together(client, Arc::new(vec![(*call).clone()])).await?.pop() {
        return Ok(begun);
    }
    let Beginning { intent, now } = &*call;
    let now = *now;
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    let standing = standing(&transaction, intent).await?;
    let frontier_holder = match standing.hash.frontier_needed(intent) {
        Some(frontier) => journal::frontier_holder(&transaction, frontier).await?,
        None => None,
    };
    let Decision { id_changes, step } = claim_rules::begin(intent, standing, frontier_holder);
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

async fn grant(client: &mut Client, call: Arc<Granting>) -> Result<Grant, Fault> {
    if let Some(Some(granted)) = grant_together(client, Arc::new(vec![(*call).clone()])).await?.pop() {
        return Ok(granted);
    }
    let Granting { intent, grantee, now } = &*call;
    let (grantee, now) = (*grantee, *now);
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    let standing = standing(&transaction, intent).await?;
    let borrower = match standing.hash.may_have_lent_its_id() {
        Some((sequence, previous)) => journal::borrower(&transaction, sequence, previous).await?,
        None => None,
    };
    let Decision { id_changes, step } = claim_rules::grant(intent, standing, borrower);
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
            if intent.adds_to().is_some() {
                drop(transaction);
                // Granted from the journal, by the next attempt.
                begin(client, Arc::new(Beginning { intent: intent.clone(), now })).await?;
                return Err(Fault::Overtaken("the payment was journalled to be granted".to_owned()));
            }
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
