//! The operations on capabilities and their leases.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::fault::Fault;
use super::payments::Grantee;
use super::rows::number;
use crate::nano::{BlockHash, UnixSeconds};
use crate::routes::RouteName;
use crate::store::encoding::stored;
use crate::store::escrow::{Escrow, Share};
use crate::store::{CapabilityId, CapabilityRecord, Holder, Lease, LeaseRequest, PaymentRecord};

/// A capability's row: the record and what the record does not show.
struct Stored {
    /// The payment's place in the journal.
    payment: u64,
    record: CapabilityRecord,
    spent: u32,
    broken: u32,
}

const CAPABILITY: &str = "SELECT k.payment, coalesce(k.name, substr(p.block, 1, 16)), p.block, p.route, \
     k.uses, k.expires_at, k.revoked_at IS NOT NULL, k.spent, k.broken \
     FROM capabilities AS k JOIN payments AS p ON p.sequence = k.payment";

fn stored_capability(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored {
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

/// The name that an id has to be kept under; none where the block's hash begins with it.
fn name(id: CapabilityId, block: BlockHash) -> Option<[u8; 16]> {
    (!block.0.starts_with(&id.0)).then_some(id.0)
}

fn by_id(db: &Connection, id: CapabilityId) -> Result<Option<Stored>, Fault> {
    let sql = format!(
        "{CAPABILITY} JOIN claims AS c ON c.sequence = k.payment \
         WHERE c.block BETWEEN ?1 AND ?2 AND k.name IS NULL"
    );
    let (first, last) = ([id.0, [0; 16]].concat(), [id.0, [0xff; 16]].concat());
    let begins = db.prepare_cached(&sql)?.query_row([first, last], stored_capability).optional()?;
    if begins.is_some() {
        return Ok(begins);
    }
    let sql = format!("{CAPABILITY} WHERE k.name = ?1");
    Ok(db.prepare_cached(&sql)?.query_row([id.0], stored_capability).optional()?)
}

/// `Store::capability`.
pub(super) fn find(db: &Connection, id: CapabilityId) -> Result<Option<CapabilityRecord>, Fault> {
    Ok(by_id(db, id)?.map(|stored| stored.record))
}

/// Makes the capability that `payment` buys at `now`, and leases uses of it to the holder of the
/// grant.
pub(super) fn open(
    db: &Connection,
    payment: &PaymentRecord,
    grantee: Grantee,
    now: UnixSeconds,
) -> Result<(CapabilityRecord, Lease), Fault> {
    if let Some(other) = by_id(db, grantee.id)? {
        return Err(Fault::Unfit(format!("the id is that of what payment {} bought", other.record.block)));
    }
    let grants = payment.intent.terms.grants;
    let record = CapabilityRecord {
        id: grantee.id,
        block: payment.intent.block,
        route: payment.intent.route.clone(),
        uses: grants.requests.get(),
        expires_at: now.plus(grants.seconds),
        revoked: false,
    };
    db.prepare_cached("INSERT INTO capabilities (payment, name, uses, expires_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![
            stored(payment.sequence),
            name(record.id, record.block),
            record.uses,
            stored(record.expires_at.0)
        ])?;
    let capability = Stored { payment: payment.sequence, record, spent: 0, broken: 0 };
    let lease = change(db, &capability, Vec::new(), now, |escrow| {
        Ok(escrow.grant(grantee.holder, grantee.want, grantee.ttl, now))
    })?;
    Ok((capability.record, lease))
}

/// Leases uses of what `payment` bought to the holder of a repeated grant.
pub(super) fn join(
    db: &Connection,
    payment: u64,
    grantee: Grantee,
    now: UnixSeconds,
) -> Result<(CapabilityRecord, Lease), Fault> {
    let sql = format!("{CAPABILITY} WHERE k.payment = ?1");
    let capability = db.prepare_cached(&sql)?.query_row([stored(payment)], stored_capability)?;
    let lease = change(db, &capability, shares(db, payment)?, now, |escrow| {
        Ok(escrow.grant(grantee.holder, grantee.want, grantee.ttl, now))
    })?;
    Ok((capability.record, lease))
}

/// `Store::lease`.
pub(super) fn lease(db: &Connection, request: &LeaseRequest, now: UnixSeconds) -> Result<Lease, Fault> {
    let capability =
        by_id(db, request.capability)?.ok_or_else(|| Fault::Unfit("no such capability".to_owned()))?;
    change(db, &capability, shares(db, capability.payment)?, now, |escrow| {
        escrow.lease(request, now).map_err(|misfit| Fault::Unfit(misfit.to_string()))
    })
}

/// `Store::revoke`.
pub(super) fn revoke(db: &Connection, id: CapabilityId, now: UnixSeconds) -> Result<bool, Fault> {
    let Some(capability) = by_id(db, id)? else { return Ok(false) };
    db.prepare_cached("UPDATE capabilities SET revoked_at = coalesce(revoked_at, ?2) WHERE payment = ?1")?
        .execute(params![stored(capability.payment), stored(now.0)])?;
    Ok(true)
}

/// Lets `call` change the capability's uses, of which `shares` are out, and writes what it changed.
fn change(
    db: &Connection,
    capability: &Stored,
    shares: Vec<Share>,
    now: UnixSeconds,
    call: impl FnOnce(&mut Escrow) -> Result<Lease, Fault>,
) -> Result<Lease, Fault> {
    let before = Escrow {
        uses: capability.record.uses,
        spent: capability.spent,
        broken: capability.broken,
        open: !capability.record.revoked && now < capability.record.expires_at,
        revoked: capability.record.revoked,
        shares,
    };
    let mut after = before.clone();
    let answer = call(&mut after)?;
    if (after.spent, after.broken) != (before.spent, before.broken) {
        db.prepare_cached("UPDATE capabilities SET spent = ?2, broken = ?3 WHERE payment = ?1")?
            .execute(params![stored(capability.payment), after.spent, after.broken])?;
    }
    for share in after.shares.iter().filter(|share| !before.shares.contains(share)) {
        write_share(db, capability.payment, share)?;
    }
    Ok(answer)
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
