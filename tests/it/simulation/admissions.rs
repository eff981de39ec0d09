//! A use, from the verdict to the end of its answer: what becomes of it however the exchange ends.

use std::sync::Arc;

use bytes::Bytes;
use faregate::admission::{Admission, AnswerTraits, Charge, Ending, HeldUse};
use faregate::cashier::{Presented, Verdict};
use faregate::metrics::{Outcome, UseResult};
use faregate::nano::StateBlock;
use faregate::payment::IdentifiedRequest;
use faregate::payment::challenge::Challenge;
use faregate::routes::ChargeOn;
use faregate::store::capabilities::CachedCapability;
use http::{HeaderMap, StatusCode};

use super::instance::Instance;
use super::people::txn_proof;
use super::races::{ask, calmly, challenge, under_an_id};

/// One gateway, and a payment for one use of it.
struct Scene {
    instance: Instance,
    challenge: Challenge,
    block: StateBlock,
}

/// Runs `scene` on a gateway where nothing goes wrong.
fn on_a_gateway(scene: impl AsyncFnOnce(Scene)) {
    calmly(async |world| {
        let key = world.open(0);
        let instance = Instance::start(&world, 64);
        let challenge = challenge(&instance).await;
        let block = world.send(&key, challenge.offer().pay_to, challenge.due());
        scene(Scene { instance, challenge, block }).await;
    });
}

impl Scene {
    async fn present(&self, identified: Option<IdentifiedRequest>) -> Verdict {
        loop {
            let presented: Presented = txn_proof(&self.challenge, self.block);
            let verdict = ask(&self.instance, presented, identified).await;
            if !matches!(verdict, Verdict::Wait(_)) {
                return verdict;
            }
        }
    }

    /// A request that holds the one use, and the capability that the use is of.
    async fn admitted(&self, identified: Option<IdentifiedRequest>) -> (Admission, Arc<CachedCapability>) {
        let verdict = self.present(identified).await;
        let Verdict::Admit(admitted) = verdict else { panic!("{verdict:?}") };
        let capability = Arc::clone(admitted.taken.held());
        assert_eq!(capability.remaining(), 0, "the one use is held");
        (Admission::held(HeldUse::new(admitted, ChargeOn::Below500)), capability)
    }

    async fn answer(&self, admission: &mut Admission, status: StatusCode) -> Option<UseResult> {
        let charge = admission.judge(status, AnswerTraits::default());
        admission.answer(&self.instance.till, charge, (status, &HeaderMap::new())).await
    }

    async fn close(&self, admission: &mut Admission, ending: Ending) -> Option<UseResult> {
        admission.close(&self.instance.till, ending).await
    }
}

#[test]
fn a_whole_answer_spends_the_use_once() {
    on_a_gateway(async |scene| {
        let (mut admission, capability) = scene.admitted(None).await;
        assert_eq!(admission.outcome(), Outcome::Paid);
        assert_eq!(scene.answer(&mut admission, StatusCode::OK).await, None);
        assert_eq!(scene.close(&mut admission, Ending::Whole).await, Some(UseResult::Committed));
        // A second callback finds nothing to close.
        assert_eq!(scene.close(&mut admission, Ending::Failed).await, None);
        assert_eq!(admission.outcome(), Outcome::Paid);
        assert!(admission.admitted().is_none());
        assert_eq!(capability.remaining(), 0);
    });
}

#[test]
fn an_answer_that_is_not_charged_for_gives_the_use_back_before_it_leaves() {
    on_a_gateway(async |scene| {
        let (mut admission, capability) = scene.admitted(None).await;
        let result = scene.answer(&mut admission, StatusCode::BAD_GATEWAY).await;
        assert_eq!(result, Some(UseResult::GivenBack));
        assert_eq!(capability.remaining(), 1);
        assert_eq!(scene.close(&mut admission, Ending::Whole).await, None);
        assert_eq!(admission.outcome(), Outcome::UpstreamFailed);
        assert_eq!(capability.remaining(), 1, "it is given back once");
    });
}

#[test]
fn an_upstream_that_excuses_its_answer_is_not_charged_for() {
    on_a_gateway(async |scene| {
        let (admission, _) = scene.admitted(None).await;
        let excused = AnswerTraits { is_excused: true, ..AnswerTraits::default() };
        assert_eq!(admission.judge(StatusCode::OK, AnswerTraits::default()), Charge::Taken);
        assert_eq!(admission.judge(StatusCode::OK, excused), Charge::Excused);
    });
}

#[test]
fn a_failure_before_or_within_the_answer_gives_the_use_back() {
    on_a_gateway(async |scene| {
        for begun in [false, true] {
            let (mut admission, capability) = scene.admitted(None).await;
            if begun {
                assert_eq!(scene.answer(&mut admission, StatusCode::OK).await, None);
            }
            assert_eq!(scene.close(&mut admission, Ending::Failed).await, Some(UseResult::GivenBack));
            assert_eq!(admission.outcome(), Outcome::UpstreamFailed);
            assert_eq!(capability.remaining(), 1);
        }
    });
}

#[test]
fn an_admission_that_is_dropped_before_it_is_closed_gives_its_use_back() {
    on_a_gateway(async |scene| {
        for begun in [false, true] {
            let (mut admission, capability) = scene.admitted(None).await;
            if begun {
                assert_eq!(scene.answer(&mut admission, StatusCode::OK).await, None);
            }
            drop(admission);
            assert_eq!(capability.remaining(), 1);
        }
    });
}

/// Regression: an upstream that breaks its answer off, or a client that makes it do so, gave the use
/// back as often as it liked.
#[test]
fn an_answer_that_breaks_off_again_and_again_spends_its_use() {
    on_a_gateway(async |scene| {
        let (failed, gone) = (Ending::Failed, Ending::ClientGone);
        let (back, spent) = (UseResult::GivenBack, UseResult::Committed);
        for (ending, expected) in [(failed, back), (gone, back), (failed, spent)] {
            let (mut admission, _) = scene.admitted(None).await;
            assert_eq!(scene.answer(&mut admission, StatusCode::OK).await, None);
            assert_eq!(scene.close(&mut admission, ending).await, Some(expected));
        }
    });
}

/// Regression: one use read the beginning of a stream of events again and again.
#[test]
fn a_stream_of_events_is_spent_with_its_first_event() {
    for (part, expected) in [
        ("data: 1\n", UseResult::GivenBack),
        (": ping\n\n", UseResult::GivenBack),
        ("data: 1\n\n", UseResult::Committed),
    ] {
        on_a_gateway(async |scene| {
            let (mut admission, _) = scene.admitted(None).await;
            let mut headers = HeaderMap::new();
            headers.insert("content-type", "text/event-stream".parse().unwrap());
            let head = (StatusCode::OK, &headers);
            assert_eq!(admission.answer(&scene.instance.till, Charge::Taken, head).await, None);
            admission.part(Some(&Bytes::from_static(part.as_bytes())), false);
            assert_eq!(scene.close(&mut admission, Ending::Failed).await, Some(expected));
        });
    }
}

#[test]
fn a_client_that_hangs_up_again_and_again_spends_its_use() {
    on_a_gateway(async |scene| {
        let (back, spent) = (UseResult::GivenBack, UseResult::Committed);
        for (begun, expected) in [(false, back), (true, back), (true, spent)] {
            let (mut admission, _) = scene.admitted(None).await;
            if begun {
                assert_eq!(scene.answer(&mut admission, StatusCode::OK).await, None);
            }
            assert_eq!(scene.close(&mut admission, Ending::ClientGone).await, Some(expected));
            assert_eq!(admission.outcome(), Outcome::Paid, "the upstream did not fail");
        }
    });
}

/// Regression: the use of an answer that was kept must not go back when its client stops reading, or
/// the client gets the answer and the use.
#[test]
fn a_kept_answer_is_the_clients_however_the_connection_ends() {
    for ending in [Ending::Whole, Ending::ClientGone, Ending::Failed] {
        on_a_gateway(async |scene| {
            let (mut admission, _) = scene.admitted(Some(under_an_id())).await;
            assert_eq!(scene.answer(&mut admission, StatusCode::OK).await, None);
            admission.part(Some(&Bytes::from_static(b"once")), true);
            assert_eq!(scene.close(&mut admission, ending).await, Some(UseResult::Committed));
            let again = scene.present(Some(under_an_id())).await;
            let Verdict::Replay(replay) = again else { panic!("{again:?}") };
            assert_eq!(replay.answer.body.as_deref(), Some(&b"once"[..]));
        });
    }
}

#[test]
fn half_an_answer_is_not_kept_and_its_use_goes_back() {
    on_a_gateway(async |scene| {
        let (mut admission, capability) = scene.admitted(Some(under_an_id())).await;
        assert_eq!(scene.answer(&mut admission, StatusCode::OK).await, None);
        admission.part(Some(&Bytes::from_static(b"on")), false);
        assert_eq!(scene.close(&mut admission, Ending::Failed).await, Some(UseResult::GivenBack));
        assert_eq!(capability.remaining(), 1);
        assert!(matches!(scene.present(Some(under_an_id())).await, Verdict::Admit(_)));
    });
}

#[test]
fn a_free_request_holds_no_use_and_fails_only_before_its_answer() {
    on_a_gateway(async |scene| {
        let mut failed = Admission::free();
        assert_eq!(failed.judge(StatusCode::OK, AnswerTraits::default()), Charge::Excused);
        assert_eq!(scene.close(&mut failed, Ending::Failed).await, None);
        assert_eq!(failed.outcome(), Outcome::UpstreamFailed);

        let mut cut_off = Admission::free();
        assert_eq!(scene.answer(&mut cut_off, StatusCode::OK).await, None);
        assert_eq!(scene.close(&mut cut_off, Ending::Failed).await, None);
        assert_eq!(cut_off.outcome(), Outcome::Free);
    });
}
