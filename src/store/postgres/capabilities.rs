//! The operations on capabilities and their leases. A capability's row is locked while its uses move.

use std::collections::BTreeMap;
use std::sync::Arc;

use deadpool_postgres::{Client, GenericClient, Transaction};
use futures_util::future::BoxFuture;
use tokio_postgres::types::ToSql;

use super::batch::{Call, Key};
use super::fault::Fault;
use super::query::{Value, apply, begin_batch, column, commit_batch, or_undone, query};
use super::rows::CAPABILITY_COLUMNS;
use crate::nano::UnixSeconds;
use crate::routes::Unit;
use crate::store::columns::{self, Columns, SHARE_COLUMNS};
use crate::store::encoding::{amounts, hashes_from, stored, stored_name};
use crate::store::escrow::{Changes, Counts, Escrow, Share, StoredCapability, ToppedUp};
use crate::store::{
    CapabilityId, CapabilityRecord, Grantee, Holder, Intent, Lease, LeaseRequest, OutstandingGrants,
    PaymentRecord,
};

/// The payment that bought the capability with the id `$1`. `$2` and `$3` are the first and the last hash
/// that begin with it.
pub(super) const BY_ID: &str = "(SELECT payment FROM capabilities WHERE name = $1::bytea
        UNION ALL SELECT b.payment FROM claims AS c JOIN capabilities AS b ON b.payment = c.sequence
        WHERE c.block BETWEEN $2::bytea AND $3::bytea AND b.name IS NULL)";

/// As [`BY_ID`], of the id and the hashes of an item of a batch.
const BY_ITEM: &str = "SELECT payment FROM capabilities WHERE name = item.id
        UNION ALL SELECT b.payment FROM claims AS c JOIN capabilities AS b ON b.payment = c.sequence
        WHERE c.block BETWEEN item.first AND item.last AND b.name IS NULL";

/// Whether something is left of a capability `k`. Amounts of 16 bytes sort as they are.
pub(super) const LEFT: &str =
    "(k.spent < k.uses OR substring(k.balance FROM 17) < substring(k.balance FROM 1 FOR 16))";

/// What a batch of grants has beside the intents: the [`Opening`]s.
pub(super) const OPENINGS: &str =
    "capability, first, last, name, uses, expires_at, holder, lent, remaining, lapses_at, balance, amounts";

/// The arrays of [`OPENINGS`].
pub(super) const OPENING_ARRAYS: &str =
    "$18::bytea[], $19::bytea[], $20::bytea[], $21::bytea[], $22::bigint[],
            $23::bigint[], $24::bytea[], $25::bigint[], $26::bigint[], $27::bigint[], $28::bytea[], $29::bytea[]";

/// Nothing has the id of the item's capability: neither by its name, nor by the hash of its payment. Of hashes that
/// begin with it, one that bought nothing yet does not count.
pub(super) const FREE: &str = "(SELECT true FROM capabilities AS k WHERE k.name = item.capability) IS NULL
            AND coalesce((SELECT near.block > item.last
                    OR (SELECT true FROM capabilities AS k WHERE k.payment = near.sequence AND k.name IS NULL) IS NULL
                FROM (SELECT c.block, c.sequence FROM claims AS c
                    WHERE c.block >= item.first AND c.block <> item.block ORDER BY c.block LIMIT 1) AS near), true)";

/// Makes the capabilities of the items whose payments are in `granted`, each with the share of its first
/// holder, who has all out that it was lent.
pub(super) const OPEN: &str = ", bought AS (
        INSERT INTO capabilities (payment, name, uses, expires_at, balance)
        SELECT sequence, name, uses, expires_at, balance FROM granted JOIN item USING (block)
    ), shared AS (
        INSERT INTO leases
            (payment, holder, sequence, outstanding, late, granted, remaining, elsewhere, expires_at, amounts)
        SELECT sequence, holder, 0, lent, 0, lent, remaining, 0, lapses_at, amounts FROM granted JOIN item USING (block)
    )";

/// A capability that is made together with its payment, or as soon as that is granted.
pub(super) struct Opening {
    pub(super) record: CapabilityRecord,
    pub(super) lease: Lease,
    holder: Holder,
}

impl Opening {
    /// The capability that `intent` buys at `now`, and the lease of its first holder.
    pub(super) fn new(intent: &Intent, grantee: Grantee, now: UnixSeconds) -> Self {
        let record = CapabilityRecord::bought(intent, grantee.id, now);
        let capability = StoredCapability { payment: 0, record, spent: 0, broken: 0 };
        let lease = Escrow::new(&capability, Vec::new(), now).apply_grant(grantee, now).answer;
        Self { record: capability.record, lease, holder: grantee.holder }
    }
}

/// The values of [`OPENING_ARRAYS`].
pub(super) fn opening_arrays(openings: &[Opening]) -> Vec<Value> {
    let records = || openings.iter().map(|it| &it.record);
    let leases = || openings.iter().map(|it| it.lease);
    let stocks = || records().map(|it| amounts(it.unit, [it.stock, 0]));
    let shares = || {
        openings.iter().map(|it| {
            let Lease { granted, remaining, .. } = it.lease;
            amounts(it.record.unit, [granted, 0, granted, remaining, 0])
        })
    };
    let bounds = || records().map(|it| bounds(it.id));
    vec![
        column(bounds().map(|[id, _, _]| id)),
        column(bounds().map(|[_, first, _]| first)),
        column(bounds().map(|[_, _, last]| last)),
        column(records().map(|it| stored_name(it.id, it.block))),
        column(stocks().map(|([uses, _], _)| uses)),
        column(records().map(|it| stored(it.expires_at.0))),
        column(openings.iter().map(|it| it.holder.0.to_vec())),
        column(shares().map(|([lent, ..], _)| lent)),
        column(shares().map(|([_, _, _, remaining, _], _)| remaining)),
        column(leases().map(|it| stored(it.expires_at.0))),
        column(stocks().map(|(_, bytes)| bytes)),
        column(shares().map(|(_, bytes)| bytes)),
    ]
}

/// An id, and the first and the last hash that begin with it.
pub(super) fn bounds(id: CapabilityId) -> [Vec<u8>; 3] {
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

pub(super) async fn by_id(
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
    let mut record = CapabilityRecord::bought(&payment.intent, grantee.id, now);
    if let Some(id) = payment.intent.adds_to()
        && let Some(purse) = by_id(transaction, id, "FOR UPDATE OF k").await?
        && let Some(ToppedUp { counts, expires_at }) = purse.top_up(&mut record, now)
    {
        let (_, balance) = amounts(Unit::Raw, [counts.stock, counts.spent]);
        let sql = "UPDATE capabilities SET balance = $2, expires_at = $3 WHERE payment = $1";
        let values: [&(dyn ToSql + Sync); 3] = [&stored(purse.payment), &balance, &stored(expires_at.0)];
        query(transaction, sql, &values).await?;
    }
    let sql =
        "INSERT INTO capabilities (payment, name, uses, expires_at, balance) VALUES ($1, $2, $3, $4, $5)";
    let ([uses, _], balance) = amounts(record.unit, [record.stock, 0]);
    let values: [&(dyn ToSql + Sync); 5] = [
        &stored(payment.sequence),
        &stored_name(record.id, record.block),
        &uses,
        &stored(record.expires_at.0),
        &balance,
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
#[derive(Clone, Copy, Debug)]
pub(super) struct Leasing {
    pub(super) request: LeaseRequest,
    pub(super) now: UnixSeconds,
}

impl Call for Leasing {
    type Answer = Lease;

    fn keys(&self) -> Vec<Key> {
        vec![Key::Capability(self.request.capability)]
    }

    fn together(
        client: &mut Client,
        calls: Arc<Vec<Self>>,
    ) -> BoxFuture<'_, Result<Vec<Option<Lease>>, Fault>> {
        Box::pin(async move {
            let outcome = lease_together(client, calls).await;
            or_undone(client, outcome).await
        })
    }

    fn alone(client: &mut Client, call: Arc<Self>) -> BoxFuture<'_, Result<Lease, Fault>> {
        Box::pin(lease(client, call.request, call.now))
    }
}

/// A lease call that fits is applied; one that does not has to be made alone, for its reason.
async fn lease_together(client: &Client, calls: Arc<Vec<Leasing>>) -> Result<Vec<Option<Lease>>, Fault> {
    let bounds = || calls.iter().map(|call| bounds(call.request.capability));
    let arrays = [
        column(bounds().map(|[id, _, _]| id)),
        column(bounds().map(|[_, first, _]| first)),
        column(bounds().map(|[_, _, last]| last)),
    ];
    let sql = format!(
        "WITH item AS MATERIALIZED (
            SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bytea[]) AS i(id, first, last)
        ), wanted AS MATERIALIZED (
            SELECT found.payment FROM item, LATERAL ({BY_ITEM}) AS found
        )
        SELECT {CAPABILITY_COLUMNS} FROM wanted JOIN capabilities AS k ON k.payment = wanted.payment
        JOIN payments AS p ON p.sequence = k.payment ORDER BY k.payment FOR UPDATE OF k"
    );
    let found = begin_batch(client, &sql, &arrays).await?;
    let mut capabilities = BTreeMap::new();
    for row in &found {
        let capability = columns::capability(row)?;
        capabilities.insert(capability.record.id, capability);
    }
    // A statement of its own after the locks, so that it sees what their last holders wrote.
    let payments: Vec<i64> = capabilities.values().map(|it| stored(it.payment)).collect();
    let sql = format!("SELECT {SHARE_COLUMNS}, payment FROM leases WHERE payment = ANY($1)");
    let mut shares: BTreeMap<u64, Vec<Share>> = BTreeMap::new();
    for row in query(client, &sql, &[&payments]).await? {
        shares.entry(row.number(10)?).or_default().push(columns::share(&row)?);
    }
    let mut answers = Vec::with_capacity(calls.len());
    let mut changed = Vec::new();
    for Leasing { request, now } in calls.iter() {
        let applied = capabilities.get(&request.capability).and_then(|capability| {
            let shares = shares.remove(&capability.payment).unwrap_or_default();
            let changes = Escrow::new(capability, shares, *now).apply_lease(request, *now).ok()?;
            Some((capability.payment, changes))
        });
        answers.push(applied.as_ref().map(|(_, changes)| changes.answer));
        changed.extend(applied);
    }
    commit_batch(client, &write_together(&changed)).await?;
    Ok(answers)
}

/// The statements that write what the calls of a batch changed.
fn write_together(changed: &[(u64, Changes)]) -> [(&'static str, Vec<Value>); 2] {
    let counts = || changed.iter().filter_map(|(payment, it)| Some((*payment, it.unit, it.counts?)));
    let spent = || counts().map(|(_, unit, it)| amounts(unit, [it.stock, it.spent]));
    let shares =
        || changed.iter().flat_map(|(payment, it)| it.shares.iter().map(move |share| (*payment, share)));
    let cells = || changed.iter().flat_map(|(_, it)| it.shares.iter().map(|share| share.amounts(it.unit)));
    let count = "UPDATE capabilities AS k SET spent = c.spent, broken = c.broken, balance = c.balance
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[]) AS c(payment, spent, broken, balance)
        WHERE k.payment = c.payment";
    let counted = vec![
        column(counts().map(|(payment, ..)| stored(payment))),
        column(spent().map(|([_, spent], _)| spent)),
        column(counts().map(|(_, _, it)| i64::from(it.broken))),
        column(spent().map(|(_, bytes)| bytes)),
    ];
    let share = "INSERT INTO leases (payment, holder, sequence, outstanding, late, granted, remaining, elsewhere,
            expires_at, broken, amounts)
        SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
            $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bytea[])
        ON CONFLICT (payment, holder) DO UPDATE SET sequence = excluded.sequence,
            outstanding = excluded.outstanding, late = excluded.late, granted = excluded.granted,
            remaining = excluded.remaining, elsewhere = excluded.elsewhere, expires_at = excluded.expires_at,
            broken = excluded.broken, amounts = excluded.amounts";
    let shared = vec![
        column(shares().map(|(payment, _)| stored(payment))),
        column(shares().map(|(_, it)| it.holder.0.to_vec())),
        column(shares().map(|(_, it)| stored(it.sequence))),
        column(cells().map(|([outstanding, ..], _)| outstanding)),
        column(cells().map(|([_, late, ..], _)| late)),
        column(cells().map(|([_, _, granted, ..], _)| granted)),
        column(cells().map(|([_, _, _, remaining, _], _)| remaining)),
        column(cells().map(|([.., elsewhere], _)| elsewhere)),
        column(shares().map(|(_, it)| stored(it.answer.expires_at.0))),
        column(shares().map(|(_, it)| i64::from(it.answer.broken))),
        column(cells().map(|(_, bytes)| bytes)),
    ];
    [(count, counted), (share, shared)]
}

async fn lease(client: &mut Client, request: LeaseRequest, now: UnixSeconds) -> Result<Lease, Fault> {
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
pub(super) async fn write<A>(
    transaction: &Transaction<'_>,
    payment: u64,
    changes: Changes<A>,
) -> Result<A, Fault> {
    let unit = changes.unit;
    if let Some(Counts { stock, spent, broken }) = changes.counts {
        let ([_, spent], balance) = amounts(unit, [stock, spent]);
        let sql = "UPDATE capabilities SET spent = $2, broken = $3, balance = $4 WHERE payment = $1";
        let values: [&(dyn ToSql + Sync); 4] = [&stored(payment), &spent, &i64::from(broken), &balance];
        query(transaction, sql, &values).await?;
    }
    for share in &changes.shares {
        write_share(transaction, payment, unit, share).await?;
    }
    Ok(changes.answer)
}

/// As [`Engine::outstanding`](crate::store::Engine::outstanding).
pub(super) async fn outstanding(client: &Client, now: UnixSeconds) -> Result<Vec<OutstandingGrants>, Fault> {
    let sql = format!(
        "SELECT p.route, p.price::text, p.requests, max(p.seconds), substring(p.challenge FROM 13 FOR 4), \
         count(*), sum(k.uses - k.spent)::bigint, p.exchange \
         FROM capabilities AS k JOIN payments AS p ON p.sequence = k.payment \
         WHERE k.revoked_at IS NULL AND k.expires_at > $1 AND {LEFT} GROUP BY 1, p.price, 3, 5, 8"
    );
    let found = query(client, &sql, &[&stored(now.0)]).await?;
    found.iter().map(columns::outstanding).collect()
}

pub(super) async fn shares(transaction: &Transaction<'_>, payment: u64) -> Result<Vec<Share>, Fault> {
    let sql = format!("SELECT {SHARE_COLUMNS} FROM leases WHERE payment = $1");
    query(transaction, &sql, &[&stored(payment)]).await?.iter().map(columns::share).collect()
}

async fn write_share(
    transaction: &Transaction<'_>,
    payment: u64,
    unit: Unit,
    share: &Share,
) -> Result<(), Fault> {
    let sql = format!(
        "INSERT INTO leases (payment, {SHARE_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
         ON CONFLICT (payment, holder) DO UPDATE SET sequence = excluded.sequence, \
         outstanding = excluded.outstanding, late = excluded.late, granted = excluded.granted, \
         remaining = excluded.remaining, elsewhere = excluded.elsewhere, expires_at = excluded.expires_at, \
         broken = excluded.broken, amounts = excluded.amounts"
    );
    let holder = &share.holder.0[..];
    let ([outstanding, late, granted, remaining, elsewhere], bytes) = share.amounts(unit);
    let values: [&(dyn ToSql + Sync); 11] = [
        &stored(payment),
        &holder,
        &stored(share.sequence),
        &outstanding,
        &late,
        &granted,
        &remaining,
        &elsewhere,
        &stored(share.answer.expires_at.0),
        &i64::from(share.answer.broken),
        &bytes,
    ];
    query(transaction, &sql, &values).await.map(drop)
}
