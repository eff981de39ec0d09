//! The operations on deposits to the pool and on the blocks of sweeps.

use rusqlite::{Connection, params};

use super::fault::Fault;
use crate::nano::{BlockHash, UnixSeconds};
use crate::store::columns;
use crate::store::deposits::{Deposit, Mark, Noted, SeenDeposit, SweepBlock, SweepRecord, SweepState};
use crate::store::encoding::{action_code, in_sweep_state, most, start, stored, sweep_state_code};

/// `DepositJournal::note_deposits`.
pub(super) fn note_deposits(
    db: &Connection,
    deposits: &[Deposit],
    keep: u32,
    now: UnixSeconds,
) -> Result<Noted, Fault> {
    let mut fresh = 0_usize;
    let mut insert = db.prepare_cached(
        "INSERT INTO deposits (block, account, sender, amount, seen_at) SELECT ?1, ?2, ?3, ?4, ?5 \
         WHERE NOT EXISTS (SELECT 1 FROM claims WHERE block = ?1) ON CONFLICT DO NOTHING",
    )?;
    for it in deposits {
        let sender = it.sender.map(|sender| sender.0);
        let added = insert.execute(params![
            it.block.0,
            it.account.0,
            sender,
            it.amount.to_be_bytes(),
            stored(now.0)
        ])?;
        fresh = fresh.saturating_add(added);
    }
    let dropped = if count(db)? > i64::from(keep) { trim(db, keep)? } else { 0 };
    Ok(Noted { fresh: counted(fresh), dropped: counted(dropped) })
}

fn count(db: &Connection) -> Result<i64, Fault> {
    Ok(db.prepare_cached("SELECT count(*) FROM deposits")?.query_row([], |row| row.get(0))?)
}

/// Deletes the deposits that are claimed (the payments show them), and then the smallest.
fn trim(db: &Connection, keep: u32) -> Result<usize, Fault> {
    db.prepare_cached("DELETE FROM deposits WHERE block IN (SELECT block FROM claims)")?.execute([])?;
    let beyond = count(db)?.saturating_sub(i64::from(keep)).max(0);
    let smallest = "DELETE FROM deposits WHERE block IN \
         (SELECT block FROM deposits ORDER BY amount, block LIMIT ?1)";
    Ok(db.prepare_cached(smallest)?.execute([beyond])?)
}

fn counted(rows: usize) -> u64 {
    u64::try_from(rows).unwrap_or(u64::MAX)
}

/// `DepositJournal::unclaimed`.
pub(super) fn unclaimed(
    db: &Connection,
    after: Option<Mark>,
    limit: usize,
) -> Result<Vec<SeenDeposit>, Fault> {
    let mut statement = db.prepare_cached(
        "SELECT d.seen_at, d.block, d.account, d.sender, d.amount FROM deposits AS d \
         WHERE (d.seen_at, d.block) > (?1, ?2) \
         AND NOT EXISTS (SELECT 1 FROM claims AS c WHERE c.block = d.block) \
         ORDER BY d.seen_at, d.block LIMIT ?3",
    )?;
    let (at, block) = start(after);
    let found = statement.query_map(params![at, block, most(limit)], |row| columns::deposit(row))?;
    Ok(found.collect::<Result<_, _>>()?)
}

/// `DepositJournal::plan_sweep`.
pub(super) fn plan_sweep(db: &Connection, it: &SweepBlock, now: UnixSeconds) -> Result<(), Fault> {
    db.prepare_cached(
        "INSERT INTO sweeps (block, account, action, amount, previous, link, state, planned_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
    )?
    .execute(params![
        it.block.0,
        it.account.0,
        action_code(it.action),
        it.amount.to_be_bytes(),
        it.previous.0,
        it.link,
        sweep_state_code(SweepState::Planned),
        stored(now.0),
    ])?;
    Ok(())
}

/// `DepositJournal::end_sweep`.
pub(super) fn end_sweep(
    db: &Connection,
    block: BlockHash,
    confirmed: bool,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    // A planned block ends either way, a superseded one only confirmed.
    let state = if confirmed { SweepState::Confirmed } else { SweepState::Superseded };
    let moved = db
        .prepare_cached(
            "UPDATE sweeps SET state = ?2, ended_at = ?3 WHERE block = ?1 \
             AND (state = 0 OR (state = 2 AND ?4))",
        )?
        .execute(params![block.0, sweep_state_code(state), stored(now.0), confirmed])?;
    Ok(moved > 0)
}

/// `DepositJournal::sweeps`.
pub(super) fn sweeps(
    db: &Connection,
    state: Option<SweepState>,
    after: Option<Mark>,
    limit: usize,
) -> Result<Vec<SweepRecord>, Fault> {
    let condition = in_sweep_state(state);
    let sql = format!(
        "SELECT block, account, action, amount, previous, link, state, planned_at, ended_at FROM sweeps \
         WHERE (planned_at, block) > (?1, ?2) {condition} ORDER BY planned_at, block LIMIT ?3"
    );
    let (at, block) = start(after);
    let mut statement = db.prepare_cached(&sql)?;
    let found = statement.query_map(params![at, block, most(limit)], |row| columns::sweep(row))?;
    Ok(found.collect::<Result<_, _>>()?)
}
