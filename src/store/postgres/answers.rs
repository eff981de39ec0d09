//! The operations on clients' ids and on what was answered under them.

use deadpool_postgres::{Client, GenericClient, Transaction};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::fault::Fault;
use super::payments::query;
use super::rows::{self, PAYMENT_COLUMNS};
use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::IdentifierKey;
use crate::store::encoding::{decode_headers, encode_headers, gives_id_up, state_code, stored};
use crate::store::{Answer, Forget, Intent, Payment, PaymentState};

/// `Store::identified`.
pub(super) async fn identified(client: &Client, id: IdentifierKey) -> Result<Option<Payment>, Fault> {
    holder(client, id, "").await
}

async fn holder(
    client: &impl GenericClient,
    id: IdentifierKey,
    lock: &str,
) -> Result<Option<Payment>, Fault> {
    let sql = format!("SELECT {PAYMENT_COLUMNS} FROM payments AS p WHERE p.identifier = $1 {lock}");
    query(client, &sql, &[&&id.0[..]]).await?.first().map(rows::payment).transpose()
}

/// The payment that holds the id of `intent`, which has not been journalled. One that gives it up
/// loses it here.
pub(super) async fn id_held(
    transaction: &Transaction<'_>,
    intent: &Intent,
) -> Result<Option<BlockHash>, Fault> {
    let Some(wanted) = intent.identified else { return Ok(None) };
    let Some(holder) = holder(transaction, wanted.id, "FOR UPDATE").await? else { return Ok(None) };
    if !gives_id_up(&holder, intent) {
        return Ok(Some(holder.intent.block));
    }
    let sql = "UPDATE payments SET identifier = NULL, request = NULL WHERE sequence = $1";
    query(transaction, sql, &[&stored(holder.sequence)]).await?;
    Ok(None)
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
