//! The operations on clients' ids and on what was answered under them.

use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, OptionalExtension, params};

use super::fault::Fault;
use super::payments;
use super::rows::{self, PAYMENT_COLUMNS};
use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::{IdentifiedRequest, IdentifierKey};
use crate::store::encoding::{decode_headers, encode_headers, frontier, gives_id_up, state_code, stored};
use crate::store::{Answer, Forget, Intent, PaymentRecord, PaymentState};

/// `Store::identified`.
pub(super) fn identified(db: &Connection, id: IdentifierKey) -> Result<Option<PaymentRecord>, Fault> {
    let sql = format!("SELECT {PAYMENT_COLUMNS} FROM payments AS p WHERE p.identifier = ?1");
    Ok(db.prepare_cached(&sql)?.query_row([id.0], rows::payment).optional()?)
}

/// The payment that holds the id of `intent`, which has not been journalled. One that gives it up is
/// passed over, unless a payment that gave it up before may yet be on the ledger: that one has it back.
pub(super) fn id_held(db: &Connection, intent: &Intent) -> Result<Option<BlockHash>, Fault> {
    let Some(wanted) = intent.identified else { return Ok(None) };
    let Some(holder) = identified(db, wanted.id)? else { return Ok(None) };
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
    let heir: Option<(i64, [u8; 32])> = db
        .prepare_cached(
            "SELECT sequence, block FROM payments WHERE state IN (0, 1) AND previous = ?1 \
             AND identifier IS NULL AND request = ?2 ORDER BY sequence LIMIT 1",
        )?
        .query_row([previous.0, request.0], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((heir, block)) = heir else { return Ok(None) };
    give_up(db, &holder)?;
    db.prepare_cached("UPDATE payments SET identifier = ?2 WHERE sequence = ?1")?
        .execute(params![heir, wanted.id.0])?;
    Ok(Some(BlockHash(block)))
}

/// Takes the id of `intent` from the payment that gives it up, so that `intent` can have it.
pub(super) fn take_id(db: &Connection, intent: &Intent) -> Result<(), Fault> {
    let Some(wanted) = intent.identified else { return Ok(()) };
    identified(db, wanted.id)?.map_or(Ok(()), |holder| give_up(db, &holder))
}

/// Takes the id from its holder. One that failed is done with it; of one that did not, the request
/// says that it had it.
fn give_up(db: &Connection, holder: &PaymentRecord) -> Result<(), Fault> {
    let failed = holder.state == PaymentState::Failed;
    db.prepare_cached(
        "UPDATE payments SET identifier = NULL, request = CASE WHEN ?2 THEN NULL ELSE request END \
         WHERE sequence = ?1",
    )?
    .execute(params![stored(holder.sequence), failed])?;
    Ok(())
}

/// Gives a payment that is confirmed the id back that it gave up to another on its frontier, which
/// never will be.
pub(super) fn take_back(db: &Connection, payment: &PaymentRecord) -> Result<(), Fault> {
    let Some(previous) = frontier(&payment.intent) else { return Ok(()) };
    let holder: Option<(i64, [u8; 32])> = db
        .prepare_cached(
            "SELECT p.sequence, p.identifier FROM payments AS p, payments AS own WHERE own.sequence = ?2 \
             AND own.identifier IS NULL AND own.request = p.request AND p.state <> 2 AND p.previous = ?1 \
             AND p.identifier IS NOT NULL AND p.sequence <> own.sequence ORDER BY p.sequence LIMIT 1",
        )?
        .query_row(params![previous.0, stored(payment.sequence)], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((holder, id)) = holder else { return Ok(()) };
    db.prepare_cached("UPDATE payments SET identifier = NULL, request = NULL WHERE sequence = ?1")?
        .execute([holder])?;
    db.prepare_cached("UPDATE payments SET identifier = ?2 WHERE sequence = ?1")?
        .execute(params![stored(payment.sequence), id])?;
    Ok(())
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
