//! The operations on capabilities and their leases.

use std::num::NonZeroU32;

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::fault::Fault;
use super::rows::number;
use crate::nano::{BlockHash, Raw, UnixSeconds};
use crate::routes::{Grants, Place, RouteName, Terms};
use crate::store::encoding::{hashes_from, stored, stored_name};
use crate::store::escrow::{Changes, Counts, Escrow, Share, StoredCapability};
use crate::store::{
    CapabilityId, CapabilityRecord, Grantee, Holder, Lease, LeaseRequest, OutstandingGrants, PaymentRecord,
};

const CAPABILITY: &str = "SELECT k.payment, coalesce(k.name, substr(p.block, 1, 16)), p.block, p.route, \
     k.uses, k.expires_at, k.revoked_at IS NOT NULL, k.spent, k.broken \
     FROM capabilities AS k JOIN payments AS p ON p.sequence = k.payment";

fn stored_capability(row: &Row<'_>) -> rusqlite::Result<StoredCapability> {
    Ok(StoredCapability {
        payment: number(row, 0)?,
        record: CapabilityRecord {
            id: CapabilityId(row.get(1)?),
            block: BlockHash(row.get(2)?),
            route: RouteName::new(&row.get::<_, String>(3)?),
            uses: row.get(4)?,
            expires_at: UnixSeconds(number(row, 5)?),
            revoked: row.get(6)?,
        },
        spent: row.get(7)?,
        broken: row.get(8)?,
    })
}

fn by_id(db: &Connection, id: CapabilityId) -> Result<Option<StoredCapability>, Fault> {
    let sql = format!(
        "{CAPABILITY} JOIN claims AS c ON c.sequence = k.payment \
         WHERE c.block BETWEEN ?1 AND ?2 AND k.name IS NULL"
    );
    let begins = db.prepare_cached(&sql)?.query_row(hashes_from(id), stored_capability).optional()?;
    if begins.is_some() {
        return Ok(begins);
    }
    let sql = format!("{CAPABILITY} WHERE k.name = ?1");
    Ok(db.prepare_cached(&sql)?.query_row([id.0], stored_capability).optional()?)
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
    let record = CapabilityRecord::bought(&payment.intent, grantee.id, now);
    db.prepare_cached("INSERT INTO capabilities (payment, name, uses, expires_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            stored(payment.sequence),
            stored_name(record.id, record.block),
            record.uses,
            stored(record.expires_at.0)
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
    let capability = db.prepare_cached(&sql)?.query_row([stored(payment)], stored_capability)?;
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
fn write(db: &Connection, payment: u64, changes: Changes) -> Result<Lease, Fault> {
    if let Some(Counts { spent, broken }) = changes.counts {
        db.prepare_cached("UPDATE capabilities SET spent = ?2, broken = ?3 WHERE payment = ?1")?
            .execute(params![stored(payment), spent, broken])?;
    }
    for share in &changes.shares {
        write_share(db, payment, share)?;
    }
    Ok(changes.answer)
}

/// As [`Engine::outstanding`](crate::store::Engine::outstanding).
pub(super) fn outstanding(db: &Connection, now: UnixSeconds) -> Result<Vec<OutstandingGrants>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT p.route, p.price, p.requests, max(p.seconds), substr(p.challenge, 13, 4), count(*), \
         sum(k.uses - k.spent) FROM capabilities AS k JOIN payments AS p ON p.sequence = k.payment \
         WHERE k.revoked_at IS NULL AND k.expires_at > ?1 AND k.spent < k.uses GROUP BY 1, 2, 3, 5",
    )?;
    let found = statement.query_map([stored(now.0)], |row| {
        let requests = NonZeroU32::new(row.get(2)?).unwrap_or(NonZeroU32::MIN);
        Ok(OutstandingGrants {
            route: RouteName::new(&row.get::<_, String>(0)?),
            terms: Terms {
                amount: Raw::from_be_bytes(row.get(1)?),
                grants: Grants { requests, seconds: number(row, 3)? },
            },
            place: Place(row.get(4)?),
            capabilities: number(row, 5)?,
            uses: number(row, 6)?,
        })
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}

fn shares(db: &Connection, payment: u64) -> Result<Vec<Share>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT holder, sequence, outstanding, late, granted, remaining, elsewhere, expires_at, broken \
         FROM leases WHERE payment = ?1",
    )?;
    let found = statement.query_map([stored(payment)], |row| {
        Ok(Share {
            holder: Holder(row.get(0)?),
            sequence: number(row, 1)?,
            outstanding: row.get(2)?,
            late: row.get(3)?,
            answer: Lease {
                granted: row.get(4)?,
                remaining: row.get(5)?,
                elsewhere: row.get(6)?,
                expires_at: UnixSeconds(number(row, 7)?),
                broken: row.get(8)?,
                revoked: false,
            },
        })
    })?;
    Ok(found.collect::<Result<_, _>>()?)
}

fn write_share(db: &Connection, payment: u64, share: &Share) -> Result<(), Fault> {
    db.prepare_cached(
        "INSERT OR REPLACE INTO leases \
         (payment, holder, sequence, outstanding, late, granted, remaining, elsewhere, expires_at, broken) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        stored(payment),
        share.holder.0,
        stored(share.sequence),
        share.outstanding,
        share.late,
        share.answer.granted,
        share.answer.remaining,
        share.answer.elsewhere,
        stored(share.answer.expires_at.0),
        share.answer.broken,
    ])?;
    Ok(())
}
