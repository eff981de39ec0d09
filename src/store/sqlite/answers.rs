//! The operations on kept answers.

use rusqlite::{Connection, OptionalExtension, params};

use super::fault::Fault;
use super::journal;
use crate::nano::{BlockHash, UnixSeconds};
use crate::store::columns;
use crate::store::encoding::{encode_headers, state_code, stored};
use crate::store::{Answer, Forget, PaymentState};

/// `Answers::keep`.
pub(super) fn keep(
    db: &Connection,
    block: BlockHash,
    answer: &Answer,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    let Some(payment) = journal::find(db, block)? else { return Ok(false) };
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

/// `Answers::kept`.
pub(super) fn kept(db: &Connection, block: BlockHash) -> Result<Option<Answer>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT a.status, a.headers, a.body FROM claims AS c JOIN answers AS a ON a.payment = c.sequence \
         WHERE c.block = ?1",
    )?;
    Ok(statement.query_row([block.0], |row| columns::answer(row)).optional()?)
}

/// `Answers::forget`.
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
