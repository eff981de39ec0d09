//! What the operator asks of the store.

use deadpool_postgres::Client;
use tokio_postgres::types::ToSql;

use super::capabilities::{BY_ID, LEFT, bounds};
use super::fault::Fault;
use super::query::{apply, query};
use super::rows::{CAPABILITY_COLUMNS, NO_PAYMENT, PAYMENT_COLUMNS};
use crate::nano::UnixSeconds;
use crate::store::columns;
use crate::store::encoding::{GIVEN, below, in_state, most, stored};
use crate::store::operator::{CapabilityEntry, CapabilitySearch, PaymentSearch, Remark};
use crate::store::{CapabilityId, Filter, PaymentRecord};

/// What follows [`CAPABILITY_COLUMNS`] in the columns of [`columns::entry`], with the tables. `$1` is the time.
const ENTRY: &str = "coalesce((SELECT sum(l.outstanding) FROM leases AS l \
     WHERE l.payment = k.payment AND l.expires_at > $1::bigint), 0)::bigint, \
     coalesce((SELECT encode(string_agg(substring(l.amounts FROM 1 FOR 16), ''::bytea), 'hex') FROM leases AS l \
     WHERE l.payment = k.payment AND l.expires_at > $1::bigint), ''), \
     p.payer, p.amount::text, p.updated_at, k.revoked_at, \
     g.at, coalesce(g.who, ''), coalesce(g.why, ''), r.at, coalesce(r.who, ''), coalesce(r.why, '') \
     FROM capabilities AS k JOIN payments AS p ON p.sequence = k.payment \
     LEFT JOIN operator_acts AS g ON g.payment = k.payment AND g.act = 0 \
     LEFT JOIN operator_acts AS r ON r.payment = k.payment AND r.act = 1";

/// `OperatorJournal::search_payments`.
pub(super) async fn search_payments(
    client: &Client,
    search: PaymentSearch,
) -> Result<Vec<PaymentRecord>, Fault> {
    let condition = in_state(Filter { state: search.state });
    let sql = format!(
        "SELECT {PAYMENT_COLUMNS} FROM payments AS p WHERE p.sequence < $1 AND NOT ({NO_PAYMENT}) {condition} \
         AND ($2::text IS NULL OR p.route = $2 OR starts_with(p.route, $2 || '#')) \
         AND ($3::bytea IS NULL OR p.payer = $3) AND p.created_at >= $4 AND p.created_at < $5 \
         ORDER BY p.sequence DESC LIMIT $6"
    );
    let values: [&(dyn ToSql + Sync); 6] = [
        &below(search.before),
        &search.route.as_ref().map(|it| it.as_str()),
        &search.payer.as_ref().map(|it| &it.0[..]),
        &stored(search.since.unwrap_or_default().0),
        &search.until.map_or(i64::MAX, |it| stored(it.0)),
        &most(search.limit),
    ];
    query(client, &sql, &values).await?.iter().map(columns::payment).collect()
}

/// `OperatorJournal::search_capabilities`.
pub(super) async fn search_capabilities(
    client: &Client,
    search: CapabilitySearch,
    now: UnixSeconds,
) -> Result<Vec<CapabilityEntry>, Fault> {
    let sql = format!(
        "SELECT {CAPABILITY_COLUMNS}, {ENTRY} WHERE k.payment < $2 \
         AND ($3::text IS NULL OR p.route = $3 OR starts_with(p.route, $3 || '#')) \
         AND ($4::bytea IS NULL OR p.payer = $4) \
         AND (NOT $5::boolean OR (k.revoked_at IS NULL AND k.expires_at > $1 AND {LEFT})) \
         AND (NOT $6::boolean OR {NO_PAYMENT}) ORDER BY k.payment DESC LIMIT $7"
    );
    let values: [&(dyn ToSql + Sync); 7] = [
        &stored(now.0),
        &below(search.before),
        &search.route.as_ref().map(|it| it.as_str()),
        &search.payer.as_ref().map(|it| &it.0[..]),
        &search.open,
        &search.free,
        &most(search.limit),
    ];
    query(client, &sql, &values).await?.iter().map(columns::entry).collect()
}

/// `OperatorJournal::capability_entry`.
pub(super) async fn entry(
    client: &Client,
    id: CapabilityId,
    now: UnixSeconds,
) -> Result<Option<CapabilityEntry>, Fault> {
    let sql = "SELECT payment FROM capabilities WHERE payment IN";
    let [id, first, last] = bounds(id);
    let found = query(client, &format!("{sql} {BY_ID}"), &[&id, &first, &last]).await?;
    let Some(payment) = found.first() else { return Ok(None) };
    let payment: i64 = super::rows::get(payment, 0)?;
    let sql = format!("SELECT {CAPABILITY_COLUMNS}, {ENTRY} WHERE k.payment = $2");
    query(client, &sql, &[&stored(now.0), &payment]).await?.first().map(columns::entry).transpose()
}

/// `OperatorJournal::revoke_by`.
pub(super) async fn revoke(
    client: &Client,
    id: CapabilityId,
    remark: Remark,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    let sql = format!(
        "WITH ended AS (UPDATE capabilities SET revoked_at = coalesce(revoked_at, $4) WHERE payment IN {BY_ID} \
             RETURNING payment), \
         noted AS (INSERT INTO operator_acts (payment, act, at, who, why) \
             SELECT payment, 1, $4::bigint, $5::text, $6::text FROM ended ON CONFLICT DO NOTHING) \
         SELECT payment FROM ended"
    );
    let [id, first, last] = bounds(id);
    let values: [&(dyn ToSql + Sync); 6] = [&id, &first, &last, &stored(now.0), &remark.who, &remark.why];
    Ok(apply(client, &sql, &values).await? > 0)
}

/// `OperatorJournal::note_given`.
pub(super) async fn note_given(
    client: &Client,
    id: CapabilityId,
    remark: Remark,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    let sql = format!(
        "WITH found AS (SELECT payment FROM capabilities WHERE payment IN {BY_ID}), \
         noted AS (INSERT INTO operator_acts (payment, act, at, who, why) \
             SELECT payment, $7::smallint, $4::bigint, $5::text, $6::text FROM found ON CONFLICT DO NOTHING) \
         SELECT payment FROM found"
    );
    let [id, first, last] = bounds(id);
    let values: [&(dyn ToSql + Sync); 7] =
        [&id, &first, &last, &stored(now.0), &remark.who, &remark.why, &i16::from(GIVEN)];
    Ok(apply(client, &sql, &values).await? > 0)
}
