//! The operations on clients' ids and on what was answered under them.

use deadpool_postgres::{Client, GenericClient, Transaction};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::fault::Fault;
use super::payments::query;
use super::rows::{self, PAYMENT_COLUMNS};
use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::{IdentifiedRequest, IdentifierKey};
use crate::store::encoding::{decode_headers, encode_headers, frontier, gives_id_up, state_code, stored};
use crate::store::{Answer, Forget, Intent, PaymentRecord, PaymentState};

/// `Store::identified`.
pub(super) async fn identified(client: &Client, id: IdentifierKey) -> Result<Option<PaymentRecord>, Fault> {
    holder(client, id, "").await
}

async fn holder(
    client: &impl GenericClient,
    id: IdentifierKey,
    lock: &str,
) -> Result<Option<PaymentRecord>, Fault> {
    let sql = format!("SELECT {PAYMENT_COLUMNS} FROM payments AS p WHERE p.identifier = $1 {lock}");
    query(client, &sql, &[&&id.0[..]]).await?.first().map(rows::payment).transpose()
}

/// The payment that holds the id of `intent`, which has not been journalled; as in SQLite. Where one
/// has it back, that is for the caller to commit.
pub(super) async fn id_held(
    transaction: &Transaction<'_>,
    intent: &Intent,
) -> Result<Option<BlockHash>, Fault> {
    let Some(wanted) = intent.identified else { return Ok(None) };
    let Some(holder) = holder(transaction, wanted.id, "FOR UPDATE").await? else { return Ok(None) };
    if !gives_id_up(&holder, intent) {
        return Ok(Some(holder.intent.block));
    }
    let (Some(previous), Some(IdentifiedRequest { request, .. })) =
        (frontier(&holder.intent), holder.intent.identified)
    else {
        return Ok(None);
    };
    if frontier(intent) == Some(previous) {
        return Ok(None);
    }
    let sql = "SELECT sequence, block FROM payments WHERE state IN (0, 1) AND previous = $1 \
               AND identifier IS NULL AND request = $2 ORDER BY sequence LIMIT 1 FOR UPDATE";
    let heirs = query(transaction, sql, &[&&previous.0[..], &&request.0[..]]).await?;
    let Some(heir) = heirs.first() else { return Ok(None) };
    give_up(transaction, &holder).await?;
    let sql = "UPDATE payments SET identifier = $2 WHERE sequence = $1";
    query(transaction, sql, &[&rows::get::<i64>(heir, 0)?, &&wanted.id.0[..]]).await?;
    Ok(Some(BlockHash(rows::bytes(heir, 1)?)))
}

/// Takes the id of `intent` from the payment that gives it up, so that `intent` can have it.
pub(super) async fn take_id(transaction: &Transaction<'_>, intent: &Intent) -> Result<(), Fault> {
    let Some(wanted) = intent.identified else { return Ok(()) };
    match holder(transaction, wanted.id, "FOR UPDATE").await? {
        Some(holder) => give_up(transaction, &holder).await,
        None => Ok(()),
    }
}

/// Takes the id from its holder. One that failed is done with it; of one that did not, the request
/// says that it had it.
async fn give_up(transaction: &Transaction<'_>, holder: &PaymentRecord) -> Result<(), Fault> {
    let failed = holder.state == PaymentState::Failed;
    let sql = "UPDATE payments SET identifier = NULL, request = CASE WHEN $2 THEN NULL ELSE request END \
               WHERE sequence = $1";
    query(transaction, sql, &[&stored(holder.sequence), &failed]).await.map(drop)
}

/// Gives a payment that is confirmed the id back that it gave up to another on its frontier, which
/// never will be.
pub(super) async fn take_back(transaction: &Transaction<'_>, payment: &PaymentRecord) -> Result<(), Fault> {
    let Some(previous) = frontier(&payment.intent) else { return Ok(()) };
    let sql = "SELECT p.sequence, p.identifier FROM payments AS p, payments AS own WHERE own.sequence = $2 \
               AND own.identifier IS NULL AND own.request = p.request AND p.state <> 2 AND p.previous = $1 \
               AND p.identifier IS NOT NULL AND p.sequence <> own.sequence ORDER BY p.sequence LIMIT 1 FOR UPDATE OF p";
    let sequence = stored(payment.sequence);
    let holders = query(transaction, sql, &[&&previous.0[..], &sequence]).await?;
    let Some(holder) = holders.first() else { return Ok(()) };
    let id: [u8; 32] = rows::bytes(holder, 1)?;
    let sql = "UPDATE payments SET identifier = NULL, request = NULL WHERE sequence = $1";
    query(transaction, sql, &[&rows::get::<i64>(holder, 0)?]).await?;
    let sql = "UPDATE payments SET identifier = $2 WHERE sequence = $1";
    query(transaction, sql, &[&sequence, &&id[..]]).await.map(drop)
}

/// `Store::keep`.
pub(super) async fn keep(
    client: &Client,
    block: BlockHash,
    answer: &Answer,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    let sql = format!(
        "INSERT INTO answers (payment, status, headers, body, kept_at) \
         SELECT p.sequence, $2, $3, $4, $5 FROM claims AS c JOIN payments AS p ON p.sequence = c.sequence \
         WHERE c.block = $1 AND p.state = {} ON CONFLICT DO NOTHING",
        state_code(PaymentState::Granted)
    );
    let statement = client.prepare_cached(&sql).await.map_err(Fault::before_commit)?;
    let values: [&(dyn ToSql + Sync); 5] = [
        &&block.0[..],
        &i64::from(answer.status),
        &encode_headers(&answer.headers),
        &answer.body,
        &stored(now.0),
    ];
    Ok(client.execute(&statement, &values).await.map_err(Fault::committing)? > 0)
}

/// `Store::kept`.
pub(super) async fn kept(client: &Client, block: BlockHash) -> Result<Option<Answer>, Fault> {
    let sql = "SELECT a.status, a.headers, a.body FROM claims AS c JOIN answers AS a ON a.payment = c.sequence \
         WHERE c.block = $1";
    query(client, sql, &[&&block.0[..]]).await?.first().map(answer).transpose()
}

fn answer(row: &Row) -> Result<Answer, Fault> {
    let unreadable = |what| Fault::Unavailable(format!("the {what} of a kept answer cannot be read"));
    Ok(Answer {
        status: u16::try_from(rows::small(row, 0)?).map_err(|_| unreadable("status"))?,
        headers: decode_headers(rows::get(row, 1)?).ok_or_else(|| unreadable("headers"))?,
        body: rows::get(row, 2)?,
    })
}

/// `Store::forget`. Rows that another instance is at are left to it.
pub(super) async fn forget(client: &mut Client, what: Forget) -> Result<u32, Fault> {
    let (ids_until, answers_until) = (stored(what.ids_until.0), stored(what.answers_until.0));
    let limit = i64::from(what.limit);
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    let bodies = query(
        &transaction,
        "UPDATE answers SET headers = ''::bytea, body = NULL WHERE payment IN (SELECT payment FROM answers \
         WHERE body IS NOT NULL AND kept_at <= $1 ORDER BY kept_at, payment LIMIT $2 FOR UPDATE SKIP LOCKED) \
         RETURNING payment",
        &[&answers_until, &limit],
    )
    .await?;
    let sql = format!(
        "UPDATE payments SET identifier = NULL, request = NULL WHERE sequence IN (SELECT sequence FROM payments \
         WHERE identifier IS NOT NULL AND updated_at <= $1 AND state <> {} ORDER BY updated_at, sequence LIMIT $2 \
         FOR UPDATE SKIP LOCKED) RETURNING sequence",
        state_code(PaymentState::Intent)
    );
    let old = query(&transaction, &sql, &[&ids_until, &limit]).await?;
    let sequences = old.iter().map(|row| rows::get::<i64>(row, 0)).collect::<Result<Vec<_>, _>>()?;
    query(&transaction, "DELETE FROM answers WHERE payment = ANY($1)", &[&sequences]).await?;
    transaction.commit().await.map_err(Fault::committing)?;
    Ok(u32::try_from(bodies.len().saturating_add(old.len())).unwrap_or(u32::MAX))
}
