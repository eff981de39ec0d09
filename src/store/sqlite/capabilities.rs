//! The operations on capabilities and their leases.

use rusqlite::{Connection, OptionalExtension, params};

use super::fault::Fault;
use crate::nano::UnixSeconds;
use crate::routes::Unit;
use crate::store::columns::{self, SHARE_COLUMNS};
use crate::store::encoding::{amounts, hashes_from, stored, stored_name};
use crate::store::escrow::{Changes, Counts, Escrow, Share, StoredCapability, ToppedUp};
use crate::store::{
    CapabilityId, CapabilityRecord, Grantee, Lease, LeaseRequest, OutstandingGrants, PaymentRecord,
};

const CAPABILITY: &str = "SELECT k.payment, coalesce(k.name, substr(p.block, 1, 16)), p.block, p.route, \
     k.uses, k.expires_at, k.revoked_at IS NOT NULL, k.spent, k.broken, k.balance \
     FROM capabilities AS k JOIN payments AS p ON p.sequence = k.payment";

/// Whether something is left of a capability `k`. Amounts of 16 bytes sort as they are.
pub(super) const LEFT: &str = "(k.spent < k.uses OR substr(k.balance, 17, 16) < substr(k.balance, 1, 16))";

pub(super) fn by_id(db: &Connection, id: CapabilityId) -> Result<Option<StoredCapability>, Fault> {
    let sql = format!(
        "{CAPABILITY} JOIN claims AS c ON c.sequence = k.payment \
         WHERE c.block BETWEEN ?1 AND ?2 AND k.name IS NULL"
    );
    let begins =
        db.prepare_cached(&sql)?.query_row(hashes_from(id), |row| columns::capability(row)).optional()?;
    if begins.is_some() {
        return Ok(begins);
    }
    let sql = format!("{CAPABILITY} WHERE k.name = ?1");
    Ok(db.prepare_cached(&sql)?.query_row([id.0], |row| columns::capability(row)).optional()?)
}

/// The place of the payment that bought the capability.
pub(super) fn payment_of(db: &Connection, id: CapabilityId) -> Result<Option<u64>, Fault> {
    Ok(by_id(db, id)?.map(|stored| stored.payment))
}

/// `Meters::capability`.
pub(super) fn find(db: &Connection, id: CapabilityId) -> Result<Option<CapabilityRecord>, Fault> {
    Ok(by_id(db, id)?.map(|stored| stored.record))
}

/// Makes the capability that `payment` buys at `now`, and leases uses of it to the grantee.
pub(super) fn open(
    db: &Connection,
    payment: &PaymentRecord,
    grantee: Grantee,
    now: UnixSeconds,
) -> Result<(CapabilityRecord, Lease), Fault> {
    if let Some(other) = by_id(db, grantee.id)? {
        return Err(Fault::Unfit(format!("payment {} bought the capability of this id", other.record.block)));
    }
    let mut record = CapabilityRecord::bought(&payment.intent, grantee.id, now);
    if let Some(purse) = payment.intent.adds_to().map_or(Ok(None), |it| by_id(db, it))?
        && let Some(ToppedUp { counts, expires_at }) = purse.top_up(&mut record, now)
    {
        let (_, balance) = amounts(Unit::Raw, [counts.stock, counts.spent]);
        db.prepare_cached("UPDATE capabilities SET balance = ?2, expires_at = ?3 WHERE payment = ?1")?
            .execute(params![stored(purse.payment), balance, stored(expires_at.0)])?;
    }
    let ([uses, _], balance) = amounts(record.unit, [record.stock, 0]);
    db.prepare_cached(
        "INSERT INTO capabilities (payment, name, uses, expires_at, balance) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![
        stored(payment.sequence),
        stored_name(record.id, record.block),
        uses,
        stored(record.expires_at.0),
        balance
    ])?;
    let capability = StoredCapability { payment: payment.sequence, record, spent: 0, broken: 0 };
    let changes = Escrow::new(&capability, Vec::new(), now).apply_grant(grantee, now);
    let lease = write(db, capability.payment, changes)?;
    Ok((capability.record, lease))
}

/// Leases uses of what `payment` bought to the grantee of a repeated grant.
pub(super) fn join(
    db: &Connection,
    payment: u64,
    grantee: Grantee,
    now: UnixSeconds,
) -> Result<(CapabilityRecord, Lease), Fault> {
    let sql = format!("{CAPABILITY} WHERE k.payment = ?1");
    let capability = db.prepare_cached(&sql)?.query_row([stored(payment)], |row| columns::capability(row))?;
    let changes = Escrow::new(&capability, shares(db, payment)?, now).apply_grant(grantee, now);
    Ok((capability.record, write(db, payment, changes)?))
}

/// `Meters::lease`.
pub(super) fn lease(db: &Connection, request: &LeaseRequest, now: UnixSeconds) -> Result<Lease, Fault> {
    let capability =
        by_id(db, request.capability)?.ok_or_else(|| Fault::Unfit("no such capability".to_owned()))?;
    let changes = Escrow::new(&capability, shares(db, capability.payment)?, now)
        .apply_lease(request, now)
        .map_err(|misfit| Fault::Unfit(misfit.to_string()))?;
    write(db, capability.payment, changes)
}

/// `Meters::revoke`.
pub(super) fn revoke(db: &Connection, id: CapabilityId, now: UnixSeconds) -> Result<bool, Fault> {
    let Some(capability) = by_id(db, id)? else { return Ok(false) };
    db.prepare_cached("UPDATE capabilities SET revoked_at = coalesce(revoked_at, ?2) WHERE payment = ?1")?
        .execute(params![stored(capability.payment), stored(now.0)])?;
    Ok(true)
}

/// Writes what a call changed, and gives its answer.
pub(super) fn write<A>(db: &Connection, payment: u64, changes: Changes<A>) -> Result<A, Fault> {
    let unit = changes.unit;
    if let Some(Counts { stock, spent, broken }) = changes.counts {
        let ([_, spent], balance) = amounts(unit, [stock, spent]);
        db.prepare_cached(
            "UPDATE capabilities SET spent = ?2, broken = ?3, balance = ?4 WHERE payment = ?1",
        )?
        .execute(params![stored(payment), spent, broken, balance])?;
    }
    for share in &changes.shares {
        write_share(db, payment, unit, share)?;
    }
    Ok(changes.answer)
}

/// As [`Engine::outstanding`](crate::store::Engine::outstanding).
pub(super) fn outstanding(db: &Connection, now: UnixSeconds) -> Result<Vec<OutstandingGrants>, Fault> {
    let sql = format!(
        "SELECT p.route, p.price, p.requests, max(p.seconds), substr(p.challenge, 13, 4), count(*), \
         sum(k.uses - k.spent), p.exchange \
         FROM capabilities AS k JOIN payments AS p ON p.sequence = k.payment \
         WHERE k.revoked_at IS NULL AND k.expires_at > ?1 AND {LEFT} GROUP BY 1, 2, 3, 5, 8"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let found = statement.query_map([stored(now.0)], |row| columns::outstanding(row))?;
    Ok(found.collect::<Result<_, _>>()?)
}

pub(super) fn shares(db: &Connection, payment: u64) -> Result<Vec<Share>, Fault> {
    let sql = format!("SELECT {SHARE_COLUMNS} FROM leases WHERE payment = ?1");
    let mut statement = db.prepare_cached(&sql)?;
    let found = statement.query_map([stored(payment)], |row| columns::share(row))?;
    Ok(found.collect::<Result<_, _>>()?)
}

fn write_share(db: &Connection, payment: u64, unit: Unit, share: &Share) -> Result<(), Fault> {
    let sql = format!(
        "INSERT OR REPLACE INTO leases (payment, {SHARE_COLUMNS}) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
    );
    let ([outstanding, late, granted, remaining, elsewhere], bytes) = share.amounts(unit);
    db.prepare_cached(&sql)?.execute(params![
        stored(payment),
        share.holder.0,
        stored(share.sequence),
        outstanding,
        late,
        granted,
        remaining,
        elsewhere,
        stored(share.answer.expires_at.0),
        share.answer.broken,
        bytes,
    ])?;
    Ok(())
}
