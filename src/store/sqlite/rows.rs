//! How payments are written as rows, and how one column of a row is read.

use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Row, ToSql};

use crate::nano::{Raw, UnixSeconds};
use crate::store::columns::Columns;
use crate::store::encoding::{encode_block, state_code, stored};
use crate::store::{Intent, PaymentState};

/// The columns of a payment, in the order of [`columns::payment`](crate::store::columns::payment).
pub(super) const PAYMENT_COLUMNS: &str = "p.sequence, p.block, p.signed, p.mechanism, p.challenge, p.route, \
     p.price, p.requests, p.seconds, p.payer, p.amount, p.pay_to, p.valid_before, p.state, p.created_at, \
     p.updated_at, p.identifier, p.request, p.exchange";

/// Whether a payment `p` is none: a capability was given away.
pub(super) const NO_PAYMENT: &str = "p.amount = zeroblob(16)";

impl Columns for Row<'_> {
    type Fault = rusqlite::Error;

    fn blob(&self, column: usize) -> rusqlite::Result<Option<&[u8]>> {
        self.get_ref(column)?.as_blob_or_null().map_err(|_| self.unreadable(column))
    }

    fn text(&self, column: usize) -> rusqlite::Result<&str> {
        self.get_ref(column)?.as_str().map_err(|_| self.unreadable(column))
    }

    fn optional_text(&self, column: usize) -> rusqlite::Result<Option<&str>> {
        self.get_ref(column)?.as_str_or_null().map_err(|_| self.unreadable(column))
    }

    fn integer(&self, column: usize) -> rusqlite::Result<Option<i64>> {
        self.get(column)
    }

    fn flag(&self, column: usize) -> rusqlite::Result<bool> {
        self.get(column)
    }

    fn raw(&self, column: usize) -> rusqlite::Result<Raw> {
        self.bytes(column).map(Raw::from_be_bytes)
    }

    fn unreadable(&self, column: usize) -> rusqlite::Error {
        let kind = self.get_ref(column).map_or(Type::Null, |it| it.data_type());
        let why = FromSqlError::Other("not what the schema says".into());
        rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(why))
    }
}

/// Gives an insert of `intent` its values, in the order of [`INSERT`].
pub(super) fn insert_values<R>(
    intent: &Intent,
    state: PaymentState,
    now: UnixSeconds,
    then: impl FnOnce(&[&dyn ToSql]) -> R,
) -> R {
    then(&[
        &intent.block.0,
        &intent.signed.as_ref().map(encode_block),
        &intent.mechanism.as_str(),
        &intent.challenge.0,
        &intent.route.as_str(),
        &intent.terms.amount.to_be_bytes(),
        &intent.terms.grants.count(),
        &stored(intent.terms.grants.seconds),
        &intent.payer.0,
        &intent.amount.to_be_bytes(),
        &intent.pay_to.0,
        &stored(intent.valid_before.0),
        &state_code(state),
        &stored(now.0),
        &intent.identified.map(|it| it.id.0),
        &intent.identified.map(|it| it.request.0),
        &intent.exchange.map(|it| it.to_string()),
    ])
}

/// Adds a payment to the end of the journal. Both of its times are value 14.
pub(super) const INSERT: &str = "INSERT INTO payments (block, signed, mechanism, challenge, route, price, \
     requests, seconds, payer, amount, pay_to, valid_before, state, created_at, updated_at, \
     identifier, request, exchange) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?14, ?15, ?16, ?17)";
