//! How rows are read, once for all engines. An engine says only how it reads one column.

use crate::money::Exchange;
use crate::nano::{Account, BlockHash, Raw, UnixSeconds};
use crate::payment::{IdentifiedRequest, IdentifierKey, Nonce, RequestDigest};
use crate::routes::{Grants, Place, RouteName, Terms, Unit};
use crate::store::deposits::{Deposit, SeenDeposit, SweepBlock, SweepRecord};
use crate::store::encoding::{
    action, amounts_of, decode_block, decode_headers, refund_state, state, sweep_state,
};
use crate::store::escrow::{Share, StoredCapability};
use crate::store::operator::{CapabilityEntry, ManualAct, Remark};
use crate::store::refunds::{ExpiredPurse, ExpiryMark, RefundRecord};
use crate::store::{
    Answer, CapabilityId, CapabilityRecord, Holder, Intent, Lease, OutstandingGrants, PaymentRecord,
};

/// One row, whose columns count from 0.
pub(super) trait Columns {
    type Fault;

    /// Bytes; `None` if there are none.
    fn blob(&self, column: usize) -> Result<Option<&[u8]>, Self::Fault>;
    fn text(&self, column: usize) -> Result<&str, Self::Fault>;
    /// A text; `None` if there is none.
    fn optional_text(&self, column: usize) -> Result<Option<&str>, Self::Fault>;
    /// A number as it is stored; `None` if there is none.
    fn integer(&self, column: usize) -> Result<Option<i64>, Self::Fault>;
    fn flag(&self, column: usize) -> Result<bool, Self::Fault>;
    fn raw(&self, column: usize) -> Result<Raw, Self::Fault>;
    /// The fault of a value that is not what the schema says.
    fn unreadable(&self, column: usize) -> Self::Fault;

    fn optional_bytes<const N: usize>(&self, column: usize) -> Result<Option<[u8; N]>, Self::Fault> {
        let bytes = self.blob(column)?.map(|it| it.try_into().map_err(|_| self.unreadable(column)));
        bytes.transpose()
    }

    fn bytes<const N: usize>(&self, column: usize) -> Result<[u8; N], Self::Fault> {
        self.optional_bytes(column)?.ok_or_else(|| self.unreadable(column))
    }

    /// A number of 64 bits. It is stored as a signed one.
    fn number(&self, column: usize) -> Result<u64, Self::Fault> {
        self.integer(column)?.map(i64::cast_unsigned).ok_or_else(|| self.unreadable(column))
    }

    /// A number of fewer bits.
    fn small<T: TryFrom<i64>>(&self, column: usize) -> Result<T, Self::Fault> {
        let number = self.integer(column)?.and_then(|it| T::try_from(it).ok());
        number.ok_or_else(|| self.unreadable(column))
    }

    /// Amounts of one unit: the columns of integers, and that of bytes.
    fn amounts<const N: usize>(
        &self,
        integers: [usize; N],
        bytes: usize,
    ) -> Result<(Unit, [u128; N]), Self::Fault> {
        let mut numbers = [0; N];
        for (number, column) in numbers.iter_mut().zip(integers) {
            *number = self.integer(column)?.ok_or_else(|| self.unreadable(column))?;
        }
        amounts_of(numbers, self.blob(bytes)?).ok_or_else(|| self.unreadable(bytes))
    }

    fn time(&self, column: usize) -> Result<UnixSeconds, Self::Fault> {
        self.number(column).map(UnixSeconds)
    }
}

/// A row of the engine's columns of a payment.
pub(super) fn payment<R: Columns>(row: &R) -> Result<PaymentRecord, R::Fault> {
    let signed = row.blob(2)?.map(|it| decode_block(it).ok_or_else(|| row.unreadable(2))).transpose()?;
    let identified = row.optional_bytes(16)?.zip(row.optional_bytes(17)?);
    let intent = Intent {
        block: BlockHash(row.bytes(1)?),
        signed,
        mechanism: row.text(3)?.parse().map_err(|_| row.unreadable(3))?,
        challenge: Nonce(row.bytes(4)?),
        route: RouteName::new(row.text(5)?),
        terms: Terms { amount: row.raw(6)?, grants: grants(row, 7, 8)? },
        payer: Account(row.bytes(9)?),
        amount: row.raw(10)?,
        pay_to: Account(row.bytes(11)?),
        valid_before: row.time(12)?,
        exchange: exchange(row, 18)?,
        identified: identified.map(|(id, request)| IdentifiedRequest {
            id: IdentifierKey(id),
            request: RequestDigest(request),
        }),
    };
    Ok(PaymentRecord {
        sequence: row.number(0)?,
        intent,
        state: state(row.small(13)?).ok_or_else(|| row.unreadable(13))?,
        created_at: row.time(14)?,
        updated_at: row.time(15)?,
    })
}

fn grants<R: Columns>(row: &R, requests: usize, seconds: usize) -> Result<Grants, R::Fault> {
    Ok(Grants::of_count(row.small(requests)?, row.number(seconds)?))
}

/// A row of the engine's columns of a capability.
pub(super) fn capability<R: Columns>(row: &R) -> Result<StoredCapability, R::Fault> {
    let (unit, [stock, spent]) = row.amounts([4, 7], 9)?;
    let route = RouteName::new(row.text(3)?);
    // Nothing else buys nothing.
    let added_to = route.adds_to().filter(|_| unit == Unit::Raw && stock == 0).map(CapabilityId);
    Ok(StoredCapability {
        payment: row.number(0)?,
        record: CapabilityRecord {
            id: CapabilityId(row.bytes(1)?),
            block: BlockHash(row.bytes(2)?),
            route: route.without_purse(),
            unit,
            stock,
            expires_at: row.time(5)?,
            revoked: row.flag(6)?,
            added_to,
        },
        spent,
        broken: row.small(8)?,
    })
}

/// A row of the engine's columns of a capability as the operator sees it: those of [`capability`], and more.
pub(super) fn entry<R: Columns>(row: &R) -> Result<CapabilityEntry, R::Fault> {
    let StoredCapability { payment, record, spent, .. } = capability(row)?;
    Ok(CapabilityEntry {
        sequence: payment,
        record,
        spent,
        leased: row.small::<u32>(10).map(u128::from)?.saturating_add(summed(row, 11)?),
        payer: Account(row.bytes(12)?),
        amount: row.raw(13)?,
        granted_at: row.time(14)?,
        revoked_at: row.integer(15)?.map(|it| UnixSeconds(it.cast_unsigned())),
        given: manual_act(row, 16)?,
        revoked_by: manual_act(row, 19)?,
    })
}

/// The sum of amounts that stand one behind the other, each in 32 hexadecimal digits.
fn summed<R: Columns>(row: &R, column: usize) -> Result<u128, R::Fault> {
    let bytes = hex::decode(row.text(column)?).map_err(|_| row.unreadable(column))?;
    let (amounts, rest) = bytes.as_chunks::<16>();
    if !rest.is_empty() {
        return Err(row.unreadable(column));
    }
    Ok(amounts.iter().fold(0, |sum: u128, it| sum.saturating_add(u128::from_be_bytes(*it))))
}

/// What was done by hand, if anything was: when, who and why, from this column on.
fn manual_act<R: Columns>(row: &R, column: usize) -> Result<Option<ManualAct>, R::Fault> {
    let Some(at) = row.integer(column)? else { return Ok(None) };
    let [who, why] = [column.saturating_add(1), column.saturating_add(2)];
    let remark = Remark { who: row.text(who)?.to_owned(), why: row.text(why)?.to_owned() };
    Ok(Some(ManualAct { at: UnixSeconds(at.cast_unsigned()), remark }))
}

/// The columns of a share, in the order of [`share`].
pub(super) const SHARE_COLUMNS: &str =
    "holder, sequence, outstanding, late, granted, remaining, elsewhere, expires_at, broken, amounts";

pub(super) fn share<R: Columns>(row: &R) -> Result<Share, R::Fault> {
    let (_, [outstanding, late, granted, remaining, elsewhere]) = row.amounts([2, 3, 4, 5, 6], 9)?;
    Ok(Share {
        holder: Holder(row.bytes(0)?),
        sequence: row.number(1)?,
        outstanding,
        late,
        answer: Lease {
            granted,
            remaining,
            elsewhere,
            expires_at: row.time(7)?,
            broken: row.small(8)?,
            revoked: false,
        },
    })
}

/// A row of `capabilities::outstanding`.
pub(super) fn outstanding<R: Columns>(row: &R) -> Result<OutstandingGrants, R::Fault> {
    Ok(OutstandingGrants {
        route: RouteName::new(row.text(0)?).without_purse(),
        terms: Terms { amount: row.raw(1)?, grants: grants(row, 2, 3)? },
        place: Place(row.bytes(4)?),
        capabilities: row.number(5)?,
        uses: row.number(6)?,
        price: exchange(row, 7)?.map(|it| it.price),
    })
}

fn exchange<R: Columns>(row: &R, column: usize) -> Result<Option<Exchange>, R::Fault> {
    row.optional_text(column)?.map(|it| it.parse().map_err(|_| row.unreadable(column))).transpose()
}

/// A row of `answers::kept`.
pub(super) fn answer<R: Columns>(row: &R) -> Result<Answer, R::Fault> {
    let headers = row.blob(1)?.and_then(decode_headers);
    Ok(Answer {
        status: row.small(0)?,
        headers: headers.ok_or_else(|| row.unreadable(1))?,
        body: row.blob(2)?.map(<[u8]>::to_vec),
    })
}

/// A row of `deposits::unclaimed`.
pub(super) fn deposit<R: Columns>(row: &R) -> Result<SeenDeposit, R::Fault> {
    let deposit = Deposit {
        block: BlockHash(row.bytes(1)?),
        account: Account(row.bytes(2)?),
        sender: row.optional_bytes(3)?.map(Account),
        amount: row.raw(4)?,
    };
    Ok(SeenDeposit { seen_at: row.time(0)?, deposit })
}

/// A row of `deposits::sweeps`.
pub(super) fn sweep<R: Columns>(row: &R) -> Result<SweepRecord, R::Fault> {
    Ok(SweepRecord {
        block: SweepBlock {
            block: BlockHash(row.bytes(0)?),
            account: Account(row.bytes(1)?),
            action: action(row.small(2)?).ok_or_else(|| row.unreadable(2))?,
            amount: row.raw(3)?,
            previous: BlockHash(row.bytes(4)?),
            link: row.bytes(5)?,
        },
        state: sweep_state(row.small(6)?).ok_or_else(|| row.unreadable(6))?,
        planned_at: row.time(7)?,
        ended_at: row.integer(8)?.map(|it| UnixSeconds(it.cast_unsigned())),
    })
}

/// The columns of a refund `r` before its amount, in the order of [`refund`].
pub(super) const REFUND_COLUMNS: &str = "r.payment, k.name, p.block, p.route, p.payer, r.state, r.signed, r.closed_at, r.updated_at, \
     p.pay_to";

/// A row of a refund: [`REFUND_COLUMNS`], and the amount as the engine reads one.
pub(super) fn refund<R: Columns>(row: &R) -> Result<RefundRecord, R::Fault> {
    let payment = BlockHash(row.bytes(2)?);
    Ok(RefundRecord {
        sequence: row.number(0)?,
        capability: row.optional_bytes(1)?.map_or_else(|| CapabilityId::of_payment(payment), CapabilityId),
        payment,
        route: RouteName::new(row.text(3)?).without_purse(),
        account: Account(row.bytes(4)?),
        state: refund_state(row.small(5)?).ok_or_else(|| row.unreadable(5))?,
        block: row.blob(6)?.map(|it| decode_block(it).ok_or_else(|| row.unreadable(6))).transpose()?,
        closed_at: row.time(7)?,
        updated_at: row.time(8)?,
        paid_to: Account(row.bytes(9)?),
        amount: row.raw(10)?,
    })
}

/// The columns of a purse that has run out, in the order of [`expired_purse`].
pub(super) const EXPIRED_COLUMNS: &str = "k.payment, k.expires_at, k.name, p.block, p.route";

pub(super) fn expired_purse<R: Columns>(row: &R) -> Result<ExpiredPurse, R::Fault> {
    let payment = BlockHash(row.bytes(3)?);
    Ok(ExpiredPurse {
        mark: ExpiryMark { sequence: row.number(0)?, expires_at: row.time(1)? },
        capability: row.optional_bytes(2)?.map_or_else(|| CapabilityId::of_payment(payment), CapabilityId),
        route: RouteName::new(row.text(4)?).without_purse(),
    })
}
