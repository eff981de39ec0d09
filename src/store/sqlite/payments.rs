//! The operations on the journal and the claimed hashes. Each runs inside the writer's
//! transaction (those that only read, on a reader's connection) and leaves committing to it.

use rusqlite::{Connection, OptionalExtension, params, params_from_iter};

use super::fault::Fault;
use super::rows::{self, INSERT, PAYMENT_COLUMNS};
use super::{answers, capabilities};
use crate::nano::{BlockHash, UnixSeconds};
use crate::store::encoding::{self, state_code, stored};
use crate::store::{Begin, CapabilityId, Filter, Grant, Holder, Intent, PaymentRecord, PaymentState};

/// `Store::begin`.
pub(super) fn begin(db: &Connection, intent: &Intent, now: UnixSeconds) -> Result<Begin, Fault> {
    let known = find(db, intent.block)?;
    if known.is_none() && is_marked(db, intent.block)? {
        return Ok(Begin::Spent);
    }
    if let Some(payment) = &known
        && (payment.state != PaymentState::Parked || payment.intent.challenge != intent.challenge)
    {
        return Ok(Begin::Existing(payment.clone()));
    }
    if known.is_none()
        && let Some(other) = answers::id_held(db, intent)?
    {
        return Ok(Begin::IdHeld(other));
    }
    let building = known.as_ref().map_or(intent, |payment| &payment.intent);
    if let Some(holder) = frontier_holder(db, building)? {
        return Ok(Begin::FrontierHeld(holder));
    }
    match known {
        Some(payment) => {
            move_to(db, payment.sequence, PaymentState::Intent, now)?;
            Ok(Begin::Fresh(PaymentRecord { state: PaymentState::Intent, updated_at: now, ..payment }))
        }
        None => {
            answers::take_id(db, intent)?;
            Ok(Begin::Fresh(insert(db, intent, PaymentState::Intent, now)?))
        }
    }
}

/// `Store::advance`.
pub(super) fn advance(
    db: &Connection,
    block: BlockHash,
    from: &[PaymentState],
    to: PaymentState,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    if to == PaymentState::Granted {
        return Err(Fault::Unfit("only a grant makes a payment granted".to_owned()));
    }
    let Some(payment) = find(db, block)? else { return Ok(false) };
    if payment.state == PaymentState::Granted || !from.contains(&payment.state) {
        return Ok(false);
    }
    if to == PaymentState::Intent
        && let Some(holder) = frontier_holder(db, &payment.intent)?.filter(|holder| *holder != block)
    {
        return Err(Fault::Unfit(format!("payment {holder} holds the frontier of {block}")));
    }
    move_to(db, payment.sequence, to, now)?;
    Ok(true)
}

/// Who is granted uses by [`grant`], and how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grantee {
    pub(super) id: CapabilityId,
    pub(super) holder: Holder,
    pub(super) want: u32,
    /// Seconds.
    pub(super) ttl: u64,
}

/// `Store::grant`.
pub(super) fn grant(
    db: &Connection,
    intent: &Intent,
    grantee: Grantee,
    now: UnixSeconds,
) -> Result<Grant, Fault> {
    let payment = match find(db, intent.block)? {
        None if is_marked(db, intent.block)? => return Ok(Grant::Taken),
        None => {
            if let Some(other) = answers::id_held(db, intent)? {
                return Ok(Grant::IdHeld(other));
            }
            answers::take_id(db, intent)?;
            insert(db, intent, PaymentState::Granted, now)?
        }
        Some(payment) if payment.intent.challenge != intent.challenge => return Ok(Grant::Taken),
        Some(payment) if payment.state == PaymentState::Granted => {
            let (record, lease) = capabilities::join(db, payment.sequence, grantee, now)?;
            return Ok(Grant::Granted { record, lease, fresh: false });
        }
        Some(payment) => {
            move_to(db, payment.sequence, PaymentState::Granted, now)?;
            answers::take_back(db, &payment)?;
            payment
        }
    };
    let (record, lease) = capabilities::open(db, &payment, grantee, now)?;
    Ok(Grant::Granted { record, lease, fresh: true })
}

/// The time of the newest entry in the journal; 0 where there is none.
pub(super) fn newest(db: &Connection) -> rusqlite::Result<u64> {
    let sql = "SELECT max(created_at, updated_at) FROM payments ORDER BY sequence DESC LIMIT 1";
    db.query_row(sql, [], |row| rows::number(row, 0)).optional().map(Option::unwrap_or_default)
}

/// `Store::mark_spent`.
pub(super) fn mark_spent(db: &Connection, block: BlockHash) -> Result<bool, Fault> {
    let marked = db
        .prepare_cached("INSERT INTO claims (block, sequence) VALUES (?1, NULL) ON CONFLICT DO NOTHING")?
        .execute([block.0])?;
    Ok(marked > 0)
}

/// Whether anybody has claimed the hash.
pub(super) fn is_claimed(db: &Connection, block: BlockHash) -> Result<bool, Fault> {
    Ok(db.prepare_cached("SELECT 1 FROM claims WHERE block = ?1")?.exists([block.0])?)
}

/// Whether the hash is spent without a payment in the journal.
fn is_marked(db: &Connection, block: BlockHash) -> Result<bool, Fault> {
    let mut statement = db.prepare_cached("SELECT 1 FROM claims WHERE block = ?1 AND sequence IS NULL")?;
    Ok(statement.exists([block.0])?)
}

/// `Store::payment`.
pub(super) fn find(db: &Connection, block: BlockHash) -> Result<Option<PaymentRecord>, Fault> {
    let sql = format!(
        "SELECT {PAYMENT_COLUMNS} FROM claims AS c JOIN payments AS p ON p.sequence = c.sequence \
         WHERE c.block = ?1"
    );
    Ok(db.prepare_cached(&sql)?.query_row([block.0], rows::payment).optional()?)
}

/// `Store::scan`.
pub(super) fn scan(
    db: &Connection,
    after: u64,
    filter: Filter,
    limit: usize,
) -> Result<Vec<PaymentRecord>, Fault> {
    // No row lies after a number that SQLite cannot hold.
    let Ok(after) = i64::try_from(after) else { return Ok(Vec::new()) };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    // Almost all payments are granted, so that for them the journal itself is the index.
    let condition = match filter.state {
        None => String::new(),
        Some(PaymentState::Granted) => format!("AND p.state = {}", state_code(PaymentState::Granted)),
        Some(state) => format!(
            "AND p.state <> {} AND p.state = {}",
            state_code(PaymentState::Granted),
            state_code(state)
        ),
    };
    let sql = format!(
        "SELECT {PAYMENT_COLUMNS} FROM payments AS p WHERE p.sequence > ?1 {condition} \
         ORDER BY p.sequence LIMIT ?2"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let found = statement.query_map(params![after, limit], rows::payment)?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// Claims the intent's hash and writes it at the end of the journal.
fn insert(
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

fn move_to(db: &Connection, sequence: u64, to: PaymentState, now: UnixSeconds) -> Result<(), Fault> {
    db.prepare_cached("UPDATE payments SET state = ?2, updated_at = ?3 WHERE sequence = ?1")?
        .execute(params![stored(sequence), state_code(to), stored(now.0)])?;
    Ok(())
}

/// The live intent that builds on the same block as `intent`, which may be itself.
fn frontier_holder(db: &Connection, intent: &Intent) -> Result<Option<BlockHash>, Fault> {
    let Some(frontier) = encoding::frontier(intent) else { return Ok(None) };
    let holder = db
        .prepare_cached("SELECT block FROM payments WHERE previous = ?1 AND state = 0")?
        .query_row([frontier.0], |row| row.get(0))
        .optional()?;
    Ok(holder.map(BlockHash))
}
