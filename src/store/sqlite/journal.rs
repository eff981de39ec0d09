//! The reads and writes of the journal, the claimed hashes and the clients' ids. What may be written,
//! [`claim_rules`](crate::store::claim_rules) decide. A write runs inside the writer's transaction, which
//! the writer commits.

use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::fault::Fault;
use super::rows::{self, INSERT, NO_PAYMENT, PAYMENT_COLUMNS};
use crate::nano::{BlockHash, UnixSeconds};
use crate::payment::{IdentifierKey, RequestDigest};
use crate::store::claim_rules::{Borrower, HashClaim, Heir, IdChange};
use crate::store::columns::{self, Columns};
use crate::store::encoding::{in_state, most, state_code, stored};
use crate::store::{Filter, Intent, PaymentRecord, PaymentState};

/// The time of the newest entry of the journal. 0 if it is empty.
pub(super) fn newest(db: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT max(created_at, updated_at) FROM payments ORDER BY sequence DESC LIMIT 1";
    db.query_row(sql, [], |row| row.number(0)).optional().map(Option::unwrap_or_default)
}

/// `Claims::mark_spent`.
pub(super) fn mark_spent(db: &Connection, block: BlockHash) -> Result<bool, Fault> {
    let marked = db
        .prepare_cached("INSERT INTO claims (block, sequence) VALUES (?1, NULL) ON CONFLICT DO NOTHING")?
        .execute([block.0])?;
    Ok(marked > 0)
}

/// Whether the hash is claimed, by a payment or without one.
pub(super) fn is_claimed(db: &Connection, block: BlockHash) -> Result<bool, Fault> {
    Ok(db.prepare_cached("SELECT 1 FROM claims WHERE block = ?1")?.exists([block.0])?)
}

/// Who has claimed the hash.
pub(super) fn hash_claim(db: &Connection, block: BlockHash) -> Result<HashClaim, Fault> {
    if let Some(payment) = find(db, block)? {
        return Ok(HashClaim::Payment(Box::new(payment)));
    }
    Ok(if is_claimed(db, block)? { HashClaim::Marked } else { HashClaim::Nobody })
}

/// `PaymentJournal::payment`.
pub(super) fn find(db: &Connection, block: BlockHash) -> Result<Option<PaymentRecord>, Fault> {
    let sql = format!(
        "SELECT {PAYMENT_COLUMNS} FROM claims AS c JOIN payments AS p ON p.sequence = c.sequence \
         WHERE c.block = ?1"
    );
    Ok(db.prepare_cached(&sql)?.query_row([block.0], |row| columns::payment(row)).optional()?)
}

/// `PaymentJournal::scan`.
pub(super) fn scan(
    db: &Connection,
    after: u64,
    filter: Filter,
    limit: usize,
) -> Result<Vec<PaymentRecord>, Fault> {
    // SQLite holds no number as large as this one.
    let Ok(after) = i64::try_from(after) else { return Ok(Vec::new()) };
    let condition = in_state(filter);
    let sql = format!(
        "SELECT {PAYMENT_COLUMNS} FROM payments AS p WHERE p.sequence > ?1 AND NOT ({NO_PAYMENT}) {condition} \
         ORDER BY p.sequence LIMIT ?2"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let found = statement.query_map(params![after, most(limit)], |row| columns::payment(row))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Claims the intent's hash and writes it at the end of the journal.
pub(super) fn insert(
    db: &Connection,
    intent: &Intent,
    state: PaymentState,
    now: UnixSeconds,
) -> Result<PaymentRecord, Fault> {
    let mut statement = db.prepare_cached(INSERT)?;
    let sequence =
        rows::insert_values(intent, state, now, |values| statement.insert(params_from_iter(values)))?;
    db.prepare_cached("INSERT INTO claims (block, sequence) VALUES (?1, ?2)")?
        .execute(params![intent.block.0, sequence])?;
    Ok(PaymentRecord {
        sequence: sequence.cast_unsigned(),
        intent: intent.clone(),
        state,
        created_at: now,
        updated_at: now,
    })
}

pub(super) fn move_to(
    db: &Connection,
    sequence: u64,
    to: PaymentState,
    now: UnixSeconds,
) -> Result<(), Fault> {
    db.prepare_cached("UPDATE payments SET state = ?2, updated_at = ?3 WHERE sequence = ?1")?
        .execute(params![stored(sequence), state_code(to), stored(now.0)])?;
    Ok(())
}

/// The live intent that builds on `frontier`.
pub(super) fn frontier_holder(db: &Connection, frontier: BlockHash) -> Result<Option<BlockHash>, Fault> {
    let mut statement = db.prepare_cached("SELECT block FROM payments WHERE previous = ?1 AND state = 0")?;
    Ok(statement.query_row([frontier.0], |row| row.get(0).map(BlockHash)).optional()?)
}

/// `PaymentJournal::identified`.
pub(super) fn id_holder(db: &Connection, id: IdentifierKey) -> Result<Option<PaymentRecord>, Fault> {
    let sql = format!("SELECT {PAYMENT_COLUMNS} FROM payments AS p WHERE p.identifier = ?1");
    Ok(db.prepare_cached(&sql)?.query_row([id.0], |row| columns::payment(row)).optional()?)
}

/// The payment that [`claim_rules::heir`](crate::store::claim_rules::heir) describes.
pub(super) fn heir(
    db: &Connection,
    previous: BlockHash,
    request: RequestDigest,
) -> Result<Option<Heir>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT sequence, block FROM payments WHERE state IN (0, 1) AND previous = ?1 \
         AND identifier IS NULL AND request = ?2 ORDER BY sequence LIMIT 1",
    )?;
    let read =
        |row: &rusqlite::Row<'_>| Ok(Heir { sequence: row.number(0)?, block: BlockHash(row.bytes(1)?) });
    Ok(statement.query_row([previous.0, request.0], read).optional()?)
}

/// The payment on the frontier `previous` that holds the id which the payment `sequence` gave up to it.
pub(super) fn borrower(
    db: &Connection,
    sequence: u64,
    previous: BlockHash,
) -> Result<Option<Borrower>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT p.sequence, p.identifier FROM payments AS p, payments AS own WHERE own.sequence = ?2 \
         AND own.identifier IS NULL AND own.request = p.request AND p.state <> 2 AND p.previous = ?1 \
         AND p.identifier IS NOT NULL AND p.sequence <> own.sequence ORDER BY p.sequence LIMIT 1",
    )?;
    let read =
        |row: &rusqlite::Row<'_>| Ok(Borrower { sequence: row.number(0)?, id: IdentifierKey(row.bytes(1)?) });
    Ok(statement.query_row(params![previous.0, stored(sequence)], read).optional()?)
}

/// Writes who holds which id, in this order.
pub(super) fn change_ids(db: &Connection, changes: &[IdChange]) -> Result<(), Fault> {
    for change in changes {
        db.prepare_cached(
            "UPDATE payments SET identifier = ?2, request = CASE WHEN ?3 THEN request END WHERE sequence = ?1",
        )?
        .execute(params![stored(change.sequence), change.id.map(|id| id.0), change.keeps_request])?;
    }
    Ok(())
}
