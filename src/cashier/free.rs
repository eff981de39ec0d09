//! Capabilities that the operator gives away. They are granted for a payment of nothing, by the same step that
//! grants what was paid: it is durable before there is a token, and nothing is given twice.

use blake2::{Blake2b512, Digest};

use super::Cashier;
use crate::entropy::NoEntropy;
use crate::ledger::Ledger;
use crate::nano::{Account, BlockHash, Raw, UnixSeconds};
use crate::payment::capability::{Capability, Token};
use crate::payment::{Intent, Mechanism, Nonce};
use crate::routes::{Place, RouteName, Terms};
use crate::store::repeat_unknown;
use crate::store::{CapabilityId, CapabilityRecord, Grant, Grantee, Store, StoreError, Unsound};

/// Goes before the operator's key, so that no hash of another kind is the same.
const DOMAIN: &[u8] = b"faregate free grant 1";

/// What is to be given away.
#[derive(Clone, Debug)]
pub struct FreeGrant {
    pub route: RouteName,
    /// Where the route stands.
    pub place: Place,
    /// What it would have cost, and what it opens.
    pub terms: Terms,
    /// Two grants under one key are one.
    pub key: Option<String>,
}

/// What was given away.
#[derive(Debug)]
pub struct Given {
    pub record: CapabilityRecord,
    pub token: Token,
    /// False if it was given before, under the same key.
    pub fresh: bool,
}

/// Why nothing was given.
#[derive(Debug, thiserror::Error)]
pub enum FreeGrantError {
    #[error("something else was given under this key")]
    KeyUsed,
    #[error("the store is not ready: {0}")]
    Unready(#[from] Unsound),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Entropy(#[from] NoEntropy),
}

impl<L: Ledger, S: Store> Cashier<L, S> {
    /// Gives a capability away. When this returns, it is durable.
    ///
    /// # Errors
    /// [`FreeGrantError`]. After [`FreeGrantError::Store`] it may be given or not; with a key, the same call finds
    /// out.
    pub async fn give(&self, gift: &FreeGrant) -> Result<Given, FreeGrantError> {
        self.store_readiness()?;
        let intent = self.nothing_paid(gift)?;
        let id = CapabilityId::of_payment(intent.block);
        let grantee = Grantee { id, holder: self.0.capabilities.holder(), want: 0, ttl: 0 };
        let now = self.0.clock.now();
        let (record, fresh) = match repeat_unknown(|| self.0.store.grant(&intent, grantee, now)).await? {
            Grant::Granted { record, fresh, .. } => (record, fresh),
            Grant::Taken | Grant::IdHeld(_) => return Err(FreeGrantError::KeyUsed),
        };
        if !fresh {
            let before = self.0.store.payment(intent.block).await?.map(|it| it.intent);
            let is_same =
                before.is_some_and(|it| it.route == intent.route && it.terms.grants == intent.terms.grants);
            if !is_same {
                return Err(FreeGrantError::KeyUsed);
            }
        }
        let CapabilityRecord { id, expires_at, .. } = record;
        let capability = Capability { id, route: record.route.clone(), uses: record.uses(), expires_at };
        Ok(Given { token: Token::issue(&self.0.keys, &capability), record, fresh })
    }

    /// The payment of nothing that grants it. Its block is no block of the ledger: nobody can make one that has
    /// a given hash. Nor can its challenge be answered, since it has no MAC.
    fn nothing_paid(&self, gift: &FreeGrant) -> Result<Intent, NoEntropy> {
        let seed: [u8; 64] = match &gift.key {
            Some(key) => Blake2b512::new().chain_update(DOMAIN).chain_update(key).finalize().into(),
            None => self.0.entropy.bytes()?,
        };
        let (mut block, mut challenge) = ([0; 32], [0; 32]);
        let (head, tail) = seed.split_at(32);
        block.copy_from_slice(head);
        challenge.copy_from_slice(tail);
        let [_, _, _, _, _, _, _, _, _, _, _, _, a, b, c, d, ..] = &mut challenge;
        [*a, *b, *c, *d] = gift.place.0;
        Ok(Intent {
            block: BlockHash(block),
            signed: None,
            // One whose payments have no block in the journal.
            mechanism: Mechanism::NanoSignature,
            challenge: Nonce(challenge),
            route: gift.route.clone(),
            terms: gift.terms,
            payer: Account::BURN,
            amount: Raw::ZERO,
            pay_to: Account::BURN,
            valid_before: UnixSeconds(0),
            // Nothing was paid by it.
            exchange: None,
            identified: None,
        })
    }
}
