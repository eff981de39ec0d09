//! Running statements.

use deadpool_postgres::{Client, GenericClient};
use futures_util::future::{join, join_all, join3};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::fault::Fault;

/// A value of a statement.
pub(super) type Value = Box<dyn ToSql + Send + Sync>;

/// Runs a statement that commits nothing.
pub(super) async fn query(
    client: &impl GenericClient,
    sql: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, Fault> {
    let statement = client.prepare_cached(sql).await.map_err(Fault::before_commit)?;
    client.query(&statement, values).await.map_err(Fault::before_commit)
}

/// Runs a statement that commits nothing. Gives the number of rows it changed.
pub(super) async fn execute(
    client: &impl GenericClient,
    sql: &str,
    values: &[&(dyn ToSql + Sync)],
) -> Result<u64, Fault> {
    let statement = client.prepare_cached(sql).await.map_err(Fault::before_commit)?;
    client.execute(&statement, values).await.map_err(Fault::before_commit)
}

/// Runs a statement that is a transaction of its own. Gives the number of rows it changed.
pub(super) async fn apply(client: &Client, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<u64, Fault> {
    let statement = client.prepare_cached(sql).await.map_err(Fault::before_commit)?;
    client.execute(&statement, values).await.map_err(Fault::committing)
}

/// How the planner has to look each row of a batch up, whatever it knows of the tables: by an index. A plan is
/// kept while its tables grow, so none may be made for small ones.
const BY_INDEX: &str = "SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL enable_seqscan = off; \
     SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off; SET LOCAL jit = off";

/// Runs a statement for a batch in a transaction of its own, with one message and its answer.
pub(super) async fn apply_batch(client: &Client, sql: &str, values: &[Value]) -> Result<Vec<Row>, Fault> {
    let statement = client.prepare_cached(sql).await.map_err(Fault::before_commit)?;
    let begin = format!("BEGIN; {BY_INDEX}");
    let values = parameters(values);
    // Each is sent when it is polled first, in this order.
    let (begun, rows, committed) = join3(
        client.batch_execute(&begin),
        client.query(&statement, &values),
        client.batch_execute("COMMIT"),
    )
    .await;
    begun.and(rows).and_then(|rows| committed.map(|()| rows)).map_err(Fault::committing)
}

/// Begins a transaction for a batch and runs its first statement, with one message and its answer.
pub(super) async fn begin_batch(client: &Client, sql: &str, values: &[Value]) -> Result<Vec<Row>, Fault> {
    let statement = client.prepare_cached(sql).await.map_err(Fault::before_commit)?;
    let begin = format!("BEGIN; {BY_INDEX}");
    let values = parameters(values);
    let (begun, rows) = join(client.batch_execute(&begin), client.query(&statement, &values)).await;
    begun.and(rows).map_err(Fault::before_commit)
}

/// Runs the last statements of a batch's transaction and commits it, with one message and its answer.
pub(super) async fn commit_batch(client: &Client, statements: &[(&str, Vec<Value>)]) -> Result<(), Fault> {
    let mut prepared = Vec::new();
    for (sql, values) in statements {
        let statement = client.prepare_cached(sql).await.map_err(Fault::before_commit)?;
        prepared.push((statement, parameters(values)));
    }
    let changes = prepared.iter().map(|(statement, values)| client.execute(statement, values));
    let (changed, committed) = join(join_all(changes), client.batch_execute("COMMIT")).await;
    changed.into_iter().collect::<Result<Vec<_>, _>>().and(committed).map_err(Fault::committing)
}

/// Ends the transaction of a batch that failed after [`begin_batch`]. The connection will be used again.
pub(super) async fn or_undone<T>(client: &Client, outcome: Result<T, Fault>) -> Result<T, Fault> {
    if outcome.is_err() {
        // Refused only by a connection that is lost, which nobody gets again.
        drop(client.batch_execute("ROLLBACK").await);
    }
    outcome
}

/// One column of a batch.
pub(super) fn column<T: ToSql + Send + Sync + 'static>(cells: impl Iterator<Item = T>) -> Value {
    Box::new(cells.collect::<Vec<T>>())
}

fn parameters(values: &[Value]) -> Vec<&(dyn ToSql + Sync)> {
    values.iter().map(as_parameter).collect()
}

fn as_parameter(value: &Value) -> &(dyn ToSql + Sync) {
    &**value
}
