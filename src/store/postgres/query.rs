//! Running statements.

use deadpool_postgres::{Client, GenericClient};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::fault::Fault;
use crate::store::columns::Columns;

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

/// Runs a statement that is a transaction of its own. Gives the number in the first column of its row, if
/// it has one.
pub(super) async fn apply_numbered(
    client: &Client,
    sql: &str,
    values: &[Value],
) -> Result<Option<u64>, Fault> {
    let statement = client.prepare_cached(sql).await.map_err(Fault::before_commit)?;
    let values: Vec<&(dyn ToSql + Sync)> = values.iter().map(as_parameter).collect();
    let row = client.query_opt(&statement, &values).await.map_err(Fault::committing)?;
    row.map(|row| row.number(0)).transpose()
}

fn as_parameter(value: &Value) -> &(dyn ToSql + Sync) {
    &**value
}
