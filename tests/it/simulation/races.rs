//! Moments that chance seldom finds, set up on purpose. In each a payer was told that what he bought is
//! used up, and he had not had it yet.

use std::sync::Arc;
use std::time::Duration;

use faregate::cashier::{Ask, Client, Presented, Verdict, Wait};
use faregate::nano::BlockHash;
use faregate::payment::{IdentifiedRequest, IdentifierKey, Mechanism, RequestDigest};
use faregate::routes::Metering;
use faregate::store::{Answer, PaymentJournal, PaymentState};

use super::instance::{Instance, Limits};
use super::people::{of, signed, txn, wares};
use super::world::{Ablation, World};

/// Runs `scene` in a world where nothing goes wrong, on the simulation's clock.
pub(super) fn calmly(scene: impl AsyncFnOnce(Arc<World>)) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = Arc::new(World::new(1, Ablation::Nothing));
        world.calm();
        scene(world).await;
    });
}

pub(super) fn under_an_id() -> IdentifiedRequest {
    let (route, _) = &wares()[0];
    let request = RequestDigest::of(route, "GET", "/", &[], b"");
    IdentifiedRequest { id: IdentifierKey::of("races-0123456789"), request }
}

pub(super) async fn ask(
    instance: &Instance,
    presented: Presented,
    identified: Option<IdentifiedRequest>,
) -> Verdict {
    let (route, terms) = wares()[0].clone();
    let ask = Ask {
        route,
        standing: Arc::default(),
        terms,
        metering: Metering::Leased,
        presented,
        identified,
        client: None,
        down: None,
        url: None,
    };
    instance.till.decide(ask).await
}

/// What a client that tries again while it is told to wait is answered in the end.
async fn insist(instance: &Instance, presented: impl Fn() -> Presented) -> Verdict {
    for _ in 0..20 {
        let verdict = ask(instance, presented(), Some(under_an_id())).await;
        if !matches!(verdict, Verdict::Wait(_)) {
            return verdict;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("told to wait for ever");
}

pub(super) async fn challenge(instance: &Instance) -> faregate::payment::challenge::Challenge {
    let Verdict::Bill(bill) = ask(instance, Presented::Nothing, None).await else { panic!("no bill") };
    of(&bill, Mechanism::NanoTxn).unwrap()
}

#[test]
fn another_proof_waits_for_the_uses_that_come_with_the_grant() {
    calmly(async |world| {
        let key = world.open(0);
        let instance = Instance::start(&world, 64);
        world.slow_down("grant", Duration::from_secs(20));
        let first = challenge(&instance).await;
        let block = world.send(&key, first.offer().pay_to, first.due());
        let pending = ask(&instance, txn(&first, block), Some(under_an_id())).await;
        assert!(matches!(pending, Verdict::Wait(_)), "{pending:?}");
        loop {
            let payment = world.store.payment(block.hash()).await.unwrap().unwrap();
            if payment.state == PaymentState::Granted {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // The store has granted, its answer is not here: whoever looks finds a payment without uses.
        let second = challenge(&instance).await;
        let other = world.send(&key, second.offer().pay_to, second.due());
        let served = insist(&instance, || txn(&second, other)).await;
        let Verdict::Admit(admitted) = served else { panic!("{served:?}") };
        assert_eq!(admitted.taken.held().intent().block, block.hash());
        assert_eq!(world.truth(other.hash()), None, "it was not broadcast");
    });
}

#[test]
fn what_another_instance_answers_meanwhile_is_given_again() {
    calmly(async |world| {
        let key = world.open(0);
        let (here, there) = (Instance::start(&world, 64), Instance::start(&world, 64));
        let first = challenge(&here).await;
        let block = world.send(&key, first.offer().pay_to, first.due());
        let served = insist(&here, || txn(&first, block)).await;
        let Verdict::Admit(admitted) = served else { panic!("{served:?}") };
        // The other instance is told that no answer is kept. Then one is, and the use is spent.
        world.slow_down("kept", Duration::from_secs(2));
        let asked = ask(&there, txn(&first, block), Some(under_an_id()));
        let answered = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let answer = Answer { status: 200, headers: Vec::new(), body: Some(b"once".to_vec()) };
            assert!(here.till.keep(&admitted, &answer).await);
            admitted.taken.commit();
        };
        let (verdict, ()) = tokio::join!(asked, answered);
        let Verdict::Replay(replay) = verdict else { panic!("{verdict:?}") };
        assert_eq!(replay.answer.body.as_deref(), Some(&b"once"[..]));
    });
}

#[test]
fn uses_that_came_with_a_grant_whose_answer_was_lost_are_found_for_a_token() {
    calmly(async |world| {
        let key = world.open(0);
        let (here, there) = (Instance::start(&world, 64), Instance::start(&world, 64));
        world.slow_down("grant", Duration::from_secs(3600));
        let (route, terms) = wares()[1].clone();
        let asked = async |at: &Instance, presented: Presented| {
            let metering = Metering::Leased;
            let (route, terms) = (route.clone(), terms);
            at.till
                .decide(Ask {
                    route,
                    standing: Arc::default(),
                    terms,
                    metering,
                    presented,
                    identified: None,
                    client: None,
                    down: None,
                    url: None,
                })
                .await
        };
        let Verdict::Bill(bill) = asked(&here, Presented::Nothing).await else { panic!("no bill") };
        let first = of(&bill, Mechanism::NanoTxn).unwrap();
        let block = world.send(&key, first.offer().pay_to, first.due());
        let pending = asked(&here, txn(&first, block)).await;
        assert!(matches!(pending, Verdict::Wait(_)), "{pending:?}");
        while world.store.payment(block.hash()).await.unwrap().unwrap().state != PaymentState::Granted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        world.slow_down("grant", Duration::ZERO);
        // The other instance has one use and gives a token; the rest is used where it was granted.
        let Verdict::Admit(admitted) = asked(&there, txn(&first, block)).await else {
            panic!("not admitted")
        };
        let token = admitted.token.expose().to_owned();
        admitted.taken.commit();
        for number in 2..=3 {
            let verdict = asked(&here, Presented::Token(token.clone())).await;
            let Verdict::Admit(admitted) = verdict else { panic!("use {number}: {verdict:?}") };
            admitted.taken.commit();
        }
        let over = asked(&here, Presented::Token(token.clone())).await;
        assert!(matches!(over, Verdict::Bill(_)), "{over:?}");
    });
}

/// Each address of an IPv6 network had limits of its own, and no test noticed: one host owns 2^64 of
/// them.
#[test]
fn the_addresses_of_an_ipv6_network_are_one_client() {
    calmly(async |world| {
        let key = world.open(0);
        let instance = Instance::with_limits(&world, 64, Limits { lookups: 2, ..Limits::default() });
        let (route, terms) = wares()[0].clone();
        let mut looked_for = 0;
        let mut is_turned_away = async |client: &str| {
            let Verdict::Bill(bill) = ask(&instance, Presented::Nothing, None).await else {
                panic!("no bill")
            };
            let challenge = of(&bill, Mechanism::NanoSignature).unwrap();
            looked_for += 1;
            let presented = signed(&challenge, BlockHash([looked_for; 32]), key.account(), &key);
            let (route, client) = (route.clone(), Some(Client::at(client.parse().unwrap())));
            let metering = Metering::Leased;
            let ask = Ask {
                route,
                standing: Arc::default(),
                terms,
                metering,
                presented,
                identified: None,
                client,
                down: None,
                url: None,
            };
            let Verdict::Wait(wait) = instance.till.decide(ask).await else { panic!("decided") };
            wait == Wait::Overloaded
        };
        assert!(!is_turned_away("2001:db8:1:2::1").await);
        assert!(!is_turned_away("2001:db8:1:2:ffff:ffff:ffff:ffff").await);
        assert!(is_turned_away("2001:db8:1:2::3").await, "the network has looked twice in vain");
        assert!(!is_turned_away("2001:db8:1:3::1").await, "another network");
        for address in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
            assert!(!is_turned_away(address).await, "each IPv4 address is a client");
        }
    });
}
