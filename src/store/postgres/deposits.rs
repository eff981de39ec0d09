//! The operations on deposits to the pool and on the blocks of sweeps.

use deadpool_postgres::{Client, GenericClient};
use tokio_postgres::types::ToSql;

use super::fault::Fault;
use super::query::{apply, execute, query};
use super::rows;
use crate::nano::{BlockHash, UnixSeconds};
use crate::store::columns;
use crate::store::deposits::{Deposit, Mark, Noted, SeenDeposit, SweepBlock, SweepRecord, SweepState};
use crate::store::encoding::{action_code, in_sweep_state, most, start, stored, sweep_state_code};

/// `DepositJournal::note_deposits`. Instances that trim at the same time leave a few more or fewer for a moment.
pub(super) async fn note_deposits(
    client: &mut Client,
    mut deposits: Vec<Deposit>,
    keep: u32,
    now: UnixSeconds,
) -> Result<Noted, Fault> {
    // In the same order everywhere, so that two instances do not wait for each other.
    deposits.sort_by_key(|it| it.block);
    let blocks: Vec<&[u8]> = deposits.iter().map(|it| &it.block.0[..]).collect();
    let accounts: Vec<&[u8]> = deposits.iter().map(|it| &it.account.0[..]).collect();
    let senders: Vec<Option<&[u8]>> =
        deposits.iter().map(|it| it.sender.as_ref().map(|sender| &sender.0[..])).collect();
    let amounts: Vec<String> = deposits.iter().map(|it| it.amount.to_string()).collect();
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    let sql = "INSERT INTO deposits (block, account, sender, amount, seen_at) \
         SELECT d.block, d.account, d.sender, d.amount::numeric, $5 \
         FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::text[]) AS d (block, account, sender, amount) \
         WHERE NOT EXISTS (SELECT FROM claims AS c WHERE c.block = d.block) \
         ORDER BY d.block ON CONFLICT DO NOTHING";
    let values: [&(dyn ToSql + Sync); 5] = [&blocks, &accounts, &senders, &amounts, &stored(now.0)];
    let fresh = execute(&transaction, sql, &values).await?;
    let dropped =
        if count(&transaction).await? > i64::from(keep) { trim(&transaction, keep).await? } else { 0 };
    transaction.commit().await.map_err(Fault::committing)?;
    Ok(Noted { fresh, dropped })
}

async fn count(client: &impl GenericClient) -> Result<i64, Fault> {
    let rows = query(client, "SELECT count(*) FROM deposits", &[]).await?;
    rows.first().map_or(Ok(0), |row| rows::get(row, 0))
}

/// Deletes the deposits that are claimed (the payments show them), and then the smallest.
async fn trim(client: &impl GenericClient, keep: u32) -> Result<u64, Fault> {
    execute(client, "DELETE FROM deposits WHERE block IN (SELECT block FROM claims)", &[]).await?;
    let beyond = count(client).await?.saturating_sub(i64::from(keep)).max(0);
    let smallest = "DELETE FROM deposits WHERE block IN \
         (SELECT block FROM deposits ORDER BY amount, block LIMIT $1)";
    execute(client, smallest, &[&beyond]).await
}

/// `DepositJournal::unclaimed`.
pub(super) async fn unclaimed(
    client: &Client,
    after: Option<Mark>,
    limit: usize,
) -> Result<Vec<SeenDeposit>, Fault> {
    let sql = "SELECT d.seen_at, d.block, d.account, d.sender, d.amount::text FROM deposits AS d \
         WHERE (d.seen_at, d.block) > ($1, $2::bytea) \
         AND NOT EXISTS (SELECT FROM claims AS c WHERE c.block = d.block) \
         ORDER BY d.seen_at, d.block LIMIT $3";
    let (at, block) = start(after);
    query(client, sql, &[&at, &block, &most(limit)]).await?.iter().map(columns::deposit).collect()
}

/// `DepositJournal::plan_sweep`.
pub(super) async fn plan_sweep(client: &Client, it: SweepBlock, now: UnixSeconds) -> Result<(), Fault> {
    let sql = "INSERT INTO sweeps (block, account, action, amount, previous, link, state, planned_at) \
         VALUES ($1, $2, $3, $4::text::numeric, $5, $6, $7, $8) ON CONFLICT DO NOTHING";
    let values: [&(dyn ToSql + Sync); 8] = [
        &&it.block.0[..],
        &&it.account.0[..],
        &i16::from(action_code(it.action)),
        &it.amount.to_string(),
        &&it.previous.0[..],
        &&it.link[..],
        &i16::from(sweep_state_code(SweepState::Planned)),
        &stored(now.0),
    ];
    apply(client, sql, &values).await.map(drop)
}

/// `DepositJournal::end_sweep`.
pub(super) async fn end_sweep(
    client: &Client,
    block: BlockHash,
    confirmed: bool,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    let state = if confirmed { SweepState::Confirmed } else { SweepState::Superseded };
    // A planned block ends either way, a superseded one only confirmed.
    let sql =
        "UPDATE sweeps SET state = $2, ended_at = $3 WHERE block = $1 AND (state = 0 OR (state = 2 AND $4))";
    let values: [&(dyn ToSql + Sync); 4] =
        [&&block.0[..], &i16::from(sweep_state_code(state)), &stored(now.0), &confirmed];
    Ok(apply(client, sql, &values).await? > 0)
}

/// `DepositJournal::sweeps`.
pub(super) async fn sweeps(
    client: &Client,
    state: Option<SweepState>,
    after: Option<Mark>,
    limit: usize,
) -> Result<Vec<SweepRecord>, Fault> {
    let condition = in_sweep_state(state);
    let sql = format!(
        "SELECT block, account, action::bigint, amount::text, previous, link, state::bigint, planned_at, ended_at \
         FROM sweeps \
         WHERE (planned_at, block) > ($1, $2::bytea) {condition} ORDER BY planned_at, block LIMIT $3"
    );
    let (at, block) = start(after);
    query(client, &sql, &[&at, &block, &most(limit)]).await?.iter().map(columns::sweep).collect()
}
