//! How one column of a row is read, and which columns are read.

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::fault::Fault;
use crate::nano::Raw;
use crate::store::columns::Columns;

/// The columns of a payment, in the order of [`columns::payment`](crate::store::columns::payment).
pub(super) const PAYMENT_COLUMNS: &str = "p.sequence, p.block, p.signed, p.mechanism, p.challenge, p.route, \
     p.price::text, p.requests, p.seconds, p.payer, p.amount::text, p.pay_to, p.valid_before, \
     p.state::bigint, \
     p.created_at, p.updated_at, p.identifier, p.request, p.exchange";

/// The columns of a capability, in the order of
/// [`columns::capability`](crate::store::columns::capability).
pub(super) const CAPABILITY_COLUMNS: &str = "k.payment, coalesce(k.name, substring(p.block FROM 1 FOR 16)), \
     p.block, p.route, k.uses, k.expires_at, k.revoked_at IS NOT NULL, k.spent, k.broken, k.balance";

/// Whether a payment `p` is none: a capability was given away.
pub(super) const NO_PAYMENT: &str = "p.amount = 0";

pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Fault> {
    row.try_get(column).map_err(Fault::before_commit)
}

impl Columns for Row {
    type Fault = Fault;

    fn blob(&self, column: usize) -> Result<Option<&[u8]>, Fault> {
        get(self, column)
    }

    fn text(&self, column: usize) -> Result<&str, Fault> {
        get(self, column)
    }

    fn optional_text(&self, column: usize) -> Result<Option<&str>, Fault> {
        get(self, column)
    }

    fn integer(&self, column: usize) -> Result<Option<i64>, Fault> {
        get(self, column)
    }

    fn flag(&self, column: usize) -> Result<bool, Fault> {
        get(self, column)
    }

    fn raw(&self, column: usize) -> Result<Raw, Fault> {
        self.text(column)?.parse().map_err(|_| self.unreadable(column))
    }

    fn unreadable(&self, column: usize) -> Fault {
        Fault::Unavailable(format!("column {column} of a row cannot be read"))
    }
}
