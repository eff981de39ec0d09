//! What the operator asks of the store.

use rusqlite::{Connection, params};

use super::capabilities::{self, LEFT};
use super::fault::Fault;
use super::rows::{NO_PAYMENT, PAYMENT_COLUMNS};
use crate::nano::UnixSeconds;
use crate::store::columns;
use crate::store::encoding::{GIVEN, REVOKED, below, in_state, most, stored};
use crate::store::operator::{CapabilityEntry, CapabilitySearch, PaymentSearch, Remark};
use crate::store::{CapabilityId, Filter, PaymentRecord};

/// The columns of [`columns::entry`]; `?1` is the time.
const ENTRY: &str = "SELECT k.payment, coalesce(k.name, substr(p.block, 1, 16)), p.block, p.route, \
     k.uses, k.expires_at, k.revoked_at IS NOT NULL, k.spent, k.broken, k.balance, \
     coalesce((SELECT sum(l.outstanding) FROM leases AS l WHERE l.payment = k.payment AND l.expires_at > ?1), 0), \
     coalesce((SELECT group_concat(hex(substr(l.amounts, 1, 16)), '') FROM leases AS l \
        WHERE l.payment = k.payment AND l.expires_at > ?1), ''), \
     p.payer, p.amount, p.updated_at, k.revoked_at, \
     g.at, coalesce(g.who, ''), coalesce(g.why, ''), r.at, coalesce(r.who, ''), coalesce(r.why, '') \
     FROM capabilities AS k JOIN payments AS p ON p.sequence = k.payment \
     LEFT JOIN operator_acts AS g ON g.payment = k.payment AND g.act = 0 \
     LEFT JOIN operator_acts AS r ON r.payment = k.payment AND r.act = 1";

/// `OperatorJournal::search_payments`.
pub(super) fn search_payments(db: &Connection, search: &PaymentSearch) -> Result<Vec<PaymentRecord>, Fault> {
    let condition = in_state(Filter { state: search.state });
    let sql = format!(
        "SELECT {PAYMENT_COLUMNS} FROM payments AS p WHERE p.sequence < ?1 AND NOT ({NO_PAYMENT}) {condition} \
         AND (?2 IS NULL OR p.route = ?2 OR substr(p.route, 1, length(?2) + 1) = ?2 || '#') \
         AND (?3 IS NULL OR p.payer = ?3) AND p.created_at >= ?4 AND p.created_at < ?5 \
         ORDER BY p.sequence DESC LIMIT ?6"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let values = params![
        below(search.before),
        search.route.as_ref().map(|it| it.as_str()),
        search.payer.map(|it| it.0),
        stored(search.since.unwrap_or_default().0),
        search.until.map_or(i64::MAX, |it| stored(it.0)),
        most(search.limit),
    ];
    let found = statement.query_map(values, |row| columns::payment(row))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// `OperatorJournal::search_capabilities`.
pub(super) fn search_capabilities(
    db: &Connection,
    search: &CapabilitySearch,
    now: UnixSeconds,
) -> Result<Vec<CapabilityEntry>, Fault> {
    let sql = format!(
        "{ENTRY} WHERE k.payment < ?2 \
         AND (?3 IS NULL OR p.route = ?3 OR substr(p.route, 1, length(?3) + 1) = ?3 || '#') \
         AND (?4 IS NULL OR p.payer = ?4) \
         AND (NOT ?5 OR (k.revoked_at IS NULL AND k.expires_at > ?1 AND {LEFT})) \
         AND (NOT ?6 OR {NO_PAYMENT}) ORDER BY k.payment DESC LIMIT ?7"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let values = params![
        stored(now.0),
        below(search.before),
        search.route.as_ref().map(|it| it.as_str()),
        search.payer.map(|it| it.0),
        search.open,
        search.free,
        most(search.limit),
    ];
    let found = statement.query_map(values, |row| columns::entry(row))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// `OperatorJournal::capability_entry`.
pub(super) fn entry(
    db: &Connection,
    id: CapabilityId,
    now: UnixSeconds,
) -> Result<Option<CapabilityEntry>, Fault> {
    let Some(payment) = capabilities::payment_of(db, id)? else { return Ok(None) };
    let sql = format!("{ENTRY} WHERE k.payment = ?2");
    let mut statement = db.prepare_cached(&sql)?;
    let mut found = statement.query_map([stored(now.0), stored(payment)], |row| columns::entry(row))?;
    Ok(found.next().transpose()?)
}

/// `OperatorJournal::revoke_by`.
pub(super) fn revoke(
    db: &Connection,
    id: CapabilityId,
    remark: &Remark,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    Ok(capabilities::revoke(db, id, now)? && note(db, id, REVOKED, remark, now)?)
}

/// `OperatorJournal::note_given`.
pub(super) fn note_given(
    db: &Connection,
    id: CapabilityId,
    remark: &Remark,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    note(db, id, GIVEN, remark, now)
}

fn note(
    db: &Connection,
    id: CapabilityId,
    act: u8,
    remark: &Remark,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    let Some(payment) = capabilities::payment_of(db, id)? else { return Ok(false) };
    db.prepare_cached(
        "INSERT INTO operator_acts (payment, act, at, who, why) VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
    )?
    .execute(params![stored(payment), act, stored(now.0), remark.who, remark.why])?;
    Ok(true)
}
