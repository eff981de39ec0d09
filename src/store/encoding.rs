//! How values are stored if a database has no type for them: the same in each engine.

use crate::nano::{Account, BlockHash, Raw, Representative, Signature, StateBlock, Work};
use crate::routes::Unit;
use crate::store::deposits::{Mark, SweepState};
use crate::store::refunds::RefundState;
use crate::store::{CapabilityId, Filter, PaymentState};
use crate::sweep::Action;

/// A number as a database stores it: its integers are signed. All 64 bits are kept on the way in and
/// out. Times and sequences never reach the sign.
pub(super) const fn stored(number: u64) -> i64 {
    number.cast_signed()
}

/// The `LIMIT` of a query.
pub(super) fn most(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The place before which a search goes on: after everything if there is none.
pub(super) fn below(before: Option<u64>) -> i64 {
    before.and_then(|it| i64::try_from(it).ok()).unwrap_or(i64::MAX)
}

/// The amounts of a row: uses as integers, and no bytes. What a purse holds is in no integer of a database; it is 16
/// bytes for each, big-endian, and the integers are 0.
pub(super) fn amounts<const N: usize>(unit: Unit, amounts: [u128; N]) -> ([i64; N], Option<Vec<u8>>) {
    match unit {
        Unit::Use => (amounts.map(|it| i64::try_from(it).unwrap_or(i64::MAX)), None),
        Unit::Raw => ([0; N], Some(amounts.iter().flat_map(|it| it.to_be_bytes()).collect())),
    }
}

/// The inverse of [`amounts`]. `None` for bytes that are not so many amounts.
pub(super) fn amounts_of<const N: usize>(
    integers: [i64; N],
    bytes: Option<&[u8]>,
) -> Option<(Unit, [u128; N])> {
    let mut amounts = [0; N];
    let Some(bytes) = bytes else {
        for (amount, integer) in amounts.iter_mut().zip(integers) {
            *amount = u128::try_from(integer).ok()?;
        }
        return Some((Unit::Use, amounts));
    };
    let (cells, []) = bytes.as_chunks::<16>() else { return None };
    for (amount, cell) in amounts.iter_mut().zip(cells) {
        *amount = u128::from_be_bytes(*cell);
    }
    (cells.len() == N).then_some((Unit::Raw, amounts))
}

/// The codes of what is done by hand.
pub(super) const GIVEN: u8 = 0;
pub(super) const REVOKED: u8 = 1;

/// The values that a list of deposits or sweeps starts after: before everything if there is no mark.
pub(super) fn start(after: Option<Mark>) -> (i64, Vec<u8>) {
    after.map_or((i64::MIN, Vec::new()), |mark| (stored(mark.at.0), mark.block.0.to_vec()))
}

/// The condition on the payments `p` of a list. Almost all payments are granted: for them the journal
/// itself is the index.
pub(super) fn in_state(filter: Filter) -> String {
    let granted = state_code(PaymentState::Granted);
    match filter.state {
        None => String::new(),
        Some(PaymentState::Granted) => format!("AND p.state = {granted}"),
        Some(state) => format!("AND p.state <> {granted} AND p.state = {}", state_code(state)),
    }
}

/// The condition on a list of sweeps, written out so that the index of planned ones is used.
pub(super) fn in_sweep_state(state: Option<SweepState>) -> String {
    state.map_or_else(String::new, |it| format!("AND state = {}", sweep_state_code(it)))
}

/// The condition on a list of refunds, written out so that the index of unfinished ones is used.
pub(super) fn in_refund_state(state: Option<RefundState>, unfinished: bool) -> String {
    let state = state.map_or_else(String::new, |it| format!("AND r.state = {}", refund_state_code(it)));
    if unfinished { format!("{state} AND r.state < 3") } else { state }
}

/// The codes of an enum's values as they are stored, in both directions.
macro_rules! codes {
    ($kind:ident: $encode:ident, $decode:ident { $($code:literal => $value:ident),* }) => {
        pub(super) const fn $encode(value: $kind) -> u8 {
            match value { $($kind::$value => $code),* }
        }

        pub(super) const fn $decode(code: u8) -> Option<$kind> {
            match code { $($code => Some($kind::$value),)* _ => None }
        }
    };
}

// Indexes of the schema name 0 (an intent), 2 (granted), and 0 (planned), and 0, 1 and 2 of a refund.
codes!(PaymentState: state_code, state { 0 => Intent, 1 => Parked, 2 => Granted, 3 => Failed });
codes!(Action: action_code, action { 0 => Open, 1 => Receive, 2 => Send });
codes!(RefundState: refund_state_code, refund_state {
    0 => Closing, 1 => Owed, 2 => Signed, 3 => Confirmed, 4 => Nothing
});
codes!(SweepState: sweep_state_code, sweep_state { 0 => Planned, 1 => Confirmed, 2 => Superseded });

/// The name under which a capability is stored. `None` if its id is the beginning of its block's hash,
/// which `claims` finds.
pub(super) fn stored_name(id: CapabilityId, block: BlockHash) -> Option<Vec<u8>> {
    (!block.0.starts_with(&id.0)).then(|| id.0.to_vec())
}

/// The first and the last hash that begin with `id`.
pub(super) fn hashes_from(id: CapabilityId) -> [Vec<u8>; 2] {
    [[0; 16], [0xff; 16]].map(|rest| [id.0, rest].concat())
}

/// The block in the node's binary form (216 bytes, 208 without work).
pub(super) fn encode_block(block: &StateBlock) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(216);
    bytes.extend(block.account.0);
    bytes.extend(block.previous.0);
    bytes.extend(block.representative.0.0);
    bytes.extend(block.balance.to_be_bytes());
    bytes.extend(block.link);
    bytes.extend(block.signature.0);
    if let Some(work) = block.work {
        bytes.extend(work.0.to_be_bytes());
    }
    bytes
}

/// The inverse of [`encode_block`].
pub(super) fn decode_block(bytes: &[u8]) -> Option<StateBlock> {
    let (account, rest) = bytes.split_first_chunk::<32>()?;
    let (previous, rest) = rest.split_first_chunk::<32>()?;
    let (representative, rest) = rest.split_first_chunk::<32>()?;
    let (balance, rest) = rest.split_first_chunk::<16>()?;
    let (link, rest) = rest.split_first_chunk::<32>()?;
    let (signature, rest) = rest.split_first_chunk::<64>()?;
    let work = match rest {
        [] => None,
        rest => Some(Work(u64::from_be_bytes(rest.try_into().ok()?))),
    };
    Some(StateBlock {
        account: Account(*account),
        previous: BlockHash(*previous),
        representative: Representative(Account(*representative)),
        balance: Raw::from_be_bytes(*balance),
        link: *link,
        signature: Signature(*signature),
        work,
    })
}

/// Headers as in HTTP/1, one on a line, so that any tool can show them.
pub(super) fn encode_headers(headers: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in headers {
        bytes.extend(name.as_bytes());
        bytes.push(b':');
        bytes.extend(value);
        bytes.push(b'\n');
    }
    bytes
}

/// The inverse of [`encode_headers`].
pub(super) fn decode_headers(bytes: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let lines = bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            let (name, value) = line.split_at_checked(colon)?;
            Some((String::from_utf8(name.to_vec()).ok()?, value.get(1..)?.to_vec()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_as_large_as_a_database_can_count() {
        assert_eq!([0, 1, 7].map(most), [0, 1, 7]);
        assert_eq!(most(usize::MAX), i64::MAX);
    }

    #[test]
    fn a_list_is_of_the_state_that_is_asked_for() {
        let condition = |state| in_state(Filter { state });
        assert_eq!(condition(None), "");
        assert_eq!(condition(Some(PaymentState::Granted)), "AND p.state = 2");
        assert_eq!(condition(Some(PaymentState::Parked)), "AND p.state <> 2 AND p.state = 1");
        assert_eq!(in_sweep_state(None), "");
        assert_eq!(in_sweep_state(Some(SweepState::Superseded)), "AND state = 2");
    }

    #[test]
    fn amounts_of_both_units_come_back_as_they_were() {
        for (unit, kept) in [(Unit::Use, [0, 7]), (Unit::Raw, [0, 7]), (Unit::Raw, [u128::MAX, 1 << 64])] {
            let (integers, bytes) = amounts(unit, kept);
            assert_eq!(bytes.is_some(), unit == Unit::Raw);
            assert_eq!(amounts_of(integers, bytes.as_deref()), Some((unit, kept)));
        }
        assert_eq!(amounts_of([0], Some(&[0; 15])), None, "too short");
        assert_eq!(amounts_of([0], Some(&[0; 32])), None, "one too many");
        assert_eq!(amounts_of([-1], None), None);
    }

    /// The id of a capability is the beginning of its block's hash, but for those of earlier versions.
    #[test]
    fn a_name_is_stored_if_the_hash_does_not_begin_with_it() {
        let block = BlockHash([7; 32]);
        assert_eq!(stored_name(CapabilityId([7; 16]), block), None);
        assert_eq!(stored_name(CapabilityId([8; 16]), block), Some(vec![8; 16]));
        let [first, last] = hashes_from(CapabilityId([7; 16]));
        assert_eq!((&first[..16], &first[16..]), (&[7; 16][..], &[0; 16][..]));
        assert_eq!((&last[..16], &last[16..]), (&[7; 16][..], &[0xff; 16][..]));
    }
}
