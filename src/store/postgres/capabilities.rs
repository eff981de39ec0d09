//! The operations on capabilities and their leases. A capability's row is locked while its uses move.

use deadpool_postgres::{Client, GenericClient, Transaction};
use tokio_postgres::types::ToSql;

use super::fault::Fault;
use super::query::{Value, apply, query};
use super::rows::CAPABILITY_COLUMNS;
use crate::nano::UnixSeconds;
use crate::store::columns::{self, SHARE_COLUMNS};
use crate::store::encoding::{hashes_from, stored, stored_name};
use crate::store::escrow::{Changes, Counts, Escrow, Share, StoredCapability};
use crate::store::{
    CapabilityId, CapabilityRecord, Grantee, Intent, Lease, LeaseRequest, OutstandingGrants, PaymentRecord,
};

/// The payment that bought the capability with the id `$1`. `$2` and `$3` are the first and the last hash
/// that begin with it.
const BY_ID: &str = "(SELECT payment FROM capabilities WHERE name = $1::bytea
        UNION ALL SELECT b.payment FROM claims AS c JOIN capabilities AS b ON b.payment = c.sequence
        WHERE c.block BETWEEN $2::bytea AND $3::bytea AND b.name IS NULL)";

/// No capability has the id of an [`opening`].
pub(super) const FREE: &str = "AND NOT EXISTS (SELECT FROM capabilities WHERE name = $17::bytea)
        AND NOT EXISTS (SELECT FROM claims AS c JOIN capabilities AS b ON b.payment = c.sequence
            WHERE c.block BETWEEN $18::bytea AND $19::bytea AND b.name IS NULL)";

/// Makes the capability `$20` … of an [`opening`], with the share of its first holder.
pub(super) const OPEN: &str = ", bought AS (
        INSERT INTO capabilities (payment, name, uses, expires_at)
        SELECT sequence, $20::bytea, $21::bigint, $22::bigint FROM paid
    ), lent AS (
        INSERT INTO leases
            (payment, holder, sequence, outstanding, late, granted, remaining, elsewhere, expires_at)
        SELECT sequence, $23::bytea, 0, $24::bigint, 0, $25::bigint, $26::bigint, 0, $27::bigint FROM paid
    )";

/// A capability that one statement makes together with its payment.
pub(super) struct Opening {
    pub(super) record: CapabilityRecord,
    pub(super) lease: Lease,
    /// `$17` … of [`FREE`] and [`OPEN`].
    pub(super) values: Vec<Value>,
}

/// The capability that `intent` buys at `now`, and the lease of its first holder.
pub(super) fn opening(intent: &Intent, grantee: Grantee, now: UnixSeconds) -> Opening {
    let record = CapabilityRecord::bought(intent, grantee.id, now);
    let capability = StoredCapability { payment: 0, record, spent: 0, broken: 0 };
    let lease = Escrow::new(&capability, Vec::new(), now).apply_grant(grantee, now).answer;
    let record = capability.record;
    let [id, first, last] = bounds(grantee.id);
    let values: Vec<Value> = vec![
        Box::new(id),
        Box::new(first),
        Box::new(last),
        Box::new(stored_name(grantee.id, intent.block)),
        Box::new(i64::from(record.uses)),
        Box::new(stored(record.expires_at.0)),
        Box::new(grantee.holder.0.to_vec()),
        // All that is granted is outstanding.
        Box::new(i64::from(lease.granted)),
        Box::new(i64::from(lease.granted)),
        Box::new(i64::from(lease.remaining)),
        Box::new(stored(lease.expires_at.0)),
    ];
    Opening { record, lease, values }
}

/// An id, and the first and the last hash that begin with it.
fn bounds(id: CapabilityId) -> [Vec<u8>; 3] {
    let [first, last] = hashes_from(id);
    [id.0.to_vec(), first, last]
}

/// # Errors
/// [`Fault::Unfit`] if a capability has this id.
pub(super) async fn refuse_taken(client: &impl GenericClient, id: CapabilityId) -> Result<(), Fault> {
    match by_id(client, id, "").await? {
        Some(other) => {
            Err(Fault::Unfit(format!("payment {} bought the capability of this id", other.record.block)))
        }
        None => Ok(()),
    }
}

async fn by_id(
    client: &impl GenericClient,
    id: CapabilityId,
    lock: &str,
) -> Result<Option<StoredCapability>, Fault> {
    let sql = format!(
        "SELECT {CAPABILITY_COLUMNS} FROM capabilities AS k JOIN payments AS p ON p.sequence = k.payment \
         WHERE k.payment IN {BY_ID} {lock}"
    );
    let [id, first, last] = bounds(id);
    query(client, &sql, &[&id, &first, &last]).await?.first().map(columns::capability).transpose()
}

/// `Meters::capability`.
pub(super) async fn find(client: &Client, id: CapabilityId) -> Result<Option<CapabilityRecord>, Fault> {
    Ok(by_id(client, id, "").await?.map(|stored| stored.record))
}

/// Makes the capability that `payment`, journalled before, buys at `now`.
pub(super) async fn open(
    transaction: &Transaction<'_>,
    payment: &PaymentRecord,
    grantee: Grantee,
    now: UnixSeconds,
) -> Result<(CapabilityRecord, Lease), Fault> {
    refuse_taken(transaction, grantee.id).await?;
    let record = CapabilityRecord::bought(&payment.intent, grantee.id, now);
    let sql = "INSERT INTO capabilities (payment, name, uses, expires_at) VALUES ($1, $2, $3, $4)";
    let values: [&(dyn ToSql + Sync); 4] = [
        &stored(payment.sequence),
        &stored_name(record.id, record.block),
        &i64::from(record.uses),
        &stored(record.expires_at.0),
    ];
    query(transaction, sql, &values).await?;
    let capability = StoredCapability { payment: payment.sequence, record, spent: 0, broken: 0 };
    let changes = Escrow::new(&capability, Vec::new(), now).apply_grant(grantee, now);
    let lease = write(transaction, capability.payment, changes).await?;
    Ok((capability.record, lease))
}

/// Leases uses of what `payment` bought to the grantee of a repeated grant.
pub(super) async fn join(
    transaction: &Transaction<'_>,
    payment: u64,
    grantee: Grantee,
    now: UnixSeconds,
) -> Result<(CapabilityRecord, Lease), Fault> {
    let sql = format!(
        "SELECT {CAPABILITY_COLUMNS} FROM capabilities AS k JOIN payments AS p ON p.sequence = k.payment \
         WHERE k.payment = $1 FOR UPDATE OF k"
    );
    let found = query(transaction, &sql, &[&stored(payment)]).await?;
    let found =
        found.first().ok_or_else(|| Fault::Unavailable("a grant without its capability".to_owned()))?;
    let capability = columns::capability(found)?;
    let shares = shares(transaction, payment).await?;
    let changes = Escrow::new(&capability, shares, now).apply_grant(grantee, now);
    let lease = write(transaction, payment, changes).await?;
    Ok((capability.record, lease))
}

/// `Meters::lease`.
pub(super) async fn lease(
    client: &mut Client,
    request: LeaseRequest,
    now: UnixSeconds,
) -> Result<Lease, Fault> {
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    let capability = by_id(&transaction, request.capability, "FOR UPDATE OF k")
        .await?
        .ok_or_else(|| Fault::Unfit("no such capability".to_owned()))?;
    // A statement of its own after the lock, so that it sees what the last holder of the lock wrote.
    let shares = shares(&transaction, capability.payment).await?;
    let changes = Escrow::new(&capability, shares, now)
        .apply_lease(&request, now)
        .map_err(|misfit| Fault::Unfit(misfit.to_string()))?;
    let lease = write(&transaction, capability.payment, changes).await?;
    transaction.commit().await.map_err(Fault::committing)?;
    Ok(lease)
}

/// `Meters::revoke`.
pub(super) async fn revoke(client: &Client, id: CapabilityId, now: UnixSeconds) -> Result<bool, Fault> {
    let sql =
        format!("UPDATE capabilities SET revoked_at = coalesce(revoked_at, $4) WHERE payment IN {BY_ID}");
    let [id, first, last] = bounds(id);
    let values: [&(dyn ToSql + Sync); 4] = [&id, &first, &last, &stored(now.0)];
    Ok(apply(client, &sql, &values).await? > 0)
}

/// Writes what a call changed, and gives its answer.
async fn write(transaction: &Transaction<'_>, payment: u64, changes: Changes) -> Result<Lease, Fault> {
    if let Some(Counts { spent, broken }) = changes.counts {
        let sql = "UPDATE capabilities SET spent = $2, broken = $3 WHERE payment = $1";
        let values: [&(dyn ToSql + Sync); 3] = [&stored(payment), &i64::from(spent), &i64::from(broken)];
        query(transaction, sql, &values).await?;
    }
    for share in &changes.shares {
        write_share(transaction, payment, share).await?;
    }
    Ok(changes.answer)
}

/// As [`Engine::outstanding`](crate::store::Engine::outstanding).
pub(super) async fn outstanding(client: &Client, now: UnixSeconds) -> Result<Vec<OutstandingGrants>, Fault> {
    let sql = "SELECT p.route, p.price::text, p.requests, max(p.seconds), substring(p.challenge FROM 13 FOR 4), \
         count(*), sum(k.uses - k.spent)::bigint \
         FROM capabilities AS k JOIN payments AS p ON p.sequence = k.payment \
         WHERE k.revoked_at IS NULL AND k.expires_at > $1 AND k.spent < k.uses GROUP BY 1, p.price, 3, 5";
    let found = query(client, sql, &[&stored(now.0)]).await?;
    found.iter().map(columns::outstanding).collect()
}

async fn shares(transaction: &Transaction<'_>, payment: u64) -> Result<Vec<Share>, Fault> {
    let sql = format!("SELECT {SHARE_COLUMNS} FROM leases WHERE payment = $1");
    query(transaction, &sql, &[&stored(payment)]).await?.iter().map(columns::share).collect()
}

async fn write_share(transaction: &Transaction<'_>, payment: u64, share: &Share) -> Result<(), Fault> {
    let sql = format!(
        "INSERT INTO leases (payment, {SHARE_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) \
         ON CONFLICT (payment, holder) DO UPDATE SET sequence = excluded.sequence, \
         outstanding = excluded.outstanding, late = excluded.late, granted = excluded.granted, \
         remaining = excluded.remaining, elsewhere = excluded.elsewhere, expires_at = excluded.expires_at, \
         broken = excluded.broken"
    );
    let holder = &share.holder.0[..];
    let values: [&(dyn ToSql + Sync); 10] = [
        &stored(payment),
        &holder,
        &stored(share.sequence),
        &i64::from(share.outstanding),
        &i64::from(share.late),
        &i64::from(share.answer.granted),
        &i64::from(share.answer.remaining),
        &i64::from(share.answer.elsewhere),
        &stored(share.answer.expires_at.0),
        &i64::from(share.answer.broken),
    ];
    query(transaction, &sql, &values).await.map(drop)
}
