//! The operations on the journal and the claimed hashes.
//!
//! What is new takes one statement, which applies only where nothing stands in its way; whatever
//! it finds in its way is then looked at under locks. A rival in the same instant makes one of the
//! two fail on a unique index and look again ([`Fault::Overtaken`]).

use deadpool_postgres::{Client, GenericClient, Transaction};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::fault::Fault;
use super::rows::{self, PAYMENT_COLUMNS};
use super::{answers, capabilities};
use crate::nano::{BlockHash, UnixSeconds};
use crate::store::encoding::{encode_block, frontier, state_code, stored};
use crate::store::inspection::{INVARIANTS, Inspection, broken};
use crate::store::{Begin, CapabilityId, Filter, Grant, Holder, Intent, PaymentRecord, PaymentState};

/// A value of a statement.
pub(super) type Value = Box<dyn ToSql + Send + Sync>;

/// Draws a number in the journal where `$1` is claimed by nobody, and nothing else stands in the
/// way.
const GATE: &str = "WITH gate AS MATERIALIZED (
        SELECT pg_advisory_xact_lock_shared(1178686021, 'payments'::regclass::oid::int)
        WHERE NOT EXISTS (SELECT FROM claims WHERE block = $1)
            AND NOT EXISTS (SELECT FROM payments WHERE identifier = $15::bytea)";

/// Writes the payment `$1` … `$16` under the number that the gate gave, and claims its hash.
const PAY: &str = "), numbered AS MATERIALIZED (
        SELECT nextval('journal') AS sequence FROM gate
    ), paid AS (
        INSERT INTO payments (sequence, block, signed, mechanism, challenge, route, price, requests, seconds,
            payer, amount, pay_to, valid_before, state, created_at, updated_at, identifier, request)
        SELECT sequence, $1::bytea, $2::bytea, $3::text, $4::bytea, $5::text, $6::text::numeric, $7::bigint,
            $8::bigint, $9::bytea, $10::text::numeric, $11::bytea, $12::bigint, $13::smallint, $14::bigint,
            $14::bigint, $15::bytea, $16::bytea
        FROM numbered RETURNING sequence
    ), claimed AS (
        INSERT INTO claims (block, sequence) SELECT $1::bytea, sequence FROM paid
    )";

/// The values `$1` … `$16`.
fn values(intent: &Intent, state: PaymentState, now: UnixSeconds) -> Vec<Value> {
    vec![
        Box::new(intent.block.0.to_vec()),
        Box::new(intent.signed.as_ref().map(encode_block)),
        Box::new(intent.mechanism.as_str()),
        Box::new(intent.challenge.0.to_vec()),
        Box::new(intent.route.as_str().to_owned()),
        Box::new(intent.terms.amount.to_string()),
        Box::new(i64::from(intent.terms.grants.requests.get())),
        Box::new(stored(intent.terms.grants.seconds)),
        Box::new(intent.payer.0.to_vec()),
        Box::new(intent.amount.to_string()),
        Box::new(intent.pay_to.0.to_vec()),
        Box::new(stored(intent.valid_before.0)),
        Box::new(i16::from(state_code(state))),
        Box::new(stored(now.0)),
        Box::new(intent.identified.map(|it| it.id.0.to_vec())),
        Box::new(intent.identified.map(|it| it.request.0.to_vec())),
    ]
}

/// Runs one statement that applies by itself; gives the number in the journal where it did.
async fn apply(client: &Client, sql: &str, values: &[Value]) -> Result<Option<u64>, Fault> {
    let statement = client.prepare_cached(sql).await.map_err(Fault::before_commit)?;
    let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(as_parameter).collect();
    let row = client.query_opt(&statement, &values).await.map_err(Fault::committing)?;
    row.map(|row| rows::number(&row, 0)).transpose()
}

fn as_parameter(value: &Value) -> &(dyn ToSql + Sync) {
    &**value
}

/// `Store::begin`.
pub(super) async fn begin(client: &mut Client, intent: &Intent, now: UnixSeconds) -> Result<Begin, Fault> {
    let mut values = values(intent, PaymentState::Intent, now);
    values.push(Box::new(frontier(intent).map(|previous| previous.0.to_vec())));
    let sql = format!(
        "{GATE} AND NOT EXISTS (SELECT FROM payments WHERE previous = $17::bytea AND state = 0)
        {PAY} SELECT sequence FROM paid"
    );
    if let Some(sequence) = apply(client, &sql, &values).await? {
        let (intent, state) = (intent.clone(), PaymentState::Intent);
        return Ok(Begin::Fresh(PaymentRecord { sequence, intent, state, created_at: now, updated_at: now }));
    }
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    match locked(&transaction, intent.block).await? {
        Claimed::Marked => Ok(Begin::Spent),
        Claimed::By(payment)
            if payment.state != PaymentState::Parked || payment.intent.challenge != intent.challenge =>
        {
            Ok(Begin::Existing(*payment))
        }
        Claimed::By(payment) => {
            if let Some(holder) = frontier_holder(&transaction, &payment.intent).await? {
                return Ok(Begin::FrontierHeld(holder));
            }
            move_to(&transaction, payment.sequence, PaymentState::Intent, now).await?;
            transaction.commit().await.map_err(Fault::committing)?;
            Ok(Begin::Fresh(PaymentRecord { state: PaymentState::Intent, updated_at: now, ..*payment }))
        }
        Claimed::ByNobody => {
            if let Some(holder) = answers::id_held(&transaction, intent).await? {
                transaction.commit().await.map_err(Fault::committing)?;
                return Ok(Begin::IdHeld(holder));
            }
            if let Some(holder) = frontier_holder(&transaction, intent).await? {
                return Ok(Begin::FrontierHeld(holder));
            }
            answers::take_id(&transaction, intent).await?;
            transaction.commit().await.map_err(Fault::committing)?;
            Err(Fault::Overtaken("the id or the frontier was let go".to_owned()))
        }
    }
}

/// `Store::advance`.
pub(super) async fn advance(
    client: &mut Client,
    block: BlockHash,
    from: &[PaymentState],
    to: PaymentState,
    now: UnixSeconds,
) -> Result<bool, Fault> {
    if to == PaymentState::Granted {
        return Err(Fault::Unfit("only a grant makes a payment granted".to_owned()));
    }
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    let Claimed::By(payment) = locked(&transaction, block).await? else { return Ok(false) };
    if payment.state == PaymentState::Granted || !from.contains(&payment.state) {
        return Ok(false);
    }
    if to == PaymentState::Intent
        && let Some(holder) =
            frontier_holder(&transaction, &payment.intent).await?.filter(|holder| *holder != block)
    {
        return Err(Fault::Unfit(format!("payment {holder} holds the frontier of {block}")));
    }
    move_to(&transaction, payment.sequence, to, now).await?;
    transaction.commit().await.map_err(Fault::committing)?;
    Ok(true)
}

/// Who is granted uses by [`grant`], and how many.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grantee {
    pub(super) id: CapabilityId,
    pub(super) holder: Holder,
    pub(super) want: u32,
    /// Seconds.
    pub(super) ttl: u64,
}

/// `Store::grant`.
pub(super) async fn grant(
    client: &mut Client,
    intent: &Intent,
    grantee: Grantee,
    now: UnixSeconds,
) -> Result<Grant, Fault> {
    let mut values = values(intent, PaymentState::Granted, now);
    let opening = capabilities::opening(intent, grantee, now);
    values.extend(opening.values);
    let sql = format!("{GATE} {} {PAY} {} SELECT sequence FROM paid", capabilities::FREE, capabilities::OPEN);
    if apply(client, &sql, &values).await?.is_some() {
        return Ok(Grant::Granted { record: opening.record, lease: opening.lease, fresh: true });
    }
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    let payment = match locked(&transaction, intent.block).await? {
        Claimed::Marked => return Ok(Grant::Taken),
        Claimed::By(payment) if payment.intent.challenge != intent.challenge => return Ok(Grant::Taken),
        Claimed::By(payment) => payment,
        Claimed::ByNobody => {
            if let Some(holder) = answers::id_held(&transaction, intent).await? {
                transaction.commit().await.map_err(Fault::committing)?;
                return Ok(Grant::IdHeld(holder));
            }
            answers::take_id(&transaction, intent).await?;
            capabilities::refuse_taken(&transaction, grantee.id).await?;
            transaction.commit().await.map_err(Fault::committing)?;
            return Err(Fault::Overtaken("the payment is being made, or an id was let go".to_owned()));
        }
    };
    let fresh = payment.state != PaymentState::Granted;
    let (record, lease) = if fresh {
        move_to(&transaction, payment.sequence, PaymentState::Granted, now).await?;
        answers::take_back(&transaction, &payment).await?;
        capabilities::open(&transaction, &payment, grantee, now).await?
    } else {
        capabilities::join(&transaction, payment.sequence, grantee, now).await?
    };
    transaction.commit().await.map_err(Fault::committing)?;
    Ok(Grant::Granted { record, lease, fresh })
}

/// `Store::mark_spent`.
pub(super) async fn mark_spent(client: &Client, block: BlockHash) -> Result<bool, Fault> {
    let sql = "INSERT INTO claims (block) VALUES ($1) ON CONFLICT DO NOTHING";
    let statement = client.prepare_cached(sql).await.map_err(Fault::before_commit)?;
    let marked = client.execute(&statement, &[&&block.0[..]]).await.map_err(Fault::committing)?;
    Ok(marked > 0)
}

/// Whether anybody has claimed the hash.
pub(super) async fn is_claimed(client: &Client, block: BlockHash) -> Result<bool, Fault> {
    let sql = "SELECT FROM claims WHERE block = $1";
    Ok(!query(client, sql, &[&&block.0[..]]).await?.is_empty())
}

/// `Store::payment`.
pub(super) async fn find(client: &Client, block: BlockHash) -> Result<Option<PaymentRecord>, Fault> {
    let sql = format!(
        "SELECT {PAYMENT_COLUMNS} FROM claims AS c JOIN payments AS p ON p.sequence = c.sequence \
         WHERE c.block = $1"
    );
    query(client, &sql, &[&&block.0[..]]).await?.first().map(rows::payment).transpose()
}

/// `Store::scan`. Gives nothing from where a payment may still be on its way into the journal, so
/// that whoever reads on from the last one misses none.
pub(super) async fn scan(
    client: &mut Client,
    after: u64,
    filter: Filter,
    limit: usize,
) -> Result<Vec<PaymentRecord>, Fault> {
    // No row lies after a number that the column cannot hold.
    let Ok(after) = i64::try_from(after) else { return Ok(Vec::new()) };
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let transaction = client.transaction().await.map_err(Fault::before_commit)?;
    query(
        &transaction,
        "SELECT 1 FROM (SELECT pg_advisory_xact_lock(1178686021, 'payments'::regclass::oid::int)) AS alone",
        &[],
    )
    .await?;
    let drawn = query(&transaction, "SELECT last_value FROM journal", &[]).await?;
    transaction.commit().await.map_err(Fault::before_commit)?;
    let Some(drawn) = drawn.first() else { return Ok(Vec::new()) };
    let until: i64 = rows::get(drawn, 0)?;
    // Almost all payments are granted, so that for them the journal itself is the index.
    let condition = match filter.state {
        None => String::new(),
        Some(PaymentState::Granted) => format!("AND p.state = {}", state_code(PaymentState::Granted)),
        Some(state) => format!(
            "AND p.state <> {} AND p.state = {}",
            state_code(PaymentState::Granted),
            state_code(state)
        ),
    };
    let sql = format!(
        "SELECT {PAYMENT_COLUMNS} FROM payments AS p WHERE p.sequence > $1 AND p.sequence <= $2 {condition} \
         ORDER BY p.sequence LIMIT $3"
    );
    query(client, &sql, &[&after, &until, &limit]).await?.iter().map(rows::payment).collect()
}

/// The time of the newest entry in the journal; 0 where there is none.
pub(super) async fn newest(client: &Client) -> Result<u64, Fault> {
    let sql = "SELECT greatest(created_at, updated_at) FROM payments ORDER BY sequence DESC LIMIT 1";
    query(client, sql, &[]).await?.first().map_or(Ok(0), |row| rows::number(row, 0))
}

/// Counts what breaks the rules that hold between rows.
pub(super) async fn inspect(client: &Client) -> Result<Inspection, Fault> {
    let count = async |sql: &str| {
        let rows = query(client, sql, &[]).await?;
        rows.first().map_or(Ok(0), |row| rows::get::<i64>(row, 0))
    };
    let mut faults = Vec::new();
    for (rule, sql) in INVARIANTS {
        let breaks = count(sql).await?;
        if breaks > 0 {
            faults.push(broken(rule, breaks));
        }
    }
    let payments = count("SELECT count(*) FROM payments").await?.cast_unsigned();
    Ok(Inspection { payments, faults })
}

/// Runs a statement that is not the end of anything.
pub(super) async fn query(
    client: &impl GenericClient,
    sql: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Fault> {
    let statement = client.prepare_cached(sql).await.map_err(Fault::before_commit)?;
    client.query(&statement, values).await.map_err(Fault::before_commit)
}

/// Who has a hash.
enum Claimed {
    ByNobody,
    /// Spent without a payment.
    Marked,
    By(Box<PaymentRecord>),
}

/// Who has `block`; its payment is locked for the rest of the transaction.
async fn locked(transaction: &Transaction<'_>, block: BlockHash) -> Result<Claimed, Fault> {
    let claim = query(transaction, "SELECT sequence FROM claims WHERE block = $1", &[&&block.0[..]]).await?;
    let Some(claim) = claim.first() else { return Ok(Claimed::ByNobody) };
    let Some(sequence) = rows::get::<Option<i64>>(claim, 0)? else { return Ok(Claimed::Marked) };
    let sql = format!("SELECT {PAYMENT_COLUMNS} FROM payments AS p WHERE p.sequence = $1 FOR UPDATE");
    match query(transaction, &sql, &[&sequence]).await?.first() {
        Some(row) => Ok(Claimed::By(Box::new(rows::payment(row)?))),
        None => Err(Fault::Unavailable(format!("payment {sequence} of a claim is missing"))),
    }
}

async fn move_to(
    transaction: &Transaction<'_>,
    sequence: u64,
    to: PaymentState,
    now: UnixSeconds,
) -> Result<(), Fault> {
    let sql = "UPDATE payments SET state = $2, updated_at = $3 WHERE sequence = $1";
    let values: [&(dyn ToSql + Sync); 3] = [&stored(sequence), &i16::from(state_code(to)), &stored(now.0)];
    query(transaction, sql, &values).await.map(drop)
}

/// The live intent that builds on the same block as `intent`, which may be itself.
async fn frontier_holder(transaction: &Transaction<'_>, intent: &Intent) -> Result<Option<BlockHash>, Fault> {
    let Some(frontier) = frontier(intent) else { return Ok(None) };
    let sql = "SELECT block FROM payments WHERE previous = $1 AND state = 0";
    let found = query(transaction, sql, &[&&frontier.0[..]]).await?;
    found.first().map(|row| rows::bytes(row, 0).map(BlockHash)).transpose()
}
