//! The operations on refunds.

use rusqlite::{Connection, OptionalExtension, params};

use super::capabilities::{self, LEFT};
use super::fault::Fault;
use super::journal;
use crate::nano::{BlockHash, Raw, StateBlock, UnixSeconds};
use crate::store::CapabilityId;
use crate::store::columns::{self, EXPIRED_COLUMNS, REFUND_COLUMNS};
use crate::store::encoding::{encode_block, in_refund_state, most, refund_state_code, stored};
use crate::store::escrow::Escrow;
use crate::store::refunds::{
    Closing, ExpiredPurse, ExpiryMark, RefundRecord, RefundSearch, RefundState, due, objection,
};

/// Where refunds are read from.
const FROM: &str = "FROM refunds AS r JOIN capabilities AS k ON k.payment = r.payment \
     JOIN payments AS p ON p.sequence = r.payment";

fn of_payment(db: &Connection, payment: u64) -> Result<Option<RefundRecord>, Fault> {
    let sql = format!("SELECT {REFUND_COLUMNS}, r.amount {FROM} WHERE r.payment = ?1");
    let found = db.prepare_cached(&sql)?.query_row([stored(payment)], |row| columns::refund(row));
    Ok(found.optional()?)
}

/// `RefundJournal::refund`.
pub(super) fn find(db: &Connection, id: CapabilityId) -> Result<Option<RefundRecord>, Fault> {
    match capabilities::payment_of(db, id)? {
        Some(payment) => of_payment(db, payment),
        None => Ok(None),
    }
}

/// `RefundJournal::close_capability`.
pub(super) fn close(
    db: &Connection,
    id: CapabilityId,
    at_least: Raw,
    now: UnixSeconds,
) -> Result<Closing, Fault> {
    let Some(capability) = capabilities::by_id(db, id)? else { return Ok(Closing::Unknown) };
    let (payment, record) = (capability.payment, &capability.record);
    let intent = journal::find(db, record.block)?.ok_or_else(|| no_payment(id))?.intent;
    match of_payment(db, payment)? {
        Some(refund) if refund.state != RefundState::Closing => return Ok(Closing::Refund(Box::new(refund))),
        Some(_) => {}
        None => {
            if let Some(objection) = objection(record, &intent) {
                return Ok(objection);
            }
            db.prepare_cached(
                "INSERT INTO refunds (payment, state, amount, closed_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?4)",
            )?
            .execute(params![
                stored(payment),
                refund_state_code(RefundState::Closing),
                Raw::ZERO.to_be_bytes(),
                stored(now.0)
            ])?;
            db.prepare_cached("UPDATE capabilities SET revoked_at = ?2 WHERE payment = ?1")?
                .execute(params![stored(payment), stored(now.0)])?;
        }
    }
    let changes = Escrow::new(&capability, capabilities::shares(db, payment)?, now).apply_close(now);
    if let Some(left) = capabilities::write(db, payment, changes)? {
        let (state, amount) = due(record, left, &intent, at_least);
        db.prepare_cached("UPDATE refunds SET state = ?2, amount = ?3, updated_at = ?4 WHERE payment = ?1")?
            .execute(params![
                stored(payment),
                refund_state_code(state),
                amount.to_be_bytes(),
                stored(now.0)
            ])?;
    }
    let refund = of_payment(db, payment)?.ok_or_else(|| no_payment(id))?;
    Ok(Closing::Refund(Box::new(refund)))
}

/// Only a broken store leads here.
fn no_payment(id: CapabilityId) -> Fault {
    Fault::Unfit(format!("no payment or refund of the capability {id}"))
}

/// `RefundJournal::refunds`.
pub(super) fn list(db: &Connection, search: &RefundSearch) -> Result<Vec<RefundRecord>, Fault> {
    let condition = in_refund_state(search.state, search.unfinished);
    let sql = format!(
        "SELECT {REFUND_COLUMNS}, r.amount {FROM} WHERE r.payment > ?1 {condition} ORDER BY r.payment LIMIT ?2"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let values = params![stored(search.after.unwrap_or_default()), most(search.limit)];
    let found = statement.query_map(values, |row| columns::refund(row))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// `RefundJournal::take_refunds`.
pub(super) fn take(
    db: &Connection,
    until: UnixSeconds,
    limit: usize,
    now: UnixSeconds,
) -> Result<Vec<RefundRecord>, Fault> {
    let mut free = db.prepare_cached(
        "SELECT payment FROM refunds WHERE state IN (1, 2) AND taken_until <= ?1 \
         ORDER BY taken_until, payment LIMIT ?2",
    )?;
    let found = free.query_map(params![stored(now.0), most(limit)], |row| row.get::<_, i64>(0))?;
    let found = found.collect::<Result<Vec<_>, _>>()?;
    let mut taken = Vec::with_capacity(found.len());
    for payment in found {
        db.prepare_cached("UPDATE refunds SET taken_until = ?2 WHERE payment = ?1")?
            .execute(params![payment, stored(until.0)])?;
        taken.extend(of_payment(db, payment.cast_unsigned())?);
    }
    Ok(taken)
}

/// `RefundJournal::sign_refund`.
pub(super) fn sign(
    db: &Connection,
    id: CapabilityId,
    instead_of: Option<BlockHash>,
    block: &StateBlock,
    now: UnixSeconds,
) -> Result<RefundRecord, Fault> {
    let refund = find(db, id)?.ok_or_else(|| no_payment(id))?;
    if refund.account != block.destination() {
        return Err(Fault::Unfit("the block goes to another account".to_owned()));
    }
    db.prepare_cached(
        "UPDATE refunds SET state = 2, signed = ?2, hash = ?3, updated_at = ?4 \
         WHERE payment = ?1 AND state IN (1, 2) AND hash IS ?5",
    )?
    .execute(params![
        stored(refund.sequence),
        encode_block(block),
        block.hash().0,
        stored(now.0),
        instead_of.map(|it| it.0)
    ])?;
    of_payment(db, refund.sequence)?.ok_or_else(|| no_payment(id))
}

/// `RefundJournal::confirm_refund`.
pub(super) fn confirm(
    db: &Connection,
    id: CapabilityId,
    block: BlockHash,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    let Some(payment) = capabilities::payment_of(db, id)? else { return Ok(false) };
    let moved = db
        .prepare_cached(
            "UPDATE refunds SET state = 3, updated_at = ?3 WHERE payment = ?1 AND state = 2 AND hash = ?2",
        )?
        .execute(params![stored(payment), block.0, stored(now.0)])?;
    Ok(moved > 0)
}

/// `RefundJournal::expired_purses`.
pub(super) fn expired(
    db: &Connection,
    after: ExpiryMark,
    limit: usize,
    now: UnixSeconds,
) -> Result<Vec<ExpiredPurse>, Fault> {
    let sql = format!(
        "SELECT {EXPIRED_COLUMNS} FROM capabilities AS k JOIN payments AS p ON p.sequence = k.payment \
         WHERE k.balance IS NOT NULL AND k.revoked_at IS NULL AND (k.expires_at, k.payment) > (?1, ?2) \
         AND k.expires_at <= ?3 AND {LEFT} ORDER BY k.expires_at, k.payment LIMIT ?4"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let values = params![stored(after.expires_at.0), stored(after.sequence), stored(now.0), most(limit)];
    let found = statement.query_map(values, |row| columns::expired_purse(row))?;
    Ok(found.collect::<Result<_, _>>()?)
}
