//! The reads and writes of the journal, the claimed hashes and the clients' ids. What may be written,
//! [`claim_rules`](crate::store::claim_rules) decide.

use deadpool_postgres::{Client, GenericClient, Transaction};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::fault::Fault;
use super::query::{Value, apply, column, query};
use super::rows::{self, NO_PAYMENT, PAYMENT_COLUMNS};
use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::{IdentifierKey, RequestDigest};
use crate::store::claim_rules::{Borrower, HashClaim, Heir, IdChange};
use crate::store::columns::{self, Columns};
use crate::store::encoding::{encode_block, in_state, most, state_code, stored};
use crate::store::inspection::{INVARIANTS, Inspection};
use crate::store::{Filter, Intent, PaymentRecord, PaymentState};

/// The beginning of the rows of a batch, `item`: the intents `$1` … `$14` and `$17`, the state in which they are
/// to be written, and the times of their calls.
pub(super) const ITEMS: &str =
    "item(block, signed, mechanism, challenge, route, price, requests, seconds, payer,
        amount, pay_to, valid_before, identifier, request, state, called_at, exchange";

/// The arrays of [`ITEMS`].
pub(super) const ARRAYS: &str = "$1::bytea[], $2::bytea[], $3::text[], $4::bytea[], $5::text[], $6::text[],
            $7::bigint[], $8::bigint[], $9::bytea[], $10::text[], $11::bytea[], $12::bigint[], $13::bytea[],
            $14::bytea[], $15::smallint[], $16::bigint[], $17::text[]";

/// Draws a number in the journal for each item whose hash nobody has claimed and whose id no payment holds.
/// Each look-up is a subquery of its own, so that it goes through an index.
pub(super) const GATE: &str = "gate AS MATERIALIZED (
        SELECT item.*, pg_advisory_xact_lock_shared(1178686021, 'payments'::regclass::oid::int) FROM item
        WHERE (SELECT true FROM claims AS c WHERE c.block = item.block) IS NULL
            AND (SELECT true FROM payments AS p WHERE p.identifier = item.identifier) IS NULL";

/// Writes the payments of the items that passed the gate, and claims their hashes.
pub(super) const PAY: &str = "), numbered AS MATERIALIZED (
        SELECT nextval('journal') AS sequence, gate.* FROM gate
    ), paid AS (
        INSERT INTO payments (sequence, block, signed, mechanism, challenge, route, price, requests, seconds,
            payer, amount, pay_to, valid_before, state, created_at, updated_at, identifier, request,
            exchange)
        SELECT sequence, block, signed, mechanism, challenge, route, price::numeric, requests, seconds, payer,
            amount::numeric, pay_to, valid_before, state, called_at, called_at, identifier, request,
            exchange
        FROM numbered RETURNING sequence, block
    ), claimed AS (
        INSERT INTO claims (block, sequence) SELECT block, sequence FROM paid
    )";

/// The values of [`ARRAYS`]: intents that are to be written in `state`, and the times of their calls.
pub(super) fn arrays<'a>(
    items: impl Iterator<Item = (&'a Intent, UnixSeconds)> + Clone,
    state: PaymentState,
) -> Vec<Value> {
    let intents = || items.clone().map(|(intent, _)| intent);
    vec![
        column(intents().map(|it| it.block.0.to_vec())),
        column(intents().map(|it| it.signed.as_ref().map(encode_block))),
        column(intents().map(|it| it.mechanism.as_str())),
        column(intents().map(|it| it.challenge.0.to_vec())),
        column(intents().map(|it| it.route.as_str().to_owned())),
        column(intents().map(|it| it.terms.amount.to_string())),
        column(intents().map(|it| i64::from(it.terms.grants.count()))),
        column(intents().map(|it| stored(it.terms.grants.seconds))),
        column(intents().map(|it| it.payer.0.to_vec())),
        column(intents().map(|it| it.amount.to_string())),
        column(intents().map(|it| it.pay_to.0.to_vec())),
        column(intents().map(|it| stored(it.valid_before.0))),
        column(intents().map(|it| it.identified.map(|it| it.id.0.to_vec()))),
        column(intents().map(|it| it.identified.map(|it| it.request.0.to_vec()))),
        column(intents().map(|_| i16::from(state_code(state)))),
        column(items.clone().map(|(_, at)| stored(at.0))),
        column(intents().map(|it| it.exchange.map(|it| it.to_string()))),
    ]
}

/// `Claims::mark_spent`.
pub(super) async fn mark_spent(client: &Client, block: BlockHash) -> Result<bool, Fault> {
    let sql = "INSERT INTO claims (block) VALUES ($1) ON CONFLICT DO NOTHING";
    Ok(apply(client, sql, &[&&block.0[..]]).await? > 0)
}

/// Whether the hash is claimed, by a payment or without one.
pub(super) async fn is_claimed(client: &Client, block: BlockHash) -> Result<bool, Fault> {
    let sql = "SELECT FROM claims WHERE block = $1";
    Ok(!query(client, sql, &[&&block.0[..]]).await?.is_empty())
}

/// `PaymentJournal::payment`.
pub(super) async fn find(
    client: &impl GenericClient,
    block: BlockHash,
) -> Result<Option<PaymentRecord>, Fault> {
    let sql = format!(
        "SELECT {PAYMENT_COLUMNS} FROM claims AS c JOIN payments AS p ON p.sequence = c.sequence \
         WHERE c.block = $1"
    );
    query(client, &sql, &[&&block.0[..]]).await?.first().map(columns::payment).transpose()
}

/// `PaymentJournal::scan`. Stops before the first place at which a payment may still be added, so that a
/// caller that goes on from the last one misses none.
pub(super) async fn scan(
    client: &mut Client,
    after: u64,
    filter: Filter,
    limit: usize,
) -> Result<Vec<PaymentRecord>, Fault> {
    // The column holds no number as large as this one.
    let Ok(after) = i64::try_from(after) else { return Ok(Vec::new()) };
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    query(
        &transaction,
        "SELECT 1 FROM (SELECT pg_advisory_xact_lock(1178686021, 'payments'::regclass::oid::int)) AS alone",
        &[],
    )
    .await?;
    let drawn = query(&transaction, "SELECT last_value FROM journal", &[]).await?;
    transaction.commit().await.map_err(Fault::before_commit)?;
    let Some(drawn) = drawn.first() else { return Ok(Vec::new()) };
    let until: i64 = rows::get(drawn, 0)?;
    let condition = in_state(filter);
    let sql = format!(
        "SELECT {PAYMENT_COLUMNS} FROM payments AS p WHERE p.sequence > $1 AND p.sequence <= $2 \
         AND NOT ({NO_PAYMENT}) {condition} \
         ORDER BY p.sequence LIMIT $3"
    );
    query(client, &sql, &[&after, &until, &most(limit)]).await?.iter().map(columns::payment).collect()
}

/// The time of the newest entry of the journal. 0 if it is empty.
pub(super) async fn newest(client: &Client) -> Result<u64, Fault> {
    let sql = "SELECT greatest(created_at, updated_at) FROM payments ORDER BY sequence DESC LIMIT 1";
    query(client, sql, &[]).await?.first().map_or(Ok(0), |row| row.number(0))
}

/// Counts the rows that break an invariant.
pub(super) async fn inspect(client: &Client) -> Result<Inspection, Fault> {
    let count = async |sql: &str| {
        let rows = query(client, sql, &[]).await?;
        rows.first().map_or(Ok(0), |row| rows::get::<i64>(row, 0))
    };
    let mut counts = Vec::new();
    for (_, sql) in INVARIANTS {
        counts.push(count(sql).await?);
    }
    Ok(Inspection::of(count("SELECT count(*) FROM payments").await?, Vec::new(), &counts))
}

/// Who has claimed `block`. Its payment is locked for the rest of the transaction.
pub(super) async fn hash_claim(transaction: &Transaction<'_>, block: BlockHash) -> Result<HashClaim, Fault> {
    let claim = query(transaction, "SELECT sequence FROM claims WHERE block = $1", &[&&block.0[..]]).await?;
    let Some(claim) = claim.first() else { return Ok(HashClaim::Nobody) };
    let Some(sequence) = rows::get::<Option<i64>>(claim, 0)? else { return Ok(HashClaim::Marked) };
    let sql = format!("SELECT {PAYMENT_COLUMNS} FROM payments AS p WHERE p.sequence = $1 FOR UPDATE");
    match query(transaction, &sql, &[&sequence]).await?.first() {
        Some(row) => Ok(HashClaim::Payment(Box::new(columns::payment(row)?))),
        None => Err(Fault::Unavailable(format!("payment {sequence} of a claim is missing"))),
    }
}

pub(super) async fn move_to(
    transaction: &Transaction<'_>,
    sequence: u64,
    to: PaymentState,
    now: UnixSeconds,
) -> Result<(), Fault> {
    let sql = "UPDATE payments SET state = $2, updated_at = $3 WHERE sequence = $1";
    let values: [&(dyn ToSql + Sync); 3] = [&stored(sequence), &i16::from(state_code(to)), &stored(now.0)];
    query(transaction, sql, &values).await.map(drop)
}

/// The live intent that builds on `frontier`.
pub(super) async fn frontier_holder(
    transaction: &Transaction<'_>,
    frontier: BlockHash,
) -> Result<Option<BlockHash>, Fault> {
    let sql = "SELECT block FROM payments WHERE previous = $1 AND state = 0";
    let found = query(transaction, sql, &[&&frontier.0[..]]).await?;
    found.first().map(|row| row.bytes(0).map(BlockHash)).transpose()
}

/// The payment that holds `id`. `lock` is `FOR UPDATE` or empty.
pub(super) async fn id_holder(
    client: &impl GenericClient,
    id: IdentifierKey,
    lock: &str,
) -> Result<Option<PaymentRecord>, Fault> {
    let sql = format!("SELECT {PAYMENT_COLUMNS} FROM payments AS p WHERE p.identifier = $1 {lock}");
    query(client, &sql, &[&&id.0[..]]).await?.first().map(columns::payment).transpose()
}

/// The payment that [`claim_rules::heir`](crate::store::claim_rules::heir) describes.
pub(super) async fn heir(
    transaction: &Transaction<'_>,
    previous: BlockHash,
    request: RequestDigest,
) -> Result<Option<Heir>, Fault> {
    let sql = "SELECT sequence, block FROM payments WHERE state IN (0, 1) AND previous = $1 \
               AND identifier IS NULL AND request = $2 ORDER BY sequence LIMIT 1 FOR UPDATE";
    let found = query(transaction, sql, &[&&previous.0[..], &&request.0[..]]).await?;
    let read = |row: &Row| Ok(Heir { sequence: row.number(0)?, block: BlockHash(row.bytes(1)?) });
    found.first().map(read).transpose()
}

/// The payment on the frontier `previous` that holds the id which the payment `sequence` gave up to it.
pub(super) async fn borrower(
    transaction: &Transaction<'_>,
    sequence: u64,
    previous: BlockHash,
) -> Result<Option<Borrower>, Fault> {
    let sql = "SELECT p.sequence, p.identifier FROM payments AS p, payments AS own WHERE own.sequence = $2 \
               AND own.identifier IS NULL AND own.request = p.request AND p.state <> 2 AND p.previous = $1 \
               AND p.identifier IS NOT NULL AND p.sequence <> own.sequence ORDER BY p.sequence LIMIT 1 FOR UPDATE OF p";
    let found = query(transaction, sql, &[&&previous.0[..], &stored(sequence)]).await?;
    let read = |row: &Row| Ok(Borrower { sequence: row.number(0)?, id: IdentifierKey(row.bytes(1)?) });
    found.first().map(read).transpose()
}

/// Writes who holds which id, in this order.
pub(super) async fn change_ids(transaction: &Transaction<'_>, changes: &[IdChange]) -> Result<(), Fault> {
    for change in changes {
        let sql = "UPDATE payments SET identifier = $2, request = CASE WHEN $3 THEN request END \
                   WHERE sequence = $1";
        let id = change.id.as_ref().map(|id| &id.0[..]);
        query(transaction, sql, &[&stored(change.sequence), &id, &change.keeps_request]).await?;
    }
    Ok(())
}
