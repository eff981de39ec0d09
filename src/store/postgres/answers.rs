//! The operations on kept answers.

use deadpool_postgres::Client;
use tokio_postgres::types::ToSql;

use super::fault::Fault;
use super::query::{apply, query};
use super::rows;
use crate::nano::{BlockHash, UnixSeconds};
use crate::store::columns;
use crate::store::encoding::{encode_headers, state_code, stored};
use crate::store::{Answer, Forget, PaymentState};

/// `Answers::keep`.
pub(super) async fn keep(
    client: &Client,
    block: BlockHash,
    answer: Answer,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    let sql = format!(
        "INSERT INTO answers (payment, status, headers, body, kept_at) \
         SELECT p.sequence, $2, $3, $4, $5 FROM claims AS c JOIN payments AS p ON p.sequence = c.sequence \
         WHERE c.block = $1 AND p.state = {} ON CONFLICT DO NOTHING",
        state_code(PaymentState::Granted)
    );
    let values: [&(dyn ToSql + Sync); 5] = [
        &&block.0[..],
        &i64::from(answer.status),
        &encode_headers(&answer.headers),
        &answer.body,
        &stored(now.0),
    ];
    Ok(apply(client, &sql, &values).await? > 0)
}

/// `Answers::kept`.
pub(super) async fn kept(client: &Client, block: BlockHash) -> Result<Option<Answer>, Fault> {
    let sql = "SELECT a.status, a.headers, a.body FROM claims AS c JOIN answers AS a ON a.payment = c.sequence \
         WHERE c.block = $1";
    query(client, sql, &[&&block.0[..]]).await?.first().map(columns::answer).transpose()
}

/// `Answers::forget`. Skips rows that another instance is changing.
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
