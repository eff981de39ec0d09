//! The plan, compared with a small model of an account.

use faregate::nano::{
    Account, BlockHash, ProvenHead, ProvenSend, Raw, Representative, Signature, StateBlock,
};
use faregate::sweep::{Action, PoolAccount, Rules, Step, plan};
use proptest::prelude::*;

const ACCOUNT: Account = Account([1; 32]);

/// Carries out one block and returns what the treasury got.
fn carry_out(account: &mut PoolAccount, step: &Step) -> u128 {
    let head = account.head;
    assert_eq!(step.block.previous, head.hash());
    assert_eq!(step.before, head.balance());
    let (before, after) = (step.before.get(), step.block.balance.get());
    account.head = ProvenHead::of_block(ACCOUNT, step.block.hash(), &step.block).unwrap();
    if step.action == Action::Send {
        assert_eq!((after, step.block.destination(), before), (0, super::TREASURY, step.amount.get()));
        return before;
    }
    assert_eq!(step.action == Action::Open, !head.is_open());
    let slot = account.receivable.iter().position(|it| it.hash().0 == step.block.link).expect("it waits");
    let received = account.receivable.swap_remove(slot);
    assert_eq!((after - before, received.amount()), (step.amount.get(), step.amount));
    0
}

fn block(account: Account, previous: BlockHash, balance: Raw, link: [u8; 32]) -> StateBlock {
    let representative = Representative(Account([9; 32]));
    StateBlock { account, previous, representative, balance, link, signature: Signature([0; 64]), work: None }
}

/// A head with this balance; `link` tells it from others.
fn head(balance: u128, link: [u8; 32]) -> ProvenHead {
    let newest = block(ACCOUNT, BlockHash([4; 32]), Raw::new(balance), link);
    ProvenHead::of_block(ACCOUNT, newest.hash(), &newest).unwrap()
}

/// A send of this amount to the account; `link` tells it from others.
fn send(link: [u8; 32], amount: Raw) -> ProvenSend {
    let sender = Account([8; 32]);
    let before = block(sender, BlockHash::ZERO, amount, link);
    let send = block(sender, before.hash(), Raw::ZERO, ACCOUNT.0);
    ProvenSend::of_blocks(send.hash(), &send, Some(&before)).unwrap()
}

fn accounts() -> impl Strategy<Value = PoolAccount> {
    let newest = proptest::option::of((0..=1_000_000_u128, any::<[u8; 32]>()));
    let receivable = proptest::collection::btree_map(any::<[u8; 32]>(), 1..=1_000_000_u128, 0..12);
    (newest, receivable).prop_map(|(newest, receivable)| PoolAccount {
        head: newest.map_or(ProvenHead::unopened(ACCOUNT), |(balance, link)| head(balance, link)),
        receivable: receivable.into_iter().map(|(link, amount)| send(link, Raw::new(amount))).collect(),
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
    let receivable = vec![send([1; 32], Raw::MAX), send([2; 32], Raw::MAX)];
    let account = PoolAccount { head: ProvenHead::unopened(ACCOUNT), receivable };
    let rules = Rules { treasury: super::TREASURY, minimum: Raw::ZERO, representative: None };
    assert!(plan(&account, &rules).is_err());
}
