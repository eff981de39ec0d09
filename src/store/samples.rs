//! What unit tests of the store begin with.

use std::num::NonZeroU32;

use crate::nano::{Account, BlockHash, Raw, Representative, Signature, StateBlock, UnixSeconds};
use crate::payment::{Intent, Mechanism, Nonce};
use crate::routes::{Grants, RouteName, Terms};

pub(super) const FRONTIER: BlockHash = BlockHash([2; 32]);

/// A signed payment of block 1 on [`FRONTIER`], for this challenge.
pub(super) fn intent(challenge: u8) -> Intent {
    let (payer, amount) = (Account([7; 32]), Raw::new(1));
    let signed = StateBlock {
        account: payer,
        previous: FRONTIER,
        representative: Representative(payer),
        balance: Raw::new(0),
        link: [5; 32],
        signature: Signature([9; 64]),
        work: None,
    };
    let grants = Grants::of_requests(NonZeroU32::MIN, 60);
    Intent {
        block: BlockHash([1; 32]),
        signed: Some(signed),
        mechanism: Mechanism::NanoTxn,
        challenge: Nonce([challenge; 32]),
        route: RouteName::new("GET /"),
        terms: Terms { amount, grants },
        payer,
        amount,
        pay_to: Account([5; 32]),
        valid_before: UnixSeconds(100),
        exchange: None,
        identified: None,
    }
}
