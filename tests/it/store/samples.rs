//! Payments to try a store with.

use faregate::nano::{Account, BlockHash, Raw, Representative, Signature, StateBlock, UnixSeconds, Work};
use faregate::payment::{IdentifiedRequest, IdentifierKey, Mechanism, Nonce, RequestDigest};
use faregate::routes::{Grants, RouteName, Terms};
use faregate::store::{CapabilityId, Grantee, Holder, Intent};

/// When the tests begin.
pub(crate) const NOW: UnixSeconds = UnixSeconds(1_800_000_000);

/// How long what a payment of [`signed`] or [`sent`] buys is good, in seconds.
pub(crate) const GOOD_FOR: u64 = 100;

/// How many uses it buys.
pub(crate) const USES: u128 = 10;

/// What the operator's page says to run if a payment was recorded by a clock that was ahead.
pub(crate) fn set_back(time: UnixSeconds) -> String {
    let page = include_str!("../../../deploy/README.md");
    let line = page.lines().find(|line| line.starts_with("UPDATE payments SET created_at = T")).unwrap();
    line.replace(" T", &format!(" {}", time.0))
}

pub(crate) const fn hash(number: u8) -> BlockHash {
    BlockHash([number; 32])
}

pub(crate) const fn holder(number: u8) -> Holder {
    Holder([number; 16])
}

/// The capability that the payment with `block` buys: for every second one the beginning of the
/// block's hash, which engines may keep more cheaply than any other name.
pub(crate) fn id(block: BlockHash) -> CapabilityId {
    let mut id = [0; 16];
    id.copy_from_slice(&block.0[..16]);
    if block.0[3].is_multiple_of(2) {
        id[15] = 0xcc;
    }
    CapabilityId(id)
}

/// The instance `by`, which gets up to `want` uses of what `block` buys, for 30 seconds.
pub(crate) fn grantee(block: BlockHash, by: u8, want: u128) -> Grantee {
    Grantee { id: id(block), holder: holder(by), want, ttl: 30 }
}

/// A `nanoTxn` payment on the frontier `previous`.
pub(crate) fn signed(block: BlockHash, previous: BlockHash, challenge: u8) -> Intent {
    let payer = Account([0x77; 32]);
    let pay_to = Account([0x55; 32]);
    let block_itself = StateBlock {
        account: payer,
        previous,
        representative: Representative(Account([0x33; 32])),
        balance: Raw::new(u128::MAX - 12),
        link: pay_to.0,
        signature: Signature([0x99; 64]),
        work: Some(Work(0x0123_4567_89ab_cdef)),
    };
    Intent { signed: Some(block_itself), mechanism: Mechanism::NanoTxn, ..sent(block, challenge) }
}

/// A purse of as many raw as other payments buy uses.
pub(crate) fn purse() -> Terms {
    Terms { amount: Raw::new(USES), grants: Grants::of_balance(GOOD_FOR) }
}

/// A `nanoSignature` payment.
pub(crate) fn sent(block: BlockHash, challenge: u8) -> Intent {
    Intent {
        block,
        signed: None,
        mechanism: Mechanism::NanoSignature,
        challenge: Nonce([challenge; 32]),
        route: RouteName::new("GET /v1/quote/{symbol}"),
        terms: Terms { amount: Raw::new(10_u128.pow(26)), grants: Grants::of_count(USES as u32, GOOD_FOR) },
        payer: Account([0x77; 32]),
        amount: Raw::new(10_u128.pow(26) + 1),
        pay_to: Account([0x55; 32]),
        valid_before: NOW.plus(120),
        exchange: None,
        identified: None,
    }
}

/// The id of this number, for the request of this number.
pub(crate) const fn under_id(id: u8, request: u8) -> IdentifiedRequest {
    IdentifiedRequest { id: IdentifierKey([id; 32]), request: RequestDigest([request; 32]) }
}
