//! How payments and capabilities are read from rows.

use std::num::NonZeroU32;

use tokio_postgres::Row;
use tokio_postgres::types::FromSql;

use super::fault::Fault;
use crate::nano::{Account, BlockHash, Raw, UnixSeconds};
use crate::payment::{IdentifiedRequest, IdentifierKey, Nonce, RequestDigest};
use crate::routes::{Grants, Place, RouteName, Terms};
use crate::store::encoding::{decode_block, state};
use crate::store::escrow::{Share, StoredCapability};
use crate::store::{CapabilityId, CapabilityRecord, Holder, Intent, Lease, OutstandingGrants, PaymentRecord};

/// The columns of a payment, in the order of [`payment`].
pub(super) const PAYMENT_COLUMNS: &str = "p.sequence, p.block, p.signed, p.mechanism, p.challenge, p.route, \
     p.price::text, p.requests, p.seconds, p.payer, p.amount::text, p.pay_to, p.valid_before, p.state, \
     p.created_at, p.updated_at, p.identifier, p.request";

/// The columns of a capability, in the order of [`capability`].
pub(super) const CAPABILITY_COLUMNS: &str = "k.payment, coalesce(k.name, substring(p.block FROM 1 FOR 16)), \
     p.block, p.route, k.uses, k.expires_at, k.revoked_at IS NOT NULL, k.spent, k.broken";

/// The columns of a share, in the order of [`share`].
pub(super) const SHARE_COLUMNS: &str =
    "holder, sequence, outstanding, late, granted, remaining, elsewhere, expires_at, broken";

pub(super) fn payment(row: &Row) -> Result<PaymentRecord, Fault> {
    let signed = match get::<Option<&[u8]>>(row, 2)? {
        None => None,
        Some(bytes) => Some(decode_block(bytes).ok_or_else(|| unreadable(2))?),
    };
    let requests = NonZeroU32::new(small(row, 7)?).ok_or_else(|| unreadable(7))?;
    let intent = Intent {
        block: BlockHash(bytes(row, 1)?),
        signed,
        mechanism: get::<&str>(row, 3)?.parse().map_err(|_| unreadable(3))?,
        challenge: Nonce(bytes(row, 4)?),
        route: RouteName::new(get(row, 5)?),
        terms: Terms { amount: raw(row, 6)?, grants: Grants { requests, seconds: number(row, 8)? } },
        payer: Account(bytes(row, 9)?),
        amount: raw(row, 10)?,
        pay_to: Account(bytes(row, 11)?),
        valid_before: UnixSeconds(number(row, 12)?),
        identified: identified(row)?,
    };
    let code: i16 = get(row, 13)?;
    Ok(PaymentRecord {
        sequence: number(row, 0)?,
        intent,
        state: u8::try_from(code).ok().and_then(state).ok_or_else(|| unreadable(13))?,
        created_at: UnixSeconds(number(row, 14)?),
        updated_at: UnixSeconds(number(row, 15)?),
    })
}

fn identified(row: &Row) -> Result<Option<IdentifiedRequest>, Fault> {
    if get::<Option<&[u8]>>(row, 16)?.is_none() {
        return Ok(None);
    }
    Ok(Some(IdentifiedRequest {
        id: IdentifierKey(bytes(row, 16)?),
        request: RequestDigest(bytes(row, 17)?),
    }))
}

pub(super) fn capability(row: &Row) -> Result<StoredCapability, Fault> {
    Ok(StoredCapability {
        payment: number(row, 0)?,
        record: CapabilityRecord {
            id: CapabilityId(bytes(row, 1)?),
            block: BlockHash(bytes(row, 2)?),
            route: RouteName::new(get(row, 3)?),
            uses: small(row, 4)?,
            expires_at: UnixSeconds(number(row, 5)?),
            revoked: get(row, 6)?,
        },
        spent: small(row, 7)?,
        broken: small(row, 8)?,
    })
}

pub(super) fn share(row: &Row) -> Result<Share, Fault> {
    Ok(Share {
        holder: Holder(bytes(row, 0)?),
        sequence: number(row, 1)?,
        outstanding: small(row, 2)?,
        late: small(row, 3)?,
        answer: Lease {
            granted: small(row, 4)?,
            remaining: small(row, 5)?,
            elsewhere: small(row, 6)?,
            expires_at: UnixSeconds(number(row, 7)?),
            broken: small(row, 8)?,
            revoked: false,
        },
    })
}

/// A row of `capabilities::outstanding`.
pub(super) fn outstanding(row: &Row) -> Result<OutstandingGrants, Fault> {
    let requests = NonZeroU32::new(small(row, 2)?).ok_or_else(|| unreadable(2))?;
    Ok(OutstandingGrants {
        route: RouteName::new(get(row, 0)?),
        terms: Terms { amount: raw(row, 1)?, grants: Grants { requests, seconds: number(row, 3)? } },
        place: Place(bytes(row, 4)?),
        capabilities: number(row, 5)?,
        uses: number(row, 6)?,
    })
}

pub(super) fn get<'a, T: FromSql<'a>>(row: &'a Row, column: usize) -> Result<T, Fault> {
    row.try_get(column).map_err(Fault::before_commit)
}

pub(super) fn bytes<const N: usize>(row: &Row, column: usize) -> Result<[u8; N], Fault> {
    get::<&[u8]>(row, column)?.try_into().map_err(|_| unreadable(column))
}

/// A number of 64 bits. It is stored as a signed one.
pub(super) fn number(row: &Row, column: usize) -> Result<u64, Fault> {
    get::<i64>(row, column).map(i64::cast_unsigned)
}

/// A number of 32 bits.
pub(super) fn small(row: &Row, column: usize) -> Result<u32, Fault> {
    u32::try_from(get::<i64>(row, column)?).map_err(|_| unreadable(column))
}

pub(super) fn raw(row: &Row, column: usize) -> Result<Raw, Fault> {
    get::<&str>(row, column)?.parse().map_err(|_| unreadable(column))
}

pub(super) fn unreadable(column: usize) -> Fault {
    Fault::Unavailable(format!("column {column} of a row cannot be read"))
}
