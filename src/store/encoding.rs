//! How values are written where an engine has no type for them: the same in each.

use crate::nano::{Account, BlockHash, Raw, Representative, Signature, StateBlock, Work};
use crate::store::deposits::SweepState;
use crate::store::{Intent, PaymentRecord, PaymentState};
use crate::sweep::Action;

/// Databases' integers are signed. A number keeps its 64 bits on the way in and out; those that
/// mean something (times, sequences) are far from the sign.
pub(super) const fn stored(number: u64) -> i64 {
    number.cast_signed()
}

/// A state as it is stored. The schema's indexes name 0 (an intent) and 2 (granted).
pub(super) const fn state_code(state: PaymentState) -> u8 {
    match state {
        PaymentState::Intent => 0,
        PaymentState::Parked => 1,
        PaymentState::Granted => 2,
        PaymentState::Failed => 3,
    }
}

/// The inverse of [`state_code`].
pub(super) const fn state(code: u8) -> Option<PaymentState> {
    match code {
        0 => Some(PaymentState::Intent),
        1 => Some(PaymentState::Parked),
        2 => Some(PaymentState::Granted),
        3 => Some(PaymentState::Failed),
        _ => None,
    }
}

/// An action of a sweep as it is stored.
pub(super) const fn action_code(action: Action) -> u8 {
    match action {
        Action::Open => 0,
        Action::Receive => 1,
        Action::Send => 2,
    }
}

/// The inverse of [`action_code`].
pub(super) const fn action(code: u8) -> Option<Action> {
    match code {
        0 => Some(Action::Open),
        1 => Some(Action::Receive),
        2 => Some(Action::Send),
        _ => None,
    }
}

/// The state of a sweep's block as it is stored. The schema's indexes name 0 (planned).
pub(super) const fn sweep_state_code(state: SweepState) -> u8 {
    match state {
        SweepState::Planned => 0,
        SweepState::Confirmed => 1,
        SweepState::Superseded => 2,
    }
}

/// The inverse of [`sweep_state_code`].
pub(super) const fn sweep_state(code: u8) -> Option<SweepState> {
    match code {
        0 => Some(SweepState::Planned),
        1 => Some(SweepState::Confirmed),
        2 => Some(SweepState::Superseded),
        _ => None,
    }
}

/// The block an intent builds on, which it holds while it lives.
pub(super) fn frontier(intent: &Intent) -> Option<BlockHash> {
    intent.signed.as_ref().map(|block| block.previous)
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

/// Whether `holder` lets another payment, `next`, have its id: it failed, or it is parked and
/// the ledger takes at most one of the two.
pub(super) fn gives_id_up(holder: &PaymentRecord, next: &Intent) -> bool {
    match holder.state {
        PaymentState::Failed => true,
        PaymentState::Parked => {
            frontier(&holder.intent).is_some() && frontier(&holder.intent) == frontier(next)
        }
        PaymentState::Intent | PaymentState::Granted => false,
    }
}

/// Headers as they stand in HTTP/1, a line each, which any tool shows.
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
