//! How payments are written as rows, and read back.

use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Row, ToSql};

use crate::nano::{Account, BlockHash, Raw, UnixSeconds};
use crate::payment::{IdentifiedRequest, IdentifierKey, Nonce, RequestDigest};
use crate::routes::{Grants, RouteName, Terms};
use crate::store::encoding::{decode_block, encode_block, state, state_code, stored};
use crate::store::{Intent, PaymentRecord, PaymentState};

/// The columns of a payment, in the order of [`payment`].
pub(super) const PAYMENT_COLUMNS: &str = "p.sequence, p.block, p.signed, p.mechanism, p.challenge, p.route, \
     p.price, p.requests, p.seconds, p.payer, p.amount, p.pay_to, p.valid_before, p.state, p.created_at, \
     p.updated_at, p.identifier, p.request";

/// Reads a row of [`PAYMENT_COLUMNS`].
pub(super) fn payment(row: &Row<'_>) -> rusqlite::Result<PaymentRecord> {
    let signed: Option<Vec<u8>> = row.get(2)?;
    let signed = match signed {
        None => None,
        Some(bytes) => {
            Some(decode_block(&bytes).ok_or_else(|| unreadable(2, Type::Blob, "not a state block"))?)
        }
    };
    let mechanism: String = row.get(3)?;
    let intent = Intent {
        block: BlockHash(row.get(1)?),
        signed,
        mechanism: mechanism.parse().map_err(|_| unreadable(3, Type::Text, "not a mechanism"))?,
        challenge: Nonce(row.get(4)?),
        route: RouteName::new(&row.get::<_, String>(5)?),
        terms: Terms {
            amount: Raw::from_be_bytes(row.get(6)?),
            grants: Grants { requests: row.get(7)?, seconds: number(row, 8)? },
        },
        payer: Account(row.get(9)?),
        amount: Raw::from_be_bytes(row.get(10)?),
        pay_to: Account(row.get(11)?),
        valid_before: UnixSeconds(number(row, 12)?),
        identified: identified(row.get(16)?, row.get(17)?),
    };
    Ok(PaymentRecord {
        sequence: number(row, 0)?,
        intent,
        state: state(row.get(13)?).ok_or_else(|| unreadable(13, Type::Integer, "not a state"))?,
        created_at: UnixSeconds(number(row, 14)?),
        updated_at: UnixSeconds(number(row, 15)?),
    })
}

/// An id with its request, of a payment that has one.
fn identified(id: Option<[u8; 32]>, request: Option<[u8; 32]>) -> Option<IdentifiedRequest> {
    Some(IdentifiedRequest { id: IdentifierKey(id?), request: RequestDigest(request?) })
}

/// The number stored in column `index`.
pub(super) fn number(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(index).map(i64::cast_unsigned)
}

/// The error for a value that is not what the schema says.
pub(super) fn unreadable(column: usize, kind: Type, reason: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, kind, Box::new(FromSqlError::Other(reason.into())))
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
        &intent.terms.grants.requests.get(),
        &stored(intent.terms.grants.seconds),
        &intent.payer.0,
        &intent.amount.to_be_bytes(),
        &intent.pay_to.0,
        &stored(intent.valid_before.0),
        &state_code(state),
        &stored(now.0),
        &intent.identified.map(|it| it.id.0),
        &intent.identified.map(|it| it.request.0),
    ])
}

/// Adds a payment to the end of the journal. Both of its times are value 14.
pub(super) const INSERT: &str = "INSERT INTO payments (block, signed, mechanism, challenge, route, price, \
     requests, seconds, payer, amount, pay_to, valid_before, state, created_at, updated_at, \
     identifier, request) \
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?14, ?15, ?16)";
