//! Moments that chance seldom finds, set up on purpose. What went wrong in each is said above it.

use std::sync::Arc;
use std::time::Duration;

use faregate::cashier::{Ask, Client, Presented, Verdict, Wait};
use faregate::nano::BlockHash;
use faregate::payment::{IdentifiedRequest, IdentifierKey, Mechanism, RequestDigest};
use faregate::routes::Metering;
use faregate::store::{Answer, PaymentJournal, PaymentState};

use super::instance::{Instance, Limits};
use super::people::{challenge_by, signature_proof, txn_proof, wares};
use super::world::{Ablation, World};

/// The places of the two wares in [`wares`]: one use for a payment, and three.
const CHEAP: usize = 0;
const DEAR: usize = 1;

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
    let request = RequestDigest::of("GET", "/", &[], b"");
    IdentifiedRequest { id: IdentifierKey::of("races-0123456789"), request }
}

/// A request for the ware of this number that shows `presented`.
fn request_for(ware: usize, presented: Presented) -> Ask {
    let (route, terms) = wares()[ware].clone();
    Ask {
        hold: None,
        route,
        standing: Arc::default(),
        listed: terms.into(),
        quoted: Some(terms.into()),
        metering: Metering::Leased,
        presented,
        identified: None,
        client: None,
        down: None,
        url: None,
    }
}

/// What a request for the cheap ware is answered.
pub(super) async fn ask(
    instance: &Instance,
    presented: Presented,
    identified: Option<IdentifiedRequest>,
) -> Verdict {
    instance.till.decide(Ask { identified, ..request_for(CHEAP, presented) }).await
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
    challenge_by(&bill, Mechanism::NanoTxn).unwrap()
}

/// Regression: a retry with another proof looked the grant up in the store while the uses that came with
/// it were on their way. The payer was told that the answer was gone, and never had one.
#[test]
fn another_proof_waits_for_the_uses_that_come_with_the_grant() {
    calmly(async |world| {
        let key = world.open(0);
        let instance = Instance::start(&world, 64);
        world.slow_down("grant", Duration::from_secs(20));
        let first = challenge(&instance).await;
        let block = world.send(&key, first.offer().pay_to, first.due());
        let pending = ask(&instance, txn_proof(&first, block), Some(under_an_id())).await;
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
        let served = insist(&instance, || txn_proof(&second, other)).await;
        let Verdict::Admit(admitted) = served else { panic!("{served:?}") };
        assert_eq!(admitted.taken.held().record().block, block.hash());
        assert_eq!(world.truth(other.hash()), None, "it was not broadcast");
    });
}

/// Regression: a retry at a second instance found no kept answer, and then no use, because the first
/// instance answered in between. The payer was told that the answer was gone.
#[test]
fn what_another_instance_answers_meanwhile_is_given_again() {
    calmly(async |world| {
        let key = world.open(0);
        let (here, there) = (Instance::start(&world, 64), Instance::start(&world, 64));
        let first = challenge(&here).await;
        let block = world.send(&key, first.offer().pay_to, first.due());
        let served = insist(&here, || txn_proof(&first, block)).await;
        let Verdict::Admit(admitted) = served else { panic!("{served:?}") };
        // The other instance is told that no answer is kept. Then one is, and the use is spent.
        world.slow_down("kept", Duration::from_secs(2));
        let asked = ask(&there, txn_proof(&first, block), Some(under_an_id()));
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

/// Regression: the answer of the store that granted was lost, and the uses that it had leased with the
/// grant were nobody's until their lease lapsed. A token for them was told that all are used up.
#[test]
fn uses_that_came_with_a_grant_whose_answer_was_lost_are_found_for_a_token() {
    calmly(async |world| {
        let key = world.open(0);
        let (here, there) = (Instance::start(&world, 64), Instance::start(&world, 64));
        world.slow_down("grant", Duration::from_secs(3600));
        let asked = async |at: &Instance, presented| at.till.decide(request_for(DEAR, presented)).await;
        let Verdict::Bill(bill) = asked(&here, Presented::Nothing).await else { panic!("no bill") };
        let first = challenge_by(&bill, Mechanism::NanoTxn).unwrap();
        let block = world.send(&key, first.offer().pay_to, first.due());
        let pending = asked(&here, txn_proof(&first, block)).await;
        assert!(matches!(pending, Verdict::Wait(_)), "{pending:?}");
        while world.store.payment(block.hash()).await.unwrap().unwrap().state != PaymentState::Granted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        world.slow_down("grant", Duration::ZERO);
        // The other instance has one use and gives a token; the rest is used where it was granted.
        let Verdict::Admit(admitted) = asked(&there, txn_proof(&first, block)).await else {
            panic!("not admitted")
        };
        let token = String::from_utf8(admitted.said.token().to_vec()).unwrap();
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

/// Regression: each address of an IPv6 network had limits of its own, and no test noticed: one host owns 2^64 of
/// them.
#[test]
fn the_addresses_of_an_ipv6_network_are_one_client() {
    calmly(async |world| {
        let key = world.open(0);
        let instance = Instance::with_limits(&world, 64, Limits { lookups: 2, ..Limits::default() });
        let mut looked_for = 0;
        let mut is_turned_away = async |client: &str| {
            let Verdict::Bill(bill) = ask(&instance, Presented::Nothing, None).await else {
                panic!("no bill")
            };
            let challenge = challenge_by(&bill, Mechanism::NanoSignature).unwrap();
            looked_for += 1;
            let presented = signature_proof(&challenge, BlockHash([looked_for; 32]), key.account(), &key);
            let client = Some(Client::at(client.parse().unwrap()));
            let ask = Ask { client, ..request_for(CHEAP, presented) };
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
