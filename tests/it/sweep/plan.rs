//! The plan, compared with a small model of an account.

use faregate::nano::{Account, BlockHash, Raw, Representative};
use faregate::sweep::{Action, Head, PoolAccount, ReceivableSend, Rules, Step, plan};
use proptest::prelude::*;

const ACCOUNT: Account = Account([1; 32]);

/// Carries out one block and returns what the treasury got.
fn carry_out(account: &mut PoolAccount, step: &Step) -> u128 {
    let head = account.head;
    assert_eq!(step.block.previous, head.map_or(BlockHash::ZERO, |it| it.hash));
    assert_eq!(step.before, head.map_or(Raw::ZERO, |it| it.balance));
    let (before, after) = (step.before.get(), step.block.balance.get());
    account.head = Some(Head {
        hash: step.block.hash(),
        balance: step.block.balance,
        representative: step.block.representative,
    });
    if step.action == Action::Send {
        assert_eq!((after, step.block.destination(), before), (0, super::TREASURY, step.amount.get()));
        return before;
    }
    assert_eq!(step.action == Action::Open, head.is_none());
    let slot = account.receivable.iter().position(|it| it.hash.0 == step.block.link).expect("it waits");
    let received = account.receivable.swap_remove(slot);
    assert_eq!((after - before, received.amount), (step.amount.get(), step.amount));
    0
}

fn accounts() -> impl Strategy<Value = PoolAccount> {
    let head = proptest::option::of((0..=1_000_000_u128, any::<[u8; 32]>()));
    let receivable = proptest::collection::btree_map(any::<[u8; 32]>(), 1..=1_000_000_u128, 0..12);
    (head, receivable).prop_map(|(head, receivable)| PoolAccount {
        account: ACCOUNT,
        head: head.map(|(balance, hash)| Head {
            hash: BlockHash(hash),
            balance: Raw::new(balance),
            representative: Representative(Account([9; 32])),
        }),
        receivable: receivable
            .into_iter()
            .map(|(hash, amount)| ReceivableSend { hash: BlockHash(hash), amount: Raw::new(amount) })
            .collect(),
    })
}

proptest! {
    #[test]
    fn a_plan_empties_the_account_and_any_rest_of_it_is_the_plan_then(
        account in accounts(),
        minimum in 0..=2_000_000_u128,
        named in any::<bool>(),
        shuffle in any::<u64>(),
    ) {
        let representative = named.then_some(super::REPRESENTATIVE);
        let rules = Rules { treasury: super::TREASURY, minimum: Raw::new(minimum), representative };
        let total = account.total().unwrap().get();
        let steps = plan(&account, &rules).unwrap();
        if total == 0 || total < minimum {
            prop_assert!(steps.is_empty());
            return Ok(());
        }
        let (mut now, mut home) = (account.clone(), 0);
        for done in 0..=steps.len() {
            // The order in which a node lists the sends does not matter.
            let count = now.receivable.len().max(1);
            now.receivable.rotate_left(usize::try_from(shuffle).unwrap_or(0) % count);
            prop_assert_eq!(&plan(&now, &rules).unwrap(), &steps[done..]);
            if let Some(step) = steps.get(done) {
                home += carry_out(&mut now, step);
                let representative = step.block.representative;
                prop_assert!(!named || representative == super::REPRESENTATIVE);
            }
        }
        prop_assert_eq!((home, now.total().unwrap(), now.receivable.len()), (total, Raw::ZERO, 0));
        prop_assert_eq!(steps.iter().filter(|it| it.action == Action::Send).count(), 1);
    }
}

#[test]
fn more_than_can_exist_is_not_planned() {
    let receivable = |byte| ReceivableSend { hash: BlockHash([byte; 32]), amount: Raw::MAX };
    let account =
        PoolAccount { account: ACCOUNT, head: None, receivable: vec![receivable(1), receivable(2)] };
    let rules = Rules { treasury: super::TREASURY, minimum: Raw::ZERO, representative: None };
    assert!(plan(&account, &rules).is_err());
}
