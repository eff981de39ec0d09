//! The operations on clients' ids and on what was answered under them.

use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension, params};

use super::fault::Fault;
use super::payments;
use super::rows::{self, PAYMENT_COLUMNS};
use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::IdentifierKey;
use crate::store::encoding::{decode_headers, encode_headers, gives_id_up, state_code, stored};
use crate::store::{Answer, Forget, Intent, Payment, PaymentState};

/// `Store::identified`.
pub(super) fn identified(db: &Connection, id: IdentifierKey) -> Result<Option<Payment>, Fault> {
    let sql = format!("SELECT {PAYMENT_COLUMNS} FROM payments AS p WHERE p.identifier = ?1");
    Ok(db.prepare_cached(&sql)?.query_row([id.0], rows::payment).optional()?)
}

/// The payment that holds the id of `intent`, which has not been journalled. One that gives it up
/// loses it here.
pub(super) fn id_held(db: &Connection, intent: &Intent) -> Result<Option<BlockHash>, Fault> {
    let Some(wanted) = intent.identified else { return Ok(None) };
    let Some(holder) = identified(db, wanted.id)? else { return Ok(None) };
    if !gives_id_up(&holder, intent) {
        return Ok(Some(holder.intent.block));
    }
    db.prepare_cached("UPDATE payments SET identifier = NULL, request = NULL WHERE sequence = ?1")?
        .execute([stored(holder.sequence)])?;
    Ok(None)
}

/// `Store::keep`.
pub(super) fn keep(
    db: &Connection,
    block: BlockHash,
    answer: &Answer,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    let Some(payment) = payments::find(db, block)? else { return Ok(false) };
    if payment.state != PaymentState::Granted {
        return Ok(false);
    }
    let kept = db
        .prepare_cached(
            "INSERT INTO answers (payment, status, headers, body, kept_at) VALUES (?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            stored(payment.sequence),
            answer.status,
            encode_headers(&answer.headers),
            answer.body,
            stored(now.0),
        ])?;
    Ok(kept > 0)
}

/// `Store::kept`.
pub(super) fn kept(db: &Connection, block: BlockHash) -> Result<Option<Answer>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT a.status, a.headers, a.body FROM claims AS c JOIN answers AS a ON a.payment = c.sequence \
         WHERE c.block = ?1",
    )?;
    let read = |row: &rusqlite::Row<'_>| {
        let headers = decode_headers(&row.get::<_, Vec<u8>>(1)?).ok_or_else(|| {
            let why = FromSqlError::Other("not headers".into());
            rusqlite::Error::FromSqlConversionFailure(1, Type::Blob, Box::new(why))
        })?;
        Ok(Answer { status: row.get(0)?, headers, body: row.get(2)? })
    };
    Ok(statement.query_row([block.0], read).optional()?)
}

/// `Store::forget`.
pub(super) fn forget(db: &Connection, what: Forget) -> Result<u32, Fault> {
    let bodies = db
        .prepare_cached(
            "UPDATE answers SET headers = x'', body = NULL WHERE payment IN (SELECT payment FROM answers \
             WHERE body IS NOT NULL AND kept_at <= ?1 ORDER BY kept_at, payment LIMIT ?2)",
        )?
        .execute(params![stored(what.answers_until.0), what.limit])?;
    let mut old = db.prepare_cached(&format!(
        "SELECT sequence FROM payments WHERE identifier IS NOT NULL AND updated_at <= ?1 AND state <> {} \
         ORDER BY updated_at, sequence LIMIT ?2",
        state_code(PaymentState::Intent)
    ))?;
    let old: Vec<i64> = old
        .query_map(params![stored(what.ids_until.0), what.limit], |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for sequence in &old {
        db.prepare_cached("DELETE FROM answers WHERE payment = ?1")?.execute([sequence])?;
        db.prepare_cached("UPDATE payments SET identifier = NULL, request = NULL WHERE sequence = ?1")?
            .execute([sequence])?;
    }
    Ok(u32::try_from(bodies.saturating_add(old.len())).unwrap_or(u32::MAX))
}
