//! The operations on refunds. A capability's row is locked while it is closed.

use deadpool_postgres::{Client, GenericClient};
use tokio_postgres::types::ToSql;

use super::capabilities::{self, BY_ID, LEFT, bounds};
use super::fault::Fault;
use super::journal;
use super::query::{apply, execute, query};
use crate::nano::{BlockHash, Raw, StateBlock, UnixSeconds};
use crate::store::CapabilityId;
use crate::store::columns::{self, EXPIRED_COLUMNS, REFUND_COLUMNS};
use crate::store::encoding::{encode_block, in_refund_state, most, refund_state_code, stored};
use crate::store::escrow::Escrow;
use crate::store::refunds::{
    Closing, ExpiredPurse, ExpiryMark, RefundRecord, RefundSearch, RefundState, due, objection,
};

/// The columns of refunds, and where they are read from.
fn select() -> String {
    // A `smallint` is not read as a number.
    let columns = REFUND_COLUMNS.replace("r.state", "r.state::bigint");
    format!(
        "SELECT {columns}, r.amount::text FROM refunds AS r JOIN capabilities AS k ON k.payment = r.payment \
         JOIN payments AS p ON p.sequence = r.payment"
    )
}

async fn of_payment(client: &impl GenericClient, payment: u64) -> Result<Option<RefundRecord>, Fault> {
    let sql = format!("{} WHERE r.payment = $1", select());
    query(client, &sql, &[&stored(payment)]).await?.first().map(columns::refund).transpose()
}

/// `RefundJournal::refund`.
pub(super) async fn find(
    client: &impl GenericClient,
    id: CapabilityId,
) -> Result<Option<RefundRecord>, Fault> {
    let sql = format!("{} WHERE r.payment IN {BY_ID}", select());
    let [id, first, last] = bounds(id);
    query(client, &sql, &[&id, &first, &last]).await?.first().map(columns::refund).transpose()
}

/// `RefundJournal::close_capability`.
pub(super) async fn close(
    client: &mut Client,
    id: CapabilityId,
    at_least: Raw,
    now: UnixSeconds,
) -> Result<Closing, Fault> {
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    let Some(capability) = capabilities::by_id(&transaction, id, "FOR UPDATE OF k").await? else {
        return Ok(Closing::Unknown);
    };
    // Statements of their own after the lock, so that they see what its last holder wrote.
    let (payment, record) = (capability.payment, &capability.record);
    let intent = journal::find(&transaction, record.block).await?.ok_or_else(|| no_payment(id))?.intent;
    match of_payment(&transaction, payment).await? {
        Some(refund) if refund.state != RefundState::Closing => return Ok(Closing::Refund(Box::new(refund))),
        Some(_) => {}
        None => {
            if let Some(objection) = objection(record, &intent) {
                return Ok(objection);
            }
            let sql = "INSERT INTO refunds (payment, state, amount, closed_at, updated_at) VALUES ($1, $2, 0, $3, $3)";
            let code = i16::from(refund_state_code(RefundState::Closing));
            execute(&transaction, sql, &[&stored(payment), &code, &stored(now.0)]).await?;
            let sql = "UPDATE capabilities SET revoked_at = $2 WHERE payment = $1";
            execute(&transaction, sql, &[&stored(payment), &stored(now.0)]).await?;
        }
    }
    let shares = capabilities::shares(&transaction, payment).await?;
    let changes = Escrow::new(&capability, shares, now).apply_close(now);
    if let Some(left) = capabilities::write(&transaction, payment, changes).await? {
        let (state, amount) = due(record, left, &intent, at_least);
        let sql =
            "UPDATE refunds SET state = $2, amount = $3::text::numeric, updated_at = $4 WHERE payment = $1";
        let code = i16::from(refund_state_code(state));
        let values: [&(dyn ToSql + Sync); 4] = [&stored(payment), &code, &amount.to_string(), &stored(now.0)];
        execute(&transaction, sql, &values).await?;
    }
    let refund = of_payment(&transaction, payment).await?.ok_or_else(|| no_payment(id))?;
    transaction.commit().await.map_err(Fault::committing)?;
    Ok(Closing::Refund(Box::new(refund)))
}

/// Only a broken store leads here.
fn no_payment(id: CapabilityId) -> Fault {
    Fault::Unfit(format!("no payment or refund of the capability {id}"))
}

/// `RefundJournal::refunds`.
pub(super) async fn list(client: &Client, search: RefundSearch) -> Result<Vec<RefundRecord>, Fault> {
    let condition = in_refund_state(search.state, search.unfinished);
    let sql = format!("{} WHERE r.payment > $1 {condition} ORDER BY r.payment LIMIT $2", select());
    let values: [&(dyn ToSql + Sync); 2] = [&stored(search.after.unwrap_or_default()), &most(search.limit)];
    query(client, &sql, &values).await?.iter().map(columns::refund).collect()
}

/// `RefundJournal::take_refunds`.
pub(super) async fn take(
    client: &mut Client,
    until: UnixSeconds,
    limit: usize,
    now: UnixSeconds,
) -> Result<Vec<RefundRecord>, Fault> {
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    // What another instance takes at this moment is passed over.
    let sql = "UPDATE refunds SET taken_until = $1 WHERE payment IN ( \
             SELECT payment FROM refunds WHERE state IN (1, 2) AND taken_until <= $2 \
             ORDER BY taken_until, payment LIMIT $3 FOR UPDATE SKIP LOCKED) RETURNING payment";
    let found = query(&transaction, sql, &[&stored(until.0), &stored(now.0), &most(limit)]).await?;
    let mut payments = Vec::with_capacity(found.len());
    for row in &found {
        payments.push(super::rows::get::<i64>(row, 0)?);
    }
    let sql = format!("{} WHERE r.payment = ANY($1) ORDER BY r.payment", select());
    let taken = query(&transaction, &sql, &[&payments]).await?;
    let taken = taken.iter().map(columns::refund).collect::<Result<_, _>>()?;
    transaction.commit().await.map_err(Fault::committing)?;
    Ok(taken)
}

/// `RefundJournal::sign_refund`.
pub(super) async fn sign(
    client: &mut Client,
    id: CapabilityId,
    instead_of: Option<BlockHash>,
    block: StateBlock,
    now: UnixSeconds,
) -> Result<RefundRecord, Fault> {
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    let refund = find(&transaction, id).await?.ok_or_else(|| no_payment(id))?;
    if refund.account != block.destination() {
        return Err(Fault::Unfit("the block goes to another account".to_owned()));
    }
    // Of two at once, the second waits for the first and then finds its block.
    let sql = "UPDATE refunds SET state = 2, signed = $2, hash = $3, updated_at = $4 \
         WHERE payment = $1 AND state IN (1, 2) AND hash IS NOT DISTINCT FROM $5::bytea";
    let hash = block.hash();
    let before = instead_of.as_ref().map(|it| &it.0[..]);
    let values: [&(dyn ToSql + Sync); 5] =
        [&stored(refund.sequence), &encode_block(&block), &&hash.0[..], &stored(now.0), &before];
    execute(&transaction, sql, &values).await?;
    let refund = of_payment(&transaction, refund.sequence).await?.ok_or_else(|| no_payment(id))?;
    transaction.commit().await.map_err(Fault::committing)?;
    Ok(refund)
}

/// `RefundJournal::confirm_refund`.
pub(super) async fn confirm(
    client: &Client,
    id: CapabilityId,
    block: BlockHash,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    let sql = format!(
        "UPDATE refunds SET state = 3, updated_at = $5 WHERE payment IN {BY_ID} AND state = 2 AND hash = $4"
    );
    let [id, first, last] = bounds(id);
    let values: [&(dyn ToSql + Sync); 5] = [&id, &first, &last, &&block.0[..], &stored(now.0)];
    Ok(apply(client, &sql, &values).await? > 0)
}

/// `RefundJournal::expired_purses`.
pub(super) async fn expired(
    client: &Client,
    after: ExpiryMark,
    limit: usize,
    now: UnixSeconds,
) -> Result<Vec<ExpiredPurse>, Fault> {
    let sql = format!(
        "SELECT {EXPIRED_COLUMNS} FROM capabilities AS k JOIN payments AS p ON p.sequence = k.payment \
         WHERE k.balance IS NOT NULL AND k.revoked_at IS NULL AND (k.expires_at, k.payment) > ($1, $2) \
         AND k.expires_at <= $3 AND {LEFT} ORDER BY k.expires_at, k.payment LIMIT $4"
    );
    let values: [&(dyn ToSql + Sync); 4] =
        [&stored(after.expires_at.0), &stored(after.sequence), &stored(now.0), &most(limit)];
    query(client, &sql, &values).await?.iter().map(columns::expired_purse).collect()
}
